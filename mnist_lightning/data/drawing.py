"""Ink on tensors: curves drawn with a pen, ink placed by MNIST's convention, upstrokes on ones."""

import math

import torch
from torch import Tensor

from mnist_lightning.sizes import SIDE

NUM_UPSTROKE_NUMBERS = 5


def draw(curves: Tensor, radii: Tensor) -> Tensor:
    """Draw curves with round pens.

    Args:
        curves: float32 `(B, S, P, 2)`, for each of S curves P points (x, y) in pixels, less than a
            pen's width apart.
        radii: float32 `(B, S)`, each curve's pen's radius in pixels; 0 leaves it out.

    Returns:
        float32 `(B, 1, 28, 28)` in [0, 1].
    """
    places = _places(curves.device)
    exists = radii > 0
    ink, radii = curves[exists], radii[exists]
    # |p - i|^2 = |p|^2 + |i|^2 - 2 p i, of the nearest ink
    nearest = (ink.square().sum(dim=2)[:, None] - 2 * places @ ink.mT).amin(dim=2)
    distance = (nearest + places.square().sum(dim=1)).clamp(min=0).sqrt()
    shares = torch.zeros(*exists.shape, SIDE * SIDE, device=curves.device)
    shares[exists] = (radii[:, None] + 0.5 - distance).clamp(0, 1)
    return shares.amax(dim=1).view(-1, 1, SIDE, SIDE)


def to_convention(pixels: Tensor, width: int = SIDE) -> Tensor:
    """Scale and place ink as MNIST's digits are.

    Its box becomes 20 pixels long at its longer side, and its center of mass lies in the middle (at
    place 14 of 0 to 27), to the nearest pixel. `reading.convention` does the same to a picture.

    Args:
        pixels: float32 `(B, 1, H, W)` in [0, 1].
        width: Of the images, in pixels. In one that is wider than MNIST's the box is 20 pixels
            high, or `width - 8` wide if it would be wider.

    Returns:
        float32 `(B, 1, 28, width)` in [0, 1].
    """
    sums = pixels[:, 0].sum(dim=2), pixels[:, 0].sum(dim=1)  # of each row, of each column
    boxes = [_ends(pixels[:, 0].amax(dim=dim) > 0.2) for dim in (2, 1)]
    sides = SIDE, width
    fits = [(side - 8) / (high - low) for side, (low, high) in zip(sides, boxes, strict=True)]
    scale = torch.minimum(*fits)
    weights = []
    for side, sum_, (low, high) in zip(sides, sums, boxes, strict=True):
        places = torch.arange(sum_.shape[1], device=pixels.device) + 0.5
        center = (sum_ * places).sum(dim=1) / sum_.sum(dim=1).clamp(min=1e-6)
        corner = (side / 2 + 0.5 - (center - low) * scale).round().clamp(min=0)
        corner = torch.minimum(corner, (side - (high - low) * scale).floor())
        # What each of its places sees of the input: a triangle, of two places' width.
        seen = (torch.arange(side, device=pixels.device) + 0.5 - corner[:, None]) / scale[:, None]
        reach = (1 / scale).clamp(min=1)[:, None, None]
        distance = ((low[:, None] + seen)[:, :, None] - places).abs()
        weight = (1 - distance / reach).clamp(min=0)
        weights.append(weight / weight.sum(dim=2, keepdim=True).clamp(min=1))
    rows, columns = weights
    return (rows @ pixels[:, 0] @ columns.mT).clamp(0, 1).unsqueeze(1)


def upstrokes(pixels: Tensor, numbers: Tensor) -> Tensor:
    """Give ones an upstroke at their top, and every other one a foot.

    An upstroke is short and leaves the stem at an acute angle; the bar of a 7 is long and level.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1], ones.
        numbers: float32 `(B, NUM_UPSTROKE_NUMBERS)` in [0, 1), what is random in it.

    Returns:
        Like `pixels`.
    """
    ink, places = pixels.flatten(1), _places(pixels.device)
    angle, _ = _axis(pixels)
    angle = torch.where(angle > 0, angle, angle + math.pi)  # downwards
    along = places @ torch.stack([angle.cos(), angle.sin()], dim=1)[:, :, None]
    along, is_ink = along[:, :, 0], ink > 0.5
    first = along.masked_fill(~is_ink, 100).amin(dim=1, keepdim=True)
    last = along.masked_fill(~is_ink, -100).amax(dim=1, keepdim=True)
    length = (last - first).clamp(min=1)
    ends = []
    for is_end in (along <= first + 1.5, along >= last - 1.5):
        share = ink * is_end
        ends.append((share @ places) / share.sum(dim=1, keepdim=True).clamp(min=1e-6))
    top, bottom = ends

    turn, reach, left, right, has_foot = numbers.split(1, dim=1)
    direction = angle[:, None] + math.radians(22) + math.radians(43) * turn
    direction = direction.clamp(max=math.radians(158))  # never level
    flag = torch.cat([direction.cos(), direction.sin()], dim=1) * length * (0.15 + 0.22 * reach)
    level = torch.tensor([1.0, 0.0], device=pixels.device) * length * (has_foot < 0.5)
    lines = [
        (top, top + flag),
        (bottom - level * (0.1 + 0.12 * left), bottom + level * (0.1 + 0.12 * right)),
    ]
    t = torch.linspace(0, 1, 20, device=pixels.device)[:, None]
    curves = torch.stack([a[:, None] + t * (b - a)[:, None] for a, b in lines], dim=1)
    radius = (ink.sum(dim=1, keepdim=True) / length / 2).clamp(0.5, 2.5)
    return torch.maximum(pixels, draw(curves, radius.expand(-1, 2)))


def is_line(pixels: Tensor) -> Tensor:
    """Return whether each image's ink is no more than one straight stroke, as a 1's.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1].

    Returns:
        Bool `(B,)`.
    """
    return _axis(pixels)[1] < 0.06


def _axis(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the angle of the ink's main axis, and how much less it varies across than along it."""
    ink = pixels.flatten(1)
    weights = (ink / ink.sum(dim=1, keepdim=True).clamp(min=1e-6))[:, :, None]
    away = _places(pixels.device) - weights.mT @ _places(pixels.device)
    (xx, xy), (_, yy) = ((weights * away).mT @ away).permute(1, 2, 0)
    mean, difference = (xx + yy) / 2, torch.hypot((xx - yy) / 2, xy)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    return angle, (mean - difference) / (mean + difference).clamp(min=1e-6)


def _places(device: torch.device) -> Tensor:
    """Return the centers (x, y) of an image's pixels, row by row, `(784, 2)`."""
    centers = torch.arange(SIDE, device=device) + 0.5
    return torch.cartesian_prod(centers, centers).flip(1)


def _ends(has_ink: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for bool `(B, N)`, where the first True begins and the last one ends."""
    first = has_ink.int().argmax(dim=1)
    last = has_ink.shape[1] - has_ink.flip(1).int().argmax(dim=1)
    return first, last
