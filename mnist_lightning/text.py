"""How a value stands before a person: shares as percentages, names that a terminal can print."""

import sys
from pathlib import Path


def percent(share: float) -> str:
    """Write a share in [0, 1] so that no answer looks certain and nothing possible impossible."""
    if share > 0.999:
        return ">99.9%"
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def printable(line: str) -> str:
    """Return a line with a `?` for what is not UTF-8 in it, or a terminal would obey."""
    return "".join(c if c.isprintable() else "?" for c in line.encode(errors="replace").decode())


def this_python() -> str:
    """Return the Python that runs, as a person types it here: relative, if it lies below."""
    python = Path(sys.executable)
    return str(python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python)
