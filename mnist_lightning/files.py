"""Writing files: atomically, and never over a user's own.

A file is ours if it bears a mark: a regular expression that matches in its first or last 65,536
bytes. Each format has its own mark, defined beside the code that writes it.
"""

import os
import platform
import re
import secrets
import shutil
import zlib
from collections.abc import Iterable
from pathlib import Path

from mnist_lightning.errors import UserError

# A PNG file's metadata that says which software wrote it, and the mark that finds it.
PNG_METADATA = {"Software": "mnist_lightning"}
PNG = rb"\A\x89PNG.*tEXtSoftware\0mnist_lightning"

NEAR = 65_536  # bytes from a file's start, and from its end, in which a mark may lie


def is_ours(path: Path, mark: bytes) -> bool:
    """Tell whether a file bears a mark, a regular expression.

    Raises:
        OSError: If the file can't be read.
    """
    with path.open("rb") as file:
        start = file.read(NEAR)
        file.seek(max(len(start), os.fstat(file.fileno()).st_size - NEAR))
        return re.search(mark, start + file.read(NEAR), re.DOTALL) is not None


def check_folder(folder: Path) -> None:
    """Check before the work starts that a folder can be created or written in.

    Raises:
        UserError: If not.
    """
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{folder} can't be a folder: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: this folder can't be written in")


def check_output(
    path: Path,
    mark: bytes,
    inputs: Iterable[str | Path] = (),
    overwrite: bool = False,
    flag: str = "--overwrite",
) -> None:
    """Check before the work starts that an output can be written and replaces no file of the user.

    A pipe or a device may always be written to.

    Args:
        path: The file to be written.
        mark: What a file of ours bears; such a file may be replaced.
        inputs: Files that are read; they are never replaced, not under another name either.
        overwrite: Whether any other file may be replaced.
        flag: The flag that sets `overwrite`, for the message.

    Raises:
        UserError: If the output is refused; the line says what to do.
        OSError: If the file that is there can't be read.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder: name a file in it")
    if path.exists() and not path.is_file():
        return
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} to write {path.name} in")
    check_folder(folder)
    if not path.exists():
        return
    if any(os.path.exists(given) and path.samefile(given) for given in inputs):
        raise UserError(f"{path} is read by this very command: name another file")
    # An empty file has nothing to lose; a shell creates one before the command starts.
    if not overwrite and path.stat().st_size and not is_ours(path, mark):
        raise UserError(
            f"{path} exists and bears no mark of mnist_lightning: name another file, or add {flag}"
        )


def replace_file(path: Path, contents: bytes) -> None:
    """Replace a file atomically: at any moment it holds all of the old or all of the new contents.

    The contents are written beside the file, flushed to the disk and renamed, so neither a kill,
    nor a full disk, nor two processes that write the same file leave half of it.

    An existing file keeps its permissions, and a link to it stays a link. A pipe or a device is
    written to.

    Args:
        path: The file; its folder must exist.
        contents: The file's new contents.

    Raises:
        OSError: If the file can't be written; its old contents are still there.
    """
    target = Path(os.path.realpath(path))
    owner = f"{_machine()}.{os.getpid()}.{secrets.token_hex(4)}"
    partial = target.with_name(f".{target.name[:50]}.{owner}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(contents)
            return
        remove_stale_partials(target.parent)
        try:
            with partial.open("xb") as file:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, partial)
            os.replace(partial, target)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(f"{path}: could not write it: {error.strerror}") from error


def remove_stale_partials(folder: Path) -> None:
    """Remove the partial files that killed processes of this machine left, see `replace_file`."""
    for path in folder.glob(".*"):
        owner = re.fullmatch(rf"\..+\.{_machine()}\.(\d{{1,9}})\.[0-9a-f]{{8}}", path.name)
        if owner and not _is_alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True
