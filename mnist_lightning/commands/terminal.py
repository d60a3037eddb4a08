"""What the commands share: their parser, the choice of a network, and how they end.

Exit codes: 0, done; 1, not or not all done, and one line for each reason; 2, a command line that
can't be understood; 130, Ctrl-C.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager


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


@contextmanager
def errors_in_one_line(extra: str | None = None) -> Iterator[None]:
    """End the process with one line if what stands below fails by the user's or a file's fault.

    Args:
        extra: The extra whose packages the command needs.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is missing: pip install 'mnist_lightning[{extra}]'")
    except OSError as error:
        named = error.filename and error.strerror
        sys.exit(f"error: {error.filename}: {error.strerror}" if named else f"error: {error}")
    except ValueError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
