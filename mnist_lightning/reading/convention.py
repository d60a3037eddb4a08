"""One digit's ink -> MNIST's own convention, a 28x28 image.

NIST's digits were black on white. MNIST scaled each to fit a square of 20 pixels, keeping its
proportions, and placed it in 28x28 pixels with its center of mass in the middle, as light ink on
black (http://yann.lecun.com/exdb/mnist/). A network that was trained on such images misreads most
others, so `to_mnist` does the same; before, it tells ink from paper, whichever is darker, in uneven
light.
"""

import numpy as np
import torch
from PIL import Image, ImageOps
from scipy import ndimage
from torch import Tensor

from mnist_lightning.reading.ink import SIDE, find_digit, is_light_on_dark, stroke_width
from mnist_lightning.reading.picture import fit, flatten

MIN_STROKE = 2.0  # pixels of the 20; 1 in 20 of MNIST's training images has a thinner one


def to_mnist(picture: Image.Image) -> Tensor:
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
    picture = flatten(picture)
    pixels = np.asarray(picture)
    if is_gray := bool((pixels == pixels[..., :1]).all()):
        picture = picture.convert("L")  # a third of the work
    if is_gray and pixels.shape[:2] == (28, 28):
        for image in (pixels[..., 0], 255 - pixels[..., 0]):
            if _keeps_convention(image):
                return torch.from_numpy(image.copy())

    if is_light_on_dark(picture):
        picture = ImageOps.invert(picture)
    ink, box = find_digit(picture)
    # Look closer at the digit: scaled down with a large sheet, a thin pen is pale.
    margin = 0.3 * (box[2:] - box[:2]).max()
    closer = np.concatenate([box[:2] - margin, box[2:] + margin]) * max(picture.size) / SIDE
    low, high = closer.clip(0).round().astype(int).reshape(2, 2)
    ink, box = find_digit(picture.crop((*low, *np.minimum(high, picture.size))))
    left, top, right, bottom = box

    # Scaling would turn a thin stroke pale.
    pixel = max(right - left, bottom - top) / 20  # one of the 20, in pixels of `ink`
    growth = max(0, round((MIN_STROKE * pixel - stroke_width(ink)) / 2))
    ink = ndimage.maximum_filter(np.pad(ink, growth), 2 * growth + 1)
    ink = ink[top : bottom + 2 * growth, left : right + 2 * growth]
    return torch.from_numpy(_place(ink))


def _place(ink: np.ndarray) -> np.ndarray:
    """Scale a digit that fills its array to 20 pixels, and center it in 28x28."""
    small = np.asarray(fit(Image.fromarray(ink), 20)).clip(0, 1)  # bicubic scaling overshoots
    height, width = small.shape
    corner = 14 - np.array(ndimage.center_of_mass(small))
    row, column = corner.round().astype(int).clip(0, (28 - height, 28 - width))
    image = np.zeros((28, 28), np.uint8)
    image[row : row + height, column : column + width] = (255 * small).round()
    return image


def _keeps_convention(image: np.ndarray) -> bool:
    """Return whether a gray image `(28, 28)` keeps MNIST's convention."""
    ink = np.argwhere(image)
    if not len(ink) or np.ptp(ink, axis=0).max() >= 20:
        return False
    return all(abs(center - 14) <= 0.5 for center in ndimage.center_of_mass(image))
