"""A picture's ink -> parts that hang together -> lines of writing."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from mnist_lightning.errors import UserError
from mnist_lightning.reading.ink import Ink, stroke_width
from mnist_lightning.reading.windows import dilate

MOST_PARTS = 500  # large ones; a full page has fewer
LARGE = 0.4  # of the tallest part's height; a small part is no digit by itself
SPECK = 0.005  # of a square as high as the line; less ink is left out

THICKEST = 0.4  # of a digit's longer side, in the width of its strokes; a dot's is a half

TOO_MUCH = f"there are over {MOST_PARTS} marks on the picture: crop to the writing"


@dataclass(frozen=True, eq=False)
class Part:
    """Ink that hangs together, or what of it is proposed as a digit.

    Args:
        ink: float32 `(H, W)`.
        left: Where it lies.
        top: Likewise.
    """

    ink: np.ndarray
    left: int
    top: int

    @property
    def right(self) -> int:
        """The column after its last."""
        return self.left + self.ink.shape[1]

    @property
    def bottom(self) -> int:
        """The row after its last."""
        return self.top + self.ink.shape[0]

    @cached_property
    def stroke(self) -> float:
        """The mean width of its strokes, in pixels."""
        return stroke_width(self.ink)

    @property
    def empty(self) -> int:
        """The number of columns without ink between those that have some, of its several parts."""
        columns = np.flatnonzero(self.ink.max(axis=0) > 0.5)
        return int((np.diff(columns) - 1).sum())

    @property
    def is_dot(self) -> bool:
        """Whether it is too solid for a digit, even a marker's."""
        return self.stroke > THICKEST * max(self.ink.shape)


def lines_of(ink: Ink) -> list[list[Part]]:
    """Sort ink into lines of writing, from top to bottom, and each line from left to right.

    Large parts are in a line if they overlap in height by half. A small part goes with the nearest
    large one, a speck is left out. Halves of a broken digit, one above the other, may be two lines:
    see `gap_between` and `join`.

    Raises:
        UserError: If there is too much on the picture to be writing.
    """
    parts = _parts(ink)
    tallest = max(part.ink.shape[0] for part in parts)
    large = [part for part in parts if part.ink.shape[0] >= LARGE * tallest]
    if len(large) > MOST_PARTS:
        raise UserError(TOO_MUCH)
    tops, bottoms, lefts, rights = np.array([(p.top, p.bottom, p.left, p.right) for p in large]).T
    heights = bottoms - tops
    overlaps = np.minimum(bottoms[:, None], bottoms) - np.maximum(tops[:, None], tops)
    beside = (overlaps >= 0.5 * np.minimum(heights[:, None], heights)).astype(np.float32)
    while ((further := (beside @ beside > 0).astype(np.float32)) != beside).any():
        beside = further
    line_of = beside.argmax(axis=1)
    lines: dict[int, list[Part]] = {}
    for part in parts:
        aside = np.maximum(lefts - part.right, part.left - rights).clip(0)
        away = np.maximum(tops - part.bottom, part.top - bottoms).clip(0)
        # A large part is the nearest to itself, also if it lies within another's box.
        middle = np.abs(tops + bottoms - part.top - part.bottom) / 1000
        nearest = int((np.hypot(aside, away) + middle).argmin())
        if part.ink.sum() >= SPECK * heights[nearest] ** 2:
            lines.setdefault(int(line_of[nearest]), []).append(part)
    rows = sorted(lines.values(), key=lambda line: np.mean([p.top + p.bottom for p in line]))
    return [join(row) for row in rows]


def join(*lines: list[Part]) -> list[Part]:
    """Return the parts of lines as one line, from left to right."""
    return sorted((p for line in lines for p in line), key=lambda part: part.left + part.right)


def box_of(parts: list[Part]) -> tuple[int, int, int, int]:
    """Return the left, top, right and bottom of all parts together, in pixels."""
    return (
        min(part.left for part in parts),
        min(part.top for part in parts),
        max(part.right for part in parts),
        max(part.bottom for part in parts),
    )


def gap_between(upper: list[Part], lower: list[Part]) -> float:
    """Return how far a line is below another, as a share of the height of both."""
    _, top, _, begin = box_of(upper)
    _, end, _, bottom = box_of(lower)
    return (end - begin) / (bottom - top)


def overlap_across(upper: list[Part], lower: list[Part]) -> float:
    """Return how much of the narrower line's width is above or below the other line."""
    (left, _, right, _), (other_left, _, other_right, _) = box_of(upper), box_of(lower)
    overlap = min(right, other_right) - max(left, other_left)
    return overlap / min(right - left, other_right - other_left)


def height_of(line: list[Part]) -> float:
    """Return a line's height, in pixels: the mean of the taller half of its parts."""
    heights = np.sort([part.ink.shape[0] for part in line])
    return float(heights[len(heights) // 2 :].mean())


def _parts(ink: Ink) -> list[Part]:
    parts = []
    # Soft edges belong to the part that they lie beside.
    grown = dilate(ink.parts, 5, 5)
    grown = np.where(ink.parts > 0, ink.parts, grown)
    places = ndimage.find_objects(grown)
    if sum(place is not None for place in places) > 10 * MOST_PARTS:
        raise UserError(TOO_MUCH)
    for number, where in enumerate(places, start=1):
        if where:
            own = np.where(grown[where] == number, ink.depth[where], 0)
            rows, columns = np.nonzero(ink.parts[where] == number)
            top, left = rows.min(), columns.min()
            parts.append(
                Part(
                    own[top : rows.max() + 1, left : columns.max() + 1],
                    int(where[1].start + left),
                    int(where[0].start + top),
                )
            )
    return parts
