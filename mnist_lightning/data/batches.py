"""Batches by index: which images a step takes, in which order, with which warps."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

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
    labels, matrices)`: uint8 `(B, 28, 28)`, `B` rows of `labels`, float32 `(W * B, 2, 3)`, first
    the first of W warps of each image.

    Attributes:
        images: uint8 `(D, 28, 28)`.
        labels: int64 `(D,)`, or float32 probabilities `(D, 10)`, on the device of `images`.
        indices: int64 `(N,)`, the images to visit.
        batch_size: Most images in a step, over all ranks.
        pseudo_indices: int64 `(P,)`, images to fill a part of each step with, chosen at random.
        pseudo_size: How many of them a step takes, over all ranks.
        shuffle_seed: Seed of each epoch's order and warps; None keeps the order of `indices`.
        warp_ranges: Arguments of `affine_table`; None for no warps.
        num_warps: Number W of warps of each image.
        rank: Which share of each step this process takes.
        num_ranks: Number of processes.
        progress: Gives the epoch, and how many of its steps are done; asked when iterating starts.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray
    batch_size: int
    pseudo_indices: np.ndarray = field(default_factory=lambda: np.arange(0))
    pseudo_size: int = 0
    shuffle_seed: int | None = None
    warp_ranges: dict[str, float] | None = None
    num_warps: int = 1
    rank: int = 0
    num_ranks: int = 1
    progress: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self.indices) // (self.batch_size - self.pseudo_size))

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield this rank's share of each step that is left of the epoch."""
        epoch, steps_done = self.progress()
        device = self.images.device
        order, pseudo, table = self.indices, self.pseudo_indices, None
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, epoch, 0)).permutation(order)
            if self.warp_ranges:
                rng = np.random.default_rng((self.shuffle_seed, epoch, 1))
                tables = [
                    affine_table(len(self.images), rng, **self.warp_ranges)
                    for _ in range(self.num_warps)
                ]
                table = torch.stack(tables).to(device)
            if self.pseudo_size:  # none comes twice before all came once
                rng = np.random.default_rng((self.shuffle_seed, epoch, 2))
                size = len(self) * self.pseudo_size
                rounds = [rng.permutation(pseudo) for _ in range(-(-size // len(pseudo)))]
                pseudo = np.concatenate(rounds)[:size]
        columns = [torch.from_numpy(indices).to(device) for indices in (order, pseudo)]
        num_shares = len(self) * self.num_ranks
        for share in range(steps_done * self.num_ranks + self.rank, num_shares, self.num_ranks):
            parts = [
                column[len(column) * share // num_shares : len(column) * (share + 1) // num_shares]
                for column in columns
            ]
            visit = torch.cat(parts)
            batch = self.images[visit], self.labels[visit]
            yield batch if table is None else (*batch, table[:, visit].flatten(0, 1))

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: `progress` knows where a run resumes. Lightning asks for this method."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, likewise."""


def stratified_sample(labels: np.ndarray, indices: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose images at random so that each class keeps its share, to within one image.

    A smaller sample of the same seed is part of a larger one.

    Args:
        labels: int `(D,)`, the class of every image.
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
