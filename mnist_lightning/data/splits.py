"""Which training images are held out: at random, or all of some writers."""

import gzip
import zlib
from pathlib import Path

import numpy as np
from torch import Tensor

from mnist_lightning.data.parsers import read_idx
from mnist_lightning.errors import UserError

# Who wrote which training image, by facebookresearch/qmnist.
WRITERS = tuple(
    f"qmnist-train-labels{kind}" for kind in ("-idx2-int", "-idx2-int.gz", ".tsv", ".tsv.gz")
)


def held_out(root: Path, labels: Tensor, size: int, split: str, seed: int) -> np.ndarray:
    """Choose the training images that a run holds out for validation, see `MNISTDataModule`.

    Args:
        root: The data's folder.
        labels: int64 `(D,)`, of all training images.
        size: Number of images to hold out.
        split: `random` or `writers`.
        seed: Seed of the choice.

    Returns:
        int64 `(N,)`, sorted.

    Raises:
        OSError: If the list of writers can't be read.
        UserError: If there is none, or it is of other images.
    """
    if split == "writers":
        return writers_sample(read_writers(root, labels), size, seed)
    return stratified_sample(labels.numpy(), np.arange(len(labels)), size, seed)


def read_writers(root: Path, labels: Tensor) -> np.ndarray:
    """Read who wrote each of MNIST's training images, from QMNIST's list under `root`.

    The list is a file of facebookresearch/qmnist, as text or as torchvision's QMNIST keeps it.

    Args:
        root: The data's folder.
        labels: int64 `(D,)`, the images' digits, which the list must name too.

    Returns:
        int64 `(D, 2)`: the group (NIST's hsf_0, employees of the census, or hsf_4, students) and
        the writer of every image.

    Raises:
        OSError: If a file can't be read.
        UserError: If there is no such list, or it is of other images.
    """
    for path in (root / "QMNIST" / "raw" / name for name in WRITERS):
        if not path.is_file():
            continue
        contents = path.read_bytes()
        try:
            contents = gzip.decompress(contents) if path.suffix == ".gz" else contents
            if ".tsv" in path.suffixes:
                rows = np.array([line.split() for line in contents.splitlines()], np.int64)
            else:
                rows = read_idx(contents, path).numpy()
            if not np.array_equal(rows[:, 0], labels.numpy()):
                raise ValueError("other digits")
        except (EOFError, zlib.error, gzip.BadGzipFile, ValueError, IndexError) as error:
            raise UserError(f"{path} is damaged or lists the writers of other images") from error
        return rows[:, 1:3].astype(np.int64)
    raise UserError(
        f"data.split writers needs QMNIST's list of writers, as {root}/QMNIST/raw/{WRITERS[0]} or "
        f"{WRITERS[-1]}; where there is a network, this gets it: python -c 'from "
        f'torchvision.datasets import QMNIST; QMNIST("{root}", "train", download=True)\''
    )


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
