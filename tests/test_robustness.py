"""Holds that the grid changes images as its table says, and that its page shows its figures."""

import json
import re
from pathlib import Path
from typing import Any

import corruptions
import nondigit_sets
import numpy as np
import pytest
import robustness
import torch

from mnist_lightning.data.datasets import read_test_set

Digits = tuple[torch.Tensor, torch.Tensor]


@pytest.fixture(scope="module")
def digits() -> Digits:
    images, labels = read_test_set()
    return images[:100], labels[:100]


@pytest.fixture
def square() -> torch.Tensor:
    """Return a white square of 8 pixels in the middle of two black images."""
    pixels = torch.zeros(2, 1, 28, 28)
    pixels[:, :, 10:18, 10:18] = 1
    return pixels


@pytest.mark.parametrize("kind", robustness.GRID)
def test_the_first_level_changes_nothing(kind: str, square: torch.Tensor) -> None:
    first, *others = robustness.GRID[kind][1]
    torch.testing.assert_close(robustness.change(square, kind, first), square)
    for level in others:
        changed = robustness.change(square, kind, level)
        assert changed.shape == square.shape and (changed - square).abs().max() > 0.05
        assert 0 <= changed.min() and changed.max() <= 1 + 1e-6


def test_half_of_the_images_are_shifted_the_other_way(square: torch.Tensor) -> None:
    right, left = robustness.change(square, "shift", 3)
    assert torch.equal(right[0, 10], torch.roll(square[0, 0, 10], 3))
    assert torch.equal(left[0, 10], torch.roll(square[0, 0, 10], -3))


@pytest.mark.parametrize("kind", corruptions.CORRUPTIONS)
def test_a_corruption_is_the_same_in_each_call(kind: str, digits: Digits) -> None:
    images = digits[0][:12].double().numpy() / 255
    kept = images.copy()
    corrupted = corruptions.corrupt(images, kind)
    assert corrupted.shape == images.shape and np.array_equal(images, kept)
    assert 0 <= corrupted.min() and corrupted.max() <= 1
    assert np.array_equal(corrupted, corruptions.corrupt(images, kind))
    assert (np.abs(corrupted - images).max(axis=(1, 2)) > 0.05).all()


def test_corruptions_are_what_their_definitions_say(digits: Digits) -> None:
    images = digits[0][:12].double().numpy() / 255

    def corrupt(kind: str) -> np.ndarray:
        return corruptions.corrupt(images, kind)

    np.testing.assert_allclose(corrupt("brightness"), (images + 0.5).clip(0, 1))
    stripe = corrupt("stripe")
    np.testing.assert_allclose(stripe[:, :, 7:21], images[:, :, 7:21])
    np.testing.assert_allclose(stripe[:, :, :7], 1 - images[:, :, :7])
    np.testing.assert_allclose(stripe[:, :, 21:], 1 - images[:, :, 21:])
    moved = [np.roll(images[0], (y, x), (0, 1)) for y in (-3, 3) for x in (-3, 3)]
    assert any(np.allclose(corrupt("translate")[0], each) for each in moved)
    assert set(np.unique(corrupt("canny edges"))) == {0, 1}
    black = corruptions.corrupt(np.zeros((40, 28, 28)), "impulse noise")
    assert black.mean() == pytest.approx(0.085, abs=0.01)  # half of 17% becomes white
    assert corrupt("scale")[0].sum() == pytest.approx(0.49 * images[0].sum(), rel=0.05)


@pytest.mark.parametrize("kind", nondigit_sets.KINDS)
def test_a_set_of_what_is_no_digit_keeps_mnists_convention(kind: str, digits: Digits) -> None:
    shapes = nondigit_sets.nondigit_set(kind, *digits, num=8)
    assert shapes.shape == (8, 28, 28) and shapes.dtype == torch.uint8
    assert torch.equal(shapes, nondigit_sets.nondigit_set(kind, *digits, num=8))
    assert len(torch.unique(shapes, dim=0)) >= 6
    rows, columns = (shapes > 0).any(dim=2).sum(dim=1), (shapes > 0).any(dim=1).sum(dim=1)
    size = torch.maximum(rows, columns)
    assert (size <= 21).all() and size.float().mean() > 15


def test_the_page_is_that_of_the_figures_that_are_there(monkeypatch: Any) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    rows = json.loads(robustness.RESULTS.read_text())
    assert list(rows) == list(robustness.ROWS)
    assert robustness.PAGE.read_text() == robustness.page(rows), "run scripts/robustness.py"
    del rows["wild"]
    assert "reads not measured over all rows" in robustness.page(rows)


def test_the_remarks_figures_are_the_tables() -> None:
    remarks, tables = robustness.PAGE.read_text().split("## Changed digits")
    cells = set(re.findall(r"[\d.]+%", tables))
    figures = set(re.findall(r"\d+\.\d\d%", remarks))
    assert len(figures) > 8
    assert figures <= cells
