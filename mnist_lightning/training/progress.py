"""What a person sees while a network trains: a line an epoch that stays, beside the bar."""

import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor


class EpochLine(Callback):
    """Prints a line after each epoch: its losses, its validation accuracy, how long it took.

    `epoch 3  train loss 0.0312  val loss 0.0187  val 99.46%  27 errors  41 s`. The training loss is
    the mean over the epoch's batches and over all ranks. Figures that are not there, such as those
    of an epoch without validation, are left out.
    """

    def __init__(self) -> None:
        self.started = 0.0
        self.losses: list[Tensor] = []
        self.validated = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self.started, self.losses, self.validated = time.perf_counter(), [], False

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the batch's loss, on its device: to look at it would wait for a GPU."""
        if isinstance(outputs, dict):  # None if the step was skipped
            # Lightning divides it by the number of accumulated batches.
            self.losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember that this epoch has validation figures: an earlier one's are still there."""
        self.validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the line, above the bar if there is one."""
        parts = [f"epoch {trainer.current_epoch}"]
        if self.losses:
            loss = trainer.strategy.reduce(torch.stack(self.losses).mean(), reduce_op="mean")
            parts.append(f"train loss {float(loss):.4f}")
        metrics = trainer.callback_metrics if self.validated else {}
        parts += [
            form.format(float(metrics[name]))
            for name, form in {
                "val/loss": "val loss {:.4f}",
                "val/accuracy": "val {:.2%}",
                "val/errors": "{:,.0f} errors",
            }.items()
            if name in metrics
        ]
        parts.append(f"{time.perf_counter() - self.started:.0f} s")
        if trainer.is_global_zero:
            bar = trainer.progress_bar_callback
            show = bar.print if bar and getattr(bar, "is_enabled", True) else print
            show("  ".join(parts))
