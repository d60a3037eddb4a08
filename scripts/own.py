"""Teach the network that ships a hand that it reads badly, and measure what it learns and forgets.

    python scripts/own.py made --seeds 0 1 2 3 4
    python scripts/own.py digits --seeds 0 1 2 3 4
    python scripts/own.py made --start CHECKPOINT --seeds 0 --model.learning_rate 1e-3

It writes 20 pictures a digit into a folder, runs `fit --config wild --config own --data.extra`, and
prints a line for each seed, then a table in Markdown for docs/photos.md. The seed also chooses the
pictures. Other options go to `fit`.

The hand `made` is MNIST's digits under a fixed warp, slanted and thick, 64 to 176 pixels high; what
is taught are training images, what is measured are test images. `digits` are scikit-learn's 8x8
images, of 13 other writers (its second half, the 20 a digit and all others), with a margin of two
of their pixels, 96 pixels high.

With `--start`, a network that held out writers as `--data.split writers --data.val_size 15000`
does, nothing is measured on test images: settings are chosen so. The made hand and what is
forgotten are then of the writers held out, and `digits` is scikit-learn's first half.
"""

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import writers
from PIL import Image
from scipy import ndimage
from torch import Tensor

from mnist_lightning import load, read_images
from mnist_lightning.data import datasets
from mnist_lightning.data.splits import stratified_sample
from mnist_lightning.errors import UserError
from mnist_lightning.network import Ensemble, Network
from mnist_lightning.reading.reader import read_each
from mnist_lightning.reading.segments import find_digit

ROOT = Path("data")
A_DIGIT = 20  # pictures to learn from
OTHERS = 1000  # pictures of the made hand to measure
ZOOM = 4  # pixels of a picture for one of MNIST's

Picture = Image.Image


def made(image: np.ndarray) -> Picture:
    """Write one of MNIST's digits, uint8 `(28, 28)`, in the made hand, dark on white."""
    padded = Image.fromarray(np.pad(image, 8))
    side = ZOOM * padded.width
    ink = np.asarray(padded.resize((side, side), Image.Resampling.BICUBIC), np.float32) / 255
    down, right = np.mgrid[:side, :side].astype(np.float32) - side / 2
    wave = 1.5 * ZOOM, 2 * np.pi / (14 * ZOOM)
    across = right + 0.5 * down + wave[0] * np.sin(wave[1] * down)
    along = down + wave[0] * np.sin(wave[1] * right)
    ink = ndimage.map_coordinates(ink, np.stack([along, across]) + side / 2, order=1)
    disk = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3
    ink = ndimage.grey_dilation(ink, footprint=disk).clip(0, 1)
    return Image.fromarray((255 - 235 * ink).round().astype(np.uint8))


def small(image: np.ndarray) -> Picture:
    """Return one of scikit-learn's digits, `(8, 8)` in 0 to 16, as a picture, light on black."""
    padded = np.pad(image, 2) * (255 / 16)
    return Image.fromarray(padded.astype(np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)


def hand(
    name: str, chooses: bool, seed: int
) -> tuple[list[Picture], np.ndarray, list[Picture], np.ndarray]:
    """Return pictures to learn from, their labels, and others to measure, and theirs."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        half = slice(0, 900) if chooses else slice(900, None)
        images, labels = digits.images[half], digits.target[half]
        taught = few(labels, np.arange(len(labels)), seed)
        others = np.setdiff1d(np.arange(len(labels)), taught)
        return (
            *([small(image) for image in images[taught]], labels[taught]),
            *([small(image) for image in images[others]], labels[others]),
        )
    tensors = datasets.read(ROOT, "MNIST", train=True)
    held_out, (images, labels) = writers.held_out(tensors[1]), (each.numpy() for each in tensors)
    taught = few(labels, np.setdiff1d(np.arange(len(labels)), held_out), seed)
    if chooses:
        measured, true = images[held_out], labels[held_out]
    else:
        measured, true = (each.numpy() for each in datasets.read_test_set())
    others = np.random.default_rng((seed, 1)).choice(len(true), OTHERS, replace=False)
    return (
        *([made(image) for image in images[taught]], labels[taught]),
        *([made(image) for image in measured[others]], true[others]),
    )


def few(labels: np.ndarray, indices: np.ndarray, seed: int) -> np.ndarray:
    """Choose `A_DIGIT` images of each digit."""
    classes = (indices[labels[indices] == digit] for digit in range(10))
    return np.concatenate([stratified_sample(labels, c, A_DIGIT, seed) for c in classes])


def images_of(pictures: Sequence[Picture], labels: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """Make MNIST's images of pictures of one digit each; those that are refused are left out."""
    images, used = [], []
    for picture, label in zip(pictures, labels, strict=True):
        try:
            images.append(torch.from_numpy(find_digit(picture)))
            used.append(label)
        except UserError:
            pass
    return torch.stack(images), np.array(used)


def share_misread(network: Network | Ensemble, images: Tensor, labels: np.ndarray) -> float:
    """Return the share of images `(N, 28, 28)` that are misread, sure or not."""
    digits = np.array([reading.digit for reading in read_images(images, network)])
    return float((digits != labels).mean())


def share_of_pages(
    network: Network | Ensemble, pictures: Sequence[Picture], labels: np.ndarray
) -> float:
    """Return the share of pictures that `read` does not read as their one digit."""
    pages = (found[1] for found in read_each(pictures, network))
    right = [
        getattr(page, "text", "") == str(label) for page, label in zip(pages, labels, strict=True)
    ]
    return 1 - float(np.mean(right))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("hand", choices=["made", "digits"])
    parser.add_argument("--start", default="shipped", help="checkpoint to choose settings by")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--fast", action="store_true", help="leave out what `read` makes of it")
    options, settings = parser.parse_known_args()
    datasets.prepare(ROOT, "MNIST")
    chooses = options.start != "shipped"
    first = load(options.start) if chooses else load()
    if chooses:
        images, labels = datasets.read(ROOT, "MNIST", train=True)
        held_out = writers.held_out(labels)
        kept = images[held_out], labels.numpy()[held_out]
        settings += writers.FLAGS
    else:
        images, labels = datasets.read_test_set()
        kept = images, labels.numpy()
    kept_before = share_misread(first, *kept)
    rows = []
    for seed in options.seeds:
        taught, digits, others, true = hand(options.hand, chooses, seed)
        with tempfile.TemporaryDirectory() as folder:
            for number, (picture, digit) in enumerate(zip(taught, digits, strict=True)):
                path = Path(folder, "pictures", str(digit), f"{number}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                picture.save(path)
            command = [sys.executable, "-m", "mnist_lightning", "fit", "--config", "wild"]
            command += ["--config", "own", "--init_weights", options.start, "--data.extra"]
            command += [f"{folder}/pictures", "--seed_everything", str(seed), *settings]
            command += ["--trainer.logger.save_dir", folder, "--trainer.logger.version", "0"]
            began, cpu = time.perf_counter(), cpu_seconds()
            subprocess.run(command, check=True, stdout=sys.stderr)
            wall, cpu = time.perf_counter() - began, cpu_seconds() - cpu
            taught_network = load(Path(folder, "own/version_0/checkpoints/last.ckpt"))
        images, used = images_of(others, true)
        row = {"seed": seed, "pictures": len(digits), "measured": len(true), "seconds": wall}
        row |= {"cpu_seconds": cpu, "refused": 1 - len(used) / len(true)}
        for when, network in (("before", first), ("after", taught_network)):
            row[f"hand {when}"] = share_misread(network, images, used)
            if not options.fast:
                row[f"read {when}"] = share_of_pages(network, others, true)
        row["MNIST before"], row["MNIST after"] = kept_before, share_misread(taught_network, *kept)
        print({n: round(v, 5) if isinstance(v, float) else v for n, v in row.items()}, flush=True)
        rows.append(row)
    print("\n| | mean | standard deviation | n |\n|---|---|---|---|")
    for name in list(rows[0])[1:]:  # not the seed
        values = [row[name] for row in rows]
        deviation = statistics.stdev(values) if len(values) > 1 else 0
        print(f"| {name} | {statistics.mean(values):.4g} | {deviation:.2g} | {len(values)} |")


def cpu_seconds() -> float:
    """Return the CPU time of all finished child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
