"""Which sets of images there are, where their files come from, and that they are whole."""

import gzip
import hashlib
import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from http.client import HTTPException
from itertools import count
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.error import URLError
from zipfile import ZipFile

import torch
from torch import Tensor

from mnist_lightning.data.parsers import read_idx, read_pair, read_turned_pair, read_usps, to_idx
from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file
from mnist_lightning.sizes import CLASSES, NUM_CLASSES, SIDE
from mnist_lightning.text import printable

Name = Literal[
    "MNIST",
    "FashionMNIST",
    "KMNIST",
    "QMNIST",
    "QMNIST-test10k",
    "QMNIST-test50k",
    "EMNIST-digits",
    "EMNIST-mnist",
    "USPS",
]

ARCHIVES = Path(__file__).parent / "archives"  # MNIST's own, with their license


class Archive(NamedTuple):
    """What is downloaded: a file's name, its MD5, and its addresses."""

    file: str
    md5: str
    urls: list[str]


def _mirrored(source: Any) -> list[Archive]:
    return [Archive(f, md5, [m + f for m in source.mirrors]) for f, md5 in source.resources]


def _from_gz(folder: Path, file: str) -> bytes:
    return gzip.decompress((folder / f"{file}.gz").read_bytes())


def _from_zip(folder: Path, file: str) -> bytes:
    with ZipFile(folder / "gzip.zip") as archive:
        return gzip.decompress(archive.read(f"gzip/{file}.gz"))


@dataclass(frozen=True)
class Set:
    """A set of images, in the files and folders that torchvision gives it.

    Attributes:
        source: torchvision's class.
        folder: Where its files lie below `root`.
        train: The files that `read` takes for the training images: images and labels, or one.
        test: Those for the test images.
        part: Which of the test images belong to this set: from one to before another.
        classes: The names of its classes.
        has_writers: Whether QMNIST's list names the writers of the training images.
        archives: torchvision's class -> what is downloaded.
        unpack: The folder and the name of one of the files -> what is in its archive; None if the
            files themselves are what is downloaded.
        read: Files -> images, uint8 `(N, H, W)`, and labels, int `(N,)`.
    """

    source: str
    folder: str
    train: tuple[str, ...] = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte")
    test: tuple[str, ...] = ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
    part: tuple[int, int | None] = (0, None)
    classes: tuple[str, ...] = CLASSES
    has_writers: bool = False
    archives: Callable[[Any], list[Archive]] = _mirrored
    unpack: Callable[[Path, str], bytes] | None = _from_gz
    read: Callable[..., tuple[Tensor, Tensor]] = read_pair


QMNIST = Set(
    "QMNIST",
    "QMNIST/raw",
    train=("qmnist-train-images-idx3-ubyte", "qmnist-train-labels-idx2-int"),
    test=("qmnist-test-images-idx3-ubyte", "qmnist-test-labels-idx2-int"),
    has_writers=True,
    archives=lambda source: [
        Archive(url.rpartition("/")[2], md5, [url])
        for part in ("train", "test")
        for url, md5 in source.resources[part]
    ],
)


def _emnist(split: str) -> Set:
    train, test = (
        (f"emnist-{split}-{part}-images-idx3-ubyte", f"emnist-{split}-{part}-labels-idx1-ubyte")
        for part in ("train", "test")
    )
    return Set(
        "EMNIST",
        "EMNIST/raw",
        train,
        test,
        archives=lambda source: [Archive("gzip.zip", source.md5, [source.url])],
        unpack=_from_zip,
        read=read_turned_pair,
    )


SETS: dict[str, Set] = {
    "MNIST": Set("MNIST", "MNIST/raw", has_writers=True),
    "FashionMNIST": Set(
        "FashionMNIST",
        "FashionMNIST/raw",
        classes=(
            *("T-shirt", "trouser", "pullover", "dress", "coat"),
            *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
        ),
    ),
    "KMNIST": Set(
        "KMNIST",
        "KMNIST/raw",
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),  # hiragana
    ),
    "QMNIST": QMNIST,
    "QMNIST-test10k": replace(QMNIST, part=(0, 10_000)),  # MNIST's test images, made anew
    "QMNIST-test50k": replace(QMNIST, part=(10_000, None)),  # those that MNIST left out
    "EMNIST-digits": _emnist("digits"),
    "EMNIST-mnist": _emnist("mnist"),
    "USPS": Set(
        "USPS",
        ".",
        train=("usps.bz2",),
        test=("usps.t.bz2",),
        archives=lambda source: [
            Archive(file, md5, [url]) for url, file, md5 in source.split_list.values()
        ],
        unpack=None,
        read=read_usps,
    ),
}


def prepare(root: Path, name: Name) -> None:
    """Put a set's verified files under `root`, from the shipped archives or from its mirrors.

    A file that is missing or damaged is written anew; what was damaged is kept beside it, as
    `FILE.damaged`. A file is whole at any moment, so processes that prepare one folder at once, or
    are killed, do no harm. If all files are there and whole, but not the set's own or of no known
    checksum, they are a user's own: they are left as they are, and a note says so.

    Args:
        root: The data's folder, in torchvision's layout.
        name: Which set.

    Raises:
        OSError: If `root` can't be written, or a download failed.
        UserError: If some of the files there are whole, but another set's. They are not replaced.
    """
    folder = root / SETS[name].folder
    folder.mkdir(parents=True, exist_ok=True)
    if name != "MNIST":
        wrong, whole, is_damaged = _wrong_archives(SETS[name], folder)
        if wrong and not is_damaged and _are_own(name, folder):
            return
        _refuse(whole, name)
        _download(wrong, folder)
    # All files are looked at before any is written.
    changes = list(_changes(name, folder))
    whole = [path for path, _, is_whole in changes if is_whole]
    if whole and _are_own(name, folder):
        return
    _refuse(whole, name)
    for path, right, _ in changes:
        _repair(path, right)


def read(root: Path, name: Name, train: bool) -> tuple[Tensor, Tensor]:
    """Read the training or the test images of a set that `prepare` has prepared.

    Returns:
        Images, uint8 `(N, 28, 28)`, 0 to 255, and labels, int64 `(N,)`, as many as there are.

    Raises:
        OSError: If a file is missing or can't be read.
        UserError: If a file is not a whole IDX file, or its images or labels are none for a network
            of these sizes.
    """
    set_ = SETS[name]
    paths = [root / set_.folder / file for file in (set_.train if train else set_.test)]
    images, labels = set_.read(*paths)
    _check(images, labels, paths[0], paths[-1])
    part = slice(None) if train else slice(*set_.part)
    return images[part], labels[part].long()


def save_set(
    root: str | Path, images: Any, labels: Any, test_images: Any, test_labels: Any
) -> None:
    """Write images of one's own where `MNISTDataModule(root)` reads MNIST.

    Args:
        root: The data's folder.
        images: To train on: array or tensor, `(N, 28, 28)`, or `(N, 784)` as tables have them, of
            integers, 0 for the paper to 255 for the ink.
        labels: Their classes, integers `(N,)`, from 0.
        test_images: Images to test by, likewise.
        test_labels: Their classes.

    Raises:
        OSError: If a file can't be written.
        UserError: If there are other files in the place, or these are no images and labels for a
            network of these sizes.
    """
    folder = Path(root) / SETS["MNIST"].folder
    files: dict[Path, bytes] = {}
    for names, *pair in (
        (SETS["MNIST"].train, images, labels),
        (SETS["MNIST"].test, test_images, test_labels),
    ):
        pixels, classes = map(_as_bytes, pair)
        if pixels.shape[1:] == (SIDE * SIDE,):
            pixels = pixels.reshape(-1, SIDE, SIDE)
        paths = [folder / name for name in names]
        _check(pixels, classes, *paths)
        files |= dict(zip(paths, (to_idx(pixels.numpy()), to_idx(classes.numpy())), strict=True))
    for path, right in files.items():
        archive = path.with_name(f"{path.name}.gz")
        if archive.exists() or (path.exists() and path.read_bytes() != right):
            raise UserError(f"{folder} holds other images: name another folder than {root}")
    folder.mkdir(parents=True, exist_ok=True)
    for path, right in files.items():
        replace_file(path, right)


def read_test_set() -> tuple[Tensor, Tensor]:
    """Read MNIST's 10,000 test images from the package itself; nothing is written.

    Returns:
        Images, uint8 `(10000, 28, 28)`, 0 to 255, and labels, int64 `(10000,)`.
    """
    images, labels = (read_idx(_from_gz(ARCHIVES, file), file) for file in SETS["MNIST"].test)
    return images, labels.long()


def _as_bytes(values: Any) -> Tensor:
    """Return integers as uint8, and what is none, or none of a byte, as it is."""
    tensor = torch.as_tensor(values).cpu()
    is_integer = not tensor.is_floating_point() and bool((tensor.byte() == tensor).all())
    return tensor.byte() if is_integer else tensor


def _check(images: Tensor, labels: Tensor, of_images: Path, of_labels: Path) -> None:
    """Refuse images and labels that no network of these sizes learns from."""
    if images.dtype != torch.uint8 or images.ndim != 3:
        what = f"{images.dtype} {tuple(images.shape)}"
        raise UserError(f"{of_images}: images are uint8 (N, {SIDE}, {SIDE}), and these {what}")
    if labels.shape != images.shape[:1] or not len(labels):
        raise UserError(
            f"{of_images} holds {len(images):,} images, {of_labels} {len(labels):,} labels"
        )
    if images.shape[1:] != (SIDE, SIDE):
        height, width = images.shape[1:]
        raise UserError(
            f"{of_images} holds images of {height}x{width} pixels and the network takes "
            f"{SIDE}x{SIDE}: scale them, or change SIDE in mnist_lightning/sizes.py"
        )
    lowest, highest = int(labels.min()), int(labels.max())
    if lowest < 0 or highest >= NUM_CLASSES:
        raise UserError(
            f"{of_labels} holds labels {lowest} to {highest} and the network tells {NUM_CLASSES} "
            "classes apart, from 0: name yours in CLASSES in mnist_lightning/sizes.py"
        )


def _changes(name: Name, folder: Path) -> Iterator[tuple[Path, bytes, bool]]:
    """Yield the files that are not what the set's archives say, and what they should hold.

    Yields:
        The file, its right contents, and whether it is whole, and so another set's. It is read once
        for all of this: another process may write it meanwhile.
    """
    set_ = SETS[name]
    if not set_.unpack:
        return
    for file in (*set_.train, *set_.test):
        path = folder / file
        right = set_.unpack(ARCHIVES if name == "MNIST" else folder, file)
        found = _unpack(_contents(path), path)
        if found != right:
            yield path, right, found is not None
        if name == "MNIST":
            path = folder / f"{file}.gz"
            packed, contents = (ARCHIVES / path.name).read_bytes(), _contents(path)
            found = right if contents == packed else _unpack(contents, path)
            if found != right:  # it may be packed in another way
                yield path, packed, found is not None


def _contents(path: Path) -> bytes:
    """Return what a file holds: nothing if there is none."""
    return path.read_bytes() if path.is_file() else b""


def _unpack(contents: bytes, path: Path) -> bytes | None:
    """Return what a whole IDX file holds, unpacked; None if it is none."""
    try:
        contents = gzip.decompress(contents) if path.suffix == ".gz" else contents
        read_idx(contents, path)
    # gzip says in three ways what is damaged
    except (gzip.BadGzipFile, EOFError, zlib.error, UserError):
        return None
    return contents


def _are_own(name: Name, folder: Path) -> bool:
    """Tell whether all files are whole, whoever made them; then unpack and note them."""
    own = {}
    for file in (*SETS[name].train, *SETS[name].test):
        paths = [path for path in (folder / file, folder / f"{file}.gz") if path.is_file()]
        first, *others = [_unpack(_contents(path), path) for path in paths] or [None]
        if first is None or others not in ([], [first]):  # a file may contradict its archive
            return False
        own[folder / file] = first
    for path, right in own.items():
        if not path.is_file():
            replace_file(path, right)
    line = f"note: the images in {folder} are not known to be {name}'s; they are used as they are"
    print(printable(line), file=sys.stderr)
    return True


def _refuse(whole: list[Path], name: Name) -> None:
    if whole:
        raise UserError(
            f"{whole[0]} is a whole file of images or labels, but not {name}'s: name another "
            "folder for the data, or move the file away, or put all files of your own there"
        )


def _repair(path: Path, right: bytes) -> None:
    """Write a file anew, and keep what is damaged beside it."""
    damaged = _contents(path)
    if damaged == right:  # another process was faster
        return
    for number in count(1) if damaged else ():
        kept = path.with_name(f"{path.name}.damaged{number if number > 1 else ''}")
        if not os.path.lexists(kept):
            replace_file(kept, damaged)
        if kept.is_file() and kept.read_bytes() == damaged:
            break
    replace_file(path, right)


def _wrong_archives(set_: Set, folder: Path) -> tuple[list[Archive], list[Path], bool]:
    """Return which archives are not of torchvision's checksum, and what is found in their place.

    Returns:
        The archives, the files of them that are whole, and so another set's, and whether any is
        damaged.
    """
    from torchvision import datasets  # takes seconds, which MNIST need not wait for
    from torchvision.datasets.utils import check_integrity

    wrong, whole, is_damaged = [], [], False
    for archive in set_.archives(getattr(datasets, set_.source)):
        path = folder / archive.file
        if check_integrity(path, archive.md5):
            continue
        found = _contents(path)  # another process may have written it by now
        if hashlib.md5(found, usedforsecurity=False).hexdigest() == archive.md5:
            continue
        wrong.append(archive)
        if _unpack(found, path) is not None:
            whole.append(path)
        elif path.is_file():
            is_damaged = True
    return wrong, whole, is_damaged


def _download(archives: list[Archive], folder: Path) -> None:
    """Download archives, and keep what is damaged beside them."""
    from torchvision.datasets.utils import download_url

    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(30)  # seconds; torchvision itself would wait for ever
    try:
        for number, (file, md5, urls) in enumerate(archives):
            for url in urls:
                with tempfile.TemporaryDirectory(dir=folder, prefix=f".{file}.") as partial:
                    try:
                        download_url(url, partial, file, md5)
                    except (RuntimeError, URLError, ConnectionError, TimeoutError, HTTPException):
                        continue
                    _repair(folder / file, Path(partial, file).read_bytes())
                    break
            else:
                missing = archives[number:]
                folders = (f"{url.rpartition('/')[0]}/" for each in missing for url in each.urls)
                raise OSError(
                    f"{', '.join(each.file for each in missing)}: missing or damaged in {folder}, "
                    f"and could not be downloaded; put them there by hand, from "
                    f"{' or '.join(dict.fromkeys(folders))}"
                )
    finally:
        socket.setdefaulttimeout(timeout)
