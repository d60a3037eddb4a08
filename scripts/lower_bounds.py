"""Try the package with the oldest versions that pyproject.toml allows.

    python scripts/lower_bounds.py

In a temporary folder it makes an environment with the lower bound of every dependency, those of the
extras too, prints what was installed, and runs a few tests there. It downloads gigabytes, so it is
for a release, and not part of the checks.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
# What other versions are likely to break: the layers, the exporters, a training.
TESTS = ["tests/test_network.py", "tests/test_export.py", "tests/test_classifier.py"]


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
        pytest = [*python, "pytest", "-q", "-n", "0", "-W", "ignore"]
        done = subprocess.run([*pytest, *tests], cwd=ROOT)
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
