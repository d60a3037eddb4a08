"""Trainer: Lightning's, with safe checkpoints, signals and predictions in a file."""

import copy
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar, Timer
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning.checkpoint import load
from mnist_lightning.data.predictions import MARK, write_predictions
from mnist_lightning.errors import UserError
from mnist_lightning.files import check_output, replace_file
from mnist_lightning.runs import UNNAMED
from mnist_lightning.training.progress import (
    Bar,
    EpochLine,
    drop_unwanted_lines,
    has_room_for_a_bar,
    is_interactive,
    say,
    sentence,
)
from mnist_lightning.training.record import Record
from mnist_lightning.training.saving import (
    CheckMonitors,
    FollowUntilAveraged,
    SafeModelCheckpoint,
    SaveOnSignal,
    VerifiedCheckpointIO,
)
from mnist_lightning.training.speed import Throughput
from mnist_lightning.training.tensorboard import Settings

# Loggers that give each run a folder; what they log, and all else that a run makes, lies in it.
WITH_FOLDERS = (TensorBoardLogger, CSVLogger)

# How a file of figures is known as ours.
FIGURES = rb'\A\{\n  "mnist_lightning": "'

TRUE_HALF_OR_DOUBLE = ("64-true", "16-true", "bf16-true")


class Trainer(pl.Trainer):
    """Lightning's Trainer as the command line uses it, for Python too.

    It keeps `best.ckpt`, by `val/accuracy`, and `last.ckpt`, each whole at any moment; gives each
    run a folder of its own; ends on SIGTERM, SIGHUP or Ctrl-C with `last.ckpt` saved, and lets a
    notebook's kernel live; prints a line an epoch; logs `train/images_per_second`; and `validate`,
    `test` and `predict` can write a file.

    A run's folder is that of its first TensorBoardLogger or CSVLogger, or else a new one in
    `runs/mnist`.

    Args:
        callbacks: Callbacks beside those that do this.
        plugins: Lightning's plugins.
        enable_checkpointing: False keeps no checkpoint, and leaves signals to Lightning.
        enable_progress_bar: Whether to show a progress bar; null, on a terminal only.
        enable_model_summary: Whether to print Lightning's table of the layers.
        settings: All other arguments of Lightning's Trainer.

    Raises:
        MisconfigurationException: If the arguments do not go together.
    """

    def __init__(
        self,
        *,
        callbacks: list[Callback] | Callback | None = None,
        plugins: Any = None,
        enable_checkpointing: bool | None = None,
        enable_progress_bar: bool | None = None,
        enable_model_summary: bool | None = False,
        **settings: Any,
    ) -> None:
        # Lightning 2.6 asks torch about its trees in a way that newer torch calls deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
        # A CSVLogger's folder holds config.yaml.
        warnings.filterwarnings("ignore", message="Experiment logs directory .* is not empty")
        # The interval is then shortened.
        warnings.filterwarnings("ignore", message=".*smaller than the logging interval")
        drop_unwanted_lines()
        given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        self.throughput = Throughput()
        always: list[Callback] = [self.throughput, Record(), Settings()]
        self.differences = ""  # from base.yaml, as the command line finds them
        self.kept: list[SafeModelCheckpoint] = []
        self.folder: str | None = None
        # What it and others do at a step's end, as averaging, belongs into what a signal saves.
        first: list[Callback] = [EpochLine()]
        if settings.get("barebones"):
            first, always, enable_checkpointing = [], [], False
        if enable_checkpointing is not False:
            best = SafeModelCheckpoint("best", monitor="val/accuracy", mode="max")
            last = SafeModelCheckpoint("last")
            self.kept = [best, last]
            first += [FollowUntilAveraged(), CheckMonitors(last)]
            if settings.get("max_time") and not any(isinstance(each, Timer) for each in given):
                # Lightning's own would come after what saves when the time is up
                first.append(Timer(settings.pop("max_time")))
            always = [SaveOnSignal(last), *always, *self.kept]
        has_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if enable_progress_bar is None:
            enable_progress_bar = has_bar or (has_room_for_a_bar() and bool(always))
        if enable_progress_bar and not has_bar:
            always.append(Bar())
        self.checkpoint_io = VerifiedCheckpointIO()
        plugins = plugins if isinstance(plugins, list) else [plugins] if plugins else []
        try:
            super().__init__(
                callbacks=[*first, *given, *always],
                plugins=[*plugins, self.checkpoint_io],
                enable_checkpointing=enable_checkpointing,
                enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary,
                **settings,
            )
        except (ValueError, RuntimeError) as error:  # arguments that do not go together
            raise MisconfigurationException(str(error)) from error
        if self.precision in TRUE_HALF_OR_DOUBLE:
            raise MisconfigurationException(
                f"trainer.precision {self.precision}: pixels and warps are float32; "
                "use 32-true, 16-mixed or bf16-mixed"
            )
        for few, many in (("min_epochs", "max_epochs"), ("min_steps", "max_steps")):
            low, high = settings.get(few) or 0, settings.get(many)
            if high not in (None, -1) and low > high:
                raise MisconfigurationException(f"trainer.{few} {low} is above {many}, {high}")
        if settings.get("check_val_every_n_epoch") == 0:
            raise MisconfigurationException(
                "trainer.check_val_every_n_epoch 0: for no validation, give data.val_size 0"
            )
        asked = self.num_devices * self.num_nodes
        # Lightning refuses too many tasks, and trains on one if there is one.
        environment = getattr(self.strategy, "cluster_environment", None)
        is_slurm = isinstance(environment, SLURMEnvironment)  # not torchrun within a SLURM job
        tasks = int(os.environ["SLURM_NTASKS"]) if is_slurm else asked
        if tasks < asked:
            raise MisconfigurationException(
                f"SLURM started {tasks} task(s) for {asked} devices: give srun --nodes "
                f"{self.num_nodes} --ntasks-per-node {self.num_devices}"
            )

    @property
    def log_dir(self) -> str | None:
        """Return the run's folder, the same on every rank; to be asked for on all of them."""
        logs = [logger.log_dir for logger in self.loggers if isinstance(logger, WITH_FOLDERS)]
        return self.strategy.broadcast(logs[0]) if logs else self.folder or super().log_dir

    def fit(self, *arguments: Any, init_weights: str | None = None, **settings: Any) -> None:
        """Train as Lightning does, each run in a folder of its own.

        Args:
            arguments: Those of Lightning's `fit`.
            init_weights: A checkpoint or `.safetensors` file, or `shipped` for the network that
                comes with the package, whose weights a new run starts from.
            settings: Those of Lightning's `fit`.

        Raises:
            UserError: If the file's network is not this run's, the run resumes, or no batch is left
                to train on.
        """
        if self.limit_train_batches == 0:
            raise UserError("trainer.limit_train_batches 0 leaves nothing to train on")
        if init_weights is not None:
            given = signature(pl.Trainer.fit).bind(self, *arguments, **settings).arguments
            if given.get("ckpt_path") is not None:
                raise UserError("init_weights starts a new run, ckpt_path resumes one: give either")
            _start_from(given["model"], init_weights)
        claimed = []
        for i, logger in enumerate(self.loggers if self.is_global_zero else []):
            claim = _claim_folder(logger) if isinstance(logger, WITH_FOLDERS) else None
            if claim:
                self.loggers[i] = claim
                claimed.append(Path(claim.log_dir))
        keeps = self.kept and not self.fast_dev_run  # type: ignore[attr-defined]
        if keeps and not any(isinstance(logger, WITH_FOLDERS) for logger in self.loggers):
            if self.folder is None:
                self.folder = self.strategy.broadcast(self._claim_own_folder())
                claimed += [Path(str(self.folder))] if self.is_global_zero else []
        try:
            with _session_kept():
                super().fit(*arguments, **settings)
        except BaseException:
            for folder in claimed if not self.throughput.has_begun else []:
                if not any(folder.rglob("*.ckpt")):
                    shutil.rmtree(folder, ignore_errors=True)
            raise

    def validate(
        self,
        model: pl.LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: pl.LightningDataModule | None = None,
        weights_only: bool | None = None,
        output: str | Path | None = None,
        overwrite: bool = False,
    ) -> Any:
        """Measure on the validation images as Lightning does, and say the figures in a sentence.

        Args:
            model: As in Lightning's `validate`, like all that is not named here.
            dataloaders: The same.
            ckpt_path: The same.
            verbose: Whether to say it.
            datamodule: The same.
            weights_only: The same; of a checkpoint's file, nothing but weights and settings is
                ever read.
            output: A JSON file for the figures.
            overwrite: Whether to replace a file that mnist_lightning did not write.

        Returns:
            What Lightning returns: for each dataloader the figures by their names.

        Raises:
            OSError: If the output can't be written.
            UserError: If the output can't be written or is a user's own file, which is found out
                before the work.
        """
        _check_figures(output, overwrite, ckpt_path)
        with _session_kept():
            results = super().validate(
                model, dataloaders, ckpt_path, False, datamodule, weights_only=weights_only
            )
        self._tell("validation", verbose, output, ckpt_path)
        return results

    def test(
        self,
        model: pl.LightningModule | None = None,
        dataloaders: Any = None,
        ckpt_path: str | Path | None = None,
        verbose: bool = True,
        datamodule: pl.LightningDataModule | None = None,
        weights_only: bool | None = None,
        output: str | Path | None = None,
        overwrite: bool = False,
    ) -> Any:
        """Measure on the test images as Lightning does, and say the figures in a sentence.

        Args:
            model: As in Lightning's `test`, like all that is not named here.
            dataloaders: The same.
            ckpt_path: The same.
            verbose: Whether to say it.
            datamodule: The same.
            weights_only: The same; of a checkpoint's file, nothing but weights and settings is
                ever read.
            output: A JSON file for the figures.
            overwrite: Whether to replace a file that mnist_lightning did not write.

        Returns:
            What Lightning returns: for each dataloader the figures by their names.

        Raises:
            OSError: If the output can't be written.
            UserError: If the output can't be written or is a user's own file, which is found out
                before the work.
        """
        _check_figures(output, overwrite, ckpt_path)
        with _session_kept():
            results = super().test(
                model, dataloaders, ckpt_path, False, datamodule, weights_only=weights_only
            )
        self._tell("test", verbose, output, ckpt_path)
        return results

    def _claim_own_folder(self) -> str | None:
        """Make a folder for a run whose loggers have none, in `runs/mnist`."""
        if not self.is_global_zero:
            return None
        parent = Path(self.default_root_dir, UNNAMED)
        number = next(i for i in itertools.count() if not (parent / f"version_{i}").exists())
        while True:
            folder = parent / f"version_{number}"
            try:
                folder.mkdir(parents=True)
                return str(folder)
            except FileExistsError:  # another run, at this instant
                number += 1

    def predict(
        self,
        *arguments: Any,
        output: str | Path | None = None,
        overwrite: bool = False,
        **settings: Any,
    ) -> Any:
        """Predict as Lightning does, and write each image's probabilities to a CSV file.

        Args:
            arguments: Those of Lightning's `predict`.
            output: The CSV file, which has a line for each image, from all processes; None to
                return what Lightning returns. The data must be an `MNISTDataModule`'s.
            overwrite: Whether to replace a file that `predict` did not write.
            settings: Those of Lightning's `predict`.

        Raises:
            OSError: If the output can't be written.
            UserError: If the output can't be written or is a user's own file, which is found out
                before the work, or there is no image.
        """
        if output is None:
            with _session_kept():
                return super().predict(*arguments, **settings)
        output = Path(output)
        given = signature(pl.Trainer.predict).bind(self, *arguments, **settings).arguments
        if given.get("return_predictions") is False:
            raise UserError("return_predictions False leaves nothing to write: leave it out")
        data = given.get("datamodule") or given.get("dataloaders")
        inputs = filter(None, [given.get("ckpt_path"), getattr(data, "pseudo_labels", None)])
        check_output(output, MARK, inputs, overwrite, flag="--overwrite true")
        with _session_kept():
            batches = super().predict(*arguments, **settings)
        if not batches:
            raise UserError("nothing to predict: trainer.limit_predict_batches leaves no batch")
        shares: list[Sequence[Any]] = [batches]
        if self.world_size > 1:
            shares = [[]] * self.world_size
            torch.distributed.all_gather_object(shares, batches)
        if self.is_global_zero:
            # Each step's images are shared in the order of the ranks.
            steps = zip(*shares, strict=True)
            probabilities = torch.cat([share for step in steps for share in step])
            data = self.datamodule  # type: ignore[attr-defined]
            # Fewer than all if limit_predict_batches leaves some.
            indices = data.predict_indices[: len(probabilities)]
            test = data.predict_images.endswith("/test")
            labels = data.test_labels[torch.as_tensor(indices)] if test else None
            write_predictions(output, data.predict_images, indices, probabilities, labels)
            say(f"wrote {output}: {len(probabilities):,} images")
        return batches

    def _tell(
        self,
        images: str,
        verbose: bool,
        output: str | Path | None,
        ckpt_path: str | Path | None,
    ) -> None:
        """Say the figures of the last measurement, and write them for programs."""
        if not self.is_global_zero:
            return
        figures = {
            name.partition("/")[2] or name: float(f"{float(value):.7g}")  # it is float32
            for name, value in self.callback_metrics.items()
        }
        figures |= {name: int(figures[name]) for name in ("errors", "images") if name in figures}
        if verbose:
            say(sentence(figures, images) or f"there are no {images} figures")
        if output is not None:
            record = {"mnist_lightning": version("mnist_lightning"), "set": images, **figures}
            record["checkpoint"] = None if ckpt_path is None else str(ckpt_path)
            replace_file(Path(output), (json.dumps(record, indent=2) + "\n").encode())


class Stopped(KeyboardInterrupt):
    """Ends a notebook's cell, or what was typed; what was stopped has said so itself."""

    def _render_traceback_(self) -> list[str]:  # which IPython shows in place of Lightning's code
        return [type(self).__name__]


@contextmanager
def _session_kept() -> Iterator[None]:
    """Stop what runs, and not Python, if a person types into it.

    Raises:
        Stopped: In place of `SystemExit`, which Lightning raises for Ctrl-C.
    """
    others = set(multiprocessing.active_children())
    try:
        yield
    except SystemExit:
        if not is_interactive():
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning may have ignored it
        # Those of `ddp_notebook` were told too: they save, and then they end.
        with suppress(KeyboardInterrupt):
            for process in set(multiprocessing.active_children()) - others:
                process.join()
        raise Stopped from None


def _check_figures(
    output: str | Path | None, overwrite: bool, ckpt_path: str | Path | None
) -> None:
    if output is not None:
        inputs = [ckpt_path] if ckpt_path else []
        check_output(Path(output), FIGURES, inputs, overwrite, flag="--overwrite true")


def _start_from(module: Any, path: str) -> None:
    """Put a file's weights into a module's network."""
    weights = (load() if path == "shipped" else load(path)).state_dict()
    here = module.network.state_dict()
    if {n: w.shape for n, w in weights.items()} != {n: w.shape for n, w in here.items()}:
        raise UserError(f"{path} holds another network than this run's: give the settings of it")
    module.network.load_state_dict(weights)


def _claim_folder(logger: Any) -> Any:
    """Make a new run's folder, so that another run that starts now takes a later version.

    Returns:
        A copy of the logger, whose folder this call has made; None if the logger was given a
        version whose folder is there.
    """
    taken = None
    while True:
        claim = copy.copy(logger)  # a logger keeps the version that it has chosen
        folder = Path(claim.log_dir)
        if folder == taken:
            return None
        try:
            folder.mkdir(parents=True)
            return claim
        except FileExistsError:
            taken = folder
