"""A picture, and a network -> what it reads."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.reading.convention import to_mnist
from mnist_lightning.reading.picture import open_picture


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network reads in a picture.

    Args:
        digit: The most probable digit.
        probabilities: Of the digits 0 to 9; they sum to 1.
        image: What the network saw, uint8 `(28, 28)`, 0 to 255.
        is_digit: Whether the digit is probable enough that there is one at all: not less than the
            network's `no_digit_below`.
    """

    digit: int
    probabilities: tuple[float, ...]
    image: Tensor
    is_digit: bool = True

    def __str__(self) -> str:
        """Return the digit, or `?` if there is none."""
        return str(self.digit) if self.is_digit else "?"

    @property
    def probability(self) -> float:
        """The digit's probability."""
        return self.probabilities[self.digit]

    @property
    def second(self) -> int:
        """The second guess."""
        others = set(range(len(self.probabilities))) - {self.digit}
        return max(others, key=self.probabilities.__getitem__)

    @property
    def second_probability(self) -> float:
        """The second guess's probability."""
        return self.probabilities[self.second]

    def as_dict(self) -> dict[str, Any]:
        """Return all but the image, as JSON takes it."""
        return {
            "digit": self.digit,
            "probability": round(self.probability, 6),
            "second": self.second,
            "second_probability": round(self.second_probability, 6),
            "probabilities": [round(probability, 6) for probability in self.probabilities],
            "is_digit": self.is_digit,
        }


def read(source: str | Path | bytes | Image.Image, network: Callable[[Tensor], Tensor]) -> Reading:
    """Read the digit in a picture.

    Args:
        source: A picture file's path or contents, or a picture that Pillow has opened.
        network: Pixels, float `(B, 1, 28, 28)` in [0, 1], to logits `(B, 10)`, on the CPU; without
            a `no_digit_below` every image is a digit to it.

    Returns:
        What it reads.

    Raises:
        UserError: If it is not a picture, or too large, also for the memory, or there is no ink
            on it.
        OSError: If the file can't be read.
    """
    picture = source if isinstance(source, Image.Image) else open_picture(source)
    try:
        image = to_mnist(picture)
    except MemoryError as error:
        raise UserError(f"not enough memory for {picture.width}x{picture.height} pixels") from error
    return read_images(image[None], network)[0]


@torch.inference_mode()
def read_images(images: Tensor, network: Callable[[Tensor], Tensor]) -> list[Reading]:
    """Read images that keep MNIST's convention.

    Args:
        images: uint8 `(N, 28, 28)`, 0 to 255.
        network: See `read`.

    Returns:
        N readings.

    Raises:
        UserError: If the network's answer is not finite.
    """
    least = getattr(network, "no_digit_below", 0.0)
    readings = []
    for part in images.split(500):
        probabilities = network(part[:, None] / 255).softmax(dim=1)
        if not probabilities.isfinite().all():
            raise UserError("the network's answer is not a number: its weights are not good")
        for image, row in zip(part, probabilities, strict=True):
            is_digit = bool(row.max() >= least)
            readings.append(Reading(int(row.argmax()), tuple(row.tolist()), image, is_digit))
    return readings
