"""The front door: what it lists, where it leads, what it says of a mistake."""

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import call

import mnist_lightning.__main__ as front_door
from mnist_lightning import commands
from mnist_lightning.errors import UserError


def test_help_lists_every_command_with_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        assert call(monkeypatch, *arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100
        names = [line.split()[0] for line in lines if line.startswith("  ")]
        commands_ = [*front_door.TRAINING, *front_door.USE]
        assert names[: len(commands_)] == commands_
    files = {path.stem for path in Path(str(commands.__file__)).parent.glob("[a-z]*.py")}
    assert files - {"terminal", "formats", "requests", "server"} == set(front_door.USE)


def test_every_command_has_help_of_its_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in (*front_door.TRAINING, *front_door.USE):
        assert call(monkeypatch, command, "--help") == 0
        usage = capsys.readouterr().out.split()[:6]
        assert usage[0] == "usage:" and command in usage


def test_a_misspelled_command_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "reprot") == 2
    assert capsys.readouterr().err == (
        "error: there is no command 'reprot': did you mean report?\n"
    )


def test_the_script_is_the_same_door() -> None:
    script = Path(sys.executable).with_name("mnist-lightning")
    done = subprocess.run([script, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("mnist_lightning 0.")
    done = subprocess.run([script, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: mnist-lightning COMMAND")


def test_an_error_is_one_line_that_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {
        UserError("a\33[2J\nb"): "error: a?[2J b",
        OSError("a\33[2J\nb"): "error: a?[2J b",
        FileNotFoundError(2, "b", "a\33[2J\n"): "error: a?[2J : b",
    }
    for error, line in expected.items():

        def fail(*_: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(front_door, "_run", fail)
        assert call(monkeypatch, "read") == line


def test_no_garbage_is_looked_for_during_imports_and_again_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_room.py").write_text("import gc\nsearched = gc.isenabled()")
    (tmp_path / "a_broken_room.py").write_text("import no_such_package")
    room = front_door._open("a_room")
    assert not room.searched and gc.isenabled()
    with pytest.raises(ModuleNotFoundError):
        front_door._open("a_broken_room")
    assert gc.isenabled() and front_door._open("a_room") is room
