"""What the network learns and where it errs, as pictures beside the curves in TensorBoard."""

import copy
import warnings
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from mnist_lightning import figures
from mnist_lightning.figures.measures import last_hidden
from mnist_lightning.network import networks_of, to_pixels
from mnist_lightning.sizes import SIDE
from mnist_lightning.training.record import made_with

# The Custom Scalars tab: training and validation in one chart.
CHARTS = {
    "training and validation": {
        name: ["Multiline", [f"train/{name}", f"val/{name}"]] for name in ("loss", "accuracy")
    }
}


class Settings(Callback):
    """Writes a run's settings and what it was made with into TensorBoard's HParams tab.

    They stand beside its last `val/accuracy`.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the settings."""
        logger = _tensorboard(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        from torch.utils.tensorboard.summary import hparams

        # Not by the logger's `log_hyperparams`, which would put a made-up value into the curve.
        settings = {
            name: value if type(value) in (int, float) else str(value)  # True would be shown as 1
            for name, value in {**logger.hparams, **made_with(trainer)}.items()
        }
        for summary in hparams(settings, {"val/accuracy": 0.0}):
            logger.experiment._get_file_writer().add_summary(summary)


class Pictures(Callback):
    """Writes into TensorBoard what the network learns and where it errs.

    - Images tab: at the start, what augmentation makes of a training image; after each epoch, the
      first layer's filters and its feature maps of one image; after each validation, the confusion
      matrix and the mistakes, of all processes' validation images.
    - Custom Scalars tab: loss and accuracy, of training and validation in one chart each.
    - Graphs tab: the network.
    - Projector tab: at the end, what the hidden layer makes of up to 1,000 images.

    Single images are validation images, or training images if none are held out; never test
    images. Of an ensemble the maps are the first member's. Everything is drawn by the first
    process, from a copy of the network and without the random numbers of training, whose bits are
    the same with it and without. The data must be an `MNISTDataModule`'s. If there is no
    `TensorBoardLogger`, it does nothing.
    """

    def __init__(self) -> None:
        self.answers: list[list[Tensor]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the graph and the augmentation."""
        logger = _tensorboard(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        with warnings.catch_warnings():
            # The only way into the Graphs tab is by what newer torch calls deprecated.
            warnings.simplefilter("ignore", FutureWarning)
            logger.experiment.add_graph(_copy(pl_module), torch.zeros(1, 1, SIDE, SIDE))

        logger.experiment.add_custom_scalars(CHARTS)
        data = trainer.datamodule  # type: ignore[attr-defined]
        if data.augmentation:
            first = data.train_indices[:2]
            original, other = to_pixels(data.train_images[first]).cpu()
            label = int(data.train_labels[first[0]])
            changed = data.augmentation.preview(original, label, other)
            _draw(trainer, "data/augmentation", figures.augmentation(original[0], changed))

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
        if trainer.sanity_checking or _tensorboard(trainer) is None or outputs is None:
            return  # own pictures have no answers here
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
        network = networks_of(_copy(pl_module))[0]
        pixels, _ = _images(trainer, 1)
        drawable = figures.drawable(network)
        if "filters" in drawable:
            _draw(trainer, "network/filters", figures.filters(network))
        if "feature_maps" in drawable:
            _draw(trainer, "network/feature_maps", figures.feature_maps(network, pixels[0]))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the hidden layer's view of some images."""
        logger = _tensorboard(trainer)
        if logger is None or not trainer.is_global_zero:
            return
        network = networks_of(_copy(pl_module))[0]
        pixels, labels = _images(trainer, 1000)
        hidden = last_hidden(network, pixels)
        if hidden is None:
            return
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
    return to_pixels(data.train_images[indices]).cpu(), data.train_labels[indices].cpu()


def _draw(trainer: pl.Trainer, tag: str, figure: Any) -> None:
    logger = _tensorboard(trainer)
    assert logger is not None
    # The step of the last batch, like the curves', so that a resumed run writes it once.
    step = max(0, trainer.global_step - 1)
    logger.experiment.add_image(tag, figures.to_array(figure), step, dataformats="HWC")
