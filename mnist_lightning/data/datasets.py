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

CLASSES: dict[str, tuple[str, ...]] = {
    "MNIST": tuple("0123456789"),
    "FashionMNIST": (
        *("T-shirt", "trouser", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "KMNIST": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),  # hiragana
}

ARCHIVES = Path(__file__).parent / "archives"  # MNIST's own, with their license
TRAIN, TEST = (
    (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")
)
IDX_KINDS = {b"\0\0\x08": "u1", b"\0\0\x0c": ">i4"}
# Who wrote which training image, by facebookresearch/qmnist.
WRITERS = tuple(
    f"qmnist-train-labels{kind}" for kind in ("-idx2-int", "-idx2-int.gz", ".tsv", ".tsv.gz")
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


def read_writers(root: Path, labels: Tensor) -> np.ndarray:
    """Read who wrote each of MNIST's training images, from QMNIST's list under `root`.

    The list is a file of facebookresearch/qmnist, as text or as torchvision's QMNIST keeps it.

    Args:
        root: The data's folder.
        labels: int64 `(D,)`, the images' digits, which the list must name too.

    Returns:
        int64 `(D, 2)`: the group (NIST's hsf_0, employees of the census, or hsf_4, students) and
        the writer of every image.

    Raises:
        OSError: If a file can't be read.
        UserError: If there is no such list, or it is of other images.
    """
    for path in (root / "QMNIST" / "raw" / name for name in WRITERS):
        if not path.is_file():
            continue
        contents = path.read_bytes()
        try:
            contents = gzip.decompress(contents) if path.suffix == ".gz" else contents
            if ".tsv" in path.suffixes:
                rows = np.array([line.split() for line in contents.splitlines()], np.int64)
            else:
                rows = read_idx(contents, path).numpy()
            if not np.array_equal(rows[:, 0], labels.numpy()):
                raise ValueError("other digits")
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError) as error:
            raise UserError(f"{path} is damaged or lists the writers of other images") from error
        return rows[:, 1:3].astype(np.int64)
    raise UserError(
        f"data.split writers needs QMNIST's list of writers, as {root}/QMNIST/raw/{WRITERS[0]} or "
        f"{WRITERS[-1]}; where there is a network, this gets it: python -c 'from "
        f'torchvision.datasets import QMNIST; QMNIST("{root}", "train", download=True)\''
    )


def read_idx(contents: bytes, name: str | Path) -> Tensor:
    """Read a file in the format of MNIST's, for bytes or int32.

    Args:
        contents: Two zeros, 8 for bytes or 12 for int32, the number of dimensions; each dimension's
            size as a big-endian int32; the values (http://yann.lecun.com/exdb/mnist/).
        name: The file's, for errors.

    Returns:
        uint8 or int32, of the sizes that the file states.

    Raises:
        UserError: If it is not such a file, or has another length than it states.
    """
    kind = np.dtype(IDX_KINDS.get(contents[:3], "V"))
    num_dimensions = contents[3] if kind.itemsize and len(contents) > 3 else 0
    start = 4 + 4 * num_dimensions
    if not num_dimensions or len(contents) < start:
        raise UserError(f"{name} is not an IDX file of bytes or of int32")
    sizes = np.frombuffer(contents, ">i4", num_dimensions, 4).tolist()
    num_bytes = len(contents) - start
    if min(sizes) < 0 or num_bytes != kind.itemsize * np.prod(sizes, dtype=object):
        raise UserError(f"{name} states {sizes} values and holds {num_bytes:,} bytes of them")
    values = np.frombuffer(contents, kind, offset=start)
    return torch.from_numpy(values.astype(kind.newbyteorder("="))).reshape(sizes)


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
