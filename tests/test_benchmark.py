import sys

import benchmark
import pytest
import torch

from mnist_lightning.network import ConvNet


def test_rows_take_turns() -> None:
    order: list[str] = []
    rows = {name: lambda name=name: order.append(name) or len(order) for name in ("a", "b")}
    assert benchmark.take_turns(rows, 2) == {"a": [1, 3], "b": [2, 4]}
    assert order == ["a", "b", "a", "b"]


def test_a_ratio_is_the_median_over_turns_not_that_of_the_medians() -> None:
    # The machine was ten times slower in the second turn, for both rows.
    assert benchmark._ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.1]) == "2.00 x"


def test_every_subcommand_is_in_the_help(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--help"])
    with pytest.raises(SystemExit):
        benchmark.main()
    out = capsys.readouterr().out
    for name in ("train", "levers", "parts", "predict", "start", "scale"):
        assert f"benchmark.py {name}" in out and f"    {name} " in out


def test_a_training_step_of_the_benchmark_learns() -> None:
    torch.manual_seed(0)
    network = ConvNet((2, 2), hidden=4)
    before = network.dense2.weight.detach().clone()
    step = benchmark.training_step(network, total_steps=10)
    step(torch.rand(8, 1, 28, 28), torch.arange(8))
    assert not torch.equal(before, network.dense2.weight)
