"""What of a picture is ink, on sheets of the size in which it is looked for."""

import numpy as np
import pytest
from PIL import Image

from mnist_lightning.reading.ink import SIDE, find_digit, stroke_width


def sheet(*squares: tuple[int, int, int]) -> Image.Image:
    """Return white paper with black squares: top, left and side, whole cells of 4 pixels."""
    values = np.full((SIDE, SIDE), 255, np.uint8)
    for top, left, side in squares:
        values[top : top + side, left : left + side] = 0
    return Image.fromarray(values)


def test_a_stroke_may_be_60_pixels_wide() -> None:
    ink, box = find_digit(sheet((60, 80, 60)))
    assert box.tolist() == [80, 60, 140, 120]
    assert (ink[62:118, 82:138] == 1).all() and ink.sum() < 62**2


def test_edges_stay_soft_beyond_the_cells_of_a_digit() -> None:
    ink, _ = find_digit(sheet((60, 80, 40)))
    assert 0 < ink[80, 79] < 0.5 and ink[80, 78] == 0


def test_ink_that_touches_at_a_corner_belongs_together_and_a_speck_does_not() -> None:
    picture = sheet((60, 80, 40), (100, 120, 4), (20, 20, 4))
    for pixel in ((119, 99), (120, 100)):  # where they meet, so that no blur joins their sides
        picture.putpixel(pixel, 255)
    _, box = find_digit(picture)
    assert box.tolist() == [80, 60, 124, 104]


@pytest.mark.parametrize("turns", range(4))
def test_ink_at_the_pictures_edge_is_not_the_digit(turns: int) -> None:
    picture = sheet((72, 72, 48), (0, 8, 56))  # a desk, say
    _, box = find_digit(picture.rotate(90 * turns))
    assert box.tolist() == [72, 72, 120, 120]


def test_a_speck_within_the_digits_box_is_left_out() -> None:
    ink, box = find_digit(sheet((40, 40, 40), (80, 80, 40), (52, 100, 4)))
    assert box.tolist() == [40, 40, 120, 120]
    assert ink[50:58, 98:106].max() == 0


@pytest.mark.parametrize("width", [4, 9])
def test_a_strokes_width_is_its_own(width: int) -> None:
    ink = np.zeros((60, 220), np.float32)
    ink[20 : 20 + width, 10:210] = 1
    assert stroke_width(ink) == pytest.approx(width, rel=0.06)
