"""A run's folder: its name, its newest checkpoint and its curves; no Lightning."""

import re
from pathlib import Path
from typing import Any

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.errors import UserError

Curves = dict[str, tuple[list[int], list[float]]]


def version_folder(version: int | str) -> str:
    """Return the name of a version's folder, as TensorBoardLogger gives it."""
    return version if isinstance(version, str) else f"version_{version}"


def run_folder(checkpoint: str | Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    return Path(checkpoint).resolve().parent.parent


def versions(folder: Path) -> list[Path]:
    """Return the folders of a name's runs, newest first.

    Numbered versions come first, by number; then those with other names, by the time at which they
    started, which is in the names of their event files. The file system's times are not used: a
    copy, or a clock that was set, changes them.

    Args:
        folder: The name's folder; it need not exist.

    Raises:
        OSError: If it can't be read.
    """

    def order(run: Path) -> tuple[bool, int]:
        number = re.fullmatch(r"version_(\d+)", run.name)
        starts = (re.match(r"events\.out\.tfevents\.(\d+)", path.name) for path in _entries(run))
        start = min((int(time[1]) for time in starts if time), default=0)
        return bool(number), int(number[1]) if number else start

    return sorted((path for path in _entries(folder) if path.is_dir()), key=order, reverse=True)


def newest_checkpoint(run: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Find a run's newest whole checkpoint: the one with the most steps, `last.ckpt` if tied.

    Each file is read once.

    Args:
        run: The run's folder; it need not exist.

    Returns:
        Its path, or None if there is none; its contents; and a line for each file that was skipped
        because it is damaged, is not a file, or has been removed meanwhile.

    Raises:
        OSError: If the folder or a file in it can't be read.
    """
    newest, contents, skipped = None, dict[str, Any](), list[str]()
    for path in _entries(run / "checkpoints"):
        if path.suffix != ".ckpt":
            continue
        try:
            checkpoint = read_checkpoint(path)
        except (UserError, FileNotFoundError) as error:
            skipped.append(str(error))
            continue
        steps, most = checkpoint["global_step"], contents.get("global_step", -1)
        if steps > most or (steps == most and path.name == "last.ckpt"):
            newest, contents = path, checkpoint
    return newest, contents, skipped


def read_curves(folder: Path) -> Curves:
    """Read the scalars that a run logged from TensorBoard's event files in its folder.

    Returns:
        Each curve's steps and values, by name; of a damaged file, those before the damage.

    Raises:
        UserError: If something named like an event file is not a file, or memory runs out.
        OSError: If one can't be read.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in folder.glob("*tfevents*"):
        if not path.is_file():  # reading a pipe might never end
            raise UserError(f"{path} is not a file: move it elsewhere")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    try:
        events.Reload()
    except OSError:
        raise
    except MemoryError as error:
        raise UserError(f"{folder}: there is not enough memory to read its curves") from error
    except Exception:  # of many types; after most damage TensorBoard just stops reading
        pass
    curves: Curves = {}
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        curves[name] = [event.step for event in values], [event.value for event in values]
    return curves


def _entries(folder: Path) -> list[Path]:
    """Return what is in a folder, or nothing if there is no such folder.

    Not by `glob`, to which a folder that can't be read is an empty one.
    """
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        if folder.is_symlink():  # to a disk that is not mounted now
            raise
        return []
