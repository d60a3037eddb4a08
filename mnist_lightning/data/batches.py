"""Batches by index: which images a step takes, in which order, and what is done to each."""

from collections.abc import Callable, Iterator, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mnist_lightning.data.augment import Augmentation
from mnist_lightning.data.focus import Focus


@dataclass
class Batches:
    """Batches of images in memory, each one index operation, shared between processes.

    An epoch visits every image of `indices` once, or those that `focus` chooses, in steps of nearly
    equal size: no step is a small rest, and no rank has more steps than another. Extra images may
    fill a share of each step.

    Iterating yields this rank's share of each step, `(images, labels)` or, with an augmentation,
    `(images, labels, rows)`: uint8 `(B, 28, 28)`, `B` rows of `labels`, and of the augmentation's
    table float32 `(W * B, K)`, first those of the first of W versions of each image. If it
    takes a second image for each, that comes too, uint8 `(B, 28, 28)`. With a `focus` the visited
    images come last, int64 `(V,)`, without the extra ones, which stand behind them.

    Attributes:
        images: uint8 `(D, 28, 28)`.
        labels: int64 `(D,)`, on the device of `images`.
        indices: int64 `(N,)`, the images to visit.
        batch_size: Most images in a step, over all ranks.
        extra: More images, uint8 `(P, 28, 28)`, and their labels, int64 `(P,)` or float32
            probabilities `(P, 10)`, likewise; they are chosen at random, and changed anew each time
            that one comes. Needs a `shuffle_seed`.
        extra_size: How many of them a step takes, over all ranks.
        shuffle_seed: Seed of each epoch's order and changes; None keeps the order of `indices`.
        augmentation: What is done to the images; None for nothing.
        num_copies: Number W of versions of each image.
        focus: Chooses what an epoch visits; None for every image. Needs a `shuffle_seed`.
        rank: Which share of each step this process takes.
        num_ranks: Number of processes.
        progress: Gives the epoch, and how many of its steps are done; asked when iterating starts.
    """

    images: Tensor
    labels: Tensor
    indices: np.ndarray
    batch_size: int
    extra: tuple[Tensor, Tensor] | None = None
    extra_size: int = 0
    shuffle_seed: int | None = None
    augmentation: Augmentation | None = None
    num_copies: int = 1
    focus: Focus | None = None
    rank: int = 0
    num_ranks: int = 1
    progress: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-self.num_visits // (self.batch_size - self.extra_size))

    @property
    def num_visits(self) -> int:
        """Number of images that an epoch visits, without extra ones."""
        return self.focus.size(len(self.indices)) if self.focus else len(self.indices)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield this rank's share of each step that is left of the epoch."""
        epoch, steps_done = self.progress()
        seed: tuple[int, ...] | None = None
        if self.shuffle_seed is not None:
            seed = self.shuffle_seed, epoch
        order, labels, extra = self.indices, self.labels, self.extra
        if seed:
            order = np.random.default_rng((*seed, 0)).permutation(order)
        if self.focus:
            order = self.focus.choose(order, starts=steps_done == 0)
        if extra and extra[1].ndim == 2:
            labels = F.one_hot(labels, extra[1].shape[1]).float()
        takes = [self._take(self.images, labels, order, order, len(self.images), seed)]
        if extra and self.extra_size:
            assert seed
            num, seed = len(self) * self.extra_size, (*seed, 2)
            rng = np.random.default_rng(seed)
            rounds = [rng.permutation(len(extra[0])) for _ in range(-(-num // len(extra[0])))]
            chosen = np.concatenate(rounds)[:num]  # none comes twice before all came once
            takes.append(self._take(*extra, chosen, np.arange(num), num, seed))
        num_shares = len(self) * self.num_ranks
        for share in range(steps_done * self.num_ranks + self.rank, num_shares, self.num_ranks):
            parts = [take(share, num_shares) for take in takes]
            batch = (
                parts[0] if len(parts) == 1 else [torch.cat(c) for c in zip(*parts, strict=True)]
            )
            if len(batch) > 2:
                batch[2] = batch[2].transpose(0, 1).flatten(0, 1)
            if self.focus:
                visits = torch.from_numpy(order[_here(order, share, num_shares)])
                batch.append(visits.to(self.images.device))
            yield tuple(batch)

    def _take(
        self,
        images: Tensor,
        labels: Tensor,
        order: np.ndarray,
        rows: np.ndarray,
        num_rows: int,
        seed: tuple[int, ...] | None,
    ) -> Callable[[int, int], list[Tensor]]:
        """Return what takes a share of an epoch's visits to images.

        Args:
            images: See `Batches`, like `labels`.
            labels: Likewise.
            order: int64 `(V,)`, the image of each visit.
            rows: int64 `(V,)`, which row of the table of changes is a visit's.
            num_rows: Number of the table's rows.
            seed: Of the table; None for no changes.

        Returns:
            A function of a share's number and of how many there are, which returns its images, its
            labels, its rows of the table, `(B, W, K)`, and other images; without changes, the first
            two.
        """
        device = self.images.device
        visits, row_of = (torch.from_numpy(indices).to(device) for indices in (order, rows))
        table, partners = None, None
        if seed and self.augmentation is not None:
            table = self.augmentation.table(num_rows, self.num_copies, seed).to(device)
            if self.augmentation.pairs:
                chosen = np.random.default_rng((*seed, 4)).choice(self.indices, num_rows)
                partners = torch.from_numpy(chosen).to(device)

        def take(share: int, num_shares: int) -> list[Tensor]:
            here = _here(visits, share, num_shares)
            visit, row = visits[here], row_of[here]
            part = [images[visit], labels[visit]]
            if table is not None:
                part.append(table[:, row].transpose(0, 1))
            if partners is not None:
                part.append(self.images[partners[row]])
            return part

        return take

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: `progress` knows where a run resumes. Lightning asks for this method."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Do nothing, likewise."""


def _here(visits: Sized, share: int, num_shares: int) -> slice:
    """Return where a share of all visits lies."""
    return slice(*(len(visits) * end // num_shares for end in (share, share + 1)))
