"""Measures the speed of training and use, on this machine, and what it is made of.

    python scripts/benchmark.py train     # fit against a plain loop, the obvious port and the limit
    python scripts/benchmark.py train --config configs/fast.yaml  # the same for another network
    python scripts/benchmark.py levers    # what each choice for speed gains, and what gains nothing
    python scripts/benchmark.py parts     # where a step's time goes
    python scripts/benchmark.py predict   # images a second, and one image's latency
    python scripts/benchmark.py start     # from the command to its first step
    python scripts/benchmark.py scale     # over batch, images, processes, members; peak memory

Every figure is a median over turns, taken in alternation: turn 1 of all rows, then turn 2, so that
a slow minute of the machine meets them all. Nothing else should run meanwhile. Each prints a
Markdown table; `--json FILE` appends its rows to a file, one JSON line each.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import torch.nn.functional as F
import yaml
from lightning.pytorch.loggers import TensorBoardLogger
from seeds import processor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mnist_lightning.checkpoint import NETWORK_SETTINGS
from mnist_lightning.data.augment import warp
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.network import ConvNet, to_pixels
from mnist_lightning.training.speed import Throughput, keep_freed_memory

BASE = Path(__file__).parents[1] / "configs" / "base.yaml"
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """What is trained.

    Attributes:
        config: A configuration that lies over base.yaml, or none.
        batch: Images a step.
        steps: Steps an epoch.
    """

    config: Path | None = None
    batch: int = 64
    steps: int = 60

    @property
    def images(self) -> int:
        """Images an epoch."""
        return min(self.batch * self.steps, 60_000)

    @property
    def configs(self) -> list[Path]:
        """Configurations, as `fit` takes them."""
        return [BASE, self.config] if self.config else [BASE]

    def settings(self, part: str) -> dict[str, Any]:
        """Return what the configurations say of `model`, `data` or `trainer`."""
        settings: dict[str, Any] = {}
        for path in self.configs:
            settings |= yaml.safe_load(path.read_text()).get(part, {})
        return settings

    @property
    def bfloat16(self) -> bool:
        """Tell whether the configurations ask for half precision."""
        return self.settings("trainer").get("precision") == "bf16-mixed"

    def network(self) -> ConvNet:
        """Return the network with its initial weights, on the CPU."""
        model = self.settings("model")
        return ConvNet(**{name: model[name] for name in NETWORK_SETTINGS})


# -- what is timed: one turn each, in a process of its own


def fit(case: Case, *flags: str) -> tuple[float, float]:
    """Run the real command for two epochs: images/s in the second, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_lightning", "fit"]
        command += [f"--config={path}" for path in case.configs]
        command += [f"--data.batch_size={case.batch}", f"--data.train_size={case.images}"]
        command += ["--data.val_size=0", "--trainer.max_epochs=2", *flags]
        command += [f"--trainer.logger.init_args.save_dir={folder}"]
        with open(Path(folder) / "output.txt", "w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            assert process.returncode == 0, output.read()
        (run,) = Path(folder).glob("*/version_0")
        rate = logged_rate(run)
    return rate, usage.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


def plain_loop(case: Case, tuned_allocator: bool = True) -> float:
    """Do what `fit` does without Lightning: images/s in the second of two epochs."""
    if tuned_allocator:
        keep_freed_memory()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    data = training_data(case)
    data.train_images = data.train_images.to(device)
    data.train_labels = data.train_labels.to(device)
    batches = data.train_dataloader()
    network = case.network().to(device).to(memory_format=torch.channels_last)
    step = training_step(network, 2 * len(batches), bfloat16=case.bfloat16)
    for _ in range(2):
        started = None
        for images, labels, *matrices in batches:
            started = started or time.perf_counter()
            pixels = to_pixels(images)
            loss = step(warp(pixels, *matrices) if matrices else pixels, labels)
        loss.item()  # a GPU has not finished when it is asked to
    assert started
    return case.images / (time.perf_counter() - started)


def obvious_port(case: Case, augment: bool) -> float:
    """Train as tutorials do, image by image, in torch's default layout: images/s."""
    from torch.utils.data import DataLoader, Subset
    from torchvision import datasets, transforms

    affine = transforms.RandomAffine(8, (0.08, 0.08), (0.92, 1.08), math.degrees(0.3))
    transform = transforms.Compose([*([affine] if augment else []), transforms.ToTensor()])
    images = Subset(datasets.MNIST("data", transform=transform), range(case.images))
    loader = DataLoader(images, case.batch, shuffle=True, num_workers=2, persistent_workers=True)
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            devices=1,
            max_epochs=2,
            callbacks=[Throughput()],
            logger=TensorBoardLogger(folder, "", ""),
        )
        trainer.fit(ObviousModule(case.network()), loader)
        return logged_rate(Path(folder))


class ObviousModule(pl.LightningModule):
    """The same network as a first Lightning module would hold it."""

    def __init__(self, network: ConvNet) -> None:
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
    """Train the article's network with its generator in today's Keras: images/s."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    from tensorflow import keras

    layers = keras.layers
    network = keras.Sequential([keras.Input((28, 28, 1))])
    for block, channels in enumerate((32, 32, 64, 64)):
        network.add(layers.Conv2D(channels, 3))
        network.add(layers.BatchNormalization())
        network.add(layers.ReLU())
        if block % 2:
            network.add(layers.MaxPooling2D())
    network.add(layers.Flatten())
    network.add(layers.Dense(512))
    network.add(layers.BatchNormalization())
    network.add(layers.ReLU())
    network.add(layers.Dropout(0.2))
    network.add(layers.Dense(10, activation="softmax"))
    network.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    generator = keras.preprocessing.image.ImageDataGenerator(
        rotation_range=8,
        width_shift_range=0.08,
        height_shift_range=0.08,
        shear_range=math.degrees(0.3),
        zoom_range=0.08,
    )
    data = training_data(case)
    images = data.train_images[: case.images].unsqueeze(3).float().div(255).numpy()
    batches = generator.flow(
        images, data.train_labels[: case.images].numpy(), batch_size=case.batch
    )
    network.fit(batches, verbose=0)
    started = time.perf_counter()
    network.fit(batches, verbose=0)
    return case.images / (time.perf_counter() - started)


def machine_limit(case: Case) -> float:
    """Divide the rate of a large matrix product by the network's arithmetic: images/s."""
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


# -- what they share


def training_data(case: Case) -> MNISTDataModule:
    """Return the data of `fit`'s command, ready."""
    settings = case.settings("data") | {"batch_size": case.batch, "train_size": case.images}
    data = MNISTDataModule(**settings | {"val_size": 0})
    data.prepare_data()
    data.setup("fit")
    return data


def logged_rate(folder: Path) -> float:
    """Return the images/s that `Throughput` logged for a run's last epoch."""
    log = EventAccumulator(str(folder)).Reload()
    return log.Scalars("train/images_per_second")[-1].value


def training_step(
    network: nn.Module, total_steps: int, fused: bool = True, bfloat16: bool = False
) -> Callable[[Tensor, Tensor], Tensor]:
    """Return a function of pixels and labels that trains the network by one step."""
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=fused)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps)

    def step(pixels: Tensor, labels: Tensor) -> Tensor:
        with torch.autocast(pixels.device.type, torch.bfloat16, enabled=bfloat16):
            loss = F.cross_entropy(network(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        return loss

    return step


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, so that no turn inherits another's memory."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_to_devnull) as pool:
        return pool.submit(function, *arguments).result()


def _to_devnull() -> None:
    # Progress bars are drawn, as for a user, but not over this script's own.
    for descriptor in (1, 2):  # not sys.stdout, which TensorFlow's C++ does not know
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def take_turns(rows: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Any]]:
    """Call each row's function once a turn, and tell on stderr how far it is."""
    results: dict[str, list[Any]] = {name: [] for name in rows}
    for turn in range(turns):
        for name, function in rows.items():
            print(f"\r\033[Kturn {turn + 1} of {turns}: {name}", end="", file=sys.stderr)
            results[name].append(function())
    print("\r\033[K", end="", file=sys.stderr, flush=True)
    return results


def seconds(function: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def spread(values: list[float], form: str = ",.0f") -> str:
    """Write the lowest and highest of some values."""
    return f"{min(values):{form}} to {max(values):{form}}"


# -- the subcommands


def train(case: Case, turns: int) -> Rows:
    """Compare fit with a plain loop, the obvious port, Keras and the machine's limit."""
    training_data(case)  # so that the files are there
    rows: dict[str, Callable[[], float]] = {
        "fit": lambda: fit(case)[0],
        "plain loop": partial(fresh, plain_loop, case),
        "obvious port": partial(fresh, obvious_port, case, True),
        "obvious port, not augmented": partial(fresh, obvious_port, case, False),
        "machine's limit": partial(fresh, machine_limit, case),
    }
    if find_spec("tensorflow") and find_spec("scipy") and not case.config:
        rows["Keras"] = partial(fresh, keras_port, case)
    rates = take_turns(rows, turns)
    return [
        {
            "batch": case.batch,
            "row": name,
            "images/s": f"{statistics.median(values):,.0f}",
            "low to high": spread(values),
            # The ratio of each turn's neighbours, which a slow minute of the machine leaves alone.
            "fit is": _ratio(rates["fit"], values),
        }
        for name, values in rates.items()
    ]


def levers(case: Case, turns: int) -> Rows:
    """Time a step on one batch with one choice changed at a time."""
    keep_freed_memory()
    images, labels, *_ = next(iter(training_data(case).train_dataloader()))
    pixels = to_pixels(images)

    def network(change: str) -> nn.Module:
        net: nn.Module = case.network()
        for name, layer in list(net.named_children()):
            if change == "biases before batch norm" and getattr(layer, "bias", 0) is None:
                layer.bias = nn.Parameter(torch.zeros(layer.weight.shape[0]))  # type: ignore
            if change == "ReLU in place" and isinstance(layer, nn.ReLU):
                layer.inplace = True
            if change == "ReLU before pool" and name.startswith("pool"):
                index = [child for child, _ in net.named_children()].index(name)
                net[index], net[index + 1] = net[index + 1], net[index]  # type: ignore
        if change != "contiguous layout":
            net.to(memory_format=torch.channels_last)
        return torch.compile(net) if change == "torch.compile" else net  # type: ignore

    changes = ["as it is", "contiguous layout", "biases before batch norm", "ReLU before pool"]
    changes += ["Adam not fused", "ReLU in place", "torch.compile", "bfloat16 autocast"]
    rows = {}
    for change in changes:
        step = training_step(
            network(change),
            total_steps=10**6,
            fused=change != "Adam not fused",
            bfloat16=change == "bfloat16 autocast",
        )
        for _ in range(3):
            step(pixels, labels)

        rows[change] = partial(_per_call, step, pixels, labels)
    times = take_turns(rows, 4 * turns)
    rates = take_turns(
        {
            "fresh": partial(fresh, plain_loop, case),
            "freed memory goes back to the kernel": partial(fresh, plain_loop, case, False),
        },
        turns,
    )
    tuned = [case.batch / rate for rate in rates.pop("fresh")]
    both = [(name, times["as it is"], values) for name, values in times.items()]
    both += [(name, tuned, [case.batch / r for r in values]) for name, values in rates.items()]
    return [
        {
            "batch": case.batch,
            "step": name,
            "n": len(values),
            "ms": f"{1000 * statistics.median(values):.1f}",
            "low to high": spread([1000 * value for value in values], ".1f"),
            "time": _ratio(values, reference),
        }
        for name, reference, values in both
    ]


def parts(case: Case, turns: int) -> Rows:
    """Time the parts of a plain step, and Lightning's share as fit's step less the plain one."""
    keep_freed_memory()
    data = training_data(case)
    network = case.network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3, fused=True)
    times: dict[str, list[float]] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times.setdefault(name, []).append(now - clock)
        clock = now

    def epoch() -> None:
        for images, labels, *matrices in data.train_dataloader():
            lap("index")
            pixels = to_pixels(images)
            pixels = warp(pixels, *matrices) if matrices else pixels
            lap("warp")
            loss = F.cross_entropy(network(pixels), labels)
            lap("forward")
            optimizer.zero_grad()
            loss.backward()
            lap("backward")
            optimizer.step()
            lap("optimizer")

    epoch()  # to warm up
    times.clear()
    for _ in range(turns):
        clock = time.perf_counter()
        epoch()
    rates = take_turns(
        {"fit": lambda: fit(case)[0], "plain": partial(fresh, plain_loop, case)}, turns
    )
    times["Lightning, logging, schedule"] = [
        case.batch / of_fit - case.batch / plain
        for of_fit, plain in zip(rates["fit"], rates["plain"], strict=True)
    ]
    medians = {name: statistics.median(values) for name, values in times.items()}
    total = sum(medians.values())
    rows = [
        {
            "batch": case.batch,
            "part": name,
            "n": len(times[name]),
            "ms": f"{1000 * median:.2f}",
            "share": f"{median / total:.1%}",
        }
        for name, median in medians.items()
    ]
    with torch.profiler.profile() as profile:
        epoch()
    kernels = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in kernels)
    rows += [
        {
            "batch": case.batch,
            "part": f"`{event.key}`",
            "n": event.count,
            "ms": f"{event.self_cpu_time_total / 1000 / case.steps:.2f}",
            "share": f"{event.self_cpu_time_total / total:.1%}",
        }
        for event in kernels[:14]
    ]
    return rows


def predict(case: Case, turns: int) -> Rows:
    """Time the network in eval mode: batches for their rate, single images for their latency."""
    keep_freed_memory()
    pixels = to_pixels(training_data(case).train_images[:2000])
    network = case.network().to(memory_format=torch.channels_last).eval()
    engines: dict[str, Callable[[Tensor], Any]] = {"torch": torch.inference_mode()(network)}
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        engines["onnxruntime"] = _onnx(network)

    def rate(engine: Callable[[Tensor], Any], size: int) -> float:
        return len(pixels) / seconds(lambda: [engine(batch) for batch in pixels.split(size)])

    sizes = (1, 32, 100, 250, 500, 1000, 2000)
    rates = take_turns(
        {f"{name} {b}": partial(rate, run, b) for name, run in engines.items() for b in sizes},
        turns,
    )
    rows: Rows = [
        {
            "engine": label.split()[0],
            "batch": label.split()[1],
            "images/s": f"{statistics.median(values):,.0f}",
            "p50 ms": "",
            "p99 ms": "",
        }
        for label, values in rates.items()
    ]
    for row in rows:
        if row["batch"] == "1":
            engine = engines[row["engine"]]
            times = [seconds(lambda run=engine, i=i: run(pixels[i : i + 1])) for i in range(1000)]  # type: ignore
            cuts = statistics.quantiles(times, n=100)
            row["p50 ms"], row["p99 ms"] = f"{1000 * cuts[49]:.2f}", f"{1000 * cuts[98]:.2f}"
    return rows


def start(case: Case, turns: int) -> Rows:
    """Time whole processes: the bare import, --help, and a fit of one step."""
    training_data(case)
    python, module = sys.executable, "mnist_lightning"
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            "import lightning.pytorch.cli": [python, "-c", "import lightning.pytorch.cli"],
            f"{module} --help": [python, "-m", module, "--help"],
            f"{module} fit, 1 step": [
                *(python, "-m", module, "fit", f"--config={BASE}", "--trainer.max_steps=1"),
                *("--data.val_size=0", f"--trainer.logger.init_args.save_dir={folder}"),
            ],
        }
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "check": True}
        calls = {
            name: partial(seconds, partial(subprocess.run, command, **quiet))
            for name, command in commands.items()
        }
        times = take_turns(calls, turns)
    reference = times["import lightning.pytorch.cli"]
    return [
        {
            "process": name,
            "seconds": f"{statistics.median(values):.2f}",
            "low to high": spread(values, ".2f"),
            "of the import": _ratio(values, reference),
        }
        for name, values in times.items()
    ]


def scale(case: Case, turns: int) -> Rows:
    """Time fit over batch sizes, images, processes and members, one changed at a time."""
    training_data(case)
    # Fewer steps of a larger batch, so that no turn takes long.
    batches = {
        f"batch {batch}": replace(case, batch=batch, steps=max(8, 64 * case.steps // batch))
        for batch in (32, 64, 128, 256, 512, 2048)
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, each in batches.items():
        calls[name] = partial(fit, each)
        calls[f"{name}, plain loop"] = partial(fresh, plain_loop, each)
    for name, each in {
        f"{case.images:,} images": case,
        f"{4 * case.images:,} images": replace(case, steps=4 * case.steps),
    }.items():
        calls[name] = partial(fit, each)
    for processes in (1, 2):  # each of two has one thread
        calls[f"{processes} process(es)"] = partial(
            fit, case, "--trainer.accelerator=cpu", f"--trainer.devices={processes}"
        )
    for members in (1, 2, 5):
        calls[f"{members} member(s)"] = partial(fit, case, f"--model.members={members}")
    results = take_turns(calls, turns)
    rows = []
    for name, values in results.items():
        if name.endswith("plain loop"):
            continue
        rates = [rate for rate, _ in values]
        plain = results.get(f"{name}, plain loop")
        row = {"fit with": name, "images/s": f"{statistics.median(rates):,.0f}"}
        row["low to high"] = spread(rates)
        row["of the plain loop"] = _ratio(rates, plain) if plain else ""
        row["peak GB a process"] = f"{max(memory for _, memory in values):.2f}"
        rows.append(row)
    return rows


def _per_call(function: Callable[..., Any], *arguments: Any) -> float:
    return seconds(lambda: [function(*arguments) for _ in range(5)]) / 5


def _ratio(values: list[float], reference: list[float]) -> str:
    return f"{statistics.median(v / r for v, r in zip(values, reference, strict=True)):.2f} x"


def _onnx(network: nn.Module) -> Callable[[Tensor], Any]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/network.onnx"
        batch = torch.export.Dim("batch")
        torch.onnx.export(
            network,
            (torch.zeros(2, 1, 28, 28),),
            path,
            input_names=["pixels"],
            dynamic_shapes=({0: batch},),
            external_data=False,
            verbose=False,
        )
        session = onnxruntime.InferenceSession(path)
    return lambda pixels: session.run(None, {"pixels": pixels.numpy()})


def header(case: Case, turns: int) -> str:
    """Say on what, with what and by which command the table was made."""
    packages = ["torch", "lightning"]
    packages += [
        name for name in ("onnxruntime", "tensorflow-cpu") if find_spec(name.split("-")[0])
    ]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    precision = "bfloat16" if case.bfloat16 else "float32"
    return (
        f"`python scripts/benchmark.py {' '.join(sys.argv[1:])}`, {time.strftime('%Y-%m-%d')}: "
        f"{processor()}, {torch.get_num_threads()} threads, {precision}; "
        f"Python {platform.python_version()}, {versions}; "
        f"median of n = {turns} turns in alternation."
    )


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--turns", type=int, default=5, help="turns of each row (default: 5)")
    shared.add_argument("--batch", type=int, default=64, help="images a step (default: 64)")
    shared.add_argument("--steps", type=int, default=60, help="steps of a turn (default: 60)")
    shared.add_argument("--config", type=Path, help="configuration to lay over base.yaml")
    shared.add_argument("--json", type=Path, metavar="FILE", help="append the rows to this file")
    commands = parser.add_subparsers(dest="command", required=True)
    for function in (train, levers, parts, predict, start, scale):
        assert function.__doc__
        command = commands.add_parser(
            function.__name__, parents=[shared], help=function.__doc__, description=function.__doc__
        )
        command.set_defaults(function=function)
    options = parser.parse_args()

    case = Case(options.config, options.batch, options.steps)
    head = header(case, options.turns)
    rows = options.function(case, options.turns)
    print(f"{head}\n")
    print(f"| {' | '.join(rows[0])} |")
    print(f"|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")
    if options.json:
        with options.json.open("a") as file:
            for row in rows:
                file.write(json.dumps({"benchmark": options.command, **row, "about": head}) + "\n")


if __name__ == "__main__":
    main()
