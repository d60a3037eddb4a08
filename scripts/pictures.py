"""Draws the pictures of docs/tour.md and the README from a trained network; prints its numbers.

    python scripts/pictures.py
    python scripts/pictures.py --only convolution
    python scripts/pictures.py --ckpt_path runs/base/version_0/checkpoints/best.ckpt

The pictures lie in docs/pictures/. They show training images; the test images are read for
`mistakes` alone, which is about a finished network. `overfitting` draws the numbers that lie in
docs/results/overfitting.json: move that file away, and two short trainings make it anew.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor, nn

from mnist_lightning import figures
from mnist_lightning.checkpoint import load
from mnist_lightning.data.augment import affine_table, warp
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.figures.measures import layer_output
from mnist_lightning.figures.style import BLUE, GREY, INK, PAD, PALE, VERMILION, house_style
from mnist_lightning.files import replace_file
from mnist_lightning.network import networks_of, to_pixels
from mnist_lightning.text import percent
from mnist_lightning.training.classifier import MNISTClassifier

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PICTURES = Path("docs/pictures")
CURVES = Path("docs/results/overfitting.json")
DPI = 221  # 7.5 inches are twice the 830 pixels at which GitHub shows them

# Two of the 60,000 training images: the 3 that goes through the tour, and a 0 that could be a 6.
DIGIT, UNSURE = 7, 29311
WINDOW = slice(5, 8), slice(9, 12)  # rows and columns: where the 3's upper stroke begins
EPOCHS = 5  # of configs/base.yaml

OVERFITTING = (
    "fit --config configs/base.yaml --model.channels [16,32] --model.hidden 128 "
    "--data.train_size 1000 --trainer.max_epochs 40 --trainer.log_every_n_steps 1"
)
WITHOUT_WARPS = "--data.rotation 0 --data.shift 0 --data.shear 0 --data.zoom 0"

SIGNED = LinearSegmentedColormap.from_list("signed", [BLUE, "#f4f4f0", VERMILION])
TABLE: dict[str, Any] = {"cmap": SIGNED, "vmin": -4, "vmax": 4}


def main() -> None:
    """Run the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt_path", help="a checkpoint; left out, the network that is shipped")
    parser.add_argument("--only", metavar="NAME", help="one picture: augmentation, mistakes, ...")
    options = parser.parse_args()
    try:
        network = load(*[options.ckpt_path] if options.ckpt_path else [])
        member = networks_of(network)[0]  # of an ensemble the first; else the network itself
        data = MNISTDataModule()
        data.prepare_data()
        data.setup("fit")
        pixels = to_pixels(data.train_images[[DIGIT]])
        drawings: dict[str, Callable[[], Figure]] = {
            "image": lambda: image(data.train_images[DIGIT]),
            "convolution": lambda: convolution(member, pixels),
            "relu": lambda: relu(member, pixels),
            "pooling": lambda: pooling(member, pixels),
            "softmax": lambda: softmax(
                network, to_pixels(data.train_images[[UNSURE]]), int(data.train_labels[UNSURE])
            ),
            "one_cycle": lambda: one_cycle(EPOCHS, len(data.train_dataloader())),
            "augmentation": lambda: augmentation(data, pixels),
            "overfitting": overfitting,
            "filters": lambda: figures.filters(member),
            "first_layers": lambda: first_layers(member, pixels),
            "layers": lambda: figures.layers(member, pixels[0]),
            "feature_maps": lambda: figures.feature_maps(member, pixels[0]),
            "mistakes": lambda: mistakes(network),
        }
        if options.only not in (None, *drawings):
            raise ValueError(f"there is no picture {options.only}; there are {', '.join(drawings)}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            if options.only in (None, name):
                with house_style():
                    contents = figures.to_png(draw(), DPI)
                replace_file(PICTURES / f"{name}.png", contents)
                print(f"{name}: {PICTURES / name}.png, {len(contents) / 1000:.0f} kB")
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


# -- what a layer does


def image(stored: Tensor) -> Figure:
    """Show an image, uint8 `(28, 28)`, beside some of its numbers."""
    rows, columns = slice(4, 14), slice(8, 20)
    figure = blank(3.95, "An image is a table of numbers", "0 is black, 255 is white")
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.2])
    left.imshow(stored.numpy(), cmap="gray")
    left.axis("off")
    frame(left, rows, columns)
    write_table(right, stored[rows, columns], 0, cmap="gray", vmin=0, vmax=255)
    frame(right, slice(0, 10), slice(0, 12))
    return figure


def convolution(network: nn.Module, pixels: Tensor) -> Figure:
    """Show one sum of a convolution: nine pixels times nine weights."""
    channel = upper_edge_channel(network)
    weights = network.get_parameter("conv1.weight").detach()[channel, 0]
    output = layer_output(network, pixels, "conv1")[0, channel]
    seen = pixels[0, 0][WINDOW]
    products = seen * weights
    row, column = WINDOW[0].start, WINDOW[1].start
    print(
        f"  the nine products of channel {channel} sum to {products.sum():.4f}, "
        f"the layer says {output[row, column]:.4f}"
    )

    figure = blank(
        4.95,
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


def relu(network: nn.Module, pixels: Tensor) -> Figure:
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

    figure = blank(
        2.85,
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
    right.grid(color=PALE)
    right.set_axisbelow(True)
    return figure


def pooling(network: nn.Module, pixels: Tensor) -> Figure:
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

    figure = blank(
        4.35,
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


def softmax(network: nn.Module, pixels: Tensor, label: int) -> Figure:
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

    figure = blank(
        3.9,
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
        axes.axvline(0, color=GREY, linewidth=1)
    right.set_xlim(left=0)
    return figure


# -- how it learns


def one_cycle(epochs: int, steps: int) -> Figure:
    """Show the learning rate and Adam's first beta over a run."""
    peak, total = MNISTClassifier().learning_rate, epochs * steps
    optimizer = torch.optim.Adam([torch.zeros(1)])
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=total)
    rates, betas = [], []
    for _ in range(total):
        group = optimizer.param_groups[0]
        rates.append(1000 * group["lr"])
        betas.append(group["betas"][0])
        optimizer.step()
        schedule.step()
    highest = int(np.argmax(rates))
    print(
        f"  {steps} steps an epoch, {total:,} in all; rate {rates[0] / 1000:.2e} at first, "
        f"{peak} in step {highest + 1:,}, {rates[-1] / 1000:.1e} at last"
    )

    figure = blank(
        3.2,
        f"One cycle: up for {highest + 1:,} steps, down for {total - highest - 1:,}",
        "blue, this project; dashed, the article, which changes nothing; lines mark the epochs",
    )
    for axes, values, constant, name in zip(
        figure.subplots(1, 2),
        (rates, betas),
        (1.0, 0.9),
        ("learning rate (thousandths)", "Adam's first beta"),
        strict=True,
    ):
        axes.plot(np.arange(total) / steps, values, color=BLUE, linewidth=2)
        axes.axhline(constant, color=GREY, linestyle="--", linewidth=1)
        axes.set_xticks(range(epochs + 1))
        axes.grid(axis="x", color=PALE)
        axes.set_axisbelow(True)
        axes.set_title(name)
        axes.set_xlabel("epoch")
    return figure


def augmentation(data: MNISTDataModule, pixels: Tensor) -> Figure:
    """Show an image and what its first 19 epochs might make of it."""
    table = affine_table(19, np.random.default_rng(0), **data.warp_ranges)
    return figures.augmentation(pixels[0, 0], warp(pixels.expand(19, -1, -1, -1), table)[:, 0])


def overfitting() -> Figure:
    """Show two trainings on 1,000 images, with and without warps."""
    if not CURVES.exists():
        CURVES.parent.mkdir(parents=True, exist_ok=True)
        runs = [train(f"{OVERFITTING} {WITHOUT_WARPS}"), train(OVERFITTING)]
        replace_file(CURVES, json.dumps(runs).encode() + b"\n")
    runs = json.loads(CURVES.read_text())

    figure = blank(
        3.8,
        "On 1,000 images: without warps it learns them by heart",
        "mean loss of each epoch, logarithmic; both are judged by the same 5,000 other images",
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, run, name in zip(panels, runs, ("without warps", "with warps"), strict=True):
        train_loss, val_loss = run["train_loss"], run["val_loss"]
        accuracy = run["val_accuracy"][-1]
        print(
            f"  {name}: training loss {train_loss[-1]:.4f}, validation loss {val_loss[-1]:.4f}, "
            f"{val_loss[-1] / train_loss[-1]:.1f} times; validation accuracy {accuracy:.4f}"
        )
        epochs = range(1, len(train_loss) + 1)
        axes.fill_between(epochs, train_loss, val_loss, color=PALE)
        axes.plot(epochs, train_loss, color=VERMILION, linewidth=2, label="training images")
        axes.plot(epochs, val_loss, color=BLUE, linewidth=2, label="validation images")
        for values, color in ((train_loss, VERMILION), (val_loss, BLUE)):
            axes.annotate(
                f"{values[-1]:.3f}",
                *((epochs[-1], values[-1]), (5, 0)),
                textcoords="offset points",
                va="center",
                color=color,
            )
        axes.set_yscale("log")
        axes.set_xlabel("epoch")
        axes.set_title(f"{name}: {100 * accuracy:.1f}% right")
    panels[0].set_ylabel("cross-entropy loss (nats)")
    panels[1].legend()
    panels[0].yaxis.set_major_formatter("{x:g}")
    return figure


def train(arguments: str) -> dict[str, Any]:
    """Train by the real command line; return it, with each epoch's mean losses and accuracy."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_lightning", *arguments.split()]
        subprocess.run([*command, "--trainer.logger.init_args.save_dir", folder], check=True)
        (run,) = Path(folder).glob("*/version_0")
        scalars = EventAccumulator(str(run), size_guidance={"scalars": 0}).Reload()
        losses, *val = (
            [event.value for event in scalars.Scalars(name)]
            for name in ("train/loss", "val/loss", "val/accuracy")
        )
    means = np.reshape(losses, (len(val[0]), -1)).mean(axis=1).tolist()
    result: dict[str, Any] = {"command": arguments}
    for name, values in zip(("train_loss", "val_loss", "val_accuracy"), (means, *val), strict=True):
        result[name] = [float(f"{value:.4g}") for value in values]
    return result


# -- what it learnt


def first_layers(network: nn.Module, pixels: Tensor, num: int = 8) -> Figure:
    """Show filters of the first convolution above what they answer, and what comes of it."""
    weights = network.get_parameter("conv1.weight").detach()[:, 0]
    first, second = (layer_output(network, pixels, name)[0] for name in ("relu1", "relu2"))
    # Those that tell places apart most: many others say the same, less loudly.
    loud, loud_later = (
        maps.flatten(1).std(dim=1).argsort(descending=True)[:num] for maps in (first, second)
    )
    figure = blank(
        3.75,
        "What the first layers make of a 3",
        "filters answer where light lies on vermilion, dark on blue; each tile has its own scale",
    )
    panels = figure.subplot_mosaic(
        [["image", "filters"], ["image", "first"], ["image", "second"]], width_ratios=[1, 3.6]
    )
    panels["image"].imshow(pixels[0, 0].numpy(), cmap="gray")
    panels["image"].set_title("28 × 28 pixels")
    for name, tiles, title in (
        ("filters", weights[loud], f"{num} of the {len(first)} filters of conv1, 3 × 3"),
        ("first", first[loud], "the answer of each after relu1, 26 × 26"),
        ("second", second[loud_later], f"{num} of the {len(second)} channels after relu2, 12 × 12"),
    ):
        tiles = tiles / tiles.abs().amax(dim=(1, 2), keepdim=True)
        # All of one size: 156 is a multiple of 3, 26 and 12.
        tiles = F.pad(F.interpolate(tiles[None], 156)[0], (0, 12), value=math.nan)
        strip = tiles.permute(1, 0, 2).flatten(1)[:, :-12]
        if name == "filters":
            panels[name].imshow(strip.numpy(), cmap=SIGNED, vmin=-1, vmax=1)
        else:
            panels[name].imshow(strip.numpy(), cmap="viridis", vmin=0, vmax=1)
        panels[name].set_title(title)
    for axes in panels.values():
        axes.axis("off")
    return figure


def mistakes(network: nn.Module) -> Figure:
    """Show the test images that the network misreads, those of which it was surest."""
    data = MNISTDataModule()
    data.setup("test")
    pixels = to_pixels(data.test_images)
    with torch.no_grad():
        logits = torch.cat([network(part) for part in pixels.split(500)])
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    wrong = predicted != data.test_labels
    print(f"  {int(wrong.sum())} of {len(wrong):,} test images are misread")
    for low, high in ((0.99, 1), (0.9, 0.99), (0.5, 0.9), (0, 0.5)):
        here = (confidence > low) & (confidence <= high)
        print(
            f"  surer than {low}, to {high}: {int(here.sum()):,} images, "
            f"{int(wrong[here].sum())} of them wrong"
        )
    return figures.mistakes(pixels, data.test_labels, probabilities, num=18)


# -- parts of pictures


def upper_edge_channel(network: nn.Module) -> int:
    """Return which of conv1's channels asks most for dark above and light below."""
    weights = network.get_parameter("conv1.weight").detach()[:, 0]
    return int((weights[:, 2] - weights[:, 0]).sum(dim=1).argmax())


def blank(height: float, title: str, subtitle: str) -> Figure:
    """Return a figure 7.5 inches wide with its title, in the style of `figures`."""
    figure = Figure(figsize=(7.5, height))
    figure.text(PAD / 7.5, 1 - PAD / height, title, va="top", size=11, weight="bold")
    figure.text(PAD / 7.5, 1 - (PAD + 0.24) / height, subtitle, va="top", color=GREY)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - (PAD + 0.42) / height))  # type: ignore[call-arg]
    return figure


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


if __name__ == "__main__":
    main()
