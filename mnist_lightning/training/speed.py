"""What makes a training step faster, and what measures it."""

import ctypes
import sys
import time
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn

from mnist_lightning.training.progress import say


def keep_freed_memory() -> None:
    """Let glibc keep freed blocks instead of returning each to the kernel: steps gain a quarter."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:  # other C libraries lack it
        m_trim_threshold, m_mmap_max = -1, -4
        mallopt(m_trim_threshold, -1)
        mallopt(m_mmap_max, 0)


def bfloat16_gain() -> float:
    """Return how many times as fast as in float32 a convolution is in bfloat16, backward too.

    It is measured, in some 50 ms: of two processors with the same instructions for it one is
    slower. The least of many short times, of one thread, is right beside other work as well.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    layout = torch.channels_last
    conv = nn.utils.skip_init(nn.Conv2d, 32, 32, 3).to(memory_format=layout)  # draws no numbers
    nn.init.ones_(conv.weight)
    maps = torch.ones(8, 32, 26, 26).to(memory_format=layout).requires_grad_()
    times: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(15):
        for half, seconds in times.items():
            started = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                output = conv(maps)
            output.backward(output.detach())
            seconds.append(time.perf_counter() - started)
    torch.set_num_threads(threads)
    return min(times[False]) / min(times[True])


class Throughput(Callback):
    """Logs `train/images_per_second` for each epoch, over all processes, without validation.

    After ten batches of a run of more than a minute, or an epoch of fewer, on a CPU and in float32,
    it says if bfloat16 would be faster.

    Attributes:
        has_begun: Whether a batch was finished, in this process and not before a resume.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self.images = self.batches = 0
        self.started: float | None = None
        self.advises = True

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start the clock at the first batch that this process sees of an epoch."""
        if self.started is None:
            self.images, self.batches, self.started = 0, 0, time.perf_counter()

    def on_train_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Count the batch, and log at the epoch's last."""
        assert self.started is not None
        self.has_begun = True
        # An ensemble takes each image once for every member.
        images = len(batch[1]) // getattr(pl_module, "members", 1)
        self.images += images * trainer.world_size
        self.batches += 1
        if self.advises and (self.batches == 10 or trainer.is_last_batch):
            self.advises = False
            self._advise(trainer, (time.perf_counter() - self.started) / self.batches)
        if trainer.is_last_batch:
            if pl_module.device.type != "cpu":  # it has not finished when it is asked to
                torch.accelerator.synchronize()
            rate = self.images / (time.perf_counter() - self.started)
            self.started = None
            # Not by `pl_module.log`, which would write it only after the epoch's checkpoint.
            for logger in trainer.loggers:
                logger.log_metrics({"train/images_per_second": rate}, trainer.global_step - 1)

    @staticmethod
    def _advise(trainer: pl.Trainer, seconds: float) -> None:
        """Say if bfloat16 is faster, given how long a batch takes."""
        steps = trainer.estimated_stepping_batches - trainer.global_step
        left = seconds * steps * trainer.accumulate_grad_batches
        on_cpu = trainer.strategy.root_device.type == "cpu" and trainer.precision == "32-true"
        if trainer.is_global_zero and on_cpu and left > 60 and bfloat16_gain() > 1.2:
            say(
                "note: this processor is faster in bfloat16: trainer.precision bf16-mixed would "
                "shorten this run"
            )
