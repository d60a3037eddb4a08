"""Rules, frames and desks are told from writing."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from mnist_lightning.reading.forms import find_lines, without_desk


def page(*lines: tuple[int, int, int, int], width: int = 3) -> np.ndarray:
    """Return ink, bool `(160, 240)`, with straight lines on it."""
    picture = Image.new("L", (240, 160))
    for line in lines:
        ImageDraw.Draw(picture).line(line, 255, width)
    return np.asarray(picture) > 0


def rectangle(left: int, top: int, right: int, bottom: int) -> list[tuple[int, int, int, int]]:
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    return [(*a, *b) for a, b in zip(corners, corners[1:], strict=False)]


SEVEN = [(100, 50, 140, 50), (140, 50, 110, 110)]
RULES = [(0, y, 239, y + 4) for y in (30, 80, 130)]  # a little turned
SQUARES = [*RULES, *((x, 0, x, 159) for x in (20, 70, 120, 170, 220))]
COMB = [*rectangle(20, 20, 220, 140), (90, 20, 90, 140), (160, 20, 160, 140)]


@pytest.mark.parametrize(
    "lines",
    [RULES, SQUARES, rectangle(70, 30, 170, 130), COMB, [(40, 120, 200, 121)]],
    ids=["rules", "squares", "a box", "a comb", "an underline"],
)
def test_lines_are_found_and_the_strokes_that_cross_them_are_not(
    lines: list[tuple[int, int, int, int]],
) -> None:
    stroke = page(*SEVEN, width=11)
    alone = page(*lines)
    rest = (stroke | alone) & ~find_lines(stroke | alone)
    assert rest[~stroke].sum() < 0.03 * alone.sum()  # what is left of the lines
    assert rest[stroke].sum() > 0.9 * stroke.sum()


def test_squares_may_be_narrow() -> None:
    rules = [(0, y, 239, y) for y in range(10, 160, 24)]
    lines = page(*rules, *((x, 0, x, 159) for x in range(12, 240, 24)))
    stroke = page((140, 50, 110, 110), width=11)
    rest = (stroke | lines) & ~find_lines(stroke | lines)
    assert rest[~stroke].sum() < 0.03 * lines.sum() and rest[stroke].sum() > 0.6 * stroke.sum()


@pytest.mark.parametrize(
    "strokes",
    [
        [(110, 40, 110, 120)],  # a 1 between two rules
        [(100, 30, 150, 30), (150, 30, 120, 110)],  # a 7 of a thin pen
        [(100, 30, 90, 80), (90, 80, 150, 80), (130, 50, 128, 120)],  # a 4
    ],
    ids=["1", "7", "4"],
)
def test_straight_strokes_of_digits_are_no_lines(strokes: list[tuple[int, int, int, int]]) -> None:
    ink = page(*strokes)
    assert not find_lines(ink).any()


def test_a_sheet_on_a_desk_is_what_is_left() -> None:
    desk = Image.new("L", (400, 300), 60)
    sheet = Image.new("LA", (220, 140), (230, 255))
    ImageDraw.Draw(sheet).line((100, 40, 110, 100), (20, 255), 12)
    sheet = sheet.rotate(9, expand=True)
    desk.paste(sheet.getchannel("L"), (80, 70), sheet.getchannel("A"))
    values = np.asarray(without_desk(desk))
    assert (values[0] > 220).all() and (values[:, 0] > 220).all()
    assert 400 < (values < 60).sum() < 900  # the stroke is there


def test_without_a_desk_nothing_changes() -> None:
    plain = Image.new("L", (200, 100), 230)
    ImageDraw.Draw(plain).line((100, 20, 110, 80), 20, 12)
    chalk = Image.new("L", (100, 100), 20)
    ImageDraw.Draw(chalk).ellipse((20, 20, 80, 80), None, 230, 14)
    for picture in (plain, chalk):
        assert without_desk(picture) is picture
