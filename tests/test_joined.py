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
from mnist_lightning.reading import segments
from mnist_lightning.reading.convention import place
from mnist_lightning.reading.ink import stroke_width
from mnist_lightning.reading.joined import load_joined
from mnist_lightning.reading.reader import read
from mnist_lightning.reading.segments import JOINED_WIDTH, NUM_TEXTS

IMAGES, LABELS = (tensor[:400] for tensor in read_test_set())


def answers(inks: list[np.ndarray]) -> Tensor:
    images = np.stack([place(ink, stroke_width(ink), JOINED_WIDTH) for ink in inks])
    with torch.inference_mode():
        return load_joined()(torch.from_numpy(images)[:, None] / 255).argmax(dim=1)


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
    monkeypatch.setattr(segments, "IS_FOR_JOINED", False)
    assert with_it >= right() + 2


@pytest.mark.slow
def test_the_script_trains_it(tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "scripts" / "joined.py"
    path = tmp_path / "made" / "joined.safetensors"
    command = [sys.executable, script, "--steps=2", f"--output={path}"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    weights = safetensors.torch.load_file(path)
    assert weights["dense2.bias"].shape == (NUM_TEXTS,)
    again = tmp_path / "again.safetensors"
    subprocess.run([*command, f"--output={again}"], cwd=tmp_path, check=True, capture_output=True)
    assert again.read_bytes() == path.read_bytes()
