"""The lines that stay on the screen."""

import re
from pathlib import Path

import pytest
import torch

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.training.classifier import MNISTClassifier
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
    first, second = (
        line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")
    )
    found = re.fullmatch(r"epoch 0  train loss (\d\.\d{4})  \d+ s", first)
    assert found and 1.5 < float(found[1]) < 4  # near chance, ln 10, and not half of it
    assert re.fullmatch(
        r"epoch 1  train loss \d\.\d{4}  val loss \d\.\d{4}  val \d+\.\d\d%  \d+ errors  \d+ s",
        second,
    )
