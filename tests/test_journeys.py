"""What a user does, from end to end, with the real command line and the real data."""

import json
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from conftest import CONFIGS, PLAIN, SMOKE, call, run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import to_pixels

REPOSITORY = Path(__file__).parents[1]


def test_fit_puts_all_it_makes_in_one_folder(smoke: Path) -> None:
    folder = smoke / "runs/smoke/version_0"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "checkpoints"} < names
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    text = (folder / "config.yaml").read_text()
    about = dict(re.findall(r"^# ([\w .]+): (.*)$", text, re.M))
    assert about["epochs"] == "2" and about["seed"] == "42" and about["threads"].isdigit()
    assert "model.channels=[8,16]" in about["differs from base.yaml"]
    assert f"torch {version('torch')}" in about["versions"]
    kept = read_checkpoint(folder / "checkpoints/last.ckpt")["made_with"]
    assert {name: str(value) for name, value in kept.items()} == about
    config = yaml.safe_load(text)
    assert yaml.safe_load((folder / "hparams.yaml").read_text())["channels"] == [8, 16]
    assert config["model"]["channels"] == [8, 16] and config["seed_everything"] == 42


def test_fit_shows_no_warning(smoke: Path) -> None:
    # Lightning shows a warning as FILE.py:LINE: text.
    assert not re.search(r"\.py:\d|warn|Traceback|Seed", (smoke / "stderr.txt").read_text(), re.I)


def test_the_lines_that_fit_prints_can_be_run(smoke: Path, root: str) -> None:
    out = (smoke / "stdout.txt").read_text()
    lines = out.splitlines()[-3:]
    assert re.search(r"^best epoch  \d+ of 500 validation images misread, 9\d\.\d\d%$", out, re.M)
    assert lines[0] == "checkpoint  runs/smoke/version_0/checkpoints/best.ckpt"
    assert lines[2] == f"see curves  {sys.executable} -m tensorboard.main --logdir runs"
    command = lines[1].removeprefix("test it     ")
    before = sorted(smoke.rglob("*"))
    assert command.endswith(f" --data.root {root}")
    done = subprocess.run(command, shell=True, cwd=smoke, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.match(r"\d+ of 10,000 test images misread, 9\d\.\d\d%, loss ", done.stdout)
    assert not re.search(r"\.py:\d|warn", done.stderr, re.I)
    assert sorted(smoke.rglob("*")) == before  # and nothing new lies there


def test_tensorboard_reads_the_curves(smoke: Path) -> None:
    scalars = EventAccumulator(str(smoke / "runs/smoke/version_0")).Reload()
    counts = {name: len(scalars.Scalars(name)) for name in scalars.Tags()["scalars"]}
    assert counts.pop("epoch") > 0
    assert counts == {
        **dict.fromkeys(["train/loss", "train/accuracy", "train/learning_rate"], 80),
        "train/images_per_second": 2,
        **{f"val/{name}": 2 for name in ("accuracy", "calibration_error", "errors", "loss")},
    }


def test_last_is_the_last_epoch_even_when_it_is_worse(smoke: Path, root: str) -> None:
    folder = smoke / "runs/smoke/version_0"
    steps = {
        name: read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["global_step"]
        for name in ("best", "last")
    }
    accuracies = [
        event.value for event in EventAccumulator(str(folder)).Reload().Scalars("val/accuracy")
    ]
    assert accuracies[-1] >= 0.95  # it learns, or its best would be any
    assert steps["last"] == 80
    assert steps["best"] == 40 * (1 + accuracies.index(max(accuracies)))


@pytest.mark.slow
def test_an_ensemble_is_trained_tested_and_loaded_like_one_network(
    root: str, tmp_path: Path
) -> None:
    from mnist_lightning import load
    from mnist_lightning.network import Ensemble

    done = run("fit", *PLAIN, "--model.members=3", "--data.root", root, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    path = tmp_path / "runs/smoke/version_0/checkpoints/last.ckpt"
    done = run("predict", "--ckpt_path", path, "--data.root", root, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    network = load(path)
    assert isinstance(network, Ensemble) and len(network.members) == 3
    images, _ = read_test_set()
    lines = (tmp_path / "predictions.csv").read_text().splitlines()[1:6]
    predicted = torch.tensor([[float(p) for p in line.split(",")[-10:]] for line in lines])
    with torch.inference_mode():
        torch.testing.assert_close(
            predicted, network(to_pixels(images[:5])).softmax(1), rtol=1e-3, atol=1e-5
        )


@pytest.mark.slow
def test_a_run_learns_from_anothers_predictions(root: str, tmp_path: Path) -> None:
    few = ["--data.train_size=200", "--data.val_size=59000", "--data.root", root]
    assert run("fit", *PLAIN, *few, cwd=tmp_path).returncode == 0
    path = "runs/smoke/version_0/checkpoints/last.ckpt"
    unlabelled = ["--data.predict_set=unlabelled", "--output=rest.csv", "--data.root", root]
    done = run("predict", "--ckpt_path", path, *unlabelled, cwd=tmp_path)
    assert "wrote rest.csv: 800 images" in done.stdout, done.stderr

    pseudo = ["--data.pseudo_labels=rest.csv", "--data.pseudo_share=0.75"]
    done = run("fit", *PLAIN, *few, *pseudo, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\.py:\d|warn|transductive", done.stderr, re.I)
    checkpoint = read_checkpoint(tmp_path / "runs/smoke/version_1/checkpoints/last.ckpt")
    assert checkpoint["global_step"] == 2 * 7  # epochs of 200 labeled images, 32 a step


def test_two_processes_train_one_network(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one = ["--trainer.accelerator=cpu", "--trainer.devices=1", "--data.root", root]
    two = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--data.root", root]
    done = run("fit", *PLAIN, *two, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "runs/smoke").iterdir()] == ["version_0"]
    assert done.stdout.count("checkpoint  runs/smoke") == 1

    path = tmp_path / "runs/smoke/version_0/checkpoints/last.ckpt"
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    where = ["--ckpt_path", str(path)]
    assert call(monkeypatch, "test", *where, "--output=one.json", *one) == 0
    assert call(monkeypatch, "predict", *where, "--output=one.csv", *one) == 0
    # Both in the same two processes, which have to import torch and Lightning once only.
    commands = [
        ["test", *where, "--output=two.json", *two],
        ["predict", *where, "--output=two.csv", *two],
    ]
    Path("both.py").write_text(
        "import sys\n"
        "from mnist_lightning.__main__ import main\n"
        f"for command in {commands}:\n"
        "    sys.argv = ['python -m mnist_lightning', *command]\n"
        "    main()\n"
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launcher, "both.py"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert capsys.readouterr().out.count("test images misread") == 1
    assert done.stdout.count("test images misread") == 1
    figures = [json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json")]
    assert figures[0]["images"] == figures[1]["images"] == 10_000
    assert figures[0]["errors"] == figures[1]["errors"]

    files = [(tmp_path / name).read_text().split() for name in ("one.csv", "two.csv")]
    digits = [[row.split(",")[:3] for row in file] for file in files]  # set, image, digit
    assert digits[0] == digits[1] and len(digits[0]) == 10_001


@pytest.mark.slow
def test_two_processes_validate_the_averaged_network_that_they_save(
    root: str, tmp_path: Path
) -> None:
    average = ["--trainer.callbacks+=EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]
    cpu = ["--trainer.accelerator=cpu", "--data.root", root]
    done = run("fit", *PLAIN, *cpu, "--trainer.devices=2", *average, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "runs/smoke/version_0"
    loss = EventAccumulator(str(folder)).Reload().Scalars("val/loss")[-1].value
    checkpoint = folder / "checkpoints/last.ckpt"
    one = ["--trainer.devices=1", "--output=figures.json"]
    done = run("validate", "--ckpt_path", checkpoint, *cpu, *one, cwd=tmp_path)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["loss"] == pytest.approx(loss, rel=1e-5)


@pytest.mark.filterwarnings("ignore:Precision bf16-mixed is not supported by the model summary")
def test_half_precision_and_all_images_train(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--trainer.precision=bf16-mixed", "--data.val_size=0", "--trainer.max_epochs=1"]
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "fit", *SMOKE, *options, "--data.root", root) == 0
    out = capsys.readouterr().out
    assert "checkpoint  runs/smoke/version_0/checkpoints/last.ckpt" in out
    kept = (tmp_path / "runs/smoke/version_0/checkpoints").iterdir()
    assert [path.name for path in kept] == ["last.ckpt"]


def test_the_wheel_trains_outside_the_repository(tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    build = ["--no-deps", "--no-build-isolation", "--target", str(site), str(REPOSITORY)]
    subprocess.run([*pip, *build], check=True)  # builds a wheel, and unpacks it there

    one_step = [
        "--config=smoke",
        "--trainer.max_steps=1",
        "--data.train_size=64",
        "--data.val_size=10",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "mnist_lightning", "fit", *one_step],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "data/MNIST/raw/train-images-idx3-ubyte").stat().st_size == 47_040_016
    assert (tmp_path / "runs/smoke/version_0/checkpoints/last.ckpt").exists()


@pytest.mark.slow
def test_the_main_job_reaches_the_articles_accuracy(root: str, tmp_path: Path) -> None:
    base = ["--config", CONFIGS / "base.yaml", "--data.root", root]
    assert run("fit", *base, "--trainer.enable_progress_bar=false", cwd=tmp_path).returncode == 0
    path = tmp_path / "runs/base/version_0/checkpoints/best.ckpt"
    measure = ["--ckpt_path", path, "--data.root", root, "--output=figures.json"]
    assert run("test", *measure, cwd=tmp_path).returncode == 0
    accuracy = json.loads((tmp_path / "figures.json").read_text())["accuracy"]
    # Far below what any seed gives, and above what any single network has ever given.
    assert 0.99 < accuracy < 0.9985
