"""A picture -> the ink on it, told from paper, lines and specks, and seen from near."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps
from scipy import ndimage

from mnist_lightning.errors import UserError
from mnist_lightning.reading.forms import find_lines, text_height, without_desk
from mnist_lightning.reading.picture import fit
from mnist_lightning.reading.windows import dilate, erode

SIDE = 192  # pixels of a picture's long side when its ink is searched
HEIGHT = 120  # pixels of the writing's height when it is read
MOST_PIXELS = 1_500_000  # of the place where the writing is, when it is read

REACH = 31  # pixels to each side: no stroke is twice as wide

CELL = 4  # pixels a side; ink in neighboring cells belongs together

MIN_CONTRAST = 0.08  # of the paper's brightness; a blank sheet has less

CORNERS = np.ones((3, 3))  # parts hang together at corners too


@dataclass(frozen=True, eq=False)
class Ink:
    """The ink of a picture.

    Args:
        depth: float32 `(H, W)`, 0 for the paper to 1 for full ink.
        parts: int32 `(H, W)`, the same number where ink hangs together, 0 where there is none.
        lines: bool `(H, W)`, where a line was taken away.
        left: Where the left edge lies in the picture, in its own pixels.
        top: Where the top edge lies.
        scale: Pixels of the picture for each of these.
    """

    depth: np.ndarray
    parts: np.ndarray
    lines: np.ndarray
    left: float = 0.0
    top: float = 0.0
    scale: float = 1.0

    def in_picture(self, box: tuple[int, int, int, int]) -> tuple[float, float, float, float]:
        """Return a box, left, top, right and bottom, in the picture's own pixels."""
        left, top, right, bottom = (self.scale * side for side in box)
        return left + self.left, top + self.top, right + self.left, bottom + self.top


def find_ink(picture: Image.Image) -> Ink:
    """Find the ink on a picture, without paper, specks, shadows, rules and frames.

    It is looked for from afar, then from so near that the writing is `HEIGHT` pixels high: scaled
    down with a large sheet, a thin pen is pale.

    Args:
        picture: In mode RGB or L.

    Raises:
        UserError: If there is none.
    """
    picture = without_desk(picture)
    if is_light_on_dark(picture):
        picture = ImageOps.invert(picture)
    size = np.array(picture.size)
    low, high, side = np.zeros(2, int), size, float(SIDE)
    afar, zoom = None, 1.0  # the paper as the first look sees it, and that look's scale
    for look in range(3):
        behind, goes_on = None, (*(low > 0).tolist(), *(high < size).tolist())
        if afar:
            behind = afar.crop((*(low // zoom).tolist(), *(-(-high // zoom)).tolist()))
        try:
            ink, paper = _look(picture.crop((*low, *high)), round(side), behind, goes_on)
        except UserError:
            if look or size.max() <= 2 * SIDE:
                raise
            side = min(4.0 * SIDE, float(size.max()))  # many lines are gray from afar
            continue
        scale = float((high - low).max() / max(ink.depth.shape))
        ink = replace(ink, left=float(low[0]), top=float(low[1]), scale=scale)
        if not afar:
            afar, zoom = paper, scale
        height = text_height(ink.parts)
        closer = HEIGHT / height
        if look == 1 and 0.6 < closer < 1.6:
            break
        if look == 0 and ink.lines.any():  # what remains of them may be taken for writing
            closer = max(closer, min(4.0, float(size.max()) / SIDE))
        else:
            ((rows, columns),) = ndimage.find_objects((ink.parts > 0).astype(np.uint8))
            margin = 0.3 * height
            first = low + scale * (np.array([columns.start, rows.start]) - margin)
            last = low + scale * (np.array([columns.stop, rows.stop]) + margin)
            low = first.round().astype(int).clip(0)
            high = np.minimum(np.maximum(last.round().astype(int), low + 1), size)
        width, tall = (high - low) / scale * closer
        side = max(1.0, max(width, tall) * min(1.0, (MOST_PIXELS / (width * tall)) ** 0.5))
    return ink


def is_light_on_dark(picture: Image.Image) -> bool:
    """Decide by skew: ink is rare, so it is further from the local mean than the paper is."""
    gray = fit(picture, 64).convert("L")
    values = np.asarray(gray, np.float32)
    # Beyond the edge lies more of what is there, or nothing: the first is right where ink fills the
    # picture, the second where a frame runs along its edge, their mean in both cases.
    extended = np.asarray(gray.filter(ImageFilter.BoxBlur(16)), np.float32)
    within = ndimage.uniform_filter(values, 33, mode="constant")
    within /= ndimage.uniform_filter(np.ones_like(values), 33, mode="constant")
    return bool(((values - (extended + within) / 2) ** 3).sum() > 0)


def _look(
    picture: Image.Image, side: int, from_afar: Image.Image | None, goes_on: Any
) -> tuple[Ink, Image.Image]:
    """Look at a picture, scaled to a long side of `side` pixels.

    Args:
        picture: In mode RGB or L.
        side: In pixels.
        from_afar: Its paper as it was seen from afar, or None.
        goes_on: See `find_lines`.

    Returns:
        The ink and the paper.
    """
    if max(picture.size) > 3 * side:  # a thin pen would vanish in the mean of so many pixels
        picture = Image.fromarray(erode(np.asarray(fit(picture, 3 * side)), 3, 3))
    smooth = np.atleast_3d(np.asarray(fit(picture, side).filter(ImageFilter.BoxBlur(1))))
    paper = _close(smooth)
    if from_afar:  # where the window is too narrow for solid ink; its edges are blurred
        height, width, _ = smooth.shape
        blur = 2 * round(max(1, max(height, width) / max(from_afar.size))) + 1
        wide = np.atleast_3d(np.asarray(from_afar.resize((width, height))))
        paper = np.maximum(paper, erode(wide, blur, blur))
    # As a fraction of the paper's brightness, since ink is as dark in the shadow; over all colors,
    # since yellow ink is dark in blue only.
    depth = _length(paper - smooth) / _length(paper).clip(8)

    # Noise lifts a closing above the paper. The lower quartile is paper, even if a thick digit
    # fills the picture.
    lowest, level = np.quantile(depth, (0.05, 0.25))
    depth -= level
    means = np.asarray(Image.fromarray(depth).reduce(2))
    contrast = means.max()
    if contrast < 4 * MIN_CONTRAST:  # it may be light that falls off towards an edge
        wide = np.pad(smooth, ((REACH, REACH), (REACH, REACH), (0, 0)), "edge")
        wide = _close(wide)[REACH:-REACH, REACH:-REACH]
        safe = _length(wide - smooth) / _length(paper).clip(8)
        contrast = min(contrast, np.asarray(Image.fromarray(safe).reduce(2)).max())
    noise = level - lowest
    if contrast < max(MIN_CONTRAST, 4 * noise):
        raise UserError("there is no ink on the picture, or too pale a one")
    inked = depth > 0.4 * contrast
    lines = find_lines(depth > 0.2 * contrast, goes_on)  # print may be paler than the pen
    if not (inked & ~lines).any():  # a digit of straight strokes
        lines[:] = False
    parts = _large_parts(np.where(inked & ~lines, depth, 0))
    core = parts > 0
    # From a quarter to three quarters of full ink, so that edges stay soft.
    ink = (2 * depth / np.median(depth[core]) - 0.5).clip(0, 1)
    ink *= dilate(core, 2 * CELL + 1, 2 * CELL + 1) & ~lines
    return Ink(ink.astype(np.float32), parts, lines), Image.fromarray(paper.squeeze())


def _close(pixels: np.ndarray) -> np.ndarray:
    """Remove what is darker and narrower than a window; light and shadows' edges stay.

    Beyond the edge there is nothing.

    Args:
        pixels: uint8 `(H, W, C)`.
    """
    window = 2 * REACH + 1, 2 * REACH + 1
    return erode(dilate(pixels, *window), *window)


def _length(values: np.ndarray) -> np.ndarray:
    return (
        np.abs(values[..., 0]).astype(np.float32)
        if values.shape[2] == 1
        else np.linalg.norm(values, axis=2)
    )


def _large_parts(weights: np.ndarray) -> np.ndarray:
    """Return the parts that lie with much other ink.

    Parts are near each other if their cells are neighbors. Much is a twentieth of the largest
    part's ink. What touches the picture's edge, such as a shadow, a line or the desk, counts a
    fortieth.

    Args:
        weights: float `(H, W)`, how much ink there is.

    Returns:
        int32 `(H, W)`, labels.
    """
    parts, num = ndimage.label(weights > 0, CORNERS)
    inked = np.flatnonzero(weights > 0)
    of = parts.ravel()[inked]
    sums = np.bincount(of, weights.ravel()[inked], num + 1)
    sums[np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))] /= 40
    height, width = weights.shape
    cells = np.zeros((-(-height // CELL), -(-width // CELL)), bool)
    rows, columns = np.divmod(inked, width)
    cell_of = rows // CELL * cells.shape[1] + columns // CELL
    cells.ravel()[cell_of] = True
    groups, _ = ndimage.label(cells, CORNERS)
    group_of = np.zeros(num + 1, int)
    group_of[of] = groups.ravel()[cell_of]
    together = np.bincount(group_of, sums)[group_of]
    return parts * (together >= 0.05 * sums.max())[parts]


def stroke_width(ink: np.ndarray) -> float:
    """Return the mean width of strokes: a long one of width w has an area of w for 2 of edge."""
    padded = np.zeros((ink.shape[0] + 2, ink.shape[1] + 2), ink.dtype)
    padded[1:-1, 1:-1] = ink
    down, across = np.empty_like(padded), np.empty_like(padded)  # as np.gradient, in a third
    for change, values in ((down, padded), (across.T, padded.T)):
        change[0], change[-1] = values[1], -values[-2]
        np.subtract(values[2:], values[:-2], out=change[1:-1])
        change[1:-1] /= 2
    return float(2 * ink.sum() / np.hypot(down, across).sum())
