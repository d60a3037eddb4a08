"""What `fit` is compared with: a plain loop, the obvious port, Keras and the machine's limit.

Each function trains the same `Case` in another way and returns images/s. scripts/benchmark.py calls
them, each turn in a new process.
"""

import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor
from writers import SPLIT

from mnist_lightning.checkpoint import NETWORK_SETTINGS
from mnist_lightning.data.augment import warp
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.network import ConvNet, Network, to_pixels
from mnist_lightning.runs import read_curves
from mnist_lightning.training.speed import Throughput, keep_freed_memory

BASE = Path(__file__).parents[1] / "configs" / "base.yaml"


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        config: A configuration to lay over base.yaml, or None.
        batch: Images per step.
        steps: Steps per epoch.
        goal: Accuracy to reach on writers held out.
        keras: A Python that has TensorFlow, or None; this one if it has.
    """

    config: Path | None = None
    batch: int = 64
    steps: int = 60
    goal: float = 0.99
    keras: str | None = sys.executable if find_spec("tensorflow") else None

    @property
    def images(self) -> int:
        """Images per epoch."""
        return min(self.batch * self.steps, 60_000)

    @property
    def configs(self) -> list[Path]:
        """Configuration files in the order in which `fit` takes them."""
        return [BASE, self.config] if self.config else [BASE]

    def settings(self, part: str) -> dict[str, Any]:
        """Return the configurations' settings of `model`, `network`, `data` or `trainer`."""
        settings: dict[str, Any] = {}
        for path in self.configs:
            settings |= yaml.safe_load(path.read_text()).get(part, {})
        return settings

    @property
    def bfloat16(self) -> bool:
        """Whether the configurations set half precision."""
        return self.settings("trainer").get("precision") == "bf16-mixed"

    def network(self) -> Network:
        """Return the network with its initial weights, on the CPU."""
        model, network = self.settings("model"), self.settings("network")
        if network:
            class_: type[Network] = resolve_name(network["class_path"])
            return class_(**network.get("init_args", {}))
        return ConvNet(**{name: model[name] for name in NETWORK_SETTINGS})

    def data(self) -> MNISTDataModule:
        """Return the data that `fit` would train on, set up."""
        size = {"batch_size": self.batch, "train_size": self.images, "val_size": 0}
        data = MNISTDataModule(**self.settings("data") | size | {"focus": 1.0})
        data.prepare_data()
        data.setup("fit")
        return data

    def by_writer(self) -> MNISTDataModule:
        """Return all training images, a quarter held out by their writers, set up."""
        data = MNISTDataModule(**SPLIT)
        data.prepare_data()
        data.setup("fit")
        return data


def last_rate(run: Path) -> float:
    """Return the images/s that `Throughput` logged for a run's last epoch."""
    _, rates = read_curves(run)["train/images_per_second"]
    return rates[-1]


def plain_loop(
    case: Case, epochs: int = 2, lap: Callable[[str], None] = lambda part: None
) -> float:
    """Do what `fit` does without Lightning; return images/s in the last epoch.

    Args:
        case: What to train.
        epochs: Number of epochs.
        lap: Called with the name of each part of a step after it.
    """
    keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = case.data()
    data.train_images = data.train_images.to(device)
    data.train_labels = data.train_labels.to(device)
    batches = data.train_dataloader()
    network = case.network().to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, epochs * len(batches))
    for _ in range(epochs):
        started = None
        for images, labels, *matrices in batches:
            started = started or time.perf_counter()
            lap("index")
            pixels = to_pixels(images)
            pixels = warp(pixels, matrices[0].unflatten(1, (2, 3))) if matrices else pixels
            lap("warp")
            with torch.autocast(device.type, torch.bfloat16, enabled=case.bfloat16):
                loss = F.cross_entropy(network(pixels), labels)
            lap("forward")
            optimizer.zero_grad()
            loss.backward()
            lap("backward")
            optimizer.step()
            scheduler.step()
            lap("optimizer")
        loss.item()  # waits for a GPU to finish
    assert started
    return case.images / (time.perf_counter() - started)


def obvious_port(case: Case, augment: bool) -> float:
    """Train as tutorials do, image by image, in torch's default layout; return images/s."""
    with tempfile.TemporaryDirectory() as folder:
        _train_port(case, augment, range(case.images), 2, folder, Throughput())
        return last_rate(Path(folder))


def port_accuracy(case: Case, augment: bool, epochs: int, seed: int) -> float:
    """Train the obvious port; return its accuracy on images of writers held out."""
    pl.seed_everything(seed, verbose=False)
    data = case.by_writer()
    images, labels = data.train_images[data.val_indices], data.train_labels[data.val_indices]
    with tempfile.TemporaryDirectory() as folder:
        network = _train_port(case, augment, data.train_indices.tolist(), epochs, folder).eval()
    with torch.inference_mode():
        logits = torch.cat([network(to_pixels(part)) for part in images.split(1000)])
    return float((logits.argmax(1) == labels).double().mean())


def _train_port(
    case: Case,
    augment: bool,
    indices: Sequence[int],
    epochs: int,
    folder: str,
    *callbacks: pl.Callback,
) -> Network:
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    affine = transforms.RandomAffine(8, (0.08, 0.08), (0.92, 1.08), math.degrees(0.3))
    transform = transforms.Compose([*([affine] if augment else []), transforms.ToTensor()])
    images = Subset(datasets.MNIST("data", transform=transform), indices)
    loader = DataLoader(images, case.batch, shuffle=True, num_workers=2, persistent_workers=True)
    module = ObviousModule(case.network())
    trainer = pl.Trainer(
        devices=1,
        max_epochs=epochs,
        callbacks=[*callbacks],
        logger=TensorBoardLogger(folder, "", ""),
    )
    trainer.fit(module, loader)
    return module.network


class ObviousModule(pl.LightningModule):
    """The same network in a LightningModule as tutorials write it."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        logits = self.network(images)
        loss = F.cross_entropy(logits, labels)
        self.log("train_loss", loss, prog_bar=True)
        self.log("train_accuracy", (logits.argmax(1) == labels).float().mean(), prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return Adam."""
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def keras_port(case: Case) -> float:
    """Train the article's network with its generator in today's Keras; return images/s."""
    from keras_port import compiled_network, warped_batches

    data = case.data()
    images, labels = data.train_images[: case.images], data.train_labels[: case.images]
    network, batches = (
        compiled_network(),
        warped_batches(images.numpy(), labels.numpy(), case.batch),
    )
    network.fit(batches, verbose=0)
    started = time.perf_counter()
    network.fit(batches, verbose=0)
    return case.images / (time.perf_counter() - started)


def machine_limit(case: Case) -> float:
    """Return images/s if the network's arithmetic ran at the rate of a large matrix product."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        case.network()(torch.rand(2, 1, 28, 28)).sum().backward()
    a, b = torch.rand(2, 2048, 2048, device="cuda" if torch.cuda.is_available() else "cpu")
    times = []
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if a.is_cuda:
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return 2 * 2048**3 / statistics.median(times) / (counter.get_total_flops() / 2)
