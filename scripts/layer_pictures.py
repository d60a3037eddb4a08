"""Pictures of what each kind of layer does, cell by cell, for scripts/pictures.py."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mnist_lightning.figures.measures import layer_output
from mnist_lightning.figures.style import (
    BLUE,
    GRAY,
    INK,
    VERMILION,
    diverging,
    house_style,
    new_figure,
)
from mnist_lightning.text import percent

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WINDOW = slice(5, 8), slice(9, 12)  # rows and columns: where the 3's upper stroke begins

SIGNED = diverging()
TABLE: dict[str, Any] = {"cmap": SIGNED, "vmin": -4, "vmax": 4}


@house_style()
def image(stored: Tensor) -> "Figure":
    """Show an image, uint8 `(28, 28)`, beside some of its numbers."""
    rows, columns = slice(4, 14), slice(8, 20)
    figure = new_figure((7.5, 3.95), "An image is a table of numbers", "0 is black, 255 is white")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    left.imshow(stored.numpy(), cmap="gray")
    left.axis("off")
    frame(left, rows, columns)
    write_table(right, stored[rows, columns], 0, cmap="gray", vmin=0, vmax=255)
    frame(right, slice(0, 10), slice(0, 12))
    return figure


@house_style()
def convolution(pixels: Tensor, weights: Tensor) -> "Figure":
    """Show what a filter `(3, 3)` makes of an image, and one of its sums in full."""
    weights = weights.detach()
    output = F.conv2d(pixels, weights[None, None])[0, 0]
    seen = pixels[0, 0][WINDOW]
    products = seen * weights
    row, column = WINDOW[0].start, WINDOW[1].start
    print(
        f"  the nine products sum to {products.sum():.4f}, "
        f"the convolution says {output[row, column]:.4f}"
    )

    figure = new_figure(
        (7.5, 4.95),
        f"Nine pixels times nine weights: their sum, {signed(products.sum())}, is a new pixel",
        "the frame slides over the whole image; the nine weights stay the same",
    )
    panels = figure.subplot_mosaic([["image", "seen", "weights"], ["products", "sum", "output"]])
    panels["image"].imshow(pixels[0, 0].numpy(), cmap="gray")
    frame(panels["image"], *WINDOW)
    panels["output"].imshow(output.numpy(), cmap=SIGNED, vmin=-1, vmax=1)
    frame(panels["output"], slice(row, row + 1), slice(column, column + 1))
    write_table(panels["seen"], seen, cmap="gray", vmin=0, vmax=1)
    write_table(panels["weights"], weights, cmap=SIGNED, vmin=-0.5, vmax=0.5)
    write_table(panels["products"], products, cmap=SIGNED, vmin=-0.5, vmax=0.5)
    write_table(panels["sum"], products.sum().reshape(1, 1), cmap=SIGNED, vmin=-1, vmax=1)
    panels["sum"].set_xlim(-1.5, 1.5)
    panels["sum"].set_ylim(1.5, -1.5)
    for name, title in {
        "image": "28 × 28 pixels",
        "seen": "the nine in the frame",
        "weights": "×  nine weights of a filter",
        "products": "=  nine products",
        "sum": "their sum",
        "output": "one of 26 × 26 sums",
    }.items():
        panels[name].set_title(title)
        panels[name].axis("off")
    return figure


@house_style()
def relu(network: nn.Module, pixels: Tensor) -> "Figure":
    """Show one channel's way through convolution, batch norm and ReLU."""
    channel = upper_edge_channel(network)
    maps = [layer_output(network, pixels, name)[0, channel] for name in ("conv1", "norm1", "relu1")]
    mean, variance, scale, shift = (
        float(network.state_dict()[f"norm1.{name}"][channel])
        for name in ("running_mean", "running_var", "weight", "bias")
    )
    print(
        f"  norm1, channel {channel}: mean {mean:.4f}, standard deviation {math.sqrt(variance):.4f}"
        f", scale {scale:.4f}, shift {shift:.4f}"
    )
    places = {"the sum": (WINDOW[0].start, WINDOW[1].start), "a black place": (0, 0)}
    for name, place in places.items():
        print(f"  {name} becomes " + ", ".join(f"{values[place]:.4f}" for values in maps))

    figure = new_figure(
        (7.5, 2.85),
        "Batch norm sets the scale, ReLU cuts off what is below 0",
        "one channel on its way, with its lowest and highest number; blue is below 0",
    )
    *panels, right = figure.subplots(1, 4)
    names = ("after conv1", "after norm1", "after relu1")
    for axes, values, name, limit in zip(panels, maps, names, (1, 5, 5), strict=True):
        axes.imshow(values.numpy(), cmap=SIGNED, vmin=-limit, vmax=limit)
        axes.set_title(f"{name}\n{signed(values.min())} to {signed(values.max())}")
        axes.axis("off")
    right.plot([-5, 0, 5], [0, 0, 5], color=BLUE, linewidth=2)
    right.set(box_aspect=1, ylim=(-5.5, 5.5), xticks=[-5, 0, 5], yticks=[-5, 0, 5])
    right.set_title("ReLU: max(0, x)\nout, over what goes in")
    right.grid()
    return figure


@house_style()
def pooling(network: nn.Module, pixels: Tensor) -> "Figure":
    """Show max-pooling before and after ReLU: the same four numbers."""
    outputs = layer_output(network, pixels, "norm2")[0]
    channel = int(layer_output(network, pixels, "relu2")[0].flatten(1).sum(dim=1).argmax())
    pool = nn.MaxPool2d(2)
    assert torch.equal(pool(outputs.relu()), pool(outputs).relu())

    # The 4 x 4 with the most change of those where ReLU has something to do after the pool too.
    corners = [(row, column) for row in range(0, 22, 2) for column in range(0, 22, 2)]
    places = [(slice(row, row + 4), slice(column, column + 4)) for row, column in corners]
    output = outputs[channel]
    place = max(
        places,
        key=lambda place: (int(pool(output[place][None]).min() < 0), float(output[place].std())),
    )
    seen = output[place]
    pooled, cut = pool(seen[None])[0], seen.relu()

    figure = new_figure(
        (7.5, 4.35),
        "The largest of four stays; ReLU after it has a quarter to do",
        "both ways lead to the same four numbers",
    )
    panels = figure.subplot_mosaic(
        [["map", "a", "pool", "here"], ["map", "b", "relu", "there"]], width_ratios=[1.5, 1, 1, 1]
    )
    panels["map"].imshow(output.numpy(), **TABLE)
    panels["map"].axis("off")
    frame(panels["map"], *place)
    for name, values, title in (
        ("a", seen, "here: 16 numbers,"),
        ("pool", pooled, "max-pool,"),
        ("here", pooled.relu(), "4 ReLUs"),
        ("b", seen, "or: 16 numbers,"),
        ("relu", cut, "16 ReLUs,"),
        ("there", pool(cut[None])[0], "max-pool"),
    ):
        write_table(panels[name], values, 1, **TABLE)
        panels[name].set_title(title)
        for rows in (slice(0, 2), slice(2, 4)) if len(values) == 4 else ():
            frame(panels[name], rows, slice(0, 2), INK)
            frame(panels[name], rows, slice(2, 4), INK)
    panels["map"].set_title(f"24 × 24 numbers\nafter norm2, channel {channel}")
    return figure


@house_style()
def softmax(network: nn.Module, pixels: Tensor, label: int) -> "Figure":
    """Show how ten logits become ten probabilities and one loss."""
    with torch.no_grad():
        logits = network(pixels)[0]
    probabilities = logits.softmax(dim=0)
    loss = -math.log(float(probabilities[label]))
    print("  logits " + ", ".join(f"{i}: {value:.2f}" for i, value in enumerate(logits)))
    print(
        f"  the sum of their exponentials is {logits.exp().sum():.2f}, of {label} alone "
        f"{logits[label].exp():.2f}; probability {probabilities[label]:.4f}, loss {loss:.4f}"
    )

    figure = new_figure(
        (7.5, 3.9),
        f"Ten logits, ten probabilities, one loss: −ln {float(probabilities[label]):.2f} "
        f"= {loss:.2f}",
        f"a training image that could be several digits; blue is what it is, {label}",
    )
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1.3, 1.3])
    left.imshow(pixels[0, 0].numpy(), cmap="gray")
    left.axis("off")
    colors = [BLUE if digit == label else "#b0b0ac" for digit in range(10)]
    for axes, values, texts, name in (
        (middle, logits, [signed(value) for value in logits], "logit"),
        (right, 100 * probabilities, [percent(float(p)) for p in probabilities], "probability (%)"),
    ):
        axes.barh(range(10), values.numpy(), color=colors)
        for digit, text in enumerate(texts):
            value = float(values[digit])
            axes.annotate(
                text,
                *((value, digit), (-4 if value < 0 else 4, 0)),
                textcoords="offset points",
                ha="right" if value < 0 else "left",
                va="center",
                size=9,
            )
        axes.set_yticks(range(10))
        axes.invert_yaxis()
        axes.margins(x=0.35)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(name)
        axes.tick_params(axis="y", length=0)
        axes.axvline(0, color=GRAY, linewidth=1)
    right.set_xlim(left=0)
    return figure


# -- parts of pictures


def upper_edge_channel(network: nn.Module) -> int:
    """Return which of conv1's channels asks most for dark above and light below."""
    weights = network.get_parameter("conv1.weight").detach()[:, 0]
    return int((weights[:, 2] - weights[:, 0]).sum(dim=1).argmax())


def write_table(axes: "Axes", values: Tensor, digits: int = 2, **style: Any) -> None:
    """Fill a panel with cells `(H, W)`, each with its number."""
    cells = axes.imshow(values.numpy(), **style)
    for (row, column), value in np.ndenumerate(values.numpy()):
        red, green, blue, _ = cells.to_rgba(np.array([[value]]))[0, 0]
        color = "white" if 0.3 * red + 0.6 * green + 0.1 * blue < 0.5 else INK
        text = signed(value, digits)
        axes.text(column, row, text, ha="center", va="center", size=9, color=color)
    axes.axis("off")


def frame(axes: "Axes", rows: slice, columns: slice, color: str = VERMILION) -> None:
    """Draw a frame around cells."""
    place = (columns.start - 0.5, rows.start - 0.5)
    size = columns.stop - columns.start, rows.stop - rows.start
    axes.add_patch(Rectangle(place, *size, fill=False, color=color, lw=2, clip_on=False))


def signed(value: Any, digits: int = 2) -> str:
    """Write a number with a true minus sign, and none before a zero."""
    return f"{round(float(value), digits) + 0.0:.{digits}f}".replace("-", "−")
