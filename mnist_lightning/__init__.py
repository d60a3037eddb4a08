"""MNIST in PyTorch Lightning: a small CNN, its data and its command line."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mnist_lightning.checkpoint import load
    from mnist_lightning.data.datasets import save_set
    from mnist_lightning.data.module import MNISTDataModule
    from mnist_lightning.network import ConvNet, Ensemble, Network, ResNet
    from mnist_lightning.reading.reader import Page, Reading, read, read_images
    from mnist_lightning.training.classifier import MNISTClassifier
    from mnist_lightning.training.trainer import Trainer

__all__ = [
    "ConvNet",
    "Ensemble",
    "MNISTClassifier",
    "MNISTDataModule",
    "Network",
    "Page",
    "Reading",
    "ResNet",
    "Trainer",
    "load",
    "read",
    "read_images",
    "save_set",
]

_ROOMS = {
    "ConvNet": "network",
    "Ensemble": "network",
    "MNISTClassifier": "training.classifier",
    "MNISTDataModule": "data.module",
    "Network": "network",
    "Page": "reading.reader",
    "Reading": "reading.reader",
    "ResNet": "network",
    "Trainer": "training.trainer",
    "load": "checkpoint",
    "read": "reading.reader",
    "read_images": "reading.reader",
    "save_set": "data.datasets",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: torch and Lightning take seconds (PEP 562)."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)


def __dir__() -> list[str]:
    """Name what can be imported, for a notebook's tab key."""
    return __all__
