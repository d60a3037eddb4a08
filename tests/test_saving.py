import os
import signal
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PLAIN, call
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from mnist_lightning import MNISTClassifier, MNISTDataModule, Trainer
from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.training.saving import SafeModelCheckpoint, VerifiedCheckpointIO

SMALL = {"channels": (4, 8), "hidden": 16}
OTHER = "runs/mine/version_0/checkpoints"
LAST = "runs/smoke/version_0/checkpoints/last.ckpt"
QUIET = {
    "accelerator": "cpu",
    "devices": 1,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


def name_as_best(state: dict[str, Any], victim: str, folder: str) -> None:
    """Make a state name a victim in every place that Lightning takes a path from."""
    score = torch.tensor(0.0)
    state.update(best_model_path=victim, kth_best_model_path=victim, last_model_path=victim)
    state.update(best_k_models={victim: score}, best_model_score=score, kth_value=score)
    state.update(dirpath=folder)


@pytest.fixture
def victims(tmp_path: Path) -> dict[str, str]:
    """Make a user's files and folders in and above the working folder; return names for them."""
    work = tmp_path / "work"
    own = work / "runs/smoke/version_1/checkpoints"  # where the run will save
    own.mkdir(parents=True)
    for folder in (tmp_path / "precious", work / "precious", own / "precious.ckpt"):
        folder.mkdir()
        (folder / "thesis").write_text("years")
    for file in (tmp_path / "other.ckpt", work / "notes.ckpt", own / "notes.txt"):
        file.write_text("mine")
    (own / "link.ckpt").symlink_to(tmp_path / "other.ckpt")
    return {
        "relative": "precious",
        "above": "../precious",
        "above its own folder": "runs/smoke/version_1/checkpoints/../../../../precious",
        "absolute": str(work / "precious"),
        "scheme": f"local://{work}/precious",
        "file scheme": f"file://{work}/notes.ckpt",
        "a file": str(work / "notes.ckpt"),
        "a folder in its own": str(own / "precious.ckpt"),
        "another file in its own": str(own / "notes.txt"),
        "a link": str(own / "link.ckpt"),
        "a link's target": str(own / "link.ckpt/../../../../../../other.ckpt"),
    }


def everything(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.name != "own.ckpt"}


def test_a_run_removes_none_of_a_strangers_paths(
    victims: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path / "work")
    before, io = everything(tmp_path), VerifiedCheckpointIO()
    own = Path("runs/smoke/version_1/checkpoints/own.ckpt")
    io.save_checkpoint({}, own)
    for victim in victims.values():
        io.remove_checkpoint(victim)
    assert everything(tmp_path) == before and own.exists()
    io.remove_checkpoint(own)
    io.remove_checkpoint(own)  # it may be gone
    assert not own.exists()


def test_no_path_is_taken_from_a_loaded_state(victims: dict[str, str], tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path, logger=False, **QUIET)
    best = trainer.kept[0]
    best.setup(trainer, LightningModule(), "fit")
    folder = Path(str(best.dirpath))
    folder.mkdir()
    for there in (False, True):
        if there:  # the run resumes in its own folder
            (folder / "best.ckpt").write_text("")
            best.setup(trainer, LightningModule(), "fit")
        for victim in victims.values():
            state: dict[str, Any] = {}
            name_as_best(state, victim, str(best.dirpath))
            best.load_state_dict(state)
            names = {best.best_model_path, best.kth_best_model_path, best.last_model_path}
            names |= {*best.best_k_models, str(best.dirpath)}
            assert names <= {"", str(folder), str(folder / "best.ckpt")}
            assert (best.best_model_score == 0) if there else best.best_model_score is None


@pytest.mark.parametrize("plain", [False, True], ids=["ours", "with Lightning's own"])
@pytest.mark.parametrize("victim", [f"{OTHER}/../../../../precious", "local://{work}/precious"])
def test_fit_from_a_strangers_checkpoint_deletes_nothing(
    victim: str,
    plain: bool,
    victims: dict[str, str],
    smoke: Path,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    work = tmp_path / "work"
    monkeypatch.chdir(work)
    checkpoint = read_checkpoint(smoke / LAST)
    checkpoint["hyper_parameters"]["schedule"] = "constant"  # so that there is more to train
    checkpoint["lr_schedulers"] = []
    states, own = checkpoint["callbacks"], []
    key = ModelCheckpoint(monitor="val/accuracy", mode="max").state_key
    name_as_best(states[key], victim.format(work=work), OTHER)
    if plain:
        own = ["ModelCheckpoint", "monitor=train/loss", "mode=max", "filename=own"]
        own = ["--trainer.callbacks+=" + own[0], *(f"--trainer.callbacks.{x}" for x in own[1:])]
        key_of_own = ModelCheckpoint(monitor="train/loss", mode="max").state_key
        states[key_of_own] = dict(states[key], monitor="train/loss")
    torch.save(checkpoint, "stranger.ckpt")
    before = everything(tmp_path)
    arguments = [*PLAIN, "--data.root", root, "--ckpt_path=stranger.ckpt", *own]
    arguments += ["--trainer.logger.init_args.name=mine", "--trainer.max_epochs=3"]
    arguments += ["--model.schedule=constant", "--trainer.accelerator=cpu"]
    assert call(monkeypatch, "fit", *arguments) == 0
    assert before <= everything(tmp_path)
    files = {"best.ckpt", "last.ckpt"} | ({"own.ckpt"} if plain else set())
    assert {path.name for path in (work / OTHER).iterdir()} == files


def test_the_state_stands_under_the_key_of_lightnings_own() -> None:
    ours = SafeModelCheckpoint("best", monitor="val/accuracy", mode="max")
    assert ours.state_key == ModelCheckpoint(monitor="val/accuracy", mode="max").state_key


# -- in Python


class Act(Callback):
    """Does something at the start of a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.act()


def fit(root: str, **settings: Any) -> Trainer:
    trainer = Trainer(**{"max_epochs": 1, **QUIET, **settings})
    torch.manual_seed(0)
    data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(MNISTClassifier(**SMALL), datamodule=data)
    return trainer


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_saves_in_python_too(
    name: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    signal.signal(number, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as exit_:
            send = Act(2, lambda: os.kill(os.getpid(), number))
            fit(root, default_root_dir=tmp_path, callbacks=[send])
    finally:
        signal.signal(number, before)
    assert exit_.value.code == 128 + number
    last = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 3


def test_a_hang_up_that_is_ignored_stays_ignored(root: str, tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        send = Act(2, lambda: os.kill(os.getpid(), signal.SIGHUP))
        trainer = fit(root, default_root_dir=tmp_path, callbacks=[send])
    finally:
        signal.signal(signal.SIGHUP, before)
    assert trainer.global_step == 8


def test_python_keeps_best_and_last_and_predicts_into_a_file(root: str, tmp_path: Path) -> None:
    trainer = fit(root, default_root_dir=tmp_path)
    folder = tmp_path / "lightning_logs/version_0/checkpoints"
    assert {path.name for path in folder.iterdir()} == {"best.ckpt", "last.ckpt"}
    output = tmp_path / "predictions.csv"
    network = MNISTClassifier(**SMALL)
    few = Trainer(logger=False, default_root_dir=tmp_path, limit_predict_batches=1, **QUIET)
    data = MNISTDataModule(root, eval_batch_size=30)
    few.predict(network, datamodule=data, ckpt_path=folder / "last.ckpt", output=output)
    assert 1 < len(output.read_text().splitlines()) <= 31
    assert trainer.kept[0].best_model_path == str(folder / "best.ckpt")


def test_no_validation_means_no_best(root: str, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*(num_workers|LeafSpec|tensorboardX)")
        fit(root, default_root_dir=tmp_path, limit_val_batches=0)
    folder = tmp_path / "lightning_logs/version_0/checkpoints"
    assert [path.name for path in folder.iterdir()] == ["last.ckpt"]
