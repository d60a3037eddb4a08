"""A checkpoint's path -> an eval-mode network, or a clear error; how checkpoints are written."""

import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins import TorchCheckpointIO

from mnist_lightning.classifier import CHECKPOINT_FORMAT, MNISTClassifier
from mnist_lightning.files import replace_file
from mnist_lightning.network import ConvNet


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole at every moment, and reads none that is damaged."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint in place of the one before it.

        Raises:
            OSError: If it can't be written; the one before it is whole still.
        """
        contents = io.BytesIO()
        torch.save(checkpoint, contents)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), contents.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint, see `read_checkpoint`."""
        return read_checkpoint(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `fit` wrote, and run no code that it may carry.

    Args:
        path: A file's path; no address.

    Returns:
        Lightning's checkpoint, with its tensors on the CPU.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a whole checkpoint of this project.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        # torch.load does not look at the checksums: a flipped bit would be a wrong weight.
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        if damaged is None:
            checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:  # the disk's fault, not the file's
        raise
    except Exception as error:  # of seven kinds, by where the damage is
        raise ValueError(f"{path} is damaged or not a checkpoint") from error
    if damaged is not None:
        raise ValueError(f"{path} is damaged: {damaged} in it fails its checksum")
    format_ = checkpoint.get("mnist_lightning_format") if isinstance(checkpoint, dict) else None
    if not isinstance(format_, int):
        raise ValueError(f"{path} is not a checkpoint of mnist_lightning")
    if format_ > CHECKPOINT_FORMAT:
        raise ValueError(f"{path} was written by a newer mnist_lightning: update this one")
    return checkpoint


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint at any depth of a folder.

    Args:
        folder: A run's folder, or one of several runs; it need not exist.

    Returns:
        Its path, or None where there is none, and a line for each newer file that is damaged.
    """
    damaged: list[str] = []
    paths = folder.glob("**/checkpoints/*.ckpt")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path)
            return path, damaged
        except ValueError as error:
            damaged.append(str(error))
    return None, damaged


def load(path: str | Path) -> ConvNet:
    """Load a trained network, ready to use.

    Args:
        path: A checkpoint that `fit` wrote.

    Returns:
        The network in eval mode, on the CPU: float `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is not a whole checkpoint of this project, or of another network.
    """
    checkpoint = read_checkpoint(path)
    classifier = MNISTClassifier(**checkpoint["hyper_parameters"])
    try:
        classifier.load_state_dict(checkpoint["state_dict"])
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network than this version builds") from error
    return classifier.network.eval()
