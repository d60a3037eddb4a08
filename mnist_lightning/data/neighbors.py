"""A digit with its neighbor's ink: what is left of two that touch when they are cut apart.

A reader of numbers proposes cuts and asks the network which pieces are digits. A piece that keeps
nearly all of its digit and little of the neighbor is that digit; the more it has lost, or has of
the neighbor, the less it is, down to none.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_lightning.data.drawing import is_line, to_convention
from mnist_lightning.sizes import SIDE

NUM_NUMBERS = 9
PLACE = SIDE + 12  # of a digit's place, which leaves room for the neighbor's size and height
# Digits whose left or right part is less and less a digit, the more it has lost. The right part
# of an 8 may be a 3, that of a 4 or a 9 is a 1.
LEFT_PARTS, RIGHT_PARTS = (0, 2, 3, 4, 5, 8, 9), (0, 2)


def neighbors(
    pixels: Tensor, labels: Tensor, others: Tensor, numbers: Tensor
) -> tuple[Tensor, Tensor]:
    """Join each digit with a neighbor, cut between or near them, and keep the digit's side.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1].
        labels: int64 `(B,)`, their digits.
        others: A neighbor for each, like `pixels`.
        numbers: float32 `(B, NUM_NUMBERS)` in [0, 1), what is random in it.

    Returns:
        Like `pixels`, by MNIST's convention; and float32 `(B,)`, how much each piece is its digit,
        0 for none. An image whose piece may be another digit is returned as it is.
    """
    side, size, down, gap, reach, place, slant, bend, follows = numbers[:, :NUM_NUMBERS].unbind(1)
    own = F.pad(pixels, [(PLACE - SIDE) // 2] * 4)
    other = _scaled(others, (0.6 * (size - 0.5)).exp(), 0.4 * (down - 0.5))
    is_left = side < 0.5
    left, right = (
        torch.where(is_left[:, None, None, None], *pair) for pair in ((own, other), (other, own))
    )

    left, right, last, first = join(left, right, 1 + (6 * gap).floor() - 3)
    middles = (last + first + 1) / 2
    _, row = (first - last).min(dim=1)

    # A cut is a parabola through the place where they touch, or follows the border between them;
    # half of the cuts are moved by up to 3 pixels, others by up to 16, and a fifth cuts nothing.
    middle = middles.gather(1, row[:, None])
    border = torch.minimum(torch.maximum(middles, middle - 8), middle + 8)
    border = F.avg_pool1d(border[:, None], 5, 1, 2, count_include_pad=False)[:, 0]
    rows = torch.arange(PLACE, device=pixels.device) - row[:, None]
    curve = middle + (slant[:, None] - 0.5) * 1.4 * rows + (bend[:, None] - 0.5) * 0.04 * rows**2
    moved = 2 * (place - 0.5) * torch.where(reach < 0.5, 3.0, 16.0)
    cut = torch.where((follows < 0.4)[:, None], border, curve) + moved[:, None]
    columns = torch.arange(2 * PLACE, device=pixels.device)
    before = (cut[:, :, None] - columns).clamp(0, 1)[:, None]
    is_left = is_left[:, None, None, None]
    kept = torch.where(is_left, before, 1 - before)
    kept = torch.where((reach > 0.8)[:, None, None, None], 1, kept)

    joined = torch.maximum(left, right)
    own, other = (torch.where(is_left, *pair) for pair in ((left, right), (right, left)))
    own_ink, other_ink, own_kept, all_kept = (
        ink.sum(dim=(1, 2, 3)).clamp(min=1e-6) for ink in (own, other, own * kept, joined * kept)
    )
    lost, dirt = 1 - own_kept / own_ink, (all_kept - own_kept) / other_ink
    share = (1 - (lost - 0.15) / 0.25).clamp(0, 1) * (1 - (dirt - 0.12) / 0.28).clamp(0, 1)
    pieces = to_convention(joined * kept)
    left_part, right_part = (
        torch.isin(labels, torch.tensor(digits, device=labels.device))
        for digits in (LEFT_PARTS, RIGHT_PARTS)
    )
    # With little of its own and some of the neighbor's it may be the neighbor; half of a 0 a 1.
    is_part = torch.where(is_left.flatten(), left_part, right_part) & (lost < 0.8)
    is_part &= ((lost < 0.4) | (dirt < 0.1)) & ~is_line(pieces)
    is_known = (lost < 0.08) | is_part | ((lost < 0.2) & (dirt > 0.4))
    pieces = torch.where(is_known[:, None, None, None], pieces, pixels)
    return pieces, torch.where(is_known, share, 1)


def join(left: Tensor, right: Tensor, gap: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Move ink to the right of other ink until, in the row where they are nearest, they touch.

    Args:
        left: float32 `(B, 1, H, V)` in [0, 1].
        right: float32 `(B, 1, H, W)` in [0, 1].
        gap: float32 `(B,)`, a whole number of pixels from the last of the left one's ink to the
            first of the right one's: 1 where they touch, below 1 where they overlap.

    Returns:
        Both in their places, `(B, 1, H, V + W)`; and float32 `(B, H)`, the column of each row's
        last ink of the left one, and of the first of the right one.
    """
    room, width = left.shape[3], left.shape[3] + right.shape[3]
    columns = torch.arange(width, device=left.device)
    left, right = (F.pad(ink, (0, width - ink.shape[3])) for ink in (left, right))
    last = torch.where(left[:, 0] > 0.3, columns, -room).amax(dim=2)
    first = torch.where(right[:, 0] > 0.3, columns, width).amin(dim=2)
    last = F.max_pool1d(last[:, None].float(), 3, 1, 1)[:, 0]  # corners touch too
    move = (gap - (first - last).amin(dim=1)).clamp(0, room).long()
    index = (columns - move[:, None]) % width
    right = right.gather(3, index[:, None, None].expand_as(right))
    return left, right, last, first + move[:, None]


def _scaled(pixels: Tensor, scale: Tensor, down: Tensor) -> Tensor:
    """Scale images, and move them down by a share of their height, within `PLACE` pixels."""
    zero = torch.zeros_like(scale)
    ratio = PLACE / SIDE / scale
    matrices = torch.stack([ratio, zero, zero, zero, ratio, -down], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(matrices, [len(pixels), 1, PLACE, PLACE], align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)
