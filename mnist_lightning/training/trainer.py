"""Trainer: Lightning's, with safe checkpoints, signals and predictions in a file."""

import warnings
from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from mnist_lightning.data.predictions import MARK, write_predictions
from mnist_lightning.errors import UserError
from mnist_lightning.files import check_output
from mnist_lightning.text import printable
from mnist_lightning.training.saving import SaveOnSignal, VerifiedCheckpointIO, checkpoints
from mnist_lightning.training.speed import Throughput

TRUE_HALF_OR_DOUBLE = ("64-true", "16-true", "bf16-true")


class Trainer(pl.Trainer):
    """Lightning's Trainer as the command line uses it, for Python too.

    It keeps `best.ckpt` and `last.ckpt`, each whole at any moment; ends on SIGTERM or Ctrl-C with
    `last.ckpt` saved; logs `train/images_per_second`; and `predict` can write a file.

    Args:
        callbacks: Callbacks beside those that do this.
        plugins: Lightning's plugins.
        enable_checkpointing: False keeps no checkpoint, and leaves signals to Lightning.
        enable_progress_bar: Whether to show a progress bar.
        limit_val_batches: As in Lightning; 0 for no validation, and so no `best.ckpt`.
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
        limit_val_batches: int | float | None = None,
        **settings: Any,
    ) -> None:
        # Lightning 2.6 asks torch about its trees in a way that newer torch calls deprecated.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*deprecated.*")
        given = callbacks if isinstance(callbacks, list) else [callbacks] if callbacks else []
        always: list[Callback] = []
        self.kept: list[ModelCheckpoint] = []
        if enable_checkpointing is not False:
            self.kept = checkpoints(validates=limit_val_batches != 0)
            always = [SaveOnSignal(self.kept[-1]), Throughput(), *self.kept]
            has_bar = any(isinstance(callback, ProgressBar) for callback in given)
            if enable_progress_bar is not False and not has_bar:
                # Lightning's own draws itself in each step, for 1.5% of its time.
                always.append(TQDMProgressBar(refresh_rate=10))
        plugins = plugins if isinstance(plugins, list) else [plugins] if plugins else []
        try:
            super().__init__(
                callbacks=[*always, *given],
                plugins=[*plugins, VerifiedCheckpointIO()],
                enable_checkpointing=enable_checkpointing,
                enable_progress_bar=enable_progress_bar,
                limit_val_batches=limit_val_batches,
                **settings,
            )
        except ValueError as error:  # arguments that do not go together
            raise MisconfigurationException(str(error)) from error
        if self.precision in TRUE_HALF_OR_DOUBLE:
            raise MisconfigurationException(
                f"trainer.precision {self.precision}: pixels and warps are float32; "
                "use 32-true, 16-mixed or bf16-mixed"
            )

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
            indices = data.predict_indices[
                : len(probabilities)
            ]  # limit_predict_batches leaves some
            write_predictions(output, data.predict_images, indices, probabilities)
            print(f"wrote {printable(str(output))}: {len(probabilities):,} images")
        return batches
