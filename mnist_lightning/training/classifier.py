"""MNISTClassifier: the network with its loss, metrics, optimizer and schedule."""

import math
import warnings
from functools import partial
from typing import Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import StochasticWeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassAccuracy, MulticlassCalibrationError
from torchmetrics.functional.classification import multiclass_accuracy
from torchmetrics.utilities import dim_zero_cat

from mnist_lightning.checkpoint import CHECKPOINT_FORMAT, NETWORK_SETTINGS
from mnist_lightning.data.module import run_seed
from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet, Ensemble, Network, build
from mnist_lightning.sizes import NUM_CLASSES

# Pixels, float32 (B, 1, 28, 28) in [0, 1], and labels, int64 (B,), or in training with
# pseudo-labels probabilities, float32 (B, 10); with a focus the images that are visited come third.
Batch = tuple[Tensor, ...]


class MNISTClassifier(pl.LightningModule):
    """A network, or an ensemble of them, trained with Adam on cross-entropy.

    Logs `train/loss`, `train/accuracy` and `train/learning_rate` of the current batch every
    `log_every_n_steps` steps. For validation and test images it logs, as `val/...` and `test/...`,
    the mean `loss`, the `accuracy`, `errors` (a count) and the expected `calibration_error` (l1, 15
    bins).

    Dropout's random numbers are a function of (seed, step, rank), so a resumed run draws what it
    would have drawn; `run_seed` says which seed. Torch's own generator for the CPU is left as it
    was.

    Args:
        members: Number of independent networks; several make an ensemble, trained at once, each
            member with its own initial weights, dropout and warp of every image, on the mean of
            their losses. `train/accuracy` is then the mean of the members' own, all other figures
            are the ensemble's.
        learning_rate: Adam's; with the `one_cycle` schedule, its peak.
        schedule: `one_cycle` rises over the first 30% of all steps and falls to almost 0 over the
            others, while Adam's first beta moves from 0.95 to 0.85 and back (torch's OneCycleLR);
            `constant` keeps both as they are, at 0.9 for beta.
        label_smoothing: Share of each label that is spread over all ten digits. Other writers'
            digits are read better by it.
        temperature: What the loss divides the logits by: smoothed labels are less sure than the
            answers should be, and what this constant makes up for needs no care later.
        network: Another network than `ConvNet`, as `{"class_path": "my.Net", "init_args": {}}`, of
            a subclass of `Network`; the settings of `ConvNet` are then left out.
        optimizer: Another optimizer of torch's in place of Adam, as
            `{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}`; `learning_rate` and
            `schedule` are then not used, and the rate is constant.
        lr_scheduler: A scheduler of torch's for it, likewise, which steps once an epoch.
        settings: The arguments of each `ConvNet`.

    Raises:
        TypeError: If `ConvNet` has no argument of a name.
        UserError: If a value is out of its range.
    """

    def __init__(
        self,
        members: int = 1,
        learning_rate: float = 3e-3,
        schedule: Literal["one_cycle", "constant"] = "one_cycle",
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
        network: dict[str, Any] | None = None,
        optimizer: dict[str, Any] | None = None,
        lr_scheduler: dict[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__()
        if lr_scheduler and not optimizer:
            raise UserError("lr_scheduler wants an optimizer: --optimizer Adam, say")
        if optimizer and (learning_rate, schedule) != (3e-3, "one_cycle"):
            raise UserError(
                "an optimizer has a rate of its own: leave out learning_rate and schedule, or if a "
                "file sets them, give --model.learning_rate 0.003 --model.schedule one_cycle"
            )
        for choice, module in ((optimizer, torch.optim), (lr_scheduler, torch.optim.lr_scheduler)):
            if choice:
                _torchs_own(choice, module)
        if schedule not in ("one_cycle", "constant"):
            raise UserError(f"schedule {schedule} must be one_cycle or constant")
        if members < 1:
            raise UserError(f"members {members} must be 1 or more")
        if not 0 < learning_rate < math.inf:
            raise UserError(f"learning_rate {learning_rate} must be a finite number above 0")
        if not 0 <= label_smoothing < 1:
            raise UserError(f"label_smoothing {label_smoothing} must be in 0 to 1, 1 excluded")
        if not 0 < temperature < math.inf:
            raise UserError(f"temperature {temperature} must be a finite number above 0")
        networks: list[Network] = [ConvNet(**settings) for _ in range(1 if network else members)]
        convnet = networks[0].settings
        if network:
            for name, default in NETWORK_SETTINGS.items():
                if convnet[name] != default:
                    flag = f"--model.{name} {default}".replace(", ", ",")
                    raise UserError(
                        f"{name} is of ConvNet, not of {network['class_path']}: leave it out, or "
                        f"if a file sets it, give its default, {flag}"
                    )
            networks = [build(network) for _ in range(members)]
            network = networks[0].settings
        # What was not given is saved too; a list, since plain YAML has no tuples.
        settings = convnet | {"channels": list(convnet["channels"])}
        self.save_hyperparameters()
        self.network = networks[0] if members == 1 else Ensemble(networks)
        # The layout that CPUs and tensor cores are fastest with.
        self.network.to(memory_format=torch.channels_last)
        self.members = members
        self.learning_rate = learning_rate
        self.label_smoothing = label_smoothing
        self.temperature = temperature
        self.schedule = "constant" if optimizer else schedule
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.metrics = nn.ModuleDict({"val": _metrics(), "test": _metrics()})
        self.extra_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
        self.losses = nn.ModuleDict({"val": MeanMetric(), "test": MeanMetric()})

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `(B, 10)` for pixels `(B, 1, 28, 28)` in [0, 1]."""
        return self.network(pixels)

    def setup(self, stage: str) -> None:
        """Look up the seed that all of the run's random numbers follow from."""
        if stage == "fit":  # before callbacks that train for a trial, as LearningRateFinder
            self.seed = run_seed(self.trainer)

    def on_fit_start(self) -> None:
        """Plan anew if a callback has found another learning rate or batch size.

        Raises:
            UserError: If it searched for the rate of an optimizer that has one of its own.
        """
        if self.optimizer and self.learning_rate != self.planned_for[0]:
            raise UserError("LearningRateFinder finds model.learning_rate, and optimizer.lr counts")
        if self.planned_for != (self.learning_rate, self.trainer.num_training_batches):
            self.trainer.strategy.setup_optimizers(self.trainer)
        averages = [c for c in self.trainer.callbacks if isinstance(c, StochasticWeightAveraging)]  # type: ignore[attr-defined]
        if averages and self.schedule == "one_cycle":
            warnings.filterwarnings("ignore", message="SWA is currently only supported every epoch")
            rank_zero_info(
                "note: StochasticWeightAveraging replaces the one_cycle schedule with its own in "
                f"epoch {averages[0].swa_start}"
            )

    def on_train_start(self) -> None:
        """Refuse to train if the processes or the schedule do not fit together.

        Raises:
            UserError: If the processes start at different steps, or the checkpoint's one-cycle
                schedule was planned for another number of steps than this run's.
        """
        run: Any = self.trainer
        steps = -(-run.num_training_batches // run.accumulate_grad_batches)
        # Each epoch leaves at least one point in the curves.
        run.log_every_n_steps = int(min(run.log_every_n_steps, steps, self.planned_steps))
        first = self.trainer.strategy.broadcast(self.global_step)
        if self.global_step != first:
            raise UserError(
                f"this process starts at step {self.global_step}, the first one at step {first}: "
                "their machines must see the same checkpoints, on a disk that they share"
            )
        planned = getattr(self.lr_schedulers(), "total_steps", self.planned_steps)
        if planned != self.planned_steps:
            raise UserError(
                f"the checkpoint's one_cycle schedule ends after {planned:,} steps, this run after "
                f"{self.planned_steps:,}: resume with the max_epochs that it was started with, or "
                "start a new run from its weights, with --init_weights in place of --ckpt_path"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the checkpoint with its format.

        Raises:
            UserError: If a weight is not finite, so that no run resumes from such a checkpoint.
        """
        for name, weight in checkpoint["state_dict"].items():
            if not torch.isfinite(weight).all():
                raise UserError(
                    f"{name} is not finite after step {self.global_step} and was not saved: "
                    "try a smaller learning_rate"
                )
        checkpoint["mnist_lightning_format"] = CHECKPOINT_FORMAT

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give the weights the names that they have in this network, which may be compiled."""
        names = {name.replace("_orig_mod.", ""): name for name in self.state_dict()}
        for part in checkpoint.keys() & {"state_dict", "current_model_state"}:
            weights = checkpoint[part].items()
            checkpoint[part] = {
                names.get(plain := name.replace("_orig_mod.", ""), plain): weight
                for name, weight in weights
            }

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean cross-entropy of a batch.

        Raises:
            UserError: If it is not finite; the weights are not updated with it. On a GPU only the
                steps that are logged are looked at: a look waits for all that the GPU has to do.
        """
        pixels, labels, *visits = batch
        with torch.random.fork_rng(devices=[]):
            self._seed_dropout()
            logits = self(pixels)
        losses = F.cross_entropy(
            logits / self.temperature,
            labels,
            label_smoothing=self.label_smoothing,
            reduction="none",
        )
        loss = losses.mean()
        if visits:  # the others of the batch, if there are any, are extra images
            of_each, num = losses.detach().view(self.members, -1), len(visits[0])
            counts = None
            if labels.ndim == 2:  # what became no digit, or less of one, tells nothing of the digit
                whole = labels.amax(dim=1) == 1
                counts = whole.view(self.members, -1).all(dim=0)[:num]
            data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
            data.last_losses.note(visits[0], of_each.mean(dim=0)[:num], counts)
        interval = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = interval and (self.global_step + 1) % interval == 0
        if (logged or self.device.type == "cpu") and not torch.isfinite(loss):
            raise UserError(
                f"the loss is {loss.item()} in epoch {self.current_epoch}, step {self.global_step} "
                "(the weights were not updated with it): try a smaller learning_rate"
            )
        if logged:  # others are written nowhere
            digits = labels if labels.ndim == 1 else labels.argmax(dim=1)
            accuracy = multiclass_accuracy(
                logits, digits, NUM_CLASSES, average="micro", validate_args=False
            )
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/accuracy", accuracy)
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
        return loss

    def validation_step(
        self, batch: Batch, batch_idx: int, dataloader_idx: int = 0
    ) -> Tensor | None:
        """Add a batch to the `val/` metrics; return its logits `(B, 10)`, for callbacks.

        Of own pictures, see `MNISTDataModule.val_dataloader`, it is `val/extra_accuracy` alone.
        """
        loaders: Any = self.trainer.val_dataloaders
        if not isinstance(loaders, dict) or list(loaders)[dataloader_idx] != "extra":
            return self._evaluate("val", batch)
        self.extra_accuracy.update(self(batch[0]), batch[1])
        self.log("val/extra_accuracy", self.extra_accuracy, prog_bar=True, add_dataloader_idx=False)
        return None

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add a batch to the `test/` metrics."""
        self._evaluate("test", batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return probabilities, float32 `(B, 10)`, whatever the run's precision."""
        return self(batch[0]).float().softmax(dim=1)

    def configure_optimizers(self) -> Any:
        """Return Adam, and the schedule over all steps of the run; or what was chosen instead.

        Raises:
            UserError: If `one_cycle` is to span a run without an end, or torch refuses the choice.
        """
        # A callback, StochasticWeightAveraging, later adds an epoch that has no part in the plan.
        self.planned_steps = steps = self.trainer.estimated_stepping_batches
        self.planned_for = (self.learning_rate, self.trainer.num_training_batches)
        if self.optimizer:
            return self._chosen()
        # Half precision can't clip what a fused optimizer scales back by itself.
        fused = not (self.trainer.gradient_clip_val and "mixed" in self.trainer.precision)
        optimizer = torch.optim.Adam(self.parameters(), lr=self.learning_rate, fused=fused)
        if self.schedule == "constant":
            return optimizer
        if steps == math.inf:
            raise UserError(
                "the one_cycle schedule needs an end: give max_epochs or max_steps, "
                "or take --model.schedule constant"
            )
        scheduler = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, max_lr=self.learning_rate, total_steps=int(steps)
        )
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def _chosen(self) -> Any:
        assert self.optimizer
        try:
            settings = self.optimizer.get("init_args", {})
            optimizer = _torchs_own(self.optimizer, torch.optim)(self.parameters(), **settings)
            if not self.lr_scheduler:
                return optimizer
            kind = _torchs_own(self.lr_scheduler, torch.optim.lr_scheduler)
            settings = dict(self.lr_scheduler.get("init_args", {}))
            monitor = settings.pop("monitor", None)  # of LightningCLI's ReduceLROnPlateau
            scheduler = {"scheduler": kind(optimizer, **settings)}
        except (TypeError, ValueError) as error:
            raise UserError(f"torch refuses the optimizer or lr_scheduler: {error}") from error
        return {"optimizer": optimizer, "lr_scheduler": scheduler | {"monitor": monitor}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Take a schedule's next step; after its end, as in the trials of BatchSizeFinder, none."""
        if scheduler.last_epoch < getattr(scheduler, "total_steps", math.inf):
            super().lr_scheduler_step(scheduler, metric)

    @torch.compiler.disable  # a compiler would begin anew with each step's number
    def _seed_dropout(self) -> None:
        """Seed torch's generators for this step and rank."""
        step = self.trainer.fit_loop.total_batch_idx  # counts batches if gradients accumulate too
        entropy = np.random.SeedSequence((self.seed, step, self.global_rank))
        seed = int(entropy.generate_state(1)[0])
        # Not `torch.manual_seed`, which takes 1 ms to seed devices that are not there too.
        torch.default_generator.manual_seed(seed)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(seed)

    def _evaluate(self, stage: str, batch: Batch) -> Tensor:
        pixels, labels = batch
        logits = self(pixels)
        log = partial(self.log, add_dataloader_idx=False)
        for name, metric in self.metrics[stage].items():  # type: ignore[operator]
            metric.update(logits.softmax(dim=1), labels)
            log(f"{stage}/{name}", metric, prog_bar=name == "accuracy")
        # Not Lightning's own mean: it rounds the number of images down to a multiple of the ranks.
        self.losses[stage].update(F.cross_entropy(logits, labels), len(labels))  # type: ignore[operator]
        log(f"{stage}/loss", self.losses[stage])  # type: ignore[arg-type]
        errors = (logits.argmax(dim=1) != labels).sum().float()
        log(f"{stage}/errors", errors, reduce_fx="sum", sync_dist=True)
        size = float(len(labels))  # no curve: for the sentence that says how many were misread
        log(f"{stage}/images", size, reduce_fx="sum", sync_dist=True, logger=False)
        return logits


class CalibrationError(MulticlassCalibrationError):
    """torchmetrics' metric, with its sums in float64: it is the same in any order of the images.

    In float32 a sum of 10,000 confidences is off by some 1e-6, by how ranks share the images.
    """

    def compute(self) -> Tensor:
        """Return the expected calibration error, float32, a scalar."""
        states = self.confidences, self.accuracies
        # Not every device has float64.
        self.confidences, self.accuracies = ([dim_zero_cat(s).cpu().double()] for s in states)
        try:
            return super().compute().to(self.device, torch.float32)
        finally:
            self.confidences, self.accuracies = states


def _torchs_own(choice: dict[str, Any], module: Any) -> Any:
    """Return the class that a choice names, which comes from a file, too: none but torch's own."""
    name = str(choice.get("class_path")).rpartition(".")[2]
    found = getattr(module, name, None)
    base = torch.optim.Optimizer if module is torch.optim else torch.optim.lr_scheduler.LRScheduler
    if not (isinstance(found, type) and issubclass(found, base)):
        raise UserError(f"{choice.get('class_path')} is no {base.__name__} of torch's")
    if name == "LBFGS":
        raise UserError("LBFGS can't train this network, whose weights are not laid out for it")
    return found


def _metrics() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "accuracy": MulticlassAccuracy(NUM_CLASSES, average="micro"),
            "calibration_error": CalibrationError(NUM_CLASSES),
        }
    )
