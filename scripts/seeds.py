"""Run `fit` once for each of several seeds, and keep a JSON line for each finished run.

    python scripts/seeds.py base --seeds 0 1 2 3 4 --test --config configs/base.yaml
    python scripts/seeds.py base --show

Other options go to `fit`, with each `{seed}` replaced. Seeds that have a line already are skipped,
so a row can be resumed after a kill, or on another day. `--test` reads the test set once for each
finished run, with its last checkpoint; without it only validation images are used. `--ensemble`
also tests the networks of all of the row's seeds as an ensemble, and writes
docs/results/ROW_ensemble.jsonl; `--ensemble OTHER` adds another row's networks of the same seeds,
and writes docs/results/ROW_OTHER_ensemble.jsonl. `--predict SET` writes the last checkpoint's
probabilities for a set's images to runs/seeds/ROW/seed_{seed}/predictions.csv, for another row to
train on.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from results import RESULTS, read_lines

from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.errors import UserError
from mnist_lightning.runs import read_curves
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.record import processor


def run(
    row: str, seed: int, test: bool, predict: str | None, fit_arguments: list[str]
) -> dict[str, Any]:
    """Train one network in a process of its own and measure its last checkpoint."""
    folder = run_folder(row, seed)
    init = "--trainer.logger.init_args"
    command = [sys.executable, "-m", "mnist_lightning", "fit"]
    command += [argument.replace("{seed}", str(seed)) for argument in fit_arguments]
    command += [f"--seed_everything={seed}", "--trainer.logger=TensorBoardLogger"]
    command += [
        f"{init}.save_dir={folder.parent}",
        f"{init}.name=",
        f"{init}.default_hp_metric=false",
    ]
    command += [f"{init}.version={folder.name}", "--trainer.enable_progress_bar=false"]
    if folder.exists():
        print(f"{folder} is an unfinished run: seed {seed} starts again")
        shutil.rmtree(folder)
    started = time.time()
    subprocess.run(command, check=True)
    seconds = time.time() - started

    path = folder / "checkpoints" / "last.ckpt"
    if predict:
        command = [sys.executable, "-m", "mnist_lightning", "predict", f"--ckpt_path={path}"]
        command += [f"--data.predict_set={predict}", f"--output={folder}/predictions.csv"]
        subprocess.run([*command, "--trainer.enable_progress_bar=false"], check=True)
    checkpoint = read_checkpoint(path)
    settings = {**checkpoint["hyper_parameters"], **checkpoint["datamodule_hyper_parameters"]}
    settings.pop("root")
    curves = read_curves(folder)
    _, rates = curves["train/images_per_second"]
    result: dict[str, Any] = {"row": row, "seed": seed, "epochs": checkpoint["epoch"] + 1}
    result["fit_seconds"] = round(seconds, 1)
    size = (settings["train_size"] or 60_000 - settings["val_size"]) * settings["focus"]
    for source, share in (("pseudo_labels", "pseudo_share"), ("extra", "extra_share")):
        size /= 1 - settings[share] if settings.get(source) else 1
    # From each epoch's first batch to its last update; some 10 ms between epochs are not in it.
    result["train_seconds"] = round(sum(size / rate for rate in rates), 2)
    result["images_per_second"] = round(statistics.median(rates))
    result |= {name: values[-1] for name, (_, values) in curves.items() if name.startswith("val/")}
    if test:
        classifier = MNISTClassifier(**checkpoint["hyper_parameters"])
        classifier.load_state_dict(checkpoint["state_dict"])
        result.update(measure(classifier, checkpoint["datamodule_hyper_parameters"]))
    result["settings"] = settings
    result.update(made_with())
    if predict:
        result["predict"] = predict
    result["command"] = f"fit {' '.join(fit_arguments)}"
    return result


def measure_together(rows: list[str], lines: list[dict[str, Any]]) -> dict[str, Any]:
    """Test the last checkpoints of all of a row's runs as an ensemble, with those of other rows.

    Args:
        rows: Names of the row and of the others.
        lines: The row's.

    Raises:
        FileNotFoundError: If one of them is not on this machine.
        UserError: If one is damaged.
    """
    seeds = sorted(line["seed"] for line in lines)
    paths = [run_folder(row, seed) / "checkpoints" / "last.ckpt" for row in rows for seed in seeds]
    checkpoint = read_checkpoint(paths[0])
    classifier = MNISTClassifier(**checkpoint["hyper_parameters"])
    classifier.network = load(*paths)
    lines = lines + [line for row in rows[1:] for line in read_lines(row) if line["seed"] in seeds]
    result: dict[str, Any] = {"row": f"{'_'.join(rows)}_ensemble", "of": rows[0], "seeds": seeds}
    result["with"] = rows[1:]
    result["command"] = f"the networks of {' and '.join(rows)} as one"
    result["fit_seconds"] = round(sum(line["fit_seconds"] for line in lines), 1)
    result.update(measure(classifier, checkpoint["datamodule_hyper_parameters"]))
    return result | made_with()


def run_folder(row: str, seed: int) -> Path:
    """Return the folder of a seed's run."""
    return Path("runs") / "seeds" / row / f"seed_{seed}"


def measure(classifier: MNISTClassifier, data_settings: dict[str, Any]) -> dict[str, Any]:
    """Read the test set and return its metrics."""
    trainer = pl.Trainer(
        devices=1, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    return dict(trainer.test(classifier, MNISTDataModule(**data_settings), verbose=False)[0])


def made_with() -> dict[str, Any]:
    """Return the machine and the versions that a result depends on."""
    return {
        "machine": f"{processor()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("torch", "lightning")},
    }


def show(lines: list[dict[str, Any]]) -> None:
    """Print each metric's mean, standard deviation, minimum and maximum over the seeds."""
    names = [
        name for name in lines[0] if name.startswith(("val/", "test/", "images", "fit_", "train_"))
    ]
    print(f"{lines[0]['row']}: n = {len(lines)}, {lines[0]['command']}")
    for name in names:
        values = [line[name] for line in lines]
        deviation = statistics.stdev(values) if len(values) > 1 else float("nan")
        mean, low, high = statistics.mean(values), min(values), max(values)
        print(f"  {name:24} {mean:10.5g} +- {deviation:8.3g}   ({low:.5g} to {high:.5g})")


def main() -> None:
    """Parse the command line, run what is missing, and print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", help="name of the row; its lines go to docs/results/ROW.jsonl")
    parser.add_argument("--seeds", type=int, nargs="+", default=[], metavar="SEED")
    parser.add_argument("--test", action="store_true", help="read the test set once for each run")
    parser.add_argument(
        "--ensemble",
        nargs="*",
        metavar="OTHER",
        help="test all as an ensemble too, with the networks of other rows",
    )
    parser.add_argument("--predict", choices=["test", "unlabelled"], metavar="SET")
    parser.add_argument("--show", action="store_true", help="only print the row")
    options, fit_arguments = parser.parse_known_args()
    if options.ensemble is not None and not options.test:
        parser.error("--ensemble reads the test set: it needs --test")

    path = RESULTS / f"{options.row}.jsonl"
    lines = read_lines(options.row)
    command = f"fit {' '.join(fit_arguments)}"
    if not options.show:
        if lines and lines[0]["command"] != command:
            sys.exit(f"error: {path} holds runs of another command: {lines[0]['command']}")
        if lines and options.test != ("test/accuracy" in lines[0]):
            was = "not tested: leave out --test" if options.test else "tested: give --test"
            sys.exit(f"error: the runs in {path} were {was}, or choose another row")
        done = {line["seed"] for line in lines}
        path.parent.mkdir(parents=True, exist_ok=True)
        for seed in [seed for seed in options.seeds if seed not in done]:
            try:
                lines.append(run(options.row, seed, options.test, options.predict, fit_arguments))
            except subprocess.CalledProcessError as error:  # it has printed why
                sys.exit(error.returncode)
            with path.open("a") as file:
                file.write(json.dumps(lines[-1]) + "\n")
    if not lines:
        sys.exit(f"error: {path} holds no runs yet")
    if options.ensemble is not None and not options.show:
        try:
            line = measure_together([options.row, *options.ensemble], lines)
        except (FileNotFoundError, UserError) as error:
            sys.exit(f"error: {error}")
        (RESULTS / f"{line['row']}.jsonl").write_text(json.dumps(line) + "\n")
        show([line])
    show(lines)


if __name__ == "__main__":
    main()
