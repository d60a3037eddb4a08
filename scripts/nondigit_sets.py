"""Shapes that are no digits, to test a network by.

Training draws none of these letters, signs and curves, but for crosses, which a plus, a times and
an X are. Of training digits it does draw pairs that touch or nearly do, and left parts
(mnist_lightning/data/neighbors.py).

Letters and signs of fonts that come with matplotlib, curves, left halves of 2, 3 and 5, and pairs
of digits, each made into MNIST's convention as `read` does it. Left out are letters that
people write as digits: B, D, I, O, S, Z, b, g, i, l, o, q, s, z and what looks like one of them in
Greek or Cyrillic.
"""

import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from mnist_lightning.reading.convention import to_mnist

FONTS = ["DejaVuSans", "DejaVuSerif-Italic", "DejaVuSansMono", "STIXGeneralItalic", "cmss10"]
LATIN = "ACEFGHJKLMNPQRTUVWXYacdefhjkmnprtuvwxy"
GREEK_AND_CYRILLIC = "ΔΓΘΛΞΠΣΨΩαγδζηθλμξπψωБДЖИЛФЦШЩЫЮЯфжюя"
SIGNS = "?&%@#*+=~<>{}$€§→♥★☺♪±∞∫√≠"


def nondigit_set(kind: str, images: Tensor, labels: Tensor, num: int = 1000) -> Tensor:
    """Return images of what is no digit.

    Args:
        kind: A name in `KINDS`.
        images: uint8 `(N, 28, 28)`, the digits that halves and pairs are made from.
        labels: int64 `(N,)`, theirs.
        num: Number of images.

    Returns:
        uint8 `(num, 28, 28)`; the same ones in each call.
    """
    rng = np.random.default_rng(0)
    if kind == "halves of digits":  # the halves of others may well be digits
        images = images[torch.isin(labels, torch.tensor([2, 3, 5]))]
    digits = images.numpy()
    return torch.stack([to_mnist(KINDS[kind](rng, digits)) for _ in range(num)])


def _letter(letters: str, fonts: list[str], rng: np.random.Generator) -> Image.Image:
    folder = f"{matplotlib.get_data_path()}/fonts/ttf"
    font = ImageFont.truetype(f"{folder}/{rng.choice(fonts)}.ttf", 80)
    picture = Image.new("L", (160, 160), "white")
    letter = letters[rng.integers(len(letters))]
    ImageDraw.Draw(picture).text((80, 80), letter, "black", font, anchor="mm")
    return picture.rotate(rng.uniform(-10, 10), Image.Resampling.BILINEAR, fillcolor="white")


def _curve(rng: np.random.Generator) -> Image.Image:
    """Draw a closed curve of three frequencies."""
    t = np.linspace(0, 2 * np.pi, 400)
    x, y = (
        sum(rng.normal() * np.sin(k * t + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
        for _ in range(2)
    )
    picture = Image.new("L", (160, 160), "white")
    places = [(80 + 50 * v / np.abs(v).max()) for v in (x, y)]
    width = int(rng.integers(7, 14))
    points = list(zip(*(place.tolist() for place in places), strict=True))
    ImageDraw.Draw(picture).line(points, "black", width, "curve")
    return picture


def _digit(rng: np.random.Generator, digits: np.ndarray) -> np.ndarray:
    """Return a digit's ink, no more than its bounding box, light on black."""
    image = digits[rng.integers(len(digits))]
    rows, columns = np.nonzero(image > 50)
    return image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]


def _half(rng: np.random.Generator, digits: np.ndarray) -> Image.Image:
    ink = _digit(rng, digits)
    return _on_paper(ink[:, : ink.shape[1] // 2])


def _pair(rng: np.random.Generator, digits: np.ndarray) -> Image.Image:
    left, right = _digit(rng, digits), _digit(rng, digits)
    height = max(len(left), len(right))
    both = np.zeros((height, left.shape[1] + 3 + right.shape[1]), np.uint8)
    both[height - len(left) :, : left.shape[1]] = left
    both[height - len(right) :, -right.shape[1] :] = right
    return _on_paper(both)


def _on_paper(ink: np.ndarray) -> Image.Image:
    picture = Image.fromarray(255 - np.pad(ink, 12))
    return picture.resize((4 * picture.width, 4 * picture.height), Image.Resampling.BICUBIC)


KINDS = {
    "letters": lambda rng, digits: _letter(LATIN, FONTS, rng),
    "Greek and Cyrillic": lambda rng, digits: _letter(GREEK_AND_CYRILLIC, FONTS[:3], rng),
    "signs": lambda rng, digits: _letter(SIGNS, FONTS[:1] + FONTS[2:3], rng),
    "curves": lambda rng, digits: _curve(rng),
    "halves of digits": _half,
    "pairs of digits": _pair,
}
