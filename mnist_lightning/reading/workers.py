"""Many pictures -> their digits, on all cores, by one network.

Processes of their own decode and search pictures. They ask this one for the network's answers,
those for several pictures at a time: torch would take half a gigabyte in each of them. They are
started as plain programs, since multiprocessing would import a caller's script again, torch
included.
"""

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from queue import SimpleQueue
from threading import Lock
from typing import IO, Any

import numpy as np
from PIL import Image

from mnist_lightning.errors import UserError
from mnist_lightning.reading.picture import decode, open_pages, to_picture
from mnist_lightning.reading.segments import Search, Segment, find_segments

AT_ONCE = 16  # files that a process is sent; and pictures whose images are classified together
MOST_PIXELS = 4_000_000  # of the pictures that wait for the network; a larger one waits alone
MOST_PROCESSES = 8  # more would wait for the network
FEW = 32  # files that are read before the processes would have started

Found = list[list[Segment]] | Exception  # a picture's lines of digits, or why it can't be read
Pages = dict[int, Found]  # by page, from 1; 0 for what keeps a file from being opened
# uint8 (N, 28, W) to probabilities, float32 (N, K)
Classify = Callable[[np.ndarray], np.ndarray]


def search(
    sources: Iterable[Any], num: int, classify: Classify, all_pages: bool = False
) -> Iterator[Pages]:
    """Find the digits in pictures, on all cores if there are many.

    Args:
        sources: What `to_picture` takes.
        num: How many.
        classify: The network; it is called in one thread at a time.
        all_pages: Whether they are files, of which each page is searched.

    Yields:
        What is found in each source, in order.

    Raises:
        UserError: If a process ends too early; and what `classify` raises.
    """
    rest = iter(sources)
    chunks = iter(lambda: list(islice(rest, AT_ONCE)), [])
    num_processes = min(_cores(), MOST_PROCESSES)
    if num <= FEW or num_processes == 1 or not sys.executable:
        for chunk in chunks:
            yield from _search(chunk, all_pages, classify)
        return
    workers: list[subprocess.Popen[bytes]] = []
    idle: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()
    threads = ThreadPoolExecutor(num_processes)  # each waits for a process
    lock = Lock()

    def one_by_one(images: np.ndarray) -> np.ndarray:
        with lock:
            return classify(images)

    def send(chunk: list[Any]) -> list[Pages]:
        worker = idle.get()
        try:
            return _ask(worker, ([_loaded(source) for source in chunk], all_pages), one_by_one)
        finally:
            idle.put(worker)

    try:
        for _ in range(num_processes):
            workers.append(_start())
            idle.put(workers[-1])
        sent = deque(threads.submit(send, chunk) for chunk in islice(chunks, 2 * num_processes))
        while sent:
            yield from sent.popleft().result()
            sent.extend(threads.submit(send, chunk) for chunk in islice(chunks, 1))
    finally:
        for worker in workers:
            worker.kill()
        threads.shutdown(cancel_futures=True)
        for worker in workers:
            worker.communicate()


def _search(sources: list[Any], all_pages: bool, classify: Classify) -> list[Pages]:
    """Find the digits in pictures; the network reads the images of all of them at once."""
    found: list[Pages] = [{} for _ in sources]
    begun: list[tuple[Search, np.ndarray, Pages, int]] = []
    num_pixels = 0
    for source, pages in zip(sources, found, strict=True):
        page = 0
        try:
            for page, decoded in enumerate(_decoders(source, all_pages), start=1):
                try:
                    picture = decoded()
                    num_pixels += picture.width * picture.height
                    begun.append((*_begin(picture), pages, page))
                except (UserError, OSError, MemoryError) as error:  # the next may be a good one
                    pages[page] = error
                if len(begun) == AT_ONCE or num_pixels > MOST_PIXELS:
                    _finish(begun, classify)
                    begun, num_pixels = [], 0
        except (UserError, OSError, MemoryError) as error:
            pages[page and page + 1] = error
    _finish(begun, classify)
    return [dict(sorted(pages.items())) for pages in found]


def _loaded(source: Any) -> Any:
    """Return what another process can be sent: a picture decoded, or why it can't be."""
    try:
        return decode(source) if isinstance(source, Image.Image) else source
    except (UserError, MemoryError) as error:
        return error


def _decoders(source: Any, all_pages: bool) -> Iterator[Callable[[], Image.Image]]:
    if all_pages:
        yield from (partial(decode, page) for page in open_pages(source))
    else:
        yield partial(_decoded, source)


def _decoded(source: Any) -> Image.Image:
    if isinstance(source, Exception):
        raise source
    return to_picture(source)


def _begin(picture: Image.Image) -> tuple[Search, np.ndarray]:
    try:
        steps = find_segments(picture)
        return steps, next(steps)
    except MemoryError as error:
        raise UserError(f"not enough memory for {picture.width}x{picture.height} pixels") from error


def _finish(begun: list[tuple[Search, np.ndarray, Pages, int]], classify: Classify) -> None:
    while begun:
        images = [images for _, images, _, _ in begun]  # all of one width: see `Search`
        ends = np.cumsum([len(part) for part in images])
        answers = np.split(classify(np.concatenate(images)), ends[:-1])
        going = []
        for (steps, _, pages, page), answer in zip(begun, answers, strict=True):
            try:
                going.append((steps, steps.send(answer), pages, page))
            except StopIteration as done:
                pages[page] = done.value
            except (UserError, MemoryError) as error:
                pages[page] = error
        begun = going


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _start() -> "subprocess.Popen[bytes]":
    """Start a worker process; Ctrl-C does not reach it, and it ends with this one."""
    code = f"import sys; sys.path[:] = {sys.path}; from {__name__} import serve; serve()"
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        start_new_session=True,
    )


def _ask(worker: "subprocess.Popen[bytes]", task: Any, classify: Classify) -> list[Pages]:
    """Have a worker search pictures, and answer what it asks meanwhile."""
    assert worker.stdin and worker.stdout
    try:
        _write(worker.stdin, task)
        while True:
            kind, value = pickle.load(worker.stdout)
            if kind == "found":
                return value
            if kind == "failed":
                raise RuntimeError(value)
            _write(worker.stdin, classify(value))
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise UserError(
            "a process that reads pictures was ended from outside, as for lack of memory"
        ) from error


def _write(file: IO[bytes], value: Any) -> None:
    pickle.dump(value, file, pickle.HIGHEST_PROTOCOL)
    file.flush()


def serve() -> None:
    """Search pictures for the process that started this one, until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    source, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no answer

    def classify(images: np.ndarray) -> np.ndarray:
        _write(answers, ("asked", images))
        return pickle.load(source)

    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            sources, all_pages = pickle.load(source)
            try:
                reply: tuple[str, Any] = "found", _search(sources, all_pages, classify)
            except (EOFError, BrokenPipeError):
                raise
            except Exception:  # a bug, whose traceback belongs to the process that asked
                reply = "failed", traceback.format_exc()
            _write(answers, reply)
