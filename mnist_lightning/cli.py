"""The command line: LightningCLI with this project's module and data.

On a laptop, on one GPU, on all GPUs of a machine:

    python -m mnist_lightning fit --config configs/base.yaml
    python -m mnist_lightning fit --config configs/base.yaml --trainer.devices 1
    python -m mnist_lightning fit --config configs/base.yaml --trainer.devices -1

The accelerator is chosen by what is there; `--trainer.accelerator cpu|gpu` insists on one.
Afterwards:

    python -m mnist_lightning test --ckpt_path runs/base/version_0/checkpoints/best.ckpt
    python -m mnist_lightning predict --ckpt_path runs/base/version_0/checkpoints/best.ckpt
"""

import ctypes
import logging
import os
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import lightning.pytorch as pl
import torch
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning.callbacks import LoseNothing, Throughput, VerifiedCheckpointIO, checkpoints
from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.data import MNISTDataModule
from mnist_lightning.predictions import write_predictions
from mnist_lightning.resume import use_checkpoint

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

TENSORBOARD = {
    "class_path": "TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "mnist", "default_hp_metric": False},
}


def main() -> None:
    """Run the command line; a user's mistake ends it with one line and an exit code not 0."""
    keep_freed_memory()
    _silence_what_no_user_can_change()
    threading.excepthook = _explain_once
    try:
        CLI(
            MNISTClassifier,
            MNISTDataModule,
            save_config_kwargs={"overwrite": True},
            trainer_defaults={"max_epochs": 5, "logger": TENSORBOARD},
            seed_everything_default=42,
            parser_kwargs={
                "prog": "python -m mnist_lightning",
                "description": "Train, validate and test a small CNN on MNIST.",
            },
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )
    except (ValueError, OSError, ModuleNotFoundError, MisconfigurationException) as error:
        if isinstance(error, ValueError) and not _raised_here(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            sys.exit(f"error: {error.filename or 'writing or connecting failed'}: {error.strerror}")
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


class Parser(LightningArgumentParser):
    """Reports a mistake in one line, without the usage of a hundred options above it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, and exit with 2."""
        self.exit(2, f"error: {' '.join(message.split())}\n")
        raise AssertionError


class CLI(LightningCLI):
    """fit, validate, test and predict, with a checkpoint's own settings where one is given."""

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, as a number: Lightning's own argument takes `true`, which means 0."""
        parser.add_argument(
            "--seed_everything",
            type=Seed,
            default=self.seed_everything_default,
            help="Seed of the weights, the order of the images, their warps and dropout.",
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands, each with the arguments that are no flags."""
        subcommands = LightningCLI.subcommands()
        subcommands["predict"].add("return_predictions")  # they go to a file
        return subcommands

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str,
                default="predictions.csv",
                help="CSV file for each image's digit and ten probabilities.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then take from a checkpoint what was not given, see `use_checkpoint`."""
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        given = parser.parse_args(args, defaults=False)[subcommand]
        self.goes_on = use_checkpoint(subcommand, self.config[subcommand], given)
        if self.goes_on:
            self.save_config_callback = None  # its folder has one

    def before_instantiate_classes(self) -> None:
        """Let `fit` keep checkpoints and curves, and the others leave nothing behind."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit":
            if not config.data.val_size:
                config.trainer.limit_val_batches = 0
            self.checkpoints = checkpoints(validates=config.trainer.limit_val_batches != 0)
            always = [LoseNothing(self.checkpoints[-1]), Throughput(), *self.checkpoints]
            trainer = config.trainer
            if trainer.enable_progress_bar is not False and not _has_bar(trainer.callbacks):
                # Lightning's own draws itself in each step, for 1.5% of its time.
                always.append(TQDMProgressBar(refresh_rate=10))
            self.trainer_defaults["callbacks"] = always
        else:
            config.trainer.logger = config.trainer.enable_checkpointing = False
            self.save_config_callback = None

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Give the trainer its way of writing and reading checkpoints."""
        plugins = self._get(self.config_init, "trainer").plugins or []
        plugins = plugins if isinstance(plugins, list) else [plugins]
        kwargs["plugins"] = [*plugins, VerifiedCheckpointIO()]
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except ValueError as error:  # flags that do not go together
            raise MisconfigurationException(str(error)) from error
        if trainer.precision in ("64-true", "16-true", "bf16-true"):
            raise MisconfigurationException(
                f"trainer.precision {trainer.precision}: pixels and warps are float32; "
                "use 32-true, 16-mixed or bf16-mixed"
            )
        return trainer

    def before_fit(self) -> None:
        """Refuse to write over another run, before anything is written.

        Raises:
            ValueError: If the run's folder holds checkpoints, and it does not go on from the newest
                of them.
        """
        last = self.checkpoints[-1]
        last.setup(self.trainer, self.model, "fit")  # finds its folder
        folder, start = Path(str(last.dirpath)), self.config.fit.ckpt_path
        newest = max(folder.glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, default=None)
        goes_on = self.goes_on or (start and newest and newest.samefile(start))
        saves = not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if newest and saves and not goes_on:
            raise ValueError(
                f"{folder} holds another run's checkpoints: "
                "go on from them with --ckpt_path auto, or give this run a folder of its own"
            )

    def before_validate(self) -> None:
        """Refuse to validate on nothing.

        Raises:
            ValueError: If no images are held out.
        """
        if not self.datamodule.val_size:
            raise ValueError("there are no validation images: data.val_size is 0")

    def before_predict(self) -> None:
        """Find out before the work, not after it, that the output can't be written.

        Raises:
            OSError: If the output's folder does not exist or can't be written, or the output is a
                folder.
        """
        output = Path(self.config.predict.output)
        folder = output.parent
        if not folder.is_dir():
            raise FileNotFoundError(f"output: there is no folder {folder}")
        if output.is_dir():
            raise IsADirectoryError(f"output: {output} is a folder: name a file in it")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"output: {folder} can't be written")

    def predict(self, **kwargs: Any) -> None:
        """Write the digit and the probabilities of every image to a CSV file.

        Raises:
            ValueError: If there is no image.
        """
        batches = self.trainer.predict(**kwargs)
        if not batches:
            raise ValueError("nothing to predict: trainer.limit_predict_batches leaves no batch")
        shares: list[Any] = [batches]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, batches)
        if not self.trainer.is_global_zero:
            return
        # Each step's images are shared in the order of the ranks.
        probabilities = torch.cat([share for step in zip(*shares, strict=True) for share in step])
        output, data = Path(self.config.predict.output), self.datamodule
        indices = data.predict_indices[: len(probabilities)]  # limit_predict_batches leaves some
        write_predictions(output, data.predict_images, indices, probabilities)
        print(f"wrote {output}: {len(probabilities):,} images")

    def after_fit(self) -> None:
        """Say where the checkpoint lies, how to test it and how to see the curves."""
        # A run that ends before its first validation has no best one.
        path = next((c.best_model_path for c in self.checkpoints if c.best_model_path), "")
        if not self.trainer.is_global_zero or not path:
            return
        path = os.path.relpath(path)
        python = Path(sys.executable)
        if python.is_relative_to(Path.cwd()):
            python = python.relative_to(Path.cwd())
        print(f"\ncheckpoint  {path}")
        root = self.config.fit.data.root
        where = "" if root == "data" else f" --data.root {root}"
        print(f"test it     {python} -m mnist_lightning test --ckpt_path {path}{where}")
        if isinstance(self.trainer.logger, TensorBoardLogger):
            folder = self.trainer.logger.save_dir
            print(f"see curves  {python} -m tensorboard.main --logdir {folder}")


def _has_bar(callbacks: Any) -> bool:
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    return any("ProgressBar" in callback.class_path for callback in callbacks if callback)


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning each to the kernel: steps gain a quarter."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # other C libraries lack it
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, -1)
        mallopt(m_mmap_max, 0)


def _silence_what_no_user_can_change() -> None:
    # Lightning 2.6 asks torch about its trees in a way that newer torch calls deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
    # `test` and its like need none of the callbacks that `fit` had.
    warnings.filterwarnings(
        "ignore", message=".*callbacks used to create the checkpoint need to be"
    )
    # A run may end before its first validation: it has no best checkpoint, but a last one.
    warnings.filterwarnings("ignore", message=".*could not find the monitored key")
    # `Batches` asks the trainer where an epoch goes on; it keeps no state of its own.
    warnings.filterwarnings("ignore", message=".*dataloader is not resumable")
    # One that goes on in another folder begins a new list of best checkpoints there.
    warnings.filterwarnings("ignore", message="The dirpath has changed from")
    # A run that goes on does so in its own folder.
    warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
    unwanted = ("litlogger", "litmodels", "TPU available", "to estimate number of stepping batches")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(words in record.getMessage() for words in unwanted)
    )


def _explain_once(failure: threading.ExceptHookArgs) -> None:
    # Where its thread can't write a file, TensorBoard raises the same error in the main one.
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _raised_here(error: Exception) -> bool:
    """Tell whether this package raised the error, for its user, or a library, for its author."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
