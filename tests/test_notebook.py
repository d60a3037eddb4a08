"""Runs docs/tour.ipynb, and trains and stops in a real kernel."""

import json
import queue
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from conftest import CONFIGS
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from mnist_lightning.checkpoint import read_checkpoint

pytestmark = [
    pytest.mark.slow,
    # Jupyter's own, of its connection and of what it will change.
    pytest.mark.filterwarnings("ignore"),
]
NOTEBOOK = CONFIGS.parent / "docs" / "tour.ipynb"
TRAINING = """
from mnist_lightning import MNISTClassifier, MNISTDataModule, Trainer
trainer = Trainer(max_epochs=1000, logger=False, accelerator="cpu", devices={devices})
network = MNISTClassifier(channels=(4, 8), hidden=16)
trainer.fit(network, MNISTDataModule(train_size=2000, val_size=500))
"""


def project(clone: Path) -> Path:
    """Give a working folder the notebook and what it needs; return the notebook's folder."""
    for name in ("scripts", "docs/tour.md", "docs/results"):
        (clone / name).symlink_to(CONFIGS.parent / name)
    return clone / "docs"


def test_every_cell_runs_in_order_and_backwards(clone: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    nbformat.validate(notebook)
    # Once as a reader does; then all but what begins it and the training, the last ones first.
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    again = [cell.copy() for cell in reversed(code[3:]) if ".fit(" not in cell.source]
    for i, cell in enumerate(again):
        cell.id = f"again-{i}"
    notebook.cells += again
    resources = {"metadata": {"path": str(project(clone))}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    printed = json.dumps([cell.outputs for cell in code])
    for number in ("0.4196 becomes 2.887", "0.8835", "-0.1218", "-0.1217", "197,802"):
        assert number in printed
    assert printed.count("image/png") >= 20


def test_a_notebook_without_its_project_says_what_to_do(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, 4)
    resources = {"metadata": {"path": str(tmp_path)}}
    client = NotebookClient(notebook, kernel_name="python3", resources=resources)
    with pytest.raises(Exception, match="put the project's address between the quotes"):
        client.execute()


@pytest.fixture
def kernel(clone: Path) -> Iterator[tuple[KernelManager, Any]]:
    """Return a kernel in a working folder with the data, and what speaks to it."""
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(clone))
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=120)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def stop(kernel: tuple[KernelManager, Any], code: str, times: int) -> tuple[str, str]:
    """Run a cell and press stop once it trains; return what it printed, and its error's name."""
    manager, client = kernel
    request, printed, error = client.execute(code), "", ""
    while True:
        try:
            message = client.get_iopub_msg(timeout=120)
        except queue.Empty:
            raise AssertionError(f"the kernel is silent: {printed}") from None
        kind, content = message["msg_type"], message["content"]
        if message["parent_header"].get("msg_id") != request:
            continue
        printed += content["text"] if kind == "stream" else ""
        error = content["ename"] if kind == "error" else error
        # In an epoch, and not at the start, where nothing is to be kept yet.
        if times and "epoch 0" in printed:
            for _ in range(times):
                manager.interrupt_kernel()
                time.sleep(0.05)
            times = 0
        if kind == "status" and content["execution_state"] == "idle":
            return printed, error


@pytest.mark.parametrize("devices", [1, 2])
def test_the_stop_button_keeps_the_kernel_and_the_last_checkpoint(
    devices: int, kernel: tuple[KernelManager, Any], clone: Path
) -> None:
    code = TRAINING.format(devices=devices)
    for version, times in enumerate((1, 1, 2)):
        printed, error = stop(kernel, code, times)
        # The second press may find the training ended, and then IPython's own work is stopped.
        assert error == "Stopped" or times == 2, printed
        assert "it/s" in printed  # there is a bar
        last = clone / f"runs/mnist/version_{version}/checkpoints/last.ckpt"
        assert read_checkpoint(last)["global_step"] >= 15
    printed, error = stop(kernel, "print(1 + 1)", 0)
    assert (printed, error) == ("2\n", "")
