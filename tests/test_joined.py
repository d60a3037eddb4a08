"""Ink that hangs together, seen whole: one digit, two, or neither."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pages
import pytest
import safetensors.torch
import torch
from torch import Tensor

from mnist_lightning.checkpoint import load
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.data.neighbors import join
from mnist_lightning.reading.convention import place
from mnist_lightning.reading.ink import stroke_width
from mnist_lightning.reading.joined import load_joined
from mnist_lightning.reading.reader import _Networks, read
from mnist_lightning.reading.segments import JOINED_WIDTH, NUM_ANSWERS, Border, Segment, _answer

IMAGES, LABELS = (tensor[:400] for tensor in read_test_set())


def answers(inks: list[np.ndarray]) -> Tensor:
    images = np.stack([place(ink, stroke_width(ink), JOINED_WIDTH) for ink in inks])
    with torch.inference_mode():
        return load_joined()[0](torch.from_numpy(images)[:, None] / 255).argmax(dim=1)


def test_it_tells_one_digit_from_two_and_which() -> None:
    rng = np.random.default_rng(0)
    ones = [pages.ink_of(image) for image in IMAGES[:60].numpy()]
    assert (answers(ones) == LABELS[:60]).sum() >= 57
    pairs = IMAGES.view(-1, 2, 28, 28)[:60].numpy()
    expected = 10 * (LABELS[:120:2] + 1) + LABELS[1:120:2]
    assert (answers([pages.touching(list(pair), rng) for pair in pairs]) == expected).sum() >= 55


def test_ink_is_placed_in_a_wider_image_at_the_height_of_mnists() -> None:
    rows, columns = np.nonzero(place(np.ones((100, 150), np.float32), 100, JOINED_WIDTH))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (20, 30)
    rows, columns = np.nonzero(place(np.ones((100, 400), np.float32), 100, JOINED_WIDTH))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (11, 44)
    assert place(np.ones((100, 50), np.float32), 50).shape == (28, 28)


def test_digits_are_joined_where_they_are_nearest() -> None:
    left, right = torch.zeros(2, 1, 4, 8), torch.zeros(2, 1, 4, 8)
    left[:, 0, 1, :5], left[:, 0, 2, :3] = 1, 1
    right[:, 0, 1, 6:], right[:, 0, 2, 4:] = 1, 1
    left, right, last, first = join(left, right, torch.tensor([1.0, 3.0]))
    assert left.shape == right.shape == (2, 1, 4, 16)
    for number, gap in enumerate((1, 3)):
        assert (first - last)[number, 1:3].min() == gap
    assert first[:, 1].tolist() == [7.0, 9.0]  # the corners of two rows touch


def test_what_it_sees_decides_between_two_good_ways_to_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    network = load()
    made = pages.samples("pairs that touch", IMAGES.numpy(), LABELS.numpy(), 40)

    def right() -> int:
        return sum(read(picture, network).text == text for picture, text in made)

    with_it = right()
    monkeypatch.setattr(_Networks, "reads_digits", False)
    assert with_it >= right() + 4


def test_it_has_no_say_for_other_classes_than_mnists_digits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network, order = load(), torch.tensor([3, 7, 1, 9, 0, 2, 8, 5, 6, 4])
    made = pages.samples("pairs that touch", IMAGES.numpy(), LABELS.numpy(), 10)
    pictures = [picture for picture, _ in made]

    def renamed(pixels: Tensor) -> Tensor:
        return network(pixels)[:, order]

    assert not _Networks(renamed).reads_digits and _Networks(network).reads_digits
    found = [page.text for page in read(pictures, renamed)]
    monkeypatch.setattr(_Networks, "reads_digits", False)
    assert found == [page.text for page in read(pictures, renamed)]
    names = str.maketrans("".join(map(str, order.tolist())), "0123456789")
    assert found == [page.text.translate(names) for page in read(pictures, network)]


def test_a_network_in_float64_reads_digits_that_touch() -> None:
    network = load().double()
    made = pages.samples("pairs that touch", IMAGES.numpy(), LABELS.numpy(), 5)
    torch.set_default_dtype(torch.float64)
    try:
        assert all(page.digits for page in read([picture for picture, _ in made], network))
    finally:
        torch.set_default_dtype(torch.float32)


def test_what_a_way_says_of_a_part() -> None:
    def segment(digit: int) -> Segment:
        box, image = (0, 0, 1, 1), np.zeros((28, 28), np.uint8)
        return Segment(box, image, np.eye(10, dtype=np.float32)[digit])

    def says(*borders: Border) -> list[int | None]:
        """Return what each step of a way says whose digits are 4, 0, 7 and 1."""
        digits = zip(borders, borders[1:], map(segment, (4, 0, 7, 1)), strict=False)
        way = list(digits)
        return [_answer(way[: i + 1]) for i in range(len(way))]

    cut = np.zeros(1, int)
    before, left, right, after = (Border(number) for number in range(4))
    a, b, c = (Border(1, cut, cost) for cost in (0.1, 0.2, 0.3))
    neither = NUM_ANSWERS - 1
    assert says(left, right) == [4]
    assert says(before, left, right) == [4, 0]
    assert says(left, a, right) == [None, 10 + 40]
    assert says(before, left, a, right) == [4, None, 10 + 7]
    assert says(left, a, b, right) == [None, None, neither]
    assert says(left, a, b, c, right) == [None, None, None, neither]
    assert says(left, after) == [None]  # two parts as one digit
    assert says(before, a, right) == [None, None]  # a piece belongs to the part before
    assert says(left, a, after) == [None, None]  # or to the one after
    assert says(before, a, b, right) == [None, None, None]


@pytest.mark.slow
def test_the_script_trains_it(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "joined.py"
    path = tmp_path / "made" / "joined.safetensors"
    command = [sys.executable, script, "--steps=2", f"--output={path}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    weights = safetensors.torch.load_file(path)
    assert weights["dense2.bias"].shape == (NUM_ANSWERS,)
    again = tmp_path / "again.safetensors"
    subprocess.run([*command, f"--output={again}"], cwd=tmp_path, check=True, capture_output=True)
    assert again.read_bytes() == path.read_bytes()
