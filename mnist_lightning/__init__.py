"""MNIST in PyTorch Lightning: a small CNN, its data and its command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mnist_lightning.checkpoint import load
from mnist_lightning.images import Reading, read
from mnist_lightning.network import ConvNet

if TYPE_CHECKING:
    from mnist_lightning.classifier import MNISTClassifier
    from mnist_lightning.data import MNISTDataModule

__all__ = ["ConvNet", "MNISTClassifier", "MNISTDataModule", "Reading", "load", "read"]


def __getattr__(name: str) -> Any:
    """Import Lightning for those who train only: it takes as long as all else together."""
    rooms = {"MNISTClassifier": "classifier", "MNISTDataModule": "data"}
    if name not in rooms:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{rooms[name]}"), name)
