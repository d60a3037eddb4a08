"""Runs a row of two seeds, as a user does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import seeds
import torch
import torch.nn.functional as F
from conftest import PLAIN

from mnist_lightning.checkpoint import load
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import to_pixels


@pytest.mark.slow
def test_a_row_is_run_once_and_tested_as_an_ensemble(root: str, tmp_path: Path) -> None:
    row = [sys.executable, seeds.__file__, "row", "--seeds", "3", "4", "--test", "--ensemble"]
    network = ["--model.padding=1", "--model.views=true"]
    command = [*row, *PLAIN, *network, "--data.root", root, "--trainer.accelerator=cpu"]

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)

    def read(name: str) -> list[dict]:
        path = tmp_path / "docs/results" / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]

    done = run()
    assert done.returncode == 0, done.stderr
    assert "row: n = 2" in done.stdout
    lines, (together,) = read("row"), read("row_ensemble")
    assert [line["seed"] for line in lines] == [3, 4]
    assert together["of"] == "row" and together["seeds"] == [3, 4]

    checkpoints = sorted(tmp_path.glob("runs/seeds/row/seed_*/checkpoints/last.ckpt"))
    images, labels = read_test_set()
    with torch.inference_mode():
        answers = [load(path)(to_pixels(images)).softmax(1) for path in checkpoints]
    answers.append((answers[0] + answers[1]) / 2)
    losses = [F.nll_loss(answer.log(), labels).item() for answer in answers]
    errors = [(answer.argmax(1) != labels).sum().item() for answer in answers]
    tested = [*lines, together]
    assert [line["test/loss"] for line in tested] == pytest.approx(losses, rel=1e-4)
    assert [line["test/errors"] for line in tested] == pytest.approx(errors, abs=1)

    command.insert(command.index("--ensemble") + 1, "row")  # as if it were another row
    assert run().returncode == 0
    (twice,) = read("row_row_ensemble")
    assert twice["with"] == ["row"] and twice["fit_seconds"] == 2 * together["fit_seconds"]
    assert twice["test/loss"] == pytest.approx(losses[-1], rel=1e-4)

    checkpoints[0].unlink()
    done = run()
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert f"no checkpoint file {checkpoints[0].relative_to(tmp_path)}" in done.stderr
    assert read("row") == lines  # no seed was run again


def test_tested_and_untested_runs_do_not_share_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "docs/results/row.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('{"seed": 1, "command": "fit --x", "val/accuracy": 0.9}\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["seeds.py", "row", "--seeds", "1", "--test", "--x"])
    before = path.read_text()
    with pytest.raises(SystemExit, match="row.jsonl were not tested: leave out --test, or choose"):
        seeds.main()
    path.write_text(before[:20])
    with pytest.raises(SystemExit, match="row.jsonl holds a truncated line: delete it"):
        seeds.main()
