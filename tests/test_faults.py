"""What can go wrong, done: kills, full disks, damaged files, many processes."""

import json
import math
import multiprocessing
import os
import pty
import random
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PLAIN, SMOKE, call, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_datasets import assert_whole

from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.runs import newest_checkpoint
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.saving import VerifiedCheckpointIO

ONE = ["--trainer.accelerator=cpu", "--trainer.devices=1"]
PICTURES = ["--trainer.callbacks+=mnist_lightning.training.tensorboard.Pictures"]
FOCUS = ["--data.focus=0.5", "--data.train_size=2560"]  # as many steps
ENSEMBLE = [*ONE, *PICTURES, *FOCUS, "--model.members=2"]
AVERAGE = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.9"]
AVERAGED = [*ONE, *PICTURES, *AVERAGE]
TWO = ["--trainer.accelerator=cpu", "--trainer.devices=2"]
TWO_FOCUSED = [*TWO, *FOCUS]
FOLDER = "runs/smoke/version_0"
LAST = f"{FOLDER}/checkpoints/last.ckpt"


def fit(root: str, *arguments: str) -> list[str]:
    """Return the command line of a run of four epochs, ten steps each."""
    longer = ["--data.train_size=1280", "--trainer.max_epochs=4", "--data.root", root]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]
    command = [sys.executable, "-m", "mnist_lightning", "fit"]
    return [*command, *PLAIN, *longer, *quiet, *arguments]


def start(command: list[str], cwd: Path, **options: Any) -> subprocess.Popen[str]:
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=cwd, stdout=pipe, stderr=pipe, text=True, **options)


def finish(command: list[str], cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\.py:\d|warn", done.stderr, re.I), done.stderr
    return done.stdout


def epoch_lines(out: str) -> list[str]:
    """Return what a run says of each epoch, but the time."""
    return re.findall(r"^(epoch .*)  \d+ s$", out, re.M)


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
    for key in ("started", "differs from base.yaml"):  # what the last command says of itself
        a.pop(f"/made_with/{key}"), b.pop(f"/made_with/{key}")
    for key, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[key]), key
        else:
            assert value == b[key], key
    assert curves(one) == curves(other)
    steps = read_checkpoint(one / LAST)["global_step"]
    assert [step for step, _ in curves(one)["train/loss"]] == list(range(steps))


@pytest.fixture(scope="module")
def whole(root: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], Path]:
    """Return a function from the processes' flags to the folder of an uninterrupted run."""
    made: dict[str, Path] = {}

    def make(processes: list[str]) -> Path:
        key = " ".join(processes)
        if key not in made:
            made[key] = tmp_path_factory.mktemp("whole")
            (made[key] / "stdout.txt").write_text(finish(fit(root, *processes), made[key]))
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
        once = os.environ.get("ONCE", "")  # a file that says that it was sent before
        if trainer.global_step == self.step and trainer.global_rank == self.rank:
            if once and os.path.exists(once):
                return
            if once:
                open(once, "w").close()
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


def default_signals() -> None:
    # Whoever runs these tests, under nohup say, may ignore them, and so would the run.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


# -- the same bits after a kill


@pytest.mark.parametrize(
    ("name", "step", "processes", "code"),
    [
        ("SIGKILL", 25, ONE, -9),
        ("SIGTERM", 25, ONE, 143),
        pytest.param("SIGINT", 3, ONE, 130, marks=pytest.mark.slow),
        pytest.param("SIGHUP", 3, ONE, 129, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 29, ONE, 143, marks=pytest.mark.slow),  # an epoch's last step
        pytest.param("SIGTERM", 25, ENSEMBLE, 143, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 25, AVERAGED, 143, marks=pytest.mark.slow),
        pytest.param("SIGKILL", 25, AVERAGED, -9, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 25, [*TWO, *AVERAGE], 143, marks=pytest.mark.slow),
        pytest.param("SIGKILL", 25, TWO_FOCUSED, -9, marks=pytest.mark.slow),
        pytest.param("SIGTERM", 25, TWO_FOCUSED, 143, marks=pytest.mark.slow),
        pytest.param("SIGINT", 10, TWO, 130, marks=pytest.mark.slow),
    ],
)
def test_a_stopped_run_resumes_to_the_same_bits(
    name: str,
    step: int,
    processes: list[str],
    code: int,
    root: str,
    whole: Callable[[list[str]], Path],
    send_signal: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    command = fit(root, *processes, *send_signal(name, step))
    stopped = start(command, tmp_path, preexec_fn=default_signals)
    out, err = stopped.communicate(timeout=600)
    assert stopped.returncode == code, err
    saved = read_checkpoint(tmp_path / LAST)["global_step"]
    assert saved == (step // 10 * 10 if name == "SIGKILL" else step + 1)
    if name != "SIGKILL":
        assert f"stopped by {name} after step {saved}" in out
    out = finish(fit(root, *processes, "--ckpt_path=auto"), tmp_path)
    assert f"resuming from {LAST}" in out
    assert [path.name for path in (tmp_path / "runs/smoke").iterdir()] == ["version_0"]
    assert_same_run(whole(processes), tmp_path)
    lines, expected = map(epoch_lines, (out, (whole(processes) / "stdout.txt").read_text()))
    assert lines and lines == expected[-len(lines) :]


@pytest.mark.slow
def test_a_run_whose_terminal_is_closed_saves(root: str, tmp_path: Path) -> None:
    command = fit(root, *ONE, "--trainer.max_epochs=10000", "--trainer.enable_progress_bar=true")
    pid, terminal = pty.fork()
    if pid == 0:
        default_signals()
        os.chdir(tmp_path)
        os.execv(command[0], command)
    while not (tmp_path / LAST).exists():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert read_checkpoint(tmp_path / LAST)["global_step"] > 0


@pytest.mark.slow
def test_twenty_kills_around_a_save_lose_nothing(root: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    command = fit(root, *ONE, "--trainer.max_epochs=60", "--ckpt_path=auto")
    began = time.monotonic()
    finish(command, whole)
    interval = (time.monotonic() - began) / 60  # from save to save, on this machine; a little more
    last, rng = killed / LAST, random.Random(0)
    for _ in range(20):
        before = last.stat().st_mtime_ns if last.exists() else 0
        process = start(command, killed)
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.001)
        # `last.ckpt` was replaced just now; the kill comes somewhere up to the next save.
        time.sleep(rng.uniform(0, interval))
        process.kill()
        process.communicate()
        assert process.returncode == -9
    assert read_checkpoint(last)["global_step"] < 600
    finish(command, killed)
    assert_same_run(whole, killed)


def save_step(path: Path, step: int) -> None:
    # By numpy: torch's threads do not come along into a forked process.
    tensor = torch.from_numpy(np.full(1_000_000, step))
    checkpoint = read_checkpoint(Path(__file__).parent / "format_1.ckpt")
    checkpoint |= {"step": step, "tensor": tensor}
    VerifiedCheckpointIO().save_checkpoint(checkpoint, path)


def save_for_ever(path: Path, saved: Any) -> None:
    for step in range(1, 1_000_000):
        save_step(path, step)
        saved.send(step)


def test_a_kill_during_a_save_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    save_step(path, 0)
    context, cut = multiprocessing.get_context("fork"), 0
    for _ in range(10):
        news, saved = context.Pipe(duplex=False)
        process = context.Process(target=save_for_ever, args=(path, saved))
        process.start()
        steps = news.recv(), news.recv()
        while not list(tmp_path.glob(f".last.ckpt.*.{process.pid}.*")):  # the next save has begun
            pass
        process.kill()
        process.join()
        cut += bool(list(tmp_path.glob(f".last.ckpt.*.{process.pid}.*")))
        checkpoint = read_checkpoint(path)
        assert checkpoint["step"] >= max(steps)
        assert (checkpoint["tensor"] == checkpoint["step"]).all()
    assert cut  # most were killed in its midst
    save_step(path, 0)
    assert list(tmp_path.iterdir()) == [path]  # and the next save removes what they left


# -- checkpoints


@pytest.mark.parametrize(
    ("pictures", "file"),
    [
        ([], r".*\.ckpt: could not write it"),
        pytest.param(PICTURES, "writing or connecting failed", marks=pytest.mark.slow),
    ],
    ids=["checkpoint", "curves"],
)
def test_a_full_disk_ends_the_run_with_one_line_and_the_last_checkpoint(
    pictures: list[str],
    file: str,
    root: str,
    send_signal: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    killed = start(fit(root, *ONE, *send_signal("SIGKILL", 15)), tmp_path)
    killed.communicate(timeout=600)
    before = (tmp_path / LAST).read_bytes()
    limit = len(before) // 2  # the bytes that the next process may write to a file

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    # Pictures are larger than the checkpoint: with them TensorBoard's file is the first to fail.
    command = fit(root, *ONE, *pictures, "--ckpt_path=auto")
    process = start(command, tmp_path, preexec_fn=small_files)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1
    assert re.search(rf"^error: {file}: File too large$", err, re.M), err
    assert "Traceback" not in err
    assert (tmp_path / LAST).read_bytes() == before
    assert not list((tmp_path / LAST).parent.glob(".*"))


@pytest.fixture
def finished(smoke: Path, tmp_path: Path) -> Path:
    """Return a copy of a finished run."""
    shutil.copytree(smoke / "runs", tmp_path / "runs", copy_function=shutil.copy2)
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.glob("**/*") if path.is_file()}


def flip_a_bit(contents: bytes) -> bytes:
    middle = len(contents) // 2
    return contents[:middle] + bytes([contents[middle] ^ 1]) + contents[middle + 1 :]


DAMAGES = {
    "empty": lambda contents: b"",
    "truncated": lambda contents: contents[:-1000],
    "bit-flipped": flip_a_bit,
    "html": lambda contents: b"<html>404 Not Found</html>",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_a_whole_one_named(
    finished: Path,
    damage: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(finished)
    last = Path(LAST)
    last.write_bytes(damage(last.read_bytes()))
    message = call(monkeypatch, "test", "--ckpt_path", LAST)
    assert isinstance(message, str) and message.startswith(f"error: {LAST} is ")
    assert message.endswith(f"the newest whole one of its run is {FOLDER}/checkpoints/best.ckpt")
    # `auto` says so, and takes that one.
    path, _, skipped = newest_checkpoint(Path(FOLDER))
    assert path == Path(FOLDER, "checkpoints", "best.ckpt") and LAST in skipped[0]


def test_a_damaged_file_that_is_of_no_run_names_no_other(
    finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    folder = finished / "mine"
    folder.mkdir()
    (folder / "last.ckpt").write_bytes(b"")
    message = call(monkeypatch, "test", "--ckpt_path", "mine/last.ckpt")
    assert message == "error: mine/last.ckpt is damaged or not a checkpoint"


def test_auto_looks_in_the_folder_of_the_version_that_is_given(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    version = "--trainer.logger.init_args.version=two"
    for _ in range(2):  # the second time it resumes from its own end
        arguments = [*PLAIN, "--data.root", root, "--ckpt_path=auto", version, *ONE]
        assert call(monkeypatch, "fit", *arguments, "--trainer.max_steps=8") == 0
        names = {path.name for path in Path("runs/smoke").iterdir()}
        assert names == {"version_0", "two"}
    assert read_checkpoint("runs/smoke/two/checkpoints/last.ckpt")["global_step"] == 8


def test_another_version_resumes_in_its_own_folder(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    before = contents(Path(FOLDER))
    arguments = [*PLAIN, "--data.root", root, f"--ckpt_path={LAST}", *ONE]
    assert call(monkeypatch, "fit", *arguments, "--trainer.logger.init_args.version=two") == 0
    assert contents(Path(FOLDER)) == before
    assert Path("runs/smoke/two/config.yaml").is_file()


def test_auto_starts_from_scratch_if_there_is_nothing(root: str, tmp_path: Path) -> None:
    out = finish(fit(root, *ONE, "--trainer.max_steps=1", "--ckpt_path=auto"), tmp_path)
    assert "no checkpoint in runs/smoke: starting from scratch" in out
    assert f"checkpoint  {LAST}" in out  # it ended before its first validation


def test_auto_after_the_end_changes_nothing(finished: Path, root: str) -> None:
    arguments = [*SMOKE, "--data.root", root, "--ckpt_path=auto", *ONE]
    before = read_checkpoint(finished / LAST)["global_step"]
    done = run("fit", *arguments, cwd=finished)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (finished / "runs/smoke").iterdir()] == ["version_0"]
    assert read_checkpoint(finished / LAST)["global_step"] == before


def test_addresses_are_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    message = call(monkeypatch, "test", "--ckpt_path", "http://127.0.0.1:9/x.ckpt")
    assert message == "error: there is no checkpoint file http://127.0.0.1:9/x.ckpt"


def test_a_newer_format_says_what_to_do(finished: Path) -> None:
    checkpoint = torch.load(finished / LAST, weights_only=True)
    torch.save({**checkpoint, "mnist_lightning_format": 2}, finished / LAST)
    with pytest.raises(ValueError, match="newer mnist_lightning: update this one"):
        read_checkpoint(finished / LAST)


def test_the_first_releases_checkpoint_still_loads() -> None:
    path = Path(__file__).parent / "format_1.ckpt"
    checkpoint = read_checkpoint(path)
    settings = checkpoint["hyper_parameters"]
    assert settings["padding"] == 0 and not settings["views"]  # they came later
    assert settings["label_smoothing"] == 0 and settings["temperature"] == 1
    assert checkpoint["datamodule_hyper_parameters"]["focus"] == 1
    network = load(path)
    assert network(torch.zeros(1, 1, 28, 28)).shape == (1, 10)


# -- training


# A callback that spoils a weight before a step.
SPOIL_A_WEIGHT = """
import torch
from lightning.pytorch import Callback
class SpoilAWeight(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 15:
            with torch.no_grad():
                module.network.conv1.weight[0] = float("nan")
"""


@pytest.mark.parametrize("processes", [ONE, pytest.param(TWO, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_stops_the_run(
    processes: list[str], root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spoil.py").write_text(SPOIL_A_WEIGHT)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    process = start(fit(root, *processes, "--trainer.callbacks+=spoil.SpoilAWeight"), tmp_path)
    _, err = process.communicate(timeout=600)
    assert process.returncode not in (0, None)
    assert re.search(r"^error: the loss is nan in epoch 1, step 15 ", err, re.M)
    assert read_checkpoint(tmp_path / LAST)["global_step"] == 10


def test_a_weight_that_is_not_finite_is_not_saved() -> None:
    classifier = MNISTClassifier(channels=(2, 2), hidden=4)
    checkpoint = {"state_dict": {"network.conv1.weight": torch.tensor([1.0, math.inf])}}
    with pytest.raises(ValueError, match="conv1.weight is not finite after step 0"):
        classifier.on_save_checkpoint(checkpoint)
    assert "mnist_lightning_format" not in checkpoint


def test_a_run_does_not_write_over_another(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished)
    (finished / "best.ckpt").write_bytes((finished / LAST).read_bytes())
    before = contents(finished)
    again = ["--data.root", root, "--trainer.logger.init_args.version=0", *ONE]
    for where in ([], ["--ckpt_path=best.ckpt"]):
        message = call(monkeypatch, "fit", *SMOKE, *again, *where)
        assert isinstance(message, str)
        assert "another run's checkpoints: resume from them with --ckpt_path auto" in message
        assert contents(finished) == before


def test_runs_without_a_logger_have_folders_of_their_own_and_resume_in_them(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["fit", *PLAIN, "--data.root", root, "--trainer.logger=false", *ONE]
    assert call(monkeypatch, *command) == 0
    first = Path("runs/mnist/version_0/checkpoints/last.ckpt")
    kept = first.read_bytes()
    assert call(monkeypatch, *command) == 0
    assert first.read_bytes() == kept
    runs = ["version_0", "version_1"]
    for more in (f"--ckpt_path={first}", "--trainer.fast_dev_run=true"):
        assert call(monkeypatch, *command, more) == 0
        assert sorted(path.name for path in Path("runs/mnist").iterdir()) == runs


# -- data


def prepare(root: Path) -> None:
    MNISTDataModule(str(root)).prepare_data()


@pytest.mark.parametrize("symlinked", [False, True])
def test_ten_processes_prepare_one_folder(tmp_path: Path, symlinked: bool) -> None:
    folder = tmp_path / "data"
    if symlinked:
        elsewhere = tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
        folder.symlink_to(elsewhere)
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=prepare, args=(folder,)) for _ in range(10)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 10
    assert_whole(folder)
    shutil.rmtree(folder.resolve())


def test_a_kill_while_unpacking_is_mended(tmp_path: Path) -> None:
    rng = random.Random(0)
    codes = []
    for _ in range(8):
        process = multiprocessing.get_context("fork").Process(target=prepare, args=(tmp_path,))
        process.start()
        time.sleep(rng.uniform(0.005, 0.1))
        process.kill()
        process.join()
        codes.append(process.exitcode)
    assert -9 in codes
    prepare(tmp_path)
    folder = tmp_path / "MNIST" / "raw"
    for leftover in folder.glob(".*"):  # of the kills
        leftover.unlink()
    assert_whole(tmp_path)


def test_a_root_that_cannot_be_written_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    message = call(monkeypatch, "fit", "--data.root=file/data")
    assert isinstance(message, str) and message.startswith("error: ") and "file/data" in message


def test_a_full_root_is_named_and_nothing_half_written(tmp_path: Path) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000_000, 20_000_000))

    command = [sys.executable, "-m", "mnist_lightning", "fit"]
    process = start(command, tmp_path, preexec_fn=small_files)
    _, err = process.communicate(timeout=600)
    assert process.returncode == 1 and "Traceback" not in err
    words = "data/MNIST/raw/train-images-idx3-ubyte: could not write it: File too large"
    assert f"error: {words}\n" in err
    assert os.listdir(tmp_path / "data/MNIST/raw") == []


def test_whole_files_need_no_writing(root: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("read-only file system")

    monkeypatch.setattr("mnist_lightning.data.datasets.replace_file", fail)
    prepare(Path(root))


# -- many processes


def figures(path: Path) -> dict[str, float]:
    """Return the figures in a file that test or validate wrote."""
    contents = json.loads(path.read_text())
    return {name: value for name, value in contents.items() if not isinstance(value, str)}


@pytest.mark.slow
def test_every_image_counts_once_on_one_two_and_three_processes(
    smoke: Path, root: str, tmp_path: Path
) -> None:
    def measure(subcommand: str, devices: int) -> dict[str, float]:
        how = [f"--trainer.devices={devices}", "--trainer.accelerator=cpu", "--data.root", root]
        path = tmp_path / f"{subcommand}_{devices}.json"
        how += ["--output", str(path)]
        done = run(subcommand, "--ckpt_path", smoke / LAST, *how, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return figures(path)

    for subcommand in ("test", "validate"):
        one, two, three = (measure(subcommand, devices) for devices in (1, 2, 3))
        assert len(one) == 5
        assert two == pytest.approx(one, abs=1e-6)
        assert three == pytest.approx(one, abs=1e-6)


# A callback that writes down what each process ends with.
WRITE_WEIGHTS = """
import torch
from lightning.pytorch import Callback
class WriteWeights(Callback):
    def on_train_end(self, trainer, module):
        torch.save(module.network.state_dict(), f"rank_{trainer.global_rank}.pt")
"""


@pytest.mark.slow
def test_all_processes_end_with_equal_weights(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "write_weights.py").write_text(WRITE_WEIGHTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    finish(fit(root, *TWO, "--trainer.callbacks+=write_weights.WriteWeights"), tmp_path)
    one, two = (torch.load(tmp_path / f"rank_{rank}.pt") for rank in (0, 1))
    assert "norm1.running_mean" in one
    assert all(torch.equal(weight, two[name]) for name, weight in one.items())

    # What it logged of its validation images is what one process finds with its checkpoint.
    how = ["--ckpt_path", tmp_path / LAST, "--data.root", root, "--output=val.json", *ONE]
    run("validate", *how, cwd=tmp_path)
    alone = {f"val/{name}": value for name, value in figures(tmp_path / "val.json").items()}
    assert alone.pop("val/images") == 500
    logged = {k: v[-1][1] for k, v in curves(tmp_path).items() if k.startswith("val/")}
    assert len(alone) == 4 and alone == pytest.approx(logged, abs=1e-5)


def torchrun(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", *arguments, "-m", "mnist_lightning"]


@pytest.mark.slow
def test_torchrun_brings_a_killed_worker_back_to_the_same_bits(
    root: str,
    whole: Callable[[list[str]], Path],
    send_signal: Callable[..., list[str]],
    tmp_path: Path,
) -> None:
    kill = send_signal("SIGKILL", 13, rank=1)
    launcher = torchrun("--standalone", "--nproc-per-node=2", "--max-restarts=1")
    # Without the last one torch 2.14's workers meet the addresses of those before the restart.
    variables = {"OMP_NUM_THREADS": "1", "ONCE": str(tmp_path / "once")}
    variables["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    arguments = fit(root, *TWO, *kill, "--ckpt_path=auto")[3:]
    done = subprocess.run(
        [*launcher, *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        env={**os.environ, **variables},
    )
    assert done.returncode == 0, done.stderr
    assert f"resuming from {LAST}" in done.stdout
    assert_same_run(whole(TWO), tmp_path)


def have_namespaces() -> bool:
    if not shutil.which("ip") or os.geteuid() != 0:
        return False
    made = subprocess.run(["ip", "netns", "add", "mnist-probe"], capture_output=True)
    subprocess.run(["ip", "netns", "delete", "mnist-probe"], capture_output=True)
    return made.returncode == 0


@pytest.fixture
def nodes() -> Iterator[list[tuple[list[str], str, str]]]:
    """Yield for each of two machines: how to run there, its address, its network interface.

    They are network namespaces joined by a cable where those are allowed, else this machine twice.
    """
    if not have_namespaces():
        yield [([], "127.0.0.1", "lo")] * 2
        return
    names = ["mnist-a", "mnist-b"]

    def ip(*arguments: str) -> None:
        subprocess.run(["ip", *arguments], check=True)

    try:
        for name in names:
            ip("netns", "add", name)
        ip(
            "link",
            "add",
            "cable",
            "netns",
            names[0],
            "type",
            "veth",
            "peer",
            "cable",
            "netns",
            names[1],
        )
        for i, name in enumerate(names, start=1):
            ip("-n", name, "address", "add", f"10.77.0.{i}/24", "dev", "cable")
            ip("-n", name, "link", "set", "cable", "up")
            ip("-n", name, "link", "set", "lo", "up")
        yield [(["ip", "netns", "exec", name], "10.77.0.1", "cable") for name in names]
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], check=False)


@pytest.mark.slow
def test_two_machines_train_one_network(
    nodes: list[tuple[list[str], str, str]],
    root: str,
    whole: Callable[[list[str]], Path],
    tmp_path: Path,
) -> None:
    processes = []
    for rank, (where, address, interface) in enumerate(nodes):
        launcher = torchrun(
            "--nnodes=2",
            "--nproc-per-node=1",
            f"--node-rank={rank}",
            f"--master-addr={address}",
            "--master-port=29517",
        )
        arguments = fit(root, *ONE, "--trainer.num_nodes=2")[3:]
        variables = {"GLOO_SOCKET_IFNAME": interface, "OMP_NUM_THREADS": "1"}
        env = {**os.environ, **variables}
        processes.append(start([*where, *launcher, *arguments], tmp_path, env=env))
    for process in processes:
        _, err = process.communicate(timeout=600)
        assert process.returncode == 0, err
    assert [path.name for path in (tmp_path / "runs/smoke").iterdir()] == ["version_0"]
    assert_same_run(whole(TWO), tmp_path)
