"""Numbers for the figures: a layer's output, which pixels mattered, how certain a share is."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mnist_lightning.errors import UserError
from mnist_lightning.sizes import SIDE


def layer_output(network: nn.Module, pixels: Tensor, layer: str) -> Tensor:
    """Return a layer's output for pixels `(B, 1, H, W)`, computed without gradients.

    Raises:
        UserError: If the network has no such layer, the message names those that it has, or does
            not use it.
    """
    modules = {name: module for name, module in network.named_modules() if not [*module.children()]}
    if layer not in modules:
        raise UserError(f"the network has no layer {layer!r}; it has {', '.join(modules)}")
    calls = _calls(network, pixels, {layer: modules[layer]})
    if not calls:
        raise UserError(f"the network does not use its layer {layer!r}")
    return calls[layer][1]


def map_layers(network: nn.Module) -> list[str]:
    """Return the names of the layers whose maps tell most, in order.

    They are the ReLUs whose output is maps, `(B, C, H, W)`, or the convolutions where a network
    calls a function for ReLU. What it does not use is left out.

    Args:
        network: In eval mode.
    """
    pixels = torch.zeros(1, 1, SIDE, SIDE)
    for kind in (nn.ReLU, nn.Conv2d):
        modules = {name: each for name, each in network.named_modules() if isinstance(each, kind)}
        calls = _calls(network, pixels, modules) if modules else {}
        names = [name for name in modules if name in calls and calls[name][1].dim() == 4]
        if names:
            return names
    return []


def last_hidden(network: nn.Module, pixels: Tensor) -> Tensor | None:
    """Return what a network's last dense layer takes in, `(B, H)`; None if it has no such layer."""
    dense = [module for module in network.modules() if isinstance(module, nn.Linear)]
    calls = _calls(network, pixels, {"last": dense[-1]} if dense else {})
    return calls["last"][0].flatten(1) if calls else None


def integrated_gradients(
    network: nn.Module, pixels: Tensor, classes: Tensor, others: Tensor, num_steps: int = 64
) -> Tensor:
    """Return how much each pixel adds to one class's logit less another's, compared with black.

    The gradient is averaged along the straight line from black to the image, and multiplied by the
    image (Sundararajan, Taly and Yan, 2017, arXiv:1703.01365). So a black pixel adds nothing, and
    all pixels together add the difference between the image and black.

    Args:
        network: In eval mode, pixels to logits.
        pixels: float `(B, 1, H, W)`.
        classes: int `(B,)`, the class that positive values support.
        others: int `(B,)`, the class that negative values support.
        num_steps: Number of points on the line; the more, the more exact.

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
    """Return the indices of misread images, int `(M,)`, the most confident mistake first."""
    confidence, predicted = probabilities.max(dim=1)
    (wrong,) = (predicted != labels).nonzero(as_tuple=True)
    return wrong[confidence[wrong].argsort(descending=True, stable=True)]


def wilson_interval(hits: Any, counts: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of Wilson's 95% interval for the share of hits, in [0, 1]."""
    z = 1.959964  # of a normal distribution, 2.5% lie above
    hits, counts = np.asarray(hits, float), np.asarray(counts, float)
    center = (hits + z**2 / 2) / (counts + z**2)
    half = z / (counts + z**2) * np.sqrt(hits * (counts - hits) / counts + z**2 / 4)
    return np.clip(center - half, 0, 1), np.clip(center + half, 0, 1)


def _calls(
    network: nn.Module, pixels: Tensor, layers: Mapping[str, nn.Module]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what each of the layers that are used takes in and returns, at its first call."""
    calls: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, _: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        calls.setdefault(name, (inputs[0], output))  # by views there are more calls

    hooks = [layer.register_forward_hook(partial(keep, name)) for name, layer in layers.items()]
    try:
        with torch.no_grad():
            network(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    return calls
