"""Which sets of images there are, where their files come from, and that they are whole."""

import gzip
import os
import socket
import tempfile
import zlib
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file

Name = Literal["MNIST", "FashionMNIST", "KMNIST"]

ARCHIVES = Path(__file__).parent / "archives"  # MNIST's own, with their license
TRAIN, TEST = (
    (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")
)


def prepare(root: Path, name: Name) -> None:
    """Put a set's verified files under `root`, from the shipped archives or from its mirrors.

    A file that is missing or damaged is written anew; what was damaged is kept beside it, as
    `FILE.damaged`. A file is whole at any moment, so processes that prepare one folder at once, or
    are killed, do no harm.

    Args:
        root: The data's folder, in torchvision's layout.
        name: Which set.

    Raises:
        OSError: If `root` can't be written, or a download failed.
        UserError: If a file there is whole, but another set's. It is not replaced.
    """
    folder = root / name / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    if name != "MNIST":
        _download(name, folder)
    changes = []  # all files are looked at before any is written
    for file in (*TRAIN, *TEST):
        archive = folder / file
        packed = ((ARCHIVES if name == "MNIST" else folder) / file).read_bytes()
        contents = gzip.decompress(packed)
        for path, right in ((archive, packed), (archive.with_suffix(""), contents)):
            if not _is_right(path, right, contents, name):
                changes.append((path, right))
    for path, right in changes:
        _repair(path, right)


def read(root: Path, name: Name, train: bool) -> tuple[Tensor, Tensor]:
    """Read the training or the test images of a set that `prepare` has prepared.

    Returns:
        Images, uint8 `(N, 28, 28)`, 0 to 255, and labels, int64 `(N,)`.

    Raises:
        OSError: If a file is missing or can't be read.
        UserError: If a file is not a whole IDX file.
    """
    files = TRAIN if train else TEST
    images, labels = (
        read_idx(path.read_bytes(), path)
        for path in ((root / name / "raw" / file).with_suffix("") for file in files)
    )
    return images, labels.long()


def read_test_set() -> tuple[Tensor, Tensor]:
    """Read MNIST's 10,000 test images from the package itself; nothing is written.

    Returns:
        Images, uint8 `(10000, 28, 28)`, 0 to 255, and labels, int64 `(10000,)`.
    """
    images, labels = (
        read_idx(gzip.decompress((ARCHIVES / file).read_bytes()), file) for file in TEST
    )
    return images, labels.long()


def read_idx(contents: bytes, name: str | Path) -> Tensor:
    """Read a file in the format of MNIST's, for bytes.

    Args:
        contents: Two zeros, 8 for bytes, the number of dimensions; each dimension's size as a
            big-endian int32; the values (http://yann.lecun.com/exdb/mnist/).
        name: The file's, for errors.

    Returns:
        uint8, of the sizes that the file states.

    Raises:
        UserError: If it is not such a file, or has another length than it states.
    """
    num_dimensions = contents[3] if contents[:3] == b"\0\0\x08" and len(contents) > 3 else 0
    start = 4 + 4 * num_dimensions
    if not num_dimensions or len(contents) < start:
        raise UserError(f"{name} is not an IDX file of bytes")
    sizes = np.frombuffer(contents, ">i4", num_dimensions, 4).tolist()
    values = np.frombuffer(contents, np.uint8, offset=start)
    if min(sizes) < 0 or len(values) != np.prod(sizes, dtype=object):
        raise UserError(f"{name} states {sizes} values and holds {len(values):,}")
    return torch.from_numpy(values.copy()).reshape(sizes)


def _is_right(path: Path, right: bytes, contents: bytes, name: Name) -> bool:
    """Tell whether a file is there and right, or at least unpacks to the right contents.

    Raises:
        UserError: If it is a whole file of another set.
    """
    there = path.read_bytes() if path.is_file() else b""
    if there == right:
        return True
    try:
        unpacked = gzip.decompress(there) if path.suffix == ".gz" else there
        read_idx(unpacked, path)
    except (OSError, EOFError, zlib.error, UserError):  # gzip says in three ways what is damaged
        return False
    if unpacked != contents:
        raise UserError(
            f"{path} is a whole file of images or labels, but not {name}'s: name another folder "
            "for the data, or move the file away"
        )
    return True


def _repair(path: Path, right: bytes) -> None:
    """Write a file anew, and keep what is damaged beside it."""
    damaged = path.read_bytes() if path.is_file() else b""
    if damaged == right:  # another process was faster
        return
    for number in count(1) if damaged else ():
        kept = path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")
        if not os.path.lexists(kept):
            replace_file(kept, damaged)
        if kept.is_file() and kept.read_bytes() == damaged:
            break
    replace_file(path, right)


def _download(name: Name, folder: Path) -> None:
    """Download the archives that are missing or damaged: not of torchvision's checksum."""
    from torchvision import datasets  # takes seconds, which MNIST need not wait for
    from torchvision.datasets.utils import check_integrity, download_url

    dataset: Any = getattr(datasets, name)
    md5s = dict(dataset.resources)
    wrong = [file for file in (*TRAIN, *TEST) if not check_integrity(folder / file, md5s[file])]
    for file in wrong:
        _is_right(folder / file, b"", b"", name)  # a whole one is another set's
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds; torchvision itself would wait for ever
    try:
        for number, file in enumerate(wrong):
            for mirror in dataset.mirrors:
                with tempfile.TemporaryDirectory(dir=folder, prefix=f".{file}.") as partial:
                    try:
                        download_url(mirror + file, partial, file, md5s[file])
                    except (RuntimeError, URLError, ConnectionError, TimeoutError, HTTPException):
                        continue
                    _repair(folder / file, Path(partial, file).read_bytes())
                    break
            else:
                raise OSError(
                    f"{', '.join(wrong[number:])}: missing or damaged in {folder}, and could not "
                    f"be downloaded; put them there by hand, from {' or '.join(dataset.mirrors)}"
                )
    finally:
        socket.setdefaulttimeout(timeout)
