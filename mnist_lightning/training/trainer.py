"""Trainer: Lightning's, with safe checkpoints, signals and predictions in a file."""

import copy
import json
import warnings
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning.data.predictions import MARK, write_predictions
from mnist_lightning.errors import UserError
from mnist_lightning.files import check_output, replace_file
from mnist_lightning.training.progress import (
    Bar,
    EpochLine,
    drop_unwanted_lines,
    has_room_for_a_bar,
    say,
    sentence,
)
from mnist_lightning.training.record import Record
from mnist_lightning.training.saving import SafeModelCheckpoint, SaveOnSignal, VerifiedCheckpointIO
from mnist_lightning.training.speed import Throughput

# How a file of figures is known as ours.
FIGURES = rb'\A\{\n  "mnist_lightning": "'

TRUE_HALF_OR_DOUBLE = ("64-true", "16-true", "bf16-true")


class Trainer(pl.Trainer):
    """Lightning's Trainer as the command line uses it, for Python too.

    It keeps `best.ckpt`, by `val/accuracy`, and `last.ckpt`, each whole at any moment; gives each
    run a folder of its own; ends on SIGTERM, SIGHUP or Ctrl-C with `last.ckpt` saved; prints a line
    an epoch; logs `train/images_per_second`; and `validate`, `test` and `predict` can write a file.

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
        drop_unwanted_lines()
        given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        always: list[Callback] = []
        self.differences = ""  # from base.yaml, as the command line finds them
        self.kept: list[SafeModelCheckpoint] = []
        if enable_checkpointing is not False:
            best = SafeModelCheckpoint("best", monitor="val/accuracy", mode="max")
            last = SafeModelCheckpoint("last")
            self.kept = [best, last]
            always = [SaveOnSignal(last), Throughput(), EpochLine(), Record(), *self.kept]
        has_bar = any(isinstance(callback, ProgressBar) for callback in given)
        if enable_progress_bar is None:
            enable_progress_bar = has_bar or has_room_for_a_bar()
        if enable_progress_bar and not has_bar:
            always.append(Bar())
        self.checkpoint_io = VerifiedCheckpointIO()
        plugins = plugins if isinstance(plugins, list) else [plugins] if plugins else []
        try:
            super().__init__(
                # What others do at a step's end, as averaging, belongs into what a signal saves.
                callbacks=[*given, *always],
                plugins=[*plugins, self.checkpoint_io],
                enable_checkpointing=enable_checkpointing,
                enable_progress_bar=enable_progress_bar,
                enable_model_summary=enable_model_summary,
                **settings,
            )
        except ValueError as error:  # arguments that do not go together
            raise MisconfigurationException(str(error)) from error
        if self.precision in TRUE_HALF_OR_DOUBLE:
            raise MisconfigurationException(
                f"trainer.precision {self.precision}: pixels and warps are float32; "
                "use 32-true, 16-mixed or bf16-mixed"
            )

    def fit(self, *arguments: Any, **settings: Any) -> None:
        """Train as Lightning does, in a folder that no other run takes at the same time.

        Args:
            arguments: Those of Lightning's `fit`.
            settings: Those of Lightning's `fit`.
        """
        claimed = []
        for i, logger in enumerate(self.loggers if self.is_global_zero else []):
            claim = _claim_folder(logger) if isinstance(logger, TensorBoardLogger) else None
            if claim:
                self.loggers[i] = claim
                claimed.append(Path(claim.log_dir))
        try:
            super().fit(*arguments, **settings)
        except BaseException:
            for folder in claimed:
                with suppress(OSError):  # unless the run has left something in it
                    folder.rmdir()
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
        results = super().test(
            model, dataloaders, ckpt_path, False, datamodule, weights_only=weights_only
        )
        self._tell("test", verbose, output, ckpt_path)
        return results

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
            return super().predict(*arguments, **settings)
        output = Path(output)
        given = signature(pl.Trainer.predict).bind(self, *arguments, **settings).arguments
        data = given.get("datamodule") or given.get("dataloaders")
        inputs = filter(None, [given.get("ckpt_path"), getattr(data, "pseudo_labels", None)])
        check_output(output, MARK, inputs, overwrite, flag="--overwrite true")
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
            write_predictions(output, data.predict_images, indices, probabilities)
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


def _check_figures(
    output: str | Path | None, overwrite: bool, ckpt_path: str | Path | None
) -> None:
    if output is not None:
        inputs = [ckpt_path] if ckpt_path else []
        check_output(Path(output), FIGURES, inputs, overwrite, flag="--overwrite true")


def _claim_folder(logger: TensorBoardLogger) -> TensorBoardLogger | None:
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
