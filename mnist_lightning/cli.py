"""The command line: LightningCLI with this project's module and data.

On a laptop, on one GPU, on all GPUs of a machine:

    python -m mnist_lightning fit --config configs/base.yaml
    python -m mnist_lightning fit --config configs/base.yaml --trainer.accelerator gpu --trainer.devices 1
    python -m mnist_lightning fit --config configs/base.yaml --trainer.accelerator gpu --trainer.devices -1
    python -m mnist_lightning test --ckpt_path runs/base/version_0/checkpoints/best.ckpt
"""

import csv
import ctypes
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from jsonargparse import ArgumentParser, Namespace
from jsonargparse.typing import restricted_number_type
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning.callbacks import Throughput, checkpoints
from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.classifier import MNISTClassifier
from mnist_lightning.data import MNISTDataModule

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

# Settings of the data that a run may change without becoming another run.
FREE_DATA_SETTINGS = {"root", "eval_batch_size"}

TENSORBOARD = {
    "class_path": "TensorBoardLogger",
    "init_args": {"save_dir": "runs", "name": "mnist", "default_hp_metric": False},
}


def main() -> None:
    """Run the command line; a user's mistake ends it with one line and an exit code that is not 0."""
    _keep_freed_memory()
    _silence_what_no_user_can_change()
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
    except (ValueError, OSError, MisconfigurationException) as error:
        if isinstance(error, ValueError) and not _raised_here(error):
            raise
        sys.exit(f"error: {error}")


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

    def _prepare_subcommand_parser(
        self, klass: type, subcommand: str, **kwargs: Any
    ) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str,
                default="predictions.csv",
                help="CSV file for each test image's digit and ten probabilities.",
            )
        return parser

    def parse_arguments(self, parser: ArgumentParser, args: Any) -> None:
        """Parse, then take from the checkpoint what was not given.

        Raises:
            ValueError: If something given contradicts the checkpoint, or none is given to read.
        """
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        config = self.config[subcommand]
        if subcommand != "fit":
            if config.ckpt_path is None:
                raise ValueError(f"{subcommand} needs --ckpt_path FILE, a checkpoint that `fit` wrote")
            # These three read a run; they leave none behind.
            config.trainer.logger = False
            self.save_config_callback = None
        if config.ckpt_path is not None:
            given = parser.parse_args(args, defaults=False)[subcommand]
            checkpoint = read_checkpoint(config.ckpt_path)
            _take("model", checkpoint["hyper_parameters"], config, given)
            data = checkpoint["datamodule_hyper_parameters"]
            data = {name: data[name] for name in data.keys() - FREE_DATA_SETTINGS}
            _take("data", data, config, given, refuse=subcommand == "fit")

    def before_instantiate_classes(self) -> None:
        """Add the callbacks that every run has."""
        validates = self.config[self.subcommand].data.val_size > 0
        self.trainer_defaults["callbacks"] = [*checkpoints(validates), Throughput()]

    def before_predict(self) -> None:
        """Find out before the work, not after it, that the output can't be written.

        Raises:
            FileNotFoundError: If the output's folder does not exist.
        """
        folder = Path(self.config.predict.output).parent
        if not folder.is_dir():
            raise FileNotFoundError(f"output: there is no folder {folder}")

    def predict(self, **kwargs: Any) -> None:
        """Write the digit and the probabilities of every test image to a CSV file."""
        batches = self.trainer.predict(self.model, datamodule=self.datamodule, **kwargs)
        shares = [batches]
        if self.trainer.world_size > 1:
            shares = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(shares, batches)
        if not self.trainer.is_global_zero:
            return
        # Each step's images are shared in the order of the ranks.
        probabilities = torch.cat([share for step in zip(*shares, strict=True) for share in step])
        output = Path(self.config.predict.output)
        partial = output.with_name(output.name + ".partial")
        with partial.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "digit", *(f"p{digit}" for digit in range(10))])
            for image, row in enumerate(probabilities.tolist()):
                writer.writerow([image, row.index(max(row)), *(f"{p:.6g}" for p in row)])
        os.replace(partial, output)
        print(f"wrote {output}: {len(probabilities):,} images")

    def after_fit(self) -> None:
        """Say where the checkpoint lies, how to test it and how to see the curves."""
        if not self.trainer.is_global_zero or self.trainer.fast_dev_run:
            return
        python = Path(sys.executable)
        if python.is_relative_to(Path.cwd()):
            python = python.relative_to(Path.cwd())
        path = os.path.relpath(self.trainer.checkpoint_callbacks[0].best_model_path)
        print(f"\ncheckpoint  {path}")
        print(f"test it     {python} -m mnist_lightning test --ckpt_path {path}")
        if self.trainer.logger:
            print(f"curves      {python} -m tensorboard.main --logdir {self.trainer.logger.save_dir}")


def _take(
    part: str, saved: dict[str, Any], config: Namespace, given: Namespace, refuse: bool = True
) -> None:
    """Put a checkpoint's settings where the user gave none; refuse or report a contradiction."""
    for name, value in saved.items():
        key = f"{part}.{name}"
        if key not in given:
            config[key] = value
        elif config[key] != value:
            message = f"{key} is {config[key]}, but the checkpoint has {value}"
            if refuse:
                raise ValueError(f"{message}: leave it out, or start without the checkpoint")
            print(f"note: {message}", file=sys.stderr)


def _keep_freed_memory() -> None:
    """Let glibc keep freed blocks, not return each to the kernel: a quarter of a CPU step's time."""
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it
        if mallopt:
            trim_threshold, mmap_max = -1, -4
            mallopt(trim_threshold, -1)
            mallopt(mmap_max, 0)


def _silence_what_no_user_can_change() -> None:
    # Lightning 2.6 asks torch about its trees in a way that torch 2.10 and later call deprecated.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")


def _raised_here(error: Exception) -> bool:
    """Tell whether this package raised the error, for its user, or a library did, for its author."""
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).is_relative_to(Path(__file__).parent)
