"""The writers that settings are chosen by: a quarter of MNIST's training images is theirs."""

from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from mnist_lightning.data import splits

SPLIT: dict[str, Any] = {"split": "writers", "val_size": 15_000}  # of `MNISTDataModule`
FLAGS = [f"--data.{name}={value}" for name, value in SPLIT.items()]  # of `fit`


def held_out(labels: Tensor) -> np.ndarray:
    """Return the indices of the images that `fit` with `FLAGS` holds out, int64 `(N,)`.

    Args:
        labels: int64 `(60_000,)`, of all training images.
    """
    return splits.held_out(Path("data"), labels, SPLIT["val_size"], SPLIT["split"], 0)
