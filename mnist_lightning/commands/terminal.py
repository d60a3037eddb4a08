"""What the commands share: their parser, the choice of a network, and the packages of an extra."""

import argparse
import sys
from importlib import import_module
from pathlib import Path

from mnist_lightning.errors import UserError


def make_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command that uses a network, with `--ckpt_path`.

    Args:
        name: The command's.
        description: Its module's docstring; the first line is shown.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m mnist_lightning {name}",
        description=(description or "").partition("\n")[0],
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ckpt_path",
        action="append",
        default=[],
        help="a checkpoint, given again for an ensemble; left out, the network that is shipped",
    )
    return parser


def need(*packages: str) -> None:
    """Refuse to begin without packages that only some commands need.

    Raises:
        UserError: If one is missing; the line says how this very environment gets them.
    """
    try:
        for package in packages:
            import_module(package)
    except ModuleNotFoundError as error:
        python = Path(sys.executable)
        if python.is_relative_to(Path.cwd()):
            python = python.relative_to(Path.cwd())
        install = f"{python} -m pip install {' '.join(packages)}"
        raise UserError(f"{error.name} is missing: {install}") from error
