"""MNISTClassifier: the network with its loss, metrics, optimizer and schedule."""

import math
from typing import Any, Literal

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_accuracy

from mnist_lightning.network import ConvNet

Batch = tuple[Tensor, Tensor]


class MNISTClassifier(pl.LightningModule):
    """A ConvNet trained with Adam on cross-entropy.

    Logs `train/loss`, `train/accuracy` and `train/learning_rate` every `log_every_n_steps` steps, each of
    the current batch, and for `val/` and `test/` the mean `loss`, `accuracy`, `errors` (a count) and
    `calibration_error` (expected, l1, 15 bins) over all images.

    Args:
        channels: Output channels of the two convolutions in each block.
        hidden: Units of the hidden dense layer.
        dropout: Probability of dropping a hidden unit in training.
        batch_norm: False leaves out every batch norm, as the article's notebook does.
        learning_rate: Adam's; the peak of it where the schedule is `one_cycle`.
        schedule: `one_cycle` rises for 30% of all steps, then falls to almost 0 (torch's OneCycleLR);
            `constant` keeps the learning rate as it is.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64),
        hidden: int = 512,
        dropout: float = 0.2,
        batch_norm: bool = True,
        learning_rate: float = 3e-3,
        schedule: Literal["one_cycle", "constant"] = "one_cycle",
    ) -> None:
        super().__init__()
        if not 0 < learning_rate < math.inf:
            raise ValueError(f"learning_rate {learning_rate} must be a finite number above 0")
        self.save_hyperparameters()
        self.network = ConvNet(channels, hidden, dropout, batch_norm)
        # Twice as fast as the default layout on a CPU, and what tensor cores want.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.val_metrics = _metrics("val/")
        self.test_metrics = _metrics("test/")

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `(B, 10)` for pixels `(B, 1, 28, 28)` in [0, 1]."""
        return self.network(pixels)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch."""
        pixels, labels = batch
        logits = self(pixels)
        loss = F.cross_entropy(logits, labels)
        accuracy = multiclass_accuracy(logits, labels, 10, average="micro", validate_args=False)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/accuracy", accuracy)
        self.log("train/learning_rate", self.optimizers().param_groups[0]["lr"])
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the `val/` metrics."""
        self._evaluate(batch, self.val_metrics)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the `test/` metrics."""
        self._evaluate(batch, self.test_metrics)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return probabilities `(B, 10)`."""
        return self(batch[0]).softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Return Adam, and its schedule over all steps of the run."""
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate)
        if self.schedule == "constant":
            return optimizer
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=self.learning_rate,
            total_steps=int(self.trainer.estimated_stepping_batches),
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _evaluate(self, batch: Batch, metrics: MetricCollection) -> None:
        pixels, labels = batch
        logits = self(pixels)
        metrics.update(logits.softmax(dim=1), labels)
        self.log_dict(metrics)
        stage = metrics.prefix
        size = len(labels)
        errors = (logits.argmax(dim=1) != labels).sum().float()
        self.log(f"{stage}loss", F.cross_entropy(logits, labels), batch_size=size, sync_dist=True)
        self.log(f"{stage}errors", errors, reduce_fx="sum", sync_dist=True)


def _metrics(prefix: str) -> MetricCollection:
    return MetricCollection(
        {
            "accuracy": MulticlassAccuracy(10, average="micro"),
            "calibration_error": MulticlassCalibrationError(10),
        },
        prefix=prefix,
    )
