"""Pictures of what is no digit, made from digits and from strokes: a network learns to doubt them.

None of them is taken from a font or another dataset.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_lightning.data.drawing import draw, is_line, to_convention
from mnist_lightning.sizes import SIDE

NUM_STROKES, NUM_POINTS = 5, 40  # most strokes of a scribble; places on each
NUM_NUMBERS = 5 + 10 * NUM_STROKES
CROSSES = 0.15  # share of the scribbles that are two lines which cross
# Which digits are none once they lie on their side, stand on their head, are seen in a mirror, have
# a half beside its own mirror image, lack a side, or have one more stroke.
ON_SIDE, ON_HEAD, MIRRORED = (2, 3, 4, 5, 6, 7, 9), (3, 4, 7), (3, 4, 6, 7, 9)
SYMMETRIC, CUT, STRUCK = (4, 5, 7), (0, 2, 3, 5), (0, 2, 3, 4, 5, 6, 8, 9)


def nondigits(pixels: Tensor, labels: Tensor, others: Tensor, numbers: Tensor) -> Tensor:
    """Turn images of digits into images of none, by MNIST's convention.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1].
        labels: int64 `(B,)`, their digits.
        others: A second image for each, like `pixels`.
        numbers: float32 `(B, NUM_NUMBERS)` in [0, 1), what is random in it.

    Returns:
        Like `pixels`: halves at the wrong side or beside their mirror image, one digit over
        another, patches in disorder, a digit that is turned, mirrored, cut or struck through, or a
        scribble.
    """
    is_scribble = numbers[:, 0] < 0.5
    scribbles = _scribbles(numbers[:, 1:], is_scribble)
    disorder = _disorder(pixels, numbers[:, 1:17])
    # The right half of one, then the left half of another: two halves of a 0 are no 0.
    halves = torch.cat([pixels[..., SIDE // 2 :], others[..., : SIDE // 2]], dim=-1)

    def instead(changed: Tensor, digits: tuple[int, ...]) -> Tensor:
        is_none = torch.isin(labels, torch.tensor(digits, device=labels.device))
        return torch.where(is_none[:, None, None, None], changed, halves)

    left, top = pixels[..., : SIDE // 2], pixels[..., : SIDE // 2, :]
    angle = 2 * math.pi * numbers[:, 17, None, None, None]
    places = torch.arange(SIDE, device=pixels.device) - (SIDE - 1) / 2
    beyond = (
        angle.cos() * places[:, None] + angle.sin() * places > 2 * numbers[:, 18, None, None, None]
    )
    struck = torch.maximum(pixels, scribbles)
    is_struck = (struck - pixels).sum(dim=(1, 2, 3)) > 0.1 * pixels.sum(dim=(1, 2, 3))
    struck = torch.where(is_struck[:, None, None, None], struck, halves)
    kinds = [
        halves,
        torch.cat([pixels[..., SIDE // 2 :, :], others[..., : SIDE // 2, :]], dim=-2),
        torch.maximum(pixels, others.mT.flip(-1)),
        disorder,
        instead(pixels.mT.flip(-1), ON_SIDE),
        instead(pixels.mT.flip(-2), ON_SIDE),
        instead(pixels.flip(-1, -2), ON_HEAD),
        instead(pixels.flip(-1), MIRRORED),
        instead(torch.cat([left, left.flip(-1)], dim=-1), SYMMETRIC),
        instead(torch.cat([top, top.flip(-2)], dim=-2), SYMMETRIC),
        instead(pixels.masked_fill(beyond, 0), CUT),
        instead(struck, STRUCK),
        instead(struck, STRUCK),
        instead(struck, STRUCK),
        instead(struck, STRUCK),
    ]
    chosen = (2 * (numbers[:, 0] - 0.5).clamp(min=0) * len(kinds)).long()
    made = torch.stack(kinds)[chosen, torch.arange(len(pixels), device=pixels.device)]
    made = to_convention(torch.where(is_scribble[:, None, None, None], scribbles, made))
    return torch.where(is_line(made)[:, None, None, None], disorder, made)  # that may be a 1


def _disorder(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Put the 16 patches of 7x7 pixels of each image in a random order."""
    patches = F.unfold(pixels, SIDE // 4, stride=SIDE // 4)
    order = numbers.argsort(dim=1)[:, None].expand_as(patches)
    return F.fold(patches.gather(2, order), (SIDE, SIDE), SIDE // 4, stride=SIDE // 4)


def _scribbles(numbers: Tensor, is_whole: Tensor) -> Tensor:
    """Draw one to five strokes with a pen: straight lines, curves, and arcs of ellipses.

    Six of ten scribbles have their points near a grid's, as a letter's corners are; most of their
    lines are upright or level. Half of the strokes begin where the one before ended. What might be
    a 1 or a 0, a stroke that is not much bent or nearly closed, has company. Others are two lines
    that cross each other in the middle.

    Args:
        numbers: float32 `(B, 4 + 10 * NUM_STROKES)` in [0, 1).
        is_whole: Bool `(B,)`; a scribble that is not whole is a stroke or two, anywhere.

    Returns:
        float32 `(B, 1, 28, 28)` in [0, 1].
    """
    first, strokes = numbers[:, :4], numbers[:, 4:].unflatten(1, (NUM_STROKES, 10))
    points, chances = strokes[..., :6].unflatten(2, (3, 2)), strokes[..., 6:]
    cross = _cross(points[:, :2, :2], is_aslant=chances[:, 0, 2] < 0.5)
    is_cross = is_whole & (first[:, 1] > 1 - CROSSES)
    cell = (3 * points).floor()
    near_grid = cell / 2 + 0.2 * (3 * points - cell - 0.5)
    on_grid = (first[:, 1] < 0.6)[:, None]
    points = torch.where(on_grid[..., None, None], near_grid, points)
    start, middle, end = points.unbind(2)
    chained = torch.cat([start[:, :1], end[:, :-1]], dim=1)
    start = torch.where((chances[..., 0] < 0.5)[..., None], chained, start)
    kind = chances[..., 1]
    is_arc, is_straight = kind < 0.35, kind > 0.65
    level = torch.stack([chances[..., 2] < 0.35, chances[..., 2] > 0.65], dim=2)
    end = torch.where((on_grid & is_straight)[..., None] & level, start, end)
    (across, along), (x, y) = ((p - start).unbind(2) for p in (end, middle))
    is_bent = ~is_straight & ((across * y - along * x).abs() > 0.2)  # twice the triangle's area
    # Arcs of an eighth to a whole turn; alone, of 150 to 290 degrees.
    turn = 0.125 + chances[..., 3]
    is_open = (turn > 0.42) & (turn < 0.8)
    alone = torch.where(is_arc, is_open, is_bent)[:, 0]
    count = torch.where(alone, 1, 2) + (first[:, 0] * (NUM_STROKES - 1)).long()
    count = torch.where(is_whole, count, 1 + (count > 2))
    count = torch.where(is_cross, 2, count)

    t = torch.linspace(0, 1, NUM_POINTS, device=numbers.device)[:, None]
    start, middle, end = (p[:, :, None] for p in (start, middle, end))
    straight = start + t * (end - start)
    bent = straight + 4 * t * (1 - t) * (middle - (start + end) / 2)
    angle = 2 * math.pi * (chances[..., 2, None, None] + turn.clamp(max=1)[..., None, None] * t)
    radius = 0.15 + 0.35 * end
    center = radius + (1 - 2 * radius) * middle
    arc = center + radius * torch.cat([angle.cos(), angle.sin()], dim=3)
    curves = torch.where(is_straight[..., None, None], straight, bent)
    curves = torch.where(is_arc[..., None, None], arc, curves)
    first_two = torch.where(is_cross[:, None, None, None], cross, curves[:, :2])
    curves = torch.cat([first_two, curves[:, 2:]], dim=1)
    exists = torch.arange(NUM_STROKES, device=numbers.device) < count[:, None]
    # A whole scribble fills its 20 pixels, the pen's centers 18 of them.
    missing = ~exists[:, :, None]
    low = curves.amin(dim=2).masked_fill(missing, math.inf).amin(dim=1)
    high = curves.amax(dim=2).masked_fill(missing, -math.inf).amax(dim=1)
    length = (high - low).amax(dim=1).clamp(min=0.3)
    narrow = torch.stack([0.6 + 0.4 * first[:, 3], torch.ones_like(length)], dim=1)
    scale = torch.where(is_whole[:, None], narrow / length[:, None], 0.2 + 0.8 * first[:, 3:])
    center = torch.where(is_whole[:, None], (low + high) / 2, 0.5)
    curves = SIDE / 2 + 0.5 + 18 * scale[:, None, None] * (curves - center[:, None, None])
    return draw(curves, exists * (0.7 + 1.1 * first[:, 2:3] + 0.4 * chances[..., 0]))


def _cross(points: Tensor, is_aslant: Tensor) -> Tensor:
    """Draw two lines that cross in the middle: level and upright, or both aslant.

    Args:
        points: float32 `(B, 2, 2, 2)` in [0, 1), how far their ends are from where they would be.
        is_aslant: Bool `(B,)`.

    Returns:
        float32 `(B, 2, NUM_POINTS, 2)`, lines of about 1, or 1.4 if they are aslant.
    """
    plus = torch.tensor([[[0.5, 0], [0.5, 1]], [[0, 0.5], [1, 0.5]]], device=points.device)
    ends = plus + 0.2 * (points - 0.5)
    x, y = ends.unbind(3)
    turned = torch.stack([x - y, x + y], dim=3)
    start, end = torch.where(is_aslant[:, None, None, None], turned, ends).split(1, dim=2)
    t = torch.linspace(0, 1, NUM_POINTS, device=points.device)[:, None]
    return start + t * (end - start)
