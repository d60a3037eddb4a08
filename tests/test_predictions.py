from pathlib import Path

import numpy as np
import pytest
import torch

from mnist_lightning.data.predictions import HEADER, read_predictions, write_predictions

ROW = "MNIST/test,7,3," + ",".join(["0.1"] * 10)


def test_predictions_come_back_as_they_went(tmp_path: Path) -> None:
    probabilities = torch.rand(3, 10).softmax(1)
    write_predictions(tmp_path / "x.csv", "MNIST/train", np.array([5, 2, 9]), probabilities)
    set_, indices, read = read_predictions(tmp_path / "x.csv")
    assert set_ == "MNIST/train" and indices.tolist() == [5, 2, 9]
    torch.testing.assert_close(read, probabilities, atol=1e-6, rtol=1e-5)


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
