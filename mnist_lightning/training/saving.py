"""Checkpoints: which are kept, how they are written and read, and what happens on a signal."""

import os
import signal
import threading
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import (
    Callback,
    EarlyStopping,
    ModelCheckpoint,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor

from mnist_lightning.checkpoint import read_checkpoint, to_contents
from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file
from mnist_lightning.training.progress import is_interactive, say

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")  # Windows has no SIGHUP

LOOK_EVERY = 10  # steps between two looks for a signal, on several GPUs


class SafeModelCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint in the run's folder, and takes no path from one that is loaded.

    Lightning's own believes what a loaded checkpoint calls the best one so far, and removes it,
    folders and all, when a better one comes.

    Two of them keep `best.ckpt` and `last.ckpt`: Lightning's `save_last` writes only when there is
    a new best one.

    Args:
        filename: The file's name, without `.ckpt`.
        settings: Those of Lightning's ModelCheckpoint.

    Attributes:
        cut_short_at: The step at which `SaveOnSignal` saved an epoch that a `Timer` cuts short.
    """

    def __init__(self, filename: str, **settings: Any) -> None:
        super().__init__(
            filename=filename,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            **settings,
        )
        self.resumes_in_place = False
        self.cut_short_at: int | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder, and whether the run has its file there already."""
        with warnings.catch_warnings():
            # That the folder is not empty, which is so whenever a run resumes.
            warnings.simplefilter("ignore", UserWarning)
            if stage == "fit" and self.dirpath is None:
                self.dirpath = os.path.join(trainer.log_dir or "", "checkpoints")
            super().setup(trainer, pl_module, stage)
        self.resumes_in_place = self.file_exists(self.format_checkpoint_name({}), trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless there was no validation yet to tell which epoch is best.

        What is saved here goes on with the next epoch, so one that was cut short is not.
        """
        if trainer.global_step == self.cut_short_at:
            return
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save a stochastic average as the last: a network without batch norm gets it only now."""
        averages = any(isinstance(c, StochasticWeightAveraging) for c in trainer.callbacks)  # type: ignore[attr-defined]
        if averages and self.monitor is None:
            trainer.save_checkpoint(self.format_checkpoint_name({}), weights_only=False)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Find the state in earlier checkpoints, which keep it as a plain ModelCheckpoint's."""
        states = checkpoint.get("callbacks", {})
        earlier = self.state_key.removeprefix("Safe")
        if self.state_key not in states and earlier in states:
            self.load_state_dict(states[earlier])

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score if the run resumes in its folder; another folder's list is new."""
        if not self.resumes_in_place:
            return
        self.best_model_path = self.format_checkpoint_name({})
        score = state_dict.get("best_model_score")
        if isinstance(score, Tensor) and score.numel() == 1:
            self.best_model_score = self.kth_value = score
            self.kth_best_model_path = self.best_model_path
            self.best_k_models = {self.best_model_path: score}
        latest = state_dict.get("current_score")  # Lightning's own forgets it
        if isinstance(latest, Tensor) and latest.numel() == 1:
            self.current_score = latest


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole at any moment, reads no damaged one, removes nothing else.

    Attributes:
        already_read: Contents of checkpoints that need not be read again, by their paths.
    """

    def __init__(self) -> None:
        self.already_read: dict[str, dict[str, Any]] = {}
        self.folders: set[Path] = set()

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint in place of the one before it.

        Raises:
            OSError: If it can't be written; the one before it is whole still.
            UserError: If it holds what could not be read again, as a callback's state may.
        """
        contents = to_contents(checkpoint)
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        self.folders.add(folder.resolve())
        replace_file(Path(path), contents)

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Return a checkpoint's contents, see `read_checkpoint`.

        With `ddp_spawn` a process of this run hands over its bare weights in a file, too.
        """
        if Path(path).name == ".temp.ckpt":
            self.folders.add(Path(path).resolve().parent)  # to remove it
            return torch.load(path, weights_only=True)
        return self.already_read.pop(str(path), None) or read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint file from a folder that this run has saved one in; else do nothing.

        The path may come from a stranger's checkpoint, as a plain ModelCheckpoint's state: folders,
        links, other files and files in other folders stay.
        """
        path = Path(path)
        is_checkpoint = path.suffix == ".ckpt" and path.is_file() and not path.is_symlink()
        if is_checkpoint and path.resolve().parent in self.folders:
            path.unlink()


class FollowUntilAveraged(Callback):
    """Lets an average of weights that has not begun be the network itself.

    Lightning's `WeightAveraging` validates and saves its average from the first epoch on, which is
    the untrained network until the first weights come in.
    """

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network for what is validated."""
        if trainer.state.fn == "fit":
            self._follow(trainer, pl_module)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network for what is saved."""
        self._follow(trainer, pl_module)

    def _follow(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, WeightAveraging):
                saved: dict[str, Any] = {"state_dict": {}}
                callback.on_save_checkpoint(trainer, pl_module, saved)
                if saved["averaging_state"]["n_averaged"] == 0:
                    with warnings.catch_warnings():  # that there is no average in it
                        warnings.simplefilter("ignore")
                        weights = {"state_dict": pl_module.state_dict()}
                        callback.on_load_checkpoint(trainer, pl_module, weights)


class CheckMonitors(Callback):
    """Refuses a callback that waits for a figure that nobody logs, with the epoch saved.

    Lightning does so before it saves the epoch.

    Args:
        last: The callback that keeps `last.ckpt`.
    """

    def __init__(self, last: ModelCheckpoint) -> None:
        self.last = last

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, if callbacks look after a validation."""
        if not trainer.sanity_checking and not self._by_epoch(trainer):
            self._check(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look, if callbacks look after an epoch."""
        if self._by_epoch(trainer):
            self._check(trainer)

    def _by_epoch(self, trainer: Any) -> bool:
        return trainer.val_check_interval == 1.0 and trainer.check_val_every_n_epoch == 1

    def _check(self, trainer: Any) -> None:
        for callback in () if trainer.fast_dev_run else trainer.callbacks:
            monitor = getattr(callback, "monitor", None)
            waits = isinstance(callback, EarlyStopping) and callback.strict
            waits |= type(callback) is ModelCheckpoint
            if waits and monitor and monitor not in trainer.callback_metrics:
                path = f"{self.last.dirpath}/last.ckpt"
                trainer.save_checkpoint(path, weights_only=False)
                names = ", ".join(trainer.callback_metrics)
                raise UserError(
                    f"{type(callback).__name__} monitors {monitor}, which is not logged: {names} "
                    f"are. {os.path.relpath(path)} has this epoch, to resume from"
                )


class SaveOnSignal(Callback):
    """Ends well on SIGTERM, SIGHUP, Ctrl-C or a `Timer`'s end, with `last.ckpt` saved.

    The exit code is the shell's for the signal, 143, 129 or 130, so that a scheduler sees that the
    run is not done; `Trainer` keeps a notebook from exiting. A second signal acts at once. A signal
    that is ignored, as SIGHUP is under nohup, stays ignored.

    Args:
        last: The callback that keeps `last.ckpt`.
    """

    def __init__(self, last: SafeModelCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None
        self.terminals: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; Lightning gives them back at the end."""
        # Lightning's own SIGTERM handler exits with 0, and talks to the other processes within it.
        self.received = signal.SIGTERM if trainer.received_sigterm else None
        self.terminals = [stream for stream in (1, 2) if os.isatty(stream)]
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread take over signals
        for number in signal.Signals:
            if number.name in STOP_SIGNALS and signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._receive)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Save and stop, unless the step is an epoch's last: the epoch's own save comes soon."""
        # Where steps are not waited for, ranks that ask each other would wait for each.
        waits = trainer.world_size > 1 and pl_module.device.type != "cpu"
        stops = trainer.should_stop and _may_stop(trainer)  # a Timer's time is up, on all ranks
        if waits and not stops and (batch_idx + 1) % LOOK_EVERY:
            return
        told = self._any_told(trainer)
        # Half of an accumulated gradient is in no checkpoint, so such a step is finished first.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if (told or stops) and whole and not trainer.is_last_batch:
            if told:
                _log_step(trainer)
            trainer.save_checkpoint(f"{self.last.dirpath}/last.ckpt", weights_only=False)
            if told:
                self._exit(trainer)
            self.last.cut_short_at = trainer.global_step

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop between two epochs, with the first one's checkpoint."""
        if self._any_told(trainer):
            self._exit(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Bring the curves up to the checkpoint to the disk too."""
        for logger in trainer.loggers:
            logger.save()

    def _any_told(self, trainer: pl.Trainer) -> bool:
        """Tell whether any process received a signal, so that all stop at the same step."""
        told = self.received is not None
        if trainer.world_size > 1:
            return trainer.strategy.reduce_boolean_decision(told, all=False)
        return told

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        self.received = signal.Signals(signum)
        # Python's own handler ends the run and keeps the session, the system's ends both.
        keeps = is_interactive() and signum == signal.SIGINT
        signal.signal(signum, signal.default_int_handler if keeps else signal.SIG_DFL)
        if self.received.name == "SIGHUP":  # the terminal is gone: to write to it is an error
            with open(os.devnull, "w") as nowhere:
                for stream in self.terminals:
                    os.dup2(nowhere.fileno(), stream)

    def _exit(self, trainer: pl.Trainer) -> None:
        received = self.received or signal.SIGTERM
        if trainer.is_global_zero:
            path = os.path.relpath(f"{self.last.dirpath}/last.ckpt")
            again = "the same command with --ckpt_path auto"
            if is_interactive():
                again = f'the same fit with ckpt_path="{path}"'
            say(f"stopped by {received.name} after step {trainer.global_step}; {again} resumes")
        # The launcher takes another code of the processes that it started for a crash.
        raise SystemExit(128 + received if trainer.local_rank == 0 else 0)


def _may_stop(trainer: pl.Trainer) -> bool:
    """Return whether `min_epochs` and `min_steps`, until which Lightning goes on, are reached."""
    epochs, steps = trainer.min_epochs or 0, trainer.min_steps or 0
    return trainer.current_epoch >= epochs and trainer.global_step >= steps


def _log_step(trainer: pl.Trainer) -> None:
    """Log a step that ends the run: Lightning would do so after its last hook."""
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if not interval or trainer.global_step % interval:
        return
    # `logged_metrics` holds the last validation's too.
    metrics = {k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith("train/")}
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, trainer.global_step - 1)
