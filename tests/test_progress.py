"""The lines that stay on the screen."""

import fcntl
import os
import re
import struct
import sys
import termios
from pathlib import Path

import pytest
import torch
from tqdm import tqdm

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.progress import Bar, has_room_for_a_bar, say, sentence
from mnist_lightning.training.trainer import Trainer


def test_each_epoch_leaves_a_line_with_the_figures_that_it_has(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        check_val_every_n_epoch=2,
        accumulate_grad_batches=2,
        enable_progress_bar=False,
        default_root_dir=tmp_path,
        logger=False,
    )
    data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=64)
    trainer.fit(MNISTClassifier(channels=(2, 4), hidden=8), data)
    captured = capsys.readouterr()
    assert captured.err == ""
    start, first, second = captured.out.splitlines()
    assert re.fullmatch(
        r"training [\d,]+ parameters in \S+version_0 on cpu, epochs 0 to 1 of 4 batches", start
    )
    found = re.fullmatch(r"epoch 0  train loss (\d\.\d{4})  \d+ s", first)
    assert found and 1.5 < float(found[1]) < 4  # near chance, ln 10, and not half of it
    assert re.fullmatch(
        r"epoch 1  train loss \d\.\d{4}  val loss \d\.\d{4}  val \d+\.\d\d%  \d+ errors  \d+ s",
        second,
    )


def test_a_run_that_keeps_nothing_names_no_folder(
    root: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = Trainer(accelerator="cpu", fast_dev_run=True, enable_progress_bar=False)
    data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=64)
    trainer.fit(MNISTClassifier(channels=(2, 4), hidden=8), data)
    assert re.match(r"training [\d,]+ parameters on cpu, ", capsys.readouterr().out)


def test_an_epoch_resumed_midway_ends_with_the_line_of_a_whole_one(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mid.ckpt"
    shown: list[dict[str, object]] = []

    class Looking(MNISTClassifier):
        def on_train_batch_start(self, batch: object, batch_idx: int) -> None:
            if self.trainer.progress_bar_callback:
                shown.append(self.trainer.progress_bar_callback.train_progress_bar.format_dict)

        def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
            if batch_idx == 1 and not path.exists():
                self.trainer.save_checkpoint(path)

    def fit(**settings: object) -> str:
        torch.manual_seed(0)
        own = {"accelerator": "cpu", "devices": 1, "max_epochs": 1, "logger": False}
        own |= {"limit_val_batches": 0, "default_root_dir": tmp_path}
        data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=64)
        model = Looking(channels=(2, 4), hidden=8)
        Trainer(**own, enable_progress_bar="ckpt_path" in settings).fit(model, data, **settings)
        line = r"epoch 0(?:  train loss (\d\.\d{4}))?  (\d+) s\b"
        ((loss, seconds),) = re.findall(line, capsys.readouterr().out)
        assert int(seconds) < 1000  # not since the machine was started
        return loss

    whole = fit()
    assert whole and fit(ckpt_path=path) == whole
    first = shown[0]
    assert (first["n"], first["initial"], first["total"]) == (2, 2, 4)  # the rate has no old steps
    assert first["prefix"] == "Epoch 0: "

    checkpoint = read_checkpoint(path)
    del checkpoint["epoch_loss"]  # as earlier versions
    torch.save(checkpoint, path)
    assert fit(ckpt_path=path) == ""


def test_a_bar_wants_a_terminal_with_a_width(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not has_room_for_a_bar()
    with (tmp_path / "log").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)
        assert not has_room_for_a_bar()
    master, slave = os.openpty()
    with open(master, "rb", buffering=0), open(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        for columns in (80, 0):
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            assert has_room_for_a_bar() == (columns > 0)


def test_a_notebook_has_room_for_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "ps1", "In : ", raising=False)
    assert has_room_for_a_bar()


def test_nothing_is_written_into_a_bars_line(
    root: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(MNISTClassifier):
        def on_train_batch_end(self, outputs: object, batch: object, batch_idx: int) -> None:
            say("a line")
            if batch_idx == 12:
                raise RuntimeError("a bug")

    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=1,
        enable_progress_bar=True,
        enable_checkpointing=False,
        logger=False,
        default_root_dir=tmp_path,
    )
    others = set(tqdm._instances)  # other tests' may wait for the garbage collector
    with pytest.raises(RuntimeError, match="a bug"):
        data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=8)
        trainer.fit(Failing(channels=(2, 4), hidden=8), data)
    out = capsys.readouterr().out
    assert "Epoch 0" in out
    # What a terminal shows of each line: what comes after its last carriage return.
    shown = [line.rpartition("\r")[2] for line in out.split("\n")]
    assert shown.count("a line") == 13 and shown[-1].strip() == ""
    assert isinstance(trainer.progress_bar_callback, Bar)
    assert set(tqdm._instances) <= others


def test_figures_are_said_in_words_and_others_follow() -> None:
    figures = {"accuracy": 0.9955, "errors": 45, "images": 10_000, "loss": 0.01418, "f1": 0.5}
    assert sentence({**figures, "calibration_error": 0.0021}, "test") == (
        "45 of 10,000 test images misread, 99.55%, loss 0.0142, calibration error 0.0021, f1 0.5"
    )
    assert sentence({}, "test") == ""
