"""Random affine warps for whole batches: one table of matrices an epoch, one kernel a batch.

The ranges mean what they meant to Keras's `ImageDataGenerator` in the article's time (2.0.x), and
are composed in its order: the warp maps a place of the output to the place of the input to read, by
`rotation @ shift @ shear @ zoom` about the image's center. Two things differ from Keras: its center
lay one pixel off (at 14.5 of 0 to 27; here 13.5), and what lies outside the image is black here,
where its default smeared the border's pixels outwards.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def affine_table(
    num_images: int,
    rng: np.random.Generator,
    rotation: float,
    shift: float,
    shear: float,
    zoom: float,
) -> Tensor:
    """Draw one random affine matrix for each image of a dataset.

    Every parameter is uniform in ± its range. All are drawn even where a range is 0, so that
    switching one part off leaves the others as they were.

    Args:
        num_images: Number of matrices N.
        rng: Source of the random numbers; the table is a pure function of its state.
        rotation: Largest rotation, in degrees.
        shift: Largest shift, as a fraction of the image's width and height, drawn for each.
        shear: Largest shear angle, in radians. (Keras has read it as degrees since 2.1.3.)
        zoom: Largest change of scale, drawn for width and height separately: 0.08 reads the input
            in steps of 0.92 to 1.08 pixels, and a longer step makes the digit smaller.

    Returns:
        float32 `(N, 2, 3)`, from the output's (x, y, 1) to the input's (x, y), both in [-1, 1] over
        the image, as `torch.nn.functional.affine_grid` takes them with `align_corners=False`.
    """
    angle, shift_x, shift_y, shear_angle, zoom_x, zoom_y = rng.uniform(-1, 1, (6, num_images))
    cos, sin = _cos_sin(np.deg2rad(rotation) * angle)
    cos_shear, sin_shear = _cos_sin(shear * shear_angle)
    scale_x, scale_y = 1 + zoom * zoom_x, 1 + zoom * zoom_y
    # The image spans 2 units, from -1 to 1, so a shift by its whole width is 2.
    shift_x, shift_y = 2 * shift * shift_x, 2 * shift * shift_y

    table = np.empty((num_images, 2, 3), dtype=np.float32)
    # Keras writes its matrices for (row, column). These are the same ones for (x, y):
    # rotation [[cos, sin], [-sin, cos]] and shear [[cos_shear, 0], [-sin_shear, 1]].
    table[:, 0, 0] = (cos * cos_shear - sin * sin_shear) * scale_x
    table[:, 0, 1] = sin * scale_y
    table[:, 0, 2] = cos * shift_x + sin * shift_y
    table[:, 1, 0] = (-sin * cos_shear - cos * sin_shear) * scale_x
    table[:, 1, 1] = cos * scale_y
    table[:, 1, 2] = -sin * shift_x + cos * shift_y
    return torch.from_numpy(table)


def warp(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Warp each image of a batch by its own affine matrix, with bilinear interpolation.

    Args:
        pixels: float `(B, C, H, W)`.
        matrices: float32 `(B, 2, 3)`, rows of `affine_table`.

    Returns:
        Like `pixels`; places outside the input read as 0.
    """
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)


def preview(image: Tensor, ranges: dict[str, float], num: int = 29) -> Tensor:
    """Return an example of what training makes of an image, for a person to look at.

    Args:
        image: Pixels, float `(1, H, W)` in [0, 1].
        ranges: Arguments of `affine_table`.
        num: Number N of random warps; the same ones each time.

    Returns:
        Float `(N, H, W)`.
    """
    table = affine_table(num, np.random.default_rng(0), **ranges)
    return warp(image.expand(num, 1, -1, -1), table)[:, 0]


def _cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle), np.sin(angle)
