"""What a person types to have pictures read, and what comes back."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import call
from PIL import Image, ImageOps

from mnist_lightning.commands.read import (
    ANSWER,
    AROUND,
    CSV,
    GAP,
    JSON,
    TILE,
    Place,
    _thumbnail,
    to_csv,
)
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.reading.picture import open_picture
from mnist_lightning.reading.reader import Page

TOOL = ["-m", "mnist_lightning", "read"]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return a folder with a seven, a two and a one, dark on white, and with what is no picture."""
    folder = tmp_path / "photos"
    folder.mkdir()
    images, labels = read_test_set()
    assert labels[:3].tolist() == [7, 2, 1]
    for name, image in zip(("a.png", "b.jpg", "c.TIF"), images, strict=False):
        picture = ImageOps.invert(Image.fromarray(image.numpy()).resize((200, 200)))
        picture.save(folder / name)
    (folder / "notes.txt").write_text("three digits")
    return folder


Capture = pytest.CaptureFixture[str]


def test_a_folder_is_read_from_end_to_end(photos: Path, tmp_path: Path) -> None:
    arguments = ["photos", "--output", "readings.csv", "--show", "sheet.png"]
    command = [sys.executable, "-X", "importtime", *TOOL, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split() == ["file", "digits", "probability", "second", "guess"]
    assert [row.split()[:2] for row in rows] == [
        ["photos/a.png", "7"],
        ["photos/b.jpg", "2"],
        ["photos/c.TIF", "1"],
    ]
    assert (tmp_path / "readings.csv").read_text().startswith("file,digit,probability,second,")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 1000
    for slow in ("lightning", "torchvision", "matplotlib"):
        assert f" {slow}\n" not in done.stderr, f"{slow} is imported"


def test_a_bad_file_is_named_and_the_others_are_read(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    whole = (photos / "b.jpg").read_bytes()
    (photos / "b.jpg").write_bytes(whole[: len(whole) // 2])
    Image.new("L", (50, 50), 255).save(photos / "blank.png")
    output = photos / "readings.json"
    code = call(monkeypatch, "read", photos, photos / "notes.txt", "none.png", "--output", output)
    printed = capsys.readouterr()
    assert code == 1
    assert printed.err.splitlines() == [
        f"note: {photos}: 1 left out: notes.txt",
        f"error: {photos}/b.jpg: the picture is cut off or damaged",
        f"error: {photos}/blank.png: there is no ink on the picture, or too pale a one",
        f"error: {photos}/notes.txt: not a picture: PNG, JPEG, WebP, AVIF, GIF, BMP, TIFF or HEIC "
        "is read",
        "error: none.png: No such file or directory",
    ]
    assert [row.split()[0] for row in printed.out.splitlines()[1:]] == [
        f"{photos}/a.png",
        f"{photos}/c.TIF",
    ]
    entries = {entry["file"]: entry for entry in json.loads(output.read_text())}
    assert entries[f"{photos}/a.png"]["text"] == "7"
    assert entries["none.png"] == {"file": "none.png", "error": "No such file or directory"}


def test_csv_and_json_hold_the_same(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for suffix in ("csv", "json"):
        assert call(monkeypatch, "read", photos, "--output", photos / f"readings.{suffix}") == 0
    rows = list(csv.DictReader((photos / "readings.csv").read_text().splitlines()))
    entries = json.loads((photos / "readings.json").read_text())
    assert len(rows) == len(entries) == 3
    places = ["page", "line", "left", "top", "right", "bottom"]
    numbers = [f"p{digit}" for digit in range(10)]
    assert list(rows[0])[5:] == [*numbers, "is_digit", *places, "error"]
    for row, entry in zip(rows, entries, strict=True):
        (digit,) = entry["digits"]
        assert [float(row[number]) for number in numbers] == digit["probabilities"]
        assert [int(row[side]) for side in places] == [1, 1, *digit["box"]]
        for key in ("digit", "probability", "second", "second_probability", "is_digit"):
            assert row[key] == str(digit[key])
        assert (row["file"], row["digit"], row["error"]) == (entry["file"], entry["text"], "")


def test_each_page_of_a_tiff_is_a_reading(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(photos)
    pages = [Image.open("a.png"), Image.new("L", (50, 50), 255), Image.open("b.jpg")]
    pages[0].save("c.TIF", save_all=True, append_images=pages[1:])
    for output in ("x.json", "x.csv"):
        assert (
            call(monkeypatch, "read", "c.TIF", "a.png", "--output", output, "--show", "x.png") == 1
        )
    printed = capsys.readouterr()
    assert [row.split("  ")[0] for row in printed.out.splitlines()[1:4]] == [
        "c.TIF, page 1",
        "c.TIF, page 3",
        "a.png",
    ]
    first, third, other, blank = json.loads(Path("x.json").read_text())
    assert [first["page"], first["text"], third["page"], third["text"]] == [1, "7", 3, "2"]
    assert other["file"] == "a.png" and other["page"] == 1 and other["digits"] == first["digits"]
    assert blank["page"] == 2 and printed.err.startswith(f"error: c.TIF, page 2: {blank['error']}")
    rows = list(csv.DictReader(Path("x.csv").read_text().splitlines()))
    assert [row["page"] for row in rows] == ["1", "3", "1", "2"]


def test_what_a_folder_leaves_out_is_said_in_one_line(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (photos / "more").mkdir()
    for name in ("film.mov", "page.pdf", ".hidden", "._a.png"):
        (photos / name).touch()
    assert call(monkeypatch, "read", photos, "--show", photos / "sheet.png") == 0
    said = capsys.readouterr().err
    assert said == f"note: {photos}: 4 left out: film.mov, more/, notes.txt, ...\n"
    assert call(monkeypatch, "read", photos) == 0
    assert "5 left out" in capsys.readouterr().err  # the sheet too


def test_files_of_before_there_were_pages_are_known_as_ours() -> None:
    columns = "file,digit,probability,second,second_probability,p0,p1,p2,p3,p4,p5,p6,p7,p8,p9"
    for rest in ("", ",is_digit", ",is_digit,line,left,top,right,bottom"):
        assert re.match(CSV, f"{columns}{rest},error\n".encode())
    for key in ('"digit": 7,\n    "probability"', '"text"', '"error"', '"page": 1,\n    "text"'):
        assert re.match(JSON, f'[\n  {{\n    "file": "a.png",\n    {key}: '.encode())


def test_the_same_command_works_twice(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    for pictures in (".", "notes.txt"):  # of which none can be read
        for output in ("readings.csv", "readings.json"):
            command = ["read", pictures, "--output", output, "--show", "sheet.png"]
            assert call(monkeypatch, *command) == call(monkeypatch, *command)
        entries = json.loads(Path("readings.json").read_text())
        assert [entry["file"] for entry in entries] == (
            ["a.png", "b.jpg", "c.TIF"] if pictures == "." else ["notes.txt"]
        )


def test_no_name_is_a_formula_or_moves_the_cursor(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(photos)
    names = ["=1+1.png", "+1.png", "@sum.png", "-1.png", "a\33[2J=.png"]
    for name in names:
        (photos / name).write_text("no picture")
    (photos / "a.png").rename("=a\r.png")
    assert (
        call(monkeypatch, "read", "--output", "x.csv", "=a\r.png", *names[:3], "--", *names[3:])
        == 1
    )
    rows = list(csv.DictReader(Path("x.csv").read_text().splitlines()))
    assert [row["file"] for row in rows] == [
        "'=a?.png",
        "'=1+1.png",
        "'+1.png",
        "'@sum.png",
        "'-1.png",
        "a?[2J=.png",
    ]
    printed = capsys.readouterr()
    assert not re.search(r"[\x00-\x09\x0b-\x1f]", printed.out + printed.err)
    message = call(monkeypatch, "read", "--ckpt_path", "x\33[2J\n.ckpt", "notes.txt")
    assert message == "error: there is no checkpoint file x?[2J .ckpt"
    assert call(monkeypatch, "read", "--x\33[2J.png", "notes.txt") == 2
    assert "unrecognized arguments: --x?[2J.png" in capsys.readouterr().err


def test_standard_input_is_no_formula() -> None:
    assert to_csv({}, {Place("-", 0): "-"}).decode().splitlines()[1].startswith("-,")


def test_an_answer_that_is_no_number_is_no_reading(photos: Path) -> None:
    from mnist_lightning import read

    with pytest.raises(ValueError, match="the network's answer is not a number"):
        read(photos / "a.png", lambda pixels: torch.full((len(pixels), 10), torch.nan))


def test_a_picture_comes_through_standard_input(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    contents = io.BytesIO((photos / "a.png").read_bytes())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(contents))
    assert call(monkeypatch, "read", "-") == 0
    assert capsys.readouterr().out.splitlines()[1].split()[:2] == ["-", "7"]


def test_standard_input_without_an_end_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr("mnist_lightning.commands.read.MAX_BYTES", 9)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(bytes(99))))
    assert call(monkeypatch, "read", "-") == 1
    assert capsys.readouterr().err == "error: -: standard input has more than 9 bytes\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "x.txt"], "x.txt must end in .csv or .json"),
        (["--output", "mine.csv"], "mine.csv exists and bears no mark of mnist_lightning"),
        (["--output", "mine.json"], "mine.json exists and bears no mark of mnist_lightning"),
        (["--show", "b.png"], "b.png exists and bears no mark of mnist_lightning"),
        (["--show", "a.png", "--overwrite"], "a.png is read by this very command"),
        (["--show", "link.png"], "link.png is read by this very command"),
        (["--output", "none/x.csv"], "there is no folder none to write x.csv in"),
        (["--show", "x.gif"], "x.gif must end in .png"),
        (["--ckpt_path", "none.ckpt"], "there is no checkpoint file none.ckpt"),
        (["empty"], "empty: no picture in this folder ends in .png, .jpg"),
    ],
)
def test_a_wrong_command_is_refused_before_any_picture_is_read(
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(photos)
    (photos / "empty").mkdir()
    (photos / "b.png").write_bytes((photos / "a.png").read_bytes())
    (photos / "link.png").symlink_to("a.png")
    (photos / "mine.csv").write_text("file,digit\na.png,7\n")
    (photos / "mine.json").write_text(json.dumps([{"file": "a.png", "digit": 7}], indent=2))
    before = {path: path.is_file() and path.read_bytes() for path in photos.iterdir()}
    said = call(monkeypatch, "read", "a.png", *arguments)
    printed = capsys.readouterr()
    assert str(said).startswith(f"error: {message}") and "\n" not in str(said)
    assert printed.out == printed.err == ""
    assert {path: path.is_file() and path.read_bytes() for path in photos.iterdir()} == before


@pytest.mark.parametrize("output", ["/dev/full", "closed"])
def test_readings_are_written_though_they_cannot_be_printed(
    output: str, photos: Path, tmp_path: Path
) -> None:
    (photos / "a.png").rename(photos / "ä.png")
    (photos / "notes.txt").unlink()
    command = [sys.executable, *TOOL, "photos", "--output", "readings.csv"]
    reader, writer = os.pipe()
    os.close(reader)  # as `| head` does in the end
    with open(writer if output == "closed" else output, "w") as stdout:
        done = subprocess.run(
            command, cwd=tmp_path, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=120
        )
    assert (tmp_path / "readings.csv").read_text().count("\n") == 4
    assert "Traceback" not in done.stderr
    if output == "closed":
        assert done.returncode == 0 and done.stderr == ""
    else:
        assert done.returncode == 1 and done.stderr.startswith("error: ")


def test_a_terminal_of_few_letters_is_enough(photos: Path, tmp_path: Path) -> None:
    (photos / "a.png").rename(photos / "ä.png")
    command = [sys.executable, *TOOL, "photos/ä.png"]
    ascii_only = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=ascii_only, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert b"photos/?.png" in done.stdout


def test_the_sheet_shows_what_the_network_saw(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = read_test_set()[0][0]
    Image.fromarray(image.numpy()).save(photos / "a.png")  # which passes unchanged
    assert call(monkeypatch, "read", photos / "a.png", "--show", photos / "sheet.png") == 0
    side, gap = TILE, GAP
    left, top = 3 * gap + side, 2 * gap
    sheet = open_picture(photos / "sheet.png").convert("L")
    seen = sheet.crop((left, top, left + side, top + side)).resize((28, 28), 0)
    assert seen.tobytes() == image.numpy().tobytes()


def test_the_sheet_shows_the_first_pictures_of_many(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (photos / "notes.txt").unlink()
    monkeypatch.setattr("mnist_lightning.commands.read.MOST_SHOWN", 2)
    sheet = photos.parent / "sheet.png"
    assert call(monkeypatch, "read", photos, "--show", sheet) == 0
    assert capsys.readouterr().err == f"note: {sheet} shows the first 2 of 3 pictures\n"
    with Image.open(sheet) as picture:
        assert picture.height < 2 * TILE  # one row


@pytest.mark.parametrize("size", [(9, 9000), (9000, 9)])
def test_a_strip_has_a_thumbnail(size: tuple[int, int]) -> None:
    for digits in ("7", "77"):
        for each in (drawn := [type("Digit", (str,), {})(digit) for digit in digits]):
            each.box = (0, 0, 5, 5)
        thumbnail = _thumbnail(Image.new("L", size), Page(digits, drawn))  # type: ignore[arg-type]
        assert min(thumbnail.size) > 0 and thumbnail.width <= 2 * TILE + GAP


def test_a_digit_at_the_pictures_top_has_its_whole_answer_above() -> None:
    class Digit(str):
        box: tuple[int, int, int, int]

    digits = Digit("7"), Digit("7")
    digits[0].box, digits[1].box = (10, 0, 30, 60), (60, 100, 80, 160)
    picture = Image.new("RGB", (200, 200), AROUND)
    drawn = _thumbnail(picture, Page("77", digits))  # type: ignore[arg-type]
    first, second = (
        drawn.crop((x, y, x + 15, y + ANSWER - 2)).tobytes()
        for x, y in (tuple(round(drawn.width * side / 200) for side in d.box[:2]) for d in digits)
    )
    assert first == second and len(set(first)) > 3


def test_a_name_that_is_not_utf_8_can_be_printed(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (photos / "a.png").rename(photos / "a\udcff.png")
    assert call(monkeypatch, "read", photos / "a\udcff.png", "--show", photos / "sheet.png") == 0
    assert "a?.png" in capsys.readouterr().out


def test_the_library_reads_as_the_tool_does(photos: Path) -> None:
    from mnist_lightning import load, read

    page = read(photos / "a.png", load())
    (reading,) = page.digits
    assert page.text == "7" and reading.digit == 7 and reading.image.shape == (28, 28)
    assert reading.probability == max(reading.probabilities) > reading.second_probability
