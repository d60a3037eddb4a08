"""Any picture that a person has -> MNIST's own convention -> a reading.

NIST's digits were black on white. MNIST made of each a grey image that keeps its proportions and
fits a square of 20 pixels, and laid that into 28x28, its centre of mass in the middle, as light ink
on black (http://yann.lecun.com/exdb/mnist/). A network that knows nothing else misreads every other
picture, so `to_mnist` does the same, and before it what a scanner of forms need not: it tells ink
from paper, whichever is darker, under uneven light.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torch import Tensor

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 50_000_000  # one takes up to 20 bytes while it is read, whatever the file's size
MIN_SIDE = 8  # pixels

SIDE = 192  # pixels of a picture's long side, in which its ink is looked for
STEPS = (1, 3, 9, 18)  # to 31 of them to each side: nothing so wide is a stroke
CELL = 4  # pixels; ink in neighbouring cells belongs together
MIN_CONTRAST = 0.08  # of the paper's brightness; less is a blank sheet
MIN_STROKE = 2.0  # pixels of the 20; 1 in 20 of MNIST's training images has a thinner one


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network reads in a picture.

    Args:
        digit: The most probable digit.
        probabilities: Of the digits 0 to 9; they sum to 1.
        image: What the network saw, uint8 `(28, 28)`, 0 to 255.
    """

    digit: int
    probabilities: tuple[float, ...]
    image: Tensor

    @property
    def probability(self) -> float:
        """The digit's probability."""
        return self.probabilities[self.digit]

    @property
    def second(self) -> int:
        """The second guess."""
        others = set(range(len(self.probabilities))) - {self.digit}
        return max(others, key=self.probabilities.__getitem__)

    @property
    def second_probability(self) -> float:
        """The second guess's probability."""
        return self.probabilities[self.second]

    def as_dict(self) -> dict[str, Any]:
        """Return all but the image, as JSON takes it."""
        return {
            "digit": self.digit,
            "probability": round(self.probability, 6),
            "second": self.second,
            "second_probability": round(self.second_probability, 6),
            "probabilities": [round(probability, 6) for probability in self.probabilities],
        }


def read(source: str | Path | bytes | Image.Image, network: Callable[[Tensor], Tensor]) -> Reading:
    """Read the digit in a picture.

    Args:
        source: A picture file's path or contents, or a picture that Pillow has opened.
        network: Pixels, float `(B, 1, 28, 28)` in [0, 1], to logits `(B, 10)`, on the CPU.

    Returns:
        What it reads.

    Raises:
        ValueError: If it is not a picture, or too large, or there is no ink on it.
        OSError: If the file can't be read.
    """
    picture = source if isinstance(source, Image.Image) else open_picture(source)
    return read_images(to_mnist(picture)[None], network)[0]


@torch.inference_mode()
def read_images(images: Tensor, network: Callable[[Tensor], Tensor]) -> list[Reading]:
    """Read images that keep MNIST's convention.

    Args:
        images: uint8 `(N, 28, 28)`, 0 to 255.
        network: See `read`.

    Returns:
        N readings.
    """
    readings = []
    for part in images.split(500):
        for image, row in zip(part, network(part[:, None] / 255).softmax(dim=1), strict=True):
            readings.append(Reading(int(row.argmax()), tuple(row.tolist()), image))
    return readings


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Decode a picture file: PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF.

    Args:
        source: The file's path or contents.

    Returns:
        The picture, in any of Pillow's modes, turned as its camera says.

    Raises:
        ValueError: If it is not such a picture, or damaged, or too small or too large.
        OSError: If the file can't be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about oddities that do no harm, and the size
        try:
            picture = Image.open(file, formats=FORMATS)  # reads no more than the header
        except Image.UnidentifiedImageError as error:
            raise ValueError("not a picture: PNG, JPEG, WebP, GIF, BMP or TIFF is read") from error
        except Image.DecompressionBombError as error:
            raise ValueError(f"over {MAX_PIXELS:,} pixels: make the picture smaller") from error
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ValueError(
                    f"{width}x{height} is over {MAX_PIXELS:,} pixels: make the picture smaller"
                )
            if min(width, height) < MIN_SIDE:
                raise ValueError(f"{width}x{height} pixels are too few to hold a digit")
            try:
                return ImageOps.exif_transpose(picture)
            except MemoryError:
                raise
            except Exception as error:  # of many kinds, by format and where the damage is
                raise ValueError("the picture is cut off or damaged") from error


def to_mnist(picture: Image.Image) -> Tensor:
    """Make of a picture what MNIST would have made of its digit.

    What already keeps the convention, as MNIST's own images do, passes unchanged, and inverted if
    it is dark on white.

    Args:
        picture: One digit, in any of Pillow's modes.

    Returns:
        uint8 `(28, 28)`, 0 for the paper to 255 for the ink.

    Raises:
        ValueError: If there is no ink on it.
    """
    picture = flatten(picture)
    pixels = np.asarray(picture)
    if is_grey := bool((pixels == pixels[..., :1]).all()):
        picture = picture.convert("L")  # a third of the work
    if is_grey and pixels.shape[:2] == (28, 28):
        for image in (pixels[..., 0], 255 - pixels[..., 0]):
            if _keeps_convention(image):
                return torch.from_numpy(image.copy())

    if _is_light_on_dark(picture):
        picture = ImageOps.invert(picture)
    ink, box = _find_digit(picture)
    size, scale = (box[2:] - box[:2]).max(), max(picture.size) / SIDE
    if scale > 1.1 or size < 60:
        # A closer look at where the digit is: a thin pen on a large sheet is pale from afar.
        margin = 0.3 * size
        closer = scale * np.concatenate([box[:2] - margin, box[2:] + margin])
        low, high = closer.clip(0).round().astype(int).reshape(2, 2)
        ink, box = _find_digit(picture.crop((*low, *np.minimum(high, picture.size))))
    left, top, right, bottom = box

    # A thin stroke would be scaled away to a pale one.
    pixel = max(right - left, bottom - top) / 20  # one of the 20, in those of `ink`
    growth = max(0, round((MIN_STROKE * pixel - _stroke_width(ink)) / 2))
    ink = _dilate(np.pad(ink, growth), *[1] * growth)
    ink = ink[top : bottom + 2 * growth, left : right + 2 * growth]
    return torch.from_numpy(_place(ink))


def flatten(picture: Image.Image) -> Image.Image:
    """Make of any picture one in RGB, and lay something behind what is transparent.

    Args:
        picture: In any of Pillow's modes; one of 16 or 32 bits is scaled by its brightest pixel.

    Returns:
        The picture in mode RGB; behind ink on nothing lies white or black, whichever it differs
        from, and about a sheet that was cut out lies the sheet's colour.
    """
    if picture.mode[0] in "IF":  # of 16 or 32 bits, which may use any part of their range
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0, neginf=0)
        values -= min(values.min(), 0)
        values *= 255 / max(values.max(), 1e-9)
        picture = Image.fromarray(values.round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        colour = _missing_colour(picture)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, colour), picture)
    return picture.convert("RGB")


def _missing_colour(picture: Image.Image) -> tuple[int, ...]:
    """Return what to lay behind a transparent picture: its paper's colour or its ink's contrary."""
    rgba = np.asarray(_fit(picture, SIDE))
    alpha = rgba[..., 3] / 255
    seen = rgba[alpha > 0.5][:, :3]
    if not len(seen):
        return (255, 255, 255)
    is_paper = alpha.mean() > 0.5 and np.ptp(seen.mean(axis=1)) > 64
    if is_paper:  # a sheet with its surroundings cut away
        return tuple(np.median(seen, axis=0).astype(int).tolist())
    return (255,) * 3 if seen.mean() < 128 else (0,) * 3


def _fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled up or down to a long side of so many pixels."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return picture.resize((width, height), how)


def _is_light_on_dark(picture: Image.Image) -> bool:
    """Tell by skew: ink is rare, so it lies further from the local mean than the paper does."""
    grey = _fit(picture, 64).convert("L")
    mean = grey.filter(ImageFilter.BoxBlur(16))
    return bool(((np.asarray(grey, np.float32) - np.asarray(mean, np.float32)) ** 3).sum() > 0)


def _find_digit(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Tell the digit from the paper and from specks, in a picture scaled to `SIDE`.

    Returns:
        The digit's ink, float32 `(H, W)`, 0 to 1, and its left, top, right and bottom in that.
    """
    if max(picture.size) > 3 * SIDE:  # a thin pen would vanish in the mean of so many pixels
        picture = _fit(picture, 3 * SIDE).filter(ImageFilter.MinFilter(3))
    smooth = np.atleast_3d(np.asarray(_fit(picture, SIDE).filter(ImageFilter.BoxBlur(1))))
    # Closing fills whatever is darker and narrower than a window; light and a shadow's edge stay.
    reach = sum(STEPS)
    wide = np.pad(smooth, ((reach, reach), (reach, reach), (0, 0)), "edge")
    paper = ~_dilate(~_dilate(wide, *STEPS), *STEPS)[reach:-reach, reach:-reach]
    # As a share of the paper's brightness, for ink is as dark in the shadow; over all colours,
    # for yellow ink is dark in blue alone.
    brightness = np.linalg.norm(paper, axis=2).clip(8)
    depth = np.linalg.norm(paper - smooth, axis=2) / brightness

    # A closing lies above the paper by its noise. The lower quartile is paper, even where a
    # thick digit fills the picture.
    lowest, level = np.quantile(depth, (0.05, 0.25))
    depth = (depth - level).clip(0)
    contrast = np.asarray(Image.fromarray(depth).reduce(2)).max()
    noise = level - lowest
    if contrast < max(MIN_CONTRAST, 4 * noise):
        raise ValueError("there is no ink on the picture, or too pale a one")
    inked = depth > max(0.4 * contrast, 3 * noise)

    height, width = depth.shape
    padding = ((0, -height % CELL), (0, -width % CELL))
    cells = np.pad(depth * inked, padding).reshape(-(-height // CELL), CELL, -1, CELL).sum((1, 3))
    kept = _largest_parts(cells).repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
    core = inked & kept
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # From a quarter to three quarters of full ink, so that edges stay soft.
    ink = (2 * depth / np.median(depth[core]) - 0.5).clip(0, 1) * _dilate(kept, CELL)
    return ink.astype(np.float32), box


def _largest_parts(cells: np.ndarray) -> np.ndarray:
    """Choose among parts that hang together, bool like `cells`: the largest and its like.

    A part at the picture's edge, be it a shadow, a line or the desk, counts a twentieth.
    """
    labels = np.arange(1, cells.size + 1).reshape(cells.shape) * (cells > 0)
    while True:  # each part takes over the highest of its labels
        grown = _dilate(labels, 1) * (cells > 0)
        if np.array_equal(grown, labels):
            break
        labels = grown
    weights = np.bincount(labels.ravel(), cells.ravel())
    weights[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] /= 20
    return (weights >= 0.1 * weights.max())[labels] & (labels > 0)


def _stroke_width(ink: np.ndarray) -> float:
    """Return the mean width of a line of ink: a long one of width w has area w for 2 of edge."""
    return float(2 * ink.sum() / np.hypot(*np.gradient(np.pad(ink, 1))).sum())


def _place(ink: np.ndarray) -> np.ndarray:
    """Scale a digit that fills its array to MNIST's 20 pixels, and centre it in 28x28."""
    small = np.asarray(_fit(Image.fromarray(ink), 20))
    small = (small / max(np.quantile(small, 0.99), small.max() / 2)).clip(0, 1)
    height, width = small.shape
    row, column = (14 - _centre(small)).round().astype(int).clip(0, (28 - height, 28 - width))
    image = np.zeros((28, 28), np.uint8)
    image[row : row + height, column : column + width] = (255 * small).round()
    return image


def _keeps_convention(image: np.ndarray) -> bool:
    """Tell whether a grey image `(28, 28)` is as MNIST's all are."""
    ink = np.argwhere(image)
    if not len(ink) or np.ptp(ink, axis=0).max() >= 20:
        return False
    return bool(abs(_centre(image) - 14).max() <= 0.5)


def _centre(image: np.ndarray) -> np.ndarray:
    """Return the centre of mass, `(row, column)`."""
    rows, columns = image.sum(axis=1, dtype=float), image.sum(axis=0, dtype=float)
    return np.array([np.average(np.arange(len(mass)), weights=mass) for mass in (rows, columns)])


def _dilate(values: np.ndarray, *steps: int) -> np.ndarray:
    """Return the maximum over a square about each place, `sum(steps)` places to each side.

    Steps that grow threefold from 1 leave no gaps, and cost little for a large square.
    """
    for axis in (0, 1):
        values = values.swapaxes(0, axis)
        for step in steps:
            grown = values.copy()
            for towards, of in ((grown[step:], values[:-step]), (grown[:-step], values[step:])):
                np.maximum(towards, of, out=towards)
            for edge, outermost in ((grown[:step], values[0]), (grown[-step:], values[-1])):
                np.maximum(edge, outermost, out=edge)
            values = grown
        values = values.swapaxes(0, axis)
    return values
