"""A file with trained weights -> an eval-mode network, or a clear error.

Files come from strangers too: no code in one runs, and what it says of sizes is compared with what
it holds before anything is made of it, so that a small file takes little memory and time.
"""

import hashlib
import json
from inspect import signature
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet, Ensemble, networks_of
from mnist_lightning.untrusted import unpack

# Goes up when a checkpoint's contents change so that older code can't read them.
CHECKPOINT_FORMAT = 1

# ConvNet's arguments and their defaults, of all that a run's checkpoint knows.
NETWORK_SETTINGS = {name: each.default for name, each in signature(ConvNet).parameters.items()}

# What stands for other kinds in a file: JSON has no tuples, and a person writes 0 for 0.0.
ALSO = {tuple: (tuple, list), float: (float, int)}

# What the tools use where no checkpoint is named; README.md says how it was made.
PRETRAINED = Path(__file__).parent / "pretrained.safetensors"

# What this project and Lightning take from a checkpoint without a look: its kind, and its entries'.
KINDS = {
    "epoch": (int, object),
    "global_step": (int, object),
    "pytorch-lightning_version": (str, object),
    "state_dict": (dict, Tensor),
    "hyper_parameters": (dict, object),
    "datamodule_hyper_parameters": (dict, object),
    "callbacks": (dict, dict),
    "loops": (dict, dict),
    "optimizer_states": (list, dict),
    "lr_schedulers": (list, dict),
}
NEEDED = {"epoch", "global_step", "pytorch-lightning_version", "state_dict"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `fit` wrote, and run no code that it may carry.

    Args:
        path: A file's path; no address.

    Returns:
        Lightning's checkpoint, with its tensors on the CPU. Settings that came after it have
        their defaults.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not a whole checkpoint of this project, or its weights are not
            those of the network that its settings describe.
    """
    if not Path(path).is_file():  # a pipe, say, would have no end
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        checkpoint = unpack(Path(path).read_bytes())
    except OSError:  # the disk's fault, not the file's
        raise
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it") from error
    except Exception as error:  # of many kinds, by where the damage is
        raise UserError(f"{path} is damaged or not a checkpoint") from error
    format_ = checkpoint.get("mnist_lightning_format") if isinstance(checkpoint, dict) else None
    if not isinstance(format_, int):
        raise UserError(f"{path} is not a checkpoint of mnist_lightning")
    if format_ > CHECKPOINT_FORMAT:
        raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
    for name in NEEDED | KINDS.keys() & checkpoint.keys():
        if not _is_of_kind(checkpoint.get(name), *KINDS[name]):
            raise UserError(f"{path} is not a checkpoint of mnist_lightning: look at its {name}")
    checkpoint["hyper_parameters"] = NETWORK_SETTINGS | checkpoint.get("hyper_parameters", {})
    _compare(path, *_network_of(checkpoint))
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
        UserError: If the file is damaged, or not of this project, or of another network, or its
            weights are not finite.
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
    metadata["settings_sha256"] = _digest_of_settings(metadata)
    return safetensors.torch.save(weights, metadata)


def _load(path: Path) -> ConvNet | Ensemble:
    if path.suffix == ".safetensors":
        settings, weights = _read_safetensors(path)
    else:
        settings, weights = _network_of(read_checkpoint(path))
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise UserError(f"{path} is of no use: {name} in it is not finite")
    network = _build(settings)
    network.load_state_dict(weights)
    return network.to(memory_format=torch.channels_last).eval()


def _build(settings: list[dict[str, Any]]) -> ConvNet | Ensemble:
    networks = [ConvNet(**each) for each in settings]
    return networks[0] if len(networks) == 1 else Ensemble(networks)


def _network_of(checkpoint: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return the settings of each member, none where there can't be so many, and all weights."""
    weights = {
        name.removeprefix("network."): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    saved = checkpoint["hyper_parameters"]
    number = saved.get("members", 1)
    fits = isinstance(number, int) and 0 < number <= len(weights)
    return [{name: saved[name] for name in NETWORK_SETTINGS}] * (number if fits else 0), weights


def _compare(path: str | Path, settings: list[dict[str, Any]], weights: dict[str, Tensor]) -> None:
    """Refuse settings that do not build these weights, at no cost beyond the weights' own."""
    try:
        layers = 0
        for each in settings:
            for name, value in each.items():
                kind = type(NETWORK_SETTINGS[name])
                if not isinstance(value, ALSO.get(kind, kind)):
                    raise TypeError(f"{name} is {type(value)}")
            layers += len(each["channels"]) * each.get("convolutions", 1)
        if not 1 <= max(layers, len(settings)) <= len(weights):
            raise ValueError(f"{layers} layers of {len(weights)} weights")
        with torch.device("meta"):  # where shapes take no memory
            network = _build(settings)
        network.load_state_dict({name: w.to("meta") for name, w in weights.items()})
    except Exception as error:  # of many kinds, by what does not fit
        raise UserError(f"{path} holds another network than this version builds") from error


def _is_of_kind(value: Any, kind: type, of_entries: type) -> bool:
    if not isinstance(value, kind):
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and isinstance(v, of_entries) for k, v in value.items())
    return not isinstance(value, list) or all(isinstance(entry, of_entries) for entry in value)


def _read_safetensors(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
        if not {"mnist_lightning_format", "members", "sha256"} <= metadata.keys():
            raise UserError(f"{path} was not written by mnist_lightning")
        # The format itself has no checksum. The first files had one of the weights alone.
        of_settings = _digest_of_settings(metadata)
        if metadata.get("settings_sha256", of_settings) != of_settings:
            raise UserError(f"{path} is damaged: its settings fail their checksum")
        if int(metadata["mnist_lightning_format"]) > CHECKPOINT_FORMAT:
            raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
        if metadata["sha256"] != _digest(weights):
            raise UserError(f"{path} is damaged: its weights fail their checksum")
        settings = json.loads(metadata["members"])
    except (OSError, UserError):
        raise
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it") from error
    except Exception as error:  # of many kinds, by where the damage is
        raise UserError(f"{path} is damaged or not a safetensors file") from error
    _compare(path, settings, weights)
    return settings, weights


def _digest(weights: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _digest_of_settings(metadata: dict[str, str]) -> str:
    text = metadata["mnist_lightning_format"] + metadata["members"]
    return hashlib.sha256(text.encode()).hexdigest()
