"""Writing files so that no reader ever sees half of one."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, contents: bytes) -> None:
    """Write a file whose name stands for the old or for the new contents, whole, at every moment.

    The contents are written beside the file, flushed to the disk and renamed, so neither a kill,
    nor a full disk, nor two processes that write the same file leave half of it.

    Args:
        path: The file; its folder must exist.
        contents: All that the file shall hold.

    Raises:
        OSError: If the file can't be written; what was there before is there still.
    """
    try:
        with tempfile.NamedTemporaryFile(
            dir=path.parent, prefix=f".{path.name}.", delete=False
        ) as file:
            try:
                file.write(contents)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        raise OSError(f"{path}: could not write it: {error.strerror}") from error
