"""Holds what a file that is replaced keeps, and what a failure leaves."""

import os
from pathlib import Path

import pytest

from mnist_lightning.files import replace_file


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
