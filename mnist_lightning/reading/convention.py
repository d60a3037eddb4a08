"""One digit's ink -> MNIST's own convention, a 28x28 image.

NIST's digits were black on white. MNIST scaled each to fit a square of 20 pixels, keeping its
proportions, and placed it in 28x28 pixels with its center of mass in the middle, as light ink on
black (http://yann.lecun.com/exdb/mnist/). A network that was trained on such images misreads most
others, so `to_mnist` does the same; before, it tells ink from paper, whichever is darker, in uneven
light.
"""

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mnist_lightning.reading.ink import find_ink, stroke_width
from mnist_lightning.reading.picture import decode, fit
from mnist_lightning.reading.windows import dilate
from mnist_lightning.sizes import SIDE

if TYPE_CHECKING:
    from torch import Tensor

LARGEST = 240  # pixels of a digit's long side before it is scaled to 20
MIN_STROKE = 2.0  # pixels of the 20; 1 in 20 of MNIST's training images has a thinner one


def to_mnist(picture: Image.Image) -> "Tensor":
    """Convert a picture of a digit to an image of MNIST's convention.

    An image that already keeps it, as MNIST's own do, is returned unchanged, or inverted if it is
    dark on white.

    Args:
        picture: One digit, in any of Pillow's modes.

    Returns:
        uint8 `(28, 28)`, 0 for the paper to 255 for the ink.

    Raises:
        UserError: If there is no ink on it.
    """
    import torch  # half a gigabyte, which worker processes do without

    picture = decode(picture)
    image = as_it_is(picture)
    if image is not None:
        return torch.from_numpy(image)
    ink = find_ink(picture)
    rows, columns = np.nonzero(ink.parts)
    whole = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    depth = ink.depth[whole]
    return torch.from_numpy(place(depth, stroke_width(depth)))


def place(ink: np.ndarray, stroke: float, width: int = SIDE) -> np.ndarray:
    """Scale ink to 20 pixels and center it in an image, its strokes no thinner than MNIST's.

    Args:
        ink: float32 `(H, W)`, 0 for the paper to 1 for full ink, which fills it.
        stroke: Its `stroke_width`.
        width: Of the image, in pixels. In one that is wider than MNIST's the ink is 20 pixels high,
            or `width - 8` wide if it would be wider.

    Returns:
        uint8 `(28, width)`.
    """
    sides = SIDE, width
    if max(ink.shape) > LARGEST:  # widening strokes would take long
        ink = np.asarray(fit(Image.fromarray(ink), LARGEST))
        stroke = stroke_width(ink)
    growth = max(0, round((MIN_STROKE * _pixel(ink, sides) - stroke) / 2))
    if growth:  # scaling would turn a thin stroke pale
        ink = dilate(np.pad(ink, growth), 2 * growth + 1, 2 * growth + 1)
    long_side = round(max(ink.shape) / _pixel(ink, sides))
    small = np.asarray(fit(Image.fromarray(ink), long_side))
    small = small.clip(0, 1)  # bicubic scaling overshoots
    corner = np.divide(sides, 2) - _center_of_mass(small)
    row, column = corner.round().astype(int).clip(0, np.subtract(sides, small.shape))
    image = np.zeros(sides, np.uint8)
    image[row : row + len(small), column : column + small.shape[1]] = (255 * small).round()
    return image


def _pixel(ink: np.ndarray, sides: tuple[int, int]) -> float:
    """Return how many pixels of ink make one of an image of these sides, with a margin of 4."""
    return max(length / (side - 8) for length, side in zip(ink.shape, sides, strict=True))


def as_it_is(picture: Image.Image) -> np.ndarray | None:
    """Return an image of MNIST's convention as uint8 `(28, 28)`, or None if it is none.

    Args:
        picture: In mode RGB or L.
    """
    if picture.size == (SIDE, SIDE) and picture.mode == "L":
        pixels = np.array(picture)
        for image in (pixels, 255 - pixels):
            if _keeps_convention(image):
                return image
    return None


def _keeps_convention(image: np.ndarray) -> bool:
    """Return whether a gray image `(28, 28)` keeps MNIST's convention."""
    ink = np.argwhere(image)
    if not len(ink) or np.ptp(ink, axis=0).max() >= 20:
        return False
    return all(abs(center - SIDE / 2) <= 0.5 for center in _center_of_mass(image))


def _center_of_mass(image: np.ndarray) -> tuple[float, float]:
    height, width = image.shape
    mass = image.sum()
    row = (image * np.arange(float(height))[:, None]).sum() / mass
    column = (image * np.arange(float(width))).sum() / mass
    return row, column
