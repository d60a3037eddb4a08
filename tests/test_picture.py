"""What Pillow opens, what it looks like when flattened, and what is no picture of a digit."""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from photos import SIDE, encode, first, on_paper, picture, scale
from PIL import Image, ImageDraw

from mnist_lightning.checkpoint import load
from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import to_mnist
from mnist_lightning.reading.picture import MAX_PIXELS, open_picture
from mnist_lightning.reading.reader import read


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_kind_of_pixel_is_read_alike(mode: str) -> None:
    gray = picture(1 - scale(first(5)))
    if mode in ("1", "P"):
        given = gray.convert(mode, dither=Image.Dither.NONE)
    elif mode == "I;16":
        given = Image.fromarray(np.asarray(gray).astype(np.uint16) * 257)
    else:
        given = (gray.convert("RGB") if mode == "CMYK" else gray).convert(mode)
    assert given.mode == mode
    difference = to_mnist(given).int() - to_mnist(gray).int()
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


@pytest.mark.parametrize("shades", [(0, 0), (110, 110), (150, 150), (20, 110), (255, 180)])
def test_ink_of_any_shade_on_nothing_is_read_alike(shades: tuple[int, int]) -> None:
    ink = picture(scale(first(5)))
    color = Image.new("L", ink.size, shades[0])
    color.paste(shades[1], (0, 0, ink.width, ink.height // 2))
    given = to_mnist(Image.merge("LA", (color, ink)))
    assert ((given > 100) ^ (to_mnist(ink) > 100)).sum() <= 30  # of 128


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
        (encode(Image.new("L", (300, 3))), "300x3 pixels are too few"),
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


@pytest.mark.parametrize("where", ["ImageOps.exif_transpose", "ink"])
def test_too_little_memory_is_no_damage(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    target = "reader.find_ink" if where == "ink" else f"picture.{where}"
    monkeypatch.setattr(f"mnist_lightning.reading.{target}", fail)
    with pytest.raises(UserError, match="not enough memory for 90x90 pixels"):
        read(noisy_picture("PNG"), load())
