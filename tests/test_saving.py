import os
import signal
import sys
import threading
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import PLAIN, call
from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    Timer,
)
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning import MNISTClassifier, MNISTDataModule, Trainer
from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.errors import UserError
from mnist_lightning.training.saving import (
    SafeModelCheckpoint,
    SaveOnSignal,
    VerifiedCheckpointIO,
)

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
    key = SafeModelCheckpoint("best", monitor="val/accuracy", mode="max").state_key
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


def test_the_state_of_an_earlier_checkpoint_is_found(tmp_path: Path) -> None:
    trainer = Trainer(default_root_dir=tmp_path, logger=False, **QUIET)
    best, score = trainer.kept[0], torch.tensor(0.5)
    best.resumes_in_place = True
    earlier = ModelCheckpoint(monitor="val/accuracy", mode="max").state_key
    states = {earlier: {"best_model_score": score}}
    best.on_load_checkpoint(trainer, LightningModule(), {"callbacks": states})
    assert best.best_model_score == score
    states[best.state_key] = {"best_model_score": score / 2}  # Lightning loads this one itself
    best.best_model_score = None
    best.on_load_checkpoint(trainer, LightningModule(), {"callbacks": states})
    assert best.best_model_score is None


# -- in Python


class Act(Callback):
    """Does something at the start of a step."""

    def __init__(self, step: int, act: Any) -> None:
        self.step, self.act = step, act

    def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == self.step:
            self.act()


def fit(
    root: str, ckpt_path: Path | None = None, module: dict[str, Any] | None = None, **settings: Any
) -> Trainer:
    trainer = Trainer(**{"max_epochs": 1, **QUIET, **settings})
    torch.manual_seed(0)
    data = MNISTDataModule(root, train_size=256, val_size=100, batch_size=32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(MNISTClassifier(**SMALL, **module or {}), datamodule=data, ckpt_path=ckpt_path)
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


def test_a_stop_keeps_the_session_that_a_person_types_into(
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        # Told once it saves; told twice it ends at once, and Python still lives.
        for step, times in ((2, 1), (5, 1), (2, 2)):
            send = Act(
                step, lambda n=times: [os.kill(os.getpid(), signal.SIGINT) for _ in range(n)]
            )
            with pytest.raises(KeyboardInterrupt):
                fit(root, logger=False, callbacks=[send])
            assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
    out = capsys.readouterr().out
    for version, step in ((0, 3), (1, 6)):
        path = f"runs/mnist/version_{version}/checkpoints/last.ckpt"
        assert read_checkpoint(path)["global_step"] == step
        said = f'stopped by SIGINT after step {step}; the same fit with ckpt_path="{path}" resumes'
        assert said in out


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


class Metric(Callback):
    """Notes a figure after each epoch."""

    def __init__(self, look: Any) -> None:
        self.look, self.seen = look, list[Any]()

    def on_train_epoch_end(self, trainer: Any, *_: Any) -> None:
        self.seen.append(self.look(trainer))


def test_a_monitor_that_is_not_logged_is_named_and_the_epoch_saved(
    root: str, tmp_path: Path
) -> None:
    last = tmp_path / "lightning_logs/version_0/checkpoints/last.ckpt"
    with pytest.raises(UserError, match=r"EarlyStopping monitors val_loss.* val/loss.*last\.ckpt"):
        fit(root, default_root_dir=tmp_path, callbacks=[EarlyStopping("val_loss")])
    assert read_checkpoint(last)["global_step"] == 8
    with pytest.raises(UserError, match="ModelCheckpoint monitors loss"):
        mine = ModelCheckpoint(monitor="loss")
        fit(root, default_root_dir=tmp_path, callbacks=[mine], val_check_interval=4)


def test_a_checkpoint_of_the_users_own_stands_beside_best_and_last(
    root: str, tmp_path: Path
) -> None:
    mine = [ModelCheckpoint(monitor="val/accuracy", mode="max"), ModelCheckpoint(filename="every")]
    fit(root, default_root_dir=tmp_path, callbacks=mine)
    names = {path.name for path in tmp_path.glob("lightning_logs/version_0/checkpoints/*")}
    assert names == {"best.ckpt", "last.ckpt", "every.ckpt", "epoch=0-step=8.ckpt"}


def test_an_average_that_begins_late_is_the_network_until_then(root: str, tmp_path: Path) -> None:
    average = EMAWeightAveraging(update_every_n_steps=0, update_starting_at_epoch=5)
    folder, accuracies = tmp_path / "lightning_logs", []
    for callbacks in ([], [average]):
        figure = Metric(lambda trainer: float(trainer.callback_metrics["val/accuracy"]))
        settings = {"max_epochs": 2, "callbacks": [*callbacks, figure]}
        fit(root, default_root_dir=tmp_path, **settings)
        accuracies.append(figure.seen)
    assert accuracies[0] == accuracies[1]
    plain, averaged = (
        read_checkpoint(folder / f"version_{i}/checkpoints/best.ckpt")["state_dict"] for i in (0, 1)
    )
    assert torch.equal(plain["network.conv1.weight"], averaged["network.conv1.weight"])


def test_overfit_batches_are_the_same_in_each_epoch(root: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Look(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, i: int) -> None:
            seen.append([tensor.clone() for tensor in batch])

    fit(root, default_root_dir=tmp_path, callbacks=[Look()], overfit_batches=2, max_epochs=3)
    assert len(seen) == 6 and not torch.equal(seen[0][0], seen[1][0])
    for first, later in zip(seen[:2] * 2, seen[2:], strict=True):
        assert all(map(torch.equal, first, later))
    # No warps: each image is one of the set.
    data = MNISTDataModule(root)
    data.setup("fit")
    images = (data.train_images[:, None] / 255).flatten(1)
    assert (images == seen[0][0][0].flatten()).all(dim=1).any()


class TimeUp(Callback):
    """Stops a run within its first epoch, as a Timer does."""

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        trainer.should_stop |= trainer.global_step == 3


def test_a_run_whose_time_is_up_within_an_epoch_ends_with_the_same_bits(
    root: str, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"root": root, "max_epochs": 2}
    fit(**settings, default_root_dir=tmp_path / "whole")
    fit(**settings, default_root_dir=tmp_path / "cut", callbacks=[TimeUp()])
    whole, cut = (
        tmp_path / name / "lightning_logs/version_0/checkpoints/last.ckpt"
        for name in ("whole", "cut")
    )
    assert read_checkpoint(cut)["global_step"] == 3
    resumed = fit(**settings, default_root_dir=tmp_path / "resumed", ckpt_path=cut)
    assert resumed.global_step == 16
    expected, weights = read_checkpoint(whole)["state_dict"], resumed.model.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(weight, expected[name]) for name, weight in weights.items())


def test_a_run_that_must_go_on_after_its_time_is_not_saved_at_each_step(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, save = [], VerifiedCheckpointIO.save_checkpoint

    def count(io: Any, checkpoint: dict[str, Any], path: str, **_: Any) -> None:
        saved.append(checkpoint["global_step"])
        save(io, checkpoint, path)

    monkeypatch.setattr(VerifiedCheckpointIO, "save_checkpoint", count)
    fit(root, default_root_dir=tmp_path, max_epochs=2, min_epochs=1, callbacks=[TimeUp()])
    assert set(saved) == {8}


def test_the_time_is_looked_at_before_what_saves_when_it_is_up() -> None:
    kinds = [type(each) for each in Trainer(max_time="00:01:00:00", **QUIET).callbacks]  # type: ignore[attr-defined]
    assert kinds.count(Timer) == 1 and kinds.index(Timer) < kinds.index(SaveOnSignal)


def test_a_thread_can_train(root: str, tmp_path: Path) -> None:
    thread = threading.Thread(target=fit, args=[root], kwargs={"default_root_dir": tmp_path})
    thread.start()
    thread.join()
    assert list(tmp_path.rglob("last.ckpt"))


class Keeps(Callback):
    """Has a value that a checkpoint is not read with."""

    def state_dict(self) -> dict[str, Any]:
        return {"path": Path()}


def test_what_could_not_be_read_again_is_not_saved(root: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"can't hold what this run would save, a pathlib\.\S*Path:"
    ):
        fit(root, default_root_dir=tmp_path, callbacks=[Keeps()])
    assert not list(tmp_path.rglob("*.ckpt"))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("MultiStepLR", {"milestones": [1]}), ("CosineAnnealingWarmRestarts", {"T_0": 1})],
)
def test_a_run_with_a_scheduler_of_torchs_is_read_again(
    kind: str, settings: dict[str, Any], root: str, tmp_path: Path
) -> None:
    choices = {
        "optimizer": {"class_path": "torch.optim.Adam"},
        "lr_scheduler": {"class_path": f"torch.optim.lr_scheduler.{kind}", "init_args": settings},
    }
    fit(root, default_root_dir=tmp_path, module=choices)
    (path,) = tmp_path.rglob("last.ckpt")
    assert read_checkpoint(path)["lr_schedulers"]


def test_slurm_with_fewer_tasks_than_devices_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    for name in ("JOB_NAME", "PROCID", "LOCALID", "NODEID"):
        monkeypatch.setenv(f"SLURM_{name}", "0")
    with pytest.raises(MisconfigurationException, match=r"1 task.* 2 .*--ntasks-per-node 2"):
        Trainer(accelerator="cpu", devices=2, logger=False)
    # torchrun starts the other one within the only task
    for name in ("TORCHELASTIC_RUN_ID", "LOCAL_RANK", "RANK"):
        monkeypatch.setenv(name, "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert Trainer(accelerator="cpu", devices=2, logger=False).num_devices == 2


def test_several_gpus_are_looked_at_for_a_signal_every_few_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []
    signals = SaveOnSignal(ModelCheckpoint())
    monkeypatch.setattr(signals, "_any_told", lambda trainer: bool(asked.append(1)))
    run: Any = SimpleNamespace(
        world_size=2, accumulate_grad_batches=1, is_last_batch=False, should_stop=False
    )
    for device, looks in (("cuda", 3), ("cpu", 30)):
        asked.clear()
        module: Any = SimpleNamespace(device=torch.device(device))
        for step in range(30):
            signals.on_train_batch_end(run, module, None, None, step)
        assert len(asked) == looks
