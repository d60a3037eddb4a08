"""Holds that the grid changes images as its table says, and that its page shows its figures."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import robustness
import torch


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


def test_the_page_is_that_of_the_figures_that_are_there(monkeypatch: Any) -> None:
    monkeypatch.chdir(Path(__file__).parents[1])
    rows = json.loads(robustness.RESULTS.read_text())
    assert list(rows) == list(robustness.ROWS)
    assert robustness.PAGE.read_text() == robustness.page(rows), "run scripts/robustness.py"


def test_the_remarks_figures_are_the_tables() -> None:
    table, remarks = robustness.PAGE.read_text().split("\n\nOn the test images")
    cells = {round(float(cell), 1) for cell in re.findall(r"([\d.]+)%", table)}
    figures = {float(figure) for figure in re.findall(r"(\d+\.\d)%", remarks)}
    assert len(figures) > 5
    assert figures <= cells
