"""A command line with --ckpt_path: which checkpoint, whose settings, and the folder to go on in."""

import sys
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_only

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.errors import UserError
from mnist_lightning.runs import newest_checkpoint, run_folder, version_folder

# Where the data lie and how they are cut for evaluation are no part of what a checkpoint is.
FREE_DATA_SETTINGS = {"root", "eval_batch_size"}
# What `validate`, `test` and `predict` must know to read the images that the run did.
IMAGE_SETTINGS = {"dataset", "val_size", "train_size", "split_seed"}

say = rank_zero_only(print)


def use_checkpoint(subcommand: str, config: Namespace, given: Namespace) -> bool:
    """Take from the checkpoint that `config.ckpt_path` names what the user did not give.

    For `fit`, `auto` stands for the newest whole checkpoint of the run's name, and version where
    one is given, or for none where there is none.

    Args:
        subcommand: `fit`, `validate`, `test` or `predict`.
        config: Its settings, with their defaults; changed in place.
        given: Those of them that stand in files and flags.

    Returns:
        True where the checkpoint is the newest of a run, which then goes on in its own folder.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If none is named where one is needed, it is damaged or not of this project, or
            what was given contradicts it.
    """
    if subcommand == "fit" and config.ckpt_path == "auto":
        config.ckpt_path = _newest_of_name(config)
    if config.ckpt_path is None:
        if subcommand == "fit":
            return False
        raise UserError(f"{subcommand} needs --ckpt_path FILE, a checkpoint that fit wrote")
    checkpoint = _read(config.ckpt_path)
    _take("model", checkpoint["hyper_parameters"], config, given, refuse=True)
    data = checkpoint.get("datamodule_hyper_parameters", {})  # or a user's own data
    if subcommand != "fit":
        saved = {name: data[name] for name in sorted(IMAGE_SETTINGS & data.keys())}
        _take("data", saved, config, given, refuse=False)
        return False
    saved = {name: data[name] for name in sorted(data.keys() - FREE_DATA_SETTINGS)}
    _take("data", saved, config, given, refuse=True)
    if "averaging_state" in checkpoint and not _averages(config.trainer.callbacks):
        raise UserError(
            "the checkpoint's run averaged its weights, and this one would not: "
            "give the file or flag with EMAWeightAveraging that it was started with"
        )
    return _go_on_in_its_folder(config, checkpoint["global_step"])


def _newest_of_name(config: Namespace) -> str | None:
    if not _is_tensorboard(config.trainer.logger):
        raise UserError(
            "--ckpt_path auto looks in the TensorBoardLogger's folder: keep that logger"
        )
    folder = _name_folder(config.trainer.logger)
    version = config.trainer.logger.init_args.version
    if version is not None:
        folder /= version_folder(version)
    path, damaged = newest_checkpoint(folder)
    for line in damaged:
        say(f"note: {line}", file=sys.stderr)
    say(f"going on from {path}" if path else f"no checkpoint in {folder}: starting afresh")
    return str(path) if path else None


def _read(path: str) -> dict[str, Any]:
    """Read a checkpoint; where it is damaged, name the newest whole one beside it."""
    try:
        return read_checkpoint(path)
    except UserError as error:
        folder = Path(path).parent
        other = newest_checkpoint(folder.parent)[0] if folder.name == "checkpoints" else None
        hint = f"; the newest whole one of its run is {other}" if other else ""
        raise UserError(f"{error}{hint}") from error


def _take(
    part: str, saved: dict[str, Any], config: Namespace, given: Namespace, refuse: bool
) -> None:
    """Put a checkpoint's settings where the user gave none; refuse or report a contradiction."""
    for name, value in saved.items():
        key = f"{part}.{name}"
        value = tuple(value) if isinstance(value, list) else value  # as the command line reads it
        if key not in given:
            config[key] = value
        elif config[key] != value:
            message = f"{key} is {config[key]} here and {value} in the checkpoint"
            if refuse:
                raise UserError(f"{message}: leave it out, or use another checkpoint")
            say(f"note: {message}; {config[key]} is used", file=sys.stderr)


def _go_on_in_its_folder(config: Namespace, global_step: int) -> bool:
    logger = config.trainer.logger
    folder = run_folder(config.ckpt_path)
    if not _is_tensorboard(logger) or folder.parent != _name_folder(logger).resolve():
        return False
    newest, _ = newest_checkpoint(folder)
    if newest is None or not newest.samefile(config.ckpt_path):
        return False  # the run's newer checkpoints and curves are not to be lost
    version = logger.init_args.version
    if version is not None and version_folder(version) != folder.name:
        return False  # the user wants another folder
    logger.init_args.version = folder.name
    # What the run had logged after this checkpoint will come again.
    logger.dict_kwargs = {"purge_step": global_step}
    return True


def _averages(callbacks: Any) -> bool:
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return any(each.class_path.endswith("WeightAveraging") for each in callbacks if each)


def _is_tensorboard(logger: Any) -> bool:
    return isinstance(logger, Namespace) and logger.class_path.endswith("TensorBoardLogger")


def _name_folder(logger: Namespace) -> Path:
    """Return the folder of all runs of the logger's name."""
    return Path(logger.init_args.save_dir) / (logger.init_args.name or "")
