"""A picture -> the ink of its digit, told from the paper and from other ink."""

import numpy as np
from PIL import Image, ImageFilter
from scipy import ndimage

from mnist_lightning.errors import UserError
from mnist_lightning.reading.picture import fit

SIDE = 192  # pixels of a picture's long side when its ink is searched

REACH = 31  # pixels to each side: no stroke is twice as wide

CELL = 4  # pixels a side; ink in neighboring cells belongs together

MIN_CONTRAST = 0.08  # of the paper's brightness; a blank sheet has less


def is_light_on_dark(picture: Image.Image) -> bool:
    """Decide by skew: ink is rare, so it is further from the local mean than the paper is."""
    gray = fit(picture, 64).convert("L")
    mean = gray.filter(ImageFilter.BoxBlur(16))
    return bool(((np.asarray(gray, np.float32) - np.asarray(mean, np.float32)) ** 3).sum() > 0)


def find_digit(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Find the digit's ink in a picture, scaled to `SIDE`, without the paper and specks.

    Returns:
        The digit's ink, float32 `(H, W)`, 0 to 1, and its box in it: left, top, right, bottom.
    """
    if max(picture.size) > 3 * SIDE:  # a thin pen would vanish in the mean of so many pixels
        picture = fit(picture, 3 * SIDE).filter(ImageFilter.MinFilter(3))
    smooth = np.atleast_3d(np.asarray(fit(picture, SIDE).filter(ImageFilter.BoxBlur(1))))
    # Closing removes what is darker and narrower than its window; light and shadows' edges stay.
    wide = np.pad(smooth, ((REACH, REACH), (REACH, REACH), (0, 0)), "edge")
    paper = ndimage.grey_closing(wide, (2 * REACH + 1, 2 * REACH + 1, 1))
    paper = paper[REACH:-REACH, REACH:-REACH]
    # As a fraction of the paper's brightness, since ink is as dark in the shadow; over all colors,
    # since yellow ink is dark in blue only.
    brightness = np.linalg.norm(paper, axis=2).clip(8)
    depth = np.linalg.norm(paper - smooth, axis=2) / brightness

    # Noise lifts a closing above the paper. The lower quartile is paper, even if a thick digit
    # fills the picture.
    lowest, level = np.quantile(depth, (0.05, 0.25))
    depth -= level
    contrast = np.asarray(Image.fromarray(depth).reduce(2)).max()
    noise = level - lowest
    if contrast < max(MIN_CONTRAST, 4 * noise):
        raise UserError("there is no ink on the picture, or too pale a one")
    inked = depth > 0.4 * contrast

    height, width = depth.shape
    padding = ((0, -height % CELL), (0, -width % CELL))
    cells = np.pad(depth * inked, padding).reshape(-(-height // CELL), CELL, -1, CELL).sum((1, 3))
    kept = _largest_parts(cells).repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
    core = inked & kept
    box = np.array(Image.fromarray(core).getbbox())
    # From a quarter to three quarters of full ink, so that edges stay soft.
    ink = (2 * depth / np.median(depth[core]) - 0.5).clip(0, 1)
    ink *= ndimage.maximum_filter(kept, 2 * CELL + 1)
    return ink.astype(np.float32), box


def _largest_parts(cells: np.ndarray) -> np.ndarray:
    """Return which cells are part of a large connected component, bool like `cells`.

    Large is a tenth of the largest one's ink. What touches the picture's edge, such as a shadow, a
    line or the desk, counts a twentieth.
    """
    labels, _ = ndimage.label(cells > 0, structure=np.ones((3, 3)))  # corners touch too
    weights = np.bincount(labels.ravel(), cells.ravel())
    weights[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] /= 20
    return (weights >= 0.1 * weights.max())[labels]  # background weighs nothing


def stroke_width(ink: np.ndarray) -> float:
    """Return the mean width of strokes: a long one of width w has an area of w for 2 of edge."""
    return float(2 * ink.sum() / np.hypot(*np.gradient(np.pad(ink, 1))).sum())
