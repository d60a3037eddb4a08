"""Batches by index: which images a step takes, in which order, and what is done to each."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.data.augment import Augmentation


@dataclass
class Batches:
    """Batches of images in memory, each one index operation, shared between processes.

    An epoch visits every image of `indices` once, in `ceil(N / batch_size)` steps of nearly equal
    size: no step is a small rest, and no rank has more steps than another.

    Iterating yields this rank's share of each step, `(images, labels)` or, with an augmentation,
    `(images, labels, rows)`: uint8 `(B, 28, 28)`, `B` rows of `labels`, and of the augmentation's
    table float32 `(W * B, K)`, first those of the first of W versions of each image. If it
    takes a second image for each, that comes too, uint8 `(B, 28, 28)`.

    Attributes:
        images: uint8 `(D, 28, 28)`.
        labels: int64 `(D,)`, or float32 probabilities `(D, 10)`, on the device of `images`.
        indices: int64 `(N,)`, the images to visit.
        batch_size: Most images in a step, over all ranks.
        pseudo_indices: int64 `(P,)`, images to fill a part of each step with, chosen at random.
        pseudo_size: How many of them a step takes, over all ranks.
        shuffle_seed: Seed of each epoch's order and changes; None keeps the order of `indices`.
        augmentation: What is done to the images; None for nothing.
        num_copies: Number W of versions of each image.
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
    augmentation: Augmentation | None = None
    num_copies: int = 1
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
        order, pseudo, table, partners = self.indices, self.pseudo_indices, None, None
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, epoch, 0)).permutation(order)
            if self.augmentation is not None:
                seed = self.shuffle_seed, epoch
                table = self.augmentation.table(len(self.images), self.num_copies, seed).to(device)
                if self.augmentation.pairs:
                    rng = np.random.default_rng((*seed, 4))
                    chosen = rng.choice(self.indices, len(self.images))
                    partners = torch.from_numpy(chosen).to(device)
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
            batch = [self.images[visit], self.labels[visit]]
            if table is not None:
                batch.append(table[:, visit].flatten(0, 1))
            if partners is not None:
                batch.append(self.images[partners[visit]])
            yield tuple(batch)

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


def writers_sample(writers: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Choose writers at random, of each group as large a share of the images, and return theirs.

    Args:
        writers: int `(D, 2)`, the group and the writer of every image.
        size: Number of images to choose, 0 to D; the last writer of each group may exceed it.
        seed: Seed of the choice.

    Returns:
        int64 `(N,)`, sorted; all images of some writers.
    """
    rng = np.random.default_rng(seed)
    chosen = []
    for group in np.unique(writers[:, 0]):
        names, counts = np.unique(writers[writers[:, 0] == group, 1], return_counts=True)
        order = rng.permutation(len(names))
        before = np.cumsum(counts[order]) - counts[order]
        quota = size * counts.sum() / len(writers)
        held_out = np.isin(writers[:, 1], names[order[before < quota]])
        chosen.append(np.flatnonzero(held_out & (writers[:, 0] == group)))
    return np.sort(np.concatenate(chosen))
