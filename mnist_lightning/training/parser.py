"""The command line's parser: its help, its files of settings, its errors in one line."""

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser

from mnist_lightning.text import name_nearest, printable

# The configurations in the package, or in the clone that it is imported from.
CONFIGS = Path(__file__).parents[1] / "configs"
CONFIGS = CONFIGS if CONFIGS.is_dir() else Path(__file__).parents[2] / "configs"
BASE = CONFIGS / "base.yaml"

# Of the Trainer's many settings, those of daily use, which `--help` shows first.
DAILY = [
    f"trainer.{name}"
    for name in (
        "max_epochs",
        "accelerator",
        "devices",
        "precision",
        "logger",
        "callbacks",
        "log_every_n_steps",
        "accumulate_grad_batches",
        "gradient_clip_val",
        "max_time",
        "fast_dev_run",
        "enable_progress_bar",
    )
]


class Help(DefaultHelpFormatter):
    """Shows what a user of this project sets before Lightning's many other settings."""

    def add_arguments(self, actions: Iterable[Any]) -> None:
        """Add arguments, those of daily use first."""
        order = {name: place for place, name in enumerate(DAILY)}
        super().add_arguments(sorted(actions, key=lambda each: order.get(each.dest, len(order))))


class ConfigFile(ActionConfigFile):
    """`--config`, which also takes the name of a configuration that the package carries."""

    def __call__(self, parser: Any, cfg: Any, values: Any, option_string: Any = None) -> None:
        """Lay a file over what stands before it."""
        is_yaml = re.search(r"[{\n]|: |^-$", str(values))  # or stands for standard input
        if not is_yaml and not Path(values).exists():
            values = _shipped(values)
        before = callbacks_of(cfg)
        super().__call__(parser, cfg, values, option_string)
        parser.callbacks += [("", before), (str(values), callbacks_of(cfg))]


class Parser(LightningArgumentParser):
    """Reports a mistake in one line, without the usage of a hundred options above it.

    Args:
        ckpt_path: What `--help` says of `--ckpt_path`.
        settings: Those of LightningArgumentParser.
    """

    def __init__(self, ckpt_path: str = "", **settings: Any) -> None:
        super().__init__(formatter_class=Help, **settings)
        self.ckpt_path = ckpt_path
        self.subparsers: list[Parser] = []
        # Names of the callbacks that there are before and after each file, and the file.
        self.callbacks: list[tuple[str, list[str]]] = []

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and exit with 2."""
        flags = "".join(each.format_help() for each in [self, *self.subparsers])
        line = " ".join(name_nearest(message, flags).split())
        # Of a class that can't be taken jsonargparse says what else it tried, too.
        refused = r'Parser key "([\w.]+)": .* Errors: - (.+?) - Expected a .* Given value: (.+)$'
        line = re.sub(refused, r"--\1 \3: \2", line)
        self.exit(2, f"error: {printable(line)}\n")
        raise AssertionError


def without_trainers(arguments: list[str] | None) -> list[str]:
    """Return a command line without the trainer's flags, some of which need what stands in files.

    `--trainer.logger.name mine` says nothing of a class, which base.yaml names.
    """
    kept, skips = [], False
    for word in sys.argv[1:] if arguments is None else arguments:
        is_flag = re.match("--?[a-z]", word)  # and not a negative number
        skips = word.startswith("--trainer.") or (skips and not is_flag)
        kept += [] if skips else [word]
    return kept


def _shipped(name: str) -> str:
    """Return the path of a configuration that the package carries.

    Raises:
        TypeError: If there is none, with the name that was likely meant; jsonargparse shows it.
    """
    shipped = {path.stem: str(path) for path in sorted(CONFIGS.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    beside = {each.stem: str(each) for each in path.parent.glob(f"*{path.suffix or '.yaml'}")}
    near = get_close_matches(path.stem, [*beside, *shipped], n=1)
    hint = f"the package carries {', '.join(shipped)}"
    if path.stem in shipped:  # as in a clone, where it would be found
        hint = f"--config {path.stem} takes the one that the package carries"
    elif near:
        hint = f"did you mean --config {beside.get(near[0], near[0])}?"
    raise TypeError(f"there is no file {name}: {hint}")


def callbacks_of(config: Any) -> list[str]:
    """Return the names of the callbacks' classes in settings that may be parsed in part."""
    callbacks = config.get("trainer.callbacks") or []
    return [brief(each) for each in (callbacks if isinstance(callbacks, list) else [callbacks])]


def brief(value: Any) -> str:
    """Return a setting as text in which a class is its name."""
    if isinstance(value, list | tuple):
        return f"[{','.join(map(brief, value))}]"
    if isinstance(value, Namespace):  # a callback, say
        return str(value.class_path).rpartition(".")[2]
    return printable(str(value))
