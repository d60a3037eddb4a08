import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torchvision import datasets

from mnist_lightning.data.augment import Augmentation, affine_table
from mnist_lightning.data.batches import Batches
from mnist_lightning.data.focus import Focus
from mnist_lightning.data.module import MNISTDataModule, run_seed
from mnist_lightning.data.predictions import write_predictions
from mnist_lightning.data.splits import stratified_sample, writers_sample


def fit_data(root: str, **arguments: object) -> MNISTDataModule:
    data = MNISTDataModule(root, **arguments)  # type: ignore[arg-type]
    data.setup("fit")
    return data


# -- split


def test_test_loader_scores_every_image_once_in_order(root: str) -> None:
    data = MNISTDataModule(root)
    data.setup("test")
    batches = list(data.test_dataloader())
    expected = datasets.MNIST(root, train=False)
    assert torch.equal(torch.cat([images for images, _ in batches]), expected.data)
    assert torch.equal(torch.cat([labels for _, labels in batches]), expected.targets)


def test_training_and_test_images_are_kept_apart(root: str) -> None:
    data = fit_data(root, val_size=100)
    with pytest.raises(AttributeError, match="test_labels"):
        data.test_dataloader()
    held_out = torch.cat([images for images, _ in data.val_dataloader()])
    data.setup("test")
    (again,) = [images for images, _ in data.val_dataloader()]
    assert torch.equal(held_out, again)
    assert sum(len(labels) for _, labels in data.test_dataloader()) == 10_000
    assert len(data.train_images) == 60_000


def test_split_is_disjoint_stratified_and_the_same_for_every_seed(root: str) -> None:
    data = fit_data(root)
    assert len(data.val_indices) == 5000 and len(data.train_indices) == 55_000
    assert not np.intersect1d(data.val_indices, data.train_indices).size
    classes = data.train_labels.numpy()
    held_out, all_ = Counter(classes[data.val_indices]), Counter(classes)
    assert all(abs(held_out[c] - all_[c] / 12) <= 1 for c in range(10))

    torch.manual_seed(7)
    again = fit_data(root)
    again.setup("validate")
    assert np.array_equal(again.val_indices, data.val_indices)
    other = fit_data(root, split_seed=1)
    assert not np.array_equal(other.val_indices, data.val_indices)


def test_train_size_changes_the_training_images_alone(root: str) -> None:
    data, few = fit_data(root), fit_data(root, train_size=100)
    assert np.array_equal(few.val_indices, data.val_indices)
    assert len(few.train_indices) == 100 and np.isin(few.train_indices, data.train_indices).all()
    counts = Counter(few.train_labels.numpy()[few.train_indices])
    assert set(counts) == set(range(10)) and max(counts.values()) <= 13


def test_val_size_0_trains_on_all_images(root: str) -> None:
    data = fit_data(root, val_size=0)
    assert len(data.train_indices) == 60_000
    assert data.val_dataloader() == []


@pytest.mark.parametrize("size", [0, 1, 7, 59, 60])
def test_stratified_sample_takes_as_many_as_asked_for(size: int) -> None:
    labels = np.repeat([0, 1, 2], [10, 20, 30])
    sample = stratified_sample(labels, np.arange(60), size, seed=0)
    assert len(np.unique(sample)) == size
    shares = size * np.array([10, 20, 30]) / 60
    assert (abs(np.bincount(labels[sample], minlength=3) - shares) <= 0.5).all()


def test_writers_are_held_out_whole_and_of_both_groups_in_proportion() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([0, 4], [4000, 2000])
    # A name means another writer in the other group.
    writers = np.stack([groups, rng.integers(0, 40, 6000)], axis=1)
    held_out = writers_sample(writers, 1500, seed=0)
    assert np.array_equal(held_out, np.unique(held_out))
    kept = np.setdiff1d(np.arange(6000), held_out)
    names = {tuple(row) for row in writers[held_out].tolist()}
    assert names.isdisjoint({tuple(row) for row in writers[kept].tolist()})
    largest = [np.bincount(writers[groups == group, 1]).max() for group in (0, 4)]
    for group, quota, most in zip((0, 4), (1000, 500), largest, strict=True):
        size = (groups[held_out] == group).sum()
        assert quota <= size < quota + most
    assert np.array_equal(held_out, writers_sample(writers, 1500, seed=0))
    assert not np.array_equal(held_out, writers_sample(writers, 1500, seed=1))
    assert len(writers_sample(writers, 0, seed=0)) == 0
    assert len(writers_sample(writers, 6000, seed=0)) == 6000


def test_a_split_by_writers_trains_on_the_other_writers(root: str, tmp_path: Path) -> None:
    shutil.copytree(Path(root) / "MNIST", tmp_path / "MNIST")
    labels = datasets.MNIST(root).targets.tolist()
    rows = [f"{digit}\t{4 * (i % 2)}\t{i // 2 % 100}\t{i}\n" for i, digit in enumerate(labels)]
    names = tmp_path / "QMNIST" / "raw" / "qmnist-train-labels.tsv"
    names.parent.mkdir(parents=True)
    names.write_text("".join(rows))
    data = fit_data(str(tmp_path), split="writers", val_size=10_000)
    assert len(data.val_indices) == 10_200 and len(data.train_indices) == 49_800
    writers = np.arange(60_000) % 200
    assert not np.intersect1d(writers[data.val_indices], writers[data.train_indices]).size
    with pytest.raises(ValueError, match="train_size 49900 must be in 2 to 49,800"):
        fit_data(str(tmp_path), split="writers", val_size=10_000, train_size=49_900)

    names.write_text("".join(rows[::-1]))
    with pytest.raises(ValueError, match="is damaged or lists the writers of other images"):
        fit_data(str(tmp_path), split="writers")
    names.unlink()
    with pytest.raises(ValueError, match="needs QMNIST's list of writers, as .*QMNIST"):
        fit_data(str(tmp_path), split="writers")
    with pytest.raises(ValueError, match="nobody has listed the writers of KMNIST"):
        MNISTDataModule(split="writers", dataset="KMNIST")


# -- order and warps


def toy(n: int = 103, **arguments: object) -> Batches:
    images = torch.arange(n * 784).reshape(n, 28, 28).byte()
    values = {"batch_size": 16, "shuffle_seed": 5, **arguments}
    return Batches(images, torch.arange(n), np.arange(n), **values)  # type: ignore[arg-type]


def order(batches: Batches) -> list[int]:
    return torch.cat([batch[1] for batch in batches]).tolist()


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_what_is_made_of_each_image(num_ranks: int) -> None:
    augmentation = Augmentation(noise=0.2, no_digit_share=0.3)
    ranks = [
        list(toy(rank=rank, num_ranks=num_ranks, augmentation=augmentation))
        for rank in range(num_ranks)
    ]
    batches = [batch for step in zip(*ranks, strict=True) for batch in step]
    together = [torch.cat(column) for column in zip(*batches, strict=True)]
    alone = [torch.cat(column) for column in zip(*toy(augmentation=augmentation), strict=True)]
    assert len(alone) == 4 and all(map(torch.equal, together, alone))
    assert not torch.equal(alone[0], alone[3])  # others, to make what is no digit from


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
def test_ranks_share_each_step_of_one_order(num_ranks: int) -> None:
    ranks = [list(toy(rank=rank, num_ranks=num_ranks)) for rank in range(num_ranks)]
    assert {len(steps) for steps in ranks} == {7}  # the same for each, or a rank would wait
    sizes = [len(step[1]) for steps in ranks for step in steps]
    assert max(sizes) - min(sizes) <= 1
    together = [int(label) for step in zip(*ranks, strict=True) for b in step for label in b[1]]
    assert together == order(toy())
    assert sorted(together) == list(range(103))


def test_order_depends_on_seed_and_epoch_alone() -> None:
    first = order(toy())
    assert first == order(toy(batch_size=50)) == order(toy())
    assert first != order(toy(shuffle_seed=6))
    assert first != order(toy(progress=lambda: (1, 0)))


def test_each_range_reaches_the_matrix_of_each_image(root: str) -> None:
    ranges = {"rotation": 1.0, "shift": 0.02, "shear": 0.03, "zoom": 0.04}
    data = fit_data(root, train_size=100, **ranges)
    ((images, _, matrices),) = data.train_dataloader()
    seed = data.seed, 0
    order = np.random.default_rng((*seed, 0)).permutation(data.train_indices)
    assert torch.equal(images, data.train_images[torch.from_numpy(order)])
    table = affine_table(60_000, np.random.default_rng((*seed, 1)), **ranges)
    assert torch.equal(matrices, table[torch.from_numpy(order)].flatten(1))


def test_every_epoch_has_warps_of_its_own() -> None:
    ranges = {"rotation": 8.0, "shift": 0.1, "shear": 0.1, "zoom": 0.1}

    def warps(epoch: int) -> torch.Tensor:
        batches = toy(augmentation=Augmentation(**ranges), progress=lambda: (epoch, 0))
        labels, matrices = (torch.cat(column) for column in list(zip(*batches, strict=True))[1:])
        return matrices[labels.argsort()]

    assert torch.equal(warps(0), warps(0))
    assert (warps(0) != warps(1)).any(dim=1).all()  # every image's


def test_a_resumed_epoch_goes_on_at_its_step() -> None:
    whole = [batch[1] for batch in toy(progress=lambda: (3, 0))]
    rest = [batch[1] for batch in toy(progress=lambda: (3, 4))]
    assert len(rest) == 3
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], rest, strict=True))


def test_an_epoch_visits_the_hardest_images_and_some_others() -> None:
    focus = Focus(100, share=0.4)
    shuffled = np.random.default_rng(0).permutation(100)[:90]
    first = focus.choose(shuffled, starts=True)
    assert first.tolist() == shuffled[:36].tolist()  # none was seen
    focus.note(torch.from_numpy(first), torch.from_numpy(first) / 100)
    assert focus.choose(shuffled, starts=False).tolist() == first.tolist()  # within the epoch
    focus.note(torch.arange(100), torch.arange(100) / 100)
    focus.note(torch.arange(100), torch.ones(100), torch.zeros(100).bool())
    chosen = focus.choose(shuffled, starts=True)
    hardest = np.sort(shuffled)[-18:]
    assert set(hardest) < set(chosen) and len(chosen) == 36
    others = [image for image in shuffled if image not in hardest][:18]
    assert chosen.tolist() == [image for image in shuffled if image in {*hardest, *others}]
    focus.note(torch.arange(100), torch.zeros(100))  # as large logits make it
    focus.note(torch.tensor([shuffled[0]]), torch.ones(1))
    focus.choose(shuffled, starts=True)
    assert focus.losses.max() == 1 and focus.losses.isfinite().all()


def test_processes_focus_on_the_same_images_and_resume_with_all_that_they_saw() -> None:
    shuffled, one, two = np.random.default_rng(0).permutation(50), *(Focus(50, 0.5) for _ in "ab")
    one.note(torch.arange(30), torch.rand(30))
    two.note(torch.arange(30, 50), torch.rand(20))
    together = one.seen + two.seen
    one.add_up = two.add_up = lambda seen: together
    saved = two.state_dict()
    chosen = one.choose(shuffled, starts=True)
    assert chosen.tolist() == two.choose(shuffled, starts=True).tolist()
    again = [Focus(50, 0.5) for _ in "ab"]
    for rank, focus in enumerate(again):
        focus.load_state_dict(saved, rank)
    together = again[0].seen + again[1].seen
    for focus in again:
        focus.add_up = one.add_up
        assert focus.choose(shuffled, starts=True).tolist() == chosen.tolist()


def test_a_focused_epoch_has_fewer_steps_and_names_its_images(root: str) -> None:
    data = fit_data(root, train_size=1000, batch_size=64, focus=0.4)
    batches = data.train_dataloader()
    assert len(batches) == len(list(batches)) == 7
    for images, labels, _, visits in batches:
        assert torch.equal(images, data.train_images[visits])
        assert torch.equal(labels, data.train_labels[visits])
    visits = torch.cat([batch[-1] for batch in batches])
    assert len(set(visits.tolist())) == 400 and set(visits.tolist()) < set(data.train_indices)
    for share in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"focus {share} must be in 0 to 1, 0 excluded"):
            MNISTDataModule(focus=share)


def test_each_fit_begins_without_losses_and_sums_those_of_all_processes(root: str) -> None:
    strategy = SimpleNamespace(root_device="cpu", broadcast=lambda seed: seed)
    strategy.reduce = lambda tensor, reduce_op: (tensor, reduce_op)
    data = MNISTDataModule(root, train_size=100, focus=0.5)
    data.trainer = SimpleNamespace(strategy=strategy, overfit_batches=0)  # type: ignore[assignment]
    data.setup("fit")
    first = data.last_losses
    assert first and first.add_up("losses") == ("losses", "sum")  # type: ignore[arg-type, comparison-overlap]
    data.setup("fit")
    assert data.last_losses is not first
    data.trainer.overfit_batches = 2  # type: ignore[union-attr]
    data.setup("fit")
    assert data.last_losses is None


def test_a_warp_belongs_to_an_image_and_an_epoch(root: str) -> None:
    def warps(**arguments: object) -> dict[bytes, bytes]:
        data = fit_data(root, **{"train_size": 200, **arguments})
        batches = data.train_dataloader()
        return {
            image.numpy().tobytes(): matrix.numpy().tobytes()
            for images, _, matrices in batches
            for image, matrix in zip(images, matrices, strict=True)
        }

    torch.manual_seed(1)
    one, other = warps(), warps(batch_size=32, train_size=400)
    shared = one.keys() & other.keys()
    assert len(shared) > 0 and all(one[image] == other[image] for image in shared)
    assert len(set(one.values())) == 200  # each its own
    torch.manual_seed(2)
    assert set(warps().values()).isdisjoint(one.values())


def test_an_ensemble_warps_each_image_once_for_each_member() -> None:
    ranges = {"rotation": 8.0, "shift": 0.1, "shear": 0.1, "zoom": 0.1}
    _, labels, alone = next(iter(toy(augmentation=Augmentation(**ranges))))
    _, same_labels, together = next(iter(toy(augmentation=Augmentation(**ranges), num_copies=3)))
    size = len(labels)
    assert torch.equal(labels, same_labels) and together.shape == (3 * size, 6)
    assert torch.equal(together[:size], alone)  # the first member's, as if there were no others
    assert len(torch.unique(together, dim=0)) == 3 * size

    images = torch.randint(256, (size, 28, 28), dtype=torch.uint8)
    data = MNISTDataModule()
    pixels, repeated = data.on_after_batch_transfer((images, labels, together), 0)
    assert torch.equal(repeated, labels.repeat(3))
    single, _ = data.on_after_batch_transfer((images, labels, together[size : 2 * size]), 0)
    assert torch.equal(pixels[size : 2 * size], single)


def test_no_ranges_make_no_warps(root: str) -> None:
    data = fit_data(root, rotation=0, shift=0, shear=0, zoom=0)
    batch = next(iter(data.train_dataloader()))
    assert len(batch) == 2
    pixels, _ = data.on_after_batch_transfer(batch, 0)
    assert torch.equal((pixels[:, 0] * 255).round().byte(), batch[0])


def test_training_pixels_are_warped_and_validation_pixels_are_not(root: str) -> None:
    data = fit_data(root)
    batch = next(iter(data.train_dataloader()))
    pixels, labels = data.on_after_batch_transfer(batch, 0)
    assert pixels.shape == (len(labels), 1, 28, 28) and pixels.dtype == torch.float32
    assert 0 <= pixels.min() and pixels.max() <= 1
    assert not torch.equal((pixels[:, 0] * 255).round().byte(), batch[0])
    val_batch = next(iter(data.val_dataloader()))
    pixels, _ = data.on_after_batch_transfer(val_batch, 0)
    assert torch.equal((pixels[:, 0] * 255).round().byte(), val_batch[0])


def test_the_seed_is_one_that_seed_everything_takes() -> None:
    pl.seed_everything(2**32 - 1, verbose=False)
    assert run_seed(None) == 2**32 - 1
    torch.manual_seed(2**32 + 5)  # as the seeds are that torch draws for itself
    assert run_seed(None) == 5


# -- mistakes


@pytest.mark.parametrize(
    "arguments",
    [
        {"batch_size": 1},
        {"eval_batch_size": 0},
        {"val_size": -1},
        {"train_size": 1},
        {"dataset": "CIFAR10"},
        {"split": "writer"},
        {"predict_set": "train"},
        {"split_seed": -1},
        {"rotation": -1.0},
        {"rotation": float("nan")},
        {"shift": 1.5},
        {"shear": 2.0},
        {"zoom": 1.0},
    ],
)
def test_values_out_of_range_are_refused(arguments: dict) -> None:
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"^{name} {value} must be "):
        MNISTDataModule(**arguments)


def test_sizes_beyond_those_of_the_files_are_refused(root: str) -> None:
    with pytest.raises(ValueError, match="val_size 60000 must be in 0 to 59,998: there are 60,000"):
        fit_data(root, val_size=60_000)
    with pytest.raises(ValueError, match="train_size 55001 must be in 2 to 55,000"):
        fit_data(root, train_size=55_001)


def test_a_step_of_one_image_is_refused_before_batch_norm_fails(root: str) -> None:
    with pytest.raises(ValueError, match="less than 2 in a step"):
        fit_data(root, train_size=3, batch_size=2).train_dataloader()


def test_an_empty_share_of_a_step_is_refused() -> None:
    with pytest.raises(ValueError, match="5 images in steps of 1 on 2 process"):
        share = MNISTDataModule(eval_batch_size=1)
        share.trainer = SimpleNamespace(global_rank=0, world_size=2)  # type: ignore[assignment]
        share._eval_batches(torch.zeros(5, 28, 28), torch.zeros(5), np.arange(5))


# -- pseudo-labels


def write(path: Path, set_: str, indices: np.ndarray, digit: int = 3, p: float = 0.7) -> str:
    probabilities = torch.full((len(indices), 10), (1 - p) / 9)
    probabilities[:, digit] = p
    write_predictions(path, f"MNIST/{set_}", indices, probabilities)
    return str(path)


def test_pseudo_labels_fill_their_share_of_each_step(root: str, tmp_path: Path) -> None:
    size = {"train_size": 1000, "val_size": 58_000, "batch_size": 64}
    unlabelled = MNISTDataModule(root, predict_set="unlabelled", **size)  # type: ignore[arg-type]
    unlabelled.setup("predict")
    assert len(unlabelled.predict_indices) == 1000
    path = write(tmp_path / "x.csv", "train", unlabelled.predict_indices)
    data = fit_data(root, pseudo_labels=path, **size)
    batches = data.train_dataloader()
    assert len(batches) == 21  # of 48 labeled images and 16 others

    pseudo = torch.full((10,), 0.3 / 9)
    pseudo[3] = 0.7
    for _, labels, _ in batches:
        is_pseudo = torch.isclose(labels, pseudo).all(dim=1)
        assert is_pseudo.sum() == 16 and len(labels) in (63, 64)
        assert (labels[~is_pseudo].amax(dim=1) == 1).all()
    # The file's own images, none twice before all came once.
    batches.augmentation = None
    batches.extra_size = 10
    batches.indices = np.arange(54 * 100)  # 100 steps, 1,000 images
    extra = torch.cat([images[54:] for images, _ in batches])
    expected = data.train_images[torch.from_numpy(unlabelled.predict_indices)]
    assert sorted(map(bytes, extra.numpy())) == sorted(map(bytes, expected.numpy()))


def test_pseudo_labels_of_test_images_are_those_images(root: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "test", np.array([7]))
    without = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0}
    data = fit_data(root, pseudo_labels=path, pseudo_share=0.75, **without)
    images, labels = next(iter(data.train_dataloader()))
    test = MNISTDataModule(root)
    test.setup("test")
    assert torch.equal(images[-96:], test.test_images[7].expand(96, 28, 28))
    assert torch.allclose(labels[-96:, 3], torch.tensor(0.7))


def test_only_confident_pseudo_labels_are_used(root: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "test", np.arange(5), p=0.75)
    data = fit_data(root, pseudo_labels=path, pseudo_confidence=0.75)
    assert data.extra_images and len(data.extra_images[1]) == 5
    with pytest.raises(ValueError, match="holds no probability of 0.8 or more"):
        fit_data(root, pseudo_labels=path, pseudo_confidence=0.8)


def test_pseudo_labels_of_another_dataset_or_of_no_image_are_refused(
    root: str, tmp_path: Path
) -> None:
    write_predictions(tmp_path / "x.csv", "KMNIST/test", np.array([1]), torch.full((1, 10), 0.1))
    with pytest.raises(ValueError, match="labels images of KMNIST, and these are MNIST's"):
        fit_data(root, pseudo_labels=str(tmp_path / "x.csv"))
    path = write(tmp_path / "x.csv", "test", np.array([10_005]))
    with pytest.raises(ValueError, match="labels image 10005 of MNIST/test, which has 10,000"):
        fit_data(root, pseudo_labels=path)
    with pytest.raises(FileNotFoundError):
        fit_data(root, pseudo_labels="")


def test_a_run_goes_on_with_the_pseudo_labels_that_it_began_with(root: str, tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", "test", np.arange(5))
    data = fit_data(root, pseudo_labels=path)
    state, data.trainer = data.state_dict(), SimpleNamespace(state=SimpleNamespace(fn="fit"))  # type: ignore[assignment]
    data.load_state_dict(state)
    other = fit_data(root, pseudo_labels=write(tmp_path / "x.csv", "test", np.arange(6)))
    other.trainer = data.trainer
    with pytest.raises(ValueError, match="x.csv is not what it was"):
        other.load_state_dict(state)


def test_pseudo_labels_of_images_with_labels_are_refused(root: str, tmp_path: Path) -> None:
    held_out = fit_data(root, train_size=100).val_indices[:2]
    path = write(tmp_path / "x.csv", "train", held_out)
    with pytest.raises(ValueError, match="holds 2 images that are trained on or held out here"):
        fit_data(root, train_size=100, pseudo_labels=path)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pseudo_share": 0.5}, "want pseudo_labels"),
        ({"pseudo_confidence": 0.5}, "want pseudo_labels"),
        ({"pseudo_labels": "x.csv", "pseudo_share": 1.0}, "pseudo_share 1.0 must be"),
        ({"pseudo_labels": "x.csv", "pseudo_share": 0.001}, "from 1 to 127 of its 128 images"),
        ({"pseudo_labels": "x.csv", "pseudo_confidence": 1.0}, "pseudo_confidence 1.0 must be"),
    ],
)
def test_impossible_pseudo_settings_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MNISTDataModule(**arguments)
