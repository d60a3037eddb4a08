"""A run's folder: its name, its newest checkpoint and its curves; no Lightning."""

import csv
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.errors import UserError

# Where runs lie that have no name of their own, because no logger of theirs has a folder.
UNNAMED = Path("runs/mnist")

Curves = dict[str, tuple[list[int], list[float]]]

_EVENTS = re.compile(r"events\.out\.tfevents\.(\d{1,11})\.")


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
        return bool(number), int(number[1]) if number else _start(run)

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


class Run(NamedTuple):
    """What is known of a run, as far as its files say.

    Attributes:
        folder: Its folder.
        started: Local date and time.
        epochs: How many epochs its newest checkpoint has seen, and how many were planned.
        accuracy: The best one on validation images, in [0, 1].
        errors: How many of them were misread then.
        notes: A line for each file that is damaged.
    """

    folder: Path
    started: str | None
    epochs: str | None
    accuracy: float | None
    errors: int | None
    notes: list[str]


def find_runs(folder: Path) -> list[Run]:
    """Return all runs in a folder, at any depth, those that started last first."""
    return [_look_at(run) for run in _folders(folder)]


def newest_run(folder: Path) -> Path | None:
    """Return the folder of the run that started last, of all in a folder that kept a checkpoint."""
    return next((run for run in _folders(folder) if any(run.glob("checkpoints/*.ckpt"))), None)


def _folders(folder: Path) -> list[Path]:
    """Return the folders of all runs in a folder, those that started last first."""
    found = []
    for path, folders, files in os.walk(folder):
        if "checkpoints" in folders or "config.yaml" in files or any(map(_EVENTS.match, files)):
            found.append(Path(path))
            folders.clear()
    return sorted(found, key=lambda run: (-_start(run), run))


def _look_at(folder: Path) -> Run:
    notes, checkpoint, curves = list[str](), dict[str, Any](), Curves()
    try:
        _, checkpoint, notes = newest_checkpoint(folder)
        curves = read_curves(folder)
    except (OSError, UserError) as error:
        notes.append(str(error))
    start = _start(folder)
    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(start)) if start else None
    planned = checkpoint.get("made_with", {}).get("epochs")
    done = f"{_epochs(checkpoint)}" if checkpoint else None
    epochs = f"{done} of {planned}" if done and planned else done
    scores = curves.get("val/accuracy", ([], []))[1] or _best_score(checkpoint)
    errors = curves.get("val/errors", ([], []))[1]
    best = max(range(len(scores)), key=scores.__getitem__, default=None)
    if best is None:
        return Run(folder, started, epochs, None, None, notes)
    fits = len(errors) == len(scores)
    return Run(folder, started, epochs, scores[best], int(errors[best]) if fits else None, notes)


def _epochs(checkpoint: dict[str, Any]) -> int:
    """Return the number of epochs that are done; a checkpoint may be saved within one."""
    try:
        return int(checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):
        return checkpoint["epoch"] + 1


def _best_score(checkpoint: dict[str, Any]) -> list[float]:
    """Return the best validation accuracy that a checkpoint remembers, if it does."""
    for state in checkpoint.get("callbacks", {}).values():
        score = state.get("best_model_score")
        if state.get("monitor") == "val/accuracy" and isinstance(score, Tensor):
            return [float(score)] if score.numel() == 1 else []
    return []


def read_curves(folder: Path) -> Curves:
    """Read the scalars that a run logged, from TensorBoard's event files or metrics.csv.

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
    logger = logging.getLogger("tensorboard")  # it warns of the graph of each time that a run began
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        events.Reload()
    except OSError:
        raise
    except MemoryError as error:
        raise UserError(f"{folder}: there is not enough memory to read its curves") from error
    except Exception:  # of many types; after most damage TensorBoard just stops reading
        pass
    finally:
        logger.setLevel(level)
    curves: Curves = {}
    for step, row in read_metrics(folder / "metrics.csv"):
        for name, number in row.items():
            steps, values = curves.setdefault(name, ([], []))
            steps.append(step)
            values.append(number)
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        curves[name] = [event.step for event in values], [event.value for event in values]
    return curves


def read_metrics(path: Path) -> Iterator[tuple[int, dict[str, float]]]:
    """Yield the step and the values of each row that CSVLogger wrote, but of damaged ones.

    Args:
        path: Its `metrics.csv`; nothing comes of one that is not there.
    """
    for row in csv.DictReader(path.read_text().splitlines()) if path.is_file() else ():
        with suppress(KeyError, TypeError, ValueError):
            yield int(row.pop("step")), {name: float(row[name]) for name in row if row[name]}


def _start(run: Path) -> int:
    """Return when a run first started, by its event files, or its config.yaml; 0 if unknown."""
    config = run / "config.yaml"
    written = int(config.stat().st_mtime) if config.is_file() else 0
    starts = (_EVENTS.match(path.name) for path in _entries(run))
    return min((int(start[1]) for start in starts if start), default=written)


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
