"""The files that images come from: what is prepared, what is repaired, what is never replaced."""

import bz2
import gzip
import hashlib
import os
import shutil
import socket
import stat
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import call
from torchvision import datasets

from mnist_lightning.data.datasets import (
    ARCHIVES,
    SETS,
    Name,
    prepare,
    read,
    save_set,
)
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.splits import WRITERS, read_writers
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


@pytest.mark.parametrize("others", [1, 4])
def test_what_another_process_writes_meanwhile_is_no_strange_set(
    root: str,
    tmp_path: Path,
    others: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    unpack, last = SETS["MNIST"].unpack, list(UNPACKED_MD5)[-1]
    assert unpack

    def wait(folder: Path, file: str) -> bytes:
        if file == last:  # the other files are found to be missing; now the other process goes on
            for name in list(UNPACKED_MD5)[:others]:
                for path in (f"{name}.gz", name):
                    shutil.copy(Path(root, "MNIST/raw", path), tmp_path / "MNIST/raw")
        return unpack(folder, file)

    monkeypatch.setitem(SETS, "MNIST", replace(SETS["MNIST"], unpack=wait))
    prepare(tmp_path, "MNIST")
    assert_whole(tmp_path)
    assert capsys.readouterr().err == ""


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


# -- QMNIST, EMNIST and USPS, as small files of their forms; the real ones were never here


def idx(values: np.ndarray) -> bytes:
    kind = {1: b"\0\0\x08", 4: b"\0\0\x0c"}[values.itemsize] + bytes([values.ndim])
    big_endian = values.astype(values.dtype.newbyteorder(">"))
    return kind + np.array(values.shape, ">i4").tobytes() + big_endian.tobytes()


def some(num: int, side: int = 28, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    """Return images of noise, and labels."""
    rng = np.random.default_rng(num)
    images = rng.integers(0, 256, (num, side, side), np.uint8)
    return images, (np.arange(num) % classes).astype(np.uint8)


@pytest.fixture
def mirrors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder of small archives in place of what torchvision knows, and serve them."""
    folder = tmp_path / "mirrors"
    folder.mkdir()

    def put(file: str, contents: bytes) -> tuple[str, str]:
        (folder / file).write_bytes(contents)
        return file, hashlib.md5(contents).hexdigest()

    resources = {}
    for part, num in (("train", 70), ("test", 10_003)):
        images, labels = some(num)
        rows = np.zeros((num, 8), np.int32)
        rows[:, 0], rows[:, 1], rows[:, 2] = labels, 4 * (np.arange(num) % 2), np.arange(num) // 10
        resources[part] = [
            put(f"qmnist-{part}-{kind}.gz", gzip.compress(idx(values), 1))
            for kind, values in (("images-idx3-ubyte", images), ("labels-idx2-int", rows))
        ]
    urls = {part: [(f"there/{file}", md5) for file, md5 in r] for part, r in resources.items()}
    monkeypatch.setattr(datasets.QMNIST, "resources", urls)

    with zipfile.ZipFile(folder / "gzip.zip", "w") as archive:
        for split in ("digits", "mnist"):
            for part, num in (("train", 80), ("test", 30)):
                for kind, values in zip(("images-idx3", "labels-idx1"), some(num), strict=True):
                    name = f"gzip/emnist-{split}-{part}-{kind}-ubyte.gz"
                    archive.writestr(name, gzip.compress(idx(values)))
    put("gzip.zip", (folder / "gzip.zip").read_bytes())
    monkeypatch.setattr(datasets.EMNIST, "url", "there/gzip.zip")
    md5 = hashlib.md5((folder / "gzip.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(datasets.EMNIST, "md5", md5)

    split_list = {}
    for part, file, num in (("train", "usps.bz2", 20), ("test", "usps.t.bz2", 10)):
        image = np.full((16, 16), -1.0)
        image[:, 6:9] = 1  # a stem
        values = " ".join(f"{i}:{value:g}" for i, value in enumerate(image.flat, start=1))
        lines = "".join(f"{i % 10 + 1} {values} \n" for i in range(num))
        split_list[part] = [f"there/{file}", *put(file, bz2.compress(lines.encode()))]
    monkeypatch.setattr(datasets.USPS, "split_list", split_list)

    def download_url(url: str, root: str, file: str, md5: str) -> None:
        assert url == f"there/{file}"
        if not (folder / file).is_file():
            raise RuntimeError("no network")
        shutil.copy(folder / file, root)

    monkeypatch.setattr("torchvision.datasets.utils.download_url", download_url)
    return folder


def prepared(root: Path, name: Name, train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    prepare(root, name)
    images, labels = read(root, name, train)
    assert images.dtype == torch.uint8 and labels.dtype == torch.int64
    assert images.shape == (len(labels), 28, 28)
    return images, labels


def test_qmnists_test_images_are_those_of_mnist_and_those_that_it_left_out(
    mirrors: Path, tmp_path: Path
) -> None:
    images, labels = prepared(tmp_path, "QMNIST", False)
    torchvisions = datasets.QMNIST(tmp_path, "test")
    assert torch.equal(images, torchvisions.data)
    assert torch.equal(labels, torchvisions.targets[:, 0])
    for name, part in (
        ("QMNIST-test10k", slice(10_000)),
        ("QMNIST-test50k", slice(10_000, None)),
    ):
        for whole, found in zip((images, labels), prepared(tmp_path, name, False), strict=True):  # type: ignore[arg-type]
            assert torch.equal(found, whole[part])
        assert len(read(tmp_path, name, True)[1]) == 70  # type: ignore[arg-type]


def test_qmnist_knows_its_writers(mirrors: Path, tmp_path: Path) -> None:
    data = MNISTDataModule(str(tmp_path), dataset="QMNIST", split="writers", val_size=20)
    data.prepare_data()
    data.setup("fit")
    writers = np.arange(70) // 10
    assert len(data.train_indices) and len(data.val_indices) >= 20
    for group in (0, 1):
        of_group = [
            indices[indices % 2 == group] for indices in (data.train_indices, data.val_indices)
        ]
        assert not np.intersect1d(*(writers[indices] for indices in of_group)).size


@pytest.mark.parametrize("split", ["digits", "mnist"])
def test_emnist_is_upright(mirrors: Path, tmp_path: Path, split: str) -> None:
    name: Name = f"EMNIST-{split}"  # type: ignore[assignment]
    for train in (True, False):
        images, labels = prepared(tmp_path, name, train)
        torchvisions = datasets.EMNIST(tmp_path, split, train=train)
        assert torch.equal(images, torchvisions.data.mT)
        assert torch.equal(labels, torchvisions.targets)


def test_usps_is_scaled_to_mnists_convention(mirrors: Path, tmp_path: Path) -> None:
    for train in (True, False):
        images, labels = prepared(tmp_path, "USPS", train)
        torchvisions = datasets.USPS(tmp_path, train)
        assert labels.tolist() == torchvisions.targets
        rows, columns = (images[0] > 127).nonzero().T
        assert (rows.min(), rows.max()) == (4, 23)  # 20 of 28 rows, in the middle
        assert columns.max() - columns.min() == 3 and abs(columns.double().mean() - 14) <= 0.5
        assert images[0].max() == 255


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("QMNIST", "qmnist-test-labels-idx2-int.gz"),
        ("EMNIST-digits", "gzip.zip"),
        ("USPS", "usps.t.bz2"),
    ],
)
def test_each_sets_damaged_archive_is_downloaded_again_or_named(
    mirrors: Path, tmp_path: Path, name: Name, file: str
) -> None:
    prepare(tmp_path, name)
    archive = tmp_path / SETS[name].folder / file
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-9])
    prepare(tmp_path, name)
    assert archive.read_bytes() == whole
    assert Path(f"{archive}.damaged").read_bytes() == whole[:-9]

    archive.write_bytes(b"")
    (mirrors / file).unlink()
    with pytest.raises(OSError, match=f"^{file}: missing or damaged in .* from there/$"):
        prepare(tmp_path, name)


def test_each_set_is_in_the_help_of_fit(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert get_args(Name) == tuple(SETS)
    assert call(monkeypatch, "fit", "--help") == 0
    assert f"--data.dataset {{{','.join(SETS)}}}" in " ".join(capsys.readouterr().out.split())


# -- a user's own


def put_own(root: Path, num: int, side: int = 28, classes: int = 10, gz: bool = False) -> Path:
    """Write four files of a user's own in MNIST's place; return their folder."""
    folder = root / "MNIST" / "raw"
    folder.mkdir(parents=True, exist_ok=True)
    for files in (SETS["MNIST"].train, SETS["MNIST"].test):
        for file, values in zip(files, some(num, side, classes), strict=True):
            contents = gzip.compress(idx(values)) if gz else idx(values)
            (folder / f"{file}{'.gz' if gz else ''}").write_bytes(contents)
    return folder


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("name", ["MNIST", "FashionMNIST"])
def test_a_users_own_files_train_after_a_note(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gz: bool, name: Name
) -> None:
    folder = put_own(tmp_path, 30, gz=gz)
    if name != "MNIST":
        folder.parent.rename(tmp_path / name)
        folder = tmp_path / name / "raw"
    before = snapshot(folder)
    data = MNISTDataModule(str(tmp_path), dataset=name, val_size=10, batch_size=4)
    data.prepare_data()
    err = capsys.readouterr().err
    assert err.startswith(f"note: the images in {folder} are not known to be {name}'s")
    assert err.count("\n") == 1
    assert before.items() <= snapshot(folder).items() and len(os.listdir(folder)) == 4 * (1 + gz)
    data.setup("fit")
    assert torch.equal(data.train_images, torch.from_numpy(some(30)[0]))
    assert len(data.train_indices) == 20 and len(data.val_indices) == 10
    with pytest.raises(UserError, match="val_size 5000 must be in 0 to 28: there are 30"):
        MNISTDataModule(str(tmp_path), dataset=name).setup("fit")


def test_an_incomplete_set_of_a_users_own_is_not_completed_by_mnists(tmp_path: Path) -> None:
    folder = put_own(tmp_path, 30)
    (folder / "t10k-images-idx3-ubyte").unlink()
    before = snapshot(folder)
    with pytest.raises(UserError, match="not MNIST's: .* or put all files of your own there"):
        prepare(tmp_path, "MNIST")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"classes": 26}, "holds labels 0 to 25 and the network tells 10 .* CLASSES in .*sizes.py"),
        ({"side": 32}, "images of 32x32 pixels and the network takes 28x28: .* SIDE in .*sizes.py"),
        ({"num": 0}, "holds 0 images, .* 0 labels"),
    ],
)
def test_a_line_says_what_to_change_for_other_images(
    tmp_path: Path, own: dict[str, int], words: str
) -> None:
    put_own(tmp_path, **{"num": 60, **own})
    prepare(tmp_path, "MNIST")
    with pytest.raises(UserError, match=words):
        read(tmp_path, "MNIST", train=True)


def test_images_and_labels_must_be_as_many(tmp_path: Path) -> None:
    put_own(tmp_path, 30)
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(OWN)
    with pytest.raises(UserError, match="holds 30 images, .*-labels-idx1-ubyte 3 labels"):
        read(tmp_path, "MNIST", train=True)


@pytest.mark.parametrize("kind", [np.asarray, torch.from_numpy, lambda values: values.astype(int)])
def test_saved_images_are_those_that_are_trained_on(tmp_path: Path, kind) -> None:  # type: ignore[no-untyped-def]
    (images, labels), test = some(30), some(20)
    for _ in range(2):  # again does no harm
        save_set(tmp_path, kind(images.reshape(30, 784)), kind(labels), *map(kind, test))
    prepare(tmp_path, "MNIST")
    for train, pair in ((True, (images, labels)), (False, test)):
        for found, right in zip(read(tmp_path, "MNIST", train), pair, strict=True):
            assert np.array_equal(found.numpy(), right)
    with pytest.raises(UserError, match="holds other images: name another folder than "):
        save_set(tmp_path, images, labels[::-1].copy(), *test)


def test_what_is_no_set_is_not_saved(root: str, tmp_path: Path) -> None:
    images, labels = some(30)
    for wrong, words in (
        ((images / 255, labels), r"images are uint8 \(N, 28, 28\), and these torch.float64"),
        ((images.astype(int) + 1, labels), "and these torch.int64"),
        ((images[:, 1:], labels), "images of 27x28 pixels"),
        ((images, labels[1:]), "30 images, .* 29 labels"),
        ((images, labels.astype(int) - 1), "holds labels -1 to 8"),
    ):
        with pytest.raises(UserError, match=words):
            save_set(tmp_path, images, labels, *wrong)
        assert not list(tmp_path.iterdir())
    with pytest.raises(UserError, match="holds other images"):
        save_set(root, images, labels, images, labels)
