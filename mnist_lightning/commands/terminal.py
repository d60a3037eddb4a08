"""What the commands share: their parser, the choice of a network, and the packages of an extra."""

import argparse
import os
import sys
from importlib import import_module
from typing import NoReturn

from mnist_lightning.errors import UserError
from mnist_lightning.text import name_nearest, pip_install, printable, program


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as the front door does.

    The line has nothing that a terminal would obey: a shell may put any name for a `*`.
    """

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and exit with 2."""
        self.exit(2, f"error: {printable(name_nearest(message, self.format_help()))}\n")


def make_parser(
    name: str, description: str | None, writes: bool = False, ckpt_path: bool = True
) -> Parser:
    """Return the parser of a command that uses networks, with `--network`.

    Args:
        name: The command's.
        description: Its module's docstring; the first line is shown.
        writes: Whether it writes files, and so has `--overwrite`.
        ckpt_path: Whether it uses a network of the user's choice, and so has `--ckpt_path`.
    """
    parser = Parser(
        prog=f"{program()} {name}",
        description=(description or "").partition("\n")[0],
        allow_abbrev=False,
    )
    if ckpt_path:
        parser.add_argument(
            "--ckpt_path",
            action="append",
            default=[],
            help="a checkpoint, given again for an ensemble (default: the network that is shipped)",
        )
    parser.add_argument(
        "--network",
        action="append",
        type=_import_network,
        metavar="my.Net",
        help="the class of a checkpoint's network, if it is one of your own: it is imported",
    )
    if writes:
        parser.add_argument(
            "--overwrite",
            action="store_true",
            help="replace files that mnist_lightning did not write",
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
        raise UserError(f"{error.name} is missing: {pip_install(*packages)}") from error


def _import_network(name: str) -> str:
    """Import the class of a network by its module and name, also from the current folder.

    Raises:
        ArgumentTypeError: If there is none.
    """
    from mnist_lightning.network import kinds

    sys.path.append(os.getcwd())  # where `python -m` finds it too
    try:
        import_module(name.rpartition(".")[0] or name)
    except ImportError as error:
        raise argparse.ArgumentTypeError(f"{error}: give a module and a class, my.Net") from error
    if name not in kinds():
        raise argparse.ArgumentTypeError(f"{name} is no subclass of mnist_lightning.Network")
    return name
