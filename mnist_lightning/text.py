"""How a value stands before a person: shares as percentages, names that a terminal can print."""


def percent(share: float) -> str:
    """Write a share in [0, 1] so that no answer looks certain and nothing possible impossible."""
    if share > 0.999:
        return ">99.9%"
    return "<0.1%" if share < 0.001 else f"{share:.1%}"


def printable(name: str) -> str:
    """Return a name with a `?` for what is not UTF-8 in it, or would move the cursor."""
    return "".join(c if c.isprintable() else "?" for c in name.encode(errors="replace").decode())
