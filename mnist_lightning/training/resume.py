"""A command line with --ckpt_path or --init_weights: which file, and whose settings.

And which folder a run resumes in.
"""

import os
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from jsonargparse import Namespace
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities import rank_zero_only

from mnist_lightning.checkpoint import NETWORK_SETTINGS, PRETRAINED, read_checkpoint
from mnist_lightning.errors import UserError
from mnist_lightning.runs import (
    UNNAMED,
    newest_checkpoint,
    newest_run,
    read_metrics,
    run_folder,
    version_folder,
    versions,
)
from mnist_lightning.text import printable

# Settings that may differ from the checkpoint's.
FREE_DATA_SETTINGS = {"root", "eval_batch_size"}
# What `validate`, `test` and `predict` must know to read the images that the run did.
IMAGE_SETTINGS = {"dataset", "val_size", "train_size", "split", "split_seed"}


# What Lightning's callbacks search for at a run's start, and which setting it becomes.
SEARCHES = {"LearningRateFinder": "model.learning_rate", "BatchSizeFinder": "data.batch_size"}


class Start(NamedTuple):
    """The checkpoint that a command starts from.

    Attributes:
        path: Its file, as it was named.
        checkpoint: Its contents.
        is_newest: Whether it is the newest of its run, if the command is `fit`.
        in_place: Whether the run resumes in its own folder.
    """

    path: str
    checkpoint: dict[str, Any]
    is_newest: bool = False
    in_place: bool = False


def use_checkpoint(subcommand: str, config: Namespace, given: Namespace) -> Start | None:
    """Take from the checkpoint that `config.ckpt_path` names what the user did not give.

    For `fit`, `auto` stands for the newest whole checkpoint of the run's name, and version if one
    is given, or for none if there is none. For the others, no path stands for `best.ckpt` of the
    newest run below `runs`, or its `last.ckpt` if it has no best one; `best` and `last` for those,
    and `auto` for its newest.

    Args:
        subcommand: `fit`, `validate`, `test` or `predict`.
        config: Its settings, with their defaults; changed in place.
        given: Those of them that stand in files and flags.

    Returns:
        The checkpoint, read once; None if `fit` starts without one.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If a folder that is to be looked through can't be read.
        UserError: If none is named but one is needed, it is damaged or not of this project, or
            what was given contradicts it.
    """
    if subcommand != "fit" and config.ckpt_path in (None, "best", "last", "auto"):
        config.ckpt_path = _of_newest_run(subcommand, config.ckpt_path)
    if subcommand == "fit" and config.ckpt_path == "auto":
        start = _newest_of_name(config)
    elif config.ckpt_path is not None:
        start = _read(config.ckpt_path, subcommand)
    else:
        start = None
    config.ckpt_path = start and start.path
    if start is None:
        return None
    checkpoint = start.checkpoint
    config.init_weights = None  # it has begun
    if subcommand == "fit":
        _search_no_more(config, given)
    _take("model", checkpoint["hyper_parameters"], config, given, refuse=True)
    for name in ("network", "optimizer", "lr_scheduler"):
        config[name] = _as_choice(checkpoint["hyper_parameters"].get(name))
    data = checkpoint.get("datamodule_hyper_parameters", {})  # or a user's own data
    if subcommand != "fit":
        saved = {name: data[name] for name in sorted(IMAGE_SETTINGS & data.keys())}
        _take("data", saved, config, given, refuse=False)
        return start
    saved = {name: data[name] for name in sorted(data.keys() - FREE_DATA_SETTINGS)}
    _take("data", saved, config, given, refuse=True)
    if "averaging_state" in checkpoint and not _averages(config.trainer.callbacks):
        raise UserError(
            "the checkpoint's run averaged its weights, and this one would not: "
            "give the file or flag with EMAWeightAveraging that it was started with"
        )
    return start._replace(in_place=start.is_newest and _resume_in_place(config, checkpoint))


def use_network(config: Namespace, flags: Collection[str]) -> None:
    """Take the settings of the network from the file that `config.init_weights` names.

    They win over those of configuration files. The word `shipped` becomes the path of the network
    that comes with the package.

    Args:
        config: The settings of `fit`, with their defaults; changed in place.
        flags: Names of those that stand in flags.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is damaged or not of this project, or a flag contradicts it.
    """
    if config.init_weights == "shipped":
        config.init_weights = str(PRETRAINED)
    saved = read_checkpoint(config.init_weights)["hyper_parameters"]
    _take("model", {name: saved[name] for name in NETWORK_SETTINGS}, config, flags, refuse=True)
    _take("model", {"members": saved.get("members", 1)}, config, flags, refuse=True)
    here, there = config.model.network, saved.get("network")
    for flag in flags:
        name = flag.rpartition(".")[2]
        if flag == "network":
            ours, its = (each["class_path"] if each else "a ConvNet" for each in (here, there))
        elif flag.startswith("network."):
            ours, its = (each and each["init_args"].get(name) for each in (here, there))
        else:
            continue
        if ours != its:
            raise UserError(
                f"{flag} is {ours} here and {its} in {config.init_weights}: "
                "leave it out, or use another file"
            )
    config.model.network, config.network = there, _as_choice(there)


def _as_choice(choice: dict[str, Any] | None) -> Namespace | None:
    """Return the class that a checkpoint names, and its arguments, as the command line has them."""
    if not choice:
        return None
    arguments = Namespace(choice.get("init_args", {}))
    return Namespace(class_path=choice["class_path"], init_args=arguments)


def logger_with_folder(trainer: Namespace) -> Namespace | None:
    """Return the settings of the logger in whose folder a run lies, see `Trainer`."""
    loggers = trainer.logger if isinstance(trainer.logger, list) else [trainer.logger]
    kinds = ("TensorBoardLogger", "CSVLogger")
    settings = (logger for logger in loggers if isinstance(logger, Namespace))
    return next((each for each in settings if each.class_path.endswith(kinds)), None)


@rank_zero_only
def keep_metrics(logger: CSVLogger, step: int) -> None:
    """Let a CSVLogger that opens a folder anew, and removes its metrics, write them down again.

    Args:
        logger: The logger, before its first use.
        step: The first step that will come again.
    """
    for number, values in list(read_metrics(Path(logger.log_dir, "metrics.csv"))):
        if number < step:
            logger.log_metrics({**values}, number)
    logger.save()


@rank_zero_only
def _print(line: str, note: bool = False) -> None:
    print(printable(f"note: {line}" if note else line), file=sys.stderr if note else sys.stdout)


def _newest_of_name(config: Namespace) -> Start | None:
    folder, version = _name_folder(config.trainer), _version(config.trainer)
    if version is not None:
        folder /= version_folder(version)
    for run in versions(folder) if version is None else [folder]:
        path, checkpoint, skipped = newest_checkpoint(run)
        for line in skipped:
            _print(line, note=True)
        if path:
            _print(f"resuming from {path}")
            return Start(str(path), checkpoint, is_newest=True)
    _print(f"no checkpoint in {folder}: starting from scratch")
    return None


def _read(path: str, subcommand: str) -> Start:
    """Read a checkpoint; if it is damaged, name the newest whole one of its run."""
    if subcommand == "fit" and path.endswith(".safetensors"):
        raise UserError(f"{path} has no run's progress: start a new one, --init_weights {path}")
    run = run_folder(path) if Path(path).resolve().parent.name == "checkpoints" else None
    newest, checkpoint, _ = (
        newest_checkpoint(run) if run and subcommand == "fit" else (None, {}, [])
    )
    if newest and Path(path).exists() and newest.samefile(path):
        return Start(path, checkpoint, is_newest=True)
    try:
        checkpoint = read_checkpoint(path)
    except UserError as error:
        newest = newest_checkpoint(run)[0] if run else None
        hint = f"; the newest whole one of its run is {os.path.relpath(newest)}" if newest else ""
        raise UserError(f"{error}{hint}") from error
    if newest:
        line = f"starting a new version at step {checkpoint['global_step']}: the newest checkpoint "
        _print(f"{line}of this run is {os.path.relpath(newest)}", note=True)
    return Start(path, checkpoint)


def _take(part: str, saved: dict[str, Any], config: Namespace, given: Any, refuse: bool) -> None:
    """Take a checkpoint's settings that the user did not give; refuse or report contradictions."""
    for name, value in saved.items():
        key = f"{part}.{name}"
        value = tuple(value) if isinstance(value, list) else value  # as the command line reads it
        if key not in given or (name == "network" and _is_part_of(given[key], value)):
            config[key] = value
        elif config[key] != value:
            message = printable(f"{key} is {config[key]} here and {value} in the checkpoint")
            if refuse:
                raise UserError(
                    f"{message}: leave it out, give it as it is there, or use another checkpoint"
                )
            _print(f"{message}; {config[key]} is used", note=True)


def _is_part_of(given: Any, saved: Any) -> bool:
    """Tell whether a network is given by its name, which imports it, and no other arguments."""
    if not given or not saved or given["class_path"] != saved["class_path"]:
        return False
    arguments = given.get("init_args", {})
    return all(saved["init_args"].get(name) == it for name, it in arguments.items())


def _search_no_more(config: Namespace, given: Namespace) -> None:
    """Leave out the callbacks whose search the checkpoint's run has behind it, for its finding."""
    callbacks = config.trainer.callbacks
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
    names = [callback.class_path.rpartition(".")[2] for callback in callbacks]
    for name in SEARCHES.keys() & set(names):
        given.pop(SEARCHES[name], None)
        _print(f"{name} does not search again: the checkpoint has its {SEARCHES[name]}", note=True)
    kept = [each for each, name in zip(callbacks, names, strict=True) if name not in SEARCHES]
    if len(kept) < len(callbacks):
        config.trainer.callbacks = kept


def _resume_in_place(config: Namespace, checkpoint: dict[str, Any]) -> bool:
    """Let the logger write on in the checkpoint's run, if it is one of the logger's name."""
    folder = run_folder(config.ckpt_path)
    if folder.parent != _name_folder(config.trainer).resolve():
        return False
    version = _version(config.trainer)
    if version is not None and version_folder(version) != folder.name:
        return False  # the user wants another folder
    logger = logger_with_folder(config.trainer)
    if logger:
        logger.init_args.version = folder.name
    if logger and logger.class_path.endswith("TensorBoardLogger"):
        # What the run had logged after this checkpoint will come again.
        logger.dict_kwargs = {"purge_step": checkpoint["global_step"]}
    return True


def _averages(callbacks: Any) -> bool:
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(
        callback.class_path.endswith("WeightAveraging") for callback in callbacks if callback
    )


def _name_folder(trainer: Namespace) -> Path:
    """Return the folder of all runs of a name."""
    logger = logger_with_folder(trainer)
    if logger is None:
        return Path(trainer.default_root_dir or "", UNNAMED)
    return Path(logger.init_args.save_dir) / (logger.init_args.name or "")


def _version(trainer: Namespace) -> int | str | None:
    logger = logger_with_folder(trainer)
    return logger.init_args.version if logger else None


def _of_newest_run(subcommand: str, which: str | None) -> str:
    run = newest_run(Path("runs"))
    if run is None:
        raise UserError(
            f"{subcommand} needs --ckpt_path FILE, a checkpoint that fit wrote: runs/ has none"
        )
    if which == "auto":
        path, _, skipped = newest_checkpoint(run)
        if path is None:
            raise UserError("; ".join(skipped))
    else:
        best, last = run / "checkpoints/best.ckpt", run / "checkpoints/last.ckpt"
        path = last if which == "last" or (which is None and not best.exists()) else best
    _print(f"{subcommand} takes {path}, of the newest run")
    return str(path)
