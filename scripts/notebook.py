"""Make docs/tour.ipynb from docs/tour.md: the same lesson, to run and to change.

    python scripts/notebook.py

Each block of Python in the page becomes a cell, but for those that quote a file, whose name stands
in the line above. A picture right below such a block is what the block draws, so the notebook
leaves it to the cell. It also leaves out the page's table of contents; its readers have their own.
The cells that stand in the notebook alone are here. Outputs are not kept: who only wants to read
has the page.
"""

import json
import re
from pathlib import Path
from typing import Any

from mnist_lightning.files import replace_file

PAGE, NOTEBOOK = Path("docs/tour.md"), Path("docs/tour.ipynb")

# A block of Python with a blank line above it, and a picture below if there is one.
CELL = re.compile(r"\n\n```python\n(.*?)\n```\n(?:\n!\[[^]]*\]\(pictures/\S+\)\n)?", re.DOTALL)
CONTENTS = re.compile(r"(?:^\[[^]]+\]\(#\S+\)(?: ·)?\n)+\n", re.MULTILINE)

# What stands in the notebook alone, before the page's first block.
HINT = """\
This is [tour.md](tour.md), to run and to change. Shift+Enter runs a cell. The first three come
first, and then the sections in any order; only what your own network of section 11 is asked waits
for its training. Nothing can break: *Restart Kernel* and the first three bring everything back."""
SETUP = """\
import os

REPOSITORY = ""  # in a notebook service, the address of this project
if os.path.exists("tour.md"):
    os.chdir("..")
elif not os.path.exists("docs/tour.md"):
    assert REPOSITORY, "put the project's address between the quotes of REPOSITORY"
    !git clone --depth 1 {REPOSITORY} mnist_lightning
    %pip install --quiet ./mnist_lightning
    os.chdir("mnist_lightning")
%matplotlib inline"""


def main() -> None:
    """Write the notebook."""
    replace_file(NOTEBOOK, notebook(PAGE.read_text()).encode())


def notebook(page: str) -> str:
    """Return the notebook of a page as the text of its file."""
    texts, codes = split(page)
    texts[:1] = [f"{texts[0]}\n\n{HINT}", ""]
    cells = []
    for text, code in zip(texts, [SETUP, *codes, ""], strict=True):
        # A section begins with a cell of its own, so that it can be folded.
        cells += [("markdown", part.strip()) for part in re.split(r"(?m)^(?=## )", text)]
        cells.append(("code", code))
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    numbered = enumerate(cell for cell in cells if cell[1])
    contents: dict[str, Any] = {"cells": [as_json(i, *cell) for i, cell in numbered]}
    contents |= {"metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(contents, indent=1, ensure_ascii=False) + "\n"


def split(page: str) -> tuple[list[str], list[str]]:
    """Return a page's texts, and the blocks of code between them, one less."""
    parts = CELL.split(CONTENTS.sub("", page))
    return parts[::2], parts[1::2]


def as_json(number: int, kind: str, text: str) -> dict[str, Any]:
    """Return a cell as it stands in the file."""
    cell: dict[str, Any] = {"cell_type": kind, "id": f"cell-{number}", "metadata": {}}
    if kind == "code":
        cell |= {"execution_count": None, "outputs": []}
    return cell | {"source": text.splitlines(keepends=True)}


if __name__ == "__main__":
    main()
