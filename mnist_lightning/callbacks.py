"""What happens beside training."""

import copy
import io
import signal
import time
import warnings
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins import TorchCheckpointIO
from torch import Tensor

from mnist_lightning import figures
from mnist_lightning.augment import affine_table, to_pixels, warp
from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.files import replace_file
from mnist_lightning.network import members


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


class LoseNothing(Callback):
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
        # An ensemble takes each image once for every member.
        images = len(batch[1]) // getattr(pl_module, "members", 1)
        self.images += images * trainer.world_size
        if trainer.is_last_batch:
            if pl_module.device.type != "cpu":  # it has not finished when it is asked to
                torch.accelerator.synchronize()
            rate = self.images / (time.perf_counter() - self.started)
            self.started = None
            # Not by `pl_module.log`, which would write it only after the epoch's checkpoint.
            for logger in trainer.loggers:
                logger.log_metrics({"train/images_per_second": rate}, trainer.global_step - 1)


class Pictures(Callback):
    """Writes into TensorBoard what the network learns and where it errs.

    - Images tab: at the start, warps of a training image; after each epoch, the first layer's
      filters and its feature maps of one image; after each validation, the confusion matrix and the
      mistakes, of all processes' validation images.
    - Graphs and HParams tabs: the network, and the run's settings beside its last `val/accuracy`.
    - Projector tab: at the end, what the hidden layer makes of up to 1,000 images.

    Single images are validation images, or training images where none are held out; never test
    images. Of an ensemble the maps are the first member's. Everything is drawn by the first
    process, from a copy of the network and without the random numbers of training, whose bits are
    the same with it and without. The data must be an `MNISTDataModule`'s. Where there is no
    `TensorBoardLogger`, it does nothing.
    """

    def __init__(self) -> None:
        self.answers: list[list[Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the graph, the settings and the warps."""
        logger = _tensorboard(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        from torch.utils.tensorboard.summary import hparams

        with warnings.catch_warnings():
            # The only way into the Graphs tab is by what newer torch calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            logger.experiment.add_graph(_copy(pl_module), torch.zeros(1, 1, 28, 28))

        # Not by the logger's `log_hyperparams`, which would put a made-up value into the curve.
        settings = {
            name: value if type(value) in (int, float) else str(value)  # True would be shown as 1
            for name, value in logger.hparams.items()
        }
        for summary in hparams(settings, {"val/accuracy": 0.0}):
            logger.experiment._get_file_writer().add_summary(summary)

        data = trainer.datamodule  # type: ignore[attr-defined]
        if any(data.warp_ranges.values()):
            original = to_pixels(data.images[data.train_indices[:1]]).cpu()
            table = affine_table(29, np.random.default_rng(0), **data.warp_ranges)
            warped = warp(original.expand(len(table), -1, -1, -1), table)
            _draw(trainer, "data/augmentation", figures.augmentation(original[0, 0], warped[:, 0]))

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep a batch's answers, and the images that were misread."""
        if trainer.sanity_checking or _tensorboard(trainer) is None:
            return
        pixels, labels = batch
        probabilities = outputs.float().softmax(dim=1)
        predicted = probabilities.argmax(dim=1)
        wrong = predicted != labels
        answers = (predicted, labels, pixels[wrong], labels[wrong], probabilities[wrong])
        self.answers.append([column.cpu() for column in answers])

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix and the mistakes of all processes."""
        if not self.answers:
            return
        answers, self.answers = self.answers, []
        if trainer.world_size > 1:
            shares: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(shares, answers)
            answers = [batch for share in shares for batch in share]
        if not trainer.is_global_zero:
            return
        columns = (torch.cat(column) for column in zip(*answers, strict=True))
        predicted, labels, pixels, true, probabilities = columns
        _draw(trainer, "val/confusion_matrix", figures.confusion_matrix(predicted, labels))
        _draw(trainer, "val/mistakes", figures.mistakes(pixels, true, probabilities))

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the filters and the feature maps."""
        if _tensorboard(trainer) is None or not trainer.is_global_zero:
            return
        network = members(_copy(pl_module))[0]
        pixels, _ = _images(trainer, 1)
        _draw(trainer, "network/filters", figures.filters(network))
        _draw(trainer, "network/feature_maps", figures.feature_maps(network, pixels[0]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the hidden layer's view of some images."""
        logger = _tensorboard(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        network = members(_copy(pl_module))[0]
        pixels, labels = _images(trainer, 1000)
        hidden = figures.layer_output(network, pixels, "dropout")  # it passes in eval mode
        logger.experiment.add_embedding(
            hidden.double().round(decimals=3),  # the file is text
            metadata=labels.tolist(),
            label_img=pixels,
            global_step=trainer.global_step,
            tag="hidden",
        )


def _tensorboard(trainer: pl.Trainer) -> TensorBoardLogger | None:
    loggers = (logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger))
    return next(loggers, None)


def _copy(pl_module: pl.LightningModule) -> Any:
    """Return the network in eval mode on the CPU, and leave the one that trains as it is."""
    return copy.deepcopy(pl_module.network).cpu().eval()  # type: ignore[union-attr]


def _images(trainer: pl.Trainer, num: int) -> tuple[Tensor, Tensor]:
    """Return pixels and labels of the first validation images, or else training images."""
    data = trainer.datamodule  # type: ignore[attr-defined]
    indices = (data.val_indices if data.val_size else data.train_indices)[:num]
    return to_pixels(data.images[indices]).cpu(), data.labels[indices].cpu()


def _draw(trainer: pl.Trainer, tag: str, figure: Any) -> None:
    logger = _tensorboard(trainer)
    assert logger is not None
    # The step of the last batch, like the curves', so that a resumed run writes it once.
    step = max(0, trainer.global_step - 1)
    logger.experiment.add_image(tag, figures.to_array(figure), step, dataformats="HWC")
