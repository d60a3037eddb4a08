"""What a run was made with: its results are the same to the bit for these alone."""

import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback

from mnist_lightning.data.module import run_seed


class Record(Callback):
    """Keeps in each checkpoint, as `made_with`, what the run was made with, see `made_with`."""

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Look, when the run begins."""
        self.made_with = made_with(trainer)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep it."""
        checkpoint["made_with"] = self.made_with


def made_with(trainer: pl.Trainer) -> dict[str, str | int]:
    """Return what the first process makes a run with: settings, versions, machine and date."""
    names = ("mnist_lightning", "torch", "lightning")
    versions = [f"{name} {version(name)}" for name in names] + [
        f"python {platform.python_version()}"
    ]
    differences = getattr(trainer, "differences", "")  # a run from Python has none
    return {
        "epochs": trainer.max_epochs or 0,
        "seed": run_seed(None),
        **({"differs from base.yaml": differences} if differences else {}),
        "versions": ", ".join(versions),
        "machine": processor(),
        "threads": torch.get_num_threads(),
        "processes": trainer.world_size,
        "started": time.strftime("%Y-%m-%d %H:%M"),
    }


def processor() -> str:
    """Return the name of this machine's processor, and of its GPU if it has one."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(": ")[1] for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name
