"""A checkpoint's bytes -> its contents; the file is not trusted.

`torch.load` with `weights_only` runs no code, but it checks no checksum, and a small file can make
it allocate any amount of memory.
"""

import io
import pickletools
import zipfile
from typing import Any

import torch
from torch import Tensor

# What a checkpoint's pickle may import. torch's `weights_only` keeps code out, but allows arrays
# and empty tensors of any size.
STORAGES = "BFloat16 Bool Byte Char Double Float Half Int Long Short".split()
GLOBALS = {
    "__builtin__ set",
    "collections Counter",  # of MultiStepLR
    "collections OrderedDict",
    "torch Size",
    "torch device",
    "torch._utils _rebuild_parameter",
    "torch._utils _rebuild_tensor_v2",
    *(f"torch {kind}Storage" for kind in STORAGES),
}


def check_written(contents: bytes) -> None:
    """Look whether `unpack` would take what torch.save has just written.

    Raises:
        ValueError: If not; it names the kind of value.
    """
    with zipfile.ZipFile(io.BytesIO(contents)) as archive:
        for entry in archive.namelist():
            if entry.endswith("data.pkl"):
                _check_pickle(archive.read(entry))


def unpack(contents: bytes) -> Any:
    """Unpack a checkpoint; run no code that it may carry, and use no more memory than its size.

    Args:
        contents: A file that torch.save wrote, whole.

    Returns:
        What it holds, with tensors on the CPU.

    Raises:
        Exception: Of any type, if it is not such a file or is damaged.
    """
    copy = io.BytesIO()  # in the original torch.load could find another entry of the same name
    with zipfile.ZipFile(io.BytesIO(contents)) as archive, zipfile.ZipFile(copy, "w") as checked:
        entries = archive.infolist()
        names = {entry.filename.lower() for entry in entries}
        stated = sum(entry.file_size for entry in entries)
        # torch does not compress. Entries can lie over each other, too.
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not is_stored or stated > len(contents) or len(names) < len(entries):
            raise ValueError("compressed, overlapping or duplicate entries")
        for entry in entries:
            part = archive.read(entry)  # verifies the checksum, which torch.load does not
            if entry.filename.lower().endswith("data.pkl"):
                _check_pickle(part)
            checked.writestr(entry.filename, part)
    copy.seek(0)
    checkpoint = torch.load(copy, map_location="cpu", weights_only=True)
    _check_size(checkpoint, len(contents))
    return checkpoint


def _check_pickle(contents: bytes) -> None:
    for operation, argument, _ in pickletools.genops(contents):
        if operation.name == "GLOBAL" and argument not in GLOBALS:
            raise ValueError("a " + str(argument).replace(" ", "."))
        if operation.name == "PROTO" and argument != 2:
            raise ValueError(f"protocol {argument}")


def _check_size(checkpoint: Any, size: int) -> None:
    """Raise an error if all tensors together have more bytes than the file.

    A tensor with a stride of 0 repeats a few bytes any number of times; tensors can share bytes.
    """
    rest, seen = [checkpoint], set()
    while rest:
        value = rest.pop()
        if isinstance(value, Tensor):
            size -= value.numel() * value.element_size()
        elif isinstance(value, (dict, list, tuple, set)) and id(value) not in seen:
            seen.add(id(value))
            rest += dict.values(value) if isinstance(value, dict) else value
            if getattr(value, "__dict__", {}).keys() - {"_metadata"}:
                raise ValueError("a dict with attributes")
    if size < 0:
        raise ValueError("more values than the file has")
