"""MNIST-C's fifteen corruptions of test images, written anew from their published definitions.

Norman Mu, Justin Gilmer: MNIST-C: A Robustness Benchmark for Computer Vision, arXiv:1906.02337, and
google-research/mnist-c, corruptions.py, from which the severities are. The published images were
made once, by other random numbers and by Wand, OpenCV and an older scikit-image; these are made by
numpy, scipy and scikit-image, the same ones in each call.
"""

from collections.abc import Callable

import numpy as np
from scipy import ndimage
from skimage.feature import canny

Images = np.ndarray  # float64 (N, 28, 28) in [0, 1]


def corrupt(images: Images, kind: str) -> Images:
    """Return images with one of the `CORRUPTIONS`.

    Args:
        images: float64 `(N, 28, 28)` in [0, 1].
        kind: A key of `CORRUPTIONS`.

    Returns:
        Likewise.
    """
    return CORRUPTIONS[kind](images, np.random.default_rng(0)).clip(0, 1)


def _shot_noise(images: Images, rng: np.random.Generator) -> Images:
    return rng.poisson(images * 3) / 3


def _impulse_noise(images: Images, rng: np.random.Generator) -> Images:
    is_hit = rng.random(images.shape) < 0.17
    return np.where(is_hit, rng.random(images.shape) < 0.5, images)


def _glass_blur(images: Images, rng: np.random.Generator) -> Images:
    images = _gaussian(images, 0.7)
    every = np.arange(len(images))
    for _ in range(2):
        for row in range(27, 1, -1):
            for column in range(27, 1, -1):
                swaps = every[rng.random(len(images)) < 0.5]
                down, right = rng.integers(-1, 1, (2, len(swaps)))
                here, there = (swaps, row, column), (swaps, row + down, column + right)
                images[here], images[there] = images[there], images[here].copy()
    return _gaussian(images, 0.7)


def _motion_blur(images: Images, rng: np.random.Generator) -> Images:
    """Blur as ImageMagick does with radius 10 and sigma 3: to one side, by whole pixels."""
    angles = np.deg2rad(rng.uniform(-45, 45, len(images)))
    steps = np.arange(21)
    weights = np.exp(-(steps**2) / 18)
    blurred = np.zeros_like(images)
    places = np.arange(28)
    for step, weight in zip(steps, weights / weights.sum(), strict=True):
        right = np.ceil(step * np.cos(angles) - 0.5).astype(int)
        down = np.ceil(step * np.sin(angles) - 0.5).astype(int)
        rows = (places + down[:, None]).clip(0, 27)[:, :, None]
        columns = (places + right[:, None]).clip(0, 27)[:, None]
        blurred += weight * images[np.arange(len(images))[:, None, None], rows, columns]
    return blurred


def _affine(images: Images, matrices: np.ndarray, shifts: np.ndarray) -> Images:
    """Read each image at `matrix @ (x, y) + shift`, about its center, with bilinear steps."""
    warped = np.empty_like(images)
    for i, (image, matrix, shift) in enumerate(zip(images, matrices, shifts, strict=True)):
        by_row = matrix[::-1, ::-1]
        offset = 13.5 - by_row @ [13.5, 13.5] + shift[::-1]
        warped[i] = ndimage.affine_transform(image, by_row, offset, order=1)
    return warped


def _signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.choice([-1.0, 1.0], shape)


def _shear(images: Images, rng: np.random.Generator) -> Images:
    angles = 0.4 * _signs(rng, len(images))
    matrices = np.array([[[1, -np.sin(a)], [0, np.cos(a)]] for a in angles])
    return _affine(images, matrices, np.zeros((len(images), 2)))


def _scale(images: Images, rng: np.random.Generator) -> Images:
    matrices = np.broadcast_to(np.eye(2) / 0.7, (len(images), 2, 2))
    return _affine(images, matrices, np.zeros((len(images), 2)))


def _rotate(images: Images, rng: np.random.Generator) -> Images:
    angles = 0.4 * _signs(rng, len(images))
    matrices = np.array([[[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]] for a in angles])
    return _affine(images, matrices, np.zeros((len(images), 2)))


def _translate(images: Images, rng: np.random.Generator) -> Images:
    matrices = np.broadcast_to(np.eye(2), (len(images), 2, 2))
    return _affine(images, matrices, 3 * _signs(rng, len(images), 2))


def _brightness(images: Images, rng: np.random.Generator) -> Images:
    return images + 0.5


def _stripe(images: Images, rng: np.random.Generator) -> Images:
    changed = 1 - images
    changed[:, :, 7:21] = images[:, :, 7:21]
    return changed


def _fog(images: Images, rng: np.random.Generator) -> Images:
    fogged = []
    for part in np.array_split(images, max(1, len(images) // 500)):
        brightest = part.max(axis=(1, 2), keepdims=True)
        clouds = _plasma(len(part), 256, 1.4, rng)[:, :28, :28]
        fogged.append((part + 3 * clouds) * brightest / (brightest + 3))
    return np.concatenate(fogged)


def _plasma(num: int, size: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """Return clouds in [0, 1] by the diamond-square algorithm, `(num, size, size)`."""
    clouds = np.zeros((num, size, size))
    step, wibble = size, 100.0

    def mean(total: np.ndarray) -> np.ndarray:
        return total / 4 + wibble * rng.uniform(-wibble, wibble, total.shape)

    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        total = corners + np.roll(corners, -1, axis=1)
        total = total + np.roll(total, -1, axis=2)
        clouds[:, half::step, half::step] = mean(total)
        inner, outer = clouds[:, half::step, half::step], clouds[:, ::step, ::step]
        left = inner + np.roll(inner, 1, axis=1) + outer + np.roll(outer, -1, axis=2)
        clouds[:, ::step, half::step] = mean(left)
        top = inner + np.roll(inner, 1, axis=2) + outer + np.roll(outer, -1, axis=1)
        clouds[:, half::step, ::step] = mean(top)
        step, wibble = half, wibble / decay
    clouds -= clouds.min(axis=(1, 2), keepdims=True)
    return clouds / clouds.max(axis=(1, 2), keepdims=True)


def _spatter(images: Images, rng: np.random.Generator) -> Images:
    liquid = _gaussian(rng.normal(0.65, 0.3, images.shape), 1)
    mud = _gaussian((liquid > 0.65).astype(float), 1.5)
    mud[mud < 0.8] = 0
    return images * (1 - mud) + 63 / 255 * mud


def _dotted_line(images: Images, rng: np.random.Generator) -> Images:
    changed = images.copy()
    for image, (start, end) in zip(changed, rng.integers(0, 27, (len(images), 2)), strict=True):
        line = _line(0, start, 27, end)
        line[:, np.arange(28) % 4 < 2] = 0
        image += line
    return changed


def _zigzag(images: Images, rng: np.random.Generator) -> Images:
    changed = images.copy()
    for image in changed:
        start = rng.integers(0, 27)
        angle = np.arctan(rng.integers(-5, 5) / 23)
        length = 23 / np.cos(angle)
        corners = [(0.0, 0.0)]
        for i in range(int((length - 2) // 4) + 1):
            corners.append(((2 * i + 1) * 2.0, (-1) ** i * 2.0))
        whole = 4 * (length // 4)
        if length != whole:
            corners.append((length, corners[-1][1] / (2 * (length - whole))))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        columns, rows = turn @ np.array(corners).T + [[2], [start]]
        for i in range(1, len(columns)):
            image += _line(columns[i - 1], rows[i - 1], columns[i], rows[i])
            image.clip(0, 1, out=image)
    return changed


def _line(column: float, row: float, end_column: float, end_row: float) -> np.ndarray:
    places = np.arange(28.0)
    at = row + (end_row - row) / (end_column - column) * (places - column)
    distance = np.abs(places[:, None] - at).clip(0, 2.3 - 1e-10)
    line = (np.log(1 - distance / 2.3) + 1).clip(0, 1)
    line[:, : int(np.floor(column))] = 0
    line[:, int(np.ceil(end_column)) :] = 0
    return line


def _canny_edges(images: Images, rng: np.random.Generator) -> Images:
    return np.array([canny(image) for image in images], dtype=float)


def _gaussian(images: Images, sigma: float) -> Images:
    return ndimage.gaussian_filter(images, (0, sigma, sigma), mode="nearest")


CORRUPTIONS: dict[str, Callable[[Images, np.random.Generator], Images]] = {
    "shot noise": _shot_noise,
    "impulse noise": _impulse_noise,
    "glass blur": _glass_blur,
    "motion blur": _motion_blur,
    "shear": _shear,
    "scale": _scale,
    "rotate": _rotate,
    "brightness": _brightness,
    "translate": _translate,
    "stripe": _stripe,
    "fog": _fog,
    "spatter": _spatter,
    "dotted line": _dotted_line,
    "zigzag": _zigzag,
    "canny edges": _canny_edges,
}
