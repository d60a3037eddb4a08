"""Holds who may know whom: the imports between this package's modules."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "mnist_lightning"
MAY_KNOW = {
    "__init__": {"checkpoint", "classifier", "data", "images", "network"},
    "__main__": {"cli"},
    "augment": set(),
    "batches": {"augment"},
    "callbacks": {"augment", "checkpoint", "figures", "files", "network"},
    "checkpoint": {"network"},
    "classifier": {"checkpoint", "network"},
    "cli": {"callbacks", "classifier", "data", "predictions", "resume"},
    "data": {"augment", "batches", "files", "predictions"},
    "demo": {"archives", "augment", "checkpoint", "images"},
    "export": {"archives", "augment", "checkpoint", "files"},
    "figures": set(),
    "files": set(),
    "images": set(),
    "network": set(),
    "predictions": {"files"},
    "read": {"checkpoint", "files", "images"},
    "report": {"augment", "checkpoint", "data", "figures", "files", "network"},
    "resume": {"checkpoint"},
}
MAY_IMPORT_LIGHTNING = {"callbacks", "classifier", "cli", "data", "resume"}


def imports(module: str) -> set[str]:
    tree = ast.parse((PACKAGE / f"{module}.py").read_text())
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            for alias in node.names:
                is_room = (PACKAGE / f"{alias.name}.py").exists()
                of_package = node.module == "mnist_lightning" and is_room
                names.add(f"{node.module}.{alias.name}" if of_package else f"{node.module}")
    return names


def test_every_room_is_on_the_plan() -> None:
    assert {path.stem for path in PACKAGE.glob("*.py")} == set(MAY_KNOW)


@pytest.mark.parametrize("module", MAY_KNOW)
def test_a_room_knows_only_whom_it_may(module: str) -> None:
    names = imports(module)
    known = {name.split(".")[1] for name in names if name.startswith("mnist_lightning.")}
    assert known <= MAY_KNOW[module]
    assert "mnist_lightning" not in names
    if module not in MAY_IMPORT_LIGHTNING:
        assert not any(name.split(".")[0] in ("lightning", "pytorch_lightning") for name in names)
