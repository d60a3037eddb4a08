"""Which sets of images there are, where their files come from, and that they are whole."""

import gzip
import os
import socket
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file

Name = Literal["MNIST", "FashionMNIST", "KMNIST"]

ARCHIVES = Path(__file__).parent / "archives"  # MNIST's own, with their licence
TRAIN, TEST = (
    (f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz") for part in ("train", "t10k")
)


def prepare(root: Path, name: Name) -> None:
    """Put a set's verified files under `root`, from the shipped archives or from its mirrors.

    A file that is missing or does not match its archive is written anew, under a temporary name
    first, so that processes that prepare one folder at once, or are killed, do no harm.

    Args:
        root: The data's folder, in torchvision's layout.
        name: Which set.

    Raises:
        OSError: If `root` can't be written, or a download failed.
    """
    folder = root / name / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for file in (*TRAIN, *TEST):
        archive = folder / file
        if name == "MNIST":
            shipped = (ARCHIVES / file).read_bytes()
            if not archive.is_file() or archive.read_bytes() != shipped:
                replace_file(archive, shipped)
        else:
            _download(name, folder, file)
        contents = gzip.decompress(archive.read_bytes())
        raw = archive.with_suffix("")
        if not raw.is_file() or raw.read_bytes() != contents:
            replace_file(raw, contents)


def read(root: Path, name: Name, train: bool) -> tuple[Tensor, Tensor]:
    """Read the training or the test images of a set that `prepare` has prepared.

    Returns:
        Images, uint8 `(N, 28, 28)`, 0 to 255, and labels, int64 `(N,)`.

    Raises:
        OSError: If a file is missing or can't be read.
        UserError: If a file is not a whole IDX file.
    """
    images, labels = (
        read_idx((root / name / "raw" / file).with_suffix("").read_bytes())
        for file in (TRAIN if train else TEST)
    )
    return images, labels.long()


def read_test_set() -> tuple[Tensor, Tensor]:
    """Read MNIST's 10,000 test images from the package itself; nothing is written.

    Returns:
        Images, uint8 `(10000, 28, 28)`, 0 to 255, and labels, int64 `(10000,)`.
    """
    images, labels = (read_idx(gzip.decompress((ARCHIVES / file).read_bytes())) for file in TEST)
    return images, labels.long()


def read_idx(contents: bytes) -> Tensor:
    """Read a file in the format of MNIST's, for bytes.

    Args:
        contents: Two zeros, 8 for bytes, the number of dimensions; each dimension's size as a
            big-endian int32; the values (http://yann.lecun.com/exdb/mnist/).

    Returns:
        uint8, of the sizes that the file states.

    Raises:
        UserError: If it is not such a file, or has another length than it states.
    """
    num_dimensions = contents[3] if contents[:3] == b"\0\0\x08" and len(contents) > 3 else 0
    start = 4 + 4 * num_dimensions
    if not num_dimensions or len(contents) < start:
        raise UserError("not an IDX file of bytes")
    sizes = np.frombuffer(contents, ">i4", num_dimensions, 4).tolist()
    values = np.frombuffer(contents, np.uint8, offset=start)
    if min(sizes) < 0 or len(values) != np.prod(sizes, dtype=object):
        raise UserError(f"an IDX file that states {sizes} values and holds {len(values):,}")
    return torch.from_numpy(values.copy()).reshape(sizes)


def _download(name: Name, folder: Path, file: str) -> None:
    """Download an archive that is missing or does not have torchvision's checksum."""
    from torchvision import datasets  # takes seconds, which MNIST need not wait for
    from torchvision.datasets.utils import check_integrity, download_url

    dataset: Any = getattr(datasets, name)
    md5 = dict(dataset.resources)[file]
    if check_integrity(folder / file, md5):
        return
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds; torchvision itself would wait for ever
    try:
        for mirror in dataset.mirrors:
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{file}.") as partial:
                try:
                    download_url(mirror + file, partial, file, md5)
                except (RuntimeError, URLError, ConnectionError, TimeoutError, HTTPException):
                    continue
                os.replace(Path(partial, file), folder / file)
                return
    finally:
        socket.setdefaulttimeout(timeout)
    raise OSError(
        f"{name} is not in {folder} and could not be downloaded; "
        f"put {', '.join((*TRAIN, *TEST))} there by hand, from {' or '.join(dataset.mirrors)}"
    )
