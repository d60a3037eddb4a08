import contextlib
import fcntl
import io
import os
import re
import runpy
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import sweep
from conftest import CONFIGS, SMOKE, call
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.tensorboard import SummaryWriter

SEARCH = ["--search", "model.learning_rate=1e-3:1e-2:log", "data.batch_size=64,128"]

# A killed process is missed after seconds, not half a minute.
IMPATIENT = "import sweep; sweep.HEARTBEAT, sweep.GRACE = 1, 3; sweep.main()"

# What a sweep says before its first trial.
BEGINNING = ("rates: each trial's log is runs/sweeps/rates/", "checking", "0 of", "2 of")


def start(root: str, cwd: Path, *arguments: str) -> subprocess.Popen[str]:
    """Begin a sweep, in a process group of its own."""
    small = ["--data.root", root, "--trainer.accelerator=cpu"]
    return subprocess.Popen(
        [sys.executable, "-c", IMPATIENT, "rates", *SMOKE, *small, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(sweep.__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> list[str]:
    """Return the lines that a sweep prints."""
    try:
        stdout, stderr = process.communicate(timeout=300)
    finally:
        process.kill()
    assert process.returncode == 0, stderr
    return [line for line in stdout.splitlines() if not line.startswith(BEGINNING)]


def exits_with(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", ["sweep.py", "rates", *arguments])
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sweep, "work", lambda *_: pytest.fail("trials begin"))
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)

    def run_here(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        stdout, stderr = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = call(monkeypatch, *command[command.index("mnist_lightning") + 1 :])
        assert isinstance(code, int)
        return subprocess.CompletedProcess(command, code, stdout.getvalue(), stderr.getvalue())

    # `fit --print_config` without the seconds that a process of its own takes to import Lightning.
    monkeypatch.setattr(subprocess, "run", run_here)
    with pytest.raises(SystemExit) as exit_:
        sweep.main()
    return exit_.value.code


def test_an_entry_is_a_range_or_a_choice() -> None:
    entries = ["a=1e-3:1:log", "b=0:15", "c=0:0.5", "d=8:64:log", "e=64,x", "f=[16,32],[32,64]"]
    assert sweep.parse_search(entries) == {
        "a": FloatDistribution(0.001, 1.0, log=True),
        "b": IntDistribution(0, 15),
        "c": FloatDistribution(0.0, 0.5),
        "d": IntDistribution(8, 64, log=True),
        "e": CategoricalDistribution(["64", "x"]),
        "f": CategoricalDistribution(["[16,32]", "[32,64]"]),
    }


@pytest.mark.parametrize(
    "entries",
    [
        "a",
        "a=1",
        "a=1:2:3",
        "a=1:2:lin",
        "a=1,,2",
        "a=x:1",
        "a=2:1",
        "a=0:1:log",
        "a=0:inf",
        "",
        "a=1:2 a=3:4",
    ],
)
def test_what_is_no_entry_is_named(entries: str) -> None:
    with pytest.raises(ValueError, match="--search"):
        sweep.parse_search(entries.split())


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["--data.val_size=0"], "val_size 0 holds out no images"),
        (["--config", str(CONFIGS / "record.yaml")], "val_size 0 holds out no images"),
        (["--model.width=3"], "model.width"),
        (["--seed_everything=1"], "--seed_everything is set by this script"),
        (["--model.learning_rate=0.1"], "--model.learning_rate is set by this script"),
        (["--trials=0"], "--trials must be"),
        (["--storage=nowhere"], "URL"),
    ],
)
def test_a_mistake_is_told_in_one_line(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code = exits_with(monkeypatch, *SEARCH, *arguments)
    assert re.fullmatch(f"error: .*{reason}.*", code)


@pytest.mark.parametrize(
    "name", ["..", ".hidden", "../runs", "/tmp/a", "a/b", "a\\b", "", "a b", "a\n"]
)
def test_a_name_that_leads_elsewhere_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (SEARCH, ["--show"]):
        monkeypatch.setattr(sys, "argv", ["sweep.py", name, *arguments])
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        with pytest.raises(SystemExit, match="^error: .* is not a valid name: [^\n]*$"):
            sweep.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("optuna", r"^error: optuna is missing: .*-m pip install optuna$"),
        ("fcntl", "^error: a sweep needs .* Linux or macOS"),
    ],
)
def test_what_it_needs_is_named(module: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SystemExit, match=line):
        runpy.run_path(sweep.__file__)


def stand_in(monkeypatch: pytest.MonkeyPatch, command: list[str], accuracies: list[float]) -> None:
    """Let a trial be a command beside which there are such curves."""

    def fit_command(folder: Path, fit_arguments: list[str], again: bool) -> list[str]:
        with SummaryWriter(str(folder)) as writer:
            for step, accuracy in enumerate(accuracies):
                writer.add_scalar("val/accuracy", accuracy, step)
        return command

    monkeypatch.setattr(sweep, "fit_command", fit_command)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_that_lags_behind_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, ["sleep", "60"], [0.2, 0.3])
    search = sweep.parse_search(["a=0:1"])
    study = optuna.create_study(
        direction="maximize", pruner=optuna.pruners.MedianPruner(n_warmup_steps=1)
    )
    for _ in range(5):
        others = {"value": 0.9, "intermediate_values": {0: 0.9, 1: 0.9}}
        study.add_trial(optuna.create_trial(params={"a": 0}, distributions=search, **others))
    started = time.monotonic()
    study.optimize(lambda trial: sweep.run(trial, "rates", search, []), n_trials=1)
    assert time.monotonic() - started < 30  # it waits for the child's end
    assert study.trials[-1].state == TrialState.PRUNED
    assert study.trials[-1].intermediate_values == pytest.approx({0: 0.2, 1: 0.3})


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_trial_counts_by_its_last_accuracy_once_its_folder_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stand_in(monkeypatch, ["true"], [0.9, 0.8])
    log = tmp_path / "runs" / "sweeps" / "rates" / "trial_0.txt"
    log.parent.mkdir(parents=True)
    with log.open("a") as output:
        fcntl.flock(output, fcntl.LOCK_EX)
        # As the child of a script that is no more.
        orphan = subprocess.Popen(["sleep", "0.3"], stdout=output)
    study = optuna.create_study(direction="maximize")
    study.optimize(lambda trial: sweep.run(trial, "rates", {}, []), n_trials=1)
    assert orphan.poll() == 0
    assert study.best_value == pytest.approx(0.8)


@pytest.fixture
def sweep_of_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Callable[[optuna.Trial], float]], None]:
    """Return what runs `sweep.py rates` for one trial, with a function in place of training."""

    def main(train: Callable[[optuna.Trial], float]) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["scripts/sweep.py", "rates", "--trials", "1", *SEARCH])
            patch.setattr(sweep, "check", lambda *_: None)
            patch.setattr(sweep, "run", lambda trial, **_: train(trial))
            sweep.main()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "GRACE", 1)
    monkeypatch.setattr(sweep, "HEARTBEAT", 1)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    return main


def test_a_sweep_says_what_it_does_from_first_to_last(
    sweep_of_one: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        sweep_of_one(lambda trial: sys.exit(130))  # as on Ctrl-C
    assert stopped.value.code == 130
    first, _, done, resume = capsys.readouterr().out.splitlines()
    assert "runs/sweeps/rates/trial_N.txt" in first
    assert done == "0 of 1 trials are done"
    assert resume == f"to resume: python scripts/sweep.py rates --trials 1 {shlex.join(SEARCH)}"
    sweep_of_one(lambda trial: 0.75)
    *_, trial, best, command = capsys.readouterr().out.splitlines()
    assert trial.startswith("trial 0: 0.7500 complete")
    assert best == "best: trial 0, val/accuracy 0.7500"
    assert command.startswith("python -m mnist_lightning fit --seed_everything=100")


@pytest.mark.parametrize("when", ["for an instant", "in a trial", "at a trial's end"])
def test_a_database_that_fails_for_a_moment_ends_the_sweep_in_one_line(
    when: str, sweep_of_one: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    database = Path("runs/sweeps.db")

    def lose(trial: optuna.Trial) -> float:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            # Without a first sign of life Optuna would never miss the trial.
            while not connection.execute("select * from trial_heartbeats").fetchall():
                pass
        if when == "for an instant":  # Optuna could still count the trial as failed
            raise StorageInternalError("no connection")
        database.rename("elsewhere.db")
        database.mkdir()
        if when == "in a trial":
            trial.report(0.5, 0)
        return 0.5

    with pytest.raises(SystemExit, match="^error: the study's database: [^\n]*resumes it$"):
        sweep_of_one(lose)
    assert capsys.readouterr().err == ""
    if database.is_dir():
        database.rmdir()
        Path("elsewhere.db").rename(database)
    sweep_of_one(lambda trial: 0.75)
    study = sweep.open_study("rates", "sqlite:///runs/sweeps.db", create=False)
    assert [trial.value for trial in study.trials][-1] == 0.75
    assert {sweep.run_number(trial) for trial in study.trials} == {0}  # the lost one, done again


def test_a_bug_is_not_taken_for_the_database() -> None:
    with pytest.raises(ZeroDivisionError), sweep.database_at_hand():
        raise ZeroDivisionError


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_table_is_best_first(capsys: pytest.CaptureFixture[str]) -> None:
    study = optuna.create_study(study_name="rates", direction="maximize")
    study.set_user_attr("command", "--search a=0:1")
    for state, value in [("FAIL", None), ("PRUNED", 0.8), ("COMPLETE", 0.7), ("COMPLETE", 0.9)]:
        study.add_trial(optuna.create_trial(state=TrialState[state], value=value))
    sweep.show(study)
    rows = [line.split()[1] for line in capsys.readouterr().out.splitlines()[4:]]
    assert rows == ["3", "2", "1", "0"]


@pytest.mark.slow
def test_a_sweep_runs_its_trials_once_and_shows_them(root: str, tmp_path: Path) -> None:
    tiny = ["--data.train_size=256", "--trainer.max_epochs=1"]
    arguments = ["--trials=2", *SEARCH, *tiny]
    *trials, best, command = finish(start(root, tmp_path, *arguments))
    assert [line.split(":")[0] for line in trials] == ["trial 0", "trial 1"]
    number, value = re.findall(r"\d[.\d]*", best)
    assert any(line.startswith(f"trial {number}: {value} complete") for line in trials)
    assert re.search(r"fit .*--seed_everything=100 --model.learning_rate=0\.00\d+ ", command)

    assert finish(start(root, tmp_path, *arguments)) == [best, command]
    shown = finish(start(root, tmp_path, "--show"))
    rows = [line.split(" | ") for line in shown if "complete" in line]
    assert {row[0] for row in rows} == {"| 0", "| 1"}


@pytest.mark.slow
def test_a_mistake_in_the_command_ends_the_sweep(root: str, tmp_path: Path) -> None:
    process = start(root, tmp_path, "--search", "model.hidden=-1:0")
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 1
    assert all(line.startswith(BEGINNING) for line in stdout.splitlines())
    assert re.search("^error: trial 0 failed .*hidden (-1|0) must be", stderr, re.M)
    assert "Traceback" not in stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum, group, code",
    [
        pytest.param(signal.SIGKILL, True, -9, id="script and trial killed"),
        pytest.param(signal.SIGKILL, False, -9, id="script killed"),
        pytest.param(signal.SIGTERM, False, 143, id="script told to end"),
        pytest.param(signal.SIGINT, True, 130, id="Ctrl-C"),
    ],
)
def test_a_sweep_that_was_killed_goes_on(
    signum: int, group: bool, code: int, root: str, tmp_path: Path
) -> None:
    longer = ["--data.train_size=1280", "--trainer.max_epochs=6"]
    arguments = ["--trials=1", *SEARCH, *longer]
    folder = tmp_path / "runs" / "sweeps" / "rates" / "trial_0"
    killed = start(root, tmp_path, *arguments)
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert killed.poll() is None
        time.sleep(0.05)
    (os.killpg if group else os.kill)(killed.pid, signum)
    killed.communicate(timeout=60)
    assert killed.returncode == code

    trial, *_ = finish(start(root, tmp_path, *arguments))
    accuracies = EventAccumulator(str(folder)).Reload().Scalars("val/accuracy")
    assert len(accuracies) == 6
    assert trial.startswith(f"trial 0: {accuracies[-1].value:.4f} complete")
    assert [path.name for path in folder.parent.glob("*/")] == ["trial_0"]
    assert "resuming from" in folder.with_suffix(".txt").read_text()
    assert ("stopped by SIGTERM" in folder.with_suffix(".txt").read_text()) == (code > 0)
