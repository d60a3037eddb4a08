"""What Pillow opens, what it looks like decoded, and what is no picture of a digit."""

import io
import os
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from photos import SIDE, encode, first, on_paper, orientation, picture, scale
from PIL import Image, ImageDraw

from mnist_lightning.checkpoint import load
from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import to_mnist
from mnist_lightning.reading.picture import (
    MAX_PIXELS,
    count_pages,
    decode,
    fit,
    open_pages,
    open_picture,
)
from mnist_lightning.reading.reader import read


def heic(picture: Image.Image, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, **options)
    return file.getvalue()


def two() -> Image.Image:
    return picture(1 - scale(first(2)))


def transparent_palette() -> bytes:
    ink = picture(scale(first(2))).point(lambda v: int(v > 127)).convert("P")
    ink.putpalette([0, 0, 0, 20, 20, 20])
    return encode(ink, "PNG", transparency=0)


EVERY_KIND = {
    "HEIC": lambda: heic(two().convert("RGB"), quality=60),
    "AVIF": lambda: encode(two(), "AVIF", quality=60),
    "TIFF of three pages": lambda: encode(
        two(), "TIFF", save_all=True, append_images=[picture(scale(first(d))) for d in (7, 1)]
    ),
    "GIF": lambda: encode(two(), "GIF"),
    "WebP": lambda: encode(two(), "WEBP"),
    "PNG of 16 bits": lambda: encode(Image.fromarray(np.asarray(two()).astype(np.uint16) * 257)),
    "PNG of 1 bit": lambda: encode(two().convert("1", dither=Image.Dither.NONE)),
    "CMYK": lambda: encode(two().convert("RGB").convert("CMYK"), "JPEG"),
    "palette with transparency": transparent_palette,
    "turned by EXIF": lambda: encode(two().rotate(90), "JPEG", exif=orientation(6)),
    "HEIC turned by EXIF": lambda: heic(
        two().convert("RGB").rotate(90), exif=orientation(6).tobytes()
    ),
    "AVIF turned by EXIF": lambda: encode(two().rotate(90), "AVIF", exif=orientation(6)),
    "TIFF turned": lambda: encode(two().rotate(90), "TIFF", tiffinfo={274: 6}),
    "damaged EXIF data": lambda: encode(two(), "JPEG", exif=b"Exif\0\0damaged"),
    # Whose gray is multiplied by its opacity
    "TIFF of mode La": lambda: encode(two().convert("LA"), "TIFF", tiffinfo={338: 1}),
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_every_kind_of_file_is_read_whatever_its_name(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(EVERY_KIND[kind]())
    contents = path.read_bytes()
    opened = contents if "HEIC" in kind else Image.open(io.BytesIO(contents))
    for source in (path, contents, opened):
        page = read(source, load())
        assert page.text == "2" and page.digits[0].probability > 0.99


def test_heic_is_named_where_its_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = EVERY_KIND["HEIC"]()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UserError, match=r"HEIC needs pillow-heif: \S+ -m pip install pillow-heif$"):
        open_picture(contents)


def test_each_page_of_a_tiff_is_a_picture() -> None:
    pages = [picture(1 - scale(first(digit))) for digit in (3, 7, 1)]
    small = [page.resize((60, 60)) for page in pages]
    small[1].encoderinfo = {"tiffinfo": {254: 1}}  # a smaller copy, as viewers keep it
    tiff = encode(pages[0], "TIFF", save_all=True, append_images=[small[1], pages[1], small[2]])
    assert [page.copy().size for page in open_pages(tiff)] == [(240, 240), (240, 240), (60, 60)]
    assert [read(page, load()).text for page in open_pages(tiff)] == ["3", "7", "1"]
    assert count_pages(tiff) == 3 and count_pages(encode(pages[0])) == 1


def test_the_limit_counts_all_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    tiff = EVERY_KIND["TIFF of three pages"]()
    monkeypatch.setattr("mnist_lightning.reading.picture.MAX_PIXELS", 3 * SIDE * SIDE)
    monkeypatch.setattr("mnist_lightning.reading.picture.MAX_PAGES", 3)
    assert len(list(open_pages(tiff))) == 3
    monkeypatch.setattr("mnist_lightning.reading.picture.MAX_PIXELS", 3 * SIDE * SIDE - 1)
    with pytest.raises(UserError, match="its 3 pages have over 172,799 pixels together"):
        next(open_pages(tiff))
    assert open_picture(tiff).size == (SIDE, SIDE)  # which the first page alone obeys
    monkeypatch.setattr("mnist_lightning.reading.picture.MAX_PAGES", 2)
    with pytest.raises(UserError, match="over 2 pages"):
        next(open_pages(tiff))
    assert count_pages(tiff) == 2


def test_pages_before_the_damage_are_read() -> None:
    tiff = bytearray(EVERY_KIND["TIFF of three pages"]())
    (start,) = struct.unpack_from("<I", tiff, 4)
    (number,) = struct.unpack_from("<H", tiff, start)
    struct.pack_into("<I", tiff, start + 2 + 12 * number, len(tiff) + 99)  # where the next one is
    pages = open_pages(bytes(tiff))
    assert read(next(pages), load()).text == "2"
    with pytest.raises(UserError, match="cut off or damaged"):
        next(pages)


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_a_mutated_file_is_read_or_refused_in_one_line(kind: str) -> None:
    """Thousands of each kind were tried; these few hold the wrapping of what decoders raise."""
    contents, rng = EVERY_KIND[kind](), np.random.default_rng(0)
    for _ in range(20):
        changed = np.frombuffer(contents, np.uint8).copy()
        places = (len(changed) * rng.random(4) ** 4).astype(int)  # most of them in the header
        changed[places] = rng.integers(0, 256, 4)
        mutated = changed[: int(len(changed) * min(1, 2 * rng.random()))].tobytes()
        for attempt in (open_picture, pages):
            try:
                attempt(mutated)
            except UserError as error:
                assert "\n" not in str(error)


def pages(contents: bytes) -> list[Image.Image]:
    return [decode(page) for page in open_pages(contents)]


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
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<svg xmlns=''/>", "SVG is not read: export"),
        (b"%PDF-1.7\n", "PDF is not read: export its pages as PNG"),
        (b"<!doctype html><html><svg></svg></html>", "not a picture: PNG, JPEG"),
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


@pytest.mark.parametrize("column", [40, 121, 300])
def test_a_line_of_a_pixel_is_shown(column: int) -> None:
    values = np.zeros((8, 648), np.uint8)
    values[:, column] = 255
    shown = np.asarray(fit(Image.fromarray(values), 464, to_show=True))
    assert shown[0].sum() > 0.7 * 255 * 464 / 648


def test_a_file_that_cannot_be_opened_is_an_os_error(tmp_path: Path) -> None:
    for attempt in (open_picture, lambda path: read(path, load())):
        with pytest.raises(FileNotFoundError):
            attempt(tmp_path / "none.png")
        with pytest.raises(IsADirectoryError):
            attempt(tmp_path)


def test_a_file_of_too_many_bytes_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (tmp_path / "x.webp").open("wb") as file:
        file.write(b"RIFF\0\0\0\0WEBP")
        file.truncate(10**12)  # a sparse one
    with pytest.raises(UserError, match="over 400,000,000 bytes: make the picture smaller"):
        open_picture(tmp_path / "x.webp")
    contents = noisy_picture("PNG")
    monkeypatch.setattr("mnist_lightning.reading.picture.MAX_BYTES", len(contents) - 1)
    with pytest.raises(UserError, match="bytes: make the picture smaller"):
        open_picture(contents)


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

    target = "segments.find_ink" if where == "ink" else f"picture.{where}"
    monkeypatch.setattr(f"mnist_lightning.reading.{target}", fail)
    with pytest.raises(UserError, match="not enough memory for 90x90 pixels"):
        read(noisy_picture("PNG"), load())
