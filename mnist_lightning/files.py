"""Writing files so that no reader ever sees half of one."""

import os
import secrets
import shutil
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
    partial = target.with_name(f".{target.name[:50]}.{secrets.token_hex(8)}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(contents)
            return
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
