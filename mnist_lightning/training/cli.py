"""The command line: LightningCLI with this project's module and data.

On a laptop, on one GPU, on all GPUs of a machine:

    python -m mnist_lightning fit
    python -m mnist_lightning fit --trainer.devices 1
    python -m mnist_lightning fit --trainer.devices -1

`base.yaml` is what all settings begin with; `--config fast`, or any file, is laid over it.

The accelerator is chosen by what is there; `--trainer.accelerator cpu|gpu` insists on one.
Afterwards:

    python -m mnist_lightning test --ckpt_path runs/base/version_0/checkpoints/best.ckpt
    python -m mnist_lightning predict --ckpt_path runs/base/version_0/checkpoints/best.ckpt
"""

import os
import re
import shlex
import sys
from itertools import pairwise
from pathlib import Path
from pydoc import locate
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from jsonargparse import SUPPRESS, Namespace
from jsonargparse.typing import register_type, restricted_number_type
from lightning.pytorch.cli import (
    LightningArgumentParser,
    LightningCLI,
    LRSchedulerTypeTuple,
    SaveConfigCallback,
)
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.enums import LightningEnum

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.network import Network
from mnist_lightning.runs import run_folder
from mnist_lightning.text import printable, program, this_python
from mnist_lightning.training import tensorboard
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.mistakes import mistakes_named, quieten
from mnist_lightning.training.parser import (
    BASE,
    ConfigFile,
    Parser,
    brief,
    callbacks_of,
    without_trainers,
)
from mnist_lightning.training.progress import say, sentence
from mnist_lightning.training.record import made_with
from mnist_lightning.training.resume import (
    keep_metrics,
    logger_with_folder,
    use_checkpoint,
    use_network,
)
from mnist_lightning.training.speed import keep_freed_memory
from mnist_lightning.training.trainer import Trainer

# Where a run's config.yaml of earlier versions finds the callback `Pictures`.
sys.modules["mnist_lightning.callbacks"] = tensorboard

Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])

# What config.yaml can't hold of itself: defaults of StochasticWeightAveraging and of Timer.
register_type(torch.device, str)
yaml.SafeDumper.add_multi_representer(
    LightningEnum, lambda dumper, member: dumper.represent_str(member.value)
)

CLASS_PATH = "lightning.pytorch.loggers.TensorBoardLogger"

# What `--help` says of --ckpt_path.
OF_NEWEST = (
    "The checkpoint's file; `best`, `last` or `auto`, its newest, are of the newest run's, "
    "and so is `best` if none is given."
)
CKPT_PATH = {
    "fit": "Resume from this checkpoint's file; `auto`: from the newest one of the run's name, or "
    "start from scratch if there is none.",
    "validate": OF_NEWEST,
    "test": OF_NEWEST,
    "predict": OF_NEWEST,
}


def main() -> None:
    """Run fit, validate, test or predict, and end on a user's mistake with one line."""
    keep_freed_memory()
    if os.getcwd() not in sys.path:  # where `python -m` finds a class of one's own
        sys.path.append(os.getcwd())
    quieten()
    with mistakes_named():
        CLI(
            MNISTClassifier,
            MNISTDataModule,
            trainer_class=Trainer,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},
            seed_everything_default=42,
            parser_kwargs={
                "prog": program(),
                "description": "Train, validate and test a small CNN on MNIST.",
                "allow_abbrev": False,
                **{
                    name: {
                        "usage": f"{program()} {name} [--SETTING VALUE] ...",
                        "ckpt_path": text,
                        "default_config_files": [str(BASE)] if name == "fit" else None,
                    }
                    for name, text in CKPT_PATH.items()
                },
            },
            parser_class=Parser,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )


class SaveConfig(SaveConfigCallback):
    """Saves all settings as config.yaml, under some lines that tell this run from others."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Save them."""
        self.parser.dump_header = [f"{name}: {value}" for name, value in made_with(trainer).items()]
        super().setup(trainer, pl_module, stage)


class CLI(LightningCLI):
    """fit, validate, test and predict, with a checkpoint's own settings if one is given."""

    parser: Parser
    trainer: Trainer

    def init_parser(self, **settings: Any) -> LightningArgumentParser:
        """Return a parser with `--config`."""
        parser = self.parser_class(**settings)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigFile,
            help="A file of settings in YAML, or the name of one that the package carries.",
        )
        return parser

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed, as a number: Lightning's own argument takes `true`, which means 0."""
        parser.add_argument(
            "--seed_everything",
            type=Seed,
            default=self.seed_everything_default,
            help="Seed of the weights, the order of the images, their warps and dropout.",
        )

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the settings, Lightning's own last."""
        parser.add_lightning_class_args(MNISTClassifier, "model")
        parser.add_lightning_class_args(MNISTDataModule, "data")
        parser.add_lightning_class_args(Trainer, "trainer")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add `--ckpt_path`: Lightning's own help names words that are not taken here."""
        assert isinstance(parser, Parser)
        parser.add_argument("--ckpt_path", type=str | None, default=None, help=parser.ckpt_path)
        # The others accept fit's own settings too, since its config.yaml holds them.
        help_ = (
            "Checkpoint or .safetensors file, or `shipped`, whose network a new run starts from, "
            "with its settings."
        )
        is_fit = not self.parser.subparsers
        parser.add_argument(
            "--init_weights", type=str | None, default=None, help=help_ if is_fit else SUPPRESS
        )
        parser.add_optimizer_args((torch.optim.Optimizer,))
        parser.add_lr_scheduler_args(LRSchedulerTypeTuple)
        parser.add_subclass_arguments(Network, "network", required=False, instantiate=False)
        for name in ("optimizer", "lr_scheduler"):  # a checkpoint keeps what is plain
            parser.link_arguments(name, f"model.{name}", lambda each: each and each.as_dict())
        parser.link_arguments("network", "model.network", _by_its_own_name)
        self.parser.subparsers.append(parser)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return Lightning's subcommands, each with the arguments that are no flags."""
        subcommands = LightningCLI.subcommands()
        subcommands["predict"].add("return_predictions")  # they go to a file
        return {
            name: {*skipped, "ckpt_path", "init_weights"} for name, skipped in subcommands.items()
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, then take from a checkpoint what was not given, see `use_checkpoint`."""
        super().parse_arguments(parser, args)
        subcommand = self.config.subcommand
        if subcommand == "fit":
            self._note_replaced_callbacks()
        given = parser.parse_args(without_trainers(args), defaults=False)[subcommand]
        trainer = self.config[subcommand].trainer
        if trainer.logger is True:  # Lightning's own choice, by name, so that it can be resumed
            where = Namespace(save_dir=trainer.default_root_dir or ".", version=None)
            where.name = "lightning_logs"
            trainer.logger = Namespace(class_path=CLASS_PATH, init_args=where)
        self.start = use_checkpoint(subcommand, self.config[subcommand], given)
        if subcommand == "fit" and self.start is None and self.config.fit.init_weights is not None:
            words = sys.argv[1:] if args is None else args
            flags = {word[2:].partition("=")[0] for word in words if word.startswith("--")}
            use_network(self.config.fit, flags)
        if self.start and self.start.in_place:
            self.save_config_callback = None  # its folder has one

    def _note_replaced_callbacks(self) -> None:
        """Say which callbacks a file, or a flag, took out by naming others."""
        fit = self.parser.subparsers[0]
        first, end = callbacks_of(fit.get_defaults()), callbacks_of(self.config.fit)
        for (_, before), (file, after) in pairwise([("", first), *fit.callbacks, ("", end)]):
            lost = ", ".join(name for name in before if name not in after)
            if lost and after:  # an empty list means what it says
                how = "`callbacks+:`" if file else "`--trainer.callbacks+=`"
                line = f"note: {file or '--trainer.callbacks'} replaces {lost}; {how} appends"
                rank_zero_only(print)(printable(line), file=sys.stderr)

    def before_instantiate_classes(self) -> None:
        """Let `fit` keep checkpoints and curves, and the others leave nothing behind."""
        config = self.config[self.subcommand]
        if config.trainer.barebones:
            # Lightning refuses what it would leave out anyway.
            config.trainer.logger = config.trainer.enable_checkpointing = False
            config.trainer.log_every_n_steps = self.save_config_callback = None
        if self.subcommand == "fit":
            if not config.data.val_size and config.data.extra is None:
                config.trainer.limit_val_batches = 0
        else:
            config.trainer.logger = config.trainer.enable_checkpointing = False
            self.save_config_callback = None

    def instantiate_classes(self) -> None:
        """Build the trainer, and hand it the checkpoint that was read.

        Raises:
            UserError: If a class that the user chose refuses its arguments, or lacks a package.
        """
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except ValueError as error:  # jsonargparse's, around what a class said
            said = re.search(r"Problem with given class_path '(.*)':\s+(.*)", str(error))
            if said:
                raise UserError(f"{said[1].rpartition('.')[2]}: {said[2]}") from error
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            if cause is error:
                raise
            raise UserError(str(cause)) from error
        if self.subcommand == "fit":
            base = self.parser.subparsers[0].get_defaults()
            self.trainer.differences = _differences(self.config.fit, base) or "nothing"
        if self.start:
            self.trainer.checkpoint_io.already_read[self.start.path] = self.start.checkpoint
            if self.start.in_place:
                self.trainer.folder = os.path.relpath(run_folder(self.start.path))

    def before_fit(self) -> None:
        """Refuse to write over another run, before anything is written, and keep its own metrics.

        Raises:
            UserError: If the run's folder holds checkpoints, and it does not resume from the newest
                of them.
        """
        if self.start and self.start.in_place:
            for each in self.trainer.loggers:
                if isinstance(each, CSVLogger):
                    keep_metrics(each, self.start.checkpoint["global_step"])
        logger = logger_with_folder(self.config.fit.trainer)
        if not self.trainer.kept or logger is None or logger.init_args.version is None:
            return  # it keeps no checkpoint, or gets a new folder
        last = self.trainer.kept[-1]
        last.setup(self.trainer, self.model, "fit")  # finds its folder
        folder = Path(str(last.dirpath))
        saves = not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        start = self.start
        resumes = start and start.is_newest and run_folder(start.path) == folder.resolve().parent
        if saves and not resumes and any(folder.glob("*.ckpt")):
            raise UserError(
                f"{folder} holds another run's checkpoints: "
                "resume from them with --ckpt_path auto, or give this run a folder of its own"
            )

    def before_validate(self) -> None:
        """Refuse to validate on nothing.

        Raises:
            UserError: If no images are held out.
        """
        if not self.datamodule.val_size and self.datamodule.extra is None:
            raise UserError(
                "there are no validation images: data.val_size is 0; of a run with own pictures "
                "--data.extra FOLDER validates on those that it held out"
            )

    def fit(self, **settings: Any) -> None:
        """Train."""
        config = self.config.fit
        self.trainer.fit(**settings, ckpt_path=config.ckpt_path, init_weights=config.init_weights)

    def validate(self, **settings: Any) -> None:
        """Measure on the validation images."""
        self.trainer.validate(**settings, ckpt_path=self.config.validate.ckpt_path)

    def test(self, **settings: Any) -> None:
        """Measure on the test images."""
        self.trainer.test(**settings, ckpt_path=self.config.test.ckpt_path)

    def predict(self, output: str | None = None, **settings: Any) -> None:
        """Write predictions to a file, `predictions.csv` if none is named."""
        output = output or "predictions.csv"
        self.trainer.predict(output=output, **settings, ckpt_path=self.config.predict.ckpt_path)

    def after_fit(self) -> None:
        """Say where the checkpoint lies, how to test it and how to see the curves."""
        # A run that ends before its first validation has no best one.
        kept = self.trainer.kept
        path = next((keep.best_model_path for keep in kept if keep.best_model_path), "")
        if not self.trainer.is_global_zero:
            return
        for callback in self.trainer.early_stopping_callbacks:
            if callback.stopping_reason_message:
                reason = callback.stopping_reason_message.partition(" Signaling")[0]
                print(f"\nstopped early, after epoch {callback.stopped_epoch}: {reason}")
        if not kept and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print("\nno checkpoint was kept: this run was told to keep none")
        if not path:
            return
        path = os.path.relpath(path)
        root = self.config.fit.data.root
        module, data = [this_python(), "-m"], [] if root == "data" else ["--data.root", root]
        lines = {
            "checkpoint": [path],
            "test it": [*module, "mnist_lightning", "test", "--ckpt_path", path, *data],
        }
        for logger in self.trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                lines["see curves"] = [*module, "tensorboard.main", "--logdir", logger.save_dir]
            elif isinstance(logger, CSVLogger):
                lines.setdefault("see curves", [os.path.relpath(f"{logger.log_dir}/metrics.csv")])
        score = kept[0].best_model_score
        if score is not None:
            # Whole writers are seldom just val_size, and limit_val_batches may leave fewer
            num = len(self.datamodule.val_indices)
            num = int(self.trainer.callback_metrics.get("val/images", num))
            figures = {"errors": round((1 - float(score)) * num), "images": num}
            say(f"best epoch  {sentence({**figures, 'accuracy': float(score)}, 'validation')}")
        for name, words in lines.items():
            say(f"{name:<11} {shlex.join(words)}")


def _differences(config: Namespace, base: Namespace) -> str:
    """Return the settings in which a run differs from base.yaml, as flags without their dashes."""
    told_elsewhere = ("config", "ckpt_path", "trainer.logger", "data.root")
    twice = ("optimizer", "lr_scheduler", "model.network")
    return " ".join(
        f"{name}={brief(value)}"
        for name, value in config.items()
        if not name.startswith(told_elsewhere + twice) and value != base.get(name)
    )


def _by_its_own_name(network: Namespace | None) -> dict[str, Any] | None:
    """Return a network that the user chose as plain values, named by the module that defines it."""
    if network is None:
        return None
    class_: Any = locate(network.class_path)
    return {**network.as_dict(), "class_path": f"{class_.__module__}.{class_.__qualname__}"}
