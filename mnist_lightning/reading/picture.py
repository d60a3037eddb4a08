"""A picture file, or its contents -> a picture: decoded, turned, on paper."""

import io
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from mnist_lightning.errors import UserError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")

MAX_PIXELS = 50_000_000  # each takes up to 20 bytes of memory, whatever the file's size

MIN_SIDE = 8  # pixels


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Decode a picture file: PNG, JPEG, WebP, GIF (its first frame), BMP or TIFF.

    Args:
        source: The file's path or contents.

    Returns:
        The picture, in any of Pillow's modes, rotated as its EXIF data says.

    Raises:
        UserError: If it is not such a picture, is damaged, or is too small or too large, also for
            memory.
        OSError: If the file can't be read.
    """
    file = io.BytesIO(source) if isinstance(source, bytes) else source
    if not isinstance(source, bytes):
        mode = Path(source).stat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading might never end
            raise UserError("a pipe or a device, not a file: `read -` takes standard input")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, about harmless oddities and the size
        try:
            picture = Image.open(file, formats=FORMATS)  # reads only the header
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
            except Exception as error:  # its type depends on the format and the damage
                raise UserError("the picture is cut off or damaged") from error


def flatten(picture: Image.Image) -> Image.Image:
    """Convert any picture to RGB or gray, and put a background behind transparent pixels.

    Args:
        picture: In any of Pillow's modes; 16 or 32 bits are scaled by the brightest pixel.

    Returns:
        The picture in mode RGB, or L if all of it is gray. The background of ink on nothing is
        white or black, whichever contrasts more; that of a sheet that was cut out is the sheet's
        color.
    """
    if picture.mode[0] in "IF":  # 16 or 32 bits, of which any part of the range may be used
        values = np.nan_to_num(np.asarray(picture, dtype=np.float32), posinf=0, neginf=0)
        values -= min(values.min(), 0)
        values *= 255 / max(values.max(), 1e-9)
        picture = Image.fromarray(values.round().astype(np.uint8))
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        color = _background(picture)
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, color), picture)
    picture = picture.convert("RGB")
    pixels = np.asarray(picture)
    is_gray = bool((pixels == pixels[..., :1]).all())
    return picture.convert("L") if is_gray else picture  # a third of the work


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


def fit(picture: Image.Image, side: int) -> Image.Image:
    """Return a picture scaled up or down to a long side of `side` pixels."""
    scale = side / max(picture.size)
    width, height = (max(1, round(length * scale)) for length in picture.size)
    how = Image.Resampling.BICUBIC if scale > 1 else Image.Resampling.BOX
    return picture.resize((width, height), how)
