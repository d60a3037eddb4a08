import csv
import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import CONFIGS, PLAIN, SMOKE, call
from lightning.pytorch.callbacks import ProgressBar

from mnist_lightning.checkpoint import read_checkpoint
from mnist_lightning.runs import read_curves
from mnist_lightning.training import cli, parser
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.record import made_with

CHECKPOINT = "runs/smoke/version_0/checkpoints/best.ckpt"

FAST = ["--config", "fast"]
DOWN = ["--trainer.callbacks.monitor=val/loss", "--trainer.callbacks.mode=down"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--model.learning_rate=-1"], "learning_rate -1.0 must be"),
        (["fit", "--model.learning_rate=.nan"], "learning_rate nan must be"),
        (["fit", "--model.learning_rate=fast"], "model.learning_rate"),
        (["fit", "--model.lr=1"], "--model.lr=1"),
        (["fit", "--model.schedule=cosine"], "one_cycle"),
        (["fit", "--model.channels=[8,8,8]"], "room for 2 blocks"),
        (["fit", "--data.dataset=CIFAR10"], "FashionMNIST"),
        (["fit", "--data.val_size=-1"], "val_size -1 must be 0 or more"),
        (["fit", "--data.batch_size=2.5"], "data.batch_size"),
        (["fit", "--config=missing.yaml"], "missing.yaml"),
        (["fit", "--ckpt_path=missing.ckpt"], "there is no checkpoint file missing.ckpt"),
        (["fit", "--ckpt_path=last"], "there is no checkpoint file last"),
        (["fit", "--seed_everything=-1"], "seed_everything"),
        (["fit", "--seed_everything=true"], "seed_everything"),
        (["fit", "--trainer.accelerator=tpu"], "torch_xla"),
        (["fit", "--trainer.strategy=foo"], "foo"),
        (["fit", "--trainer.precision=bf16-true"], "use 32-true, 16-mixed or bf16-mixed"),
        (["fit", "--trainer.precision=64"], "trainer.precision 64-true: "),
        (["fit", "--trainer.limit_train_batches=0"], "leaves nothing to train on"),
        (["fit", "--trainer.logger=CometLogger"], "Requirement 'comet-ml"),
        (["fit", "--trainer.callbacks+=EarlyStopping", *DOWN], "`mode` can be min, max, got down"),
        (["test"], "test needs --ckpt_path FILE"),
        (["predict"], "predict needs --ckpt_path FILE"),
        (["train"], "there is no command 'train'"),
        (["reads"], "did you mean read?"),
    ],
)
def test_a_mistake_gives_one_line_and_leaves_nothing(
    arguments: list[str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    code = call(monkeypatch, *arguments)
    message = code if isinstance(code, str) else capsys.readouterr().err
    assert code not in (0, None)
    assert message.startswith("error: ") and words in message
    assert message.strip().count("\n") == 0
    assert list(tmp_path.iterdir()) == []


def test_a_library_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: cli.CLI) -> None:
        int("a bug, not a user's mistake")

    monkeypatch.setattr(cli.CLI, "before_instantiate_classes", fail)
    with pytest.raises(ValueError, match="a bug"):
        call(monkeypatch, "fit")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fit", "--model.hidden=512"], "model.hidden is 512 here and 32 in the checkpoint"),
        (["fit", "--model.learning_rate=0.5"], "model.learning_rate is 0.5 here and 0.03"),
        (["fit", "--data.zoom=0"], "data.zoom is 0.0 here and 0.12"),
        (["fit", *SMOKE, "--seed_everything=7"], "has seed 42, this one 7"),
        (["fit", *SMOKE, "--trainer.max_epochs=3"], "ends after 80 steps, this run after 120"),
        (["fit", *SMOKE, "--trainer.max_epochs=3"], "from its weights, with --init_weights"),
        (["fit", "--trainer.val_check_interval=9999"], "(9999) must be less than or equal"),
        (["test", "--config", str(CONFIGS / "base.yaml")], "model.channels is (32, 64) here"),
        (["predict", "--output=nowhere/p.csv"], "there is no folder nowhere to write p.csv in"),
        (["predict", "--output=."], ". is a folder: name a file in it"),
        (["predict", "--trainer.limit_predict_batches=0"], "nothing to predict"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(
    arguments: list[str],
    words: str,
    smoke: Path,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    message = call(monkeypatch, *arguments, "--ckpt_path", smoke / CHECKPOINT, "--data.root", root)
    assert isinstance(message, str) and message.startswith("error: ") and words in message
    assert not list(tmp_path.glob("runs/*/*"))  # no run that has not begun


def test_an_averaged_run_does_not_go_on_without_its_average(
    smoke: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({**read_checkpoint(smoke / CHECKPOINT), "averaging_state": {}}, path)
    message = call(monkeypatch, "fit", "--ckpt_path", path, "--data.root", root)
    assert isinstance(message, str) and "EMAWeightAveraging that it was started with" in message


def test_a_runs_config_yaml_serves_the_other_commands(
    smoke: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = smoke / CHECKPOINT.replace("checkpoints/best.ckpt", "config.yaml")
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root]
    assert call(monkeypatch, "test", "--config", config, *where) == 0
    message = call(monkeypatch, "test", "--optimizer", "SGD", *where)
    assert isinstance(message, str) and "in the checkpoint" in message


def test_another_split_for_test_is_reported(
    smoke: Path,
    root: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root]
    assert call(monkeypatch, "validate", "--data.val_size=400", *where) == 0
    captured = capsys.readouterr()
    assert "note: data.val_size is 400 here and 500 in the checkpoint" in captured.err
    assert re.fullmatch(
        r"\d+ of 400 validation images misread, 9\d\.\d\d%, loss 0\.\d{4}, "
        r"calibration error 0\.\d{4}\n",
        captured.out,
    )


def test_test_writes_its_figures_for_programs(
    smoke: Path,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root, "--output=figures.json"]
    few = ["--data.eval_batch_size=30", "--trainer.limit_test_batches=2"]
    assert call(monkeypatch, "test", *where, *few) == 0
    figures = json.loads(Path("figures.json").read_text())
    assert figures["set"] == "test" and figures["checkpoint"] == str(smoke / CHECKPOINT)
    assert 58 <= figures["images"] <= 60  # of so few steps
    assert figures["accuracy"] == pytest.approx(1 - figures["errors"] / figures["images"])
    said = f"{figures['errors']} of {figures['images']} test images misread, "
    assert capsys.readouterr().out.startswith(said)

    assert call(monkeypatch, "test", *where, *few) == 0  # replaces its own file
    Path("figures.json").write_text('{"mine": 1}')
    message = str(call(monkeypatch, "test", *where, *few))
    assert message.startswith("error: figures.json exists and bears no mark of mnist_lightning")
    assert Path("figures.json").read_text() == '{"mine": 1}'
    assert call(monkeypatch, "test", *where, *few, "--overwrite=true") == 0


def test_validate_without_validation_images_is_refused(
    smoke: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root]
    message = call(monkeypatch, "validate", "--data.val_size=0", *where)
    assert message == (
        "error: there are no validation images: data.val_size is 0; of a run with own pictures "
        "--data.extra FOLDER validates on those that it held out"
    )


def test_predict_writes_every_test_images_probabilities(
    smoke: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "predict", "--ckpt_path", smoke / CHECKPOINT, "--data.root", root) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]
    with open("predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["image"]) for row in rows] == list(range(10_000))
    assert {row["set"] for row in rows} == {"MNIST/test"}
    for row in rows[:50]:
        probabilities = [float(row[f"p{digit}"]) for digit in range(10)]
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert int(row["digit"]) == probabilities.index(max(probabilities))


def test_predict_replaces_no_file_of_the_users(
    smoke: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.csv").write_text("a,b\n1,2\n")
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root, "--output=mine.csv"]
    message = str(call(monkeypatch, "predict", *where))
    assert message.startswith("error: mine.csv exists and bears no mark of mnist_lightning")
    assert message.endswith("or add --overwrite true")
    assert Path("mine.csv").read_text() == "a,b\n1,2\n"


def test_predict_of_a_few_steps_writes_their_images(
    smoke: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    where = ["--ckpt_path", smoke / CHECKPOINT, "--data.root", root]
    few = ["--data.eval_batch_size=30", "--trainer.limit_predict_batches=2"]
    assert call(monkeypatch, "predict", *where, *few) == 0
    indices = [int(line.split(",")[1]) for line in Path("predictions.csv").read_text().split()[1:]]
    assert indices == list(range(len(indices))) and 58 <= len(indices) <= 60


def test_a_checkpoint_of_other_data_can_be_tested(
    smoke: Path, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = read_checkpoint(smoke / CHECKPOINT)
    del checkpoint["datamodule_hyper_parameters"]
    path = tmp_path / "mine.ckpt"
    torch.save(checkpoint, path)
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "test", "--ckpt_path", path, "--data.root", root) == 0


def test_a_schedule_without_an_end_is_refused(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = [*SMOKE, "--data.root", root, "--trainer.max_epochs=-1"]
    message = call(monkeypatch, "fit", *arguments, "--trainer.max_time=00:00:00:01")
    assert isinstance(message, str)
    assert message.startswith("error: the one_cycle schedule needs an end: give max_epochs")


def test_early_stopping_says_why_it_stopped(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.root", root, "--data.train_size=64", "--data.val_size=10"]
    stop = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=val/loss"]
    stop.append("--trainer.callbacks.stopping_threshold=99")
    assert call(monkeypatch, "fit", *SMOKE, *few, *stop) == 0
    out = capsys.readouterr().out
    assert "\nstopped early, after epoch 0: Stopping threshold reached: val/loss" in out
    assert "Signaling" not in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trainer.val_check_interval=9999"], "(9999) must be less than or equal"),
        (["--trainer.val_check_interval=9999", "--trainer.logger=false"], "(9999) must be less"),
        (
            ["--trainer.callbacks+=BackboneFinetuning"],
            "BackboneFinetuning does not work with this network: 'MNISTClassifier' object has no "
            "attribute 'backbone'",
        ),
    ],
)
def test_what_is_refused_before_the_first_batch_leaves_no_run(
    arguments: list[str], words: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    message = call(monkeypatch, "fit", *SMOKE, "--data.root", root, *arguments)
    assert isinstance(message, str) and message.startswith("error: ") and words in message
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_bug_that_a_callback_of_lightnings_comes_upon_keeps_its_traceback(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        int("a bug")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MNISTClassifier, "training_step", fail)
    search = "--trainer.callbacks+=LearningRateFinder"
    with pytest.raises(ValueError, match="a bug"):
        call(monkeypatch, "fit", *SMOKE, "--data.root", root, search)


@pytest.mark.parametrize("flag", ["enable_checkpointing=false", "barebones=true"])
def test_a_run_that_keeps_nothing_says_so(
    flag: str,
    root: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.root", root, "--data.train_size=64", "--data.val_size=10"]
    with warnings.catch_warnings():  # of barebones: that nothing is logged
        warnings.simplefilter("ignore")
        assert call(monkeypatch, "fit", *PLAIN, *few, f"--trainer.{flag}") == 0
    assert "no checkpoint was kept" in capsys.readouterr().out
    assert not list(tmp_path.rglob("*.ckpt"))


def test_an_epoch_shorter_than_the_interval_leaves_a_point_in_the_curves(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = ["--data.root", root, "--data.train_size=512", "--trainer.log_every_n_steps=50"]
    assert call(monkeypatch, "fit", *PLAIN, *few) == 0
    assert read_curves(Path("runs/smoke/version_0"))["train/loss"][0] == [3, 7]


# -- configs


def printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> dict:
    assert call(monkeypatch, "fit", *arguments, "--print_config") == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_base_yaml_differs_from_the_defaults_in_what_it_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    base = printed(monkeypatch, capsys)
    assert call(monkeypatch, "validate", "--print_config") == 0  # which has no file below it
    defaults = yaml.safe_load(capsys.readouterr().out)
    assert base["seed_everything"] == defaults["seed_everything"]
    differ = {
        part: {name for name, value in base[part].items() if value != defaults[part][name]}
        for part in ("model", "data", "trainer")
    }
    # The defaults are the article's warps and loss, and batches that any module takes.
    assert differ == {
        "model": {"label_smoothing", "temperature"},
        "data": {"shift", "shear", "zoom", "focus"},
        "trainer": {"callbacks", "logger", "max_epochs"},
    }


def test_a_configuration_is_known_by_its_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    files = printed(monkeypatch, capsys, *SMOKE)
    monkeypatch.chdir(tmp_path)
    assert printed(monkeypatch, capsys, "--config", "smoke") == files
    assert printed(monkeypatch, capsys, "-c=base", "-c=smoke") == files
    Path("smoke").write_text("model: {hidden: 5}")  # a file of one's own comes first
    assert printed(monkeypatch, capsys, "--config", "smoke")["model"]["hidden"] == 5
    assert printed(monkeypatch, capsys, "--config", "model: {hidden: 6}")["model"]["hidden"] == 6


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("smok", "did you mean --config smoke?"),
        ("configs/base.yaml", "--config base takes the one that the package carries"),
        ("configs/bse.yaml", "did you mean --config base?"),
        ("own/mien.yaml", "did you mean --config own/mine.yaml?"),
        (
            "own/x.yaml",
            "the package carries article, base, fast, few, gpu, own, record, smoke, wild",
        ),
    ],
)
def test_a_configuration_that_is_not_there_names_the_nearest(
    name: str,
    hint: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own").mkdir()
    Path("own/mine.yaml").touch()
    assert call(monkeypatch, "fit", "--config", name) == 2
    assert capsys.readouterr().err == f"error: there is no file {name}: {hint}\n"


@pytest.mark.parametrize(
    ("arguments", "flag"),
    [
        (["fit", "--model.learning_rat=1"], "--model.learning_rate"),
        (["fit", "--trainer.max_epoch", "3"], "--trainer.max_epochs"),
        (["test", "--ckptpath", "x"], "--ckpt_path"),
        (["read", "--shwo", "sheet.png", "7.png"], "--show"),
        (["report", "--ckpt-path", "x"], "--ckpt_path"),
        (["export", "--overwrit", "model.onnx"], "--overwrite"),
        (["demo", "--prot", "80"], "--port"),
    ],
)
def test_a_misspelled_flag_names_the_nearest(
    arguments: list[str],
    flag: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, *arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: unrecognized arguments: ") and err.count("\n") == 1
    assert err.endswith(f": did you mean {flag}?\n")


@pytest.mark.parametrize(
    ("before", "key", "noted"),
    [
        (
            ["--config", "base"],
            "callbacks",
            "note: own.yaml replaces Pictures; `callbacks+:` appends",
        ),
        ([], "callbacks+", ""),
        (FAST, "callbacks", ""),
        (
            [],
            "--trainer.callbacks",
            "note: --trainer.callbacks replaces Pictures; `--trainer.callbacks+=` appends",
        ),
        ([], "--trainer.callbacks+", ""),
        (FAST, "--trainer.callbacks", ""),
    ],
)
def test_a_file_or_flag_that_replaces_callbacks_of_those_before_it_is_noted(
    before: list[str],
    key: str,
    noted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    own = {"trainer": {key: [{"class_path": "LearningRateMonitor"}]}}
    Path("own.yaml").write_text(yaml.dump(own))
    given = [f"{key}=LearningRateMonitor"] if key.startswith("-") else ["--config", "own.yaml"]
    assert call(monkeypatch, "fit", *before, *given, "--trainer.limit_train_batches=0") != 0
    assert capsys.readouterr().err.strip() == noted


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_lies_over_base(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = printed(monkeypatch, capsys, "--config", CONFIGS / "base.yaml", "--config", path)
    assert config["trainer"]["logger"]["init_args"]["name"] == path.stem
    assert config["trainer"]["logger"]["init_args"]["save_dir"] == "runs"


def test_a_flag_after_a_config_wins(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = printed(monkeypatch, capsys, *SMOKE, "--model.hidden=7")
    assert config["model"]["hidden"] == 7 and config["model"]["channels"] == [8, 16]


@pytest.mark.parametrize(
    ("flag", "rates"),
    [
        ("--trainer.callbacks=[]", []),  # a test's output is no terminal
        ("--trainer.enable_progress_bar=true", [10]),
        ("--trainer.enable_progress_bar=false", []),
        ("--trainer.callbacks+=TQDMProgressBar", [1]),
    ],
)
def test_there_is_one_progress_bar_where_one_is_wanted(
    flag: str, rates: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[int] = []

    def look(self: cli.CLI) -> None:
        bars = [each for each in self.trainer.callbacks if isinstance(each, ProgressBar)]
        found.extend(bar.refresh_rate for bar in bars)  # type: ignore[attr-defined]
        sys.exit()

    monkeypatch.setattr(cli.CLI, "before_fit", look, raising=False)
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "fit", *SMOKE, flag)
    assert found == rates


def test_a_run_that_differs_from_base_yaml_in_nothing_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[object] = []

    def look(self: cli.CLI) -> None:
        found.append(made_with(self.trainer)["differs from base.yaml"])
        sys.exit()

    monkeypatch.setattr(cli.CLI, "before_fit", look, raising=False)
    monkeypatch.chdir(tmp_path)
    call(monkeypatch, "fit")
    assert found == ["nothing"]


def test_help_fits_on_a_screen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--help") == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("fit", "validate", "test", "predict"))
    assert out.count("\n") < 40
    assert call(monkeypatch, "fit", "--help") == 0
    out = capsys.readouterr().out
    flags = re.findall(r"^  (?:-c \w+, )?--([\w.]+)", out, re.M)
    own = [flag for flag in flags if flag.startswith(("model.", "data."))]
    lightnings = [flag for flag in flags if flag.startswith("trainer.")]
    assert flags.index(own[-1]) < flags.index(lightnings[0])
    assert lightnings[: len(parser.DAILY)] == parser.DAILY
    assert "--data.shear SHEAR" in out and "`auto`: from the newest" in " ".join(out.split())
    assert all(word not in out.split("--model")[0] for word in ("registry", "hpc", "URL"))


def test_what_the_user_gave_is_found_among_the_trainers_flags() -> None:
    line = "fit --trainer.max_steps -1 -c smoke --trainer.logger.name=a --trainer.devices 2"
    words = [*line.split(), "--model.hidden", "-3"]
    assert parser.without_trainers(words) == ["fit", "-c", "smoke", "--model.hidden", "-3"]


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        (
            "--network nowhere.Net",
            "--network nowhere.Net: Problem .* 'nowhere.Net': No module named 'nowhere'",
        ),
        ("--optimizer Nope", "--optimizer Nope: Expected a dot import path string: Nope"),
        ("--trainer.max_epochs x", "--trainer.max_epochs x: Expected a <class 'int'>"),
    ],
)
def test_a_value_that_is_refused_stands_in_the_line_with_its_flag(
    flag: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "fit", *flag.split()) == 2
    assert re.fullmatch(f"error: {line}\n", capsys.readouterr().err)
