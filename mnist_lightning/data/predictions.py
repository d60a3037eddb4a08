"""The CSV file that `predict` writes and that pseudo-labels come from: ten probabilities a line."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mnist_lightning.errors import UserError
from mnist_lightning.files import replace_file
from mnist_lightning.sizes import NUM_CLASSES

PROBABILITIES = ",".join(f"p{digit}" for digit in range(NUM_CLASSES))
HEADER = f"set,image,digit,{PROBABILITIES}"
# Of test images; nothing is learned from their labels.
LABELED = f"set,image,digit,label,{PROBABILITIES}"
MARK = rb"\Aset,image,digit,(label,)?" + PROBABILITIES.encode()


def write_predictions(
    path: Path,
    set_: str,
    indices: np.ndarray,
    probabilities: Tensor,
    labels: Tensor | None = None,
) -> None:
    """Write each image's most probable digit and all ten probabilities.

    Args:
        path: The CSV file; an existing one is replaced.
        set_: The set of the images, such as `MNIST/train` or `MNIST/test`.
        indices: int64 `(N,)`, the images' indices in it.
        probabilities: Float `(N, 10)`.
        labels: int64 `(N,)`, the true digits, to stand beside those read; None for no such column.

    Raises:
        OSError: If the file can't be written.
    """
    lines = [HEADER if labels is None else LABELED]
    true = [""] * len(indices) if labels is None else [f",{label}" for label in labels.tolist()]
    for image, label, row in zip(indices.tolist(), true, probabilities.tolist(), strict=True):
        digit = f"{row.index(max(row))}{label}"
        lines.append(",".join([set_, f"{image}", digit, *(f"{p:.6g}" for p in row)]))
    replace_file(path, "\n".join([*lines, ""]).encode())


def read_predictions(path: str | Path) -> tuple[str, np.ndarray, Tensor]:
    """Read a file of predictions.

    Args:
        path: A CSV file that `write_predictions` wrote; a person may have removed lines.

    Returns:
        The set of the images, such as `MNIST/train`, their indices in it, int64 `(N,)`, and
        probabilities, float32 `(N, 10)`.

    Raises:
        FileNotFoundError: If there is no such file.
        UserError: If it is not such a file; the message names the line.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file of predictions {path}")
    header, *lines = Path(path).read_text(errors="replace").splitlines() or [""]
    labeled = header == LABELED
    if not labeled and header != HEADER:
        raise UserError(f"{path} was not written by predict: its first line is not {HEADER}")
    if not lines:
        raise UserError(f"{path} holds no predictions")
    sets, indices, rows = set(), [], []
    for number, line in enumerate(lines, start=2):
        set_, *fields = line.split(",")
        del fields[2 : 3 if labeled else 2]  # the true labels are never learned from
        try:
            index, _, *row = [int(field) for field in fields[:2]] + [float(p) for p in fields[2:]]
            is_right = set_.endswith(("/train", "/test")) and len(row) == NUM_CLASSES
            if not (is_right and min(row) >= 0 and index >= 0 and abs(sum(row) - 1) < 1e-3):
                raise ValueError
        except ValueError:
            raise UserError(
                f"{path}, line {number}: not a set, an image, a digit and {NUM_CLASSES} "
                f"probabilities: {line[:60]}"
            ) from None
        sets.add(set_)
        indices.append(index)
        rows.append(row)
    if len(sets) > 1:
        raise UserError(f"{path} holds images of several sets")
    if len(set(indices)) < len(indices):
        raise UserError(f"{path} holds an image more than once")
    return sets.pop(), np.array(indices), torch.tensor(rows)
