"""Holds the tour to the code that it quotes, the network that it describes and the commands."""

import importlib
import importlib.util
import json
import re
import shlex
import sys
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from conftest import call

from mnist_lightning.__main__ import TRAINING
from mnist_lightning.figures.measures import layer_output
from mnist_lightning.network import ConvNet

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text()
EXCERPTS = re.findall(r"\]\(\.\./(\S+)\)\n```python\n(.*?)```", TOUR, re.DOTALL)
COMMANDS = re.findall(r"```sh\n(.*?)\n```", TOUR, re.DOTALL)


@pytest.fixture
def folder(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder with the project's configurations and data."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "data").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("path", "excerpt"), EXCERPTS)
def test_an_excerpt_stands_in_its_file(path: str, excerpt: str) -> None:
    file = [line.strip() for line in (ROOT / path).read_text().splitlines()]
    quoted = [line.strip() for line in excerpt.splitlines()]
    assert quoted in [file[i : i + len(quoted)] for i in range(len(file))]


def test_every_excerpt_names_its_file() -> None:
    assert len(EXCERPTS) == TOUR.count("```python") >= 10


def test_the_table_is_the_networks_list_of_layers() -> None:
    network = ConvNet().eval()
    rows = []
    for name, layer in network.named_children():
        shape = layer_output(network, torch.zeros(1, 1, 28, 28), name).shape[1:]
        num_parameters = sum(parameter.numel() for parameter in layer.parameters())
        size = " × ".join(f"{length:,}" for length in shape)
        rows.append(f"| {name} | {size} | {num_parameters:,} |")
    total = sum(parameter.numel() for parameter in network.parameters())
    rows.append(f"| **all** | | **{total:,}** |")
    assert "\n".join(rows) in TOUR
    without_norm = ConvNet(batch_norm=False).parameters()
    assert f"{sum(parameter.numel() for parameter in without_norm):,} parameters" in TOUR


def test_every_section_has_a_command_to_try() -> None:
    _, *sections = re.split(r"^## (?=\d)", TOUR, flags=re.MULTILINE)
    assert len(sections) == 16
    for section in sections:
        assert section.count("**Try it:**") == section.count("```sh\n") == 1, section.split("\n")[0]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_accepted(
    command: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    python, *arguments = shlex.split(command.replace("\\\n", " "))
    assert python == "python"
    if arguments[0] == "-c":
        exec(arguments[1], {})
        assert capsys.readouterr().out
    elif arguments[:2] == ["-m", "mnist_lightning"] and arguments[2] in TRAINING:
        assert call(monkeypatch, *arguments[2:], "--print_config") == 0
    else:  # a tool: its options are accepted when it comes to load the network

        def refuse(*paths: Any) -> None:
            raise SystemExit("it would load the network now")

        if arguments[0] == "-m":
            module = importlib.import_module(f"mnist_lightning.commands.{arguments[2]}")
            main = partial(module.main, arguments[3:])
        else:
            module = script(Path(arguments[0]).stem)
            main = module.main
            monkeypatch.setattr(sys, "argv", arguments)
        monkeypatch.setattr(module, "load", refuse)
        with pytest.raises(SystemExit, match="it would load the network now"):
            main()


def test_every_link_leads_somewhere() -> None:
    titles = re.findall(r"^## (.*)", TOUR, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", TOUR)
    assert len(links) > 40
    for target, anchor in links:
        if not target:
            assert anchor in anchors
        elif not target.startswith("https://"):
            assert (ROOT / "docs" / target).is_file(), target


def test_the_pictures_are_drawn_and_print_the_tours_numbers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures = script("pictures")
    for name in ("relu", "softmax"):
        monkeypatch.setattr(sys, "argv", ["pictures.py", "--only", name])
        pictures.main()
        assert (folder / "docs" / "pictures" / f"{name}.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for number in ("0.4196", "0.0425", "0.1787", "1.1035", "0.0335", "2.887", "31.25", "12.92"):
        assert number in printed and number in TOUR


def test_the_losses_of_the_overfitting_example_are_its_runs() -> None:
    runs = json.loads((ROOT / "docs" / "results" / "overfitting.json").read_text())
    for name, form in (("train_loss", ".3f"), ("val_loss", ".3f"), ("val_accuracy", ".1%")):
        for run in runs:
            assert f"{run[name][-1]:{form}}" in TOUR


def test_a_picture_that_is_not_there_is_refused_and_the_others_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--only", "cat"])
    with pytest.raises(SystemExit, match="error: there is no picture cat; there are image, "):
        script("pictures").main()
