"""Holds what may be replaced, what a file that is replaced keeps, and what a failure leaves."""

import os
import re
from pathlib import Path

import pytest

from mnist_lightning.errors import UserError
from mnist_lightning.files import NEAR, check_folder, check_output, replace_file

MARK = rb"made by us\d"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize(("umask", "expected"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_users_permissions(umask: int, expected: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        replace_file(tmp_path / "new", b"x")
    finally:
        os.umask(before)
    assert mode(tmp_path / "new") == expected


def test_a_file_keeps_its_permissions_and_a_link_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o600)
    link.symlink_to(target.name)
    replace_file(link, b"new")
    assert link.is_symlink() and target.read_bytes() == b"new" and mode(target) == 0o600


def test_a_name_may_be_as_long_as_the_system_takes(tmp_path: Path) -> None:
    replace_file(tmp_path / ("a" * 255), b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["a" * 255]


def test_a_pipe_is_written_into_and_stays_one(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    replace_file(pipe, b"x")
    assert os.read(reader, 9) == b"x" and pipe.is_fifo()
    os.close(reader)


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder: could not write it"):
        replace_file(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_partial_file_names_the_process_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []
    monkeypatch.setattr(os, "replace", lambda partial, target: names.append(partial.name))
    replace_file(tmp_path / ("a" * 60), b"x")
    assert re.fullmatch(rf"\.a{{50}}\.[0-9a-f]{{8}}\.{os.getpid()}\.[0-9a-f]{{8}}", names[0])


@pytest.mark.parametrize(
    "contents",
    [b"made by us1", b"x" * NEAR + b"made by us1" + b"x" * 99, b"", None],
    ids=["at its start", "at its end", "empty", "missing"],
)
def test_what_is_ours_or_holds_nothing_may_be_replaced(
    contents: bytes | None, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    if contents is not None:
        path.write_bytes(contents)
    check_output(path, MARK, inputs=[tmp_path / "other"])


@pytest.mark.parametrize(
    "contents",
    [b"mine", b"x" * NEAR + b"made by us1" + b"x" * NEAR],
    ids=["no mark", "a mark in its midst"],
)
def test_any_other_file_is_replaced_only_if_the_user_says_so(
    contents: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    path.write_bytes(contents)
    with pytest.raises(UserError, match="x exists and bears no mark .* or add --overwrite$"):
        check_output(path, MARK)
    check_output(path, MARK, overwrite=True)


@pytest.mark.parametrize("name", ["same", "link", "hard link"])
def test_an_input_is_never_replaced(name: str, tmp_path: Path) -> None:
    source = tmp_path / "same"
    source.write_bytes(b"made by us1")
    (tmp_path / "link").symlink_to(source)
    (tmp_path / "hard link").hardlink_to(source)
    for given in ("same", "link", "hard link"):
        with pytest.raises(UserError, match=f"{name} is read by this very command"):
            check_output(tmp_path / name, MARK, ["-", str(tmp_path / given)], overwrite=True)


def test_pipes_and_devices_may_be_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "link", Path("/dev/null")):
        check_output(path, MARK, inputs=["/dev/null"])


def test_where_nothing_can_be_written_is_found_out_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("mine")
    Path("link").symlink_to("nowhere/x")
    refused = {
        ".": r"^\. is a folder: name a file in it",
        "none/x": "^there is no folder none to write x in",
        "file/x": "^there is no folder file to write x in",
        "link": f"^there is no folder {tmp_path}/nowhere to write link in",
    }
    for name, words in refused.items():
        with pytest.raises(UserError, match=words):
            check_output(Path(name), MARK, overwrite=True)
    check_folder(Path("none/below"))  # which can be made
    with pytest.raises(UserError, match="^file/below can't be a folder: file is a file"):
        check_folder(Path("file/below"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(UserError, match="this folder can't be written in"):
        check_folder(Path("none/below"))
    with pytest.raises(UserError, match="this folder can't be written in"):
        check_output(Path("x"), MARK)
