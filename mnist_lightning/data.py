"""MNISTDataModule: archives -> torchvision's MNIST -> uint8 tensors -> batches by index."""

import gzip
import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from mnist_lightning.augment import affine_table, to_pixels, warp
from mnist_lightning.files import replace_file

ARCHIVES = Path(__file__).parent / "archives"


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or a dataset of its format, with random affine augmentation of the training images.

    The order of the images is a function of (seed, epoch) and the warp of an image one of (seed,
    epoch, image), so neither changes with the batch size, the number of processes or a restart. The
    seed is the one that `lightning.seed_everything` was called with.

    Args:
        root: Folder of the data, in torchvision's layout; MNIST is put there where it is missing.
        dataset: Which dataset. FashionMNIST and KMNIST are downloaded where `root` lacks them.
        batch_size: Training images a step, over all processes together.
        eval_batch_size: Images a step in validation, test and predict, over all processes together.
        val_size: Number of the 60,000 training images to hold out for validation; 0 for none.
        train_size: Number of the others to train on; all of them where it is not given.
        split_seed: Seed of the split, so that runs with different seeds share one split.
        rotation: Largest rotation of a training image, in degrees.
        shift: Largest shift, as a fraction of width and height.
        shear: Largest shear angle, in radians.
        zoom: Largest change of scale, for width and height separately.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        root: str = "data",
        dataset: Literal["MNIST", "FashionMNIST", "KMNIST"] = "MNIST",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        train_size: int | None = None,
        split_seed: int = 0,
        rotation: float = 8.0,
        shift: float = 0.08,
        shear: float = 0.3,
        zoom: float = 0.08,
    ) -> None:
        super().__init__()
        _check("batch_size", batch_size, batch_size >= 2, "2 or more (batch norm needs two images)")
        _check("eval_batch_size", eval_batch_size, eval_batch_size >= 1, "1 or more")
        _check("val_size", val_size, 0 <= val_size < 60_000, "in 0 to 59,999")
        left = 60_000 - val_size
        if train_size is not None:
            _check("train_size", train_size, 2 <= train_size <= left, f"in 2 to {left:,}")
        _check("split_seed", split_seed, split_seed >= 0, "0 or more")
        _check("rotation", rotation, 0 <= rotation <= 180, "in 0 to 180 degrees")
        _check("shift", shift, 0 <= shift <= 1, "in 0 to 1 (a fraction of the image)")
        _check("shear", shear, 0 <= shear <= 1.5, "in 0 to 1.5 radians")
        _check("zoom", zoom, 0 <= zoom < 1, "in 0 to 1, 1 excluded")
        self.save_hyperparameters()
        self.root = Path(root)
        self.dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.train_size = left if train_size is None else train_size
        self.split_seed = split_seed
        self.warp_ranges = {"rotation": rotation, "shift": shift, "shear": shear, "zoom": zoom}

    def prepare_data(self) -> None:
        """Put verified data files under `root`, from the shipped archives or the dataset's mirrors.

        A file that is missing or does not match its archive is written anew, under a temporary name
        first, so that processes that prepare one folder at once, or are killed, do no harm.

        Raises:
            OSError: If `root` can't be written, or a download failed.
        """
        from torchvision.datasets.utils import check_integrity

        dataset = _torchvision_class(self.dataset)
        folder = self.root / self.dataset / "raw"
        folder.mkdir(parents=True, exist_ok=True)
        for name, md5 in dataset.resources:
            archive = folder / name
            if not check_integrity(archive, md5):
                if self.dataset == "MNIST":
                    replace_file(archive, (ARCHIVES / name).read_bytes())
                else:
                    _download(dataset, folder, name, md5)
            contents = gzip.decompress(archive.read_bytes())
            raw = archive.with_suffix("")
            if not raw.is_file() or raw.read_bytes() != contents:
                replace_file(raw, contents)

    def setup(self, stage: str) -> None:
        """Read the training images for `fit` and `validate`, else the test images."""
        self.seed = torch.initial_seed()
        train = stage in ("fit", "validate")
        data = _torchvision_class(self.dataset)(self.root, train=train)
        # One copy on the device that trains, so that no batch waits for a transfer.
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        self.images, self.labels = data.data.to(device), data.targets.to(device)
        if train:
            labels = data.targets.numpy()
            rest = np.arange(len(labels))
            self.val_indices = stratified_sample(labels, rest, self.val_size, self.split_seed)
            rest = np.setdiff1d(rest, self.val_indices)
            self.train_indices = stratified_sample(labels, rest, self.train_size, self.split_seed)

    def train_dataloader(self) -> "Batches":
        """Return the training batches, shuffled and with their warps.

        Raises:
            ValueError: If a process would get less than two images in a step.
        """
        # An ensemble wants a warp of its own for each member.
        members = getattr(self.trainer.lightning_module, "members", 1) if self.trainer else 1
        return self._batches(
            self.train_indices,
            self.batch_size,
            shuffle_seed=self.seed,
            warp_ranges=self.warp_ranges if members > 1 or any(self.warp_ranges.values()) else None,
            members=members,
            progress=self._progress,
        )

    def val_dataloader(self) -> "Batches | list[Any]":
        """Return the held-out images in their order, or an empty list where there are none."""
        return self._batches(self.val_indices, self.eval_batch_size) if self.val_size else []

    def test_dataloader(self) -> "Batches":
        """Return all test images in their order."""
        return self._batches(np.arange(len(self.labels)), self.eval_batch_size)

    predict_dataloader = test_dataloader

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint keeps: the seed, without which a run can't be resumed."""
        return {"seed": self.seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with another seed in `fit`, which would mix two orders of the images.

        Raises:
            ValueError: If the seed is not the checkpoint's.
        """
        assert self.trainer is not None
        if self.trainer.state.fn == "fit" and state_dict["seed"] != self.seed:
            raise ValueError(
                f"the checkpoint's run has seed {state_dict['seed']}, this one {self.seed}: "
                f"resume it with --seed_everything {state_dict['seed']}"
            )

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a batch by index into pixels, float32 `(B, 1, 28, 28)` in [0, 1], and labels.

        In training an ensemble of M members gets `(M * B, 1, 28, 28)`, the first member's first.
        """
        if isinstance(batch, Tensor):
            return batch  # the example input, which Lightning sends this way too, is pixels already
        images, labels, *matrices = batch
        pixels = to_pixels(images)
        if not matrices:
            return pixels, labels
        copies = len(matrices[0]) // len(images)
        return warp(pixels.repeat(copies, 1, 1, 1), matrices[0]), labels.repeat(copies)

    def _batches(self, indices: np.ndarray, batch_size: int, **training: Any) -> "Batches":
        batches = Batches(self.images, self.labels, indices, batch_size, **training)
        if self.trainer:
            batches.rank, batches.num_ranks = self.trainer.global_rank, self.trainer.world_size
        least = 2 if training else 1  # batch norm needs two images
        if len(indices) // (len(batches) * batches.num_ranks) < least:
            raise ValueError(
                f"{len(indices):,} images in steps of {batch_size} on {batches.num_ranks} "
                f"process(es): one would get less than {least} in a step; choose larger steps"
            )
        return batches

    def _progress(self) -> tuple[int, int]:
        """Return the epoch, and its steps that are done: not 0 where a run resumes in its midst."""
        if not self.trainer:
            return 0, 0
        loop = self.trainer.fit_loop
        return self.trainer.current_epoch, loop.epoch_loop.batch_progress.current.ready


@dataclass
class Batches:
    """Batches of images in memory, each one index operation, shared between processes.

    An epoch visits every image of `indices` once, in `ceil(N / batch_size)` steps of nearly equal
    size: no step is a small rest, and no rank has more steps than another.

    Iterating yields this rank's share of each step, `(images, labels)` or, with warps, `(images,
    labels, matrices)`: uint8 `(B, 28, 28)`, int64 `(B,)`, float32 `(M * B, 2, 3)`, those of the
    first of M members first.

    Attributes:
        images: uint8 `(M, 28, 28)`.
        labels: int64 `(M,)`, on the device of `images`.
        indices: int64 `(N,)`, the images to visit.
        batch_size: Most images in a step, over all ranks.
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
    shuffle_seed: int | None = None
    warp_ranges: dict[str, float] | None = None
    members: int = 1
    rank: int = 0
    num_ranks: int = 1
    progress: Callable[[], tuple[int, int]] = lambda: (0, 0)

    def __len__(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        """Yield this rank's share of each step that is left of the epoch."""
        epoch, steps_done = self.progress()
        device = self.images.device
        order, table = self.indices, None
        if self.shuffle_seed is not None:
            order = np.random.default_rng((self.shuffle_seed, epoch, 0)).permutation(order)
            if self.warp_ranges:
                rng = np.random.default_rng((self.shuffle_seed, epoch, 1))
                tables = [
                    affine_table(len(self.images), rng, **self.warp_ranges)
                    for _ in range(self.members)
                ]
                table = torch.stack(tables).to(device)
        visits = torch.from_numpy(order).to(device)
        num_shares = len(self) * self.num_ranks
        for share in range(steps_done * self.num_ranks + self.rank, num_shares, self.num_ranks):
            start, end = (len(visits) * i // num_shares for i in (share, share + 1))
            visit = visits[start:end]
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


def _torchvision_class(name: str) -> Any:
    from torchvision import datasets  # imports all of torchvision, which --help need not wait for

    return getattr(datasets, name)


def _download(dataset: Any, folder: Path, name: str, md5: str) -> None:
    from torchvision.datasets.utils import download_url

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds; torchvision itself would wait for ever
    try:
        for mirror in dataset.mirrors:
            with tempfile.TemporaryDirectory(dir=folder, prefix=f".{name}.") as partial:
                try:
                    download_url(mirror + name, partial, name, md5)
                except (RuntimeError, URLError, ConnectionError, TimeoutError, HTTPException):
                    continue
                os.replace(Path(partial, name), folder / name)
                return
    finally:
        socket.setdefaulttimeout(timeout)
    names = ", ".join(name for name, _ in dataset.resources)
    raise OSError(
        f"{dataset.__name__} is not in {folder} and could not be downloaded; "
        f"put {names} there by hand, from {' or '.join(dataset.mirrors)}"
    )


def _check(name: str, value: float, holds: bool, range_: str) -> None:
    if not holds:
        raise ValueError(f"{name} {value} must be {range_}")
