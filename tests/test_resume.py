"""Which checkpoint a command line starts from, in which folder, and what it says about it."""

import multiprocessing
import shutil
from collections import Counter
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PLAIN, call
from lightning.pytorch.loggers import TensorBoardLogger

from mnist_lightning import checkpoint as checkpoint_room
from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.training import resume, saving
from mnist_lightning.training.trainer import _claim_folder

FOLDER = "runs/smoke/version_0/checkpoints"
CPU = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def finished(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a finished run's folder, in which the test stands."""
    shutil.copytree(smoke / "runs", tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def older(finished: Path) -> str:
    """Return a checkpoint of the run with fewer steps than last.ckpt."""
    path = f"{FOLDER}/best.ckpt"
    torch.save(dict(read_checkpoint(path), global_step=4), path)
    return path


def fit(monkeypatch: pytest.MonkeyPatch, root: str, *arguments: str) -> int | str | None:
    return call(monkeypatch, "fit", *PLAIN, "--data.root", root, *CPU, *arguments)


def test_a_finished_run_says_that_it_is(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(monkeypatch, root, "--ckpt_path=auto") == 0
    assert "nothing was left to train" in capsys.readouterr().out


@pytest.mark.parametrize("start", ["auto", f"{FOLDER}/last.ckpt"])
def test_each_file_is_read_once(
    start: str, finished: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: Counter[str] = Counter()

    def count(path: str | Path) -> dict[str, Any]:
        reads[Path(path).name] += 1
        return read_checkpoint(path)

    for room in (resume, saving, checkpoint_room, __import__("mnist_lightning.runs").runs):
        monkeypatch.setattr(room, "read_checkpoint", count)
    assert fit(monkeypatch, root, f"--ckpt_path={start}") == 0
    assert reads == {"best.ckpt": 1, "last.ckpt": 1}
    reads.clear()
    where = ["--ckpt_path", f"{FOLDER}/best.ckpt", "--data.root", root]
    assert call(monkeypatch, "validate", *where, "--trainer.accelerator=cpu") == 0
    assert reads == {"best.ckpt": 1}


def test_auto_takes_no_run_of_a_longer_name(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.move("runs/smoke/version_0", "runs/smoke/sub/version_0")
    assert fit(monkeypatch, root, "--ckpt_path=auto", "--trainer.max_steps=1") == 0
    assert "no checkpoint in runs/smoke: starting from scratch" in capsys.readouterr().out
    assert Path(FOLDER, "last.ckpt").exists()


def test_auto_says_what_it_passes_over_and_prints_no_control_characters(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(FOLDER, "\x1b[2J.ckpt").mkdir()
    shutil.copytree("runs/smoke", "runs/\x1b[31m$(touch pwned) x")
    shutil.rmtree("runs/smoke")
    name = "--trainer.logger.init_args.name=\x1b[31m$(touch pwned) x"
    assert fit(monkeypatch, root, "--ckpt_path=auto", name) == 0
    out, err = capsys.readouterr()
    assert "note: " in err and "?[2J.ckpt" in err
    ours = [line for line in out.splitlines() if line.startswith(("resuming", "check", "test"))]
    assert len(ours) == 3 and "\x1b" not in "".join(ours)
    assert ours[2].count("'runs/?[31m$(touch pwned) x/version_0/checkpoints/best.ckpt'") == 1


def test_an_older_checkpoint_starts_a_new_version_and_says_so(
    older: str, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit(monkeypatch, root, f"--ckpt_path={older}") == 0
    line = f"note: starting a new version at step 4: the newest checkpoint of this run is {FOLDER}"
    assert f"{line}/last.ckpt\n" in capsys.readouterr().err
    assert Path("runs/smoke/version_1/config.yaml").exists()


def test_a_folder_of_checkpoints_that_cannot_be_read_is_an_error_to_auto(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(FOLDER)
    Path(FOLDER).symlink_to("/nowhere/disk")
    message = fit(monkeypatch, root, "--ckpt_path=auto")
    assert message == f"error: {FOLDER}: No such file or directory"


def test_a_damaged_file_in_no_run_is_named_alone(
    tmp_path: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x.ckpt").write_text("")
    message = fit(monkeypatch, root, "--ckpt_path=x.ckpt")
    assert message == "error: x.ckpt is damaged or not a checkpoint"


def test_a_run_resumes_with_the_learning_rate_that_it_searched_for(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.train_size=1280", "--data.val_size=100"]
    search = [
        "--trainer.callbacks+=LearningRateFinder",
        "--trainer.callbacks.num_training_steps=20",
    ]
    assert fit(monkeypatch, root, *few, *search) == 0
    saved = read_checkpoint(f"{FOLDER}/last.ckpt")
    rate = saved["hyper_parameters"]["learning_rate"]
    assert rate != 0.03 and saved["optimizer_states"][0]["param_groups"][0]["max_lr"] == rate
    assert fit(monkeypatch, root, *few, *search, "--ckpt_path=auto") == 0
    assert "LearningRateFinder does not search again" in capsys.readouterr().err
    assert read_checkpoint(f"{FOLDER}/last.ckpt")["hyper_parameters"]["learning_rate"] == rate


CSV = "{class_path: CSVLogger, init_args: {save_dir: runs}}"
WANDB = "{class_path: WandbLogger, init_args: {save_dir: runs, offline: true}}"
MLFLOW = "{class_path: MLFlowLogger, init_args: {tracking_uri: 'sqlite:///ml.db'}}"


@pytest.mark.parametrize(
    ("logger", "package"),
    [
        ("false", None),
        ("true", None),
        (CSV, None),
        (f"[{{class_path: TensorBoardLogger, init_args: {{save_dir: runs}}}}, {CSV}]", None),
        pytest.param(WANDB, "wandb", marks=pytest.mark.filterwarnings("ignore")),
        pytest.param(MLFLOW, "mlflow", marks=pytest.mark.filterwarnings("ignore")),
    ],
)
def test_each_run_has_a_folder_and_resumes_in_it_whatever_logs(
    logger: str,
    package: str | None,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if package:
        pytest.importorskip(package, exc_type=ImportError)
    monkeypatch.chdir(tmp_path)
    which = [f"--trainer.logger={logger}"]
    few = [f"--data.root={root}", "--data.train_size=64", "--data.val_size=10", *CPU]
    few += ["--trainer.callbacks=[]", "--model.channels=[2,2]", "--model.schedule=constant"]
    few += which
    assert call(monkeypatch, "fit", *few, "--trainer.max_epochs=1") == 0
    (folder,) = (path.parent for path in tmp_path.rglob("config.yaml"))
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert f"checkpoint  {folder.relative_to(tmp_path)}/" in capsys.readouterr().out
    assert call(monkeypatch, "fit", *few, "--trainer.max_epochs=2", "--ckpt_path=auto") == 0
    assert f"resuming from {folder.relative_to(tmp_path)}/" in capsys.readouterr().out
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["epoch"] == 1
    if "CSV" in logger:
        table = next(tmp_path.rglob("metrics.csv")).read_text()
        assert table.count("\n") > 3
    assert call(monkeypatch, "fit", *few, "--trainer.max_epochs=1") == 0
    assert len(list(tmp_path.rglob("config.yaml"))) == 2


def test_without_a_path_the_newest_runs_checkpoint_is_tested(
    finished: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--data.root", root, *CPU, "--trainer.limit_test_batches=1"]
    for path, name in (
        ([], "best"),
        (["--ckpt_path=last"], "last"),
        (["--ckpt_path=auto"], "last"),
    ):
        assert call(monkeypatch, "test", *few, *path) == 0
        assert f"test takes {FOLDER}/{name}.ckpt, of the newest run" in capsys.readouterr().out
    Path(FOLDER, "best.ckpt").unlink()
    assert call(monkeypatch, "test", *few) == 0
    assert f"test takes {FOLDER}/last.ckpt" in capsys.readouterr().out


def test_a_run_resumes_with_the_optimizer_that_it_began_with(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.train_size=64", "--data.val_size=10", "--model.learning_rate=0.003"]
    sgd = ["--optimizer=SGD", "--optimizer.lr=0.1", "--optimizer.momentum=0.9"]
    auto = "--ckpt_path=auto"
    assert fit(monkeypatch, root, *few, *sgd, "--trainer.max_epochs=1") == 0
    other = fit(monkeypatch, root, *few, auto, "--optimizer=Adam")
    assert isinstance(other, str) and "in the checkpoint: leave it out" in other
    assert fit(monkeypatch, root, *few, auto, "--trainer.max_epochs=2") == 0
    assert fit(monkeypatch, root, *few, *sgd, auto, "--trainer.max_epochs=3") == 0
    saved = read_checkpoint(f"{FOLDER}/last.ckpt")
    assert saved["epoch"] == 2 and "momentum_buffer" in saved["optimizer_states"][0]["state"][0]
    wanted = fit(monkeypatch, root, *few, "--lr_scheduler=StepLR", "--lr_scheduler.step_size=1")
    assert wanted == "error: lr_scheduler wants an optimizer: --optimizer Adam, say"


# -- two runs at one instant


def claim(folder: Path, barrier: Barrier, number: int) -> None:
    names = []
    for _ in range(20):
        barrier.wait()
        mine = _claim_folder(TensorBoardLogger(str(folder), "exp"))
        assert mine is not None
        names.append(Path(mine.log_dir).name)
    (folder / f"names_{number}").write_text("\n".join(names))


def test_processes_that_start_at_one_instant_get_folders_of_their_own(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=claim, args=(tmp_path, barrier, i)) for i in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    names = [n for path in tmp_path.glob("names_*") for n in path.read_text().split()]
    assert sorted(names) == sorted(f"version_{number}" for number in range(80))


def test_a_version_that_is_given_is_not_changed(tmp_path: Path) -> None:
    logger = TensorBoardLogger(str(tmp_path), "exp", version="two")
    claimed = _claim_folder(logger)
    assert claimed and claimed.version == "two" and (tmp_path / "exp/two").is_dir()
    assert _claim_folder(logger) is None


def test_a_mistake_leaves_no_claimed_folder(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert str(fit(monkeypatch, root, "--data.root=file/data")).startswith("error: ")
    assert list(tmp_path.glob("runs/smoke/*")) == []


@pytest.mark.parametrize(
    "spoil",
    [
        lambda checkpoint: checkpoint.update(loops={}),
        lambda checkpoint: checkpoint.pop("optimizer_states"),
        lambda checkpoint: checkpoint["optimizer_states"][0].clear(),
        lambda checkpoint: checkpoint["state_dict"].update(other=torch.zeros(1)),
        lambda checkpoint: checkpoint.update({"pytorch-lightning_version": "x"}),
    ],
    ids=["no loops", "no optimizer", "an empty optimizer", "another weight", "no version"],
)
def test_a_checkpoint_that_does_not_fit_the_run_is_refused_in_one_line(
    spoil: Callable[[dict], object],
    smoke: Path,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = read_checkpoint(smoke / "runs/smoke/version_0/checkpoints/last.ckpt")
    spoil(checkpoint)
    torch.save(checkpoint, "spoiled.ckpt")
    message = call(monkeypatch, "fit", *PLAIN, "--data.root", root, "--ckpt_path=spoiled.ckpt")
    assert isinstance(message, str) and message.startswith("error: ") and "\n" not in message
    assert "does not fit this run" in message or "spoiled.ckpt" in message
