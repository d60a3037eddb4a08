"""Pictures of what is no digit, made from digits and from strokes: a network learns to doubt them.

None of them is taken from a font or another dataset.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

NUM_STROKES, NUM_POINTS = 4, 3  # most strokes of a scribble, each a curve with three points
NUM_NUMBERS = 4 + 3 * NUM_STROKES * NUM_POINTS
# Which digits are none once they lie on their side, stand on their head, are seen in a mirror, have
# a half beside its own mirror image, or lack a side.
ON_SIDE, ON_HEAD, MIRRORED = (2, 3, 4, 5, 6, 7, 9), (3, 4, 7), (3, 4, 6, 7, 9)
SYMMETRIC, CUT = (4, 5, 7), (0, 2, 3, 5)


def nondigits(pixels: Tensor, labels: Tensor, others: Tensor, numbers: Tensor) -> Tensor:
    """Turn images of digits into images of none.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1].
        labels: int64 `(B,)`, their digits.
        others: A second image for each, like `pixels`.
        numbers: float32 `(B, NUM_NUMBERS)` in [0, 1), what is random in it.

    Returns:
        Like `pixels`: halves at the wrong side or beside their mirror image, two digits side by
        side, one over another, patches in disorder, a digit that is turned, mirrored or cut, or a
        scribble.
    """
    made = torch.empty_like(pixels)
    is_scribble = numbers[:, 0] < 0.5
    made[is_scribble] = _scribbles(numbers[is_scribble, 1:])
    pixels, others, numbers = (values[~is_scribble] for values in (pixels, others, numbers))
    labels = labels[~is_scribble]
    # The right half of one, then the left half of another: two halves of a 0 are no 0.
    halves = torch.cat([pixels[..., 14:], others[..., :14]], dim=-1)

    def instead(turned: Tensor, digits: tuple[int, ...]) -> Tensor:
        is_none = torch.isin(labels, torch.tensor(digits, device=labels.device))
        return torch.where(is_none[:, None, None, None], turned, halves)

    left, top = pixels[..., :14], pixels[..., :14, :]
    angle = 2 * math.pi * numbers[:, 17, None, None, None]
    places = torch.arange(28, device=pixels.device) - 13.5
    beyond = (
        angle.cos() * places[:, None] + angle.sin() * places > 2 * numbers[:, 18, None, None, None]
    )
    kinds = [
        halves,
        torch.cat([pixels[..., 14:, :], others[..., :14, :]], dim=-2),
        _side_by_side(F.avg_pool2d(pixels, (1, 2)), F.avg_pool2d(others, (1, 2))),
        _side_by_side(F.avg_pool2d(pixels, 2), F.avg_pool2d(others, 2)),
        torch.maximum(pixels, others.mT.flip(-1)),
        _disorder(pixels, numbers[:, 1:17]),
        instead(pixels.mT.flip(-1), ON_SIDE),
        instead(pixels.mT.flip(-2), ON_SIDE),
        instead(pixels.flip(-1, -2), ON_HEAD),
        instead(pixels.flip(-1), MIRRORED),
        instead(torch.cat([left, left.flip(-1)], dim=-1), SYMMETRIC),
        instead(torch.cat([top, top.flip(-2)], dim=-2), SYMMETRIC),
        instead(pixels.masked_fill(beyond, 0), CUT),
        instead(pixels.masked_fill(beyond, 0), CUT),
    ]
    chosen = (2 * (numbers[:, 0] - 0.5) * len(kinds)).long()
    made[~is_scribble] = torch.stack(kinds)[chosen, torch.arange(len(pixels), device=pixels.device)]
    return made


def _side_by_side(left: Tensor, right: Tensor) -> Tensor:
    both = torch.cat([left, right], dim=-1)
    missing = 28 - both.shape[-2]
    return F.pad(both, (0, 0, missing // 2, missing // 2))


def _disorder(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Put the 16 patches of 7x7 pixels of each image in a random order."""
    patches = F.unfold(pixels, 7, stride=7)
    order = numbers.argsort(dim=1)[:, None].expand_as(patches)
    return F.fold(patches.gather(2, order), (28, 28), 7, stride=7)


def _scribbles(numbers: Tensor) -> Tensor:
    """Draw one to four curves with a pen, of random points within a square of 20 pixels.

    Half of them are straight, six of ten scribbles have their points near a grid's, as a letter's
    corners are, and half of the curves begin where the one before ended. A curve that is not
    much bent has company, since it might be a 1.
    """
    first, rest = numbers[:, :3], numbers[:, 3:].unflatten(1, (NUM_STROKES, NUM_POINTS, 3))
    points, chances = rest[..., :2], rest[..., 2]
    cell = (3 * points).floor()
    near_grid = cell / 2 + 0.2 * (3 * points - cell - 0.5)
    points = torch.where((first[:, 1] < 0.6)[:, None, None, None], near_grid, points)
    start, middle, end = points.unbind(2)
    (across, along), (x, y) = ((p[:, 0] - start[:, 0]).unbind(1) for p in (end, middle))
    is_bent = (across * y - along * x).abs() > 0.2  # twice the triangle's area
    num_strokes = torch.where(is_bent, 1, 2) + (first[:, 0] * (NUM_STROKES - 1)).long()
    begins_there = (chances[:, 1:, 0] < 0.5)[..., None]
    start = torch.cat([start[:, :1], torch.where(begins_there, end[:, :-1], start[:, 1:])], dim=1)
    is_straight = ((chances[..., 1] < 0.5) & (num_strokes > 1)[:, None])[..., None]
    middle = torch.where(is_straight, (start + end) / 2, 2 * middle - (start + end) / 2)
    # Quadratic Bezier curves, by places on them that lie less than a pen's width apart.
    t = torch.linspace(0, 1, 30, device=numbers.device)[:, None]
    start, middle, end = (4 + 20 * p[:, :, None] for p in (start, middle, end))
    curves = (1 - t) ** 2 * start + 2 * t * (1 - t) * middle + t**2 * end
    exists = torch.arange(NUM_STROKES, device=numbers.device) < num_strokes[:, None]
    curves = torch.where(exists[:, :, None, None], curves, curves[:, :1])
    centers = torch.arange(28, device=numbers.device) + 0.5
    places = torch.cartesian_prod(centers, centers)
    ink = curves.flatten(1, 2)
    # |p - i|^2 = |p|^2 + |i|^2 - 2 p i, of the nearest ink
    nearest = (ink.square().sum(dim=2)[:, None] - 2 * places @ ink.mT).amin(dim=2)
    distance = (nearest + places.square().sum(dim=1)).clamp(min=0).sqrt()
    radius = 0.7 + 1.3 * first[:, 2:]
    return (radius + 0.5 - distance).clamp(0, 1).view(-1, 1, 28, 28)
