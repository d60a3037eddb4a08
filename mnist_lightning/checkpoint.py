"""A file with trained weights -> an eval-mode network, or a clear error."""

import hashlib
import json
import zipfile
from inspect import signature
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet, Ensemble, networks_of

# Goes up when a checkpoint's contents change so that older code can't read them.
CHECKPOINT_FORMAT = 1

# ConvNet's arguments and their defaults, of all that a run's checkpoint knows.
NETWORK_SETTINGS = {name: each.default for name, each in signature(ConvNet).parameters.items()}

# What the tools use where no checkpoint is named; README.md says how it was made.
PRETRAINED = Path(__file__).parent / "pretrained.safetensors"


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `fit` wrote, and run no code that it may carry.

    Args:
        path: A file's path; no address.

    Returns:
        Lightning's checkpoint, with its tensors on the CPU. Settings that came after it have
        their defaults.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not a whole checkpoint of this project.
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
        raise UserError(f"{path} is damaged or not a checkpoint") from error
    if damaged is not None:
        raise UserError(f"{path} is damaged: {damaged} in it fails its checksum")
    format_ = checkpoint.get("mnist_lightning_format") if isinstance(checkpoint, dict) else None
    if not isinstance(format_, int):
        raise UserError(f"{path} is not a checkpoint of mnist_lightning")
    if format_ > CHECKPOINT_FORMAT:
        raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
    checkpoint["hyper_parameters"] = NETWORK_SETTINGS | checkpoint.get("hyper_parameters", {})
    return checkpoint


def load(*paths: str | Path) -> ConvNet | Ensemble:
    """Load a trained network, ready to use.

    Args:
        paths: A checkpoint that `fit` wrote, or a `.safetensors` file that `export` wrote; several
            for an ensemble of them all; none for the trained network that comes with the package.

    Returns:
        The network in eval mode, on the CPU: float `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is damaged, or not of this project, or of another network.
    """
    networks = [_load(Path(path)) for path in paths or [PRETRAINED]]
    return networks[0] if len(networks) == 1 else Ensemble(networks).eval()


def to_safetensors(network: ConvNet | Ensemble) -> bytes:
    """Return a network's weights, with what `load` needs to build it, as a safetensors file.

    Args:
        network: The network.

    Returns:
        The file's contents.
    """
    weights = {name: weight.contiguous() for name, weight in network.state_dict().items()}
    metadata = {
        "mnist_lightning_format": str(CHECKPOINT_FORMAT),
        "members": json.dumps([member.settings for member in networks_of(network)]),
        "sha256": _digest(weights),
    }
    return safetensors.torch.save(weights, metadata)


def _load(path: Path) -> ConvNet | Ensemble:
    if path.suffix == ".safetensors":
        settings, weights = _read_safetensors(path)
    else:
        checkpoint = read_checkpoint(path)
        saved = checkpoint["hyper_parameters"]
        one = {name: saved[name] for name in NETWORK_SETTINGS}
        settings = [one] * saved.get("members", 1)
        weights = {
            name.removeprefix("network."): weight
            for name, weight in checkpoint["state_dict"].items()
            if name.startswith("network.")
        }
    try:
        networks = [ConvNet(**each) for each in settings]
        network = networks[0] if len(networks) == 1 else Ensemble(networks)
        network.load_state_dict(weights)
    except (KeyError, TypeError, RuntimeError) as error:
        raise UserError(f"{path} holds another network than this version builds") from error
    return network.to(memory_format=torch.channels_last).eval()


def _read_safetensors(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
    except safetensors.SafetensorError as error:
        raise UserError(f"{path} is damaged or not a safetensors file") from error
    if not {"mnist_lightning_format", "members", "sha256"} <= metadata.keys():
        raise UserError(f"{path} was not written by mnist_lightning")
    if int(metadata["mnist_lightning_format"]) > CHECKPOINT_FORMAT:
        raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
    if metadata["sha256"] != _digest(weights):  # the format itself has no checksum
        raise UserError(f"{path} is damaged: its weights fail their checksum")
    return json.loads(metadata["members"]), weights


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
