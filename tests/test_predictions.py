from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.predictions import HEADER, read_predictions, write_predictions
from mnist_lightning.errors import UserError
from mnist_lightning.training.trainer import Trainer

ROW = "MNIST/test,7,3," + ",".join(["0.1"] * 10)


def test_predictions_come_back_as_they_went(tmp_path: Path) -> None:
    probabilities = torch.rand(3, 10).softmax(1)
    write_predictions(tmp_path / "x.csv", "MNIST/train", np.array([5, 2, 9]), probabilities)
    set_, indices, read = read_predictions(tmp_path / "x.csv")
    assert set_ == "MNIST/train" and indices.tolist() == [5, 2, 9]
    torch.testing.assert_close(read, probabilities, atol=1e-6, rtol=1e-5)


def test_true_labels_stand_beside_the_digits_and_are_not_read(tmp_path: Path) -> None:
    path, probabilities = tmp_path / "x.csv", torch.rand(3, 10).softmax(1)
    labels = torch.tensor([1, 0, 3])
    write_predictions(path, "MNIST/test", np.array([5, 2, 9]), probabilities, labels)
    rows = [line.split(",") for line in path.read_text().splitlines()]
    assert [row[3] for row in rows] == ["label", "1", "0", "3"]
    read = read_predictions(path)
    torch.testing.assert_close(read[2], probabilities, atol=1e-6, rtol=1e-5)
    assert read[1].tolist() == [5, 2, 9]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "was not written by predict"),
        (["image,digit", ROW], "was not written by predict"),
        ([HEADER], "holds no predictions"),
        ([HEADER, ROW, "MNIST/test,8,3,0.5"], "line 3: not a set"),
        ([HEADER, ROW.replace("0.1", "0.2")], "line 2: not a set"),
        ([HEADER, ROW.replace("0.1", "nan")], "line 2: not a set"),
        ([HEADER, ROW.replace("7", "seven")], "line 2: not a set"),
        ([HEADER, ROW.replace("MNIST/test", "mine")], "line 2: not a set"),
        ([HEADER, ROW, ROW], "an image more than once"),
        ([HEADER, ROW, ROW.replace("test", "train")], "holds images of several sets"),
    ],
)
def test_what_is_no_file_of_predictions_is_named(
    lines: list[str], words: str, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=words):
        read_predictions(tmp_path / "x.csv")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file of predictions"):
        read_predictions(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("mine.csv", "mine.csv exists and bears no mark .* add --overwrite true$"),
        ("last.ckpt", "last.ckpt is read by this very command"),
        ("labels.csv", "labels.csv is read by this very command"),
    ],
)
def test_predict_refuses_before_the_work_to_replace_what_it_did_not_write(
    output: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("image,digit\n7,3\n")
    Path("last.ckpt").write_text("a checkpoint")
    Path("labels.csv").write_text(f"{HEADER}\n{ROW}\n")
    Path("predictions.csv").write_text(f"{HEADER}\n{ROW}\n")
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    began = []

    def predict(self, model=None, dataloaders=None, datamodule=None, ckpt_path=None):  # type: ignore[no-untyped-def]
        began.append("work")

    monkeypatch.setattr(pl.Trainer, "predict", predict)
    data = MNISTDataModule(pseudo_labels="labels.csv")
    arguments = {"datamodule": data, "ckpt_path": "last.ckpt"}
    with pytest.raises(UserError, match=words):
        trainer.predict(None, output=output, overwrite=output != "mine.csv", **arguments)
    assert not began
    with pytest.raises(UserError, match="nothing to predict"):  # its own file is no obstacle
        trainer.predict(None, output="predictions.csv", **arguments)
    assert began
