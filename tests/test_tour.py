"""Holds the tour to the code that it quotes, the network that it describes, and its runs."""

import json
import re
import sys
from pathlib import Path

import notebook
import pictures
import pytest
import results
import torch

from mnist_lightning.figures.measures import layer_output
from mnist_lightning.network import ConvNet

ROOT = Path(__file__).parents[1]
TOUR = (ROOT / "docs" / "tour.md").read_text()
EXCERPTS = re.findall(r"\]\(\.\./(\S+)\)\n```python\n(.*?)```", TOUR, re.DOTALL)
TEXTS, CELLS = notebook.split(TOUR)


@pytest.mark.parametrize(("path", "excerpt"), EXCERPTS)
def test_an_excerpt_stands_in_its_file(path: str, excerpt: str) -> None:
    text = (ROOT / path).read_text()
    text = re.sub(r"(?<=\S)  # type: .*", "", text)
    file = [line.strip() for line in text.splitlines()]
    quoted = [line.strip() for line in excerpt.splitlines()]
    assert quoted in [file[i : i + len(quoted)] for i in range(len(file))]


def test_every_block_is_an_excerpt_that_names_its_file_or_a_cell() -> None:
    assert len(EXCERPTS) >= 10 and len(CELLS) >= 30
    assert len(EXCERPTS) + len(CELLS) == TOUR.count("```python")


def test_the_table_is_the_networks_list_of_layers() -> None:
    network = ConvNet(standardize=False).eval()
    rows = []
    for name, layer in network.named_children():
        shape = layer_output(network, torch.zeros(1, 1, 28, 28), name).shape[1:]
        num_parameters = sum(parameter.numel() for parameter in layer.parameters())
        size = " × ".join(f"{length:,}" for length in shape)
        rows.append(f"| {name} | {size} | {num_parameters:,} |")
    total = sum(parameter.numel() for parameter in network.parameters())
    rows.append(f"| **all** | | **{total:,}** |")
    assert "\n".join(rows) in TOUR
    without_norm = ConvNet(batch_norm=False, standardize=False).parameters()
    assert f"{sum(parameter.numel() for parameter in without_norm):,} parameters" in TOUR


def test_every_section_has_a_cell_to_change_and_a_folded_answer() -> None:
    _, *sections = re.split(r"^## (?=\d)", TOUR, flags=re.MULTILINE)
    assert len(sections) == 16
    answered = re.compile(
        r"\*\*Try it:\*\*(?:(?!```).)*```python\n[^`]+```\n\n<details><summary>Answer<", re.DOTALL
    )
    for section in sections:
        assert section.count("**Try it:**") == len(answered.findall(section)) == 1, section


def test_the_notebook_is_the_page() -> None:
    committed = (ROOT / "docs" / "tour.ipynb").read_text()
    assert committed == notebook.notebook(TOUR), "run scripts/notebook.py"
    cells = json.loads(committed)["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code == [notebook.SETUP, *CELLS]
    for cell in code:
        assert len([line for line in cell.splitlines() if line]) <= 10, cell
    # What a cell draws is not there twice, and every other word of the page is in the notebook.
    words = "".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    assert "![" not in words and TOUR.count("\n![") == 15
    for text in re.split(r"\n\n+", "\n\n".join(TEXTS)):
        assert text.strip() in words


def test_the_pictures_are_drawn_and_print_the_tours_numbers(
    clone: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("relu", "softmax"):
        monkeypatch.setattr(sys, "argv", ["pictures.py", "--only", name])
        pictures.main()
        assert (clone / "docs" / "pictures" / f"{name}.png").stat().st_size > 10_000
    printed = capsys.readouterr().out
    for number in ("0.4196", "0.0425", "0.1787", "1.1035", "0.0335", "2.887", "31.25", "12.92"):
        assert number in printed and number in TOUR


def test_the_losses_of_the_overfitting_example_are_its_runs() -> None:
    runs = json.loads((ROOT / "docs" / "results" / "overfitting.json").read_text())
    for name, form in (("train_loss", ".3f"), ("val_loss", ".3f"), ("val_accuracy", ".1%")):
        for run in runs:
            assert f"{run[name][-1]:{form}}" in TOUR


def test_the_spread_of_the_main_configuration_is_its_rows() -> None:
    lines = (ROOT / "docs" / "results" / "base.jsonl").read_text().splitlines()
    accuracies = [100 * json.loads(line)["test/accuracy"] for line in lines]
    low, high = min(accuracies), max(accuracies)
    text, mean = " ".join(TOUR.split()), results.mean_and_deviation(accuracies, 2, "%")
    assert f"gave {low:.2f}% to {high:.2f}% over five seeds, {mean} " in text
    assert len(lines) == 5 and round(100 * (high - low)) == 10
    assert "one of its runs makes ten errors fewer than another" in text


def test_a_picture_that_is_not_there_is_refused_and_the_others_named(
    clone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pictures.py", "--only", "cat"])
    with pytest.raises(SystemExit, match="error: there is no picture cat; there are image, "):
        pictures.main()
