"""What a network learns: its filters and feature maps, and the warps that it learns from."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mnist_lightning.figures.measures import layer_output, map_layers
from mnist_lightning.figures.style import (
    PIXELS,
    add_color_bar,
    diverging,
    figure_of_tiles,
    house_style,
    new_figure,
    palette,
    show_tiles,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@house_style()
def augmentation(original: Tensor, changed: Tensor) -> "Figure":
    """Return a figure of an image beside what augmentation makes of it.

    Args:
        original: float `(H, W)` in [0, 1].
        changed: float `(N, H, W)`: the same image, changed N times.

    Returns:
        One panel: the original first, in a frame, then the others.
    """
    from matplotlib.patches import Rectangle

    tiles = torch.cat([original[None], changed])
    figure, axes, corners = figure_of_tiles(
        "Each visit augments a training image anew",
        f"framed, the original; beside it {len(changed)} of the images that training makes of it",
        tiles,
        10,
        **PIXELS,
    )
    height, width = original.shape
    axes.add_patch(
        Rectangle(
            corners[0], width, height, fill=False, color=palette().vermilion, lw=2.5, clip_on=False
        )
    )
    return figure


def drawable(network: nn.Module) -> set[str]:
    """Return which of `filters`, `feature_maps` and `layers` a network has the layers for.

    Args:
        network: In eval mode.
    """
    names = {"filters"} if _convolutions(network) else set[str]()
    return names | ({"feature_maps", "layers"} if map_layers(network) else set())


@house_style()
def filters(network: nn.Module) -> "Figure":
    """Return a figure of the first convolution's weights.

    Args:
        network: Its first `Conv2d` takes one channel.

    Returns:
        One panel with a tile for each filter, on one scale around 0.
    """
    name = _convolutions(network)[0]
    weights = network.get_parameter(f"{name}.weight").detach().float().cpu()[:, 0]
    size = " × ".join(map(str, weights.shape[1:]))
    limit = float(weights.abs().max())
    figure, _, _ = figure_of_tiles(
        f"What {name} looks for: {len(weights)} filters of {size}",
        "a filter answers light where it is vermilion and dark where it is blue",
        weights,
        8,
        (3, 3),
        "weight",
        cmap=diverging(),
        vmin=-limit,
        vmax=limit,
    )
    return figure


@house_style()
def feature_maps(network: nn.Module, pixels: Tensor, layer: str | None = None) -> "Figure":
    """Return a figure of a layer's output for one image.

    Args:
        network: In eval mode.
        pixels: float `(1, H, W)` in [0, 1].
        layer: A name in `network.named_modules()`; None for the first of `map_layers`.

    Returns:
        Two panels: the image, and a tile for each channel, on one scale; a dense layer's units are
        tiles of one pixel.

    Raises:
        UserError: If the network has no such layer; the message lists those that it has.
    """
    layer = layer or map_layers(network)[0]
    maps = _maps(network, pixels, layer)
    columns = max(8, math.ceil(math.sqrt(2 * len(maps))))
    active = int((maps.flatten(1) > 0).any(dim=1).sum())
    kind = "units" if maps[0].numel() == 1 else f"channels of {maps.shape[1]} × {maps.shape[2]}"
    figure = new_figure(
        (7.5, 0.8 + max(1.2, 5.2 * math.ceil(len(maps) / columns) / columns)),
        f"{layer}: {active} of {len(maps)} {kind} answer this image",
        "left, the image; right, a tile for each channel or unit, all on one scale",
    )
    left, right = figure.subplots(1, 2, width_ratios=[1, 5])
    show_tiles(left, pixels, 1, **PIXELS)
    left.set_anchor("NW")
    show_tiles(right, maps, columns, cmap="viridis")
    right.set_anchor("NW")
    add_color_bar(right, "activation")
    return figure


@house_style()
def layers(network: nn.Module, pixels: Tensor, num_maps: int = 10) -> "Figure":
    """Return a figure of the channels of each of `map_layers` for one image.

    Those with the largest sum of activations come first.

    Args:
        network: In eval mode.
        pixels: float `(1, H, W)` in [0, 1].
        num_maps: Most channels of a layer to show.

    Returns:
        One row of tiles for each layer, each row on its own scale.
    """
    rows = [("pixels", pixels)]
    rows += [(name, _maps(network, pixels, name)) for name in map_layers(network)]
    figure = new_figure(
        (7.5, 0.7 + 0.75 * len(rows)),
        "One image on its way through the network",
        f"up to {num_maps} channels of each layer, the largest sum of activations first; "
        "a row on its own scale",
    )
    panels = figure.subplots(len(rows), 1)
    for axes, (name, maps) in zip(panels, rows, strict=True):
        strongest = maps.flatten(1).sum(dim=1).argsort(descending=True, stable=True)[:num_maps]
        style = PIXELS if maps is pixels else {"cmap": "viridis"}
        show_tiles(axes, maps[strongest], num_maps, **style)
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


def _convolutions(network: nn.Module) -> list[str]:
    """Return the names of a network's convolutions, in order."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]


def _maps(network: nn.Module, pixels: Tensor, layer: str) -> Tensor:
    """Return a layer's output for one image, `(C, H, W)`; of a dense layer, H = W = 1."""
    output = layer_output(network, pixels[None], layer)[0].float().cpu()
    return output if output.dim() == 3 else output.reshape(-1, 1, 1)
