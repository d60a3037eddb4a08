"""A picture -> its ink and its paper, and which of the ink is the digit."""

import numpy as np
from PIL import Image, ImageFilter

from mnist_lightning.errors import UserError
from mnist_lightning.reading.picture import fit

SIDE = 192  # pixels of a picture's long side, in which its ink is looked for

STEPS = (1, 3, 9, 18)  # to 31 of them to each side: nothing so wide is a stroke

CELL = 4  # pixels; ink in neighbouring cells belongs together

MIN_CONTRAST = 0.08  # of the paper's brightness; less is a blank sheet


def is_light_on_dark(picture: Image.Image) -> bool:
    """Tell by skew: ink is rare, so it lies further from the local mean than the paper does."""
    grey = fit(picture, 64).convert("L")
    mean = grey.filter(ImageFilter.BoxBlur(16))
    return bool(((np.asarray(grey, np.float32) - np.asarray(mean, np.float32)) ** 3).sum() > 0)


def find_digit(picture: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """Tell the digit from the paper and from specks, in a picture scaled to `SIDE`.

    Returns:
        The digit's ink, float32 `(H, W)`, 0 to 1, and its left, top, right and bottom in that.
    """
    if max(picture.size) > 3 * SIDE:  # a thin pen would vanish in the mean of so many pixels
        picture = fit(picture, 3 * SIDE).filter(ImageFilter.MinFilter(3))
    smooth = np.atleast_3d(np.asarray(fit(picture, SIDE).filter(ImageFilter.BoxBlur(1))))
    # Closing fills whatever is darker and narrower than a window; light and a shadow's edge stay.
    reach = sum(STEPS)
    wide = np.pad(smooth, ((reach, reach), (reach, reach), (0, 0)), "edge")
    paper = ~dilate(~dilate(wide, *STEPS), *STEPS)[reach:-reach, reach:-reach]
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
        raise UserError("there is no ink on the picture, or too pale a one")
    inked = depth > max(0.4 * contrast, 3 * noise)

    height, width = depth.shape
    padding = ((0, -height % CELL), (0, -width % CELL))
    cells = np.pad(depth * inked, padding).reshape(-(-height // CELL), CELL, -1, CELL).sum((1, 3))
    kept = _largest_parts(cells).repeat(CELL, axis=0).repeat(CELL, axis=1)[:height, :width]
    core = inked & kept
    rows, columns = np.flatnonzero(core.any(axis=1)), np.flatnonzero(core.any(axis=0))
    box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
    # From a quarter to three quarters of full ink, so that edges stay soft.
    ink = (2 * depth / np.median(depth[core]) - 0.5).clip(0, 1) * dilate(kept, CELL)
    return ink.astype(np.float32), box


def _largest_parts(cells: np.ndarray) -> np.ndarray:
    """Choose among parts that hang together, bool like `cells`: the largest and its like.

    A part at the picture's edge, be it a shadow, a line or the desk, counts a twentieth.
    """
    labels = np.arange(1, cells.size + 1).reshape(cells.shape) * (cells > 0)
    while True:  # each part takes over the highest of its labels
        grown = dilate(labels, 1) * (cells > 0)
        if np.array_equal(grown, labels):
            break
        labels = grown
    weights = np.bincount(labels.ravel(), cells.ravel())
    weights[np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))] /= 20
    return (weights >= 0.1 * weights.max())[labels] & (labels > 0)


def stroke_width(ink: np.ndarray) -> float:
    """Return the mean width of a line of ink: a long one of width w has area w for 2 of edge."""
    return float(2 * ink.sum() / np.hypot(*np.gradient(np.pad(ink, 1))).sum())


def dilate(values: np.ndarray, *steps: int) -> np.ndarray:
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
