"""The formats of sets of images: their files -> images and labels."""

import bz2
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.data.drawing import to_convention
from mnist_lightning.errors import UserError

IDX_KINDS = {b"\0\0\x08": "u1", b"\0\0\x0c": ">i4"}


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


def to_idx(values: np.ndarray) -> bytes:
    """Return what `read_idx` reads as `values`, uint8 of any shape."""
    head = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    return head + values.tobytes()


def read_pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Read a file of images and one of labels, or of rows whose first number is a label."""
    rows = read_idx(labels.read_bytes(), labels)
    return read_idx(images.read_bytes(), images), rows[:, 0] if rows.ndim == 2 else rows


def read_turned_pair(images: Path, labels: Path) -> tuple[Tensor, Tensor]:
    """Read EMNIST's files, which hold an image column by column, and turn the images upright."""
    columns, classes = read_pair(images, labels)
    return columns.mT.contiguous(), classes


def read_usps(path: Path) -> tuple[Tensor, Tensor]:
    """Read USPS's lines, and scale and place its digits by MNIST's convention.

    Args:
        path: Lines of `label 1:value 2:value ... 256:value`, labels from 1, values from -1 for the
            paper to 1, compressed by bzip2. A digit fills its 16x16 pixels.

    Returns:
        Images, uint8 `(N, 28, 28)`, and labels, int64 `(N,)`, from 0.
    """
    lines = bz2.decompress(path.read_bytes()).replace(b":", b" ").splitlines()
    rows = torch.from_numpy(np.array([line.split() for line in lines], np.float32))
    pixels = to_convention((rows[:, 2::2].view(-1, 1, 16, 16) + 1) / 2)
    return (255 * pixels[:, 0]).round().byte(), rows[:, 0].long() - 1
