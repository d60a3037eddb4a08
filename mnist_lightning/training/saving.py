"""Checkpoints: which are kept, how they are written and read, and what happens on a signal."""

import io
import signal
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import TorchCheckpointIO

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.files import replace_file


def checkpoints(validates: bool) -> list[ModelCheckpoint]:
    """Return the callbacks that keep `best.ckpt`, by val/accuracy, and `last.ckpt`, the newest.

    They are two because Lightning's `save_last` writes only when there is a new best one.

    Args:
        validates: False leaves out `best.ckpt`: without validation no epoch is known to be best.
    """
    keep = partial(ModelCheckpoint, enable_version_counter=False, save_on_train_epoch_end=True)
    last = keep(filename="last")
    return (
        [keep(filename="best", monitor="val/accuracy", mode="max"), last] if validates else [last]
    )


class VerifiedCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints that are whole at every moment, and reads none that is damaged."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write a checkpoint in place of the one before it.

        Raises:
            OSError: If it can't be written; the one before it is whole still.
        """
        contents = io.BytesIO()
        torch.save(checkpoint, contents)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        replace_file(Path(path), contents.getvalue())

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint, see `read_checkpoint`."""
        return read_checkpoint(path)


class SaveOnSignal(Callback):
    """Ends well on SIGTERM or Ctrl-C, with `last.ckpt` saved.

    The exit code is the shell's for the signal, 143 or 130, so that a scheduler sees that the run
    is not done. A second signal acts at once.

    Args:
        last: The callback that keeps `last.ckpt`.
    """

    def __init__(self, last: ModelCheckpoint) -> None:
        self.last = last
        self.received: signal.Signals | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take over both signals; Lightning gives them back at the end."""
        # Lightning's own SIGTERM handler exits with 0, and talks to the other processes within it.
        if trainer.received_sigterm:
            self.received = signal.SIGTERM
        signal.signal(signal.SIGTERM, self._receive)
        signal.signal(signal.SIGINT, self._receive)

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
            # Lightning logs a step after this hook, which this step will not come to.
            trainer._logger_connector.update_train_step_metrics()
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

    def _exit(self, trainer: pl.Trainer) -> None:
        received = self.received or signal.SIGTERM
        if trainer.is_global_zero:
            step = f"stopped by {received.name} after step {trainer.global_step}"
            print(f"\n{step}; the same command with --ckpt_path auto goes on")
        # The launcher takes another code of the processes that it started for a crash.
        raise SystemExit(128 + received if trainer.local_rank == 0 else 0)
