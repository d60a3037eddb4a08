"""Search settings of `fit` by their accuracy on validation images, with Optuna.

    python scripts/sweep.py rates --trials 20 --config configs/base.yaml --trainer.max_epochs 3 \
        --search model.learning_rate=1e-3:1e-2:log data.rotation=0:15 data.batch_size=64,128,256
    python scripts/sweep.py rates --show

Other options go to `fit`. Each entry of `--search` is one of

    KEY=LOW:HIGH          integers if both are written as such, else floats
    KEY=LOW:HIGH:log      the same on a logarithmic scale
    KEY=A,B,[C,D]         one of these, passed as it is written

A trial is a `fit` without callbacks, so without averaged weights, in runs/sweeps/NAME/trial_N; its
output is in trial_N.txt beside it. Its value is the accuracy of its last epoch, not of its best
one. It is pruned if it is worse than the median of the others, but not before its second
validation: a schedule's first epochs say little. All train with one seed, so that they differ in
their settings only. The best of many is also lucky: measure it over other seeds, with
scripts/seeds.py. No test image is read.

The study is kept in a database, and the same command resumes it after a kill. Several processes
share the work if each runs the command; on several machines, with a database that all can reach. A
trial whose process has sent no heartbeat for 30 s is retried with the same settings, from its
newest checkpoint if its folder has one.
"""

import argparse
import contextlib
import logging
import math
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mnist_lightning.runs import newest_checkpoint
from mnist_lightning.text import this_python

try:
    import fcntl
except ModuleNotFoundError:
    sys.exit("error: a sweep needs the file locks of Linux or macOS; on Windows, run it in WSL")
try:
    import optuna
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.exceptions import (
        ExperimentalWarning,
        OptunaError,
        StorageInternalError,
        UpdateFinishedTrialError,
    )
    from optuna.storages import RetryHeartbeatStaleTrialCallback as Retry
    from optuna.trial import FrozenTrial, TrialState
    from sqlalchemy.exc import SQLAlchemyError
except ModuleNotFoundError as error:
    install = shlex.join([this_python(), "-m", "pip", "install", "optuna"])
    sys.exit(f"error: {error.name} is missing: {install}")

DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)

Space = CategoricalDistribution | FloatDistribution | IntDistribution

HEARTBEAT, GRACE = 10, 30  # seconds between heartbeats, and without one until a trial is stale
POLL = 1.0  # seconds between two readings of a trial's curves
OWN_FLAGS = (
    "--ckpt_path",
    "--seed_everything",
    "--trainer.callbacks",
    "--trainer.enable_progress_bar",
    "--trainer.logger",
)


def parse_search(entries: list[str]) -> dict[str, Space]:
    """Turn the entries of `--search` into each key's range or choices.

    Raises:
        ValueError: If there is none, one can't be parsed, or two have one key.
    """
    if not entries:
        raise ValueError("nothing to search: --search KEY=LOW:HIGH is missing")
    search: dict[str, Space] = {}
    for entry in entries:
        key, _, values = entry.partition("=")
        if key in search:
            raise ValueError(f"--search {entry}: there is a range for {key} already")
        try:
            search[key] = _space(values)
        except ValueError as error:
            raise ValueError(f"--search {entry}: {error}") from error
    return search


def _space(values: str) -> Space:
    choices = re.split(r",(?![^\[]*\])", values)  # not at the commas within a list
    if len(choices) > 1 and all(choices):
        return CategoricalDistribution(choices)
    found = re.fullmatch("([^:,]+):([^:,]+)(:log)?", values)
    if not found:
        raise ValueError("it is not KEY=LOW:HIGH, KEY=LOW:HIGH:log or KEY=A,B,C")
    low, high, log = found.groups()
    if all(re.fullmatch("-?[0-9]+", bound) for bound in (low, high)):
        return IntDistribution(int(low), int(high), log=bool(log))
    if not math.isfinite(float(high) - float(low)):
        raise ValueError("the range is not finite")
    return FloatDistribution(float(low), float(high), log=bool(log))


def check_name(name: str) -> None:
    """Refuse what is not the name of a folder, since contents of a study's folder may be removed.

    Raises:
        ValueError: If it has other characters than letters, digits, `.`, `_` and `-`, or starts
            with a dot or dash.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", name):
        raise ValueError(f"{name!r} is not a valid name: use letters, digits, . _ -")


def check(fit_arguments: list[str], search: dict[str, Space]) -> None:
    """Refuse flags that this script sets or `fit` can't parse, and runs without validation images.

    Raises:
        ValueError: If there are any.
    """
    given = [argument.split("=")[0] for argument in fit_arguments]
    searched = [f"--{key}" for key in search]
    for flag in given + searched:
        if flag.startswith(OWN_FLAGS) or (flag in given and flag in searched):
            raise ValueError(f"{flag} is set by this script")
    flags = [f"--{key}={_first(space)}" for key, space in search.items()]
    command = [sys.executable, "-m", "mnist_lightning", "fit", *fit_arguments, *flags]
    command += ["--print_config"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(done.stderr.strip().split("\n")[-1].removeprefix("error: "))
    if not yaml.safe_load(done.stdout)["data"]["val_size"]:
        raise ValueError("data.val_size 0 holds out no images to choose by")


def _first(space: Space) -> str | float:
    return space.choices[0] if isinstance(space, CategoricalDistribution) else space.low  # type: ignore[return-value]


@contextlib.contextmanager
def database_at_hand() -> Iterator[None]:
    """Exit with one line if the study's database fails.

    Also within a trial: an error would count as its failure; a trial that exits is retried.
    """
    try:
        yield
    except Exception as error:
        cause: BaseException | None = error
        while cause and not isinstance(cause, DATABASE_ERRORS):
            cause = cause.__context__  # after it, Optuna's own assertions fail at a trial's end
        if not cause:
            raise
        sys.exit(f"error: the study's database: {_reason(cause)}; the same command resumes it")


def _reason(error: BaseException) -> str:
    return str(error.__cause__ or error).splitlines()[0]  # Optuna's own message omits the cause


def _explain(failed: threading.ExceptHookArgs) -> None:
    """Print nothing about a heartbeat that the database refused: the main thread will."""
    if not isinstance(failed.exc_value, DATABASE_ERRORS):
        threading.__excepthook__(failed)


def run(
    trial: optuna.Trial, name: str, search: dict[str, Space], fit_arguments: list[str]
) -> float:
    """Train one network in a process of its own and return its last val/accuracy.

    Raises:
        optuna.TrialPruned: If it is worse than the others; it is stopped.
        ChildProcessError: If it fails.
    """
    # One sampler for all would start again in each process, and suggest the same settings.
    trial.study.sampler = optuna.samplers.TPESampler(seed=trial.number)
    flags = [f"--{key}={suggest(trial, key, space)}" for key, space in search.items()]
    number = run_number(trial.study.trials[trial.number])
    folder = Path("runs") / "sweeps" / name / f"trial_{number}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".txt")
    with log.open("a") as output:
        # The child holds the lock too: if it outlives a killed script, this waits for it.
        fcntl.flock(output, fcntl.LOCK_EX)
        command = fit_command(folder, [*fit_arguments, *flags], again=number != trial.number)
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            accuracies = follow(trial, child, folder)
        finally:
            child.terminate()
            child.wait()
    if child.returncode:
        last = log.read_text(errors="replace").strip().split("\n")[-1]
        code = child.returncode
        raise ChildProcessError(f"trial {number} failed with exit code {code}, see {log}: {last}")
    if not accuracies:
        raise ChildProcessError(f"trial {number} had no validation: are images held out for it?")
    return accuracies[-1]


def suggest(trial: optuna.Trial, key: str, space: Space) -> str | float:
    """Return the sampler's suggestion for a setting."""
    if isinstance(space, CategoricalDistribution):
        return str(trial.suggest_categorical(key, space.choices))
    if isinstance(space, IntDistribution):
        return trial.suggest_int(key, space.low, space.high, log=space.log)
    return trial.suggest_float(key, space.low, space.high, log=space.log)


def run_number(trial: FrozenTrial) -> int:
    """Return the number of a trial's run: if the trial is a retry, that of the first attempt."""
    first = Retry.retried_trial_number(trial)
    return trial.number if first is None else first


def fit_command(folder: Path, fit_arguments: list[str], again: bool) -> list[str]:
    """Return the command that trains in a folder; `again` resumes from its newest checkpoint."""
    init = "--trainer.logger.init_args"
    command = [sys.executable, "-m", "mnist_lightning", "fit", *fit_arguments]
    command += ["--trainer.callbacks=[]", "--trainer.enable_progress_bar=false"]
    command += ["--trainer.logger=TensorBoardLogger", f"{init}.default_hp_metric=false"]
    command += [
        f"{init}.save_dir={folder.parent}",
        f"{init}.name=",
        f"{init}.version={folder.name}",
    ]
    if newest_checkpoint(folder)[0] is None:
        shutil.rmtree(folder, ignore_errors=True)  # its curves would be read as the new run's
    elif again:  # otherwise `fit` refuses to overwrite another study's run
        command += ["--ckpt_path=auto"]
    return command


def follow(trial: optuna.Trial, child: subprocess.Popen[bytes], folder: Path) -> list[float]:
    """Report each validation's accuracy as it is logged; return all after the child's end.

    Raises:
        optuna.TrialPruned: If the trial is worse than the others.
    """
    folder.mkdir(exist_ok=True)
    scalars = EventAccumulator(str(folder))
    num_reported = 0
    while True:
        ended = child.poll() is not None  # before reading, so that the last reading is complete
        scalars.Reload()
        logged = "val/accuracy" in scalars.Tags()["scalars"]
        accuracies = [e.value for e in scalars.Scalars("val/accuracy")] if logged else []
        for step in range(num_reported, len(accuracies)):
            try:
                trial.report(accuracies[step], step)
            except UpdateFinishedTrialError:
                sys.exit("error: another process has taken over the trial: its heartbeat was late")
        num_reported = max(num_reported, len(accuracies))  # a resumed run takes some back
        if ended:
            return accuracies
        if trial.should_prune():
            raise optuna.TrialPruned
        time.sleep(POLL)


def open_study(name: str, url: str, create: bool) -> optuna.Study:
    """Return the study of this name from a database, whichever process created it.

    Raises:
        KeyError: If there is none and `create` is false.
    """
    again = Retry(inherit_intermediate_values=False)  # the run's own curves have them
    storage = optuna.storages.RDBStorage(
        url,
        heartbeat_interval=HEARTBEAT,
        grace_period=GRACE,
        heartbeat_stale_trial_callback=again,
    )
    if not create:
        return optuna.load_study(study_name=name, storage=storage)
    pruner = optuna.pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=1)
    return optuna.create_study(
        storage=storage, study_name=name, direction="maximize", pruner=pruner, load_if_exists=True
    )


def work(study: optuna.Study, num_trials: int, objective: Callable[[optuna.Trial], float]) -> None:
    """Run trials until `num_trials` are done, by this and other processes."""
    patience = 1  # if the first trial fails, the command is wrong
    while True:
        states = [trial.state for trial in study.get_trials(deepcopy=False)]
        num_done = states.count(TrialState.COMPLETE) + states.count(TrialState.PRUNED)
        if num_done >= num_trials:
            return
        if num_done + states.count(TrialState.RUNNING) >= num_trials:
            # Others run the last ones. If one of them dies, its trial is retried here.
            optuna.storages.fail_stale_trials(study)
            time.sleep(POLL)
            continue
        try:
            study.optimize(objective, n_trials=1, callbacks=[tell])
            patience = 3
        except ChildProcessError as error:
            patience -= 1
            if not patience:
                sys.exit(f"error: {error}")
            print(error, flush=True)


def tell(study: optuna.Study, trial: FrozenTrial) -> None:
    """Print a finished trial."""
    settings = " ".join(f"{key}={_short(value)}" for key, value in trial.params.items())
    state = trial.state.name.lower()
    print(f"trial {run_number(trial)}: {trial.value:.4f} {state}, {settings}", flush=True)


def show(study: optuna.Study) -> None:
    """Print the study's trials as a Markdown table, best first."""
    trials = {run_number(trial): trial for trial in study.trials}  # each one's last attempt
    keys = list(dict.fromkeys(key for trial in trials.values() for key in trial.params))
    print(f"{study.study_name}: {study.user_attrs['command']}\n")
    print(f"| trial | val/accuracy | state | {' | '.join(keys)} |")
    print(f"|{'---|' * (3 + len(keys))}")
    for trial in sorted(trials.values(), key=lambda t: (t.value is None, t.state, -(t.value or 0))):
        value = "" if trial.value is None else f"{trial.value:.4f}"
        settings = " | ".join(_short(trial.params.get(key, "")) for key in keys)
        print(f"| {run_number(trial)} | {value} | {trial.state.name.lower()} | {settings} |")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Parse the command line, run what is missing, and print the best settings."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("name", help="name of the study; its runs go to runs/sweeps/NAME")
    parser.add_argument("--search", nargs="+", default=[], metavar="KEY=VALUES")
    parser.add_argument(
        "--trials", type=int, default=20, help="how many there shall be, finished or pruned (20)"
    )
    parser.add_argument("--seed", type=int, default=100, help="of all trained networks (100)")
    database = "sqlite:///runs/sweeps.db"
    parser.add_argument("--storage", default=database, metavar="URL", help=f"({database})")
    parser.add_argument("--show", action="store_true", help="only print the study")
    options, fit_arguments = parser.parse_known_args()

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of purged steps
    for signum in (signal.SIGINT, signal.SIGTERM):
        # A KeyboardInterrupt would count as a failure; a trial that exits is retried.
        signal.signal(signum, lambda signum, frame: sys.exit(128 + signum))
    threading.excepthook = _explain
    try:
        check_name(options.name)
        if options.show:
            return show(open_study(options.name, options.storage, create=False))
        if options.trials < 1:
            raise ValueError("--trials must be 1 or more")
        search = parse_search(options.search)
        print(f"{options.name}: each trial's log is runs/sweeps/{options.name}/trial_N.txt")
        print("checking the command", flush=True)
        check(fit_arguments, search)
        fit_arguments.append(f"--seed_everything={options.seed}")
        command = f"--search {shlex.join(options.search)} {shlex.join(fit_arguments)}"
        Path("runs").mkdir(exist_ok=True)
        with open("runs/sweeps.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # two processes can't create the tables at once
            study = open_study(options.name, options.storage, create=True)
            if study.user_attrs.get("command", command) != command:
                raise ValueError(
                    f"{options.name} has another command: {study.user_attrs['command']}"
                )
            study.set_user_attr("command", command)
    except KeyError:
        sys.exit(f"error: there is no study {options.name} yet")
    except (ValueError, ImportError, SQLAlchemyError, OptunaError) as error:
        sys.exit(f"error: {_reason(error)}")
    objective = partial(run, name=options.name, search=search, fit_arguments=fit_arguments)
    try:
        with database_at_hand():
            done = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))
            print(f"{len(done)} of {options.trials} trials are done", flush=True)
            work(study, options.trials, database_at_hand()(objective))
            best = study.best_trial
    except SystemExit as exit_:
        if isinstance(exit_.code, int):  # a signal; the last trial has been saved
            print(f"to resume: {shlex.join(['python', *sys.argv])}", flush=True)
        raise
    flags = [f"--{key}={value}" for key, value in best.params.items()]
    print(f"best: trial {run_number(best)}, val/accuracy {best.value:.4f}")
    print(f"python -m mnist_lightning fit {shlex.join([*fit_arguments, *flags])}")


if __name__ == "__main__":
    main()
