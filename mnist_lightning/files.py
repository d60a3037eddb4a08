"""Writing files so that no reader ever sees half of one."""

import os
import platform
import re
import secrets
import shutil
import zlib
from pathlib import Path


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file whose name stands for the old or for the new contents, whole, at every moment.

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
