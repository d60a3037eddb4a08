"""Batches by index: which images a step takes, in which order, with which warps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.data.augment import affine_table


@dataclass
class Batches:
    """Batches of images in memory, each one index operation, shared between processes.

    An epoch visits every image of `indices` once, in `ceil(N / batch_size)` steps of nearly equal
    size: no step is a small rest, and no rank has more steps than another.

    Iterating yields this rank's share of each step, `(images, labels)` or, with warps, `(images,
    labels, matrices)`: uint8 `(B, 28, 28)`, `B` rows of `labels`, float32 `(M * B, 2, 3)`, those of
    the first of M members first.

    Attributes:
        images: uint8 `(M, 28, 28)`.
        labels: int64 `(M,)`, or float32 probabilities `(M, 10)`, on the device of `images`.
        indices: int64 `(N,)`, the images to visit.
        batch_size: Most images in a step, over all ranks.
        extra_indices: int64 `(P,)`, images to fill a part of each step with, chosen at random.
        extra_size: How many of them a step takes, over all ranks.
        shuffle_seed: Seed of each epoch's order and warps; None keeps the order of `indices`.
        warp_ranges: Arguments of `affine_table`; None for no warps.
        members: Number M of warps for each image.
        rank: Which share of each step this process takes.
        num_ranks: Number of processes.
        progress: Gives the epoch, and how many of its steps are done; asked when iterating starts.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray
    batch_size: int
    extra_indices: np.ndarray = field(default_factory=lambda: np.arange(0))
    extra_size: int = 0
    shuffle_seed: int | None = None
    warp_ranges: dict[str, float] | None = None
    members: int = 1
    rank: int = 0
    num_ranks: int = 1
    progress: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self.indices) // (self.batch_size - self.extra_size))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield this rank's share of each step that is left of the epoch."""
        epoch, steps_done = self.progress()
        device = self.images.device
        order, extra, table = self.indices, self.extra_indices, None
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, epoch, 0)).permutation(order)
            if self.warp_ranges:
                rng = np.random.default_rng((self.shuffle_seed, epoch, 1))
                tables = [
                    affine_table(len(self.images), rng, **self.warp_ranges)
                    for _ in range(self.members)
                ]
                table = torch.stack(tables).to(device)
            if self.extra_size:  # none comes twice before all came once
                rng = np.random.default_rng((self.shuffle_seed, epoch, 2))
                size = len(self) * self.extra_size
                rounds = [rng.permutation(extra) for _ in range(-(-size // len(extra)))]
                extra = np.concatenate(rounds)[:size]
        visits, extra_visits = (
            torch.from_numpy(order).to(device),
            torch.from_numpy(extra).to(device),
        )
        num_shares = len(self) * self.num_ranks
        for share in range(steps_done * self.num_ranks + self.rank, num_shares, self.num_ranks):
            parts = [
                column[len(column) * share // num_shares : len(column) * (share + 1) // num_shares]
                for column in (visits, extra_visits)
            ]
            visit = torch.cat(parts)
            batch = self.images[visit], self.labels[visit]
            yield batch if table is None else (*batch, table[:, visit].flatten(0, 1))


def stratified_sample(labels: np.ndarray, indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose images at random so that each class keeps its share, to within one image.

    A smaller sample of the same seed is part of a larger one.

    Args:
        labels: int `(M,)`, the class of every image.
        indices: int `(N,)`, the images to choose from.
        size: Number of images to choose, 0 to N.
        seed: Seed of the choice.

    Returns:
        int64 `(size,)`, sorted.
    """
    shuffled = np.random.default_rng(seed).permutation(indices)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    classes = labels[by_class]
    counts = np.bincount(classes)
    starts = np.cumsum(counts) - counts
    # How far down its class each image stands, 0 to 1: all classes are used up at one pace.
    depth = (np.arange(len(classes)) - starts[classes] + 0.5) / counts[classes]
    return np.sort(by_class[np.argsort(depth, kind="stable")[:size]])
