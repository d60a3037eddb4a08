"""Tensors, or a network and tensors -> matplotlib figures; nothing is shown, kept or written.

All figures speak one language: dark ink on their own paper, so that they read alike on light and
dark pages; Okabe and Ito's blue and vermilion, which no colour blindness confuses; images as the
network sees them, light on black. Digits stand for classes, whatever the dataset.
"""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER, INK, GREY, PALE = "#fcfcfa", "#222222", "#666666", "#e8e8e4"
BLUE, VERMILION = "#0072b2", "#d55e00"
PAD = 0.12  # inches around a figure's parts
PIXELS: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 10,
    "figure.dpi": 100,
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": PAD / 2,
    "figure.constrained_layout.w_pad": PAD,
    "axes.facecolor": PAPER,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "axes.titlecolor": GREY,
    "legend.frameon": False,
    **dict.fromkeys(["axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"], GREY),
    **dict.fromkeys(["xtick.labelcolor", "ytick.labelcolor", "text.color"], INK),
}


@contextmanager
def _house_style() -> Iterator[None]:
    import matplotlib

    with matplotlib.rc_context(STYLE):
        yield


# -- what the network learns


@_house_style()
def augmentation(original: Tensor, warped: Tensor) -> "Figure":
    """Show an image beside warps of it.

    Args:
        original: float `(H, W)` in [0, 1].
        warped: float `(N, H, W)`: the same image, warped N times.

    Returns:
        One panel: the original first, in a frame, then the warps.
    """
    from matplotlib.patches import Rectangle

    tiles = torch.cat([original[None], warped])
    figure, axes, corners = _panel(
        "Every epoch warps each training image anew",
        f"framed, the original; beside it {len(warped)} draws of rotation, shift, shear and zoom",
        tiles,
        10,
        **PIXELS,
    )
    height, width = original.shape
    axes.add_patch(
        Rectangle(corners[0], width, height, fill=False, color=VERMILION, lw=2.5, clip_on=False)
    )
    return figure


@_house_style()
def filters(network: nn.Module) -> "Figure":
    """Show the weights of the first convolution.

    Args:
        network: Any with a `Conv2d` that takes one channel.

    Returns:
        One panel with a tile for each filter, on one scale around 0.
    """
    name = _names(network, nn.Conv2d)[0]
    weights = network.get_parameter(f"{name}.weight").detach().float().cpu()[:, 0]
    size = " × ".join(map(str, weights.shape[1:]))
    limit = float(weights.abs().max())
    figure, _, _ = _panel(
        f"What {name} looks for: {len(weights)} filters of {size}",
        "a filter answers light where it is vermilion and dark where it is blue",
        weights,
        8,
        (3, 3),
        "weight",
        cmap=_diverging(),
        vmin=-limit,
        vmax=limit,
    )
    return figure


@_house_style()
def feature_maps(network: nn.Module, pixels: Tensor, layer: str | None = None) -> "Figure":
    """Show what a layer makes of one image.

    Args:
        network: In eval mode.
        pixels: float `(1, H, W)` in [0, 1].
        layer: A name in `network.named_modules()`; None for the first ReLU.

    Returns:
        Two panels: the image, and a tile for each channel, on one scale; a dense layer's units are
        tiles of one square.

    Raises:
        ValueError: If the network has no such layer; the message names those that it has.
    """
    layer = layer or _names(network, nn.ReLU)[0]
    maps = _maps(network, pixels, layer)
    columns = max(8, math.ceil(math.sqrt(2 * len(maps))))
    active = int((maps.flatten(1) > 0).any(dim=1).sum())
    kind = "units" if maps[0].numel() == 1 else f"channels of {maps.shape[1]} × {maps.shape[2]}"
    figure = _figure(
        (7.5, 0.8 + max(1.2, 5.2 * math.ceil(len(maps) / columns) / columns)),
        f"{layer}: {active} of {len(maps)} {kind} answer this image",
        "left, the image; right, a tile for each channel or unit, all on one scale",
    )
    left, right = figure.subplots(1, 2, width_ratios=[1, 5])
    _show_tiles(left, pixels, 1, **PIXELS)
    left.set_anchor("NW")
    _show_tiles(right, maps, columns, cmap="viridis")
    right.set_anchor("NW")
    _add_scale(right, "activation")
    return figure


@_house_style()
def layers(network: nn.Module, pixels: Tensor, num_maps: int = 10) -> "Figure":
    """Show what each convolution's ReLU makes of one image, its strongest channels first.

    Args:
        network: In eval mode.
        pixels: float `(1, H, W)` in [0, 1].
        num_maps: Most channels of a layer to show.

    Returns:
        One row of tiles for each layer, each row on a scale of its own.
    """
    rows = [(name, _maps(network, pixels, name)) for name in _names(network, nn.ReLU)]
    rows = [(name, maps) for name, maps in rows if maps[0].numel() > 1]  # no dense layers

    figure = _figure(
        (7.5, 0.7 + 0.75 * (len(rows) + 1)),
        "One image on its way through the network",
        f"up to {num_maps} channels of each layer, the strongest first, a row on its own scale",
    )
    panels = figure.subplots(len(rows) + 1, 1)
    rows.insert(0, ("pixels", pixels))
    for axes, (name, maps) in zip(panels, rows, strict=True):
        strongest = maps.flatten(1).sum(dim=1).argsort(descending=True, stable=True)[:num_maps]
        style = PIXELS if maps is pixels else {"cmap": "viridis"}
        _show_tiles(axes, maps[strongest], num_maps, **style)
        axes.annotate(
            f"{name}\n{maps.shape[1]} × {maps.shape[2]}",
            (0, 0.5),
            (-8, 0),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="center",
        )
    return figure


# -- where it errs


@_house_style()
def confusion_matrix(predicted: Tensor, labels: Tensor, num_classes: int = 10) -> "Figure":
    """Show how often each class is read as which.

    Args:
        predicted: int `(N,)`.
        labels: int `(N,)`.
        num_classes: Number of classes.

    Returns:
        One panel with the counts; the colours are those of the mistakes alone.
    """
    counts = torch.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    counts = counts.reshape(num_classes, num_classes)
    mistakes = counts - counts.diag().diag()
    most = int(mistakes.max())
    true, read = divmod(int(mistakes.argmax()), num_classes)

    often = f", most often {true} as {read} ({most:,} times)" if most > 1 else ""
    figure = _figure(
        (5.6, 5.6),
        f"{int(mistakes.sum()):,} of {len(labels):,} misread{often}",
        "number of images; right ones on the diagonal, colour for mistakes alone",
    )
    axes = figure.subplots()
    axes.imshow(
        np.ma.masked_equal(mistakes.numpy(), 0), cmap="Blues", vmin=-0.3 * most, vmax=max(most, 1)
    )
    for row in range(num_classes):
        for column in range(num_classes):
            count = int(counts[row, column])
            if row == column:
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=GREY, size=9)
            elif count:
                color = "white" if count > 0.5 * most else INK
                axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set_xticks(range(num_classes))
    axes.set_yticks(range(num_classes))
    axes.set_xticks(np.arange(0.5, num_classes - 1), minor=True)
    axes.set_yticks(np.arange(0.5, num_classes - 1), minor=True)
    axes.grid(which="minor", color=PALE)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("read as")
    axes.set_ylabel("true class")
    return figure


@_house_style()
def mistakes(pixels: Tensor, labels: Tensor, probabilities: Tensor, num: int = 24) -> "Figure":
    """Show misread images, those of which the network was surest first.

    Args:
        pixels: float `(N, 1, H, W)` in [0, 1]; right ones among them are left out.
        labels: int `(N,)`, the true classes.
        probabilities: float `(N, 10)`.
        num: Most images to show.

    Returns:
        One panel with a tile for each, and under it the two classes and their probabilities.
    """
    order = worst(probabilities, labels)
    total, order = len(order), order[:num]
    which = f"the {len(order)} it was surest of" if total > len(order) else "the surest first"
    figure, axes, corners = _panel(
        f"{total:,} {'image' if total == 1 else 'images'} misread; {which}"
        if total
        else "No image is misread",
        "what each was read as, what it is, and the probabilities of the two",
        pixels[order, 0],
        6,
        (15, 9),
        **PIXELS,
    )
    for index, (x, y) in zip(order.tolist(), corners, strict=True):
        true, read = int(labels[index]), int(probabilities[index].argmax())
        lines = [
            f"read {read}  {_percent(probabilities[index, read])}",
            f"is {true}  {_percent(probabilities[index, true])}",
        ]
        for line, (text, color) in enumerate(zip(lines, (VERMILION, BLUE), strict=True)):
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


@_house_style()
def attribution(
    network: nn.Module, pixels: Tensor, labels: Tensor, probabilities: Tensor, num: int = 6
) -> "Figure":
    """Show which pixels spoke for the wrong class and which for the true one.

    Args:
        network: In eval mode.
        pixels: float `(N, 1, H, W)` in [0, 1]; right ones among them are left out.
        labels: int `(N,)`, the true classes.
        probabilities: float `(N, 10)`, the network's.
        num: Most images to show, those of which the network was surest.

    Returns:
        Two rows of tiles: the images, and `integrated_gradients` of the predicted class's logit
        less the true one's, each on a scale of its own around 0.
    """
    order = worst(probabilities, labels)[:num]
    predicted = probabilities.argmax(dim=1)
    maps = integrated_gradients(network, pixels[order], predicted[order], labels[order])[:, 0]
    maps = maps / maps.abs().amax(dim=(1, 2), keepdim=True)

    figure = _figure(
        (7.5, 3.5),
        "What spoke for the wrong class, and what for the true one",
        "vermilion ink spoke for what the image was read as, blue for what it is",
    )
    above, below = figure.subplots(2, 1)
    corners = _show_tiles(above, pixels[order, 0], num, **PIXELS)
    _show_tiles(below, maps, num, cmap=_diverging(), vmin=-0.6, vmax=0.6)
    for index, (x, _) in zip(order.tolist(), corners, strict=True):
        text = f"read {int(predicted[index])}, is {int(labels[index])}"
        below.text(x + 14, 31, text, ha="center", va="top")
    return figure


@_house_style()
def class_accuracy(predicted: Tensor, labels: Tensor, num_classes: int = 10) -> "Figure":
    """Show each class's accuracy with its 95% interval.

    Args:
        predicted: int `(N,)`.
        labels: int `(N,)`.
        num_classes: Number of classes; those without images have no dot.

    Returns:
        One panel with a dot for each class.
    """
    counts = torch.bincount(labels, minlength=num_classes).numpy()
    hits = torch.bincount(labels[predicted == labels], minlength=num_classes).numpy()
    (present,) = counts.nonzero()
    accuracies = hits[present] / counts[present]
    low, high = wilson_interval(hits[present], counts[present])
    hardest, easiest = present[accuracies.argmin()], present[accuracies.argmax()]

    figure = _figure(
        (7.5, 4.0),
        f"{hardest} is the hardest, {100 * accuracies.min():.2f}%; "
        f"{easiest} the easiest, {100 * accuracies.max():.2f}%",
        "share of each class's images read right, with its 95% interval",
    )
    axes = figure.subplots()
    axes.hlines(present, 100 * low, 100 * high, color=BLUE, alpha=0.35, linewidth=4)
    axes.plot(100 * accuracies, present, "o", color=BLUE)
    for y in present:
        errors = f"{counts[y] - hits[y]:,} of {counts[y]:,} wrong"
        axes.annotate(
            errors, (1.02, y), xycoords=("axes fraction", "data"), va="center", size=9, color=GREY
        )
    axes.set_yticks(range(num_classes))
    axes.invert_yaxis()
    axes.grid(axis="x", color=PALE)
    axes.set_axisbelow(True)
    axes.set_xlim(right=100 + 0.02 * (100 - 100 * low.min()))
    axes.locator_params(axis="x", nbins=8)
    axes.set_xlabel("accuracy (%)")
    axes.set_ylabel("true class")
    return figure


# -- how sure it is


@_house_style()
def reliability(probabilities: Tensor, labels: Tensor, num_bins: int = 15) -> "Figure":
    """Show how often the network is right where it is how sure.

    Args:
        probabilities: float `(N, 10)`.
        labels: int `(N,)`.
        num_bins: Number of bins of equal width, 0 to 1.

    Returns:
        Two panels: accuracy with its 95% interval against mean confidence in each bin, and how many
        images lie in each. The title gives torchmetrics' expected calibration error (l1).
    """
    from torchmetrics.functional.classification import multiclass_calibration_error

    error = multiclass_calibration_error(
        probabilities, labels, num_classes=probabilities.shape[1], n_bins=num_bins, norm="l1"
    )
    confidence, predicted = (values.numpy() for values in probabilities.max(dim=1))
    right = predicted == labels.numpy()
    bins = np.minimum((confidence * num_bins).astype(int), num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    full = counts > 0
    hits = np.bincount(bins[right], minlength=num_bins)[full]
    means = np.bincount(bins, confidence, num_bins)[full] / counts[full]
    low, high = wilson_interval(hits, counts[full])

    figure = _figure(
        (5.6, 5.6),
        f"Calibration error {100 * float(error):.2f}%: "
        f"{100 * confidence.mean():.2f}% sure, {100 * right.mean():.2f}% right",
        f"accuracy by confidence in {num_bins} bins, with 95% intervals",
    )
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    axes.plot([0, 100], [0, 100], color=GREY, linewidth=1, linestyle="--")
    axes.text(
        4,
        5.5,
        "as right as sure",
        rotation=45,
        rotation_mode="anchor",
        transform_rotates_text=True,
        color=GREY,
        size=9,
    )
    axes.vlines(100 * means, 100 * low, 100 * high, color=BLUE, alpha=0.35, linewidth=4)
    axes.plot(100 * means, 100 * hits / counts[full], "o", color=BLUE, clip_on=False)
    axes.set_ylabel("accuracy (%)")
    axes.set_ylim(0, 102)
    width = 100 / num_bins
    below.bar(width * (np.arange(num_bins) + 0.5), counts, 0.85 * width, color=BLUE)
    below.set_yscale("log")
    below.set_ylim(bottom=0.7)
    below.set_ylabel("images")
    below.set_xlabel("confidence: the probability of the class it was read as (%)")
    below.set_xlim(0, 102)
    return figure


# -- how it learned


@_house_style()
def curves(scalars: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> "Figure":
    """Show loss and accuracy over the steps of a run.

    Args:
        scalars: Steps and values of any of `train/loss`, `val/loss`, `train/accuracy` and
            `val/accuracy` (a fraction).

    Returns:
        Two panels; of the training batches, each value and a running mean over 5% of the run.
    """
    steps = max((steps[-1] for steps, _ in scalars.values() if len(steps)), default=0)
    if "val/loss" in scalars and "val/accuracy" in scalars:
        loss, accuracy = (scalars[f"val/{name}"][1][-1] for name in ("loss", "accuracy"))
        end = f"validation loss {loss:.4f}, accuracy {accuracy:.2%}"
    else:
        end = "no images were held out to validate on"
    figure = _figure(
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
            axes.plot(steps_, unit * values, color=VERMILION, alpha=0.25, linewidth=0.8)
            axes.plot(middle, unit * mean, color=VERMILION, label="training batches")
            if name == "accuracy":  # the first steps would leave no room for the others
                axes.set_ylim(max(0, 100 - 4 * (100 - unit * np.median(values)) - 4), 100.2)
        steps_, values = (np.asarray(column) for column in scalars.get(f"val/{name}", ([], [])))
        if len(values):
            axes.plot(steps_, unit * values, "o-", color=BLUE, label="validation images")
        axes.set_xlabel("step")
        axes.set_ylabel("cross-entropy loss (nats)" if name == "loss" else "accuracy (%)")
        axes.grid(color=PALE)
        axes.set_axisbelow(True)
        if axes.lines:
            axes.legend()
        if name == "loss":
            axes.set_yscale("log")
    return figure


# -- from a figure to its pixels


def to_array(figure: "Figure") -> np.ndarray:
    """Draw a figure; return uint8 `(H, W, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def to_png(figure: "Figure", dpi: int = 160) -> bytes:
    """Draw a figure; return a PNG file's contents."""
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=dpi)
    return contents.getvalue()


# -- what they compute


def layer_output(network: nn.Module, pixels: Tensor, layer: str) -> Tensor:
    """Return what a layer puts out for pixels `(B, 1, H, W)`, computed without gradients.

    Raises:
        ValueError: If the network has no such layer; the message names those that it has.
    """
    modules = {name: each for name, each in network.named_modules() if not list(each.children())}
    if layer not in modules:
        raise ValueError(f"the network has no layer {layer!r}; it has {', '.join(modules)}")
    outputs: list[Tensor] = []
    hook = modules[layer].register_forward_hook(lambda *call: outputs.append(call[2].detach()))
    try:
        with torch.no_grad():
            network(pixels)
    finally:
        hook.remove()
    return outputs[-1]


def integrated_gradients(
    network: nn.Module, pixels: Tensor, classes: Tensor, others: Tensor, num_steps: int = 64
) -> Tensor:
    """Tell how much each pixel adds to one class's logit less another's, from a black image on.

    The gradient is averaged along the straight line from black to the image, and multiplied by the
    image (Sundararajan, Taly and Yan, 2017, arXiv:1703.01365). So a black pixel has no part, and
    the pixels' parts add up to the difference that the whole image makes.

    Args:
        network: In eval mode, pixels to logits.
        pixels: float `(B, 1, H, W)`.
        classes: int `(B,)`, the class that a positive value speaks for.
        others: int `(B,)`, the class that a negative value speaks for.
        num_steps: Number of places on the line; the sum becomes exact as it grows.

    Returns:
        float `(B, 1, H, W)`, in logits.
    """
    total = torch.zeros_like(pixels)
    for step in range(num_steps):
        inputs = (pixels * ((step + 0.5) / num_steps)).requires_grad_()
        logits = network(inputs)
        margins = logits.gather(1, classes[:, None]) - logits.gather(1, others[:, None])
        total += torch.autograd.grad(margins.sum(), inputs)[0]
    return total / num_steps * pixels


def worst(probabilities: Tensor, labels: Tensor) -> Tensor:
    """Return int `(M,)`: which images are misread, the one with the surest wrong answer first."""
    confidence, predicted = probabilities.max(dim=1)
    (wrong,) = (predicted != labels).nonzero(as_tuple=True)
    return wrong[confidence[wrong].argsort(descending=True, stable=True)]


def wilson_interval(hits: Any, counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return Wilson's 95% interval for the share of hits, low and high ends, in [0, 1]."""
    z = 1.959964  # of a normal distribution, 2.5% lie above
    hits, counts = np.asarray(hits, float), np.asarray(counts, float)
    centre = (hits + z**2 / 2) / (counts + z**2)
    half = z / (counts + z**2) * np.sqrt(hits * (counts - hits) / counts + z**2 / 4)
    return np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)


# -- parts of figures


def _figure(size: tuple[float, float], title: str, subtitle: str) -> "Figure":
    """Return a figure, its width and height in inches, with what it found as its title."""
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=size)
    figure.text(PAD / width, 1 - PAD / height, title, va="top", size=11, weight="bold")
    figure.text(PAD / width, 1 - (PAD + 0.24) / height, subtitle, va="top", color=GREY)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - (PAD + 0.42) / height))  # type: ignore[call-arg]
    return figure


def _panel(
    title: str,
    subtitle: str,
    tiles: Tensor,
    columns: int,
    gap: tuple[int, int] = (2, 2),
    scale: str = "",
    **style: Any,
) -> "tuple[Figure, Axes, list[tuple[float, float]]]":
    """Return a figure with one panel of tiles, which set its height, and where each tile lies.

    A name for the `scale` adds one; the others are those of `_show_tiles`.
    """
    width = 6.4 if scale else 7.26
    height = width * -(-len(tiles) // columns) * (28 + gap[0]) / (columns * (28 + gap[1]))
    figure = _figure((7.5, height + 0.8), title, subtitle)
    axes = figure.subplots()
    corners = _show_tiles(axes, tiles, columns, gap, **style)
    axes.set_anchor("NW")
    if scale:
        _add_scale(axes, scale)
    return figure, axes, corners


def _show_tiles(
    axes: "Axes", tiles: Tensor, columns: int, gap: tuple[int, int] = (2, 2), **style: Any
) -> list[tuple[float, float]]:
    """Lay tiles `(N, H, W)` out in rows, small ones enlarged to about 28 x 28.

    Args:
        axes: Where.
        tiles: Their values.
        columns: Tiles in a row.
        gap: What is left free below each tile and to its right.
        style: Arguments of `imshow`.

    Returns:
        The upper left corner of each tile.
    """
    axes.axis("off")
    if len(tiles) == 0:
        return []
    scale = max(1, 28 // tiles.shape[1])
    tiles = tiles.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    num, height, width = tiles.shape
    rows, down, along = -(-num // columns), height + gap[0], width + gap[1]
    # What is not a number is left out: the paper shows.
    canvas = np.full((rows, down, columns, along), np.nan, np.float32)
    for i, tile in enumerate(tiles.float().cpu().numpy()):
        canvas[i // columns, :height, i % columns, :width] = tile
    canvas = canvas.reshape(rows * down, columns * along)[:, : columns * along - gap[1]]
    axes.imshow(canvas, interpolation="nearest", **style)
    return [(i % columns * along - 0.5, i // columns * down - 0.5) for i in range(num)]


def _names(network: nn.Module, kind: type[nn.Module]) -> list[str]:
    """Return the names of a network's layers of a kind, in its order."""
    return [name for name, module in network.named_modules() if isinstance(module, kind)]


def _maps(network: nn.Module, pixels: Tensor, layer: str) -> Tensor:
    """Return a layer's channels for one image, `(C, H, W)`; a dense layer's have one pixel."""
    output = layer_output(network, pixels[None], layer)[0].float().cpu()
    return output if output.dim() == 3 else output.reshape(-1, 1, 1)


def _diverging() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("blue_vermilion", [BLUE, "#f4f4f0", VERMILION])


def _add_scale(axes: "Axes", label: str) -> None:
    assert axes.figure is not None
    bar = axes.figure.colorbar(axes.images[0], ax=axes, label=label, shrink=0.8, aspect=30)
    bar.outline.set_visible(False)


def _percent(probability: Tensor) -> str:
    """Write a probability so that no mistake looks certain and nothing possible impossible."""
    percent = 100 * float(probability)
    if percent > 99.9:
        return ">99.9%"
    return "<0.1%" if percent < 0.1 else f"{percent:.1f}%"
