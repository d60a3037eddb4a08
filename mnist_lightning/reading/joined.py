"""Ink that hangs together, as one image -> whether it is one digit, two, or none of these.

Cut apart, two digits that touch may be others, each a good one: a 40 whose 0 is cut open is a 43.
So this network sees them whole. What it answers is no digit of its own: it is part of the judgement
which cuts are the right ones, and `scripts/joined.py` trains it.
"""

from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from mnist_lightning.reading.segments import JOINED_WIDTH, NUM_TEXTS
from mnist_lightning.sizes import SIDE

TRAINED = Path(__file__).parent / "joined.safetensors"


class Joined(nn.Sequential):
    """A CNN as `network.ConvNet`, for wider images and more classes.

    Takes float `(B, 1, 28, 52)` in [0, 1], returns logits `(B, 111)`: the digits 0 to 9, the pairs
    00 to 99, and what is neither.
    """

    def __init__(self) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["standardize"] = nn.LayerNorm((1, SIDE, JOINED_WIDTH), elementwise_affine=False)
        in_channels = 1
        for block, channels in enumerate((16, 32, 64), start=1):
            for half in "ab":
                layers[f"conv{block}{half}"] = nn.Conv2d(
                    in_channels, channels, 3, padding=1, bias=False
                )
                layers[f"norm{block}{half}"] = nn.BatchNorm2d(channels)
                if half == "b":
                    layers[f"pool{block}"] = nn.MaxPool2d(2)
                layers[f"relu{block}{half}"] = nn.ReLU()
                in_channels = channels
        layers["flatten"] = nn.Flatten()
        layers["drop1"] = nn.Dropout(0.2)
        layers["dense1"] = nn.Linear(64 * (SIDE // 8) * (JOINED_WIDTH // 8), 256, bias=False)
        layers["norm4"] = nn.BatchNorm1d(256)
        layers["relu4"] = nn.ReLU()
        layers["drop2"] = nn.Dropout(0.3)
        layers["dense2"] = nn.Linear(256, NUM_TEXTS)
        super().__init__(layers)


def load_joined() -> Joined:
    """Return the trained network that comes with the package, in eval mode, on the CPU."""
    with torch.device("meta"):
        network = Joined()
    network.load_state_dict(safetensors.torch.load_file(TRAINED), assign=True)
    return network.eval()
