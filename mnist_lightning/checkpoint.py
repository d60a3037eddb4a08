"""A file with trained weights -> an eval-mode network, or a clear error.

A file may come from a stranger: no code in it runs, and the sizes that it states are compared with
the weights that it holds before a network is built, so that a small file takes little memory and
time.
"""

import hashlib
import io
import json
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet, Ensemble, Network, build, kinds, networks_of
from mnist_lightning.untrusted import check_written, unpack

# Incremented when a checkpoint's contents change so that older code can't read them.
CHECKPOINT_FORMAT = 1

# ConvNet's arguments and their defaults.
NETWORK_SETTINGS = {name: p.default for name, p in signature(ConvNet).parameters.items()}

# How a network was trained whose file does not say, since the setting came later.
BEFORE = {"standardize": False}

# Likewise of a run, which goes on as it began, whatever base.yaml says by now.
RUN_BEFORE = {
    "hyper_parameters": {"label_smoothing": 0.0, "temperature": 1.0},
    "datamodule_hyper_parameters": {"focus": 1.0},
}

# Types that a file may hold instead: JSON has no tuples, and a person writes 0 for 0.0.
ALSO = {tuple: (tuple, list), float: (float, int)}

# The network that is used if no checkpoint is named; README.md says how it was trained.
PRETRAINED = Path(__file__).parent / "pretrained.safetensors"

# What this project and Lightning use of a checkpoint unchecked: its type, and its values' type.
TYPES = {
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
    "made_with": (dict, object),
    "epoch_loss": (list, float),
}
NEEDED = {"epoch", "global_step", "pytorch-lightning_version", "state_dict"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `fit` wrote, and run no code that it may carry.

    Args:
        path: A file's path; no address. A `.safetensors` file is one without a run's progress.

    Returns:
        Lightning's checkpoint, with its tensors on the CPU. Settings that it lacks, since they are
        newer, have their defaults. Weights of a network that was compiled have its own names.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is not a whole checkpoint of this project, or its weights are not
            those of the network that its settings describe.
    """
    if Path(path).suffix == ".safetensors":
        return _as_checkpoint(Path(path))
    if not Path(path).is_file():  # reading a pipe might never end
        raise FileNotFoundError(f"there is no checkpoint file {path}")
    try:
        checkpoint = unpack(Path(path).read_bytes())
    except OSError:  # the disk's fault, not the file's
        raise
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it") from error
    except Exception as error:  # its type depends on where the damage is
        raise UserError(f"{path} is damaged or not a checkpoint") from error
    format_ = checkpoint.get("mnist_lightning_format") if isinstance(checkpoint, dict) else None
    if not isinstance(format_, int):
        raise UserError(f"{path} is not a checkpoint of mnist_lightning")
    if format_ > CHECKPOINT_FORMAT:
        raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
    for name in NEEDED | TYPES.keys() & checkpoint.keys():
        if not _has_type(checkpoint.get(name), *TYPES[name]):
            raise UserError(f"{path} is not a checkpoint of mnist_lightning: look at its {name}")
    for name in RUN_BEFORE.keys() & checkpoint.keys():
        checkpoint[name] = RUN_BEFORE[name] | checkpoint[name]
    saved = checkpoint.get("hyper_parameters", {})
    checkpoint["hyper_parameters"] = NETWORK_SETTINGS | BEFORE | saved
    checkpoint["state_dict"] = {
        name.replace("_orig_mod.", ""): weight for name, weight in checkpoint["state_dict"].items()
    }
    _compare(path, *_network_of(checkpoint))
    return checkpoint


def to_contents(checkpoint: dict[str, Any]) -> bytes:
    """Return the file of a checkpoint that `read_checkpoint` is to read.

    Raises:
        UserError: If it could not, for a kind of value that a callback or the like keeps.
    """
    file = io.BytesIO()
    torch.save(checkpoint, file)
    contents = file.getvalue()
    try:
        check_written(contents)
    except ValueError as error:
        raise UserError(
            f"a checkpoint can't hold what this run would save, {error}: let callbacks and "
            "hyperparameters keep plain values and tensors"
        ) from error
    return contents


def load(*paths: str | Path) -> Network | Ensemble:
    """Load a trained network, ready to use.

    Args:
        paths: A checkpoint that `fit` wrote, or a `.safetensors` file that `export` wrote; several
            make an ensemble; none stands for the trained network that comes with the package.

    Returns:
        The network in eval mode, on the CPU: float `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If the file is damaged, or not of this project, or of another network, or its
            weights are not finite.
    """
    networks = [_load(Path(path)) for path in paths or [PRETRAINED]]
    return networks[0] if len(networks) == 1 else Ensemble(networks).eval()


def to_safetensors(network: Network | Ensemble) -> bytes:
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


def _as_checkpoint(path: Path) -> dict[str, Any]:
    settings, weights = _read_safetensors(path)
    if any(each != settings[0] for each in settings):
        raise UserError(f"{path} holds networks of several kinds, which only read and report take")
    one = {"network": settings[0]} if "class_path" in settings[0] else settings[0]
    return {
        "epoch": 0,
        "global_step": 0,
        "pytorch-lightning_version": version("lightning"),
        "mnist_lightning_format": CHECKPOINT_FORMAT,
        "state_dict": {f"network.{name}": weight for name, weight in weights.items()},
        "hyper_parameters": {**NETWORK_SETTINGS, **BEFORE, **one, "members": len(settings)},
    }


def _load(path: Path) -> Network | Ensemble:
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


def _build(settings: list[dict[str, Any]]) -> Network | Ensemble:
    networks = [build(arguments) for arguments in settings]
    return networks[0] if len(networks) == 1 else Ensemble(networks)


def _network_of(checkpoint: dict[str, Any]) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    """Return each member's settings, none if there can't be that many, and all weights."""
    weights = {
        name.removeprefix("network."): weight
        for name, weight in checkpoint["state_dict"].items()
        if name.startswith("network.")
    }
    saved = checkpoint["hyper_parameters"]
    number = saved.get("members", 1)
    fits = isinstance(number, int) and 0 < number <= len(weights)
    one = saved.get("network") or {name: saved[name] for name in NETWORK_SETTINGS}
    return [one] * (number if fits else 0), weights


def _compare(path: str | Path, settings: list[dict[str, Any]], weights: dict[str, Tensor]) -> None:
    """Refuse settings that do not build these weights, before memory is allocated for them."""
    for name in {each["class_path"] for each in settings if _has_class(each)} - kinds().keys():
        raise UserError(
            f"{path} holds a network of another class, {name}: give --network {name}, or import it "
            "first if you trust it"
        )
    try:
        layers = 0
        for arguments in settings:
            if _has_class(arguments):
                continue
            for name, value in arguments.items():
                expected = type(NETWORK_SETTINGS[name])
                if not isinstance(value, ALSO.get(expected, expected)):
                    raise TypeError(f"{name} is {type(value)}")
            layers += len(arguments["channels"]) * arguments.get("convolutions", 1)
        if not 1 <= max(layers, len(settings)) <= len(weights):
            raise ValueError(f"{layers} layers of {len(weights)} weights")
        with torch.device("meta"):  # where shapes take no memory
            network = _build(settings)
        network.load_state_dict({name: w.to("meta") for name, w in weights.items()})
    except Exception as error:  # its type depends on what does not fit
        raise UserError(f"{path} holds another network than this version builds") from error


def _has_class(settings: Any) -> bool:
    """Tell whether settings name a class, with its arguments, as `network.build` takes them."""
    is_named = isinstance(settings, dict) and isinstance(settings.get("class_path"), str)
    return is_named and isinstance(settings.get("init_args"), dict)


def _has_type(value: Any, type_: type, value_type: type) -> bool:
    if not isinstance(value, type_):
        return False
    if isinstance(value, dict):
        return all(isinstance(k, str) and isinstance(v, value_type) for k, v in value.items())
    return not isinstance(value, list) or all(isinstance(entry, value_type) for entry in value)


def _read_safetensors(path: Path) -> tuple[list[dict[str, Any]], dict[str, Tensor]]:
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}
        if not {"mnist_lightning_format", "members", "sha256"} <= metadata.keys():
            raise UserError(f"{path} was not written by mnist_lightning")
        # The format itself has no checksum. Early files have one of the weights alone.
        of_settings = _digest_of_settings(metadata)
        if metadata.get("settings_sha256", of_settings) != of_settings:
            raise UserError(f"{path} is damaged: its settings fail their checksum")
        if int(metadata["mnist_lightning_format"]) > CHECKPOINT_FORMAT:
            raise UserError(f"{path} was written by a newer mnist_lightning: update this one")
        if metadata["sha256"] != _digest(weights):
            raise UserError(f"{path} is damaged: its weights fail their checksum")
        members = json.loads(metadata["members"])
        settings = [each if "class_path" in each else BEFORE | each for each in members]
    except (OSError, UserError):
        raise
    except MemoryError as error:
        raise UserError(f"{path}: there is not enough memory to read it") from error
    except Exception as error:  # its type depends on where the damage is
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
