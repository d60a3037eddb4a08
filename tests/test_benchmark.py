import sys
from pathlib import Path

import benchmark
import pytest
import torch
from rivals import Case, plain_loop

from mnist_lightning.network import ConvNet


def test_rows_take_turns() -> None:
    order: list[str] = []
    rows = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    assert benchmark.take_turns(rows, 2) == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]


def test_a_ratio_is_the_median_over_turns_not_that_of_the_medians() -> None:
    # The machine was ten times slower in the second turn, for both rows.
    assert benchmark.ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.1]) == "2.00 x"


def test_every_subcommand_is_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit):
        benchmark.main()
    out = capsys.readouterr().out
    for name in ("train", "parts", "predict", "read", "start", "scale"):
        assert f"benchmark.py {name}" in out and f"    {name} " in out


def test_the_plain_loop_trains_and_tells_each_part_of_each_step(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = ConvNet((2, 2), hidden=4)
    before = network.dense2.weight.detach().clone()
    monkeypatch.setattr(Case, "network", lambda case: network)
    told: list[str] = []
    assert plain_loop(Case(batch=8, steps=3), 2, told.append) > 0
    assert told == 6 * ["index", "warp", "forward", "backward", "optimizer"]
    assert not torch.equal(before, network.dense2.weight)
