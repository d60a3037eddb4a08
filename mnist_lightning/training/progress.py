"""What a person sees while a network trains: lines that stay, and on a terminal a bar."""

import logging
import os
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from torch import Tensor
from tqdm import tqdm

from mnist_lightning.text import printable

# Of what Lightning tells: what advertises, is told by a line here, or nobody can act upon.
UNWANTED = (
    "Seed set to",  # config.yaml has it
    "litlogger",
    "litmodels",
    "TPU available",
    "GPU available: False",
    "to estimate number of stepping batches",
    "Restoring states from",
    "Restored all states from",
    "Loaded model weights from",
    "`Trainer.fit` stopped: `max_epochs",
)


def say(line: str) -> None:
    """Print a line at once, above the bars if there are any."""
    tqdm.write(printable(line))
    sys.stdout.flush()  # to a file or a scheduler's log too


def drop_unwanted_lines() -> None:
    """Keep Lightning from telling what is in `UNWANTED`."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.seed"):
        logging.getLogger(name).addFilter(_is_wanted)


def _is_wanted(record: logging.LogRecord) -> bool:
    return not any(words in record.getMessage() for words in UNWANTED)


def is_interactive() -> bool:
    """Tell whether Python is one that a person types into: a notebook's, IPython's or its own."""
    return hasattr(sys, "ps1")


def has_room_for_a_bar() -> bool:
    """Tell whether output goes to a notebook, or to a terminal that says how wide it is."""
    if is_interactive():
        return True
    try:
        return sys.stdout.isatty() and os.get_terminal_size(sys.stdout.fileno()).columns > 0
    except (OSError, ValueError):  # it is no file
        return False


def sentence(figures: dict[str, float], images: str) -> str:
    """Say how good a network is.

    `45 of 10,000 test images misread, 99.55%, loss 0.0142, calibration error 0.0021`.

    Args:
        figures: By name; those that `MNISTClassifier` logs are put in words, others follow.
        images: What kind of images they were measured on.
    """
    rest = dict(figures)
    parts = []
    if {"errors", "images"} <= rest.keys():
        num_errors, num_images = rest.pop("errors"), rest.pop("images")
        parts.append(f"{num_errors:,.0f} of {num_images:,.0f} {images} images misread")
    if "accuracy" in rest:
        parts.append(f"{rest.pop('accuracy'):.2%}")
    known = [name for name in ("loss", "calibration_error") if name in rest]
    parts += [f"{name.replace('_', ' ')} {rest.pop(name):.4f}" for name in known]
    return ", ".join(parts + [f"{name} {value:.4g}" for name, value in rest.items()])


class Bar(TQDMProgressBar):
    """Lightning's bar, which leaves nothing behind, so that nothing is written into its line."""

    def __init__(self) -> None:
        # Lightning's own draws itself in each step, for 1.5% of its time.
        super().__init__(refresh_rate=10)
        self.bars: list[Any] = []

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return what stands behind the bar: not the run's version, which is said at the start."""
        metrics = super().get_metrics(trainer, pl_module)
        metrics.pop("v_num", None)
        return metrics

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show how far the epoch is that a run resumes in: it has no start of its own."""
        super().on_train_start(trainer, pl_module)
        if trainer.fit_loop.restarted_mid_epoch:
            self.on_train_epoch_start(trainer, pl_module)
            bar = self.train_progress_bar
            bar.initial = bar.n = trainer.fit_loop.batch_idx + 1  # the rate leaves these out
            bar.refresh()

    def init_train_tqdm(self) -> Any:
        """Return the bar of training."""
        return self._passing(super().init_train_tqdm())

    def init_validation_tqdm(self) -> Any:
        """Return the bar of validation; none below another in a notebook, which leaves its line."""
        if is_interactive() and self.trainer.state.fn == "fit":
            return tqdm(disable=True)
        return self._passing(super().init_validation_tqdm())

    def init_test_tqdm(self) -> Any:
        """Return the bar of a test."""
        return self._passing(super().init_test_tqdm())

    def init_predict_tqdm(self) -> Any:
        """Return the bar of prediction."""
        return self._passing(super().init_predict_tqdm())

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Make room for what is said of the error."""
        for bar in self.bars:
            bar.close()

    def _passing(self, bar: Any) -> Any:
        bar.leave = False
        self.bars.append(bar)
        return bar


class EpochLine(Callback):
    """Prints a line at the start, and one after each epoch: its figures, how long it took.

    `training 594,922 parameters in runs/base/version_0 on cpu, epochs 0 to 7 of 215 batches`, then
    `epoch 3  train loss 0.0312  val loss 0.0187  val 99.46%  27 errors  41 s`. The training loss is
    the mean over the epoch's batches and over all ranks; a checkpoint from within the epoch keeps
    what it was until then. Figures that are not there, such as those of an epoch without
    validation, are left out.
    """

    def __init__(self) -> None:
        self.has_trained = False
        self._begin()

    def _begin(self) -> None:
        """Begin an epoch, without losses."""
        self.started = time.perf_counter()
        self.losses: list[Tensor] = []  # of this process, since it was started
        self.earlier = torch.zeros(2, dtype=torch.float64)  # see `_sum_and_number`
        self.validated = False
        self.is_whole = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say what is trained, where and for how long."""
        self.has_trained = True
        self.started = time.perf_counter()  # a run resumed within an epoch does not start one
        # Earlier checkpoints do not keep the losses.
        self.is_whole = not trainer.fit_loop.restarted_mid_epoch or bool(self.earlier[1])
        num = sum(parameter.numel() for parameter in pl_module.parameters())
        has_folder = not trainer.fast_dev_run and (  # type: ignore[attr-defined]
            trainer.loggers or getattr(trainer, "folder", None)
        )
        folder = f" in {os.path.relpath(str(trainer.log_dir))}" if has_folder else ""
        place = f"{trainer.strategy.root_device}"
        if trainer.world_size > 1:
            place = f"{trainer.world_size} processes"
        first, end = trainer.current_epoch, trainer.max_epochs
        epochs = f"epochs {first} to {end - 1}" if end and end > first else f"from epoch {first}"
        steps = f"{trainer.num_training_batches:,} batches"
        if trainer.is_global_zero:
            say(f"training {num:,} parameters{folder} on {place}, {epochs} of {steps}")

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say so if there was nothing to train, as when a finished run is resumed."""
        if not self.has_trained and trainer.is_global_zero:
            say("nothing was left to train")
        self.has_trained = False

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begin()

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
        """Print the line."""
        parts = [f"epoch {trainer.current_epoch}"]
        total, number = self._sum_and_number(trainer).tolist()
        if number and self.is_whole:
            parts.append(f"train loss {total / number:.4f}")
        metrics = trainer.callback_metrics if self.validated else {}
        parts += [
            form.format(float(metrics[name]))
            for name, form in {
                "val/loss": "val loss {:.4f}",
                "val/accuracy": "val {:.2%}",
                "val/errors": "{:,.0f} errors",
                "val/extra_accuracy": "own pictures {:.2%}",
            }.items()
            if name in metrics
        ]
        parts.append(f"{time.perf_counter() - self.started:.0f} s")
        if trainer.is_global_zero:
            say("  ".join(parts))
        self._begin()  # what is saved from now on belongs to the next epoch

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the losses of the epoch so far, on all ranks at once."""
        checkpoint["epoch_loss"] = self._sum_and_number(trainer).tolist()

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take them; earlier checkpoints have none."""
        self._begin()
        total, number = checkpoint.get("epoch_loss", (0, 0))
        self.earlier = torch.tensor([total, number], dtype=torch.float64)

    def _sum_and_number(self, trainer: pl.Trainer) -> Tensor:
        """Return the sum of the epoch's losses over all ranks and their number, float64 `(2,)`."""
        losses = torch.stack(self.losses).cpu().double() if self.losses else torch.zeros(0)
        sums = torch.tensor([float(losses.sum()), len(losses)], dtype=torch.float64)
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums.to(trainer.strategy.root_device), reduce_op="sum")
        return self.earlier + sums.cpu()
