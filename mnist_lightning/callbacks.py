"""What happens beside training."""

import time
from functools import partial
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, ModelCheckpoint


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


class Throughput(Callback):
    """Logs `train/images_per_second` for each epoch, over all processes, without validation."""

    def __init__(self) -> None:
        self.images = 0
        self.started: float | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock at the first batch that this process sees of an epoch."""
        if self.started is None:
            self.images, self.started = 0, time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log at the epoch's last."""
        assert self.started is not None
        self.images += len(batch[1]) * trainer.world_size
        if trainer.is_last_batch:
            rate = self.images / (time.perf_counter() - self.started)
            pl_module.log(
                "train/images_per_second", rate, on_step=False, on_epoch=True, sync_dist=True
            )
            self.started = None
