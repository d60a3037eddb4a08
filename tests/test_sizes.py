"""Other images and other classes need a change in one place, sizes.py."""

import subprocess
import sys
from pathlib import Path

import numpy as np

LETTERS = """
import string, sys
import mnist_lightning.sizes as sizes

sizes.SIDE, sizes.CLASSES, sizes.NUM_CLASSES = 32, tuple(string.ascii_lowercase), 26

import numpy as np
import torch
from mnist_lightning import load, read, read_images
from mnist_lightning.data.augment import Augmentation, _spread
from mnist_lightning.__main__ import main

changes = "no_digit_share neighbor_share changed_share noise blur stroke contrast outline".split()
fit = ["fit", "--config=smoke", "--data.val_size=26", "--data.train_size=78", "--data.cover=3"]
fit += [f"--data.{name}=0.5" for name in changes]
path = "runs/smoke/version_0/checkpoints/last.ckpt"
for arguments in (
    [*fit, "--trainer.max_epochs=1", "--trainer.callbacks=[]"],
    ["test", f"--ckpt_path={path}"],
    ["predict", f"--ckpt_path={path}"],
):
    sys.argv[1:] = arguments
    try:
        main()
    except SystemExit as exit_:
        assert not exit_.code, exit_.code
(reading,) = read_images(np.zeros((1, 32, 32), np.uint8), load(path))
wide = np.ones((200, 200))
wide[80:120, 20:80] = wide[80:120, 120:180] = wide[95:105, 80:120] = 0  # which cuts are tried for
assert read(wide, load(path)).digits
augmentation = Augmentation(no_digit_share=0.9)
table, digits = augmentation.table(26, 1, (0, 0))[0], torch.rand(26, 1, 32, 32)
_, labels = augmentation(digits, torch.arange(26), table, digits)
assert torch.allclose(labels.sum(dim=1), torch.ones(26)) and labels.max(dim=1).values.min() < 0.1
dot = torch.zeros(1, 1, 32, 32)
dot[0, 0, 31, 31] = 1
assert _spread(dot, torch.maximum)[0, 0, 30:, 30:].sum() == 4  # strokes grow at the edge too
assert len(reading.probabilities) == 26 and str(reading) == string.ascii_lowercase[reading.digit]
"""


def test_letters_of_another_size_need_one_change(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    for part, num in (("train", 104), ("t10k", 52)):
        images = np.random.default_rng(num).integers(0, 256, (num, 32, 32), np.uint8)
        for kind, values in (("images-idx3", images), ("labels-idx1", np.arange(num) % 26)):
            head = b"\0\0\x08" + bytes([values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (folder / f"{part}-{kind}-ubyte").write_bytes(head + values.astype(np.uint8).tobytes())
    command = [sys.executable, "-c", LETTERS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(lines) == 53 and lines[0].endswith(",p25")
