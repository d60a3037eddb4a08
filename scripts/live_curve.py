"""LiveCurve: a training's loss, drawn in a notebook while it runs."""

import time
from typing import Any

import lightning.pytorch as pl
import numpy as np
from IPython.display import display
from lightning.pytorch.callbacks import ProgressBar
from matplotlib.figure import Figure

from mnist_lightning.figures.style import BLUE, VERMILION, house_style, new_figure

SECONDS = 2  # between two drawings; each takes some tenths of a second


class LiveCurve(ProgressBar):
    """Draws the loss of each batch, and of the validation after each epoch, in place of a bar."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the panel, empty yet."""
        super().on_train_start(trainer, pl_module)
        self.losses: list[float] = []
        self.validated: list[tuple[int, float]] = []  # the number of steps, and the loss
        self.finding = "no validation yet"
        self.drawn = time.monotonic()
        self.place: Any = display(self.figure(), display_id=True)

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Keep the batch's loss, and draw now and then."""
        self.losses.append(float(outputs["loss"].detach()))
        if time.monotonic() - self.drawn > SECONDS:
            self._draw()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the validation's loss and accuracy, and draw."""
        if not trainer.sanity_checking:
            metrics = trainer.callback_metrics
            self.validated.append((len(self.losses), float(metrics["val/loss"])))
            accuracy = float(metrics["val/accuracy"])
            self.finding = f"{accuracy:.1%} of the validation images are read right"
            self._draw()

    @house_style()
    def figure(self) -> Figure:
        """Return the figure as it stands."""
        figure = new_figure(
            (7.5, 3.2),
            f"After {len(self.losses):,} steps: {self.finding}",
            "loss, logarithmic; pale, each batch; vermilion, the mean of 20; blue, validation",
        )
        axes = figure.subplots()
        if self.losses:
            steps, losses = np.arange(1, len(self.losses) + 1), np.asarray(self.losses)
            axes.plot(steps, losses, color=VERMILION, alpha=0.3, linewidth=0.8)
            if len(losses) >= 20:
                means = np.convolve(losses, np.full(20, 1 / 20), "valid")
                axes.plot(steps[19:], means, color=VERMILION, linewidth=2)
            axes.set_yscale("log")
        if self.validated:
            axes.plot(*zip(*self.validated, strict=True), "o-", color=BLUE)
        axes.set_xlabel("step")
        axes.yaxis.set_major_formatter("{x:g}")
        return figure

    def _draw(self) -> None:
        self.place.update(self.figure())
        self.drawn = time.monotonic()
