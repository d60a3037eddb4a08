"""Pictures as people have them, made of MNIST's test digits, and what is no picture of a digit.

The figures of docs/photos.md are printed by `pytest -m slow -s tests/test_images.py`.
"""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from torch import Tensor

from mnist_lightning.checkpoint import load
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import to_mnist
from mnist_lightning.reading.picture import MAX_PIXELS, open_picture
from mnist_lightning.reading.reader import read, read_images

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


@pytest.mark.parametrize("num", [12, pytest.param(64, marks=pytest.mark.slow)])
def test_pictures_are_read_nearly_as_well_as_their_originals(num: int) -> None:
    images, labels = (tensor[:num] for tensor in read_test_set())
    network = load()

    def count(images: Tensor) -> int:
        readings = read_images(images, network)
        return sum(r.digit == label for r, label in zip(readings, labels.tolist(), strict=True))

    clean = count(images)
    assert clean >= 0.97 * num
    right = {}
    for name, make in PICTURES.items():
        rng = np.random.default_rng(0)
        made = [to_mnist(open_picture(make(image.numpy(), rng))) for image in images]
        right[name] = count(torch.stack(made))
        print(f"| {name} | {right[name] / clean:.1%} |")
    share = sum(right.values()) / (clean * len(PICTURES))
    print(f"| all, {num * len(PICTURES):,} pictures | {share:.2%} |")
    assert share >= 0.97
    assert min(right.values()) >= 0.9 * clean


@pytest.mark.parametrize("invert", [False, True], ids=["light on black", "dark on white"])
def test_mnists_own_images_pass_unchanged(invert: bool) -> None:
    images, _ = read_test_set()
    for image in images[::10]:
        given = 255 - image if invert else image
        assert torch.equal(to_mnist(Image.fromarray(given.numpy())), image)


def test_what_the_network_sees_keeps_mnists_convention() -> None:
    image = to_mnist(picture(on_paper(on_sheet(scale(first(3)), np.random.default_rng(0)))))
    assert image.shape == (28, 28) and image.dtype == torch.uint8
    inked = image.nonzero()
    assert (inked.amax(0) - inked.amin(0)).max() == 19
    weights = image.double()
    rows = torch.arange(28.0, dtype=torch.double)
    for axis in (0, 1):
        assert abs((weights.sum(1 - axis) @ rows) / weights.sum() - 14) <= 0.5
    assert image.max() == 255 and image[0].max() == 0


def first(label: int) -> np.ndarray:
    images, labels = read_test_set()
    return images[labels == label][0].numpy()


# Polylines in a unit square; no network is asked for more than plain shapes.
SHAPES = {
    1: [[(0.5, 0), (0.5, 1)]],
    4: [[(0.15, 0), (0.1, 0.6), (0.8, 0.6)], [(0.7, 0), (0.65, 1)]],
    7: [[(0.1, 0), (0.8, 0), (0.35, 1)]],
}


@pytest.mark.parametrize("width", [6, 250])
def test_thin_pens_and_thick_markers_survive_a_picture_of_12_megapixels(width: int) -> None:
    network = load()
    for digit, lines in SHAPES.items():
        sheet = Image.new("L", (4000, 3000), 225)
        draw = ImageDraw.Draw(sheet)
        for line in lines:
            points = [(1000 + 1500 * x, 600 + 1800 * y) for x, y in line]
            draw.line(points, 40, width, joint="curve")
        reading = read(sheet, network)
        assert reading.digit == digit
        assert (reading.image > 200).sum() >= 30  # 20 high and nowhere thinner than 1.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_kind_of_pixel_is_read_alike(mode: str) -> None:
    grey = picture(1 - scale(first(5)))
    if mode in ("1", "P"):
        given = grey.convert(mode, dither=Image.Dither.NONE)
    elif mode == "I;16":
        given = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    else:
        given = (grey.convert("RGB") if mode == "CMYK" else grey).convert(mode)
    assert given.mode == mode
    difference = to_mnist(given).int() - to_mnist(grey).int()
    assert difference.abs().float().mean() < (3 if mode == "1" else 0.5)


def test_a_palettes_transparency_is_paper() -> None:
    ink = picture(scale(first(5)))
    palette = ink.point(lambda v: int(v > 127)).convert("P")
    palette.putpalette([0, 0, 0, 20, 20, 20])
    reopened = open_picture(encode(palette, "GIF", transparency=0))
    assert (to_mnist(reopened).int() - to_mnist(ink).int()).abs().float().mean() < 5


def test_a_sheet_with_clear_corners_is_still_a_sheet() -> None:
    sheet = picture(on_paper(scale(np.pad(first(5), 4)))).convert("LA")
    mask = Image.new("L", sheet.size)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, SIDE - 1, SIDE - 1), 30, fill=255)
    whole = to_mnist(sheet)
    sheet.putalpha(mask)
    assert (to_mnist(sheet).int() - whole.int()).abs().float().mean() < 2


def test_specks_and_lines_to_the_edge_are_left_out() -> None:
    sheet = picture(on_paper(scale(np.pad(first(5), 8))))
    clean = to_mnist(sheet)
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((8, 200, 12, 204), 30)
    draw.line((0, 20, SIDE, 24), 30, 15)  # more ink than the digit has
    assert (to_mnist(sheet).int() - clean.int()).abs().float().mean() < 2


def test_an_animations_first_frame_is_read() -> None:
    frames = [picture(1 - scale(first(digit))) for digit in (3, 7)]
    gif = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read(gif, load()).digit == 3


def blank_sheets() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (SIDE, SIDE))
    return {
        "white": Image.new("RGB", (300, 200), "white"),
        "black": Image.new("L", (28, 28)),
        "clear": Image.new("RGBA", (300, 200)),
        "noise": picture(0.8 + noise),
        "noise and shadow": picture(0.8 * shadow((SIDE, SIDE), rng, 0.7) + noise / 5),
        "rough": picture(0.8 * texture(rng)),
        "16 bits": Image.fromarray(np.full((50, 50), 700, np.uint16)),
        "not a number": Image.fromarray(np.full((50, 50), np.nan, np.float32)),
    }


@pytest.mark.parametrize("sheet", blank_sheets().values(), ids=blank_sheets())
def test_a_blank_sheet_is_named(sheet: Image.Image) -> None:
    with pytest.raises(ValueError, match="no ink on the picture"):
        to_mnist(sheet)


def bomb(width: int, height: int) -> bytes:
    """Return a PNG that is all header."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT\x35\xaf\x06\x1e"


def noisy_picture(format: str) -> bytes:
    return encode(picture(np.random.default_rng(0).random((90, 90))), format)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "not a picture: PNG, JPEG"),
        (b"a letter", "not a picture: PNG, JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture: PNG, JPEG"),
        (bomb(8000, 8000), "8000x8000 is over 50,000,000 pixels"),
        (bomb(11000, 11000), "11000x11000 is over 50,000,000 pixels"),
        (bomb(60000, 60000), "over 50,000,000 pixels"),
        (encode(Image.new("L", (3, 300))), "3x300 pixels are too few"),
        *((noisy_picture(kind)[:2000], "cut off or damaged") for kind in ("PNG", "JPEG", "BMP")),
    ],
)
def test_what_is_no_picture_of_a_digit_is_named(contents: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        open_picture(contents)
    assert "\n" not in str(raised.value)


def test_the_limit_is_below_pillows_own_that_kills() -> None:
    assert Image.MAX_IMAGE_PIXELS is not None and MAX_PIXELS < Image.MAX_IMAGE_PIXELS


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "none.png")
    with pytest.raises(IsADirectoryError):
        open_picture(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_has_no_end_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.png")
    for path in (tmp_path / "x.png", Path("/dev/zero")):
        with pytest.raises(UserError, match="a pipe or a device, not a file"):
            open_picture(path)


@pytest.mark.parametrize("where", ["ImageOps.exif_transpose", "convention"])
def test_too_little_memory_is_no_damage(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    target = "reader.to_mnist" if where == "convention" else f"picture.{where}"
    monkeypatch.setattr(f"mnist_lightning.reading.{target}", fail)
    with pytest.raises(UserError, match="not enough memory for 90x90 pixels"):
        read(noisy_picture("PNG"), load())


def test_a_reading_tells_the_guesses_and_what_was_seen() -> None:
    logits = torch.tensor([0.0, 3, 0, 0, 2, 0, 0, 0, 0, 0])
    image = Image.fromarray(first(1))
    reading = read(image, lambda pixels: logits.expand(len(pixels), 10))
    assert (reading.digit, reading.second) == (1, 4)
    assert reading.probability == pytest.approx(float(logits.softmax(0)[1]))
    assert torch.equal(reading.image, torch.from_numpy(first(1)))
    as_dict = reading.as_dict()
    assert sum(as_dict.pop("probabilities")) == pytest.approx(1, abs=1e-5)
    assert as_dict == {
        "digit": 1,
        "probability": round(reading.probability, 6),
        "second": 4,
        "second_probability": round(reading.second_probability, 6),
    }


def test_the_network_gets_pixels_in_0_to_1() -> None:
    def network(pixels: Tensor) -> Tensor:
        assert pixels.shape == (1, 1, 28, 28) and pixels.dtype == torch.float32
        assert pixels.min() == 0 and 0.99 < pixels.max() <= 1
        return torch.zeros(1, 10)

    read(encode(picture(1 - scale(first(2)))), network)
