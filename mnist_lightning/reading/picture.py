"""A picture file, or its contents -> a picture: decoded, turned, on paper."""

import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mnist_lightning.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

MAX_PIXELS = 50_000_000  # one takes up to 20 bytes while it is read, whatever the file's size

MIN_SIDE = 8  # pixels


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Decode a picture file: PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF.

    Args:
        source: The file's path or contents.

    Returns:
        The picture, in any of Pillow's modes, turned as its camera says.

    Raises:
        UserError: If it is not such a picture, or damaged, or too small or too large, also for
            the memory.
        OSError: If the file can't be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if not isinstance(source, bytes):
        mode = Path(source).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # which may have no end
            raise UserError("a pipe or a device, not a file: `read -` takes standard input")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about oddities that do no harm, and the size
        try:
            picture = Image.open(file, formats=FORMATS)  # reads no more than the header
        except Image.UnidentifiedImageError as error:
            raise UserError("not a picture: PNG, JPEG, WebP, GIF, BMP or TIFF is read") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"over {MAX_PIXELS:,} pixels: make the picture smaller") from error
        with picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise UserError(
                    f"{width}x{height} is over {MAX_PIXELS:,} pixels: make the picture smaller"
                )
            if min(width, height) < MIN_SIDE:
                raise UserError(f"{width}x{height} pixels are too few to hold a digit")
            try:
                return ImageOps.exif_transpose(picture)
            except MemoryError as error:
                raise UserError(f"not enough memory for {width}x{height} pixels") from error
            except Exception as error:  # of many kinds, by format and where the damage is
                raise UserError("the picture is cut off or damaged") from error


def flatten(picture: Image.Image) -> Image.Image:
    """Make of any picture one in RGB, and lay something behind what is transparent.

    Args:
        picture: In any of Pillow's modes; one of 16 or 32 bits is scaled by its brightest pixel.

    Returns:
        The picture in mode RGB; behind ink on nothing lies white or black, whichever it differs
        from, and about a sheet that was cut out lies the sheet's color.
    """
    if picture.mode[0] in "IF":  # of 16 or 32 bits, which may use any part of their range
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0, neginf=0)
        values -= min(values.min(), 0)
        values *= 255 / max(values.max(), 1e-9)
        picture = Image.fromarray(values.round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        color = _missing_color(picture)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, color), picture)
    return picture.convert("RGB")


def _missing_color(picture: Image.Image) -> tuple[int, ...]:
    """Return what to lay behind a transparent picture: its paper's color or its ink's contrary."""
    rgba = np.asarray(fit(picture, 192))
    alpha = rgba[..., 3] / 255
    seen = rgba[alpha > 0.5][:, :3]
    if not len(seen):
        return (255, 255, 255)
    is_paper = alpha.mean() > 0.5 and np.ptp(seen.mean(axis=1)) > 64
    if is_paper:  # a sheet with its surroundings cut away
        return tuple(np.median(seen, axis=0).astype(int).tolist())
    return (255,) * 3 if seen.mean() < 128 else (0,) * 3


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled up or down to a long side of so many pixels."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return picture.resize((width, height), how)
