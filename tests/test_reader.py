"""Pictures as people have them are read.

The figures of docs/photos.md are printed by `pytest -n 0 -m slow -s tests/test_reader.py`.
"""

import numpy as np
import pytest
import torch
from photos import PICTURES, encode, first, on_paper, picture, scale
from PIL import Image, ImageDraw
from torch import Tensor

from mnist_lightning.checkpoint import load
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.reading.reader import read, read_images


@pytest.mark.parametrize("num", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_pictures_are_read_nearly_as_well_as_their_originals(num: int) -> None:
    network = load()
    images, labels = (tensor[:100] for tensor in read_test_set())
    if num < 64:  # too few for one digit that is hard to read to be one of them
        sure = torch.tensor([r.probability > 0.9 for r in read_images(images, network)])
        images, labels = images[sure], labels[sure]
    images, labels = images[:num], labels[:num]

    def count(images: Tensor) -> int:
        readings = read_images(images, network)
        return sum(r.digit == label for r, label in zip(readings, labels.tolist(), strict=True))

    clean = count(images)
    assert clean >= 0.97 * num
    right = {}
    for name, make in PICTURES.items():
        rng = np.random.default_rng(0)
        pages = [read(make(image.numpy(), rng), network) for image in images]
        read_right = (
            page.text == str(label) for page, label in zip(pages, labels.tolist(), strict=True)
        )
        right[name] = sum(read_right)
        print(f"| {name} | {right[name] / clean:.1%} |")
    share = sum(right.values()) / (clean * len(PICTURES))
    print(f"| all, {num * len(PICTURES):,} pictures | {share:.2%} |")
    assert share >= 0.97
    assert min(right.values()) >= 0.9 * clean


# Polylines in a unit square; no network is asked for more than plain shapes.
SHAPES = {
    1: [[(0.5, 0), (0.5, 1)]],
    4: [[(0.15, 0), (0.1, 0.6), (0.8, 0.6)], [(0.7, 0), (0.65, 1)]],
    7: [[(0.1, 0), (0.8, 0), (0.35, 1)]],
}


@pytest.mark.parametrize("width", [6, 250])
def test_thin_pens_and_thick_markers_survive_a_picture_of_12_megapixels(width: int) -> None:
    network = load()
    for digit, lines in SHAPES.items():
        sheet = Image.new("L", (4000, 3000), 225)
        draw = ImageDraw.Draw(sheet)
        for line in lines:
            points = [(1000 + 1500 * x, 600 + 1800 * y) for x, y in line]
            draw.line(points, 40, width, joint="curve")
        (reading,) = read(sheet, network).digits
        assert reading.digit == digit
        assert (reading.image > 200).sum() >= 30  # 20 high and nowhere thinner than 1.5


def test_digits_of_14_pixels_are_read() -> None:
    network, rng, right = load(), np.random.default_rng(0), 0
    for image, label in zip(*(tensor[:12] for tensor in read_test_set()), strict=True):
        sheet = np.zeros((190, 190), np.float32)
        top, left = rng.integers(4, 170, 2)
        sheet[top : top + 14, left : left + 14] = scale(image.numpy(), 14)
        right += read(encode(picture(on_paper(sheet))), network).text == str(int(label))
    assert right >= 11  # one of the 12 is hard to read in any size


def test_an_animations_first_frame_is_read() -> None:
    frames = [picture(1 - scale(first(digit))) for digit in (3, 7)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(gif, load()).text == "3"


def test_a_reading_tells_the_guesses_and_what_was_seen() -> None:
    logits = torch.tensor([0.0, 3, 0, 0, 2, 0, 0, 0, 0, 0])
    image = Image.fromarray(first(1))
    (reading,) = read(image, lambda pixels: logits.expand(len(pixels), 10)).digits
    assert (reading.digit, reading.second) == (1, 4)
    assert reading.probability == pytest.approx(float(logits.softmax(0)[1]))
    assert torch.equal(reading.image, torch.from_numpy(first(1)))
    as_dict = reading.as_dict()
    assert sum(as_dict.pop("probabilities")) == pytest.approx(1, abs=1e-5)
    assert as_dict == {
        "digit": 1,
        "probability": round(reading.probability, 6),
        "second": 4,
        "second_probability": round(reading.second_probability, 6),
        "is_digit": True,
        "box": list(image.getbbox()),
    }


def test_an_answer_that_is_not_probable_enough_is_no_digit() -> None:
    class Unsure(torch.nn.Module):
        no_digit_below = 0.5

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(pixels), 10)
            logits[:, 3] = pixels.sum(dim=(1, 2, 3))
            return logits

    images = torch.zeros(2, 28, 28, dtype=torch.uint8)
    images[0, 0, :3], images[1, 0, :2] = 255, 255  # e^3 / (9 + e^3) is 0.69, with e^2 it is 0.45
    sure, unsure = read_images(images, Unsure())
    assert (sure.digit, sure.is_digit, str(sure)) == (3, True, "3")
    assert (unsure.digit, unsure.is_digit, str(unsure)) == (3, False, "?")
    assert unsure.as_dict()["is_digit"] is False
    assert str(read_images(images, lambda pixels: Unsure()(pixels))[1]) == "3"  # no threshold


def test_the_network_gets_pixels_in_0_to_1() -> None:
    def network(pixels: Tensor) -> Tensor:
        assert pixels.shape[1:] == (1, 28, 28) and pixels.dtype == torch.float32
        assert pixels.min() == 0 and 0.99 < pixels.max() <= 1
        return torch.zeros(len(pixels), 10)

    read(encode(picture(1 - scale(first(2)))), network)
