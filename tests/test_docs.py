"""Holds the README and all other pages to the commands, the code and the files that they name."""

import argparse
import importlib
import re
import shlex
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import call

import mnist_lightning.data.module
from mnist_lightning.__main__ import TRAINING, USE

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# One line to set up and train, one to set up and test; to be pasted whole, so they may be longer.
ONE_LINERS = re.findall(r"^    (python -m venv .*)$", README.read_text(), re.M)


def commands(page: Path) -> list[str]:
    """Return a page's shell commands, each in one line."""
    blocks = re.findall(r"^```sh\n(.*?)\n```", page.read_text(), re.M | re.S)
    whole = [block.replace("\\\n", " ") for block in blocks]
    # A newline inside quotes belongs to its command.
    lines = [re.split(r"\n(?=(?:[^\"]*\"[^\"]*\")*[^\"]*$)", block) for block in whole]
    return [line for block in lines for line in block if line.strip()]


COMMANDS = sorted({command for page in PAGES for command in commands(page)})
SNIPPETS = {
    f"{page.name}: {code.splitlines()[-1]}": code
    for page in (README, ROOT / "docs/training.md", ROOT / "docs/photos.md")
    for code in re.findall(r"^```python\n(.*?)```", page.read_text(), re.M | re.S)
}


class Accepted(BaseException):
    """Raised in place of a tool's work, once it has understood its command line."""


def understood(tool: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Call a tool until it has parsed its command line; return what it leaves to others."""

    def stop_after(name: str) -> Any:
        parse = getattr(argparse.ArgumentParser, name)

        def stop(self: argparse.ArgumentParser, *arguments: Any) -> None:
            patch.undo()
            found = parse(self, *arguments)
            raise Accepted(found[1] if name == "parse_known_args" else [])

        return stop

    with monkeypatch.context() as patch:
        for name in ("parse_args", "parse_known_args"):
            patch.setattr(argparse.ArgumentParser, name, stop_after(name))
        with pytest.raises(Accepted) as accepted:
            tool()
    return list(accepted.value.args[0])


@pytest.mark.parametrize("command", [*COMMANDS, *ONE_LINERS])
def test_a_command_is_accepted(
    command: str, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Parses a command as its program does; short Python programs are run."""
    words = shlex.split(command.replace("{seed}", "0"), comments=True)
    if words[:1] in (["torchrun"], ["srun"]):  # what they start is a line of this project
        words = ["python", *words[words.index("-m") :]]
    if words[:3] == ["python", "-m", "venv"] and len(words) > 4:
        words = words[words.index(".venv/bin/python") :]
    python, *arguments = words
    if python not in ("python", ".venv/bin/python"):
        assert python in (".", "cd", "curl", "git", "jupyter", "ruff", "mypy")
    elif arguments[0] == "-c":
        exec(arguments[1], {})
        assert capsys.readouterr().out
    elif arguments[:2] == ["-m", "mnist_lightning"] and arguments[2:3] == ["fit"]:
        assert parsed(monkeypatch, arguments[3:]) == 0
    elif arguments[:2] == ["-m", "mnist_lightning"] and arguments[2] in TRAINING:
        assert call(monkeypatch, *arguments[2:], "--print_config") == 0
    elif arguments[:2] == ["-m", "mnist_lightning"]:
        assert arguments[2] in USE
        understood(partial(call, monkeypatch, *arguments[2:]), monkeypatch)
    elif arguments[:2] == ["-m", "pip"]:
        for extra in re.findall(r"\[(\w+)\]", command):
            assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    elif arguments[0] == "-m":
        assert arguments[1] in ("pytest", "tensorboard.main", "venv")
    elif arguments != ["scripts/results.py"]:  # which takes no arguments
        assert (ROOT / arguments[0]).is_file()
        module = importlib.import_module(Path(arguments[0]).stem)
        monkeypatch.setattr(sys, "argv", arguments)
        rest = understood(module.main, monkeypatch)
        if rest:  # what a script does not know goes to fit
            assert parsed(monkeypatch, rest) == 0


def parsed(monkeypatch: pytest.MonkeyPatch, fit: list[str]) -> Any:
    """Return the exit code of `fit` with its settings printed instead of used."""
    return call(monkeypatch, "fit", *fit, *[] if "--help" in fit else ["--print_config"])


def test_the_readmes_first_reading_is_what_it_shows(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = README.read_text()
    shown = text[text.index("read docs/digits\n") :].split("```text\n")[1].split("```")[0]
    assert call(monkeypatch, "read", "docs/digits") == 0
    assert capsys.readouterr().out == shown


@pytest.mark.parametrize("code", SNIPPETS.values(), ids=SNIPPETS.keys())
def test_a_snippet_runs_quietly(
    code: str, clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training is cut short; it may show its progress, but warn of nothing."""
    module = mnist_lightning.data.module
    few = partial(module.MNISTDataModule, train_size=400, val_size=100, batch_size=8)
    monkeypatch.setattr(module, "MNISTDataModule", few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        exec(code, {})
    if "fit(" not in code:
        out, err = capsys.readouterr()
        assert re.fullmatch(r"2024 \[(0\.9\d+(, )?){4}\]\n", out) and err == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for target, anchor in links:
        if target.startswith("https://"):
            continue
        path = page.parent / target if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r"^##+ (.*)", path.read_text(), re.M)
            names = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
            assert anchor in names, f"{target}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_line_of_code_is_cut_off(page: Path) -> None:
    text = page.read_text()
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
    indented = re.findall(r"(?<=\n\n)(?:    .*\n)+", text)
    lines = [line for block in (*blocks, *indented) for line in block.splitlines()]
    assert [line for line in lines if len(line) > 92 and line.strip() not in ONE_LINERS] == []
    assert page != README or len(ONE_LINERS) == 2


def test_the_readme_is_not_longer_than_a_look() -> None:
    assert len(README.read_text().split()) < 1200


def test_what_the_pages_commands_write_is_not_committed() -> None:
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    names = r"(?:labels|predictions|readings|model|sheet)\.(?:csv|json|onnx|pt2|safetensors|png)"
    written = {name for page in PAGES for name in re.findall(names, page.read_text())}
    assert len(written) > 4
    assert {f"/{name}" for name in written} <= set(ignored)
    assert {".venv/", "/data/", "/runs/", "/report/"} <= set(ignored)


def test_the_tree_of_files_is_whole() -> None:
    tree = (ROOT / "CONTRIBUTING.md").read_text().split("```text\n")[1].split("```")[0]
    code = tree.split("\ntests/")[0]
    files = [*ROOT.glob("mnist_lightning/**/*.py"), *ROOT.glob("scripts/*.py")]
    assert set(re.findall(r"\w+\.py", code)) == {path.name for path in files}


def test_the_recipe_for_tables_makes_a_submission(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs it on a small table: 48 images to train on, 2,000 to keep, 5 to read."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)```", (ROOT / "docs/sets.md").read_text(), re.M | re.S)
    assert len([line for line in code.splitlines() if line]) <= 10
    pixels = ",".join(f"pixel{i}" for i in range(784))
    rows = np.random.default_rng(0).integers(0, 256, (2048, 784))
    lines = [f"{i % 10}," + ",".join(map(str, row)) for i, row in enumerate(rows)]
    Path("train.csv").write_text("\n".join([f"label,{pixels}", *lines, ""]))
    Path("test.csv").write_text("\n".join([pixels, *(line[2:] for line in lines[:5]), ""]))
    module = mnist_lightning.data.module
    few = partial(module.MNISTDataModule, val_size=8, batch_size=8)
    monkeypatch.setattr(module, "MNISTDataModule", few)
    exec(code, {})
    assert re.fullmatch(r"ImageId,Label\n(?:\d,\d\n){5}", Path("submission.csv").read_text())
