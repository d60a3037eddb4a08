"""What several tests share: the data, prepared once, and the real command line."""

import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mnist_lightning.__main__ import main as front_door
from mnist_lightning.data.module import MNISTDataModule

# Two workers share the cores, and none may wait for the other's threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of what a test starts
torch.set_num_threads(1)

# LightningCLI 2.6 calls what newer jsonargparse deprecates; users do not see these warnings.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"

CONFIGS = Path(__file__).parents[1] / "configs"
SMOKE = ["--config", str(CONFIGS / "base.yaml"), "--config", str(CONFIGS / "smoke.yaml")]

# Pictures take longer than such short runs do.
PLAIN = [*SMOKE, "--trainer.callbacks=[]"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a folder with MNIST in it."""
    folder = str(tmp_path_factory.mktemp("data"))
    MNISTDataModule(folder).prepare_data()
    return folder


@pytest.fixture
def clone(root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with what the documented commands read from a clone, and the data."""
    (tmp_path / "docs").mkdir()
    for name in ("configs", "docs/digits", "docs/tour.safetensors"):
        (tmp_path / name).symlink_to(CONFIGS.parent / name)
    (tmp_path / "data").symlink_to(root)
    page = (CONFIGS.parent / "docs/own.md").read_text()
    (tmp_path / "my.py").write_text(page.split("```python\n")[1].split("```")[0])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m mnist_lightning` in a process of its own, as a user does."""
    command = [sys.executable, "-m", "mnist_lightning", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=900)


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int | str | None:
    """Run the command line in this process; return what it exits with, 0 if it just ends."""
    monkeypatch.setattr(sys, "argv", ["python -m mnist_lightning", *map(str, arguments)])
    try:
        front_door()
    except SystemExit as exit_:
        return exit_.code
    return 0


@contextlib.contextmanager
def served(app: Any) -> Iterator[Any]:
    """Serve an app in a thread; yield its address, and the server to look into."""
    from mnist_lightning.commands.server import listen, make_server, url

    server, listener = make_server(app), listen("127.0.0.1", 0)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
    try:
        yield url(listener, "127.0.0.1"), server
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def smoke(root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run of seconds, made by the real command."""
    cwd = tmp_path_factory.mktemp("smoke")
    done = run("fit", *SMOKE, "--data.root", root, cwd=cwd)
    assert done.returncode == 0, done.stderr
    (cwd / "stdout.txt").write_text(done.stdout)
    (cwd / "stderr.txt").write_text(done.stderr)
    return cwd
