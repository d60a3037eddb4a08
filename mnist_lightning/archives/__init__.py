"""MNIST's four files, exactly as torchvision names and checks them, and a way to read them."""

import gzip
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def read_test_set() -> tuple[Tensor, Tensor]:
    """Read MNIST's 10,000 test images from the package itself; nothing is written.

    Returns:
        Images, uint8 `(10000, 28, 28)`, 0 to 255, and labels, int64 `(10000,)`.
    """
    return (
        _read("t10k-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
        _read("t10k-labels-idx1-ubyte.gz", 8).long(),
    )


def _read(name: str, header_size: int) -> Tensor:
    contents = gzip.decompress((Path(__file__).parent / name).read_bytes())
    return torch.from_numpy(np.frombuffer(contents, np.uint8, offset=header_size).copy())
