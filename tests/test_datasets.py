"""The files that images come from: what is prepared, what is repaired, what is never replaced."""

import gzip
import hashlib
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from mnist_lightning.data.datasets import ARCHIVES, WRITERS, prepare, read, read_writers
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError

UNPACKED_MD5 = {
    "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
    "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
    "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
    "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
}


def assert_whole(root: str | Path) -> None:
    folder = Path(root) / "MNIST" / "raw"
    names = [*UNPACKED_MD5, *(f"{name}.gz" for name in UNPACKED_MD5)]
    assert sorted(os.listdir(folder)) == sorted(names)  # and no temporary file
    for name, md5 in UNPACKED_MD5.items():
        assert hashlib.md5((folder / name).read_bytes()).hexdigest() == md5


def test_shipped_archives_are_the_canonical_ones() -> None:
    for name, md5 in datasets.MNIST.resources:
        assert hashlib.md5((ARCHIVES / name).read_bytes()).hexdigest() == md5


def test_prepare_data_fills_an_empty_folder_without_a_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.MNIST, "mirrors", [])
    MNISTDataModule(str(tmp_path)).prepare_data()
    assert_whole(tmp_path)
    torchvisions = datasets.MNIST(tmp_path, train=False)
    assert len(torchvisions) == 10_000


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def raw(root: str, tmp_path: Path) -> Path:
    """Return the folder of a whole MNIST below tmp_path."""
    shutil.copytree(root, tmp_path, dirs_exist_ok=True)
    return tmp_path / "MNIST" / "raw"


def flip_a_bit(contents: bytes) -> bytes:
    return contents[:1000] + bytes([contents[1000] ^ 1]) + contents[1001:]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("train-labels-idx1-ubyte", None),
        ("t10k-images-idx3-ubyte.gz", None),
        ("train-labels-idx1-ubyte", lambda whole: b""),
        ("train-labels-idx1-ubyte", lambda whole: whole[: len(whole) // 2]),
        ("t10k-images-idx3-ubyte.gz", lambda whole: whole[: len(whole) // 2]),
        ("t10k-images-idx3-ubyte.gz", flip_a_bit),
        ("t10k-images-idx3-ubyte.gz", lambda whole: b"<html>404 Not Found</html>"),
        ("t10k-images-idx3-ubyte.gz", lambda whole: gzip.compress(b"<html>404 Not Found</html>")),
    ],
)
def test_a_damaged_file_is_repaired_and_kept(raw: Path, name: str, damage) -> None:  # type: ignore[no-untyped-def]
    kept, damaged = raw / f"{name}.damaged", damage and damage((raw / name).read_bytes())
    (raw / name).unlink()
    if damaged is not None:
        (raw / name).write_bytes(damaged)
    prepare(raw.parents[1], "MNIST")
    if damaged:
        assert kept.read_bytes() == damaged
        kept.unlink()
    assert_whole(raw.parents[1])


def test_what_was_kept_before_is_not_replaced(raw: Path) -> None:
    name = "t10k-labels-idx1-ubyte"
    (raw / f"{name}.damaged").write_text("mine")
    for damaged in (b"one", b"one", b"two"):
        (raw / name).write_bytes(damaged)
        prepare(raw.parents[1], "MNIST")
    kept = [(raw / f"{name}.damaged{number}").read_text() for number in ("", 2, 3)]
    assert kept == ["mine", "one", "two"] and not (raw / f"{name}.damaged4").exists()


OWN = b"\0\0\x08\x01" + (3).to_bytes(4, "big") + bytes(3)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("t10k-labels-idx1-ubyte.gz", lambda whole: gzip.compress(OWN)),
        ("t10k-labels-idx1-ubyte", lambda whole: OWN),
        ("t10k-labels-idx1-ubyte", flip_a_bit),
    ],
)
def test_a_whole_file_of_another_set_is_refused_before_anything_is_written(
    raw: Path, name: str, change: Callable[[bytes], bytes]
) -> None:
    (raw / name).write_bytes(change((raw / name).read_bytes()))
    (raw / "train-images-idx3-ubyte").unlink()  # which comes first
    before = snapshot(raw)
    with pytest.raises(UserError, match=f"{name} is a whole .* not MNIST's: name another folder"):
        prepare(raw.parents[1], "MNIST")
    assert snapshot(raw) == before


def test_an_archive_that_was_packed_anew_is_left_alone(raw: Path) -> None:
    name = "t10k-labels-idx1-ubyte"
    (raw / f"{name}.gz").write_bytes(gzip.compress((raw / name).read_bytes()))
    before = snapshot(raw)
    prepare(raw.parents[1], "MNIST")
    assert snapshot(raw) == before


def test_a_file_that_is_not_whole_is_named(raw: Path) -> None:
    labels = raw / "t10k-labels-idx1-ubyte"
    labels.write_bytes(OWN + b"\0")
    with pytest.raises(UserError, match=rf"{labels} states \[3\] values and holds 4"):
        read(raw.parents[1], "MNIST", train=False)
    labels.write_bytes(b"")
    with pytest.raises(UserError, match=f"{labels} is not an IDX file of bytes"):
        read(raw.parents[1], "MNIST", train=False)


@pytest.mark.parametrize("name", WRITERS)
def test_the_list_of_writers_is_read_as_text_and_as_torchvision_keeps_it(
    tmp_path: Path, name: str
) -> None:
    rows = np.array([[5, 4, 2154, 59], [0, 0, 30, 1]], ">i4")
    as_text = "".join("\t".join(map(str, row)) + "\n" for row in rows.tolist()).encode()
    as_idx = b"\0\0\x0c\2" + np.array([2, 4], ">i4").tobytes() + rows.tobytes()
    contents = as_text if ".tsv" in name else as_idx
    path = tmp_path / "QMNIST" / "raw" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(gzip.compress(contents) if name.endswith(".gz") else contents)
    writers = read_writers(tmp_path, torch.tensor([5, 0]))
    assert writers.tolist() == [[4, 2154], [0, 30]]
    for damaged in (b"", contents[:-3], b"<html>"):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="damaged or lists the writers of other images"):
            read_writers(tmp_path, torch.tensor([5, 0]))


def test_whole_files_are_left_alone(root: str) -> None:
    folder = Path(root) / "MNIST" / "raw"
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    MNISTDataModule(root).prepare_data()
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    assert {stat.S_IMODE(file.stat().st_mode) for file in before} == {0o644}


def test_offline_another_dataset_names_its_files_folder_and_addresses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.KMNIST, "mirrors", ["http://127.0.0.1:9/kmnist/"])
    with pytest.raises(OSError) as caught:
        MNISTDataModule(str(tmp_path), dataset="KMNIST").prepare_data()
    message = str(caught.value)
    assert "\n" not in message
    for words in ("train-images-idx3-ubyte.gz", f"{tmp_path}/KMNIST/raw", "http://127.0.0.1:9"):
        assert words in message


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with four archives of gray images."""
    folder = tmp_path_factory.mktemp("mirror")
    for name, n in (("train", 60_000), ("t10k", 10_000)):
        images = (
            b"\0\0\x08\x03" + n.to_bytes(4, "big") + 2 * (28).to_bytes(4, "big") + bytes(n * 784)
        )
        labels = b"\0\0\x08\x01" + n.to_bytes(4, "big") + bytes(i % 10 for i in range(n))
        for kind, contents in (("images-idx3", images), ("labels-idx1", labels)):
            archive = gzip.compress(contents, compresslevel=1)
            (folder / f"{name}-{kind}-ubyte.gz").write_bytes(archive)
    return folder


@pytest.fixture
def fashion(mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder for a FashionMNIST that the mirror stands in for."""
    resources = [(p.name, hashlib.md5(p.read_bytes()).hexdigest()) for p in mirror.iterdir()]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", ["mirror/"])

    def download_url(url: str, folder: str, file: str, md5: str) -> None:
        assert url == f"mirror/{file}" and md5 == dict(resources)[file]
        assert socket.getdefaulttimeout()  # a mirror that never answers is given up
        shutil.copy(mirror / file, folder)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    folder = tmp_path / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    return folder


def test_another_dataset_is_read_from_the_root(
    mirror: Path, fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(mirror, fashion, dirs_exist_ok=True)
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    data = MNISTDataModule(str(tmp_path), dataset="FashionMNIST")
    data.prepare_data()
    data.setup("fit")
    assert len(data.train_indices) == 55_000


def test_another_dataset_is_downloaded_and_what_was_damaged_kept(
    mirror: Path, fashion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = fashion / "t10k-images-idx3-ubyte.gz"
    damaged.write_text("<html>404 Not Found</html>")
    prepare(tmp_path, "FashionMNIST")
    for archive in mirror.iterdir():
        assert (fashion / archive.name).read_bytes() == archive.read_bytes()
    assert Path(f"{damaged}.damaged").read_text() == "<html>404 Not Found</html>"
    assert socket.getdefaulttimeout() is None
    assert len(os.listdir(fashion)) == 9  # four archives, unpacked, and what was damaged

    damaged.write_bytes(b"")
    monkeypatch.setattr(datasets.FashionMNIST, "mirrors", [])
    with pytest.raises(OSError, match="^t10k-images-idx3-ubyte.gz: missing or damaged in"):
        prepare(tmp_path, "FashionMNIST")


def test_another_datasets_whole_files_are_not_replaced(fashion: Path, tmp_path: Path) -> None:
    (fashion / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(OWN))
    before = snapshot(fashion)
    with pytest.raises(UserError, match="t10k-labels-idx1-ubyte.gz is a whole .* not FashionMNIST"):
        prepare(tmp_path, "FashionMNIST")
    assert snapshot(fashion) == before  # and nothing was downloaded
