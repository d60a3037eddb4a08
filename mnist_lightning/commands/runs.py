"""List your runs, those that started last first.

    python -m mnist_lightning runs
    python -m mnist_lightning runs runs/base

A line names the run's folder, when it started, how many epochs its newest checkpoint has seen, its
best accuracy on validation images, and how many of them were misread then. What a run's files do
not say is a dash.
"""

import sys
from pathlib import Path

from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.errors import UserError
from mnist_lightning.runs import Run, find_runs
from mnist_lightning.text import printable


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("runs", __doc__, ckpt_path=False)
    help_ = "a folder of runs, at any depth (default: %(default)s)"
    parser.add_argument("folder", type=Path, nargs="?", default=Path("runs"), help=help_)
    folder = parser.parse_args(arguments).folder
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}")
    runs = find_runs(folder)
    if not runs:
        raise UserError(f"there are no runs in {folder}: fit makes one")
    for run in runs:
        for note in run.notes:
            print(printable(f"note: {note}"), file=sys.stderr)
    print(table(runs))


def table(runs: list[Run]) -> str:
    """Lay out runs as lines of text, under a heading."""
    rows = [("run", "started", "epochs", "val accuracy", "errors")]
    for run in runs:
        accuracy = "-" if run.accuracy is None else f"{run.accuracy:.2%}"
        errors = "-" if run.errors is None else f"{run.errors:,}"
        name = printable(str(run.folder))
        rows.append((name, run.started or "-", run.epochs or "-", accuracy, errors))
    width = max(len(row[0]) for row in rows)
    return "\n".join(f"{r:{width}}  {s:16}  {e:>8}  {a:>12}  {n:>6}" for r, s, e, a, n in rows)
