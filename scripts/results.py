"""Write docs/results.md from the lines that scripts/seeds.py keeps in docs/results/.

python scripts/results.py
"""

import json
import re
import shlex
import statistics
import sys
import textwrap
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.training.classifier import MNISTClassifier

REPOSITORY = Path(__file__).parents[1]
RESULTS = Path("docs/results")

# Tables: a title, an introduction, and rows: a file's name and what it measures.
TABLES = [
    (
        "All labels",
        "From the article as it ran to this project's main configuration, step by step. The last "
        "step, to `base.yaml`, is hard images, smoothed labels and other warps.",
        {
            "article": "the article as it ran: no batch norm, constant Adam, batch 64",
            "article_batch_norm": "+ the batch norm that it describes",
            "article_one_cycle": "+ the one-cycle schedule, still with a peak of 1e-3",
            "base_60000_unstandardized": "+ a peak of 3e-3, batch 128",
            "not_warped": "the same without augmentation",
            "base_60000_whole": "+ each image standardized",
            "base_60000": "`base.yaml` on all 60,000 images",
            "base": "`base.yaml`, 5,000 images held out",
            "fast": "`fast.yaml`: half of the images once, a smaller network, no augmentation",
            "fast_5_epochs": "`fast.yaml`, 5 epochs of 0.4, half of the article's augmentation",
            "fast_16_epochs": "`fast.yaml`, 16 epochs of half, `base.yaml`'s augmentation",
        },
    ),
    (
        "The network that comes with the package",
        "`wild.yaml`, for people's own pictures, in bfloat16: what it gains is in "
        "[robustness.md](robustness.md). The first seed's network is the one that ships, which was "
        "decided before any was tested.",
        {"wild": "`wild.yaml` on all 60,000 images"},
    ),
    (
        "The record",
        "`record.yaml`: its settings were chosen on images of held-out writers, then frozen. Which "
        "networks make an ensemble was decided before the first was tested; the minutes are those "
        "of all their trainings. In bfloat16 on one core of an AMD EPYC each, except: the ten with "
        "a temperature of 1.5 ran at once on a GPU, and the ten ConvNets in float32 on an Intel "
        "Xeon. The small one answers as fast as the network that ships.\n\n"
        "The best public means, of the last epoch and unselected too: 99.641 ± 0.047% "
        "([Deotte](https://github.com/cdeotte/MNIST-CNN-99.75), n = 1,500), 99.738 ± 0.031% "
        "([Doucet](https://github.com/ttdoucet/mnist), n = 10, whose network this is, half as wide "
        "and without its first residual block) and 99.7475 ± 0.028% "
        "([Matuzas](https://github.com/Matuzas77/MNIST-0.17), n = 20).",
        {
            "record": "`record.yaml` on all 60,000 images",
            "record_ensemble": "its five networks as one ensemble",
            "record_base_60000_ensemble": "these and five of `base.yaml`'s as one ensemble",
            "small": "a small one: width 28, one view, 222,000 parameters",
            "record_temperature_1.5": "with a temperature of 1.5",
            "record_temperature_1.5_ensemble": "the ten of these as one ensemble",
            "record_convnet": "what it was before: a ConvNet of three blocks",
            "record_convnet_ensemble": "the ten of these as one ensemble",
        },
    ),
    (
        "What the article suggests",
        "Ensembles, and pseudo-labels of the test images, as it does. That row is transductive: "
        "the images that it is tested on were trained on. It can be compared with no other. The "
        "ensemble of all ten `base.yaml` networks was added after they had been tested.",
        {
            "base_60000_ensemble": "`base.yaml` on all 60,000 images, its ten networks as one",
            "fast_5_ensemble": "`fast.yaml`, 5 epochs, half of the ranges, 5 networks as one",
            "article_pseudo": "pseudo-labels of the test images, a quarter of each step",
        },
    ),
    (
        "Few labels",
        "`few.yaml`: labeled training images that are drawn anew for each seed, and nothing held "
        "out. A round learns from the labels, and from the answers of the network before it to "
        "all other training images, where they are at least 95% sure "
        "([training.md](training.md#few-labels)). The settings were chosen by how many unlabeled "
        "images were misread in draw 100, and these rows are of other draws. That takes the true "
        "labels of images that are called unlabeled, so this choice is not open to someone "
        "without those labels.",
        {
            "few_1000": "1,000 labels alone, 640 steps",
            "few_1000_round_1": "and 59,000 images without, round 1, 960 steps",
            "few_1000_round_2": "round 2",
            "few_100": "100 labels alone, 600 steps",
            "few_100_round_1": "and 59,900 images without, round 1, 980 steps",
            "few_100_round_2": "round 2",
            "few_100_round_3": "round 3",
        },
    ),
]


AGAIN = """## Commands

Each makes a row again. Seeds that have a line in [results/](results/) are not run again: move the
row's file away first, and for a row with pseudo-labels also that of the row whose networks label
the images: `--data.pseudo_labels` names it.
"""

INTRODUCTION = """# Results

Written by `python scripts/results.py` from the files in [results/](results/), which have one line
for each finished run. Test accuracy is that after the last epoch on all 10,000 test images, read
once for each run: mean ± standard deviation over n seeds (lowest to highest). Nothing is selected
on the test set; settings were chosen on held-out training images ([log.md](log.md)). NLL is
the mean negative log-likelihood, ECE the expected calibration error (l1, 15 bins), minutes the wall
time of `fit`.

The machines were an AMD EPYC and an Intel Xeon with two virtual cores. Each run had one thread,
mostly with other work beside it; the first rows of `fast.yaml` had two threads and nothing beside
them; one row of `record.yaml`'s, of ten runs, is a GPU's. One error is 0.01%, and five seeds leave
a mean uncertain by 0.03%. `record.yaml` uses test-time augmentation: for an image that it is unsure
of, its answer is the mean over the image and its shifts by one pixel. The rows with a temperature
of 1.5 and of the ConvNet did that for all images.

Some rows were measured with earlier configurations: `base.yaml` had no standardizing, hard images
or smoothed labels, and other warps. A row's command gives the settings that it had.
"""

HEAD = """| | test accuracy | errors | n | NLL | ECE | minutes |
|---|---|---|---|---|---|---|
"""


def mean_and_deviation(values: list[float], digits: int, unit: str = "") -> str:
    """Format values as `mean ± standard deviation`, or a single one as it is."""
    mean = f"{statistics.mean(values):.{digits}f}"
    return f"{mean} ± {statistics.stdev(values):.{digits}f}{unit}" if values[1:] else mean + unit


def row(lines: list[dict[str, Any]], description: str) -> str:
    """Return a row of the main table."""

    def column(name: str, scale: float = 1) -> list[float]:
        return [line[name] * scale for line in lines]

    accuracies = column("test/accuracy", 100)
    low, high = min(accuracies), max(accuracies)
    range_ = f" ({low:.2f} to {high:.2f})" if accuracies[1:] else ""
    cells = [
        description,
        f"{mean_and_deviation(accuracies, 2, '%')}{range_}",
        mean_and_deviation(column("test/errors"), 1),
        f"{len(lines)}",
        mean_and_deviation(column("test/loss"), 4),
        mean_and_deviation(column("test/calibration_error"), 4),
        f"{statistics.mean(column('fit_seconds')) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def page(read: Callable[[str], list[dict[str, Any]]]) -> str:
    """Return the page.

    Args:
        read: From a row's name to its lines, one for each finished run.

    Raises:
        UserError: If an ensemble does not consist of all of its row's seeds.
    """
    parts, commands, machines = [INTRODUCTION], [], set()
    every = {name: read(name) for *_, names in TABLES for name in names}
    for title, text, names in TABLES:
        rows = [(name, every[name]) for name in names]
        rows = [(name, lines) for name, lines in rows if lines and "test/accuracy" in lines[0]]
        if not rows:
            continue
        parts.append(f"## {title}\n\n{text}\n")
        parts.append(HEAD + "\n".join(row(lines, names[name]) for name, lines in rows) + "\n")
        for name, lines in rows:
            if "of" in lines[0]:  # the row of its networks has the command
                continue
            seeds = " ".join(str(seed) for seed in sorted(line["seed"] for line in lines))
            sets = {line["predict"] for line in lines if "predict" in line}
            predict = "".join(f" --predict {set_}" for set_ in sets)
            fit = [lines[0]["command"].removeprefix("fit "), *since_changed(lines[0])]
            together = [line for each in every.values() for line in each if line.get("of") == name]
            for line in together:
                if line["seeds"] != [int(seed) for seed in seeds.split()]:
                    raise UserError(
                        f"{line['row']} has other seeds than {name}: "
                        f"run scripts/seeds.py {name} with --ensemble again"
                    )
            ensembles = [" ".join([" --ensemble", *line.get("with", [])]) for line in together]
            for ensemble in ensembles or [""]:
                flags = f"--test{ensemble}{predict} --seeds {seeds}"
                command = f"python scripts/seeds.py {name} {flags} {' '.join(fit)}"
                whole = re.sub(r" (?!--)", "\0", command)  # a flag stays with its values
                wrapped = textwrap.wrap(whole, 86, break_on_hyphens=False, break_long_words=False)
                commands.append(" \\\n    ".join(wrapped).replace("\0", " ") + "\n")
            for line in lines:
                versions = ", ".join(f"{name} {it}" for name, it in line["versions"].items())
                machines.add(f"{line['machine']}, {versions}")
    parts.append(AGAIN)
    parts.append(f"```sh\n{''.join(commands)}```\n")
    machine = "; ".join(sorted(machines))
    parts.append(f"Made on: {machine}.\n")
    return "\n".join(parts)


def since_changed(line: dict[str, Any]) -> list[str]:
    """Return the flags that a run's command needs since the configurations have changed.

    Args:
        line: A run, with its command, its settings and its number of epochs.
    """
    command = shlex.split(line["command"])
    words = [part for word in command for part in word.split("=", 1 if word[:2] == "--" else 0)]
    flags = {word.lstrip("-") for word in words if word.startswith("--")}
    files = [file for flag, file in pairwise(words) if flag == "--config"]
    now: dict[str, Any] = {}
    for file in ["configs/base.yaml", *files]:
        for part, settings in yaml.safe_load((REPOSITORY / file).read_text()).items():
            if part in ("model", "data", "trainer"):
                now |= {f"{part}.{name}": value for name, value in settings.items()}
    then = {"trainer.max_epochs": line.get("epochs")}
    for part, class_ in (("model", MNISTClassifier), ("data", MNISTDataModule)):
        # A run from before there was a setting had its default, but for standardizing.
        old = {**class_().hparams, "standardize": False, **line.get("settings", {})}
        then |= {key: old[key.partition(".")[2]] for key in now if key.startswith(f"{part}.")}
    return [
        f"--{key} {json.dumps(value, separators=(',', ':'))}"
        for key, value in then.items()
        if key not in flags and value not in (None, now[key])
    ]


def read_lines(name: str) -> list[dict[str, Any]]:
    """Return a row's lines; none if it has no file."""
    path = RESULTS / f"{name}.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError:
        sys.exit(f"error: {path} holds a truncated line: delete it, and its seed runs again")


if __name__ == "__main__":
    try:
        text = page(read_lines)
    except UserError as error:
        sys.exit(f"error: {error}")
    Path("docs/results.md").write_text(text)
    print("wrote docs/results.md")
