"""A run's folder: what it is called, its newest checkpoint and its curves; without Lightning."""

from pathlib import Path

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.errors import UserError

Curves = dict[str, tuple[list[int], list[float]]]


def version_folder(version: int | str) -> str:
    """Return the name of a version's folder, as TensorBoardLogger gives it."""
    return version if isinstance(version, str) else f"version_{version}"


def run_folder(checkpoint: str | Path) -> Path:
    """Return the folder of the run that a checkpoint belongs to."""
    return Path(checkpoint).resolve().parent.parent


def newest_checkpoint(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint at any depth of a folder.

    Args:
        folder: A run's folder, or one of several runs; it need not exist.

    Returns:
        Its path, or None if there is none, and a line for each newer file that is damaged.
    """
    damaged: list[str] = []
    paths = folder.glob("**/checkpoints/*.ckpt")
    for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        try:
            read_checkpoint(path)
            return path, damaged
        except UserError as error:
            damaged.append(str(error))
    return None, damaged


def read_curves(folder: Path) -> Curves:
    """Read what a run logged, as far as its folder holds TensorBoard's event files.

    Returns:
        By name, steps and values of each curve; of a damaged file what comes before the damage.

    Raises:
        UserError: If what is called like an event file is none, or the memory does not suffice.
        OSError: If one can't be read.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for path in folder.glob("*tfevents*"):
        if not path.is_file():  # a pipe, say, would have no end
            raise UserError(f"{path} is not a file: move it elsewhere")
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 1})
    try:
        events.Reload()
    except OSError:
        raise
    except MemoryError as error:
        raise UserError(f"{folder}: there is not enough memory to read its curves") from error
    except Exception:  # of many kinds; TensorBoard itself ends without one at most damage
        pass
    curves: Curves = {}
    for name in events.Tags()["scalars"]:
        values = events.Scalars(name)
        curves[name] = [event.step for event in values], [event.value for event in values]
    return curves
