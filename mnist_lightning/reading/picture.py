"""A picture file, its contents or an array -> a picture: decoded, turned, in RGB or gray."""

import contextlib
import io
import os
import stat
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from mnist_lightning.errors import UserError
from mnist_lightning.sizes import SIDE
from mnist_lightning.text import pip_install

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
# The brands of ISO/IEC 23008-12 that an HEIC file states, one at least, and none of AVIF's.
HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
AVIF = {b"avif", b"avis"}

MAX_PIXELS = 50_000_000  # each takes up to 20 bytes of memory, whatever the file's size
MAX_BYTES = 8 * MAX_PIXELS  # of a file, which some decoders read as a whole
MAX_PAGES = 10_000

MIN_SIDE = 8  # pixels

TAKES = (
    "a path, a file's bytes, a Pillow picture, or an array or tensor (H, W) or (H, W, 3), uint8 or "
    "float in [0, 1]"
)
NEW_SUBFILE_TYPE = 254  # TIFF's tag; of its bits 1 is a smaller copy of a page, 4 a mask

Source = str | os.PathLike[str] | bytes


class UnknownFormat(UserError):
    """A file is in no format that a picture is read from."""


def to_picture(source: Source | Image.Image | np.ndarray) -> Image.Image:
    """Return a decoded picture in mode RGB, or L if all of it is gray.

    Args:
        source: What `open_picture` takes; a picture that Pillow has opened; or an array, `(H, W)`
            or `(H, W, 3)`, uint8 or float in [0, 1].

    Raises:
        UserError: As `open_picture`, and if it is anything else; the line says what is taken.
        OSError: If the file can't be read.
    """
    if isinstance(source, Image.Image):
        return decode(source)
    if isinstance(source, str | os.PathLike | bytes):
        return open_picture(source)
    if not isinstance(source, np.ndarray):
        raise UserError(f"read takes {TAKES}; this is a {type(source).__name__}")
    shape = source.shape
    if not (source.ndim == 2 or source.ndim == 3 and shape[2] == 3):
        raise UserError(f"read takes {TAKES}; this is {shape}{_hint(shape)}")
    return decode(Image.fromarray(to_bytes(source)))


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Convert brightness to uint8, 0 to 255.

    Args:
        values: uint8, which is returned as it is, or float in [0, 1].

    Raises:
        UserError: If it is of another type, or out of range.
    """
    if values.dtype == np.uint8:
        return values
    if values.dtype.kind != "f":
        raise UserError(f"values must be uint8 or float in [0, 1], not {values.dtype}")
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if not (low >= 0 and high <= 1):  # neither is true of NaN
        hint = ": divide by 255" if low >= 0 and 1 < high <= 255 else ""
        raise UserError(f"floats must be in [0, 1], but are {low:.3g} to {high:.3g}{hint}")
    return np.rint(values * 255).astype(np.uint8)


def open_picture(source: Source) -> Image.Image:
    """Decode a picture file: PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF, or HEIC by pillow-heif.

    Args:
        source: The file's path or contents; its name's suffix does not matter.

    Returns:
        The picture, of several frames or pages the first, as `decode` returns it.

    Raises:
        UserError: If it is not such a picture, is damaged, or is too small or too large, also for
            memory, or if pillow-heif is needed and missing.
        OSError: If the file can't be read.
    """
    with _open(source) as file:
        return decode(file)


def open_pages(source: Source) -> Iterator[Image.Image]:
    """Open a picture file page by page: all that a TIFF has, the only one of another file.

    Args:
        source: See `open_picture`.

    Yields:
        Each page, which must be decoded before the next one is asked for.

    Raises:
        UserError: As `open_picture`, and if the pages have too many pixels together. If one is so
            damaged that the next can't be found, those before it come first.
        OSError: If the file can't be read.
    """
    with _open(source) as file:
        frames, num_pixels, damage = _find_pages(file)
        if len(frames) > 1 and num_pixels > MAX_PIXELS:
            raise UserError(
                f"its {len(frames)} pages have over {MAX_PIXELS:,} pixels together: make them "
                "smaller, or a file of each"
            )
        for frame in frames:
            with _decoding():
                file.seek(frame)
            yield file
        if damage:
            raise damage


def count_pages(source: Source) -> int:
    """Return the number of pages in a file, or `MAX_PAGES` if there are more.

    Raises:
        UserError: If it is no picture.
        OSError: If the file can't be read.
    """
    with _open(source) as file:
        try:
            return len(_find_pages(file)[0])
        except UserError:  # too many, which keeps nobody from the first
            return MAX_PAGES


def decode(picture: Image.Image) -> Image.Image:
    """Return a copy of a picture, decoded, rotated as its EXIF data says, and on a background.

    Args:
        picture: In any of Pillow's modes; 16 or 32 bits are scaled by the brightest pixel.

    Returns:
        The picture in mode RGB, or L if all of it is gray. Behind ink on nothing it is white or
        black, whichever contrasts more, and behind a sheet that was cut out the sheet's color.

    Raises:
        UserError: If it is damaged, too small or too large, also for memory.
    """
    _check_size(*picture.size)
    try:
        with _decoding():
            picture.load()
            turned = _turn(picture)
            _check_size(*turned.size)  # an HEIC file may state another one
            return _flatten(turned)
    except MemoryError as error:
        width, height = picture.size
        raise UserError(f"not enough memory for {width}x{height} pixels") from error


def _turn(picture: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except MemoryError:
        raise
    except Exception:  # damaged EXIF data, its type depends on how: the pixels are sound
        return picture.copy()


def _open(source: Source) -> Image.Image:
    """Open a picture file; only its header is read, where the format has one."""
    file: Any = io.BytesIO(source) if isinstance(source, bytes) else Path(source)
    size = len(source) if isinstance(source, bytes) else _size(file)
    if size > MAX_BYTES:
        raise UserError(f"over {MAX_BYTES:,} bytes: make the picture smaller")
    with _decoding():
        try:
            return Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise UserError(f"over {MAX_PIXELS:,} pixels: make the picture smaller") from error
        except Image.UnidentifiedImageError as error:
            head = source[:4096] if isinstance(source, bytes) else _head(file)
            if _is_heic(head):
                return _open_heic(file)
            if b"<svg" in head and b"<html" not in head:
                raise UserError("SVG is not read: export the drawing as PNG") from error
            if b"%PDF-" in head[:1024]:
                raise UserError(
                    "PDF is not read: export its pages as PNG, as `pdftoppm -png` does"
                ) from error
            raise UnknownFormat(
                "not a picture: PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF or HEIC is read"
            ) from error


def _is_heic(head: bytes) -> bool:
    brands = {head[i : i + 4] for i in (8, *range(16, int.from_bytes(head[:4], "big"), 4)[:99])}
    return head[4:8] == b"ftyp" and bool(brands & HEIC) and not brands & AVIF


def _open_heic(file: Any) -> Image.Image:
    try:
        from pillow_heif import HeifImageFile
    except ModuleNotFoundError as error:
        raise UserError(f"HEIC needs pillow-heif: {pip_install('pillow-heif')}") from error
    return HeifImageFile(file)


def _find_pages(file: Image.Image) -> tuple[list[int], int, UserError | None]:
    """Return which frames are pages, their pixels, and what keeps others from being found, if any.

    Raises:
        UserError: If there are too many.
    """
    if file.format != "TIFF":
        return [file.tell()], file.width * file.height, None
    frames: list[int] = []
    num_pixels = 0
    try:
        with _decoding():
            for frame in range(MAX_PAGES + 1):
                file.seek(frame)
                kind = file.tag_v2.get(NEW_SUBFILE_TYPE, 0)  # type: ignore[attr-defined]
                if not frame or not kind & (1 | 4):
                    frames.append(frame)
                    num_pixels += file.width * file.height
    except UserError as error:
        return frames, num_pixels, None if isinstance(error.__cause__, EOFError) else error
    raise UserError(f"over {MAX_PAGES:,} pages: make several files of it")


@contextlib.contextmanager
def _decoding() -> Iterator[None]:
    """Make one error of all that a decoder raises, and keep its warnings to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about harmless oddities and the size
        try:
            yield
        except (UserError, MemoryError):
            raise
        except Exception as error:  # its type depends on the format and the damage
            if isinstance(error, OSError) and error.filename is not None:
                raise
            raise UserError("the picture is cut off or damaged") from error


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(f"{width}x{height} is over {MAX_PIXELS:,} pixels: make the picture smaller")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{width}x{height} pixels are too few to hold a digit")


def _size(path: Path) -> int:
    """Return a file's size in bytes, and refuse what might have no end."""
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UserError("a pipe or a device, not a file: `read -` takes standard input")
    return status.st_size


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4096)


def _hint(shape: tuple[int, ...]) -> str:
    """Return what to do with an array that is no picture."""
    hints = []
    if shape[1:] == (SIDE, SIDE):
        hints.append(f"read_images takes a stack (N, {SIDE}, {SIDE})")
    if len(shape) == 3 and shape[0] == 1:
        hints.append("image[0] is one picture")
    if len(shape) == 3 and shape[0] == 3:
        hints.append(
            "if its channels come first, image.permute(1, 2, 0) of torch or image.transpose(1, 2, "
            "0) of NumPy puts them last"
        )
    return ": " * bool(hints) + "; ".join(hints)


def _flatten(picture: Image.Image) -> Image.Image:
    if picture.mode[0] in "IF":  # 16 or 32 bits, of which any part of the range may be used
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0, neginf=0)
        values -= min(values.min(), 0)
        values *= 255 / max(values.max(), 1e-9)
        picture = Image.fromarray(values.round().astype(np.uint8))
    if picture.mode == "La":  # whose only way to others leads over LA
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        color = _background(picture)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, color), picture)
    if picture.mode == "1":
        return picture.convert("L")
    if picture.mode not in ("L", "RGB"):  # to its own mode it would be copied
        picture = picture.convert("RGB")
    return picture.convert("L") if _is_gray(picture) else picture  # a third of the work


def _is_gray(picture: Image.Image) -> bool:
    """Return whether all of a picture, in mode RGB or L, is gray; it is copied in parts."""
    width, height = picture.size
    parts = (np.asarray(picture.crop((0, y, width, y + 256))) for y in range(0, height, 256))
    return picture.mode == "RGB" and all((part == part[:, :, :1]).all() for part in parts)


def _background(picture: Image.Image) -> tuple[int, ...]:
    """Return the color behind a transparent picture: its paper's, or the opposite of its ink's."""
    rgba = np.asarray(fit(picture, 192))
    alpha = rgba[..., 3] / 255
    opaque = rgba[alpha > 0.5][:, :3]
    if not len(opaque):
        return (255, 255, 255)
    if alpha.mean() > 0.5 and np.ptp(opaque.mean(axis=1)) > 64:  # a sheet that was cut out
        return tuple(np.median(opaque, axis=0).astype(int).tolist())
    return (255,) * 3 if opaque.mean() < 128 else (0,) * 3


def fit(picture: Image.Image, side: int, *, to_show: bool = False) -> Image.Image:
    """Return a picture scaled up or down to a long side of `side` pixels.

    Args:
        picture: In a mode that Pillow scales.
        side: In pixels.
        to_show: Whether people look at it. Pillow's BOX, which the reader takes, leaves out single
            rows and columns at some sizes, and a line that is as thin is gone.
    """
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    down = Image.Resampling.HAMMING if to_show else Image.Resampling.BOX
    return picture.resize((width, height), Image.Resampling.BICUBIC if scale > 1 else down)
