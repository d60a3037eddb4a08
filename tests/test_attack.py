"""Files from strangers: whatever is in them ends in a network, or in one line that names the file.

`pytest -m slow tests/test_attack.py` mutates thousands of files.
"""

import copy
import hashlib
import io
import json
import os
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter

from mnist_lightning.checkpoint import load, read_checkpoint, to_safetensors
from mnist_lightning.commands.read import read_files
from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet
from mnist_lightning.reading.ink import Ink, find_ink
from mnist_lightning.runs import read_curves

CHECKPOINT = (Path(__file__).parent / "format_1.ckpt").read_bytes()
SAVED = torch.load(io.BytesIO(CHECKPOINT), weights_only=True)
SETTINGS = SAVED["hyper_parameters"]
NUMBERS = [pytest.param(60, id="60"), pytest.param(3000, id="3000", marks=pytest.mark.slow)]


def mutate(contents: bytes, rng: random.Random) -> bytes:
    """Change, take away or add some bytes."""
    new = bytearray(contents)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at, size = rng.randrange(len(new) + 1), rng.choice([1, 2, 8])
        match rng.randrange(5):
            case 0:
                new[at : at + 1] = bytes(byte ^ 1 << rng.randrange(8) for byte in new[at : at + 1])
            case 1:
                new[at : at + size] = rng.randbytes(size)
            case 2:
                del new[at : at + size]
            case 3:
                new[at : at + 4] = struct.pack("<i", rng.choice([0, -1, 2**31 - 1, 2**20]))
            case 4:
                del new[at + len(new) // 2 :]
    return bytes(new)


def rewrite(change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return the checkpoint with other entries, and right checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(CHECKPOINT)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)), compression)
    return file.getvalue()


def with_pickle(contents: bytes) -> bytes:
    return rewrite(lambda name, old: contents if name.endswith("data.pkl") else old)


def save(checkpoint: Any) -> bytes:
    file = io.BytesIO()
    torch.save(checkpoint, file)
    return file.getvalue()


def with_settings(**settings: Any) -> bytes:
    return save(SAVED | {"hyper_parameters": SETTINGS | settings})


def with_weights(**weights: Any) -> bytes:
    new = {f"network.{name}": weight for name, weight in weights.items()}
    return save(SAVED | {"state_dict": SAVED["state_dict"] | new})


def exported(change: Callable[[dict[str, str]], None] = lambda metadata: None) -> bytes:
    """Return a small network's safetensors file, with other metadata and their right digest."""
    contents = to_safetensors(ConvNet((2,), hidden=4))
    start = 8 + struct.unpack("<Q", contents[:8])[0]
    header = json.loads(contents[8:start])
    metadata = header["__metadata__"]
    change(metadata)
    text = metadata["mnist_lightning_format"] + metadata["members"]
    metadata["settings_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    new = json.dumps(header).encode()
    return struct.pack("<Q", len(new)) + new + contents[start:]


def with_members(members: Any) -> bytes:
    return exported(lambda metadata: metadata.update(members=json.dumps(members)))


def events() -> bytes:
    file = io.BytesIO()
    writer = RecordWriter(file)
    for step in range(20):
        event = Event(step=step)
        event.summary.value.add(tag="train/loss", simple_value=1 / (step + 1))
        writer.write(event.SerializeToString())
    return file.getvalue()


def kinds(value: Any) -> list[Any]:
    """Return a checkpoint's parts, each once as every kind that it is not."""
    wrong = [None, True, 10**30, float("nan"), "x", [], {}, {1: 2}, (1,), torch.tensor(1.0)]
    return [part for part in wrong if type(part) is not type(value)]


def attempt(read: Callable[[Path], object], path: Path) -> bool:
    """Tell whether a file is read; it may be refused in one line that names it."""
    try:
        read(path)
        return True
    except (UserError, OSError) as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return False


@pytest.mark.parametrize("number", NUMBERS)
@pytest.mark.parametrize("kind", ["file", "pickle", "safetensors", "header"])
def test_a_mutated_file_with_weights_ends_in_one_line(
    kind: str, number: int, tmp_path: Path
) -> None:
    rng = random.Random(0)
    path = tmp_path / ("x.safetensors" if kind in ("safetensors", "header") else "x.ckpt")
    whole = exported()
    read = 0
    for _ in range(number):
        if kind == "file":
            contents = mutate(CHECKPOINT, rng)
        elif kind == "pickle":
            contents = rewrite(
                lambda name, old: mutate(old, rng) if name.endswith("data.pkl") else old
            )
        elif kind == "safetensors":
            contents = mutate(whole, rng)
        else:
            header = mutate(whole[8 : 8 + struct.unpack("<Q", whole[:8])[0]], rng)
            contents = struct.pack("<Q", len(header)) + header + whole[8 + len(header) :]
        path.write_bytes(contents)
        read += attempt(load, path)
    assert read < number / 2


def test_a_part_of_another_kind_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for name in ("epoch", "state_dict", "hyper_parameters", "callbacks"):
        for wrong in kinds(SAVED[name]):
            path.write_bytes(save(SAVED | {name: wrong}))
            refused = not attempt(read_checkpoint, path)
            assert refused or (isinstance(wrong, int) and name == "epoch")
    for name in ("channels", "hidden", "dropout", "batch_norm"):
        for wrong in kinds(SETTINGS[name]):
            path.write_bytes(with_settings(**{name: wrong}))
            attempt(load, path)


def test_a_part_with_entries_of_another_kind_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    for name in ("state_dict", "loops", "callbacks", "optimizer_states", "lr_schedulers"):
        path.write_bytes(save(SAVED | {name: [3] if isinstance(SAVED[name], list) else {"x": 3}}))
        with pytest.raises(UserError, match=f"x.ckpt is not a checkpoint .* look at its {name}"):
            read_checkpoint(path)


@pytest.mark.parametrize("number", NUMBERS)
def test_curves_are_read_up_to_the_damage(number: int, tmp_path: Path) -> None:
    rng, path = random.Random(0), tmp_path / "events.out.tfevents.1"
    path.write_bytes(events())
    steps, values = read_curves(tmp_path)["train/loss"]
    assert steps == list(range(20)) and values[0] == 1
    path.write_bytes(events()[: len(events()) // 2])
    assert read_curves(tmp_path)["train/loss"][0] == list(range(10))
    for _ in range(number):
        path.write_bytes(mutate(events(), rng))
        read_curves(tmp_path)
        record = io.BytesIO()
        RecordWriter(record).write(mutate(Event(step=1, file_version="x").SerializeToString(), rng))
        path.write_bytes(record.getvalue() + events())
        read_curves(tmp_path)


def pickle_of(name: str, operations: bytes) -> bytes:
    return with_pickle(b"\x80\x02c" + name.encode() + b"\n" + operations + b".")


def overlapping() -> bytes:
    """Return an archive whose directory names one entry a thousand times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", bytes(100_000))
        for i in range(1000):
            archive.filelist.append(entry := copy.copy(archive.filelist[0]))
            entry.filename = f"archive/data/{i}"
    return file.getvalue()


TWO_BILLION = b"J" + struct.pack("<i", 2_000_000_000) + b"\x85"


def shared() -> bytes:
    """Return an ensemble whose members all have the first one's weights, stored once."""
    of_one = ConvNet((2,), hidden=1000).state_dict()
    weights = {f"network.members.{i}.{k}": w for i in range(200) for k, w in of_one.items()}
    settings = SETTINGS | {"members": 200, "channels": (2,), "hidden": 1000}
    return save(SAVED | {"state_dict": weights, "hyper_parameters": settings})


SMALL: dict[str, Callable[[], bytes]] = {
    "compressed": lambda: rewrite(
        lambda name, old: old + bytes(200_000_000 * name.endswith("data/0")), zipfile.ZIP_DEFLATED
    ),
    "overlapping": overlapping,
    "a bytearray": lambda: pickle_of("__builtin__\nbytearray", TWO_BILLION + b"R"),
    "an empty tensor": lambda: pickle_of("torch\nFloatTensor", TWO_BILLION + b"\x81"),
    "a storage": lambda: pickle_of("torch.storage\nUntypedStorage", TWO_BILLION + b"R"),
    "repeated": lambda: with_weights(x=torch.zeros(1).expand(10**9)),
    "repeated by the optimizer": lambda: save(
        SAVED | {"optimizer_states": [{"state": {0: {"x": torch.zeros(1).expand(10**9)}}}]}
    ),
    "shared": shared,
    "many members": lambda: with_settings(members=10**9),
    "many convolutions": lambda: with_settings(convolutions=10**9),
    "wide": lambda: with_settings(channels=(10**9, 10**9)),
    "hidden": lambda: with_settings(hidden=10**12),
    "kernels": lambda: with_settings(kernel_size=10**6),
}
SMALL_SAFETENSORS: dict[str, Callable[[], bytes]] = {
    "many members": lambda: with_members([{"channels": [2], "hidden": 4}] * 10_000),
    "many convolutions": lambda: with_members([{"channels": [2], "convolutions": 10**9}]),
    "wide": lambda: with_members([{"channels": [10**9], "hidden": 10**9}]),
}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        *((f"{name}.ckpt", make) for name, make in SMALL.items()),
        *((f"{name}.safetensors", make) for name, make in SMALL_SAFETENSORS.items()),
    ],
)
def test_a_small_file_takes_little_memory(
    name: str, make: Callable[[], bytes], tmp_path: Path
) -> None:
    resource = pytest.importorskip("resource")  # not on Windows
    path = tmp_path / name
    path.write_bytes(make())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not attempt(load, path)
    if name.endswith(".ckpt"):
        assert not attempt(read_checkpoint, path)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 100_000  # KB


def test_settings_of_another_version_are_another_network(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(with_members([{"channels": [2], "hidden": 4, "of_tomorrow": 1}]))
    with pytest.raises(UserError, match="x.safetensors holds another network than this version"):
        load(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    weight = SAVED["state_dict"]["network.conv1.weight"].clone()
    weight[0] = float("nan")
    (tmp_path / "x.ckpt").write_bytes(with_weights(**{"conv1.weight": weight}))
    network = ConvNet((2,), hidden=4)
    torch.nn.init.constant_(network.dense2.bias, float("inf"))
    (tmp_path / "x.safetensors").write_bytes(to_safetensors(network))
    for name, weight in (("x.ckpt", "conv1.weight"), ("x.safetensors", "dense2.bias")):
        with pytest.raises(UserError, match=f"{name} is of no use: {weight} in it is not finite"):
            load(tmp_path / name)


def test_no_flipped_bit_of_an_exported_file_loads_another_network(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    whole = to_safetensors(ConvNet((2,), hidden=4))
    path.write_bytes(whole)
    right = load(path)
    start = 8 + struct.unpack("<Q", whole[:8])[0]
    settings = whole.index(b'"members"'), whole.index(b"}]") + 3
    for at in range(*settings):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            if attempt(load, path):
                assert load(path).settings == right.settings
    assert settings[1] < start


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_too_little_memory_is_not_called_damage(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    path = tmp_path / f"x.{suffix}"
    path.write_bytes(exported() if suffix == "safetensors" else CHECKPOINT)
    monkeypatch.setattr("torch.load", fail)
    monkeypatch.setattr("safetensors.safe_open", fail)
    with pytest.raises(UserError, match=f"x.{suffix}: there is not enough memory to read it"):
        load(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_a_pipe_is_refused_before_it_is_waited_for(tmp_path: Path) -> None:
    for name in ("x.ckpt", "x.safetensors", "events.out.tfevents.1"):
        os.mkfifo(tmp_path / name)
    for name in ("x.ckpt", "x.safetensors"):
        with pytest.raises(FileNotFoundError, match=name):
            load(tmp_path / name)
    with pytest.raises(UserError, match="tfevents.1 is not a file"):
        read_curves(tmp_path)


def test_a_picture_that_needs_too_much_memory_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(picture: Image.Image) -> Ink:
        if picture.width == 60:
            raise MemoryError
        return find_ink(picture)

    names = [str(tmp_path / f"{side}.png") for side in (50, 60, 70)]
    for name in names:
        picture = Image.new("L", (int(Path(name).stem),) * 2, 255)
        ImageDraw.Draw(picture).line((25, 10, 25, 40), 0, 5)
        picture.save(name)
    monkeypatch.setattr("mnist_lightning.reading.segments.find_ink", see)
    readings, errors, _ = read_files(names, load())
    assert list(readings) == [(names[0], 1), (names[2], 1)]
    assert errors == {(names[1], 1): "not enough memory for 60x60 pixels"}
