import sys
from pathlib import Path

import benchmark
import pages
import pytest
import torch
from conftest import CONFIGS
from rivals import Case, plain_loop

from mnist_lightning.network import ConvNet, ResNet


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
    for name in ("train", "accuracy", "parts", "predict", "read", "start", "scale"):
        assert f"benchmark.py {name}" in out and f"    {name} " in out


@pytest.mark.parametrize("arguments", ["start --config x", "accuracy --batch 32", "read --steps 9"])
def test_what_a_subcommand_does_not_use_it_refuses(
    arguments: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmark, "Case", None)  # so that nothing can begin
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *arguments.split()])
    with pytest.raises(SystemExit):
        benchmark.main()
    assert "unrecognized arguments: --" in capsys.readouterr().err


def test_the_rivals_have_the_configurations_network() -> None:
    network = Case(CONFIGS / "record.yaml").network()
    assert type(network) is ResNet and network.views and network.conv1.out_channels == 64
    assert type(Case(CONFIGS / "wild.yaml").network()) is ConvNet


def test_pages_are_read_by_all_checkpoints_and_of_the_kinds_that_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    network = pages.load()
    monkeypatch.setattr(pages, "load", lambda *paths: asked.extend(paths) or network)
    command = ["pages.py", "--num=1", "--ckpt_path", "a", "--ckpt_path", "b", "one digit"]
    monkeypatch.setattr(sys, "argv", command)
    pages.main()
    assert asked == ["a", "b"] and len(capsys.readouterr().out.splitlines()) == 3
    monkeypatch.setattr(sys, "argv", [*command, "two"])
    with pytest.raises(SystemExit):
        pages.main()
    assert "no kind is 'two': choose of one digit, " in capsys.readouterr().err


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


def test_each_is_given_the_fewest_epochs_whose_mean_over_the_seeds_reaches_the_goal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ran: list[tuple[int, int]] = []

    def fit_accuracy(case: Case, epochs: int, seed: int) -> float:
        ran.append((epochs, seed))
        return {(1, 0): 0.995, (1, 1): 0.98}.get((epochs, seed), 0.991)

    monkeypatch.setattr(benchmark, "fit_accuracy", fit_accuracy)
    monkeypatch.setattr(Case, "by_writer", lambda case: None)
    monkeypatch.setattr(benchmark, "fresh", lambda _, case, augment, *__: 0.5 if augment else 0.99)
    fit, port, plain_port = benchmark.accuracy(Case(keras=None), 2)
    assert ran == [(1, 0), (1, 1), (2, 0), (2, 1)] and fit["epochs"] == 2
    assert port["epochs"] == "more than 10" and plain_port["epochs"] == 1
