"""A folder of a person's own pictures, sorted by digit -> images of MNIST's convention."""

import hashlib
import io
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file
from mnist_lightning.reading.picture import count_pages, open_picture
from mnist_lightning.reading.segments import find_digit
from mnist_lightning.sizes import CLASSES

MOST_KEPT = 2000  # images in a folder, each of less than 1,000 bytes, that `keep` adds to
LAYOUT = "its subfolders 0 to 9 must hold pictures, each of one such digit"


def read_own(folder: Path) -> tuple[Tensor, Tensor, list[str]]:
    """Read the pictures in a folder's subfolders 0 to 9, each of one digit.

    Args:
        folder: The folder; a subfolder's name is the label of all pictures in it.

    Returns:
        Images, uint8 `(N, 28, 28)`, 0 to 255, and labels, int64 `(N,)`, by digit and name; and a
        line for each file or subfolder that is not used, and for each of whose pages one is.

    Raises:
        UserError: If there is no such folder, or no picture in it can be used, or all of them are
            of one digit.
        OSError: If a folder can't be listed.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    digits = [folder / name for name in CLASSES]
    notes = [
        f"{path} is left out: {LAYOUT}"
        for path in sorted(folder.iterdir())
        if path not in digits and not path.name.startswith(".")
    ]
    labeled = [
        (path, digit)
        for digit, subfolder in enumerate(digits)
        if subfolder.is_dir()
        for path in sorted(subfolder.iterdir())
        if not path.name.startswith(".")
    ]
    if not labeled:
        raise UserError(f"{folder} holds no picture to learn from: {LAYOUT}")
    images, labels = [], []
    for path, digit in labeled:
        try:
            image = find_digit(open_picture(path))
            num_pages = count_pages(path)
        except (UserError, OSError) as error:
            notes.append(f"{path} is left out: {getattr(error, 'strerror', None) or error}")
            continue
        images.append(torch.from_numpy(image))
        labels.append(digit)
        if num_pages > 1:
            notes.append(f"{path}: the first of its {num_pages} pages is used")
    if not images:
        raise UserError(f"{folder} holds no picture to learn from: {notes[-1]}")
    if len(set(labels)) == 1:
        raise UserError(
            f"{folder} holds pictures of the digit {CLASSES[labels[0]]} alone: add others, or all "
            "that is unlike MNIST would be one"
        )
    return torch.stack(images), torch.tensor(labels), notes


def keep(folder: Path, image: Tensor, digit: int) -> None:
    """Keep an image in a folder that `read_own` reads, which makes no other image of it.

    One that is there already is moved if it has another label now.

    Args:
        folder: The folder; it is made if there is none.
        image: uint8 `(28, 28)`.
        digit: Its label, 0 to 9.

    Raises:
        UserError: If the folder holds `MOST_KEPT` pictures.
        OSError: If it can't be written.
    """
    name = f"{hashlib.sha256(image.numpy().tobytes()).hexdigest()[:16]}.png"
    path = folder / CLASSES[digit] / name
    for class_ in CLASSES:
        if (folder / class_ / name) != path:
            (folder / class_ / name).unlink(missing_ok=True)
    if count_kept(folder) >= MOST_KEPT and not path.exists():
        raise UserError(f"{folder} holds {MOST_KEPT:,} pictures, and no more are kept")
    file = io.BytesIO()
    Image.fromarray(image.numpy()).save(file, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(path, file.getvalue())


def count_kept(folder: Path) -> int:
    """Return the number of files in a folder's subfolders 0 to 9."""
    return sum(1 for class_ in CLASSES for _ in (folder / class_).glob("[!.]*"))
