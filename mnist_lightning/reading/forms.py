"""What is on a picture beside the writing: rules, frames, and the desk that a sheet lies on."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image
from scipy import ndimage

from mnist_lightning.reading.picture import fit
from mnist_lightning.reading.windows import dilate, pad, slide

THICKEST = 12  # pixels of a line
SHORTEST = 18  # pixels of a line's piece between two steps, as a slanted line has them
BRIDGE = 40  # pixels of writing that a line may be hidden by
STRAIGHT = 2.0  # pixels by which a line's middles differ from a straight one, as a root mean square
STEEPEST = 0.1  # rows for a column
NEAR = 12  # pixels between a line's end and the line that it ends at


@dataclass(frozen=True, eq=False)
class Line:
    """A straight line that is level, more or less; of a turned picture, that is upright.

    Args:
        start: Between which columns it begins: the first may be that of a stroke that hides it.
        end: Between which columns it ends.
        slope: Rows for a column.
        row: Where it lies in column 0.
        off: How far it is from there, as a root mean square.
    """

    start: tuple[int, int]
    end: tuple[int, int]
    slope: float
    row: float
    off: float

    @property
    def length(self) -> int:
        """Its columns that no stroke hides."""
        return self.end[0] - self.start[1]

    def at(self, column: Any) -> Any:
        """Return its row in a column."""
        return self.row + self.slope * column


def find_lines(
    inked: np.ndarray, goes_on: tuple[bool, bool, bool, bool] = (False,) * 4
) -> np.ndarray:
    """Return the ink of rules and frames, without the strokes that cross them.

    A line is straight and thin. It is a rule if it runs to the edge, or is level and
    longer than any digit is; and a frame's if it ends at two others that are, of which the outer
    ones end at each other.

    Args:
        inked: bool `(H, W)`, where there is ink.
        goes_on: Whether the picture goes on beyond the left, top, right and bottom edge. No digit
            reaches such an edge, but one may fill a picture.
    """
    level, upright = _straight(inked), _straight(inked.T)
    if not level and not upright:
        return np.zeros_like(inked)
    height, width = inked.shape
    longest = _longest_stroke(inked, level, upright)
    rules = _run_out(level, width, goes_on[::2], longest)
    stiles = _run_out(upright, height, goes_on[1::2], longest)
    rails = [line for line in level if _ends_at(line, upright, width, at_ends=True)]
    posts = [line for line in upright if _ends_at(line, level, height, at_ends=True)]
    if rails and posts and len(rails) + len(posts) > 2:
        rules, stiles = rules + rails, stiles + posts
    # A 1 may stand between two rules, but not like a ruler's line.
    rules += [line for line in level if line.off < 0.8 and _ends_at(line, stiles, width)]
    stiles += [line for line in upright if line.off < 0.8 and _ends_at(line, rules, height)]
    across, down = np.zeros_like(inked), np.zeros_like(inked)
    rules += [line for line in level if line not in rules and line.length > longest]
    for line in rules:
        _mark(line, inked, across)
    for line in stiles:
        _mark(line, inked.T, down.T)
    # A stroke that crosses a line goes on at both its sides; so does another line.
    lines = _without_strokes(across, inked & ~down)
    lines |= _without_strokes(down.T, (inked & ~across).T).T
    crossings = across & down
    if crossings.any():  # nor is one under a stroke a line's
        kept = (inked & ~lines).view(np.uint8)
        lines &= ~(crossings & ndimage.grey_closing(kept, THICKEST).astype(bool))
    return lines


def _longest_stroke(inked: np.ndarray, level: list[Line], upright: list[Line]) -> float:
    """Return how long a digit's straight stroke may be, by the height of what is no line."""
    rest = inked.copy()
    upright = [line for line in upright if line.length > 0.9 * len(inked)]  # others may be a 1
    for lines, ink in ((level, rest), (upright, rest.T)):
        marked = np.zeros_like(ink)
        for line in lines:
            _mark(replace(line, start=line.start[1:] * 2, end=line.end[:1] * 2), ink, marked)
        ink &= ~marked
    return 1.2 * text_height(rest) or float(max(inked.shape))


def text_height(inked: np.ndarray) -> float:
    """Return the height of writing, in pixels: that of the parts with most ink.

    Args:
        inked: bool `(H, W)`, or int labels, where ink hangs together.
    """
    labels = ndimage.label(inked, np.ones((3, 3)))[0] if inked.dtype == bool else inked
    heights = np.sort(
        [place[0].stop - place[0].start for place in ndimage.find_objects(labels) if place]
    )
    if not len(heights):
        return 0.0
    weights = np.cumsum(heights.astype(float) ** 2)
    return float(heights[np.searchsorted(weights, 0.5 * weights[-1])])


def _straight(inked: np.ndarray) -> list[Line]:
    """Return all straight level lines."""
    thin = _open(inked & ~_open(inked, THICKEST + 1, 0), SHORTEST, 1)
    if not thin.any():
        return []
    bridged = dilate(thin, 1, BRIDGE)
    labels, _ = ndimage.label(bridged, np.ones((3, 3)))
    lines = []
    for number, where in enumerate(ndimage.find_objects(labels), start=1):
        own = thin[where] & (labels[where] == number)
        columns = np.flatnonzero(own.any(axis=0))
        start, end = columns.min(), columns.max()
        if len(columns) < SHORTEST or len(columns) < 0.5 * (end - start):
            continue
        middles = (np.arange(len(own)) @ own / own.sum(axis=0).clip(1))[columns]
        slope, row = np.polyfit(columns, middles, 1)
        off = float((middles - row - slope * columns).std())
        if abs(slope) > STEEPEST or off > STRAIGHT:
            continue
        left, top = where[1].start, where[0].start
        start, end, row = int(start + left), int(end + left), row + top - slope * left
        columns = np.arange(inked.shape[1])
        rows = (row + slope * columns).round().astype(int).clip(0, len(inked) - 1)
        gaps = np.flatnonzero(~inked[rows, columns])
        first = max(gaps[gaps < start], default=-1) + 1
        last = min(gaps[gaps > end], default=inked.shape[1]) - 1
        lines.append(Line((first, start), (end, last), slope, row, off))
    return lines


def _open(values: np.ndarray, length: int, axis: int) -> np.ndarray:
    """Keep only what is `length` pixels long along an axis of a bool array."""
    if values.shape[axis] >= length:
        long = slide(values, length, axis, np.logical_and)
        if long.any():
            return slide(pad(long, axis, length - 1, length - 1), length, axis, np.logical_or)
    return np.zeros_like(values)


def _run_out(
    lines: list[Line], width: int, goes_on: tuple[bool, ...], longest: float
) -> list[Line]:
    """Return the lines that reach an edge where the picture goes on, or run from edge to edge.

    A single one of the latter must be long: a picture may be cut out to the bar of a 7.
    """
    out, through = [], []
    for line in lines:
        ends = line.start[0] < 0.03 * width + 2, line.end[1] > 0.97 * width - 3
        if any(here and on for here, on in zip(ends, goes_on, strict=True)):
            out.append(line)
        elif all(ends):
            through.append(line)
    is_one = len({round(line.row / NEAR) for line in through}) == 1
    return out + [x for x in through if not is_one or x.end[1] - x.start[0] > longest]


def _ends_at(line: Line, others: list[Line], width: int, at_ends: bool = False) -> bool:
    """Return whether a line ends at lines across it: with both ends, or one at the edge.

    Args:
        line: The line.
        others: Those of the other direction.
        width: Columns of the picture.
        at_ends: Whether it must be at ends of the others too.
    """
    inner = [end for end in (line.start, line.end) if end[0] > 2 and end[1] < width - 3]
    return bool(inner) and all(
        any(_meets(line.at(sum(end) / 2), end, other, at_ends) for other in others) for end in inner
    )


def _meets(row: float, end: tuple[int, int], other: Line, at_ends: bool) -> bool:
    """Return whether a line that ends in `row` lies on another there."""
    places = (other.start, other.end) if at_ends else ((other.start[0], other.end[1]),)
    return end[0] - NEAR < other.at(row) < end[1] + NEAR and any(
        low - NEAR < row < high + NEAR for low, high in places
    )


def _mark(line: Line, inked: np.ndarray, marked: np.ndarray) -> None:
    """Mark a line's ink, as thick as it is where nothing crosses it."""
    height = len(inked)
    columns = np.arange(line.start[0], line.end[1] + 1)
    offsets = np.arange(-THICKEST, THICKEST + 1)
    rows = (line.at(columns).round().astype(int)[:, None] + offsets).clip(0, height - 1)
    thick = np.quantile(inked[rows, columns[:, None]].sum(axis=1), 0.3)
    inner = rows[:, abs(offsets) <= thick / 2 + 1.5]
    marked[inner, np.broadcast_to(columns[:, None], inner.shape)] = True


def _without_strokes(band: np.ndarray, inked: np.ndarray) -> np.ndarray:
    """Return a level band without the places where ink goes on above and below it.

    Args:
        band: bool `(H, W)`.
        inked: bool `(H, W)`.
    """
    reach = THICKEST + 4
    near = slide(pad(inked & ~band, 0, reach - 1, reach - 1), reach, 0, np.logical_or)
    # The ink above and below, to either side for a slanted stroke
    height, width = band.shape
    near = np.pad(near, ((0, 0), (reach, reach)))
    above, below = near[:height], near[reach - 1 :]
    crossed = np.zeros_like(band)
    for shift in range(-reach // 2, reach // 2 + 1, 2):
        left, right = reach - shift, reach + shift
        crossed |= above[:, left : left + width] & below[:, right : right + width]
    return band & ~crossed


def without_desk(picture: Image.Image) -> Image.Image:
    """Paint a darker desk around a sheet, whose corners are in view, in the sheet's color.

    Args:
        picture: In mode RGB or L.

    Returns:
        It, or the same picture if there is no sheet on it.
    """
    shrunk = fit(picture, 128)
    small = np.asarray(shrunk.convert("L"))
    # Otsu's threshold: the one with the least variance on both its sides
    counts = np.bincount(small.ravel(), minlength=256)
    below = counts.cumsum()
    sums = (counts * np.arange(256)).cumsum()
    low = sums / below.clip(1)
    high = (sums[-1] - sums) / (below[-1] - below).clip(1)
    at = (below * (below[-1] - below) * (high - low) ** 2).argmax()
    bright = small > (low[at] + high[at]) / 2
    if high[at] - low[at] < 40 or sum(side.any() for side in _sides(bright)) > 2:
        return picture
    labels, _ = ndimage.label(ndimage.binary_opening(bright, np.ones((3, 3))))
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    sheet = ndimage.binary_fill_holes(labels == sizes.argmax())
    around = ndimage.binary_dilation(sheet, iterations=2)
    if sheet.mean() < 0.15 or sheet.sum() < 0.85 * _enclosing_area(sheet):
        return picture
    inside = ndimage.binary_erosion(sheet, iterations=3)
    if around.all() or not inside.any() or bright[~around].mean() > 0.1:
        return picture
    color = np.asarray(shrunk)[inside]
    mask = Image.fromarray(inside).resize(picture.size)
    paint = tuple(np.median(np.atleast_2d(color.T), axis=1).astype(int).tolist())
    background = Image.new(picture.mode, picture.size, paint if len(paint) > 1 else paint[0])
    return Image.composite(picture, background, mask)


def _sides(values: np.ndarray) -> tuple[np.ndarray, ...]:
    return values[0], values[-1], values[:, 0], values[:, -1]


def _enclosing_area(mask: np.ndarray) -> float:
    """Return the area of the smallest enclosing rectangle, in any of 45 directions."""
    rows, columns = np.nonzero(mask ^ ndimage.binary_erosion(mask))
    angles = np.deg2rad(np.arange(0, 90, 2))[:, None]
    across = np.cos(angles) * columns + np.sin(angles) * rows
    along = np.cos(angles) * rows - np.sin(angles) * columns
    return float(((np.ptp(across, axis=1) + 1) * (np.ptp(along, axis=1) + 1)).min())
