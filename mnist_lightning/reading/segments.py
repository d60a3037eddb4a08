"""A picture -> its digits, cut apart as a network reads them best.

Ink that hangs together is a part. A digit may consist of several parts, and digits that touch are
one. So parts are cut where little ink is crossed, runs of neighboring pieces are proposed as
digits, the network reads them all, and the row of digits that it is surest of is taken: the
over-segmentation of LeCun et al., Gradient-based learning applied to document recognition, 1998.
Pieces of a part can be good digits and yet the wrong ones, so a second network, which sees the part
whole, has a say in what it holds.
"""

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from PIL import Image

from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import as_it_is, place
from mnist_lightning.reading.cuts import CUT, find_cuts
from mnist_lightning.reading.ink import Ink, find_ink
from mnist_lightning.reading.lines import (
    SPECK,
    Part,
    box_of,
    gap_between,
    height_of,
    join,
    lines_of,
    overlap_across,
)
from mnist_lightning.sizes import NUM_CLASSES

SURE = 0.97  # probability from which on a part is not cut, unless it is wide
WIDE = 0.9  # of the line's height, in its width
MOST_TO_CUT = 6  # times their lines' height, in the widths of all parts to cut; else none is

WIDEST = 1.5  # of the line's height or its own, in a digit's width
# Of a picture that is said to hold a single digit, however strange its hand
WIDEST_ALONE = 2.0  # of the line's height, in its width
TALL = 0.75  # of the line's height; two such parts side by side are two digits
MOST_BORDERS = 24  # from a digit's beginning to its end; of one that is not cut, between parts
WEIGHT = 2.0  # of a digit's logarithm of probability, beside what the cuts cost
JOINED_WEIGHT = 0.3  # of that of an answer about a part, of the network that sees it whole
SINGLE = 5.0  # times as often as in that network's training a part is a single digit
LEAST = 1e-6  # probability of such an answer
FLAT = 2.0  # what it costs for each height that it is wider than high
SHORT = 2.5  # for each line's height that it is below
LOW = 0.75  # of the line's height
LOWEST = 0.4  # of the line's height; what is lower is a mark, unless the network is sure of it
MARK = 0.47  # probability that counts for a mark; a part that is less probable is one
APART = 3.0  # what it costs for each line's height of gaps between a digit's parts
NEAR = 0.15  # of two lines' height, in the gap between halves of broken digits
NEAR_ALONE = 0.08  # where no network judges them
SLIT = 0.05  # so near, they are one if in doubt, farther apart two
LINE = 0.5  # what must be saved, or may be lost, by taking two lines for one
MOST_HALVES = 60  # parts of two lines that are tried as one

# What the second network takes and answers: `reading.joined`
JOINED_WIDTH = 52  # pixels of its images, which are as high as others
NUM_ANSWERS = 111  # ten digits, a hundred pairs, anything else

ALIKE = np.full(NUM_CLASSES, 1 / NUM_CLASSES, np.float32)  # probabilities

GAP = 0.8  # of the line's height, that is a space
EVEN = 0.2  # of the mean step from digit to digit, as their standard deviation


@dataclass(frozen=True, eq=False)
class Segment:
    """What is read as one digit.

    Args:
        box: Left, top, right and bottom, in pixels.
        image: uint8 `(28, 28)`.
        probabilities: float32 `(10,)`.
        after_gap: Whether a wide gap comes before it in its line.
        empty: Number of columns without ink between its parts.
        least: Probability below which it is a mark, a sign say, and no digit.
    """

    box: tuple[int, int, int, int]
    image: np.ndarray
    probabilities: np.ndarray
    after_gap: bool = False
    empty: int = 0
    least: float = 0.0

    @property
    def is_mark(self) -> bool:
        """Whether it is a mark, and no digit."""
        return bool(self.probabilities.max() < self.least)

    @property
    def is_low_or_dot(self) -> bool:
        """Whether it is a mark to any network, also to one that knows none."""
        return self.is_mark and self.least > MARK

    @property
    def digit(self) -> int:
        """The most probable digit."""
        return int(self.probabilities.argmax())


# Yields images of MNIST's convention, uint8 (N, 28, 28), and is sent the network's probabilities,
# float32 (N, 10); or wider ones, (N, 28, 52), and is sent those of `reading.joined`, (N, 111), or
# (N, 0) if the network's classes are not its digits. Asks for the latter second, if at all.
# Returns lines from top to bottom, of digits from left to right. So a network can read the images
# of many pictures at once.
Search = Generator[np.ndarray, np.ndarray, list[list[Segment]]]


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


Pair = tuple[Border, Border]
WholeCosts = dict[Part, np.ndarray]  # what each answer about a whole part costs, float32 (111,)
Way = tuple[float, list[tuple[Border, Border, Segment]]]  # what digits cost; each, and where it is
UNKNOWN: Way = (np.inf, [])
Line = tuple[list[Part], float]  # its parts and its height


def find_segments(picture: Image.Image) -> Search:
    """Find the digits of each line of writing in a picture; the boxes are in its own pixels.

    Args:
        picture: In mode RGB or L.

    Raises:
        UserError: If there is no ink, or too much to be writing.
    """
    image = as_it_is(picture)
    if image is not None:
        rows, columns = np.nonzero(image)
        sides = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        (probabilities,) = yield image[None]
        left, top, right, bottom = (int(side) for side in sides)
        return [[Segment((left, top, right, bottom), image, probabilities)]]
    ink = find_ink(picture)
    lines: list[list[Segment]] = []
    for line in (yield from _find_in_ink(ink)):
        lines.append([])
        for segment, gap in zip(line, spaces(line, ink), strict=True):
            left, top, right, bottom = (round(side) for side in ink.in_picture(segment.box))
            lines[-1].append(replace(segment, box=(left, top, right, bottom), after_gap=gap))
    return lines


def find_digit(picture: Image.Image) -> np.ndarray:
    """Make an image of the only digit in a picture, whatever a network would read.

    Args:
        picture: In mode RGB or L.

    Returns:
        uint8 `(28, 28)`, as `find_segments` makes it of a digit that it does not cut.

    Raises:
        UserError: If there is no ink, or more than one digit.
    """
    image = as_it_is(picture)
    if image is not None:
        return image
    lines = lines_of(find_ink(picture))
    line = join(*lines)
    height = height_of(line)
    is_apart = any(
        gap_between(*pair) > NEAR_ALONE or overlap_across(*pair) < 0.5 for pair in pairwise(lines)
    )
    tall = sorted((p for p in line if p.ink.shape[0] > TALL * height), key=lambda p: p.left)
    digit = _between(line, Border(0), Border(len(line)))
    is_wide = digit is None or digit.ink.shape[1] > WIDEST_ALONE * height
    if is_apart or is_wide or any(a.right <= b.left for a, b in pairwise(tall)):
        raise UserError("there is more than one digit on the picture")
    assert digit
    return place(digit.ink, digit.stroke)


def _find_in_ink(ink: Ink) -> Search:
    """Find the digits of each line; the boxes are in the ink's pixels."""
    known: dict[Pair, Segment | None] = {}
    whole_costs: WholeCosts = {}
    lines, borders, ways = yield from _find_lines(ink, known)
    to_cut: list[tuple[Part, Segment, float]] = []
    for (line, height), ends in zip(lines, borders, strict=True):
        for part, pair in zip(line, pairwise(ends), strict=True):
            segment = known[pair]
            if segment and segment.least <= MARK:  # else it is low or a dot
                is_sure = segment.probabilities.max() >= SURE
                if part.ink.shape[1] > WIDE * height or not is_sure:
                    to_cut.append((part, segment, height))
    if sum(part.ink.shape[1] / height for part, _, height in to_cut) > MOST_TO_CUT:
        to_cut = []
    if to_cut:
        images = [place(part.ink, part.stroke, JOINED_WIDTH) for part, _, _ in to_cut]
        answers = yield np.stack(images)
        if answers.size:
            weighed = answers * np.where(np.arange(NUM_ANSWERS) < 10, SINGLE, 1)
            weighed /= weighed.sum(axis=1, keepdims=True)
            costs = -JOINED_WEIGHT * np.log(weighed.clip(LEAST))
            whole_costs.update(zip((part for part, _, _ in to_cut), costs, strict=True))
            unknown = [UNKNOWN] * len(lines)
            ways = yield from _best_ways(lines, borders, known, whole_costs, 0, unknown)
    uncut: dict[Part, float] = {}  # what a part costs so: no cut that costs more can pay
    for part, segment, height in to_cut:
        uncut[part] = _cost(segment, height)
        if part in whole_costs:
            said = NUM_ANSWERS - 1 if segment.is_mark else segment.digit
            uncut[part] += whole_costs[part][said]
    for (line, height), ends, (cost, _) in zip(lines, borders, ways, strict=True):
        ends += [
            Border(number, *cut)
            for number, part in enumerate(line)
            if min(uncut.get(part, 0.0), cost) > CUT
            for cut in find_cuts(part.ink, height)
            if cut[1] <= min(uncut[part], cost)
        ]
        ends.sort(key=lambda border: border.part)  # which keeps the order of a part's cuts
    for num_cuts in (1, 2):
        ways = yield from _best_ways(lines, borders, known, whole_costs, num_cuts, ways)
    return [[segment for _, _, segment in way] for _, way in ways]


def _find_lines(
    ink: Ink, known: dict[Pair, Segment | None]
) -> Generator[np.ndarray, np.ndarray, tuple[list[Line], list[list[Border]], list[Way]]]:
    """Find the lines, where two that are near each other may be halves of one, and read them uncut.

    Args:
        ink: Of the whole picture.
        known: See `_best_ways`.

    Returns:
        The lines, their borders, and the best way of each.
    """
    rows = lines_of(ink)
    uppers = [
        i
        for i, pair in enumerate(pairwise(rows))
        if gap_between(*pair) < NEAR and sum(map(len, pair)) <= MOST_HALVES
    ]
    both = [join(rows[i], rows[i + 1]) for i in uppers]
    lines = [(line, height_of(line)) for line in rows + both]
    borders = [[Border(number) for number in range(len(line) + 1)] for line, _ in lines]
    ways = yield from _best_ways(lines, borders, known, {}, 0, [UNKNOWN] * len(lines))
    chosen = list(range(len(rows)))
    for number, upper in enumerate(uppers, start=len(rows)):
        cost, way = ways[number]
        saved = ways[upper][0] + ways[upper + 1][0] - cost
        is_slit = 0 <= gap_between(rows[upper], rows[upper + 1]) < SLIT
        if (
            upper in chosen
            and saved > (-LINE if is_slit else LINE)
            and _is_one_line(way, lines[number][0], rows[upper])
        ):
            chosen[chosen.index(upper)] = number
            chosen.remove(upper + 1)
    return [lines[i] for i in chosen], [borders[i] for i in chosen], [ways[i] for i in chosen]


def _is_one_line(
    way: list[tuple[Border, Border, Segment]], both: list[Part], upper: list[Part]
) -> bool:
    """Return whether two lines are one: a digit has parts of both, and none is above another.

    Args:
        way: The digits, uncut.
        both: The parts of both lines.
        upper: Those of the upper one.
    """
    boxes = [segment.box for _, _, segment in way]
    for left, right in pairwise(boxes):
        if left[0] + left[2] > 2 * right[0] or 2 * left[2] > right[0] + right[2]:
            return False
    digits = (both[start.part : end.part] for start, end, _ in way)
    return any(0 < sum(part in upper for part in digit) < len(digit) for digit in digits)


def _best_ways(
    lines: list[Line],
    borders: list[list[Border]],
    known: dict[Pair, Segment | None],
    whole_costs: WholeCosts,
    num_cuts: int,
    ways: list[Way],
) -> Generator[np.ndarray, np.ndarray, list[Way]]:
    """Read what lies between any two borders of a line, and return for each line the best digits.

    What is between borders that cost more than a way that is known can't be on the best one.

    Args:
        lines: To read.
        borders: Of each line, from left to right.
        known: What is read between two borders, None if it is no digit; it is added to.
        whole_costs: What the second network says of parts.
        num_cuts: How many of a digit's two borders may be cuts.
        ways: The best of each line so far.
    """
    pairs = [
        [pair for pair in _pairs(*line, ends, num_cuts) if pair[0].cost + pair[1].cost <= cost]
        for line, ends, (cost, _) in zip(lines, borders, ways, strict=True)
    ]
    asked: list[tuple[Pair, Segment]] = []
    for (line, height), row in zip(lines, pairs, strict=True):
        for pair in row:
            if pair not in known:
                known[pair] = segment = _propose(line, height, pair)
                if segment:
                    asked.append((pair, segment))
    if asked:
        answers = yield np.stack([segment.image for _, segment in asked])
        for (pair, segment), answer in zip(asked, answers, strict=True):
            # What the network says of a low sign or a dot means nothing.
            if segment.least <= MARK or answer.max() >= segment.least:
                known[pair] = replace(segment, probabilities=answer)
    ways = []
    for (line, height), ends, row in zip(lines, borders, pairs, strict=True):
        # What an answer costs hangs on several digits, so this is the best way nearly always.
        best: dict[Border, Way] = {ends[0]: (0.0, [])}
        for start, end in row:
            segment = known[start, end]
            if segment and start in best:
                cost, way = best[start]
                way = [*way, (start, end, segment)]
                cost += end.cost + _cost(segment, height)
                part = line[start.part]
                if part in whole_costs and (answer := _answer(way)) is not None:
                    cost += whole_costs[part][answer]
                if end not in best or cost < best[end][0]:
                    best[end] = cost, way
        ways.append(best[ends[-1]])
    return ways


def _propose(line: list[Part], height: float, pair: Pair) -> Segment | None:
    """Return what lies between two borders, if it may be a digit or a mark.

    It has no part, of which there may be many, and each keeps its ink; and it has not been read: to
    it all digits are equally probable.
    """
    part = _between(line, *pair)
    is_part, is_cut = _is_part(*pair), any(border.cut is not None for border in pair)
    if not part or not (is_part or _is_narrow(part, height)) or (is_cut and part.is_dot):
        return None
    least = 0.0
    if part.is_dot:
        least = np.inf
    elif not is_cut and part.ink.shape[0] < LOWEST * height:
        least = SURE
    elif is_part and part.ink.shape[1] <= WIDE * height:  # else it may be several digits
        least = MARK
    box = part.left, part.top, part.right, part.bottom
    return Segment(box, place(part.ink, part.stroke), ALIKE, empty=part.empty, least=least)


def _answer(way: list[tuple[Border, Border, Segment]]) -> int | None:
    """Return what a way that ends at a part's right end says of that part.

    Returns:
        A number as of `reading.joined`: 0 to 9, 10 and up for two digits, or the last for more;
        None if the part goes on, or one of its pieces belongs to a digit of other parts too.
    """
    start, end, _ = way[-1]
    number = start.part
    if end.cut is not None or end.part != number + 1:
        return None
    digits: list[int] = []
    for start, _, segment in reversed(way):
        if start.part != number:
            return None
        digits.insert(0, segment.digit)
        if start.cut is None:
            break
    if len(digits) > 2 or way[-1][2].is_mark:
        return NUM_ANSWERS - 1
    return digits[0] if len(digits) == 1 else 10 * (digits[0] + 1) + digits[1]


def _cost(segment: Segment, line_height: float) -> float:
    """Return what taking a segment for a digit costs: for its improbability, and its shape's.

    A mark costs the same whatever its shape.
    """
    apart = APART * segment.empty / line_height
    if segment.is_mark:
        return apart - WEIGHT * float(np.log(MARK))
    left, top, right, bottom = segment.box
    height = bottom - top
    flat = max(0.0, (right - left) / height - 1)
    short = max(0.0, LOW - height / line_height)
    shape = FLAT * flat + SHORT * short + apart
    return shape - WEIGHT * float(np.log(segment.probabilities.max()))


def _pairs(line: list[Part], height: float, borders: list[Border], num_cuts: int) -> Iterator[Pair]:
    """Yield each two borders of a line, `num_cuts` of them cuts at most, around what may be one."""
    _, top, _, bottom = box_of(line)
    # A broken digit is higher than its parts; a line that slants is higher than any digit.
    widest = WIDEST * (bottom - top if bottom - top < 2.5 * height else height)
    for first, start in enumerate(borders):
        for last, end in enumerate(borders[first + 1 :], first + 1):
            inner = line[start.part + 1 : end.part]
            if inner and inner[-1].right - inner[0].left > widest:
                break
            ends_cut = (start.cut is not None) + (end.cut is not None)
            distance = last - first if ends_cut else end.part - start.part
            if ends_cut <= num_cuts and distance <= MOST_BORDERS:
                yield start, end


def _is_part(start: Border, end: Border) -> bool:
    """Return whether a part, and nothing else, lies between two borders."""
    return start.cut is None and end.cut is None and end.part == start.part + 1


def _is_narrow(part: Part, line_height: float) -> bool:
    height, width = part.ink.shape
    return width <= WIDEST * max(height, line_height)  # a broken digit is higher than its parts


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
            inked = ink > 0.5
            if np.count_nonzero(inked) < SPECK * len(ink) ** 2:
                return None
            rows, cols = (np.flatnonzero(inked.any(axis=axis)) for axis in (1, 0))
            ink = ink[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
            part = Part(ink, part.left + int(cols[0]), part.top + int(rows[0]))
        inside.append(part)
    if len(inside) == 1:
        return inside[0]
    left, top, right, bottom = box_of(inside)
    whole = np.zeros((bottom - top, right - left), np.float32)
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
