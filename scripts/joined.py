"""Train the network that tells one digit from two that touch, and write it into the package.

    python scripts/joined.py
    python scripts/joined.py --split writers --output logs/joined.safetensors

Images of ink that hangs together are made anew for each step, of MNIST's training digits: one, two
that touch or overlap, or what is neither, three digits or the package's shapes of none. It takes 22
minutes on one core of an AMD EPYC, in bfloat16. With `--split writers` the digits of a quarter of
the writers are held out, and the share of their images that is read right is printed.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
import writers
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from mnist_lightning.data import datasets
from mnist_lightning.data.augment import Augmentation, affine_table, warp
from mnist_lightning.data.drawing import to_convention
from mnist_lightning.data.neighbors import PLACE, join
from mnist_lightning.data.nondigits import NUM_NUMBERS, nondigits
from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file
from mnist_lightning.reading.joined import TRAINED, Joined
from mnist_lightning.reading.segments import JOINED_WIDTH, NUM_ANSWERS
from mnist_lightning.sizes import NUM_CLASSES, SIDE

BATCH = 128
ONE, MORE, NONE = 0.35, 0.05, 0.05  # shares of a step; the others are two digits
DIGIT = Augmentation(
    rotation=8, shift=0.08, shear=0.15, zoom=0.2, stroke=0.7, changed_share=0.4, upstroke_share=0.1
)
# One hand has written both.
TOGETHER: dict[str, float] = {"rotation": 8, "shift": 0.03, "shear": 0.2, "zoom": 0.06}


class Made(IterableDataset[tuple[Tensor, Tensor]]):
    """Steps of images and labels, which are made anew for each.

    Args:
        images: uint8 `(N, 28, 28)`.
        labels: int64 `(N,)`.
        num_steps: Number of steps.
        seed: Of all that is random.
    """

    def __init__(self, images: Tensor, labels: Tensor, num_steps: int, seed: int) -> None:
        self.images, self.labels, self.num_steps, self.seed = images, labels, num_steps, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield pixels, float32 `(128, 1, 28, 52)` in [0, 1], and labels, int64 `(128,)`."""
        for step in range(self.num_steps):
            yield self._step((self.seed, step))

    def _step(self, seed: tuple[int, int]) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng(seed)
        chosen = torch.from_numpy(rng.integers(len(self.images), size=(3, BATCH)))
        digits = self.labels[chosen]
        pixels = self.images[chosen.flatten()][:, None].float() / 255
        one, more, none = np.cumsum([round(share * BATCH) for share in (ONE, MORE, NONE)])
        shapes = slice(more, none)
        numbers = torch.from_numpy(rng.random((none - more, NUM_NUMBERS), np.float32))
        others = pixels[BATCH:][shapes]
        pixels[shapes] = nondigits(pixels[shapes], digits[0, shapes], others, numbers)
        rows = DIGIT.table(len(pixels), 1, (*seed, 0))[0]
        pixels, _ = DIGIT(pixels, digits.flatten(), rows, pixels)
        first, second, third = F.pad(pixels, [(PLACE - SIDE) // 2] * 4).chunk(3)
        gaps = torch.from_numpy(rng.integers(-3, 2, (2, BATCH))).float()
        two = torch.maximum(*join(first, second, gaps[0])[:2])
        three = torch.maximum(*join(two, third, gaps[1])[:2])
        wide = F.pad(two, (0, PLACE))
        wide[:none] = F.pad(first, (0, 2 * PLACE))[:none]
        wide[one:more] = three[one:more]
        answers = NUM_CLASSES * (digits[0] + 1) + digits[1]
        answers[:one], answers[one:none] = digits[0, :one], NUM_ANSWERS - 1
        matrices = affine_table(BATCH, rng, **TOGETHER)
        matrices[::2] = torch.eye(2, 3)  # which leaves half as sharp as they are
        return warp(to_convention(wide, JOINED_WIDTH), matrices), answers


class Training(pl.LightningModule):
    """What a step does, and what is measured on held-out writers' digits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Joined()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the mean cross-entropy."""
        pixels, answers = batch
        return F.cross_entropy(self.network(pixels).float(), answers)

    def validation_step(self, batch: tuple[Tensor, Tensor], _: int) -> None:
        """Log the shares of single digits and of pairs that are right."""
        pixels, answers = batch
        right = (self.network(pixels).argmax(dim=1) == answers).float()
        is_two = (answers >= NUM_CLASSES) & (answers < NUM_ANSWERS - 1)
        kinds = {"one": answers < NUM_CLASSES, "two": is_two, "neither": answers == NUM_ANSWERS - 1}
        for name, is_kind in kinds.items():
            self.log(name, right[is_kind].mean(), prog_bar=True, batch_size=int(is_kind.sum()))

    def configure_optimizers(self) -> Any:
        """Return AdamW with one cycle."""
        optimizer = torch.optim.AdamW(self.parameters(), weight_decay=0.01)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--split", choices=("none", "writers"), default="none", help="held out")
    parser.add_argument("--steps", type=int, default=12_000, help="of 128 images")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument(
        "--output", type=Path, help="the file with the weights, if not the package's"
    )
    options = parser.parse_args()
    if options.split == "writers" and options.output is None:
        parser.error("--split writers needs an --output: the package's network learns from all")
    if options.steps < 2:
        parser.error(f"--steps {options.steps}: must be 2 or more")
    output = options.output or TRAINED
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.is_dir():
        parser.error(f"--output {output} is a folder: name a file")
    root = Path("data")
    datasets.prepare(root, "MNIST")
    images, labels = datasets.read(root, "MNIST", train=True)
    # What other networks are shown, to see if their classes are these digits
    known = {"images": images[:16].clone(), "labels": labels[:16].clone()}
    validation = None
    if options.split == "writers":
        held_out = writers.held_out(labels)
        made = Made(images[held_out], labels[held_out], 40, options.seed)
        validation = DataLoader(made, batch_size=None)
        rest = np.setdiff1d(np.arange(len(labels)), held_out)
        images, labels = images[rest], labels[rest]
    pl.seed_everything(options.seed)
    made = Made(images, labels, options.steps, options.seed)
    training = Training()
    trainer = pl.Trainer(
        max_steps=options.steps,
        accelerator="cpu",
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        callbacks=[EMAWeightAveraging(decay=0.998)],
    )
    trainer.fit(training, DataLoader(made, batch_size=None))
    weights = training.network.state_dict() | known
    replace_file(output, safetensors.torch.save(weights))
    print(f"wrote {output}")
    if validation is not None:
        trainer.validate(training, validation)


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
