from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import call
from PIL import Image, ImageDraw

from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.own import keep, read_own
from mnist_lightning.errors import UserError
from mnist_lightning.reading.segments import find_digit

IMAGES, LABELS = read_test_set()
UNWARPED = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0}


def picture(*indices: int, gap: int = 8) -> Image.Image:
    """Return test digits side by side, dark on white, larger than MNIST's."""
    row = np.hstack([np.pad(IMAGES[index].numpy(), gap) for index in indices])
    return Image.fromarray(255 - row).resize((3 * row.shape[1], 3 * row.shape[0]))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with 12 pictures of each of 3 and 8, and 4 of 5."""
    for digit, num in ((3, 12), (5, 4), (8, 12)):
        (tmp_path / "own" / str(digit)).mkdir(parents=True)
        for index in (LABELS == digit).nonzero().flatten()[:num].tolist():
            picture(index).save(tmp_path / "own" / str(digit) / f"{index:05}.png")
    return tmp_path / "own"


def test_what_is_no_picture_of_one_digit_is_named_and_the_others_are_used(folder: Path) -> None:
    picture(1, 2).save(folder / "3/two.png")
    Image.new("L", (60, 60), 255).save(folder / "3/blank.png")
    (folder / "3/notes.txt").write_text("not a picture")
    (folder / "3/.hidden").write_text("")
    (folder / "3/more").mkdir()
    (folder / "seven").mkdir()
    pages = [picture(18), picture(18)]
    pages[0].save(folder / "3/pages.tif", save_all=True, append_images=pages[1:])
    images, labels, notes = read_own(folder)
    assert images.shape == (29, 28, 28) and images.dtype == torch.uint8
    assert labels.tolist() == 13 * [3] + 4 * [5] + 12 * [8]
    for words in (
        "seven is left out: its subfolders 0 to 9",
        "two.png is left out: there is more than one digit",
        "blank.png is left out: ",
        "notes.txt is left out: not a picture",
        "more is left out: ",
        "pages.tif: the first of its 2 pages",
    ):
        assert sum(words in note for note in notes) == 1, (words, notes)
    assert len(notes) == 6 and not any("\n" in note for note in notes)


def test_more_than_one_digit_is_told_by_its_ink() -> None:
    def refused(ink: np.ndarray) -> bool:
        try:
            find_digit(Image.fromarray(255 - np.pad(ink, 20)))
        except UserError as error:
            return "more than one digit" in str(error)
        return False

    bar, gap = np.full((40, 6), 255, np.uint8), np.zeros((40, 12), np.uint8)
    assert refused(np.hstack([bar, gap, bar]))
    assert refused(np.vstack([bar, gap[:, :6], bar]))
    comb = np.zeros((40, 120), np.uint8)
    comb[20:25] = comb[:, ::38] = 255
    comb[:, 1::38] = comb[:, 2::38] = comb[:, 3::38] = 255
    assert refused(comb)
    assert not refused(bar) and not refused(comb[:, :60])
    broken = bar.copy()
    broken[18:20] = 0
    assert not refused(broken)

    def rings(aside: int, gap: int) -> np.ndarray:
        image = Image.new("L", (100, 120))
        for left, top in ((0, 0), (aside, 40 + gap)):
            ImageDraw.Draw(image).ellipse((left, top, left + 39, top + 39), None, 255, 5)
        return np.asarray(image)

    assert refused(rings(aside=30, gap=3))  # askew
    assert refused(rings(aside=0, gap=15))
    assert not refused(rings(aside=0, gap=3))  # for all that ink says an 8


def test_a_digit_whose_hand_nobody_reads_is_one_digit(tmp_path: Path) -> None:
    wave = np.zeros((60, 90), np.uint8)  # to read, two lines with a bar between them
    wave[10:50, 10:14] = wave[28:32, 10:80] = wave[20:50, 76:80] = 255
    for digit in (4, 5):
        (tmp_path / str(digit)).mkdir()
        Image.fromarray(255 - wave).save(tmp_path / str(digit) / "1.png")
    images, labels, notes = read_own(tmp_path)
    assert labels.tolist() == [4, 5] and notes == [] and torch.equal(*images)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: None, "there is no folder"),
        (lambda folder: folder.mkdir(), "holds no picture to learn from"),
        (lambda folder: (folder / "seven").mkdir(parents=True), "its subfolders 0 to 9 must hold"),
        (lambda folder: (folder / "7").mkdir(parents=True), "holds no picture to learn from"),
        (lambda folder: keep(folder / "7", IMAGES[0], 7), "7/7 is left out: "),
        (lambda folder: keep(folder, IMAGES[0], 7), "pictures of the digit 7 alone"),
    ],
)
def test_a_folder_that_teaches_nothing_is_refused(
    make: Callable[[Path], None], words: str, tmp_path: Path
) -> None:
    make(tmp_path / "own")
    with pytest.raises(UserError, match=words):
        read_own(tmp_path / "own")


def test_kept_images_are_read_to_the_bit(tmp_path: Path) -> None:
    some = IMAGES[:50]
    for image, label in zip(some, LABELS[:50], strict=True):
        keep(tmp_path, image, int(label))
    images, labels, _ = read_own(tmp_path)
    assert sorted(map(bytes, images.numpy())) == sorted(map(bytes, some.numpy()))
    assert labels.tolist() == sorted(LABELS[:50].tolist())
    keep(tmp_path, IMAGES[0], 9)  # corrected: not under two labels
    assert len(read_own(tmp_path)[1]) == 50


def fit_data(root: str, **settings: object) -> MNISTDataModule:
    torch.manual_seed(0)
    data = MNISTDataModule(root, train_size=960, val_size=500, **settings)  # type: ignore[arg-type]
    data.setup("fit")
    return data


def test_own_pictures_fill_their_share_and_a_fifth_is_held_out(root: str, folder: Path) -> None:
    data = fit_data(root, extra=str(folder), extra_share=0.25, no_digit_share=0.01, **UNWARPED)
    loaders = data.val_dataloader()
    assert list(loaders) == ["val", "extra"]
    held_out, labels = next(iter(loaders["extra"]))
    assert sorted(labels.tolist()) == [3, 3, 8, 8]  # of 12 each; the fives are too few
    images, _, _ = read_own(folder)
    taught = set(map(bytes, images.numpy())) - set(map(bytes, held_out.numpy()))
    batches = list(data.train_dataloader())
    assert len(batches) == 10
    seen = torch.cat([images[-32:] for images, *_ in batches])
    assert set(map(bytes, seen.numpy())) == taught and len(taught) == 24
    others = torch.cat([images[:-32] for images, *_ in batches])
    assert sorted(map(bytes, others.numpy())) == sorted(
        map(bytes, data.train_images[data.train_indices].numpy())
    )
    assert all(len(images) == len(more) == len(rows) == 128 for images, _, rows, more in batches)


def test_an_extra_image_is_changed_anew_each_time(root: str, folder: Path) -> None:
    alone, data = fit_data(root), fit_data(root, extra=str(folder))
    rows = torch.cat([rows[-32:] for _, _, rows in data.train_dataloader()])
    assert len(rows.unique(dim=0)) == 320  # of 24 images
    one = torch.cat([rows for _, _, rows in alone.train_dataloader()])
    others = torch.cat([rows[:-32] for _, _, rows in data.train_dataloader()])
    assert torch.equal(one.sort(dim=0).values, others.sort(dim=0).values)  # as without them


def test_a_run_goes_on_with_the_pictures_that_it_began_with(root: str, folder: Path) -> None:
    data = fit_data(root, extra=str(folder))
    state, data.trainer = data.state_dict(), SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    data.load_state_dict(state)
    keep(folder, IMAGES[0], 7)
    other = fit_data(root, extra=str(folder))
    other.trainer = data.trainer
    with pytest.raises(UserError, match="own is not what it was"):
        other.load_state_dict(state)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"extra_share": 0.5}, "extra_share wants extra"),
        ({"extra": "own", "extra_share": 1.0}, "extra_share 1.0 must be"),
        ({"extra": "own", "pseudo_labels": "x.csv"}, "give either"),
    ],
)
def test_impossible_settings_are_refused(settings: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        MNISTDataModule(**settings)


def test_a_run_from_a_trained_network_needs_nothing_of_its_file_once_begun(
    smoke: Path,
    folder: Path,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    first = tmp_path / "first.ckpt"
    first.write_bytes((smoke / "runs/smoke/version_0/checkpoints/last.ckpt").read_bytes())
    # base.yaml says another network than the file's, which wins.
    flags = ["--data.root", root, "--data.train_size=512", "--data.val_size=0"]
    flags += ["--trainer.callbacks=[]", "--trainer.max_epochs=2", "--init_weights", first]
    flags += ["--data.extra", folder]
    assert call(monkeypatch, "fit", *flags, "--trainer.limit_train_batches=4") == 0
    assert "own pictures " in capsys.readouterr().out
    last = Path("runs/base/version_0/checkpoints/last.ckpt")
    settings = read_checkpoint(last)["hyper_parameters"]
    assert settings["channels"] == [8, 16] and settings["hidden"] == 32
    assert settings["learning_rate"] == 3e-3  # no setting of the network
    first.unlink()
    assert call(monkeypatch, "fit", *flags, "--ckpt_path=auto") == 0
    load(last)
    for contradiction in ("--model.hidden=64", "--network=mnist_lightning.ResNet"):
        message = call(monkeypatch, "fit", "--init_weights=shipped", contradiction)
        assert isinstance(message, str) and "leave it out" in message
