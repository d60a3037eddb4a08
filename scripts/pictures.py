"""Draw the pictures of docs/tour.md and the README from a trained network; print its numbers.

    python scripts/pictures.py
    python scripts/pictures.py --only convolution
    python scripts/pictures.py --ckpt_path runs/base/version_0/checkpoints/best.ckpt

The pictures go to docs/pictures/. They show training images; test images are read for `mistakes`
only, which is about a finished network. `overfitting` draws the numbers in
docs/results/overfitting.json: if that file is removed, two short runs create it again.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from layer_pictures import convolution, image, pooling, relu, softmax, upper_edge_channel
from matplotlib.figure import Figure
from torch import Tensor, nn

from mnist_lightning import figures
from mnist_lightning.checkpoint import load
from mnist_lightning.data.augment import Augmentation
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.figures.measures import layer_output
from mnist_lightning.figures.style import (
    BLUE,
    GRAY,
    PALE,
    VERMILION,
    diverging,
    house_style,
    new_figure,
)
from mnist_lightning.files import replace_file
from mnist_lightning.network import networks_of, to_pixels
from mnist_lightning.runs import read_curves
from mnist_lightning.training.classifier import MNISTClassifier

PICTURES = Path("docs/pictures")
CURVES = Path("docs/results/overfitting.json")
TOUR = "docs/tour.safetensors"
DPI = 221  # 7.5 inches are twice the 830 pixels at which GitHub shows them

# Two of the 60,000 training images: the 3 that goes through the tour, and a 0 that could be a 6.
DIGIT, UNSURE = 7, 29311
EPOCHS, STEPS = 8, 215  # of configs/base.yaml; steps in each

OVERFITTING = (
    "fit --config configs/base.yaml --model.channels [16,32] --model.hidden 128 "
    "--model.label_smoothing 0 --model.temperature 1 --data.shift 0.08 --data.shear 0.3 "
    "--data.zoom 0.08 --data.focus 1 --data.train_size 1000 --trainer.max_epochs 40 "
    "--trainer.log_every_n_steps 1"
)
WITHOUT_WARPS = "--data.rotation 0 --data.shift 0 --data.shear 0 --data.zoom 0"


def main() -> None:
    """Run the command line."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--ckpt_path", default=TOUR, help="a checkpoint (default: %(default)s, the tour's network)"
    )
    parser.add_argument("--only", metavar="NAME", help="one picture: augmentation, mistakes, ...")
    options = parser.parse_args()
    try:
        network = load(options.ckpt_path)
        member = networks_of(network)[0]  # of an ensemble the first; else the network itself
        data = MNISTDataModule()
        data.prepare_data()
        data.setup("fit")
        pixels = to_pixels(data.train_images[[DIGIT]])
        drawings: dict[str, Callable[[], Figure]] = {
            "image": lambda: image(data.train_images[DIGIT]),
            "convolution": lambda: convolution(
                pixels, member.get_parameter("conv1.weight")[upper_edge_channel(member), 0]
            ),
            "relu": lambda: relu(member, pixels),
            "pooling": lambda: pooling(member, pixels),
            "softmax": lambda: softmax(
                network, to_pixels(data.train_images[[UNSURE]]), int(data.train_labels[UNSURE])
            ),
            "one_cycle": lambda: one_cycle(EPOCHS, STEPS),
            "augmentation": lambda: augmentation(data, pixels),
            "looks": lambda: looks(pixels, to_pixels(data.train_images[[UNSURE]])),
            "standardized": lambda: standardized(pixels),
            "overfitting": overfitting,
            "filters": lambda: figures.filters(member),
            "first_layers": lambda: first_layers(member, pixels),
            "layers": lambda: figures.layers(member, pixels[0]),
            "feature_maps": lambda: figures.feature_maps(member, pixels[0]),
            "mistakes": lambda: mistakes(network),
        }
        if options.only not in (None, *drawings):
            raise UserError(f"there is no picture {options.only}; there are {', '.join(drawings)}")
        PICTURES.mkdir(parents=True, exist_ok=True)
        for name, draw in drawings.items():
            if options.only in (None, name):
                contents = figures.to_png(draw(), DPI)
                replace_file(PICTURES / f"{name}.png", contents)
                print(f"{name}: {PICTURES / name}.png, {len(contents) / 1000:.0f} kB")
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")


# -- how it learns


@house_style()
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

    figure = new_figure(
        (7.5, 3.2),
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
        axes.axhline(constant, color=GRAY, linestyle="--", linewidth=1)
        axes.set_xticks(range(epochs + 1))
        axes.grid(axis="x")
        axes.set_title(name)
        axes.set_xlabel("epoch")
    return figure


def augmentation(data: MNISTDataModule, pixels: Tensor) -> Figure:
    """Show an image and what augmentation makes of it in 19 epochs."""
    return figures.augmentation(
        pixels[0, 0], data.augmentation.preview(pixels[0], 3, pixels[0], num=19)
    )


def looks(pixels: Tensor, other: Tensor) -> Figure:
    """Show an image and what the augmentation of configs/wild.yaml makes of it."""
    settings = yaml.safe_load(Path("configs/wild.yaml").read_text())["data"]
    augmentation = Augmentation.of(settings)
    return figures.augmentation(pixels[0, 0], augmentation.preview(pixels[0], 3, other[0], num=19))


@house_style()
def standardized(pixels: Tensor) -> Figure:
    """Show an image at four contrasts and brightnesses, and that standardizing makes them one."""
    changes = {
        "as it is": pixels,
        "contrast 0.4": 0.4 * pixels,
        "contrast 0.4, brighter": 0.4 * pixels + 0.5,
        "contrast 0.1": 0.1 * pixels + 0.45,
    }
    figure = new_figure(
        (7.5, 4.2),
        "Standardizing: four images become the same one",
        "above, the pixels, 0 to 1; below, less their mean and divided by their standard deviation",
    )
    rows = figure.subplots(2, len(changes))
    for above, below, (name, changed) in zip(*rows, changes.items(), strict=True):
        mean, deviation = float(changed.mean()), float(changed.std(correction=0))
        print(f"  {name}: mean {mean:.3f}, standard deviation {deviation:.3f}")
        above.imshow(changed[0, 0], cmap="gray", vmin=0, vmax=1)
        below.imshow((changed[0, 0] - mean) / deviation, cmap="gray", vmin=-0.5, vmax=3)
        above.set_title(name)
        below.set_title(f"(x − {mean:.2f}) / {deviation:.3f}")
        for axes in (above, below):
            axes.set_xticks([])
            axes.set_yticks([])
    return figure


@house_style()
def overfitting() -> Figure:
    """Show two runs on 1,000 images, with and without augmentation."""
    if not CURVES.exists():
        CURVES.parent.mkdir(parents=True, exist_ok=True)
        runs = [train(f"{OVERFITTING} {WITHOUT_WARPS}"), train(OVERFITTING)]
        replace_file(CURVES, json.dumps(runs).encode() + b"\n")
    runs = json.loads(CURVES.read_text())

    figure = new_figure(
        (7.5, 3.8),
        "On 1,000 images: without augmentation it learns them by heart",
        "mean loss of each epoch, logarithmic; both are judged by the same 5,000 other images",
    )
    panels = figure.subplots(1, 2, sharey=True)
    for axes, run, name in zip(panels, runs, ("no augmentation", "augmentation"), strict=True):
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
    """Train by the real command line; return the command and each epoch's losses and accuracy."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_lightning", *arguments.split()]
        subprocess.run([*command, "--trainer.logger.init_args.save_dir", folder], check=True)
        (run,) = Path(folder).glob("*/version_0")
        curves = read_curves(run)
    losses, *val = (curves[name][1] for name in ("train/loss", "val/loss", "val/accuracy"))
    means = np.reshape(losses, (len(val[0]), -1)).mean(axis=1).tolist()
    result: dict[str, Any] = {"command": arguments}
    for name, values in zip(("train_loss", "val_loss", "val_accuracy"), (means, *val), strict=True):
        result[name] = [float(f"{value:.4g}") for value in values]
    return result


# -- what it learned


@house_style()
def first_layers(network: nn.Module, pixels: Tensor, num: int = 8) -> Figure:
    """Show filters of the first convolution, their output, and the second layer's output."""
    weights = network.get_parameter("conv1.weight").detach()[:, 0]
    first, second = (layer_output(network, pixels, name)[0] for name in ("relu1", "relu2"))
    # Those whose output varies most; many others are weaker versions of them.
    loud, loud_later = (
        maps.flatten(1).std(dim=1).argsort(descending=True)[:num] for maps in (first, second)
    )
    figure = new_figure(
        (7.5, 3.75),
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
            panels[name].imshow(strip.numpy(), cmap=diverging(), vmin=-1, vmax=1)
        else:
            panels[name].imshow(strip.numpy(), cmap="viridis", vmin=0, vmax=1)
        panels[name].set_title(title)
    for axes in panels.values():
        axes.axis("off")
    return figure


def mistakes(network: nn.Module) -> Figure:
    """Show the test images that the network misreads, the most confident mistakes first."""
    images, labels = read_test_set()
    pixels = to_pixels(images)
    with torch.no_grad():
        logits = torch.cat([network(part) for part in pixels.split(500)])
    probabilities = logits.softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    wrong = predicted != labels
    print(f"  {int(wrong.sum())} of {len(wrong):,} test images are misread")
    for low, high in ((0.99, 1), (0.9, 0.99), (0.5, 0.9), (0, 0.5)):
        here = (confidence > low) & (confidence <= high)
        print(
            f"  surer than {low}, to {high}: {int(here.sum()):,} images, "
            f"{int(wrong[here].sum())} of them wrong"
        )
    return figures.mistakes(pixels, labels, probabilities, num=18)


if __name__ == "__main__":
    main()
