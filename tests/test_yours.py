"""What docs/own.md says of a project of one's own: its files are written, its commands run."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.data import datasets

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/own.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S)
COMMANDS = {
    heading: [
        shlex.split(line.replace("\\\n", ""))[3:]
        for block in re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
        for line in re.split(r"(?<!\\)\n", block.strip())
    ]
    for heading, text in re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S)
}
SHORT = ["--data.train_size=640", "--data.val_size=100", "--trainer.max_epochs=1"]

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(root: str, tmp_path: Path) -> Path:
    """Return a folder with the data and the page's files."""
    (tmp_path / "data").symlink_to(root)
    for kind, text in BLOCKS:
        name = re.match(r"# (\w+\.py)\n", text)
        if kind == "python" and name:
            (tmp_path / name[1]).write_text(text)
    return tmp_path


def run(folder: Path, *words: str) -> str:
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("heading", ["Another network", "Another optimizer"])
def test_commands(folder: Path, heading: str) -> None:
    assert COMMANDS[heading]
    for words in COMMANDS[heading]:
        run(folder, "-m", "mnist_lightning", *words, *(SHORT if words[0] == "fit" else []))


def test_own_changes_are_made_and_resume_to_the_same_bits(folder: Path) -> None:
    script = (folder / "train.py").read_text()
    assert "Data(batch_size=256)" in script
    script = script.replace("batch_size=256", "train_size=640, val_size=100, batch_size=64")
    # Without any warp of the settings, too.
    script = script.replace("batch_size=64", "batch_size=64, rotation=0, shift=0, shear=0, zoom=0")
    (folder / "train.py").write_text(script)
    run(folder, "train.py")
    first = folder / "lightning_logs/version_0/checkpoints/last.ckpt"
    whole = read_checkpoint(first)["state_dict"]
    (folder / "plain.py").write_text(script.replace("0.2 * noise", "0.0 * noise"))
    run(folder, "plain.py")
    plain = read_checkpoint(folder / "lightning_logs/version_1/checkpoints/last.ckpt")["state_dict"]
    assert not torch.equal(plain["network.dense1.weight"], whole["network.dense1.weight"])
    cut = script.replace(
        "Trainer(max_epochs=2).fit(", "Trainer(max_epochs=2, callbacks=Stop()).fit("
    )
    stop = (
        "import os, signal\nfrom lightning.pytorch.callbacks import Callback\n"
        "class Stop(Callback):\n"
        "    def on_train_batch_end(self, trainer, *_):\n"
        "        if trainer.global_step == 13:\n"
        "            os.kill(os.getpid(), signal.SIGTERM)\n\n\n"
    )
    (folder / "cut.py").write_text(cut.replace("if __name__", stop + "if __name__"))
    subprocess.run([sys.executable, "cut.py"], cwd=folder, capture_output=True)
    path = folder / "lightning_logs/version_2/checkpoints/last.ckpt"
    assert read_checkpoint(path)["global_step"] == 13
    again = script.replace("zoom=0)", f'zoom=0), ckpt_path="{path}"')
    (folder / "again.py").write_text(again)
    run(folder, "again.py")
    newest = max(
        folder.glob("lightning_logs/*/checkpoints/last.ckpt"), key=lambda p: p.stat().st_mtime
    )
    resumed = read_checkpoint(newest)
    assert resumed["global_step"] == 20
    for name, weight in whole.items():
        assert torch.equal(weight, resumed["state_dict"][name]), name


def test_letters_need_one_line(folder: Path) -> None:
    for name in ("mnist_lightning", "configs"):
        shutil.copytree(ROOT / name, folder / name)
    (diff,) = [text for kind, text in BLOCKS if kind == "diff"]
    subprocess.run(["patch", "-p1"], input=diff, text=True, cwd=folder, check=True)
    images, labels = datasets.read(folder / "data", "MNIST", train=False)
    letters = (labels[:1040] + 10 * (torch.arange(1040) % 3)).clamp(max=25).to(torch.uint8)
    code = (
        "import torch; from mnist_lightning import save_set; "
        "images, labels = torch.load('letters.pt'); "
        "save_set('letters', images[:780], labels[:780], images[780:], labels[780:])"
    )
    torch.save((images[:1040], letters), folder / "letters.pt")
    run(folder, "-c", code)
    for words in COMMANDS["Letters instead of digits"]:
        out = run(folder, "-m", "mnist_lightning", *words)
    assert "of 260 test images misread" in out
    with pytest.raises(ValueError, match="another network"):  # here ten digits are told apart
        read_checkpoint(folder / "runs/base/version_0/checkpoints/last.ckpt")
