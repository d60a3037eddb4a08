"""How a network learned: loss and accuracy over the steps of a run."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mnist_lightning.figures.style import house_style, new_figure, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style()
def curves(scalars: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> "Figure":
    """Return a figure of loss and accuracy over the steps of a run.

    Args:
        scalars: Steps and values of any of `train/loss`, `val/loss`, `train/accuracy` and
            `val/accuracy` (a fraction).

    Returns:
        Two panels; for training batches, each value and a running mean over 5% of the run.
    """
    steps = max((steps[-1] for steps, _ in scalars.values() if len(steps)), default=0)
    if "val/loss" in scalars and "val/accuracy" in scalars:
        loss, accuracy = (scalars[f"val/{name}"][1][-1] for name in ("loss", "accuracy"))
        end = f"validation loss {loss:.4f}, accuracy {accuracy:.2%}"
    else:
        end = "no images were held out to validate on"
    figure = new_figure(
        (7.5, 3.8),
        f"After {steps + 1:,} steps: {end}",
        "training batches one by one, and their running mean over 5% of the steps",
    )
    for axes, name, unit in zip(figure.subplots(1, 2), ("loss", "accuracy"), (1, 100), strict=True):
        steps_, values = (np.asarray(column) for column in scalars.get(f"train/{name}", ([], [])))
        if len(values):
            window = max(1, len(values) // 20)
            mean = np.convolve(values, np.full(window, 1 / window), "valid")
            middle = steps_[window // 2 :][: len(mean)]
            axes.plot(steps_, unit * values, color=palette().vermilion, alpha=0.25, linewidth=0.8)
            axes.plot(middle, unit * mean, color=palette().vermilion, label="training batches")
            if name == "accuracy":  # the first steps would flatten the others
                axes.set_ylim(max(0, 100 - 4 * (100 - unit * np.median(values)) - 4), 100.2)
        steps_, values = (np.asarray(column) for column in scalars.get(f"val/{name}", ([], [])))
        if len(values):
            axes.plot(steps_, unit * values, "o-", color=palette().blue, label="validation images")
        axes.set_xlabel("step")
        axes.set_ylabel("cross-entropy loss (nats)" if name == "loss" else "accuracy (%)")
        axes.grid()
        if axes.lines:
            axes.legend()
        if name == "loss":
            axes.set_yscale("log")
    return figure
