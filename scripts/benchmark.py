"""Measure the speed of training and use on this machine.

    python scripts/benchmark.py train     # fit against a plain loop, the obvious port and the limit
    python scripts/benchmark.py train --config configs/fast.yaml  # the same for another network
    python scripts/benchmark.py accuracy  # seconds to an accuracy: fit, the obvious port, Keras
    python scripts/benchmark.py parts     # where a step's time goes
    python scripts/benchmark.py predict   # images a second, and one image's latency
    python scripts/benchmark.py start     # from the command to its first step
    python scripts/benchmark.py read      # folders of pictures, and the memory of all processes
    python scripts/benchmark.py scale     # over batch, images, processes, members; peak memory

Every figure is a median over turns, taken in alternation: turn 1 of all rows, then turn 2, so that
a slow minute affects all of them. Nothing else should run meanwhile. Each command prints a Markdown
table. scripts/rivals.py holds what `fit` is compared with.
"""

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import writers
from PIL import Image
from rivals import (
    BASE,
    Case,
    keras_port,
    machine_limit,
    obvious_port,
    plain_loop,
    port_accuracy,
)
from torch import Tensor

from mnist_lightning.commands.formats import to_onnx
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.network import to_pixels
from mnist_lightning.runs import Curves, read_curves
from mnist_lightning.training.record import processor
from mnist_lightning.training.speed import keep_freed_memory

Rows = list[dict[str, Any]]

MOST_EPOCHS = 10  # that `accuracy` gives


def fit(case: Case, *flags: str) -> tuple[float, float]:
    """Run the real command for two epochs; return images/s in the second, and peak memory in GB."""
    size = [f"--data.batch_size={case.batch}", f"--data.train_size={case.images}"]
    size += ["--data.val_size=0", "--data.focus=1", "--trainer.max_epochs=2"]
    curves, memory = run_fit(case, *size, *flags)
    return curves["train/images_per_second"][1][-1], memory


def run_fit(case: Case, *flags: str) -> tuple[Curves, float]:
    """Run the real command; return the run's curves, and peak memory in GB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "mnist_lightning", "fit"]
        command += [f"--config={path}" for path in case.configs]
        command += [*flags, f"--trainer.logger.init_args.save_dir={folder}"]
        with open(Path(folder) / "output.txt", "w+") as output:
            process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            output.seek(0)
            assert process.returncode == 0, output.read()
        (run,) = Path(folder).glob("*/version_0")
        curves = read_curves(run)
    return curves, usage.ru_maxrss / (2**20 if sys.platform == "linux" else 2**30)


def fresh(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own, so that no turn inherits another's memory."""
    with ProcessPoolExecutor(1, get_context("spawn"), initializer=_to_devnull) as pool:
        return pool.submit(function, *arguments).result()


def _to_devnull() -> None:
    # Progress bars are drawn, as for a user, but not over this script's output.
    for descriptor in (1, 2):  # not sys.stdout, which TensorFlow's C++ does not use
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def take_turns(rows: Mapping[str, Callable[[], Any]], turns: int) -> dict[str, list[Any]]:
    """Call each row's function once a turn, and show progress on stderr."""
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


def spread(unit: str, values: list[float], form: str = ",.0f") -> dict[str, str]:
    """Return two cells: the median of some values, and their lowest and highest."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return {unit: f"{middle:{form}}", "low to high": f"{low:{form}} to {high:{form}}"}


def ratio(values: list[float], reference: list[float]) -> str:
    """Return the median of the turns' ratios, which slow minutes do not affect."""
    return f"{statistics.median(v / r for v, r in zip(values, reference, strict=True)):.2f} x"


# -- the subcommands


def train(case: Case, turns: int) -> Rows:
    """Compare fit with a plain loop, the obvious port, Keras and the machine's limit."""
    case.data()  # so that the files exist
    rows: dict[str, Callable[[], float]] = {
        "fit": lambda: fit(case)[0],
        "plain loop": partial(fresh, plain_loop, case),
        "obvious port": partial(fresh, obvious_port, case, True),
        "obvious port, not augmented": partial(fresh, obvious_port, case, False),
        "machine's limit": partial(fresh, machine_limit, case),
    }
    if case.keras and not case.config:
        rows["Keras"] = partial(fresh, keras_port, case)
    rates = take_turns(rows, turns)
    return [
        {"batch": case.batch, "row": name}
        | spread("images/s", values)
        | {"fit is": ratio(rates["fit"], values)}
        for name, values in rates.items()
    ]


def accuracy(case: Case, turns: int) -> Rows:
    """Time whole runs to a mean accuracy on writers held out, each by its shortest schedule.

    `fit` takes its configuration's images a step, the others 64, as tutorials do. A schedule is a
    number of epochs, at whose end the accuracy counts. A turn is a seed. All are given one epoch;
    those that miss the goal are given one more, from the start.
    """
    data = case.by_writer()
    ways: dict[str, Callable[[int, int], float]] = {
        "fit": partial(fit_accuracy, case),
        "obvious port": partial(fresh, port_accuracy, case, True),
        "obvious port, not augmented": partial(fresh, port_accuracy, case, False),
    }
    reached: dict[str, tuple[int, list[float], list[float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        if case.keras and not case.config:
            ways["Keras"] = partial(keras_accuracy, case, save_arrays(data, Path(folder)))
        elif not case.config:
            print(
                "no Keras: --keras names a Python that has tensorflow-cpu and scipy",
                file=sys.stderr,
            )
        for epochs in range(1, MOST_EPOCHS + 1):
            calls = {
                name: partial(timed, way, epochs, count())
                for name, way in ways.items()
                if name not in reached
            }
            for name, results in take_turns(calls, turns).items():
                values, times = map(list, zip(*results, strict=True))
                print(f"{name}, {epochs} epoch(s): {statistics.mean(values):.2%}", file=sys.stderr)
                if statistics.mean(values) >= case.goal:
                    reached[name] = epochs, values, times
            if len(reached) == len(ways):
                break
    rows = []
    for name in ways:
        epochs, values, times = reached.get(name, (0, [], []))
        row = {"row": name, "epochs": epochs or f"more than {MOST_EPOCHS}"}
        row["accuracy"] = f"{statistics.mean(values):.2%}" if epochs else ""
        row |= spread("seconds", times, ".1f") if epochs else {"seconds": "", "low to high": ""}
        row["fit is"] = ratio(times, reached["fit"][2]) if epochs and "fit" in reached else ""
        rows.append(row)
    return rows


def timed(way: Callable[[int, int], float], epochs: int, seeds: Iterator[int]) -> Any:
    """Return the accuracy of a training with the next seed, and the seconds of the whole run."""
    started = time.perf_counter()
    return way(epochs, next(seeds)), time.perf_counter() - started


def fit_accuracy(case: Case, epochs: int, seed: int) -> float:
    """Run the real command; return its accuracy on writers held out."""
    flags = [*writers.FLAGS, f"--seed_everything={seed}", f"--trainer.max_epochs={epochs}"]
    flags.append(f"--trainer.check_val_every_n_epoch={epochs}")
    return run_fit(case, *flags)[0]["val/accuracy"][1][-1]


def keras_accuracy(case: Case, arrays: Path, epochs: int, seed: int) -> float:
    """Train in Keras, in a process without torch; return the accuracy on writers held out."""
    script = Path(__file__).with_name("keras_port.py")
    command = [*map(str, (case.keras, script, arrays, case.batch, epochs, seed))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[-1])


def save_arrays(data: MNISTDataModule, folder: Path) -> Path:
    """Write the images to train on and those held out for a process without torch."""
    arrays: dict[str, Any] = {}
    for name, indices in (("", data.train_indices), ("val_", data.val_indices)):
        arrays[f"{name}images"] = data.train_images[indices].numpy()
        arrays[f"{name}labels"] = data.train_labels[indices].numpy()
    np.savez(folder / "data.npz", **arrays)
    return folder / "data.npz"


def parts(case: Case, turns: int) -> Rows:
    """Time the parts of a plain step, and Lightning's share as fit's step less the plain one."""
    times: dict[str, list[float]] = {}
    clock = time.perf_counter()

    def lap(name: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        times.setdefault(name, []).append(now - clock)
        clock = now

    plain_loop(case, 1 + turns, lap)
    times = {name: values[len(values) // (1 + turns) :] for name, values in times.items()}
    rates = take_turns(
        {"fit": lambda: fit(case)[0], "plain": partial(fresh, plain_loop, case)}, turns
    )
    times["Lightning, logging"] = [
        case.batch / of_fit - case.batch / plain
        for of_fit, plain in zip(rates["fit"], rates["plain"], strict=True)
    ]
    rows = [(name, len(values), statistics.median(values)) for name, values in times.items()]
    second_epoch = torch.profiler.schedule(wait=0, warmup=case.steps, active=case.steps, repeat=1)
    with torch.profiler.profile(schedule=second_epoch) as profile:
        plain_loop(case, 2, lambda name: profile.step() if name == "optimizer" else None)
    events = sorted(profile.key_averages(), key=lambda event: -event.self_cpu_time_total)
    kernels = [
        (f"`{event.key}`", event.count, event.self_cpu_time_total / 1e6 / case.steps)
        for event in events
        if not event.key.startswith("ProfilerStep")
    ]
    return [
        {"batch": case.batch, "part": name, "n": n, "ms": f"{1000 * time:.2f}"}
        | {"share": f"{time / sum(time for _, _, time in whole):.1%}"}
        for whole, shown in ((rows, len(rows)), (kernels, 14))
        for name, n, time in whole[:shown]
    ]


def predict(case: Case, turns: int) -> Rows:
    """Time the network in eval mode: batches for their rate, single images for their latency."""
    keep_freed_memory()
    pixels = to_pixels(case.data().train_images[:2000])
    network = case.network().to(memory_format=torch.channels_last).eval()
    engines: dict[str, Callable[[Tensor], Any]] = {"torch": torch.inference_mode()(network)}
    if find_spec("onnxruntime") and find_spec("onnxscript"):
        import onnxruntime

        session = onnxruntime.InferenceSession(to_onnx(network))
        engines["onnxruntime"] = lambda batch: session.run(["logits"], {"pixels": batch.numpy()})

    def rate(engine: Callable[[Tensor], Any], size: int) -> float:
        return len(pixels) / seconds(lambda: [engine(batch) for batch in pixels.split(size)])

    sizes = (1, 32, 100, 250, 500, 1000, 2000)
    rates = take_turns(
        {f"{name} {b}": partial(rate, run, b) for name, run in engines.items() for b in sizes},
        turns,
    )
    rows = []
    for label, values in rates.items():
        name, size = label.split()
        row = {"engine": name, "batch": size, "images/s": f"{statistics.median(values):,.0f}"}
        row |= {"p50 ms": "", "p99 ms": ""}
        if size == "1":
            engine = engines[name]
            times = [seconds(partial(engine, image)) for image in pixels[:1000].split(1)]
            cuts = statistics.quantiles(times, n=100)
            row |= {"p50 ms": f"{1000 * cuts[49]:.2f}", "p99 ms": f"{1000 * cuts[98]:.2f}"}
        rows.append(row)
    return rows


def start(case: Case, turns: int) -> Rows:
    """Time whole processes: the bare import, --help, and a fit of one step."""
    case.data()
    reference = "import lightning.pytorch.cli"
    tool = ["-m", "mnist_lightning"]
    with tempfile.TemporaryDirectory() as folder:
        fit_one_step = ["fit", f"--config={BASE}", "--trainer.max_steps=1", "--data.val_size=0"]
        commands = {
            reference: ["-c", reference],
            "mnist_lightning --help": [*tool, "--help"],
            "mnist_lightning fit, 1 step": [
                *(*tool, *fit_one_step, f"--trainer.logger.init_args.save_dir={folder}")
            ],
        }

        def call(arguments: list[str]) -> float:
            command = [sys.executable, *arguments]
            return seconds(lambda: subprocess.run(command, capture_output=True, check=True))

        times = take_turns({name: partial(call, args) for name, args in commands.items()}, turns)
    return [
        {"process": name}
        | spread("seconds", values, ".2f")
        | {"of the import": ratio(values, times[reference])}
        for name, values in times.items()
    ]


def read(_: Case, turns: int) -> Rows:
    """Time `read FOLDER`: PNGs of one digit, 28x28 to 512x512 pixels, on Linux."""
    images, rng = read_test_set()[0].numpy(), np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        rows: dict[str, Callable[[], tuple[float, float, float]]] = {}
        for num in (100, 1000, 10_000):
            (pictures := Path(folder) / f"{num}").mkdir()
            for i, side in enumerate(rng.integers(28, 513, num)):
                digit = Image.fromarray(255 - images[i]).resize((side, side))
                digit.save(pictures / f"{i:05}.png")
            rows[f"{num:,}"] = partial(read_folder, pictures)
        results = take_turns(rows, turns)
    return [
        {"pictures": name}
        | spread("seconds", [time for time, _, _ in values], ".1f")
        | {"CPU seconds": f"{min(time for _, time, _ in values):.1f}"}
        | {"peak GB, all processes": f"{max(memory for _, _, memory in values):.2f}"}
        for name, values in results.items()
    ]


def read_folder(folder: Path) -> tuple[float, float, float]:
    """Run the real command; return its seconds, and all its processes' CPU time and peak GB."""
    import resource  # not on Windows

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "mnist_lightning", "read", str(folder)]
    command += ["--output", f"{folder}.csv"]
    started, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory_of(process.pid))
        time.sleep(0.1)
    assert process.returncode == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, used, peak


def memory_of(pid: int) -> float:
    """Return the memory of a process and all below it in GB, each page shared by all who map it."""
    with contextlib.suppress(OSError):  # it may just have ended
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        own = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(child) for task in tasks for child in task.read_text().split()]
        return own / 1e6 + sum(map(memory_of, children))
    return 0.0


def scale(case: Case, turns: int) -> Rows:
    """Time fit over batch sizes, images, processes and members, changing one at a time."""
    case.data()
    # Fewer steps of a larger batch, so that no turn takes long.
    cases = {
        f"batch {batch}": replace(case, batch=batch, steps=max(8, 64 * case.steps // batch))
        for batch in (32, 64, 128, 256, 512, 2048)
    }
    calls: dict[str, Callable[[], Any]] = {}
    for name, changed in cases.items():
        calls[name] = partial(fit, changed)
        calls[f"{name}, plain loop"] = partial(fresh, plain_loop, changed)
    for steps in (case.steps, 4 * case.steps):
        changed = replace(case, steps=steps)
        calls[f"{changed.images:,} images"] = partial(fit, changed)
    for processes in (1, 2):  # of two, each has one thread
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
        row = {"fit with": name} | spread("images/s", rates)
        row["of the plain loop"] = ratio(rates, plain) if plain else ""
        row["peak GB a process"] = f"{max(memory for _, memory in values):.2f}"
        rows.append(row)
    return rows


def header(case: Case, turns: int) -> str:
    """Return a line with the table's command, date, machine and versions."""
    packages = ["torch", "lightning", *(["onnxruntime"] if find_spec("onnxruntime") else [])]
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    if case.keras:
        ask = "from importlib.metadata import version; print(version('tensorflow-cpu'))"
        answer = subprocess.check_output([case.keras, "-c", ask], text=True)
        versions += f", tensorflow-cpu {answer.strip()}"
    precision = "bfloat16" if case.bfloat16 else "float32"
    return (
        f"`python scripts/benchmark.py {' '.join(sys.argv[1:])}`, {time.strftime('%Y-%m-%d')}: "
        f"{processor()}, {torch.get_num_threads()} threads, {precision}; "
        f"Python {platform.python_version()}, {versions}; "
        f"median of n = {turns} turns in alternation."
    )


OPTIONS: dict[str, Any] = {
    "turns": {"type": int, "default": 5, "help": "turns of each row (default: 5)"},
    "batch": {"type": int, "default": Case.batch, "help": "images a step (default: 64)"},
    "steps": {"type": int, "default": Case.steps, "help": "steps of a turn (default: 60)"},
    "config": {"type": Path, "help": "configuration to lay over base.yaml"},
    "goal": {"type": float, "default": Case.goal, "help": "accuracy (default: 0.99)"},
    "keras": {"default": Case.keras, "help": "a Python that has tensorflow-cpu and scipy"},
}
SUBCOMMANDS: dict[Callable[[Case, int], Rows], tuple[str, ...]] = {
    train: ("batch", "steps", "config"),
    accuracy: ("config", "goal", "keras"),
    parts: ("batch", "steps", "config"),
    predict: ("config",),
    read: (),
    start: (),
    scale: ("batch", "steps", "config"),
}


def main() -> None:
    """Parse the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for function, names in SUBCOMMANDS.items():
        assert function.__doc__
        command = commands.add_parser(
            function.__name__, help=function.__doc__, description=function.__doc__
        )
        command.set_defaults(function=function)
        for name in ("turns", *names):
            command.add_argument(f"--{name}", **OPTIONS[name])
    options = vars(parser.parse_args())
    function, turns = options.pop("function"), options.pop("turns")

    case = Case(**options)
    head = header(case, turns)
    rows = function(case, turns)
    print(f"{head}\n")
    print(f"| {' | '.join(rows[0])} |")
    print(f"|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")


if __name__ == "__main__":
    main()
