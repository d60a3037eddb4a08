"""A picture, and a network -> what it reads."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, overload

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.reading.joined import load_joined
from mnist_lightning.reading.picture import Source, to_bytes
from mnist_lightning.reading.segments import Segment
from mnist_lightning.reading.workers import FEW, search
from mnist_lightning.sizes import CLASSES, SIDE

BATCH = 32  # images; more at once take longer each

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Reading:
    """What a network reads as one digit.

    Args:
        digit: The most probable digit.
        probabilities: Of the digits 0 to 9; they sum to 1.
        image: What the network saw, uint8 `(28, 28)`, 0 to 255.
        is_digit: Whether there is a digit at all: one that is not less probable than the network's
            `no_digit_below`. A sign as low as a minus, or a dot, is none to any network: all digits
            are equally probable.
        box: Where it is in the picture: left, top, right and bottom, in pixels.
    """

    digit: int
    probabilities: tuple[float, ...]
    image: Tensor
    is_digit: bool = True
    box: tuple[int, int, int, int] = (0, 0, SIDE, SIDE)

    def __str__(self) -> str:
        """Return the digit, or `?` if there is none."""
        return CLASSES[self.digit] if self.is_digit else "?"

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
            "box": list(self.box),
        }


@dataclass(frozen=True, eq=False)
class Page:
    """What a network reads in a picture.

    Args:
        text: The digits as text: a line for each line of writing, a space where a gap is wide, `?`
            for what is no digit.
        digits: Each of them, line by line and from left to right, one at least.
    """

    text: str
    digits: tuple[Reading, ...]

    @property
    def probability(self) -> float:
        """The probability of the least sure digit; of a `?` only if there is nothing else."""
        sure = [reading for reading in self.digits if reading.is_digit]
        return min(reading.probability for reading in sure or self.digits)

    def as_dict(self) -> dict[str, Any]:
        """Return all but the images, as JSON takes it."""
        return {"text": self.text, "digits": [reading.as_dict() for reading in self.digits]}


One = Source | Image.Image | np.ndarray | Tensor


@overload
def read(source: One, network: Network) -> Page: ...
@overload
def read(source: list[Any] | tuple[Any, ...], network: Network) -> list[Page]: ...
def read(source: One | list[Any] | tuple[Any, ...], network: Network) -> Page | list[Page]:
    """Read the digits in a picture: one, a number, or lines of numbers.

    Where digits that touch are cut apart is judged by a second network too, which comes with the
    package, if the classes of the given one are MNIST's digits.

    Args:
        source: A picture file's path or contents, of which the first page is read; a picture that
            Pillow has opened; or an array or tensor, `(H, W)` or `(H, W, 3)`, uint8 or float in
            [0, 1]. Or a list of these, which are read on all cores.
        network: Pixels, float `(B, 1, 28, 28)` in [0, 1], to logits `(B, 10)`, on the CPU; without
            a `no_digit_below` all but low signs and dots is a digit to it.

    Returns:
        What it reads; for a list a list.

    Raises:
        UserError: If it is not a picture, or too large, also for the memory, or there is no ink
            on it, or the network's answer is not finite. In a list the first such one is named.
        OSError: If the file can't be read.
    """
    if not isinstance(source, list | tuple):
        return _good(next(read_each([source], network))[1])
    pages = []
    for number, (one, found) in enumerate(zip(source, read_each(source, network), strict=True)):
        try:
            pages.append(_good(found[1]))
        except UserError as error:
            name = one if isinstance(one, str | os.PathLike) else f"picture {number} of the list"
            raise UserError(f"{name}: {error}") from error
    return pages


def read_each(
    sources: Sequence[One], network: Network, all_pages: bool = False
) -> Iterator[dict[int, Page | Exception]]:
    """Read pictures one after the other, many of them on all cores.

    Args:
        sources: See `read`.
        network: See `read`.
        all_pages: Whether they are files of which each page is read.

    Yields:
        For each source what is read, or the error that it can't be read for, by page, from 1; what
        keeps a file from being opened is page 0.
    """
    arrays = map(_to_array, sources)
    every = search(arrays, len(sources), _Networks(network), all_pages)
    with _one_thread() if len(sources) > FEW else nullcontext():
        for pages in every:
            yield {
                number: found if isinstance(found, Exception) else _page(found, network)
                for number, found in pages.items()
            }


@contextmanager
def _one_thread() -> Iterator[None]:
    """Leave the cores to others: threads of torch's that wait for one take many times as long."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _good(page: Page | Exception) -> Page:
    if isinstance(page, MemoryError):
        raise UserError("not enough memory for the picture") from page
    if isinstance(page, Exception):
        raise page
    return page


def _page(lines: list[list[Segment]], network: Network) -> Page:
    digits, text = [], ""
    for line in lines:
        for segment in line:
            reading = _reading(segment.image, segment.probabilities, network, segment.box)
            digits.append(replace(reading, is_digit=False) if segment.is_low_or_dot else reading)
            text += f" {digits[-1]}" if segment.after_gap else str(digits[-1])
        text += "\n"
    return Page(text[:-1], tuple(digits))


def read_images(images: Tensor | np.ndarray, network: Network) -> list[Reading]:
    """Read images that keep MNIST's convention.

    Args:
        images: `(N, 28, 28)`, uint8 or float in [0, 1], on any device.
        network: See `read`.

    Returns:
        N readings.

    Raises:
        UserError: If the images are anything else, or the network's answer is not finite.
    """
    array = _to_array(images)
    if not isinstance(array, np.ndarray) or array.shape[1:] != (SIDE, SIDE):
        what = array.shape if isinstance(array, np.ndarray) else f"a {type(images).__name__}"
        raise UserError(
            f"read_images takes a stack of MNIST's images, an array or tensor (N, {SIDE}, {SIDE}), "
            f"uint8 or float in [0, 1]; this is {what}; read takes a picture of any size"
        )
    array = np.array(to_bytes(array))  # the readings' own
    answers = zip(array, _classify(network, array), strict=True)
    return [_reading(image, probabilities, network) for image, probabilities in answers]


def _to_array(source: Any) -> Any:
    """Return a tensor's values as NumPy's, and anything else as it is."""
    if not isinstance(source, Tensor):
        return source
    if source.is_floating_point():
        source = source.float()  # NumPy has no bfloat16
    try:
        return source.detach().cpu().numpy()
    except (TypeError, RuntimeError) as error:  # a sparse one, or one without values
        raise UserError(f"a tensor that NumPy can't hold: {error}") from error


class _Networks:
    """A network, and for wider images that of joined digits if its classes are the same."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities for images, `(N, 0)` for wider ones that nobody knows."""
        if images.shape[2] == SIDE:
            return _classify(self.network, images)
        if not self.reads_digits:
            return np.empty((len(images), 0), np.float32)
        return _classify(_joined()[0], images)

    @cached_property
    def reads_digits(self) -> bool:
        """Whether the classes are MNIST's digits: most of its images are read right."""
        _, images, labels = _joined()
        if images.shape[1] != SIDE:
            return False
        answers = _classify(self.network, images.numpy()).argmax(axis=1)
        return bool((answers == labels.numpy()).mean() > 0.7)


_joined = cache(load_joined)


@torch.inference_mode()
def _classify(network: Network, images: np.ndarray) -> np.ndarray:
    """Return the probabilities, float32 `(N, K)`, for images, uint8 `(N, 28, W)`."""
    # Of few sizes, since torch keeps memory for each size that it has seen
    sizes = [BATCH] * (len(images) // BATCH)
    sizes += [size for size in (16, 8, 4, 2, 1) if len(images) % BATCH & size]
    parts = torch.from_numpy(images).split(sizes or [0])
    parts = [network(part[:, None] / 255).softmax(dim=1) for part in parts]
    probabilities = torch.cat(parts)
    if not probabilities.isfinite().all():
        raise UserError("the network's answer is not a number: its weights are not good")
    return probabilities.numpy()


def _reading(image: np.ndarray, probabilities: np.ndarray, network: Network, *box: Any) -> Reading:
    is_digit = bool(probabilities.max() >= getattr(network, "no_digit_below", 0.0))
    digit, row = int(probabilities.argmax()), tuple(probabilities.tolist())
    return Reading(digit, row, torch.from_numpy(image), is_digit, *box)
