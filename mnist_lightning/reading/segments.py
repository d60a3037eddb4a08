"""A picture's ink -> lines of writing, cut into digits as a network reads them best.

Ink that hangs together is a part. A digit may consist of several parts, and digits that touch are
one. So parts are cut where little ink is crossed, runs of neighboring pieces are proposed as
digits, the network reads them all, and the row of digits that it is surest of is taken: the
over-segmentation of LeCun et al., Gradient-based learning applied to document recognition, 1998.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import place
from mnist_lightning.reading.cuts import find_cuts
from mnist_lightning.reading.ink import Ink, stroke_width
from mnist_lightning.reading.windows import dilate

MOST_PARTS = 500  # large ones; a full page has fewer
LARGE = 0.4  # of the tallest part's height; a small part is no digit by itself
SPECK = 0.005  # of a square as high as the line; less ink is left out

SURE = 0.97  # probability from which on a part is not cut, unless it is wide
WIDE = 0.9  # of the line's height, in its width
MOST_TO_CUT = 6  # times their lines' height, in the widths of all parts to cut; else none is

THICKEST = 0.4  # of a digit's longer side, in the width of its strokes; a dot's is a half
WIDEST = 1.5  # of the line's height, in a digit's width
MOST_BORDERS = 24  # from a digit's beginning to its end
WEIGHT = 2.0  # of a digit's logarithm of probability, beside what the cuts cost

GAP = 0.8  # of the line's height, that is a space
EVEN = 0.2  # of the mean step from digit to digit, as their standard deviation

TOO_MUCH = UserError(f"there are over {MOST_PARTS} marks on the picture: crop to the writing")

# uint8 (N, 28, 28) to probabilities, float (N, 10)
Classify = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, eq=False)
class Segment:
    """What is read as one digit.

    Args:
        box: Left, top, right and bottom, in the ink's pixels.
        image: uint8 `(28, 28)`.
        probabilities: float `(10,)`.
    """

    box: tuple[int, int, int, int]
    image: np.ndarray
    probabilities: np.ndarray


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

    @property
    def is_dot(self) -> bool:
        """Whether it is too solid for a digit, even a marker's."""
        return stroke_width(self.ink) > THICKEST * max(self.ink.shape)


@dataclass(frozen=True, eq=False)
class Border:
    """Where a digit may begin, and another end: at a part, or at a cut through one.

    Args:
        part: Number of the part in its line.
        cut: Columns of the part, one for each row, int `(H,)`; None at the part's left end.
        cost: Of the cut.
    """

    part: int
    cut: np.ndarray | None = None
    cost: float = 0.0


def find_segments(ink: Ink, classify: Classify) -> list[list[Segment]]:
    """Find the digits of each line of writing.

    Args:
        ink: Of a picture.
        classify: The network, images of MNIST's convention to probabilities.

    Returns:
        Lines from top to bottom, of digits from left to right.

    Raises:
        UserError: If there is too much on the picture to be writing.
    """
    lines = _lines(_parts(ink))
    heights = [_height(line) for line in lines]
    parts = [(part, height) for line, height in zip(lines, heights, strict=True) for part in line]
    sure = classify(np.stack([place(part.ink) for part, _ in parts])).max(axis=1)
    to_cut = {
        part: part.ink.shape[1] / height
        for (part, height), probability in zip(parts, sure, strict=True)
        if not part.is_dot and (probability < SURE or part.ink.shape[1] > WIDE * height)
    }
    if sum(to_cut.values()) > MOST_TO_CUT:
        to_cut = {}
    borders: list[list[Border]] = []
    for line, height in zip(lines, heights, strict=True):
        borders.append([])
        for number, part in enumerate(line):
            borders[-1].append(Border(number))
            if part in to_cut:
                borders[-1] += [Border(number, *cut) for cut in find_cuts(part.ink, height)]
        borders[-1].append(Border(len(line)))

    # What lies between two borders of a line may be a digit.
    proposed: list[tuple[int, int, int, tuple[int, int, int, int]]] = []
    images, dots = [], []
    for i, (line, height) in enumerate(zip(lines, heights, strict=True)):
        for first, start in enumerate(borders[i]):
            for last, end in enumerate(borders[i][first + 1 :], first + 1):
                is_part = start.cut is None and end.cut is None and end.part == start.part + 1
                whole = line[start.part + 1 : end.part]
                if whole and whole[-1].right - whole[0].left > WIDEST * height:
                    break
                if last - first > MOST_BORDERS and not is_part:
                    continue
                between = _between(line, start, end)
                if between and (is_part or between.ink.shape[1] <= WIDEST * height):
                    box = between.left, between.top, between.right, between.bottom
                    proposed.append((i, first, last, box))
                    images.append(place(between.ink))
                    dots.append(between.is_dot)
    answers = classify(np.stack(images))
    answers[dots] = 0.1  # no digit
    found = []
    for i, line_borders in enumerate(borders):
        # The best way to each border: its cost, and its digits
        best: list[tuple[float, list[Segment]]] = [(0.0, [])]
        best += [(np.inf, [])] * (len(line_borders) - 1)
        for (of, first, last, box), image, answer in zip(proposed, images, answers, strict=True):
            if of != i:
                continue
            cost, way = best[first]
            cost += line_borders[last].cost - WEIGHT * float(np.log(answer.max()))
            if cost < best[last][0]:
                best[last] = cost, [*way, Segment(box, image, answer)]
        found.append(best[-1][1])
    return found


def _between(line: list[Part], start: Border, end: Border) -> Part | None:
    """Return a line's ink between two borders, or None if there is next to none."""
    inside = []
    for number in range(start.part, end.part + (end.cut is not None)):
        part = line[number]
        columns = np.arange(part.ink.shape[1])
        ink = part.ink
        if number == start.part and start.cut is not None:
            ink = np.where(columns >= start.cut[:, None], ink, 0)
        if number == end.part and end.cut is not None:
            ink = np.where(columns < end.cut[:, None], ink, 0)
        if ink is not part.ink:
            rows, cols = np.nonzero(ink > 0.5)
            if len(rows) < SPECK * len(ink) ** 2:
                return None
            top, left = rows.min(), cols.min()
            ink = ink[top : rows.max() + 1, left : cols.max() + 1]
            part = Part(ink, part.left + int(left), part.top + int(top))
        inside.append(part)
    if len(inside) == 1:
        return inside[0]
    left, top = min(part.left for part in inside), min(part.top for part in inside)
    size = max(p.bottom for p in inside) - top, max(p.right for p in inside) - left
    whole = np.zeros(size, np.float32)
    for part in inside:
        where = whole[part.top - top : part.bottom - top, part.left - left : part.right - left]
        np.maximum(where, part.ink, out=where)
    return Part(whole, left, top)


def spaces(line: list[Segment], ink: Ink) -> list[bool]:
    """Return for each digit of a line whether a wide gap comes before it.

    In a form's boxes there is none: digits have one post between them, or are evenly spaced.
    """
    pairs = list(zip(line, line[1:], strict=False))
    if not pairs:
        return [False]
    gaps = np.array([right.box[0] - left.box[2] for left, right in pairs])
    height = float(np.median([s.box[3] - s.box[1] for s in line]))
    wide = gaps > max(GAP * height, 2 * float(np.quantile(gaps, 0.25)))
    steps = np.diff([(s.box[0] + s.box[2]) / 2 for s in line])
    if len(steps) > 1 and steps.std() < EVEN * steps.mean():
        wide[:] = False
    for i in np.flatnonzero(wide):
        left, right = pairs[i]
        between = ink.lines[right.box[1] : right.box[3], left.box[2] : right.box[0]]
        columns = np.flatnonzero(between.mean(axis=0) > 0.5)
        wide[i] = (np.diff(columns, prepend=-height) > 0.1 * height).sum() != 1
    return [False, *wide.tolist()]


def _parts(ink: Ink) -> list[Part]:
    parts = []
    # Soft edges belong to the part that they lie beside.
    grown = dilate(ink.parts, 5, 5)
    grown = np.where(ink.parts > 0, ink.parts, grown)
    places = ndimage.find_objects(grown)
    if sum(place is not None for place in places) > 10 * MOST_PARTS:
        raise TOO_MUCH
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


def _lines(parts: list[Part]) -> list[list[Part]]:
    """Sort parts into lines of writing, from top to bottom, and each line from left to right.

    Large parts are in a line if they overlap in height, or all but touch one above the other, as
    halves of a broken digit do. A small part goes with the nearest large one, a speck is left out.
    """
    tallest = max(part.ink.shape[0] for part in parts)
    large = [part for part in parts if part.ink.shape[0] >= LARGE * tallest]
    if len(large) > MOST_PARTS:
        raise TOO_MUCH
    tops, bottoms, lefts, rights = np.array([(p.top, p.bottom, p.left, p.right) for p in large]).T
    heights = bottoms - tops
    down, least_height = _overlaps(tops, bottoms)
    across, least_width = _overlaps(lefts, rights)
    beside = down >= 0.5 * least_height
    above = (across >= 0.5 * least_width) & (down > -0.08 * (heights[:, None] + heights))
    near = (beside | above).astype(np.float32)
    while ((further := (near @ near > 0).astype(np.float32)) != near).any():
        near = further
    line_of = near.argmax(axis=1)
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
    return [sorted(row, key=lambda part: part.left + part.right) for row in rows]


def _overlaps(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each two of N ranges overlap, and the shorter one's length, `(N, N)` each."""
    lengths = high - low
    overlaps = np.minimum(high[:, None], high) - np.maximum(low[:, None], low)
    return overlaps, np.minimum(lengths[:, None], lengths)


def _height(line: list[Part]) -> float:
    """Return a line's height, in pixels: the mean of the taller half of its parts."""
    heights = np.sort([part.ink.shape[0] for part in line])
    return float(heights[len(heights) // 2 :].mean())
