"""A checkpoint's path -> an eval-mode network, or a clear error."""

from pathlib import Path
from typing import Any

import torch

from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.network import ConvNet


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `fit` wrote, without running any code that it may carry.

    Args:
        path: A file's path.

    Returns:
        Lightning's checkpoint, with its tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a whole checkpoint of this project.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises seven kinds, by where the damage is
        raise ValueError(f"{path} is not a checkpoint, or a damaged one") from error
    if not isinstance(checkpoint, dict) or "datamodule_hyper_parameters" not in checkpoint:
        raise ValueError(f"{path} is not a checkpoint of mnist_lightning")
    return checkpoint


def load(path: str | Path) -> ConvNet:
    """Load a trained network, ready to use.

    Args:
        path: A checkpoint that `fit` wrote.

    Returns:
        The network in eval mode, on the CPU: float `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a whole checkpoint of this project.
    """
    checkpoint = read_checkpoint(path)
    classifier = MNISTClassifier(**checkpoint["hyper_parameters"])
    classifier.load_state_dict(checkpoint["state_dict"])
    return classifier.network.eval()
