"""Writing files: whole at any moment, and never over what is the user's own.

A file is ours if it bears a mark: a regular expression that is found in its first or last 65,536
bytes. Each format has its own, beside the code that writes it.
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

# What a PNG file of ours says of the software that made it, and how such a file is known.
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
    """Find out before the work, not after it, that a folder can't be made or written in.

    Raises:
        UserError: If so.
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
    """Find out before the work that an output can't be written, or would replace a user's own file.

    A pipe or a device may be written into at any time.

    Args:
        path: The file to be written.
        mark: What a file of ours bears; such a file may be replaced.
        inputs: Files that are read, which are never replaced, also under another name.
        overwrite: Whether any other file may be replaced.
        flag: How a user says so.

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
    # An empty file has nothing to lose; a shell makes one before the command begins.
    if not overwrite and path.stat().st_size and not is_ours(path, mark):
        raise UserError(
            f"{path} exists and bears no mark of mnist_lightning: name another file, or add {flag}"
        )


def replace_file(path: Path, contents: bytes) -> None:
    """Replace a file atomically: at any moment it holds all of the old or all of the new contents.

    The contents are written beside the file, flushed to the disk and renamed, so neither a kill,
    nor a full disk, nor two processes that write the same file leave half of it.

    A file that is there keeps its permissions, and a link stays a link to it. A pipe or a device
    is written into.

    Args:
        path: The file; its folder must exist.
        contents: All that the file shall hold.

    Raises:
        OSError: If the file can't be written; what was there before is there still.
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
    """Remove what killed processes of this machine had written of a file, see `replace_file`."""
    for path in folder.glob(".*"):
        owner = re.fullmatch(rf"\..+\.{_machine()}\.(\d{{1,9}})\.[0-9a-f]{{8}}", path.name)
        if owner and not _is_alive(int(owner[1])):
            path.unlink(missing_ok=True)


def _machine() -> str:
    return f"{zlib.crc32(platform.node().encode()):08x}"


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # there signal 0 is no question, but Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return True
