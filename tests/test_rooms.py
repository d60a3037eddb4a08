"""Holds who may know whom: the imports between this package's modules."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mnist_lightning"
LEAVES = {"errors", "files", "sizes", "text"}
# For each wing or room those that its modules may import, beside its own wing's and the leaves.
MAY_KNOW = {
    "__init__": {"checkpoint", "data", "network", "reading", "training"},
    "__main__": set(),
    "checkpoint": {"network", "untrusted"},
    "commands": {"checkpoint", "data", "figures", "network", "reading", "runs"},
    "data": {"network", "reading"},
    "errors": set(),
    "figures": set(),
    "files": set(),
    "network": set(),
    "reading": set(),
    "runs": {"checkpoint"},
    "sizes": set(),
    "text": set(),
    "untrusted": set(),
    "training": {"checkpoint", "data", "figures", "network", "runs"},
}
# In each wing leaves first: a module may import those before it.
ORDER = {
    "commands": [
        "terminal",
        "runs",
        "compare",
        "read",
        "report",
        "formats",
        "export",
        "requests",
        "server",
        "demo",
    ],
    "data": [
        "drawing",
        "neighbors",
        "nondigits",
        "augment",
        "focus",
        "batches",
        "predictions",
        "parsers",
        "splits",
        "datasets",
        "own",
        "module",
    ],
    "figures": ["style", "measures", "learned", "evaluation", "curves", "__init__"],
    "reading": [
        "windows",
        "picture",
        "forms",
        "ink",
        "convention",
        "cuts",
        "lines",
        "segments",
        "joined",
        "workers",
        "reader",
    ],
    "training": [
        "progress",
        "mistakes",
        "parser",
        "record",
        "saving",
        "speed",
        "tensorboard",
        "trainer",
        "classifier",
        "resume",
        "cli",
    ],
}
NEED_LIGHTNING = {"data.module", "training"}
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.glob("**/*.py"))


def imports(path: Path) -> set[str]:
    """Return the dotted names of all modules that a module imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            folder = PACKAGE.parent.joinpath(*(node.module or "").split("."))
            for alias in node.names:
                is_module = (folder / f"{alias.name}.py").exists() or (folder / alias.name).is_dir()
                names.add(f"{node.module}.{alias.name}" if is_module else f"{node.module}")
    return names


def test_every_room_is_on_the_plan() -> None:
    tops = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert tops == set(MAY_KNOW)
    for wing, order in ORDER.items():
        names = {path.stem for path in MODULES if path.parts[0] == wing}
        assert names == {*order, "__init__"}


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_room_knows_only_whom_it_may(path: Path) -> None:
    names = imports(path)
    wing = path.parts[0].removesuffix(".py")
    own = [name.split(".")[1:] for name in names if name.startswith("mnist_lightning.")]
    assert {parts[0] for parts in own} <= MAY_KNOW[wing] | LEAVES | {wing}
    order = ORDER.get(wing, [])
    inside = [parts[1] for parts in own if parts[0] == wing and len(parts) > 1]
    if wing == "commands":
        assert set(inside) <= {"terminal", "formats", "requests", "server"}  # never each other
    elif inside:
        assert max(order.index(name) for name in inside) < order.index(path.stem)
    dotted = ".".join(path.with_suffix("").parts)
    if not NEED_LIGHTNING & {dotted, wing} and wing != "__init__":
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in names)


@pytest.mark.parametrize(
    ("code", "unwanted"),
    [
        ("import mnist_lightning.__main__", ["torch", "numpy", "lightning"]),
        ("from mnist_lightning import load, read", ["lightning", "torchvision", "matplotlib"]),
        *(
            (f"import mnist_lightning.commands.{name}", ["lightning", "torchvision", "matplotlib"])
            for name in ("runs", "read", "report", "formats", "demo")
        ),
        ("import mnist_lightning.commands.export", ["torch"]),  # a mistake is told at once
    ],
)
def test_an_import_brings_nothing_that_it_does_not_need(code: str, unwanted: list[str]) -> None:
    look = f"{code}; import sys; print([name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
