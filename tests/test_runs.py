import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import call
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard import SummaryWriter

from mnist_lightning.runs import (
    find_runs,
    newest_checkpoint,
    newest_run,
    read_curves,
    version_folder,
    versions,
)


def save(path: Path, step: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoint = torch.load(Path(__file__).parent / "format_1.ckpt", weights_only=True)
    torch.save({**checkpoint, "global_step": step}, path)


def test_the_newest_checkpoint_is_the_one_with_the_most_steps(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for step, name in ((30, "best"), (20, "last"), (9, "old")):
        save(folder / f"{name}.ckpt", step)
    for seconds, name in ((1, "best"), (2, "last"), (4_000_000_000, "old")):  # of the year 2096
        os.utime(folder / f"{name}.ckpt", (seconds, seconds))
    path, checkpoint, skipped = newest_checkpoint(tmp_path)
    assert path == folder / "best.ckpt" and checkpoint["global_step"] == 30 and not skipped
    save(folder / "last.ckpt", 30)  # of equals, the one that was saved last
    assert newest_checkpoint(tmp_path)[0] == folder / "last.ckpt"


def test_what_is_no_checkpoint_is_passed_over_with_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "checkpoints"
    save(folder / "best.ckpt", 1)
    (folder / "a_folder.ckpt").mkdir()
    os.mkfifo(folder / "a_pipe.ckpt")
    (folder / "dangling.ckpt").symlink_to("nowhere")
    (folder / "damaged.ckpt").write_bytes(b"")
    (folder / "notes.txt").write_text("")
    path, _, skipped = newest_checkpoint(tmp_path)
    assert path == folder / "best.ckpt"
    names = ("a_folder", "a_pipe", "damaged", "dangling")
    assert len(skipped) == 4
    assert all(name in line for name, line in zip(names, skipped, strict=True))

    def list_what_vanishes(self: Path) -> list[Path]:
        return [folder / "vanished.ckpt", folder / "best.ckpt"]

    monkeypatch.setattr(Path, "iterdir", list_what_vanishes)
    path, _, (line,) = newest_checkpoint(tmp_path)
    assert path == folder / "best.ckpt" and "vanished.ckpt" in line


@pytest.mark.parametrize("version", [0, 3, "mine"])
def test_a_versions_folder_is_tensorboards(version: int | str, tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path, "name", version)
    assert Path(logger.log_dir) == tmp_path / "name" / version_folder(version)


def test_versions_come_by_number_then_by_the_start_in_their_event_files(tmp_path: Path) -> None:
    for name in ("version_9", "version_10", "alpha", "beta", "sub/version_11", "version_x"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "version_99").write_text("")  # no folder
    for name, starts in (("alpha", (200, 300)), ("beta", (250, 260))):
        for start in starts:
            (tmp_path / name / f"events.out.tfevents.{start}.host.1.0").write_text("")
    names = [path.name for path in versions(tmp_path)]
    assert names[:4] == ["version_10", "version_9", "beta", "alpha"]
    assert versions(tmp_path / "missing") == []


@pytest.mark.parametrize("kind", ["a file", "a loop", "a link to nowhere"])
def test_a_folder_of_checkpoints_that_cannot_be_read_is_an_error(kind: str, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert newest_checkpoint(tmp_path) == (None, {}, [])
    if kind == "a file":
        folder.write_text("")
    else:
        folder.symlink_to("checkpoints" if kind == "a loop" else "nowhere")
    with pytest.raises(OSError, match="checkpoints"):
        newest_checkpoint(tmp_path)


def test_runs_are_listed_as_far_as_their_files_say(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(smoke / "runs/smoke/version_0", tmp_path / "runs/deep/er/one")
    # Earlier versions said less; a run that was killed in its first epoch, hardly anything.
    save(tmp_path / "runs/old/version_0/checkpoints/last.ckpt", 6)
    killed = tmp_path / "runs/killed"
    killed.mkdir()
    (killed / "events.out.tfevents.4000000000.host.1.0").write_bytes(b"\0" * 20)
    (tmp_path / "runs/old/version_0/checkpoints/best.ckpt").write_text("damaged")
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "runs") == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "note: runs/old/version_0/checkpoints/best.ckpt is damaged or not a checkpoint\n"
    )
    _, *lines = [line.split() for line in captured.out.splitlines()]
    names = [line[0] for line in lines]
    assert names == ["runs/killed", "runs/deep/er/one", "runs/old/version_0"]
    date = time.strftime("%Y-%m-%d", time.localtime(4_000_000_000))
    assert lines[0][1] == date and lines[0][3:] == ["-", "-", "-"]
    ours, old = find_runs(Path("runs"))[1:]
    assert ours.epochs == "2 of 2" and ours.accuracy == pytest.approx(1 - ours.errors / 500)
    assert lines[1][3:] == ["2", "of", "2", f"{ours.accuracy:.2%}", f"{ours.errors}"]
    assert old.started is None and old.epochs == "2" and old.accuracy == pytest.approx(0.098)

    message = call(monkeypatch, "runs", "elsewhere")
    assert message == "error: there is no folder elsewhere"
    Path("elsewhere").mkdir()
    message = call(monkeypatch, "runs", "elsewhere")
    assert message == "error: there are no runs in elsewhere: fit makes one"


def test_the_newest_run_is_the_one_that_started_last_and_kept_a_checkpoint(tmp_path: Path) -> None:
    assert newest_run(tmp_path / "nowhere") is None
    for name, start in (("a/version_3", 100), ("b/version_0", 300), ("empty/version_0", 400)):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
        (tmp_path / name / f"events.out.tfevents.{start}.host.1.0").write_text("")
        if name[0] != "e":
            (tmp_path / name / "checkpoints/last.ckpt").write_text("")
    assert newest_run(tmp_path) == tmp_path / "b/version_0"


def test_the_curves_of_a_csv_logger_are_read(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text(
        "step,train/loss,val/loss\n4,0.5,\n9,,0.25\n9,x\n,0.1\n12,0.3"
    )
    curves = read_curves(tmp_path)
    assert curves["train/loss"] == ([4, 12], [0.5, 0.3]) and curves["val/loss"] == ([9], [0.25])


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_run_that_was_resumed_is_read_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in (1, 2):  # each with a graph, as each start of a run writes one
        with SummaryWriter(str(tmp_path), filename_suffix=f".{part}") as writer:
            writer.add_graph(torch.nn.Linear(2, 1), torch.zeros(1, 2))
            writer.add_scalar("train/loss", 1 / part, part)
    assert read_curves(tmp_path)["train/loss"] == ([1, 2], [1.0, 0.5])
    assert not caplog.records
