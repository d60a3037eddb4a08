"""Holds that the results that are shown are those of the runs."""

from pathlib import Path
from typing import Any

import pytest
import results
import yaml

REPOSITORY = Path(__file__).parents[1]


def lines(*accuracies: float) -> list[dict[str, Any]]:
    same = {"test/loss": 0.02, "test/calibration_error": 0.001, "fit_seconds": 120.0}
    same |= {"command": "fit --x", "machine": "a machine", "versions": {"torch": "2"}}
    return [
        {"seed": seed, "test/accuracy": accuracy, "test/errors": 1e4 * (1 - accuracy), **same}
        for seed, accuracy in enumerate(accuracies)
    ]


def test_a_row_gives_mean_deviation_and_range_over_the_seeds() -> None:
    assert results.row(lines(0.99, 0.992, 0.994), "mine") == (
        "| mine | 99.20 ± 0.20% (99.00 to 99.40) | 80.0 ± 20.0 | 3 | 0.0200 ± 0.0000 "
        "| 0.0010 ± 0.0000 | 2.0 |"
    )


def test_one_run_has_no_deviation() -> None:
    assert "| 99.00% | 100.0 | 1 |" in results.row(lines(0.99), "mine")


def test_the_page_names_the_command_that_makes_a_row_again() -> None:
    read: list[str] = []

    def read_lines(name: str) -> list[dict[str, Any]]:
        read.append(name)
        return lines(0.99, 0.992) if name == "base" else []

    page = results.page(read_lines)
    assert len(read) == len(set(read))  # files are read once
    assert "python scripts/seeds.py base --test --seeds 0 1 --x " in page
    assert "Few labels" not in page  # no heading without a row


def test_a_row_is_made_again_with_the_settings_that_it_had(tmp_path: Path) -> None:
    base = yaml.safe_load((REPOSITORY / "configs/base.yaml").read_text())
    same = {**base["model"], **base["data"]}
    (now,) = lines(0.99)
    now |= {"command": "fit --config configs/base.yaml --data.zoom=0.5", "settings": same}
    now["epochs"] = base["trainer"]["max_epochs"]
    assert results.since_changed(now | {"settings": {**same, "zoom": 0.5}}) == []
    settings = {name: value for name, value in same.items() if name not in ("standardize", "blur")}
    then = now | {"epochs": 99, "settings": {**settings, "channels": [8, 16], "shift": 0.5}}
    assert results.since_changed(then) == [
        "--trainer.max_epochs 99",
        "--model.channels [8,16]",
        "--model.standardize false",
        "--data.shift 0.5",
    ]
    article = now | {"command": "fit --config configs/base.yaml --config configs/article.yaml"}
    assert "--model.batch_norm true" in results.since_changed(article)


def test_an_ensemble_of_a_row_is_made_by_the_rows_command() -> None:
    together = lines(0.995)[0] | {"row": "record_ensemble", "of": "record", "seeds": [0, 1]}
    del together["seed"]
    rows = {"record": lines(0.99, 0.992), "record_ensemble": [together]}
    page = results.page(lambda name: rows.get(name, []))
    assert page.count("\npython scripts/seeds.py") == 1
    assert "python scripts/seeds.py record --test --ensemble --seeds 0 1 --x " in page
    assert "as one ensemble | 99.50% | 50.0 | 1 |" in page
    rows["record_base_60000_ensemble"] = [together | {"with": ["base_60000"]}]
    page = results.page(lambda name: rows.get(name, []))
    assert "python scripts/seeds.py record --test --ensemble base_60000 --seeds 0 1 --x " in page
    rows["record"] = lines(0.99, 0.992, 0.994)
    with pytest.raises(ValueError, match="record_ensemble has other seeds than record"):
        results.page(lambda name: rows.get(name, []))


def test_the_page_is_that_of_the_runs_that_are_there(monkeypatch: Any) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert Path("docs/results.md").read_text() == results.page(results.read_lines), (
        "run scripts/results.py"
    )


def test_the_readmes_rows_are_the_pages() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    section = readme.split("## Results")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) > 3
    page = (REPOSITORY / "docs/results.md").read_text().splitlines()
    assert set(rows) <= set(page)
