"""Many pictures are read on all cores as one is, and nothing of it stays behind."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from photos import encode, on_paper, picture, scale
from PIL import Image

from mnist_lightning import load, read
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.errors import UserError
from mnist_lightning.reading import reader, workers
from mnist_lightning.reading.reader import read_each

TWO = pytest.mark.skipif(workers._cores() < 2, reason="there is one core")


def pictures(num: int) -> list[bytes]:
    """Return picture files of test digits in many sizes, each eighth of two digits."""
    rng, made = np.random.default_rng(0), []
    for i, image in enumerate(read_test_set()[0][:num].numpy()):
        ink = scale(image, int(rng.integers(28, 300)))
        made.append(encode(picture(on_paper(np.tile(ink, (1, 2)) if i % 8 == 0 else ink))))
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "FEW", 3)
    monkeypatch.setattr(workers, "AT_ONCE", 3)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[subprocess.Popen[bytes]]]:
    """Return the processes that are started, and hold that all have ended."""
    processes: list[subprocess.Popen[bytes]] = []
    start = workers._start

    def note() -> "subprocess.Popen[bytes]":
        processes.append(start())
        return processes[-1]

    monkeypatch.setattr(workers, "_start", note)
    yield processes
    assert all(process.poll() is not None for process in processes)


@TWO
@pytest.mark.usefixtures("small")
def test_many_pictures_are_read_as_one_is(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    network, files = load(), pictures(24)
    (tmp_path / "a.png").write_bytes(files[1])
    gray = torch.from_numpy(np.asarray(Image.open(tmp_path / "a.png")).copy())
    sources = [*files, tmp_path / "a.png", str(tmp_path / "a.png"), gray, gray.numpy()]
    together = read(sources, network)
    assert len(started) >= 2
    for one, page in zip(sources, together, strict=True):
        alone = read(one, network)
        assert page.text == alone.text
        for reading, expected in zip(page.digits, alone.digits, strict=True):
            assert reading.box == expected.box and torch.equal(reading.image, expected.image)
            assert reading.probabilities == pytest.approx(expected.probabilities, abs=1e-5)


@TWO
@pytest.mark.usefixtures("small")
def test_what_cannot_be_read_is_told_in_its_place(
    tmp_path: Path, started: list[subprocess.Popen[bytes]]
) -> None:
    good = pictures(2)[1]
    blank = encode(Image.new("L", (50, 50), 255))
    sources = [good, b"no picture", good, tmp_path / "none.png", blank, good]
    found = list(read_each(sources, load(), all_pages=True))
    assert [list(pages) for pages in found] == [[1], [0], [1], [0], [1], [1]]
    kinds = [type(page).__name__ for pages in found for page in pages.values()]
    assert kinds == ["Page", "UnknownFormat", "Page", "FileNotFoundError", "UserError", "Page"]
    with pytest.raises(UserError, match=r"^picture 2 of the list: not a picture"):
        read([good, good, b"no picture", b"nor this", good], load())
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read([good, good, tmp_path / "none.png", good, good], load())
    cut_off = Image.open(io.BytesIO(good[: len(good) // 2]))
    with pytest.raises(UserError, match=r"^picture 3 of the list: .* cut off or damaged"):
        read([good, good, good, cut_off, good], load())
    assert len(started) >= 8


@pytest.mark.usefixtures("small")
def test_no_more_pages_wait_for_the_network_than_pictures_do() -> None:
    page = picture(on_paper(scale(read_test_set()[0][0].numpy(), 100)))
    asked = []

    def classify(images: np.ndarray) -> np.ndarray:
        asked.append(len(images))
        return np.eye(10, dtype=np.float32)[[7] * len(images)]

    tiff = encode(page, "TIFF", save_all=True, append_images=[page] * 6)
    (pages,) = workers.search([tiff], 1, classify, all_pages=True)
    assert len(pages) == 7 and max(asked) <= 3


@TWO
@pytest.mark.usefixtures("small", "started")
def test_the_networks_threads_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FEW", 3)
    threads, seen, good = torch.get_num_threads(), set(), pictures(2)[1]
    torch.set_num_threads(2)
    try:

        def network(pixels: torch.Tensor) -> torch.Tensor:
            seen.add(torch.get_num_threads())
            return torch.ones(len(pixels), 10)

        read([good] * 9, network)
        assert seen == {1} and torch.get_num_threads() == 2
        read(good, network)
        assert seen == {1, 2}
    finally:
        torch.set_num_threads(threads)


@TWO
@pytest.mark.usefixtures("small")
def test_a_process_that_is_killed_ends_it_in_one_line(
    started: list[subprocess.Popen[bytes]],
) -> None:
    def network(pixels: torch.Tensor) -> torch.Tensor:
        for process in started:
            process.kill()
        return torch.ones(len(pixels), 10)

    with pytest.raises(UserError, match="a process that reads pictures was ended from outside"):
        read(pictures(2) * 20, network)


@TWO
@pytest.mark.usefixtures("small", "started")
def test_a_bug_in_a_process_keeps_its_traceback() -> None:
    with pytest.raises(RuntimeError, match=r"(?s)Traceback.*TypeError"):
        list(workers.search(pictures(2) * 4, 8, lambda images: None))  # type: ignore[arg-type, return-value]


def test_the_processes_do_without_torch() -> None:
    code = f"import {workers.__name__}, sys; print('torch' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


@pytest.mark.skipif(os.name == "nt", reason="it asks for signals")
@TWO
def test_ctrl_c_ends_it_without_a_traceback_or_an_orphan(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for i, contents in enumerate(pictures(3)):
        (tmp_path / f"photos/{i}.png").write_bytes(contents)
    for i in range(3, 3000):
        os.link(tmp_path / f"photos/{i % 3}.png", tmp_path / f"photos/{i}.png")
    command = [sys.executable, "-m", "mnist_lightning", "read", "photos"]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell lets what it starts in the background ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )

    def children() -> list[str]:
        tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
        return [child for task in tasks for child in task.read_text().split()]

    end = time.monotonic() + 120
    stop = threading.Timer(120, process.kill)
    stop.start()
    while len(workers_of := children()) < 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    stop.cancel()
    assert (process.returncode, out, err) == (130, b"", b"")
    for child in workers_of:  # one that was being started ends once it finds its pipe closed
        while _is_running(child):
            assert time.monotonic() < end, f"process {child} is still there"
            time.sleep(0.02)


def _is_running(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
