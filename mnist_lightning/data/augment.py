"""What training does to its images: random warps, changes of appearance, and what is no digit.

Each part is batched and takes its random numbers from a table that is drawn once an epoch, with a
row for each image of the dataset. So what happens to an image is a function of (seed, epoch,
image), whatever the batch, the rank and the step at which a run resumes.

The affine ranges mean what they meant to Keras's `ImageDataGenerator` in the article's time
(2.0.x), and are composed in its order: the warp maps a place of the output to the place of the
input to read, by `rotation @ shift @ shear @ zoom` about the image's center. Two things differ from
Keras: its center lay one pixel off (at 14.5 of 0 to 27; here 13.5), and what lies outside the image
is black here, where its default smeared the border's pixels outwards.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_lightning.data.drawing import NUM_UPSTROKE_NUMBERS, upstrokes
from mnist_lightning.data.neighbors import NUM_NUMBERS as NUM_NEIGHBOR_NUMBERS
from mnist_lightning.data.neighbors import neighbors
from mnist_lightning.data.nondigits import NUM_NUMBERS, nondigits
from mnist_lightning.errors import UserError
from mnist_lightning.sizes import NUM_CLASSES, SIDE

# Columns of a row after the six of its matrix: how strong each change is, 0 for none; then places
# and levels in [0, 1); then whether an image gets a neighbor, becomes no digit or, being a 1, gets
# an upstroke, and the random numbers that the first two share, as no image is both.
NOISE, BLUR, CONTRAST, STROKE, OUTLINE, COVER = range(6, 12)
GRAY, DOWN, RIGHT, ANGLE, LENGTH, OFFSET, NEIGHBOR, NO_DIGIT, UPSTROKE = range(12, 21)
LIGHT = slice(21, 25)
PEN = slice(25, 25 + NUM_UPSTROKE_NUMBERS)
NUMBERS = slice(PEN.stop, PEN.stop + max(NUM_NUMBERS, NUM_NEIGHBOR_NUMBERS))


@dataclass(frozen=True)
class Augmentation:
    """The random changes of training images; the defaults are the article's, all of them warps.

    Args:
        rotation: Largest rotation, in degrees.
        shift: Largest shift, as a fraction of the image's width and height, drawn for each.
        shear: Largest shear angle, in radians. (Keras has read it as degrees since 2.1.3.)
        zoom: Largest change of scale, drawn for width and height separately: 0.08 reads the input
            in steps of 0.92 to 1.08 pixels, and a longer step makes the digit smaller.
        noise: Largest standard deviation of Gaussian noise, of pixels in [0, 1].
        blur: Largest standard deviation of a Gaussian blur, in pixels.
        contrast: Largest loss of contrast: 0.7 leaves 0.3 of it at least, at any brightness, which
            may differ from corner to corner.
        stroke: Most that a stroke gets thicker or thinner at each of its sides, in pixels.
        outline: Largest share of the ink that is taken out of a stroke, of which a line around it
            is left.
        cover: Largest width of a bar of one gray that lies over the digit, in pixels: a line, a
            patch, a stripe, at any angle and of any length from its width to the image's.
        changed_share: Share of the images that each of these six changes is made to; so that
            several can meet in an image, and many images keep their looks.
        no_digit_share: Share of the images that are turned into what is no digit, and labeled with
            the same probability for each.
        neighbor_share: Share of the images that are joined with another digit and cut off again,
            well or badly; the less a piece is its digit, the more it is labeled like those.
        upstroke_share: Share of the ones that get an upstroke, and some of them a foot.

    Raises:
        UserError: If a value is out of its range.
    """

    rotation: float = 8.0
    shift: float = 0.08
    shear: float = 0.3
    zoom: float = 0.08
    noise: float = 0.0
    blur: float = 0.0
    contrast: float = 0.0
    stroke: float = 0.0
    outline: float = 0.0
    cover: float = 0.0
    changed_share: float = 0.25
    no_digit_share: float = 0.0
    neighbor_share: float = 0.0
    upstroke_share: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        ranges = {
            "rotation": (180, "degrees"),
            "shift": (1, "(a fraction of the image)"),
            "shear": (1.5, "radians"),
            "noise": (1, "(of pixels in 0 to 1)"),
            "blur": (14, "pixels"),
            "stroke": (1, "pixel"),
            "outline": (1, "(a share of the ink)"),
            "cover": (SIDE, "pixels"),
        }
        for name, (most, unit) in ranges.items():
            value = getattr(self, name)
            if not 0 <= value <= most:
                raise UserError(f"{name} {value} must be in 0 to {most} {unit}")
        shares = "changed_share", "no_digit_share", "neighbor_share", "upstroke_share"
        for name in ("zoom", "contrast", *shares):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise UserError(f"{name} {value} must be in 0 to 1, 1 excluded")
        if self.no_digit_share + self.neighbor_share > 1:
            raise UserError(
                f"no_digit_share {self.no_digit_share} and neighbor_share {self.neighbor_share} "
                "must be at most 1 together"
            )

    def __bool__(self) -> bool:
        """Tell whether any image is changed at all."""
        return self.warps or self.changes or self.pairs or self.upstroke_share > 0

    @property
    def pairs(self) -> bool:
        """Whether it takes a second image for each."""
        return self.no_digit_share > 0 or self.neighbor_share > 0

    @property
    def warps(self) -> bool:
        """Whether images are warped."""
        return any((self.rotation, self.shift, self.shear, self.zoom))

    @property
    def changes(self) -> bool:
        """Whether images change their looks."""
        return any(self._strengths()) and self.changed_share > 0

    def table(self, num_images: int, num_copies: int, seed: tuple[int, ...]) -> Tensor:
        """Draw what happens to each image of a dataset in an epoch.

        All is drawn even where a range is 0, so that switching one part off leaves the others as
        they were.

        Args:
            num_images: Number N of images.
            num_copies: Number W of different versions of each image.
            seed: The table is a pure function of it.

        Returns:
            float32 `(W, N, K)`, rows for `__call__`.
        """
        rng = np.random.default_rng((*seed, 1))
        warps = {name: getattr(self, name) for name in ("rotation", "shift", "shear", "zoom")}
        matrices = [affine_table(num_images, rng, **warps) for _ in range(num_copies)]
        table = torch.stack(matrices).flatten(2)
        if not (self.changes or self.pairs or self.upstroke_share):
            return table
        rng = np.random.default_rng((*seed, 3))
        shape = num_copies, num_images
        numbers = rng.random((*shape, NUMBERS.stop - NOISE), np.float32)
        ranges = np.array(self._strengths(), np.float32)
        chances = rng.random((*shape, len(ranges) + 2), np.float32)
        strengths = numbers[:, :, : len(ranges)]
        strengths[:, :, STROKE - NOISE] = 2 * strengths[:, :, STROKE - NOISE] - 1  # either way
        strengths *= ranges * (chances[:, :, : len(ranges)] < self.changed_share)
        chance = chances[:, :, -1]
        numbers[:, :, NO_DIGIT - NOISE] = chance < self.no_digit_share
        numbers[:, :, NEIGHBOR - NOISE] = 1 - chance < self.neighbor_share
        numbers[:, :, UPSTROKE - NOISE] = chances[:, :, -2] < self.upstroke_share
        return torch.cat([table, torch.from_numpy(numbers)], dim=2)

    def __call__(
        self, pixels: Tensor, labels: Tensor, rows: Tensor, others: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Change each image of a batch by its own row of a table.

        Args:
            pixels: float32 `(B, 1, 28, 28)` in [0, 1].
            labels: int64 `(B,)`, or float32 probabilities `(B, 10)`.
            rows: float32 `(B, K)`, of a table of this augmentation.
            others: Another image for each, like `pixels`: its neighbor, or a part of what is none.

        Returns:
            Like `pixels`, and like `labels`, or probabilities if an image may become no digit.
        """
        if self.upstroke_share or self.pairs:
            pixels = pixels.clone()
            digits = labels if labels.ndim == 1 else labels.argmax(dim=1)
        if self.upstroke_share:
            gets_one = (rows[:, UPSTROKE] > 0) & (digits == 1)
            pixels[gets_one] = upstrokes(pixels[gets_one], rows[gets_one, PEN])
        if self.pairs:
            is_none, has_neighbor = rows[:, NO_DIGIT] > 0, rows[:, NEIGHBOR] > 0
            pixels[is_none] = nondigits(
                pixels[is_none], digits[is_none], others[is_none], rows[is_none, NUMBERS]
            )
            share = 1 - is_none.float()  # of a digit that is left
            if has_neighbor.any():  # torch makes no grids of no images
                pixels[has_neighbor], share[has_neighbor] = neighbors(
                    pixels[has_neighbor],
                    digits[has_neighbor],
                    others[has_neighbor],
                    rows[has_neighbor, NUMBERS],
                )
            if labels.ndim == 1:
                labels = F.one_hot(labels, NUM_CLASSES).float()
            labels = torch.lerp(torch.full_like(labels, 1 / NUM_CLASSES), labels, share[:, None])
        if self.warps:
            pixels = warp(pixels, rows[:, :6].unflatten(1, (2, 3)))
        return (change_looks(pixels, rows) if self.changes else pixels), labels

    def preview(self, image: Tensor, label: int, other: Tensor, num: int = 29) -> Tensor:
        """Return examples of what training makes of an image, for a person to look at.

        Args:
            image: Pixels, float `(1, 28, 28)` in [0, 1].
            label: Its digit.
            other: Another image, likewise: its neighbor, or a part of what is none.
            num: Number N of examples; the same ones each time.

        Returns:
            Float `(N, 28, 28)`.
        """
        copies = image.expand(num, 1, -1, -1), other.expand(num, 1, -1, -1)
        rows = self.table(num, 1, (0,))[0]
        return self(copies[0], torch.full((num,), label), rows, copies[1])[0][:, 0]

    def _strengths(self) -> tuple[float, ...]:
        return self.noise, self.blur, self.contrast, self.stroke, self.outline, self.cover

    def settings(self) -> dict[str, float]:
        """Return the arguments by name."""
        return asdict(self)

    @classmethod
    def of(cls, settings: dict[str, Any]) -> "Augmentation":
        """Return the augmentation of a data module's saved settings."""
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})


def affine_table(
    num_images: int,
    rng: np.random.Generator,
    rotation: float,
    shift: float,
    shear: float,
    zoom: float,
) -> Tensor:
    """Draw one random affine matrix for each image of a dataset.

    Every parameter is uniform in ± its range, which `Augmentation` describes.

    Args:
        num_images: Number of matrices N.
        rng: Source of the random numbers; the table is a pure function of its state.
        rotation: In degrees.
        shift: A fraction of width and height.
        shear: In radians.
        zoom: A change of scale.

    Returns:
        float32 `(N, 2, 3)`, from the output's (x, y, 1) to the input's (x, y), both in [-1, 1] over
        the image, as `torch.nn.functional.affine_grid` takes them with `align_corners=False`.
    """
    angle, shift_x, shift_y, shear_angle, zoom_x, zoom_y = rng.uniform(-1, 1, (6, num_images))
    cos, sin = _cos_sin(np.deg2rad(rotation) * angle)
    cos_shear, sin_shear = _cos_sin(shear * shear_angle)
    scale_x, scale_y = 1 + zoom * zoom_x, 1 + zoom * zoom_y
    # The image spans 2 units, from -1 to 1, so a shift by its whole width is 2.
    shift_x, shift_y = 2 * shift * shift_x, 2 * shift * shift_y

    table = np.empty((num_images, 2, 3), dtype=np.float32)
    # Keras writes its matrices for (row, column). These are the same ones for (x, y):
    # rotation [[cos, sin], [-sin, cos]] and shear [[cos_shear, 0], [-sin_shear, 1]].
    table[:, 0, 0] = (cos * cos_shear - sin * sin_shear) * scale_x
    table[:, 0, 1] = sin * scale_y
    table[:, 0, 2] = cos * shift_x + sin * shift_y
    table[:, 1, 0] = (-sin * cos_shear - cos * sin_shear) * scale_x
    table[:, 1, 1] = cos * scale_y
    table[:, 1, 2] = -sin * shift_x + cos * shift_y
    return torch.from_numpy(table)


def warp(pixels: Tensor, matrices: Tensor) -> Tensor:
    """Warp each image of a batch by its own affine matrix, with bilinear interpolation.

    Args:
        pixels: float `(B, C, H, W)`.
        matrices: float32 `(B, 2, 3)`, rows of `affine_table`.

    Returns:
        Like `pixels`; places outside the input read as 0.
    """
    grid = F.affine_grid(matrices, list(pixels.shape), align_corners=False)
    return F.grid_sample(pixels, grid, padding_mode="zeros", align_corners=False)


def change_looks(pixels: Tensor, rows: Tensor) -> Tensor:
    """Change each image's strokes, cover a part, blur it, take contrast away and add noise.

    In this order, as it happens between a pen and a picture. What has the strength 0 changes no
    bit.

    Args:
        pixels: float32 `(B, 1, 28, 28)` in [0, 1].
        rows: float32 `(B, K)`, of an `Augmentation`'s table.

    Returns:
        Like `pixels`.
    """
    columns = rows[:, :, None, None, None].unbind(1)
    thicker, thinner = columns[STROKE].clamp(min=0), columns[STROKE].clamp(max=0)
    pixels = (
        pixels
        + thicker * (_spread(pixels, torch.maximum) - pixels)
        + thinner * (pixels - _spread(pixels, torch.minimum))
    )
    is_outlined = columns[OUTLINE] > 0
    around = _spread(pixels, torch.maximum) - columns[OUTLINE] * pixels
    pixels = torch.where(is_outlined, around, pixels)

    places = torch.arange(SIDE, device=pixels.device) + 0.5
    down, right = places[:, None] - SIDE * columns[DOWN], places - SIDE * columns[RIGHT]
    cos, sin = (math.pi * columns[ANGLE]).cos(), (math.pi * columns[ANGLE]).sin()
    width = columns[COVER]
    length = width + columns[LENGTH] * (SIDE - width)
    inside = torch.minimum(
        width / 2 - (cos * down - sin * right).abs(), length / 2 - (sin * down + cos * right).abs()
    )
    share = (inside + 0.5).clamp(0, 1) * (width > 0)  # of a pixel
    pixels = pixels + share * (columns[GRAY] - pixels)

    # A Gaussian's weights from each place to each other one: blurring is two matrix products.
    distance = torch.arange(SIDE, device=pixels.device)
    decay = (-0.5 * (distance / rows[:, BLUR, None].clamp(min=1e-3)).square()).exp()
    weights = decay[:, None, (distance[:, None] - distance).abs()]
    weights = weights / weights.sum(dim=-1, keepdim=True)
    pixels = weights @ pixels @ weights.mT

    loss = columns[CONTRAST]
    corners = rows[:, LIGHT].view(-1, 1, 2, 2)
    light = F.interpolate(corners, size=SIDE, mode="bilinear", align_corners=True)
    pixels = light * loss + (1 - loss) * pixels

    tape = _noise_tape(pixels.device).unfold(0, SIDE * SIDE, 1)
    noise = tape[(rows[:, OFFSET] * len(tape)).long()].view_as(pixels)
    return (pixels + columns[NOISE] * noise).clamp(0, 1)


def _spread(pixels: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Return the largest or smallest of each pixel and its eight neighbors."""
    for dim in (2, 3):
        shifted = pixels.clone()
        rest = pixels.shape[dim] - 1
        inner, outer = pixels.narrow(dim, 0, rest), pixels.narrow(dim, 1, rest)
        shifted.narrow(dim, 0, rest).copy_(extreme(inner, outer))
        shifted.narrow(dim, 1, rest).copy_(extreme(shifted.narrow(dim, 1, rest), inner))
        pixels = shifted
    return pixels


@cache
def _noise_tape(device: torch.device) -> Tensor:
    """Return a million normal numbers: each image's noise is read from a place of its own."""
    numbers = np.random.default_rng(0).standard_normal(2**20, dtype=np.float32)
    return torch.from_numpy(numbers).to(device)


def _cos_sin(angle: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle), np.sin(angle)
