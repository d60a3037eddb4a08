"""Checkpoints: which are kept, how they are written and read, and what happens on a signal."""

import io
import os
import signal
import warnings
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.files import replace_file
from mnist_lightning.training.progress import say

STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")  # Windows has no SIGHUP


class SafeModelCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint in the run's folder, and takes no path from one that is loaded.

    Lightning's own believes what a loaded checkpoint calls the best one so far, and removes it,
    folders and all, when a better one comes.

    Two of them keep `best.ckpt` and `last.ckpt`: Lightning's `save_last` writes only when there is
    a new best one.

    Args:
        filename: The file's name, without `.ckpt`.
        settings: Those of Lightning's ModelCheckpoint.
    """

    def __init__(self, filename: str, **settings: Any) -> None:
        super().__init__(
            filename=filename,
            enable_version_counter=False,
            save_on_train_epoch_end=True,
            **settings,
        )
        self.resumes_in_place = False

    @property
    def state_key(self) -> str:
        """Return the key of ModelCheckpoint, under which earlier checkpoints keep the state."""
        return ModelCheckpoint.__qualname__ + super().state_key.removeprefix(
            type(self).__qualname__
        )

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the folder, and whether the run has its file there already."""
        with warnings.catch_warnings():
            # That the folder is not empty, which is so whenever a run resumes.
            warnings.simplefilter("ignore", UserWarning)
            super().setup(trainer, pl_module, stage)
        self.resumes_in_place = self.file_exists(self.format_checkpoint_name({}), trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, unless there was no validation yet to tell which epoch is best."""
        if self.monitor is None or self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)

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
        """
        contents = io.BytesIO()
        torch.save(checkpoint, contents)
        folder = Path(path).parent
        folder.mkdir(parents=True, exist_ok=True)
        self.folders.add(folder.resolve())
        replace_file(Path(path), contents.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Return a checkpoint's contents, see `read_checkpoint`."""
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


class SaveOnSignal(Callback):
    """Ends well on SIGTERM, SIGHUP or Ctrl-C, with `last.ckpt` saved.

    The exit code is the shell's for the signal, 143, 129 or 130, so that a scheduler sees that the
    run is not done. A second signal acts at once. A signal that is ignored, as SIGHUP is under
    nohup, stays ignored.

    Args:
        last: The callback that keeps `last.ckpt`.
    """

    def __init__(self, last: ModelCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None
        self.terminals: list[int] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over the signals; Lightning gives them back at the end."""
        # Lightning's own SIGTERM handler exits with 0, and talks to the other processes within it.
        self.received = signal.SIGTERM if trainer.received_sigterm else None
        self.terminals = [stream for stream in (1, 2) if os.isatty(stream)]
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
        told = self._any_told(trainer)
        # Half of an accumulated gradient is in no checkpoint, so such a step is finished first.
        whole = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if told and whole and not trainer.is_last_batch:
            _log_step(trainer)
            trainer.save_checkpoint(f"{self.last.dirpath}/last.ckpt", weights_only=False)
            self._exit(trainer)

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
        signal.signal(signum, signal.SIG_DFL)
        if self.received.name == "SIGHUP":  # the terminal is gone: to write to it is an error
            with open(os.devnull, "w") as nowhere:
                for stream in self.terminals:
                    os.dup2(nowhere.fileno(), stream)

    def _exit(self, trainer: pl.Trainer) -> None:
        received = self.received or signal.SIGTERM
        if trainer.is_global_zero:
            step = f"stopped by {received.name} after step {trainer.global_step}"
            say(f"{step}; the same command with --ckpt_path auto resumes")
        # The launcher takes another code of the processes that it started for a crash.
        raise SystemExit(128 + received if trainer.local_rank == 0 else 0)


def _log_step(trainer: pl.Trainer) -> None:
    """Log a step that ends the run: Lightning would do so after its last hook."""
    interval = trainer.log_every_n_steps  # type: ignore[attr-defined]
    if not interval or trainer.global_step % interval:
        return
    # `logged_metrics` holds the last validation's too.
    metrics = {k: float(v) for k, v in trainer.logged_metrics.items() if k.startswith("train/")}
    for logger in trainer.loggers:
        logger.log_metrics({**metrics, "epoch": trainer.current_epoch}, trainer.global_step - 1)
