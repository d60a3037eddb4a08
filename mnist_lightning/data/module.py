"""MNISTDataModule: sets of images -> uint8 tensors in memory -> splits -> batches by index."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from mnist_lightning.data import datasets
from mnist_lightning.data.augment import Augmentation
from mnist_lightning.data.batches import Batches
from mnist_lightning.data.focus import Focus
from mnist_lightning.data.own import read_own
from mnist_lightning.data.predictions import read_predictions
from mnist_lightning.data.splits import held_out, stratified_sample
from mnist_lightning.errors import UserError
from mnist_lightning.network import to_pixels
from mnist_lightning.text import printable


class MNISTDataModule(pl.LightningDataModule):
    """MNIST, or a dataset of its format, with random augmentation of the training images.

    The order of the images is a function of (seed, epoch) and the augmentation of an image one of
    (seed, epoch, image), so neither changes with the batch size, the number of processes or a
    restart. `run_seed` says which seed.

    Extra images can fill a share of each step: images with pseudo-labels, or a person's own
    pictures, not both. They are chosen and changed anew each time; an epoch is one pass over the
    others.

    Args:
        root: Folder of the data, in torchvision's layout; MNIST is put there if it is missing.
        dataset: Which dataset. All but MNIST are downloaded if `root` lacks them. QMNIST has
            60,000 test images: QMNIST-test10k those that are MNIST's, QMNIST-test50k those that
            MNIST left out. Whole files of your own in place of a dataset's are used after a note.
        batch_size: Training images a step, over all processes together.
        eval_batch_size: Images a step in validation, test and predict, over all processes together.
        val_size: Number of the training images to hold out for validation; 0 for none.
        train_size: Number of the others to train on; all of them if it is not given.
        split: What is held out: `random` images, or all images of some `writers`, of both of
            MNIST's groups of writers in proportion, until `val_size` is reached. A network is
            better with writers that it knows, and knows no writer of the test images. QMNIST's
            list names the writers; an error says where to get it.
        split_seed: Seed of the split, so that runs with different seeds share one split.
        predict_set: What `predict` reads: the `test` images, or the `unlabelled` ones, which are
            the training images that `val_size` and `train_size` leave over.
        pseudo_labels: A CSV file that `predict` wrote; its images are trained on too, with its
            probabilities as their labels. If they are test images, the run's test accuracy is
            transductive: not to be compared with others.
        pseudo_share: Share of each step that they fill.
        pseudo_confidence: Least probability of its likeliest digit that lets in a pseudo-label.
        extra: A folder with subfolders 0 to 9 of pictures of that digit, one in each, as `read`
            takes them. Of a digit with ten pictures or more a fifth is held out, for
            `val/extra_accuracy`; the others are trained on.
        extra_share: Share of each step that they fill.
        focus: Share of the training images that an epoch visits: half of these the ones with the
            highest loss when they were last seen, the others at random.
        augmentation: The arguments of `Augmentation`, which changes the training images.

    Raises:
        UserError: If a value is out of its range.
    """

    def __init__(
        self,
        root: str = "data",
        dataset: datasets.Name = "MNIST",
        batch_size: int = 128,
        eval_batch_size: int = 1000,
        val_size: int = 5000,
        train_size: int | None = None,
        split: Literal["random", "writers"] = "random",
        split_seed: int = 0,
        predict_set: Literal["test", "unlabelled"] = "test",
        pseudo_labels: str | None = None,
        pseudo_share: float = 0.25,
        pseudo_confidence: float = 0.0,
        extra: str | None = None,
        extra_share: float = 0.25,
        focus: float = 1.0,
        **augmentation: Any,
    ) -> None:
        super().__init__()
        _check("batch_size", batch_size, batch_size >= 2, "2 or more (batch norm needs two images)")
        _check("eval_batch_size", eval_batch_size, eval_batch_size >= 1, "1 or more")
        _check("val_size", val_size, val_size >= 0, "0 or more")
        if train_size is not None:
            _check("train_size", train_size, train_size >= 2, "2 or more")
        _check("split_seed", split_seed, split_seed >= 0, "0 or more")
        shares = {
            "pseudo_share": (pseudo_labels, pseudo_share),
            "extra_share": (extra, extra_share),
        }
        for name, (source, share) in shares.items():
            _check(
                name,
                share,
                source is None or 0 < round(batch_size * share) < batch_size,
                f"a part of a step: from 1 to {batch_size - 1} of its {batch_size} images",
            )
        _check(
            "pseudo_confidence",
            pseudo_confidence,
            0 <= pseudo_confidence < 1,
            "in 0 to 1, 1 excluded",
        )
        if pseudo_labels is None and (pseudo_share, pseudo_confidence) != (0.25, 0.0):
            raise UserError("pseudo_share and pseudo_confidence want pseudo_labels, a file")
        if extra is None and extra_share != 0.25:
            raise UserError("extra_share wants extra, a folder of pictures")
        if extra is not None and pseudo_labels is not None:
            raise UserError(
                "extra and pseudo_labels would fill the same share of a step: give either"
            )
        _check("focus", focus, 0 < focus <= 1, "in 0 to 1, 0 excluded")
        for name, value, choices in (
            ("dataset", dataset, tuple(datasets.SETS)),
            ("split", split, ("random", "writers")),
            ("predict_set", predict_set, ("test", "unlabelled")),
        ):
            _check(name, value, value in choices, f"one of {', '.join(choices)}")
        if split == "writers" and not datasets.SETS[dataset].has_writers:
            raise UserError(f"data.split writers: nobody has listed the writers of {dataset}")
        self.augmentation = Augmentation(**augmentation)
        augmentation = self.augmentation.settings()  # what was not given is saved too
        self.save_hyperparameters()
        self.root = Path(root)
        self.dataset = dataset
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.train_size = train_size
        self.split = split
        self.split_seed = split_seed
        self.predict_set = predict_set
        self.pseudo_labels = pseudo_labels
        self.pseudo_confidence = pseudo_confidence
        self.extra = extra
        self.extra_share = extra_share if pseudo_labels is None else pseudo_share
        self.focus = focus
        self.last_losses: Focus | None = None
        self.extra_images: tuple[Tensor, Tensor] | None = None
        self.extra_held_out: tuple[Tensor, Tensor] | None = None
        self.extra_digest: str | None = None

    def prepare_data(self) -> None:
        """Put verified data files under `root`, from the shipped archives or the dataset's mirrors.

        Raises:
            OSError: If `root` can't be written, or a download failed.
        """
        datasets.prepare(self.root, self.dataset)

    def setup(self, stage: str) -> None:
        """Read the training images for `fit` and `validate`, the test images for `test`.

        `predict` reads those of its `predict_set`.

        Raises:
            OSError: If a file is missing or can't be read.
            UserError: If there are fewer images than are to be held out and trained on, the
                pseudo-labels do not fit them, or the folder of pictures is none to learn from.
        """
        self.seed = run_seed(self.trainer)
        unlabelled = stage == "predict" and self.predict_set == "unlabelled"
        train = stage in ("fit", "validate") or unlabelled
        # One copy on the device that trains, so that no batch waits for a transfer.
        device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        images, labels = datasets.read(self.root, self.dataset, train)
        rest = np.arange(len(labels))
        if train:
            self.train_images, self.train_labels = images.to(device), labels.to(device)
            classes, most = labels.numpy(), len(labels) - 2
            range_ = f"in 0 to {most:,}: there are {len(labels):,} training images"
            _check("val_size", self.val_size, self.val_size <= most, range_)
            self.val_indices = held_out(
                self.root, labels, self.val_size, self.split, self.split_seed
            )
            rest = np.setdiff1d(rest, self.val_indices)
            size = len(rest) if self.train_size is None else self.train_size
            if size > len(rest):
                raise UserError(f"train_size {size} must be in 2 to {len(rest):,}")
            self.train_indices = stratified_sample(classes, rest, size, self.split_seed)
            rest = np.setdiff1d(rest, self.train_indices)
        else:
            self.test_images, self.test_labels = images.to(device), labels.to(device)
        if stage == "fit":
            focuses = self.focus < 1 and not self._overfits()
            self.last_losses = Focus(len(labels), self.focus, device) if focuses else None
            if self.last_losses and self.trainer:
                add_up = partial(self.trainer.strategy.reduce, reduce_op="sum")
                self.last_losses.add_up = add_up
        if unlabelled and not len(rest):
            raise UserError("no image is unlabelled: choose a smaller data.train_size")
        if stage == "predict":
            self.predict_indices = rest
            self.predict_images = f"{self.dataset}/{'train' if train else 'test'}"
        if stage == "fit" and self.pseudo_labels is not None:
            self._add_pseudo_labels(self.pseudo_labels, rest)
        if stage in ("fit", "validate") and self.extra is not None:
            self._add_pictures(self.extra)

    def train_dataloader(self) -> Batches:
        """Return the training batches, shuffled and with their warps.

        Raises:
            UserError: If a process would get less than two images in a step.
        """
        # An ensemble wants an image of its own for each network. The module says how many it has: a
        # setting here could contradict it, and each network would train on a part of each batch.
        num_copies = getattr(self.trainer.lightning_module, "members", 1) if self.trainer else 1
        # BatchSizeFinder changes the batch size, from 2 on.
        extra_size = min(round(self.batch_size * self.extra_share), self.batch_size - 1)
        augmentation = self._augmentation()
        batches = Batches(
            self.train_images,
            self.train_labels,
            self.train_indices,
            self.batch_size,
            extra=self.extra_images,
            extra_size=extra_size if self.extra_images else 0,
            shuffle_seed=self.seed,
            augmentation=augmentation if num_copies > 1 or augmentation else None,
            num_copies=num_copies,
            focus=self.last_losses,
            progress=self._progress,
        )
        return self._share(batches, least=2)  # batch norm needs two images

    def val_dataloader(self) -> Any:
        """Return the held-out images in their order, or an empty list if there are none.

        If own pictures are held out too, both are in a dictionary, as `val` and `extra`.
        """
        loaders = {}
        if self.val_size:
            images, labels = self.train_images, self.train_labels
            loaders["val"] = self._eval_batches(images, labels, self.val_indices)
        if self.extra_held_out:
            images, labels = self.extra_held_out
            loaders["extra"] = self._eval_batches(images, labels, np.arange(len(labels)))
            return loaders
        return loaders.get("val", [])

    def test_dataloader(self) -> Batches:
        """Return all test images in their order."""
        every = np.arange(len(self.test_labels))
        return self._eval_batches(self.test_images, self.test_labels, every)

    def predict_dataloader(self) -> Batches:
        """Return all test images, or all that are unlabelled, in their order."""
        images, labels = (
            (self.test_images, self.test_labels)
            if self.predict_set == "test"
            else (self.train_images, self.train_labels)
        )
        return self._eval_batches(images, labels, self.predict_indices)

    def state_dict(self) -> dict[str, Any]:
        """Return what a run can't be resumed without.

        The seed, a digest of extra images, and the losses that `focus` goes by.
        """
        focus = self.last_losses and self.last_losses.state_dict()
        return {"seed": self.seed, "extra_digest": self.extra_digest, "focus": focus}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to resume `fit` with another seed or other images, which would mix two runs.

        Raises:
            UserError: If the seed, what extra images come from, or whether there is a focus, is
                not the checkpoint's.
        """
        if self.trainer is None or self.trainer.state.fn != "fit":  # None: load_from_checkpoint
            return
        if state_dict["seed"] != self.seed:
            raise UserError(
                f"the checkpoint's run has seed {state_dict['seed']}, this one {self.seed}: "
                f"resume it with --seed_everything {state_dict['seed']}, or in Python with "
                f"seed_everything({state_dict['seed']})"
            )
        digest = state_dict.get("extra_digest", state_dict.get("pseudo_digest"))  # as it was once
        if digest != self.extra_digest:
            raise UserError(
                f"{self.pseudo_labels or self.extra} is not what it was when the checkpoint's run "
                "began: put it back as it was, or begin a new run"
            )
        losses = state_dict.get("focus")
        if (losses is None) != (self.last_losses is None):
            which = "all images in each epoch" if losses is None else "hard images"
            raise UserError(f"the checkpoint's run visits {which}, this one does not: mind focus")
        if self.last_losses and losses:
            self.last_losses.load_state_dict(losses, self.trainer.global_rank)

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a batch by index into pixels, float32 `(B, 1, 28, 28)` in [0, 1], and labels.

        In training an ensemble of W networks gets `(W * B, 1, 28, 28)`, the first network's first,
        and with a `focus` the visited images come last, see `Batches`.
        """
        trains = self.trainer is not None and self.trainer.training
        visits: list[Tensor] = []
        if trains and self.last_losses:
            batch, visits = batch[:-1], batch[-1:]
        images, labels, *rows = batch
        changed = self.augment(tuple(batch)) if rows or trains else (to_pixels(images), labels)
        return (*changed, *visits)

    def augment(self, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Turn a training batch by index into pixels and labels, and change them at random.

        The place for changes of your own, by a subclass: this is called for each training batch,
        and for no other. Numbers from `generator` keep a run the same if it is resumed.

        Args:
            batch: uint8 images `(B, 28, 28)`, their labels, and if the augmentation changes
                anything, what `Batches` adds for it.

        Returns:
            float32 `(B, 1, 28, 28)` in [0, 1], and labels, or probabilities `(B, 10)`.
        """
        images, labels, *more = batch
        pixels = to_pixels(images)
        if not more:
            return pixels, labels
        rows, *others = more
        copies = len(rows) // len(images)
        pixels, labels = pixels.repeat(copies, 1, 1, 1), torch.cat([labels] * copies)
        partners = to_pixels(others[0]).repeat(copies, 1, 1, 1) if others else pixels
        return self._augmentation()(pixels, labels, rows, partners)

    def generator(self, device: torch.device | str = "cpu") -> torch.Generator:
        """Return random numbers for changes of one's own: a function of (seed, step, rank)."""
        assert self.trainer is not None
        step = self.trainer.fit_loop.total_batch_idx + 1  # it counts a batch after its transfer
        entropy = np.random.SeedSequence((self.seed, step, self.trainer.global_rank, 5))
        return torch.Generator(device).manual_seed(int(entropy.generate_state(1)[0]))

    def _add_pseudo_labels(self, path: str, unlabelled: np.ndarray) -> None:
        """Let a file's images fill a share of each step, with the file's soft labels."""
        set_, indices, probabilities = read_predictions(path)
        self.extra_digest = hashlib.sha256(Path(path).read_bytes()).hexdigest()
        dataset, _, part = set_.partition("/")
        if dataset != self.dataset:
            raise UserError(f"{path} labels images of {dataset}, and these are {self.dataset}'s")
        images = self.train_images
        if part == "test":
            images, _ = datasets.read(self.root, self.dataset, train=False)
            unlabelled = np.arange(len(images))
        if indices.max() >= len(images):
            raise UserError(
                f"{path} labels image {indices.max()} of {set_}, which has {len(images):,}"
            )
        confident = (probabilities.amax(dim=1) >= self.pseudo_confidence).numpy()
        indices, probabilities = indices[confident], probabilities[confident]
        if not len(indices):
            raise UserError(f"{path} holds no probability of {self.pseudo_confidence} or more")
        if part == "test":
            rank_zero_info(
                f"note: {path} labels test images: this run's test accuracy is transductive"
            )
        strangers = np.setdiff1d(indices, unlabelled)
        if len(strangers):
            raise UserError(
                f"{path} holds {len(strangers):,} images that are trained on or held out here, as "
                f"image {strangers[0]}: use the val_size, train_size and split_seed of its predict"
            )
        device = self.train_images.device
        chosen = torch.from_numpy(indices).to(images.device)
        self.extra_images = images[chosen].to(device), probabilities.to(device)

    def _add_pictures(self, folder: str) -> None:
        """Let a folder's pictures fill a share of each step, but for those that are held out."""
        images, labels, notes = read_own(Path(folder))
        for note in notes:
            rank_zero_info(f"note: {printable(note)}")
        contents = images.numpy().tobytes() + labels.numpy().tobytes()
        self.extra_digest = hashlib.sha256(contents).hexdigest()
        classes = labels.numpy()
        several = np.flatnonzero(np.bincount(classes)[classes] >= 10)
        held = stratified_sample(classes, several, len(several) // 5, self.split_seed)
        others = np.setdiff1d(np.arange(len(classes)), held)
        rank_zero_info(f"{folder}: {len(others):,} pictures to learn from, {len(held):,} held out")
        device = self.train_images.device
        both = images.to(device), labels.to(device)
        self.extra_images, held_out_images = (
            (both[0][indices], both[1][indices])
            for indices in (torch.from_numpy(others), torch.from_numpy(held))
        )
        self.extra_held_out = held_out_images if len(held) else None

    def _eval_batches(self, images: Tensor, labels: Tensor, indices: np.ndarray) -> Batches:
        return self._share(Batches(images, labels, indices, self.eval_batch_size), least=1)

    def _share(self, batches: Batches, least: int) -> Batches:
        if self.trainer:
            batches.rank, batches.num_ranks = self.trainer.global_rank, self.trainer.world_size
        num = batches.num_visits + len(batches) * batches.extra_size
        if num // (len(batches) * batches.num_ranks) < least:
            raise UserError(
                f"{num:,} images in steps of {batches.batch_size} on {batches.num_ranks} "
                f"process(es): one would get less than {least} in a step; choose larger steps"
            )
        return batches

    def _augmentation(self) -> Augmentation:
        """Return the augmentation; with `overfit_batches` one that changes nothing."""
        return Augmentation(0, 0, 0, 0) if self._overfits() else self.augmentation

    def _overfits(self) -> bool:
        return bool(self.trainer and self.trainer.overfit_batches)  # type: ignore[attr-defined]

    def _progress(self) -> tuple[int, int]:
        """Return the epoch, and its steps that are done: not 0 if a run resumes within it."""
        if not self.trainer:
            return 0, 0
        # With overfit_batches each epoch has the same batches, the first one's.
        epoch = 0 if self._overfits() else self.trainer.current_epoch
        return epoch, self.trainer.fit_loop.batch_idx + 1


def run_seed(trainer: pl.Trainer | None) -> int:
    """Return the seed that all random numbers of a run follow from, the same on every rank.

    It is the last one given to `lightning.seed_everything` or `torch.manual_seed`, which training
    does not change; if neither was called, the one that torch drew when the process started.

    Args:
        trainer: The run's trainer, if there is one.

    Returns:
        0 to 2**32 - 1, as `seed_everything` takes it.
    """
    seed = torch.initial_seed() % 2**32
    return trainer.strategy.broadcast(seed) if trainer else seed


def _check(name: str, value: Any, holds: bool, range_: str) -> None:
    if not holds:
        raise UserError(f"{name} {value} must be {range_}")
