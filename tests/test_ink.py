"""What of a picture is ink, on sheets of the size in which it is looked for."""

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from mnist_lightning.reading.ink import SIDE, Ink, find_ink, is_light_on_dark, stroke_width


def sheet(*squares: tuple[int, int, int]) -> Image.Image:
    """Return white paper with black squares: top, left and side, whole cells of 4 pixels."""
    values = np.full((SIDE, SIDE), 255, np.uint8)
    for top, left, side in squares:
        values[top : top + side, left : left + side] = 0
    return Image.fromarray(values)


def boxes(ink: Ink) -> list[tuple[int, ...]]:
    """Return the places of all parts in the picture, to the nearest pixel."""
    found = []
    for rows, columns in ndimage.find_objects(ink.parts):
        box = ink.in_picture((columns.start, rows.start, columns.stop, rows.stop))
        found.append(tuple(round(side) for side in box))
    return sorted(found)


def near(found: list[tuple[int, ...]], *expected: tuple[int, ...]) -> bool:
    return np.shape(found) == np.shape(expected) and np.abs(np.subtract(found, expected)).max() <= 1


def test_a_stroke_may_be_60_pixels_wide() -> None:
    ink = find_ink(sheet((60, 80, 60)))
    assert near(boxes(ink), (80, 60, 140, 120))
    assert ink.depth.sum() * ink.scale**2 == pytest.approx(60**2, rel=0.03)  # it is not hollow


def test_ink_that_touches_at_a_corner_belongs_together_and_a_speck_does_not() -> None:
    found = boxes(find_ink(sheet((60, 80, 40), (100, 120, 12), (20, 20, 4))))
    assert near(found, (80, 60, 132, 112))


@pytest.mark.parametrize("turns", range(4))
def test_ink_at_the_pictures_edge_is_not_the_digit(turns: int) -> None:
    picture = sheet((72, 72, 48), (0, 8, 24))  # a desk, say
    assert near(boxes(find_ink(picture.rotate(90 * turns))), (72, 72, 120, 120))


@pytest.mark.parametrize("turns", range(4))
def test_a_flat_stroke_along_the_edge_is_ink(turns: int) -> None:
    picture = Image.new("L", (120, 120), 255)
    ImageDraw.Draw(picture).line([(4, 6), (110, 6), (60, 114)], 0, 13)  # a 7
    ink = find_ink(picture.rotate(90 * turns))
    rows, columns = np.nonzero(ink.parts)
    assert min(np.ptp(rows), np.ptp(columns)) * ink.scale > 100


def test_a_frame_at_the_very_edge_is_dark_on_white() -> None:
    picture = sheet((72, 72, 48))
    assert not is_light_on_dark(picture)
    ImageDraw.Draw(picture).rectangle((0, 0, SIDE - 1, SIDE - 1), None, 0, 6)
    assert not is_light_on_dark(picture)


def test_small_writing_is_seen_from_near() -> None:
    picture = Image.new("L", (1800, 1200), 255)
    for left in (300, 360, 1500):
        ImageDraw.Draw(picture).rectangle((left, 600, left + 20, 660), 0)
    ink = find_ink(picture)
    assert near(boxes(ink), *((left, 600, left + 21, 661) for left in (300, 360, 1500)))
    heights = {rows.stop - rows.start for rows, _ in ndimage.find_objects(ink.parts)}
    assert min(heights) > 80


def test_a_printed_frame_may_be_paler_than_the_pen() -> None:
    picture = sheet((72, 72, 48))
    ImageDraw.Draw(picture).rectangle((40, 40, 152, 152), None, 150, 2)
    ink = find_ink(picture)
    assert ink.lines.sum() > 4 * 112 / ink.scale  # its four sides
    assert near(boxes(ink), (72, 72, 120, 120))


@pytest.mark.parametrize("width", [4, 9])
def test_a_strokes_width_is_its_own(width: int) -> None:
    ink = np.zeros((60, 220), np.float32)
    ink[20 : 20 + width, 10:210] = 1
    assert stroke_width(ink) == pytest.approx(width, rel=0.06)
