"""Pictures as people have them are read.

The figures of docs/photos.md are printed by `pytest -n 0 -m slow -s tests/test_reader.py`.
"""

import io
from typing import Any

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


THREE = first(3)
STACK = np.stack([THREE, first(7)])


@pytest.mark.parametrize(
    "values",
    [
        THREE,
        THREE / 255,
        (THREE / 255).astype(np.float16),
        255 - THREE,
        np.stack([THREE] * 3, axis=-1),
        torch.from_numpy(THREE),
        torch.from_numpy(THREE) / 255,
        (torch.from_numpy(THREE) / 255).bfloat16(),
        (torch.from_numpy(THREE)[..., None].expand(28, 28, 3) / 255).requires_grad_(),
    ],
    ids=range(9),
)
def test_an_image_of_mnist_is_read_from_any_array_unchanged(values: np.ndarray | Tensor) -> None:
    (reading,) = read(values, load()).digits
    assert reading.digit == 3 and np.array_equal(reading.image.numpy(), THREE)


def test_a_photo_is_read_alike_from_a_file_a_picture_and_an_array() -> None:
    contents = PICTURES["chalk on a green board"](THREE, np.random.default_rng(0))
    photo = Image.open(io.BytesIO(contents))
    pixels = np.asarray(photo)
    answers = [read(s, load()) for s in (contents, photo, pixels, torch.tensor(pixels) / 255)]
    assert len({str(page.as_dict()) for page in answers}) == 1 and answers[0].text == "3"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (STACK, r"this is \(2, 28, 28\): read_images takes a stack \(N, 28, 28\)"),
        (STACK[:1], r"read_images takes a stack \(N, 28, 28\); image\[0\] is one picture"),
        (np.zeros((3, 50, 40)), r"image.permute\(1, 2, 0\) of torch or image.transpose\(1, 2, 0\)"),
        (torch.zeros(1, 50, 40), r"image\[0\] is one picture"),
        (np.zeros((50, 40, 4)), r"\(H, W\) or \(H, W, 3\), .*; this is \(50, 40, 4\)"),
        (np.zeros(()), r"this is \(\)"),
        (THREE.astype(np.int64), "must be uint8 or float in .0, 1., not int64"),
        (THREE > 127, "not bool"),
        (torch.zeros(28, 28, dtype=torch.complex64), "not complex64"),
        (torch.zeros(28, 28).to_sparse(), "a tensor that NumPy can't hold: "),
        (THREE.astype(np.float32), "are 0 to 255: divide by 255"),
        (THREE / 255 - 0.5, "are -0.5 to 0.5$"),
        (np.full((28, 28), np.nan), "are nan to nan"),
        (np.zeros((28, 3)), "3x28 pixels are too few"),
        (np.broadcast_to(np.float32(0), (9000, 9000)), "9000x9000 is over 50,000,000 pixels"),
        (None, "read takes a path, a file's bytes, a Pillow picture, or .*; this is a NoneType"),
    ],
)
def test_any_other_value_is_refused_by_what_is_taken(values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        read(values, load())
    assert "\n" not in str(raised.value)


def test_a_stack_is_read_image_by_image() -> None:
    for images in (STACK, STACK / 255, torch.from_numpy(STACK), torch.from_numpy(STACK) / 255):
        readings = read_images(images, load())
        assert [reading.digit for reading in readings] == [3, 7]
        assert np.array_equal(torch.stack([r.image for r in readings]).numpy(), STACK)
    assert read_images(STACK[:0], load()) == []


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (THREE, r"takes a stack .*; this is \(28, 28\); read takes a picture of any size"),
        (STACK[:, None], r"this is \(2, 1, 28, 28\)"),
        ([THREE], "this is a list"),
        (STACK * 1.0, "are 0 to 255: divide by 255"),
        (STACK.astype(int), "not int64"),
    ],
)
def test_what_is_no_stack_of_images_is_refused(images: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_images(images, load())
