"""Ink that hangs together, as one image -> whether it is one digit, two, or none of these.

Cut apart, two digits that touch may be others, each a good one: a 40 whose 0 is cut open is a 43.
So this network sees them whole. What it answers is no digit of its own: it is part of the judgement
which cuts are the right ones, and `scripts/joined.py` trains it.

It knows MNIST's digits alone. Whether a network's classes are these is not written in its file, so
it is shown some of MNIST's images first, which are kept beside the weights here.
"""

from collections import OrderedDict
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from mnist_lightning.reading.segments import JOINED_WIDTH, NUM_ANSWERS

HEIGHT = 28  # pixels of an image
TRAINED = Path(__file__).parent / "joined.safetensors"


class Joined(nn.Sequential):
    """A CNN as `network.ConvNet`, for wider images and more classes.

    Takes float `(B, 1, 28, 52)` in [0, 1], returns logits `(B, 111)`: the digits 0 to 9, the pairs
    00 to 99, and what is neither.
    """

    def __init__(self) -> None:
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["standardize"] = nn.LayerNorm((1, HEIGHT, JOINED_WIDTH), elementwise_affine=False)
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
        layers["dense1"] = nn.Linear(64 * (HEIGHT // 8) * (JOINED_WIDTH // 8), 256, bias=False)
        layers["norm4"] = nn.BatchNorm1d(256)
        layers["relu4"] = nn.ReLU()
        layers["drop2"] = nn.Dropout(0.3)
        layers["dense2"] = nn.Linear(256, NUM_ANSWERS)
        super().__init__(layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `(B, 111)` for pixels `(B, 1, 28, 52)`, of any floating type."""
        return super().forward(pixels.float())


def load_joined() -> tuple[Joined, Tensor, Tensor]:
    """Load what comes with the package.

    Returns:
        The trained network, in eval mode, on the CPU; and MNIST's images to know a network of
        digits by, uint8 `(16, 28, 28)`, with their labels, `(16,)`.
    """
    weights = safetensors.torch.load_file(TRAINED)
    images, labels = weights.pop("images"), weights.pop("labels")
    with torch.device("meta"):
        network = Joined()
    network.load_state_dict(weights, assign=True)
    return network.eval(), images, labels
