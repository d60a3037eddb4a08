"""What can go wrong, done: kills, full disks, damaged files, many processes."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMOKE
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.checkpoint import read_checkpoint

ONE = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
FOLDER = "runs/smoke/version_0"
LAST = f"{FOLDER}/checkpoints/last.ckpt"


def fit(root: str, *arguments: str) -> list[str]:
    """Return the command line of a run of four epochs, ten steps each."""
    longer = ["--data.train_size=1280", "--trainer.max_epochs=4", "--data.root", root]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    command = [sys.executable, "-m", "mnist_lightning", "fit"]
    return [*command, *SMOKE, *longer, *quiet, *arguments]


def start(command: list[str], cwd: Path, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, **options)


def finish(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def curves(cwd: Path) -> dict[str, list[tuple[int, float]]]:
    """Return all that a run logged, but the speed."""
    scalars = EventAccumulator(str(cwd / FOLDER)).Reload()
    names = set(scalars.Tags()["scalars"]) - {"train/images_per_second", "epoch"}
    return {name: [(e.step, e.value) for e in scalars.Scalars(name)] for name in names}


def flatten(value: Any, path: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list | tuple):
        items = enumerate(value)  # type: ignore[assignment]
    else:
        return {path: value}
    return {k: v for key, item in items for k, v in flatten(item, f"{path}/{key}").items()}


def assert_same_run(one: Path, other: Path) -> None:
    """Hold weights, optimizer, schedule, progress and curves of two runs equal to the bit."""
    a, b = (flatten(read_checkpoint(cwd / LAST)) for cwd in (one, other))
    assert a.keys() == b.keys()
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key
    assert curves(one) == curves(other)
    assert len(curves(one)["train/loss"]) == 40


@pytest.fixture(scope="module")
def whole(root: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Return a function from the processes' flags to the folder of an uninterrupted run."""
    made: dict[str, Path] = {}

    def make(processes: list[str]) -> Path:
        key = " ".join(processes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            finish(fit(root, *processes), made[key])
        return made[key]

    return make


# A callback for a run in a process of its own: it sends that process a signal at a step.
SEND_SIGNAL = """
import os, signal
from lightning.pytorch import Callback
class SendSignal(Callback):
    def __init__(self, name: str, step: int, rank: int = 0):
        self.name, self.step, self.rank = name, step, rank
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            os.kill(os.getpid(), getattr(signal, self.name))
"""


@pytest.fixture
def send_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that gives the flags by which a run sends itself a signal at a step."""
    (tmp_path / "send_signal.py").write_text(SEND_SIGNAL)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def flags(name: str, step: int, rank: int = 0) -> list[str]:
        init = "--trainer.callbacks.init_args"
        values = [f"{init}.name={name}", f"{init}.step={step}", f"{init}.rank={rank}"]
        return ["--trainer.callbacks+=send_signal.SendSignal", *values]

    return flags


# -- the same bits after a kill


@pytest.mark.parametrize(
    ("name", "step", "processes", "code"),
    [
        ("SIGKILL", 25, ONE, -9),
        ("SIGTERM", 25, ONE, 143),
        ("SIGINT", 3, ONE, 130),
        ("SIGTERM", 29, ONE, 143),  # an epoch's last step
        pytest.param("SIGKILL", 25, TWO, -9, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 25, TWO, 143, marks=pytest.mark.slow),
        pytest.param("SIGINT", 10, TWO, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_goes_on_to_the_same_bits(
    name: str,
    step: int,
    processes: list[str],
    code: int,
    root: str,
    whole: Callable[[list[str]], Path],
    send_signal: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    stopped = start(fit(root, *processes, *send_signal(name, step)), tmp_path)
    out, err = stopped.communicate(timeout=600)
    assert stopped.returncode == code, err
    saved = read_checkpoint(tmp_path / LAST)["global_step"]
    assert saved == (step // 10 * 10 if name == "SIGKILL" else step + 1)
    if name != "SIGKILL":
        assert f"stopped by {name} after step {saved}" in out
    out = finish(fit(root, *processes, "--ckpt_path=auto"), tmp_path)
    assert f"going on from {LAST}" in out
    assert [path.name for path in (tmp_path / "runs/smoke").iterdir()] == ["version_0"]
    assert_same_run(whole(processes), tmp_path)
