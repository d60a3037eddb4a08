"""Try the package with the oldest versions that pyproject.toml allows.

    python scripts/lower_bounds.py

In a temporary folder it makes an environment with the lower bound of every dependency, those of the
extras too, prints what was installed, and runs a few tests there. It downloads gigabytes, so it is
for a release, and not part of the checks.
"""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
# What other versions are likely to break: layers, exporters, trainings and their checkpoints, the
# command line, the page, figures.
NAMES = "network export classifier checkpoint saving resume tensorboard cli read demo figures"
TESTS = [f"tests/test_{name}.py" for name in NAMES.split()]


def lower_bounds(project: dict[str, Any]) -> list[str]:
    """Return a project's requirements, and those of its extras, each as `name==bound`.

    Args:
        project: The table `project` of pyproject.toml.
    """
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(each for extra in extras for each in extra)]
    own = f"{project['name']}["  # an extra that consists of others
    return [
        re.sub(r">=([\w.]+).*", r"==\1", each) for each in requirements if not each.startswith(own)
    ]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tests", nargs="*", default=TESTS, help="what pytest is given")
    tests = parser.parse_args().tests
    import tomllib  # Python 3.11's

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = ",".join(project["optional-dependencies"])
    with TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = [str(Path(folder, "bin", "python")), "-m"]
        install = [*python, "pip", "install", "--quiet", "--editable", f"{ROOT}[{extras}]"]
        subprocess.run([*install, *lower_bounds(project)], check=True)
        subprocess.run([*python, "pip", "list", "--format", "freeze"], check=True)
        # Old versions warn of the newer ones that they meet, where they set no upper bound.
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}  # for what the tests start
        pytest = [*python, "pytest", "-q", "-n", "0", "-W", "ignore"]
        done = subprocess.run([*pytest, *tests], cwd=ROOT, env=quiet)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
