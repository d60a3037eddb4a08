import base64
import io
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import call, run
from PIL import Image
from torch import nn

from mnist_lightning.checkpoint import load, to_safetensors
from mnist_lightning.commands import report
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.network import ConvNet, to_pixels

CHECKPOINT = "runs/smoke/version_0/checkpoints/last.ckpt"


class Page(HTMLParser):
    """Keeps a page's addresses and images."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.alternatives: list[str] = []
        self.dark: list[str] = []  # addresses of the pictures for dark pages
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = dict(attributes)
        self.addresses += [values[key] or "" for key in ("src", "href") if key in values]
        if tag == "source" and values["media"] == "(prefers-color-scheme: dark)":
            self.dark.append(values["srcset"] or "")
        if tag == "img":
            self.alternatives.append(values["alt"] or "")


@pytest.fixture(scope="module")
def made(smoke: Path, root: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the report on a finished run, made by the real command."""
    cwd = tmp_path_factory.mktemp("report")
    options = ["--ckpt_path", smoke / CHECKPOINT, "--data_root", root, "--layer", "relu2"]
    done = run("report", *options, cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"\.py:\d|warn", done.stderr, re.I)
    assert done.stdout == "wrote report/report.html and 10 figures beside it\n"
    text = (cwd / "report/report.html").read_text()
    return SimpleNamespace(folder=cwd / "report", text=text, page=Page(text), cwd=cwd)


def test_the_page_holds_every_figure_and_loads_nothing(made: Any) -> None:
    files = {path.name: path for path in made.folder.iterdir()}
    names = [*report.NARROW, *report.ERRORS, *report.LEARNED, *report.TRAINING]
    assert files.keys() == {"report.html", *(f"{name}.png" for name in names)}
    assert list(made.cwd.iterdir()) == [made.folder]
    prefix = "data:image/png;base64,"
    assert len(made.page.dark) == len(names)
    for address in made.page.dark:
        shown = Image.open(io.BytesIO(base64.b64decode(address[len(prefix) :]))).convert("RGB")
        assert shown.getpixel((0, 0)) == (0x21, 0x21, 0x24)
    assert all(address.startswith(prefix) for address in made.page.addresses)
    for name, address in zip(names, made.page.addresses, strict=True):
        file = Image.open(files[f"{name}.png"]).convert("RGB")
        shown = Image.open(io.BytesIO(base64.b64decode(address[len(prefix) :]))).convert("RGB")
        top = file.height - shown.height  # its title, which the page has as text
        assert 80 < top < 90 and file.crop((0, top, *file.size)).tobytes() == shown.tobytes()
    assert "url(" not in made.text and "@import" not in made.text and "<script" not in made.text
    for name in names:
        Image.open(files[f"{name}.png"]).verify()
    assert all(len(text) > 20 for text in made.page.alternatives)
    assert any(text.startswith("relu2: ") for text in made.page.alternatives)


def test_the_page_says_what_was_measured_on_which_images(made: Any, smoke: Path) -> None:
    images, labels = read_test_set()
    with torch.inference_mode():
        logits = load(smoke / CHECKPOINT)(to_pixels(images))
    errors = int((logits.argmax(1) != labels).sum())
    assert f"<h1>{errors:,} of 10,000 MNIST images misread</h1>" in made.text
    assert f"<dd>{1 - errors / 10_000:.2%}</dd>" in made.text
    assert f"<dd>{F.cross_entropy(logits, labels):.4f}</dd>" in made.text
    assert "the 10,000 test images of MNIST" in made.text
    assert "after 80 training steps" in made.text
    assert "<th scope=row>channels</th><td>8, 16</td>" in made.text
    assert "<th scope=row>rotation</th><td>8.0</td>" in made.text
    assert "<th scope=row>epochs</th><td>2</td>" in made.text
    assert "<th scope=row>pseudo_" not in made.text  # this run used none
    assert "<h3>One image on its way through the network</h3><p>up to 10 channels" in made.text
    assert re.search(r"<th scope=row>versions</th><td>mnist_lightning .*, torch ", made.text)
    assert any("After 80 steps: validation loss" in text for text in made.page.alternatives)


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str) -> list[str]:
    """Return the command of a report on a network of no run, into the folder `mine`."""
    torch.manual_seed(0)
    monkeypatch.chdir(tmp_path)
    Path("n<m.safetensors").write_bytes(to_safetensors(ConvNet((2, 2), 4, batch_norm=False)))
    Path("mine").mkdir()
    where = ["--data_root", root, "--output_dir", "mine"]
    return ["report", "--ckpt_path", "n<m.safetensors", *where]


def test_a_file_without_a_run_gives_a_report_without_curves_and_replaces_the_last_one(
    small: list[str], made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(made.folder, "mine", dirs_exist_ok=True)
    Path("mine/notes.txt").write_text("mine")
    assert call(monkeypatch, *small) == 0
    assert {path.name for path in Path("mine").iterdir()} == {
        "report.html",
        "notes.txt",
        *(f"{name}.png" for name in report.FIGURES[:-2]),
    }
    text = Path("mine/report.html").read_text()
    assert "<code>n&lt;m.safetensors</code>" in text
    assert "How it learned" not in text and "<th scope=row>hidden</th><td>4</td>" in text


def test_all_errors_are_listed_by_number(made: Any) -> None:
    text = (made.folder / "report.html").read_text()
    errors = int(re.search(r"<h1>([\d,]+) of", text)[1].replace(",", ""))  # type: ignore[index]
    rows = re.findall(r"<tr><td>(\d+)<td>(\d)<td>(\d)<td>", text)
    _, labels = read_test_set()
    assert len(rows) == errors and len({number for number, *_ in rows}) == errors
    for number, true, read in rows[:100]:
        assert labels[int(number)] == int(true) != int(read)


@pytest.mark.parametrize("name", ["report.html", "mistakes.png", "curves.png"])
def test_a_users_own_files_are_refused_before_the_work(
    name: str, small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "load", lambda *_: pytest.fail("the work began"))
    Path("mine", name).write_text("mine")
    message = f"error: mine/{name} exists and bears no mark of mnist_lightning: "
    assert str(call(monkeypatch, *small)).startswith(message)
    Path("mine", name).unlink()
    Path("mine", name).symlink_to("../n<m.safetensors")
    message = f"error: mine/{name} is read by this very command: name another file"
    assert call(monkeypatch, *small, "--overwrite") == message


def test_a_users_picture_that_is_not_drawn_is_left_alone(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("curves.png", "mistakes.png"):
        Path("mine", name).write_text("mine")
    assert call(monkeypatch, *small, "--overwrite") == 0
    assert Path("mine/curves.png").read_text() == "mine"
    assert Path("mine/mistakes.png").read_bytes()[:4] == b"\x89PNG"


def test_a_network_without_mistakes_has_a_report_too(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Knows(ConvNet):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            logits = nn.Sequential.forward(self, pixels)
            return logits * 0 + 50 * torch.eye(10)[answers[: len(pixels)]]

    images, labels = read_test_set()
    images, answers = images[:200], labels[:200]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(report, "load", lambda: Knows((2, 2), 4).eval())
    monkeypatch.setattr(report.datasets, "read", lambda *_, **__: (images, answers))
    assert call(monkeypatch, "report") == 0
    text = Path("report/report.html").read_text()
    assert "<h1>0 of 200 MNIST images misread</h1>" in text and "All errors" not in text
    for name in ("mistakes", "attribution"):
        assert not Path(f"report/{name}.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ckpt_path", "missing.ckpt"], "error: there is no checkpoint file missing.ckpt"),
        (["--layer", "relu9"], "error: the network has no layer 'relu9'; it has standardize"),
        (["--picture", "missing.jpg"], "error: missing.jpg: No such file"),
        (["--picture", "file"], "error: file: not a picture"),
        (["--picture", "file", "--layer", "relu9"], "error: the network has no layer 'relu9'"),
        (["--layer", ""], "error: the network has no layer ''"),
        (["--output_dir", "file"], "error: file can't be a folder: file is a file"),
        (["--output_dir", "file/below"], "error: file/below can't be a folder: file is a file"),
        (["--data_root", "file"], "error: file/MNIST"),
    ],
)
def test_a_mistake_gives_one_line_before_the_work_and_leaves_nothing(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ConvNet((2, 2), 4).eval()
    monkeypatch.setattr(report, "load", lambda *paths: load(*paths) if paths else small)
    Path("file").write_text("a file")
    code = call(monkeypatch, "report", *arguments)
    assert isinstance(code, str) and code.startswith(message) and "\n" not in code
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_picture_has_a_page_of_its_own_with_the_maps_of_each_digit(
    small: list[str], made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report.datasets, "prepare", lambda *_: pytest.fail("it tests nothing"))
    picture = Path(__file__).parents[1] / "docs/digits/form.jpg"
    Path("a<b.jpg").write_bytes(picture.read_bytes())
    arguments = ["--picture", "a<b.jpg", "--layer", "conv2", "--output_dir", "mine"]
    assert call(monkeypatch, "report", *arguments) == 0
    page = Page(text := Path("mine/picture.html").read_text())
    assert "<h1>a&lt;b.jpg reads 2024</h1>" in text
    assert [title.split(":")[0] for title in page.alternatives[2::2]] == ["conv2"] * 4
    assert page.alternatives[0].startswith("Read as 2024: ")
    assert re.findall(r"<tr><td>(\d)<td>(\d)<td>", text) == [*zip("1234", "2024", strict=True)]
    drawn = {f"{name}_{i}.png" for name in ("feature_maps", "layers") for i in range(1, 5)}
    files = {path.name for path in Path("mine").iterdir()}
    assert files == drawn | {"picture.html", "page.png", "evidence.png"}
    seven = picture.with_name("7.jpg")
    assert call(monkeypatch, "report", "--picture", seven, "--output_dir", "mine") == 0
    assert {path.name for path in Path("mine").glob("*_*")} == {
        "feature_maps_1.png",
        "layers_1.png",
    }


def test_classes_are_called_by_their_names() -> None:
    names = report.datasets.SETS["FashionMNIST"].classes
    images, labels = (part[:50] for part in read_test_set())
    logits = torch.zeros(50, 10)
    logits[:, 7] = 5
    run = {"hyper_parameters": {}, "global_step": 9}
    text = report._page(
        "x", "FashionMNIST", ConvNet((2, 2), 4), run, labels, logits, {"curves": ""}
    )
    assert re.search(r"<tr><td>\d+<td>ankle boot<td>sneaker<td>9", text)
    drawings = report._drawings(
        ConvNet((2, 2), 4).eval(), to_pixels(images), labels, logits.softmax(1), None, names
    )
    assert "sneaker" in drawings["confusion_matrix"]().texts[0].get_text()


def test_help_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "report", "--help") == 0
    out = capsys.readouterr().out
    assert report.__doc__ and report.__doc__.splitlines()[0].split(",")[0] in out
    assert "--layer LAYER" in out
