"""How values are printed: shares as percentages, names without control characters."""

import re
import shlex
import sys
from difflib import get_close_matches
from pathlib import Path


def percent(share: float) -> str:
    """Format a share in [0, 1] as a percentage, never as 0% or 100%."""
    if share > 0.999:
        return ">99.9%"
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def printable(line: str) -> str:
    """Replace what is not UTF-8 and control characters, which a terminal would obey, by `?`."""
    return "".join(c if c.isprintable() else "?" for c in line.encode(errors="replace").decode())


def program() -> str:
    """Return how this program was called: by its script, or as Python's module."""
    script = "mnist-lightning"
    return script if Path(sys.argv[0]).stem == script else "python -m mnist_lightning"


def this_python() -> str:
    """Return the path of the running Python, relative if it is below the working folder."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)


def pip_install(*packages: str) -> str:
    """Return the command that installs packages for the running Python."""
    return shlex.join([this_python(), "-m", "pip", "install", *packages])


def name_nearest(message: str, help_: str) -> str:
    """Return a parser's complaint, with the flag of its help that is nearest to an unknown one."""
    unknown = re.search(r"unrecognized arguments: (--[\w.-]+)", message)
    flags = re.findall(r"--[\w.]+", help_)
    near = get_close_matches(unknown[1], flags, n=1) if unknown else []
    return f"{message}: did you mean {near[0]}?" if near else message
