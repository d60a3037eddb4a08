"""Whose mistake an exception is, and what of Lightning's warnings a user sees."""

import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from tqdm import tqdm

from mnist_lightning.errors import UserError
from mnist_lightning.text import printable
from mnist_lightning.training.progress import drop_unwanted_lines


@contextmanager
def mistakes_named() -> Iterator[None]:
    """Make a `UserError` of what Lightning raises for a user's mistake; a bug stays what it is."""
    try:
        yield
    except MisconfigurationException as error:  # Lightning's own word for a user's mistake
        raise UserError(str(error)) from error
    except ModuleNotFoundError as error:
        raise UserError(str(error)) from error
    except Exception as error:
        if isinstance(error, UserError | OSError):
            raise
        if _while_restoring(error):
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            line = f"the checkpoint does not fit this run, start a new one ({reason})"
            raise UserError(line) from error
        if isinstance(error, ValueError | RuntimeError) and _raised_by_lightning(error):
            raise UserError(str(error)) from error
        callback = _lightnings_callback(error)
        if callback:
            reason = str(error) or type(error).__name__
            raise UserError(f"{callback} does not work with this network: {reason}") from error
        raise


def quieten() -> None:
    """Show each warning in a line, and none that no user can do anything about."""
    # `test` and its like need none of the callbacks that `fit` had.
    warnings.filterwarnings(
        "ignore", message=".*callbacks used to create the checkpoint need to be"
    )
    # A user's own ModelCheckpoint in a run that resumes; `before_fit` looks after the others.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    drop_unwanted_lines()
    warnings.showwarning = _show_warning
    threading.excepthook = _explain_once


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Show a warning without the path of whose code it is, above the bars if there are any."""
    tqdm.write(f"warning: {printable(' '.join(str(message).split()))}", file=sys.stderr)


def _while_restoring(error: Exception) -> bool:
    """Tell whether Lightning was reading a checkpoint: it looks at few of its parts before use."""
    frames = traceback.extract_tb(error.__traceback__)
    return any(Path(frame.filename).name == "checkpoint_connector.py" for frame in frames)


def _raised_by_lightning(error: Exception) -> bool:
    """Tell whether Lightning itself refuses, as it does what does not go together."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return Path(last.filename).is_relative_to(Path(str(pl.__file__)).parent)


def _lightnings_callback(error: Exception) -> str:
    """Return the name of Lightning's own callback that failed, "" if other code may be at fault."""
    name = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        owner = type(frame.f_locals.get("self"))
        if owner.__module__.startswith("lightning.pytorch.callbacks."):
            name = owner.__name__
        elif not frame.f_globals["__name__"].startswith(("lightning.", "torch.")):
            name = ""
    return name


def _explain_once(failure: threading.ExceptHookArgs) -> None:
    # If its thread can't write a file, TensorBoard raises the same error in the main one.
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)
