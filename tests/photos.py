"""Pictures as people have them, made of MNIST's test digits."""

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from mnist_lightning.data.datasets import read_test_set

SIDE = 240  # pixels of a scaled digit


def encode(picture: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, format, **options)
    return file.getvalue()


def scale(digit: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Return ink, 0 to 1, of a test image scaled up."""
    picture = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    return np.asarray(picture, np.float32) / 255


def picture(values: np.ndarray) -> Image.Image:
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def on_paper(ink: np.ndarray) -> np.ndarray:
    return 0.9 - 0.7 * ink


def pen(digit: np.ndarray, widen: int) -> np.ndarray:
    """Return a digit as a pen with hard edges draws it, its strokes so many pixels wider."""
    ink = picture(scale(np.pad(digit, 4), SIDE * 36 // 28)).point(lambda v: 255 * (v > 100))
    choose = ImageFilter.MaxFilter if widen > 0 else ImageFilter.MinFilter
    return np.asarray(ink.filter(choose(abs(widen) + 1)), np.float32) / 255


def shadow(shape: tuple[int, ...], rng: np.random.Generator, sharpness: float) -> np.ndarray:
    """Return the light on a sheet, 0.4 to 1, across it in a random direction."""
    angle = rng.uniform(0, 2 * np.pi)
    y, x = np.mgrid[-1 : 1 : shape[0] * 1j, -1 : 1 : shape[1] * 1j]
    across = sharpness * (x * np.cos(angle) + y * np.sin(angle))
    return 0.4 + 0.6 * (across / 2 + 0.5).clip(0, 1)


def texture(rng: np.random.Generator) -> np.ndarray:
    coarse = [Image.fromarray(rng.integers(0, 256, (n, n), np.uint8)) for n in (6, 24, 96)]
    sizes = [c.resize((SIDE, SIDE), Image.Resampling.BICUBIC) for c in coarse]
    return 1 + 0.1 * (np.mean(sizes, axis=0) / 255 - 0.5)


def on_sheet(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lay a digit anywhere on a sheet of 4 by 5 times its size."""
    side = len(ink) // 2
    ink = np.asarray(Image.fromarray(ink).resize((side, side)))
    sheet = np.zeros((4 * side, 5 * side), np.float32)
    y, x = rng.integers(0, (3 * side, 4 * side))
    sheet[y : y + side, x : x + side] = ink
    return sheet


def ruled(ink: np.ndarray) -> np.ndarray:
    sheet = np.repeat(on_paper(ink)[..., None], 3, axis=2)
    sheet[20::40] *= [0.7, 0.8, 0.95]
    return sheet


Make = Callable[[np.ndarray, np.random.Generator], bytes]
BLUE, YELLOW, CHALK = [0.8, 0.65, 0.1], [0.0, 0.1, 0.8], [0.7, 0.5, 0.6]  # what the ink changes
PICTURES: dict[str, Make] = {
    "scaled up, light on black": lambda d, _: encode(picture(scale(d))),
    "dark on white, JPEG of quality 40": lambda d, _: encode(
        picture(1 - scale(d)), "JPEG", quality=40
    ),
    "rough paper": lambda d, rng: encode(picture(on_paper(scale(d)) * texture(rng))),
    "light falls off over the sheet": lambda d, rng: encode(
        picture(on_paper(scale(d)) * shadow((SIDE, SIDE), rng, 0.7))
    ),
    "a shadow's sharp edge": lambda d, rng: encode(
        picture(on_paper(scale(d)) * shadow((SIDE, SIDE), rng, 20))
    ),
    "blue ink on yellow paper, WebP": lambda d, _: encode(
        picture(np.array([1, 0.95, 0.6]) - scale(d)[..., None] * BLUE), "WEBP", quality=60
    ),
    "yellow ink on white paper": lambda d, _: encode(picture(1 - scale(d)[..., None] * YELLOW)),
    "chalk on a green board": lambda d, _: encode(
        picture(np.array([0.1, 0.35, 0.2]) + scale(d)[..., None] * CHALK)
    ),
    "turned by EXIF": lambda d, _: encode(
        picture(on_paper(scale(d))).rotate(90), "JPEG", exif=orientation(6)
    ),
    "small on a large sheet": lambda d, rng: encode(picture(on_paper(on_sheet(scale(d), rng)))),
    "ruled sheet in uneven light": lambda d, rng: encode(
        picture(ruled(on_sheet(scale(d), rng)) * shadow((480, 600), rng, 0.5)[..., None]), "JPEG"
    ),
    "thin pen": lambda d, _: encode(picture(1 - pen(d, -8))),
    "thick marker": lambda d, _: encode(picture(1 - pen(d, 8))),
    "noise": lambda d, rng: encode(picture(on_paper(scale(d)) + rng.normal(0, 0.08, (SIDE, SIDE)))),
    "cut out to the ink": lambda d, _: encode(
        ImageOps.invert(cut := picture(scale(d))).crop(cut.getbbox())
    ),
    "dark ink on nothing": lambda d, _: encode(
        Image.merge("LA", (Image.new("L", (SIDE, SIDE)), picture(scale(d))))
    ),
    "light ink on nothing": lambda d, _: encode(
        Image.merge("LA", (Image.new("L", (SIDE, SIDE), 255), picture(scale(d))))
    ),
    "16 bits": lambda d, _: encode(
        Image.fromarray((on_paper(scale(d)).clip(0, 1) * 4095).astype(np.uint16))
    ),
}


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def first(label: int) -> np.ndarray:
    images, labels = read_test_set()
    return images[labels == label][0].numpy()
