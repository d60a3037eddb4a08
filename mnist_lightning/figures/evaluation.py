"""Where a network errs, and how sure it is."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from mnist_lightning.figures.measures import integrated_gradients, wilson_interval, worst
from mnist_lightning.figures.style import (
    PIXELS,
    are_long,
    diverging,
    figure_of_tiles,
    house_style,
    new_figure,
    palette,
    show_tiles,
)
from mnist_lightning.sizes import CLASSES, NUM_CLASSES
from mnist_lightning.text import percent

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style()
def confusion_matrix(predicted: Tensor, labels: Tensor, names: Sequence[str] = CLASSES) -> "Figure":
    """Return a figure of the confusion matrix: how often each class is read as which.

    Args:
        predicted: int `(N,)`, 0 to 9.
        labels: int `(N,)`, 0 to 9.
        names: Of the classes.

    Returns:
        One panel with the counts; only mistakes are colored.
    """
    from matplotlib.colors import LinearSegmentedColormap

    counts = torch.bincount(NUM_CLASSES * labels + predicted, minlength=NUM_CLASSES**2)
    counts = counts.reshape(NUM_CLASSES, NUM_CLASSES)
    mistakes = counts - counts.diag().diag()
    most = int(mistakes.max())
    true, read = divmod(int(mistakes.argmax()), NUM_CLASSES)

    often = f", most often {names[true]} as {names[read]} ({most:,} times)" if most > 1 else ""
    figure = new_figure(
        (5.6, 5.6),
        f"{int(mistakes.sum()):,} of {len(labels):,} misread{often}",
        "number of images; right ones on the diagonal, color for mistakes alone",
    )
    axes = figure.subplots()
    axes.imshow(
        np.ma.masked_equal(mistakes.numpy(), 0),
        cmap=LinearSegmentedColormap.from_list("blues", [palette().paper, palette().blue]),
        vmin=-0.3 * most,
        vmax=max(most, 1),
    )
    for (row, column), count in np.ndenumerate(counts.numpy()):
        if row == column:
            axes.text(
                column, row, f"{count:,}", ha="center", va="center", color=palette().gray, size=9
            )
        elif count:
            color = palette().paper if count > 0.5 * most else palette().ink
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_ticks(range(NUM_CLASSES), names)
        axis.set_ticks(np.arange(0.5, NUM_CLASSES - 1), minor=True)
    if are_long(names):
        axes.tick_params(axis="x", labelrotation=90)
    axes.grid(which="minor")
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("read as")
    axes.set_ylabel("true class")
    return figure


@house_style()
def class_accuracy(predicted: Tensor, labels: Tensor, names: Sequence[str] = CLASSES) -> "Figure":
    """Return a figure of each class's accuracy with its 95% interval.

    Args:
        predicted: int `(N,)`, 0 to 9.
        labels: int `(N,)`, 0 to 9.
        names: Of the classes.

    Returns:
        One panel with a dot for each class that has images.
    """
    counts = torch.bincount(labels, minlength=NUM_CLASSES).numpy()
    hits = torch.bincount(labels[predicted == labels], minlength=NUM_CLASSES).numpy()
    (present,) = counts.nonzero()
    accuracies = hits[present] / counts[present]
    low, high = wilson_interval(hits[present], counts[present])
    hardest, easiest = present[accuracies.argmin()], present[accuracies.argmax()]

    figure = new_figure(
        (7.5, 4.0),
        f"{names[hardest]} is the hardest, {100 * accuracies.min():.2f}%; "
        f"{names[easiest]} the easiest, {100 * accuracies.max():.2f}%",
        "share of each class's images read right, with its 95% interval",
    )
    axes = figure.subplots()
    axes.hlines(present, 100 * low, 100 * high, color=palette().blue, alpha=0.35, linewidth=4)
    axes.plot(100 * accuracies, present, "o", color=palette().blue)
    for y in present:
        errors = f"{counts[y] - hits[y]:,} of {counts[y]:,} wrong"
        axes.annotate(
            errors,
            (1.02, y),
            xycoords=("axes fraction", "data"),
            va="center",
            size=9,
            color=palette().gray,
        )
    axes.set_yticks(range(NUM_CLASSES), names)
    axes.invert_yaxis()
    axes.grid(axis="x")
    axes.set_xlim(right=100 + 0.02 * (100 - 100 * low.min()))
    axes.locator_params(axis="x", nbins=8)
    axes.set_xlabel("accuracy (%)")
    axes.set_ylabel("true class")
    return figure


@house_style()
def mistakes(
    pixels: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    num: int = 24,
    names: Sequence[str] = CLASSES,
) -> "Figure":
    """Return a figure of misread images, the most confident mistakes first.

    Args:
        pixels: float `(N, 1, H, W)` in [0, 1]; those that are read right are left out.
        labels: int `(N,)`, the true classes.
        probabilities: float `(N, 10)`.
        num: Most images to show.
        names: Of the classes.

    Returns:
        One panel with a tile for each, and below it the two classes and their probabilities.
    """
    order = worst(probabilities, labels)
    total, order = len(order), order[:num]
    which = f"the {len(order)} it was surest of" if total > len(order) else "the surest first"
    figure, axes, corners = figure_of_tiles(
        f"{total:,} {'image' if total == 1 else 'images'} misread; {which}"
        if total
        else "No image is misread",
        "what each was read as, what it is, and the probabilities of the two",
        pixels[order, 0],
        4 if are_long(names) else 6,
        (15, 9),
        **PIXELS,
    )
    for index, (x, y) in zip(order.tolist(), corners, strict=True):
        true, read = int(labels[index]), int(probabilities[index].argmax())
        lines = [
            f"read {names[read]}  {percent(float(probabilities[index, read]))}",
            f"is {names[true]}  {percent(float(probabilities[index, true]))}",
        ]
        for line, (text, color) in enumerate(
            zip(lines, (palette().vermilion, palette().blue), strict=True)
        ):
            place = (x + pixels.shape[-1] / 2, y + pixels.shape[-2])
            axes.annotate(
                text,
                place,
                (0, -4 - 11 * line),
                textcoords="offset points",
                ha="center",
                va="top",
                size=9,
                color=color,
            )
    return figure


@house_style()
def attribution(
    network: nn.Module,
    pixels: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    num: int = 6,
    names: Sequence[str] = CLASSES,
) -> "Figure":
    """Return a figure of which pixels supported the wrong class and which the true one.

    Args:
        network: In eval mode.
        pixels: float `(N, 1, H, W)` in [0, 1]; those that are read right are left out.
        labels: int `(N,)`, the true classes.
        probabilities: float `(N, 10)`, the network's.
        num: Most images to show, the most confident mistakes.
        names: Of the classes.

    Returns:
        Two rows of tiles: the images, and `integrated_gradients` of the predicted class's logit
        less the true one's, each on its own scale around 0.
    """
    order = worst(probabilities, labels)[:num]
    predicted, true = probabilities[order].argmax(dim=1), labels[order]
    separator = ",\n" if are_long(names) else ", "
    return _evidence(
        "What spoke for the wrong class, and what for the true one",
        "vermilion ink spoke for what the image was read as, blue for what it is",
        network,
        pixels[order],
        (predicted, true),
        [
            f"read {names[first]}{separator}is {names[second]}"
            for first, second in zip(predicted.tolist(), true.tolist(), strict=True)
        ],
    )


@house_style()
def evidence(
    network: nn.Module, pixels: Tensor, probabilities: Tensor, names: Sequence[str] = CLASSES
) -> "Figure":
    """Return a figure of which pixels supported the answer and which the second guess.

    Args:
        network: In eval mode.
        pixels: float `(N, 1, H, W)` in [0, 1].
        probabilities: float `(N, 10)`, the network's.
        names: Of the classes.

    Returns:
        As `attribution`, of the most probable class's logit less the second one's.
    """
    first, second = probabilities.topk(2, dim=1).indices.T
    separator = ",\nnot " if are_long(names) else ", not "
    return _evidence(
        "What spoke for each answer, and what for the second guess",
        "vermilion ink spoke for what the image was read as, blue for the second guess",
        network,
        pixels,
        (first, second),
        [
            names[one] + separator + names[other]
            for one, other in zip(first.tolist(), second.tolist(), strict=True)
        ],
    )


@house_style()
def page(
    picture: np.ndarray,
    boxes: Sequence[Sequence[int]],
    texts: Sequence[str],
    title: str,
) -> "Figure":
    """Return a figure of a picture with a box around each digit, and its text above.

    Args:
        picture: uint8 `(H, W)` or `(H, W, 3)`.
        boxes: Left, top, right and bottom of each, in pixels.
        texts: As many.
        title: The figure's; shown is what of it fits into a line.
    """
    from matplotlib.patches import Rectangle

    title = title if len(title) <= 66 else f"{title[:63]}..."
    height, width = picture.shape[:2]
    inches = min(7.26, 6 * width / height)
    figure = new_figure(
        (7.5, 0.7 + inches * height / width), title, "a box around each digit that was found"
    )
    axes = figure.subplots()
    axes.imshow(picture, cmap="gray", vmin=0, vmax=255)
    axes.axis("off")
    axes.set_anchor("NW")
    for (left, top, right, bottom), text in zip(boxes, texts, strict=True):
        size = right - left, bottom - top
        axes.add_patch(Rectangle((left, top), *size, fill=False, color=palette().vermilion, lw=1.5))
        axes.annotate(
            text,
            (left, top),
            (0, 2),
            textcoords="offset points",
            va="bottom",
            color=palette().paper,
            bbox={"facecolor": palette().vermilion, "linewidth": 0, "pad": 1.5},
        )
    return figure


def _evidence(
    title: str,
    subtitle: str,
    network: nn.Module,
    pixels: Tensor,
    classes: tuple[Tensor, Tensor],
    texts: list[str],
) -> "Figure":
    maps = integrated_gradients(network, pixels, *classes)[:, 0]
    maps = maps / maps.abs().amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
    columns = max(6, len(pixels))
    lines = max(text.count("\n") for text in texts)
    figure = new_figure((7.5, 1.0 + 15 / columns + 0.4 * lines), title, subtitle)
    above, below = figure.subplots(2, 1)
    corners = show_tiles(above, pixels[:, 0], columns, **PIXELS)
    show_tiles(below, maps, columns, cmap=diverging(), vmin=-0.6, vmax=0.6)
    for text, (x, _) in zip(texts, corners, strict=True):
        below.text(x + 14, 31, text, ha="center", va="top")
    for axes in (above, below):
        axes.set_xlim(-0.5, 30 * columns - 2.5)
        axes.set_anchor("NW")
    return figure


@house_style()
def reliability(probabilities: Tensor, labels: Tensor) -> "Figure":
    """Return a reliability diagram: how often the network is right, by its confidence.

    Args:
        probabilities: float `(N, 10)`.
        labels: int `(N,)`.

    Returns:
        Two panels: accuracy with its 95% interval over mean confidence in each of 15 bins, and the
        number of images in each. The title gives torchmetrics' expected calibration error (l1).
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    num_bins = 15
    error = multiclass_calibration_error(probabilities, labels, NUM_CLASSES, num_bins, norm="l1")
    confidence, predicted = (values.numpy() for values in probabilities.max(dim=1))
    right = predicted == labels.numpy()
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    full = counts > 0
    hits = np.bincount(bins[right], minlength=num_bins)[full]
    means = np.bincount(bins, confidence, num_bins)[full] / counts[full]
    low, high = wilson_interval(hits, counts[full])

    figure = new_figure(
        (5.6, 5.6),
        f"Calibration error {100 * float(error):.2f}%: "
        f"{100 * confidence.mean():.2f}% sure, {100 * right.mean():.2f}% right",
        f"accuracy by confidence in {num_bins} bins, with 95% intervals",
    )
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 100], [0, 100], color=palette().gray, linewidth=1, linestyle="--")
    axes.text(
        4,
        5.5,
        "as right as sure",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        color=palette().gray,
        size=9,
    )
    axes.vlines(100 * means, 100 * low, 100 * high, color=palette().blue, alpha=0.35, linewidth=4)
    axes.plot(100 * means, 100 * hits / counts[full], "o", color=palette().blue, clip_on=False)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 102)
    width = 100 / num_bins
    below.bar(width * (np.arange(num_bins) + 0.5), counts, 0.85 * width, color=palette().blue)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)
    below.set_ylabel("images")
    below.set_xlabel("confidence: the probability of the class it was read as (%)")
    below.set_xlim(0, 102)
    return figure
