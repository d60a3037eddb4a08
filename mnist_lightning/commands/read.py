"""Read the digits and numbers in pictures: photos, scans, drawings, forms.

    python -m mnist_lightning read photos/*.jpg
    python -m mnist_lightning read photos --output readings.csv --show sheet.png
    python -m mnist_lightning read --ckpt_path runs/base/version_0/checkpoints/best.ckpt - < 7.png

A folder stands for the pictures in it, `-` for one on standard input; each page of a TIFF is a
picture. A picture holds one digit, a number, or lines of numbers; of several digits the probability
is that of the least sure one. A `?` says that there is no digit: a sign, say. It does not count.
`--output` writes the ten probabilities and the place of each digit; `--show` draws a box around it,
or what the network saw of a single one: the first thing to look at if a digit is misread. Neither
replaces a picture that it reads, nor, without `--overwrite`, any file that this package did not
write.
"""

import csv
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor
from tqdm import tqdm

from mnist_lightning.checkpoint import load
from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.errors import UserError
from mnist_lightning.files import PNG, PNG_METADATA, check_output, is_ours, replace_file
from mnist_lightning.reading.picture import MAX_BYTES, decode, fit, open_pages
from mnist_lightning.reading.reader import Page, read_each
from mnist_lightning.sizes import NUM_CLASSES
from mnist_lightning.text import percent, printable

SUFFIXES = tuple(".png .jpg .jpeg .webp .avif .heic .heif .hif .gif .bmp .tif .tiff".split())

COLUMNS = ["file", "digit", "probability", "second", "second_probability"]
COLUMNS += [*(f"p{digit}" for digit in range(NUM_CLASSES)), "is_digit"]
BOX = ["left", "top", "right", "bottom"]
PLACE = ["page", "line", *BOX]
# How a file of readings is known as ours, also one of before.
CSV = rb"\A" + ",".join(COLUMNS).replace(",is_digit", "(,is_digit)?").encode()
CSV += rf"((,page)?,line,{','.join(BOX)})?,error\n".encode()
JSON = rb'\A\[\n  \{\n    "file": "[^\n]*",\n    ("page": \d+,\n    )?'
JSON += rb'("digit": \d,\n    "probability"|"text"|"error"): '

# The contact sheet, in pixels; an image pixel is 8 of them.
TILE, GAP, TEXT, ANSWER = 224, 16, 60, 18
PICTURES_A_ROW = 2
MOST_SHOWN = 200  # pictures; more would make a file that few programs open
ACCENT, AROUND = "#c4460f", "#f1f1f1"


class Place(NamedTuple):
    """A picture: a file's page, counted from 1; or the file as a whole, 0."""

    file: str
    page: int


def read_files(
    names: list[str], network: Callable[[Tensor], Tensor], show: bool = False
) -> tuple[dict[Place, Page], dict[Place, str], dict[Place, Image.Image]]:
    """Read picture files, many of them on all cores.

    Args:
        names: Paths; `-` for standard input.
        network: Pixels `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.
        show: Whether to make thumbnails, for which pictures are decoded again.

    Returns:
        By place: what is read; for what can't be read a line that says why; and if asked for the
        first `MOST_SHOWN` of those that were read in RGB, at most two tiles of the contact sheet
        wide and one high, with a box around each of several digits.
    """
    pages: dict[Place, Page] = {}
    errors: dict[Place, str] = {}
    thumbnails: dict[Place, Image.Image] = {}
    sources: dict[str, str | bytes] = {}
    for name in names:
        try:
            sources[name] = _standard_input() if name == "-" else name
        except (UserError, OSError, MemoryError) as error:
            errors[Place(name, 0)] = _reason(error)
    every = read_each(list(sources.values()), network, all_pages=True)
    # On a terminal, after 2 seconds
    bar = tqdm(every, "read", len(sources), delay=2, leave=False, disable=None, unit="file")
    for (name, source), found in zip(sources.items(), bar, strict=True):
        for number, page in found.items():
            if isinstance(page, Exception):
                errors[Place(name, number)] = _reason(page)
            else:
                pages[Place(name, number)] = page
        if show and len(thumbnails) < MOST_SHOWN:
            place = Place(name, 0)
            try:
                for number, picture in enumerate(open_pages(source), start=1):
                    place = Place(name, number)
                    if place in pages and len(thumbnails) < MOST_SHOWN:
                        thumbnails[place] = _thumbnail(decode(picture), pages[place])
            except (UserError, OSError, MemoryError) as error:
                errors.setdefault(place, _reason(error))
    return pages, errors, thumbnails


def _reason(error: Exception) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory for the picture"
    return getattr(error, "strerror", None) or str(error)


def labels(places: Collection[Place]) -> dict[Place, str]:
    """Return a name for each picture: the file's, and its page if others of the file are there."""
    number = Counter(file for file, _ in places)
    several = {place: f"{place.file}, page {place.page}" for place in places}
    return {p: printable(several[p] if number[p.file] > 1 else p.file) for p in places}


def expand(names: list[str]) -> tuple[list[str], list[str]]:
    """Put in place of each folder the pictures in it, sorted, and leave out what comes twice.

    The pictures that this package drew, as contact sheets, are no pictures of digits.

    Returns:
        The files, and for each folder that holds anything else a line that says what is left out.

    Raises:
        UserError: If a folder holds no picture.
        OSError: If it can't be listed.
    """
    files, notes = [], []
    for name in names:
        if not Path(name).is_dir():
            files.append(name)
            continue
        found, others = [], []
        for path in sorted(Path(name).iterdir(), key=str):
            if path.name.startswith("."):  # as macOS's ._IMG.jpg, which is no picture
                continue
            if path.suffix.lower() in SUFFIXES and not _is_drawn(path):
                found.append(str(path))
            else:
                others.append(f"{path.name}{'/' * path.is_dir()}")
        if not found:
            raise UserError(f"{name}: no picture in this folder ends in {', '.join(SUFFIXES)}")
        files += found
        if others:
            rest = ", ..." if len(others) > 3 else ""
            notes.append(f"{name}: {len(others)} left out: {', '.join(others[:3])}{rest}")
    return list(dict.fromkeys(files)), notes


def table(pages: dict[Place, Page], names: dict[Place, str]) -> str:
    """Lay out what is read as lines of text, one for each line of writing, under a heading."""
    rows = [("file", "digits", "probability", "second guess")]
    for place, page in pages.items():
        first, *others = page.text.split("\n")
        second = ""
        if len(page.digits) == 1:
            reading = page.digits[0]
            second = f"{reading.second} ({percent(reading.second_probability)})"
        rows.append((names[place], first, percent(page.probability), second))
        rows += [("", other, "", "") for other in others]
    files, texts = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = (f"{f:{files}}  {t:>{texts}}  {p:>11}  {s}" for f, t, p, s in rows)
    return "\n".join(line.rstrip() for line in lines)


def to_json(pages: dict[Place, Page], errors: dict[Place, str]) -> bytes:
    """Return readings and errors as a JSON file's contents: a list with one object a picture."""
    answers = [(place, page.as_dict()) for place, page in pages.items()]
    answers += [(place, {"error": printable(error)}) for place, error in errors.items()]
    rows = [
        {"file": printable(file), **({"page": page} if page else {}), **answer}
        for (file, page), answer in answers
    ]
    return (json.dumps(rows, indent=2, allow_nan=False) + "\n").encode()


def to_csv(pages: dict[Place, Page], errors: dict[Place, str]) -> bytes:
    """Return readings and errors as the contents of a CSV file, a row for each digit."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [*COLUMNS, *PLACE, "error"], lineterminator="\n")
    writer.writeheader()
    for (file, number), page in pages.items():
        lines = page.text.split("\n")
        places = [i for i, line in enumerate(lines, start=1) for _ in line.replace(" ", "")]
        for line, reading in zip(places, page.digits, strict=True):
            row = {"file": _cell(file), "page": number, "line": line, **reading.as_dict()}
            row.update((f"p{digit}", p) for digit, p in enumerate(row.pop("probabilities")))
            row.update(zip(BOX, row.pop("box"), strict=True))
            writer.writerow(row)
    for (file, number), error in errors.items():
        writer.writerow({"file": _cell(file), "page": number or "", "error": _cell(error)})
    return text.getvalue().encode()


def contact_sheet(
    pages: dict[Place, Page], thumbnails: dict[Place, Image.Image], names: dict[Place, str]
) -> Image.Image:
    """Draw each picture, beside a single digit what the network saw, and below what it read.

    Args:
        pages: By place.
        thumbnails: Of these places, one or more, see `read_files`.
        names: Of these places, see `labels`.

    Returns:
        An RGB picture.
    """
    columns = min(PICTURES_A_ROW, len(thumbnails))
    width, height = 2 * TILE + 3 * GAP, TILE + TEXT + 2 * GAP
    rows = -(-len(thumbnails) // columns)
    sheet = Image.new("RGB", (columns * width + 2 * GAP, rows * height + 2 * GAP), "white")
    draw = ImageDraw.Draw(sheet)
    large, small = ImageFont.load_default(44), ImageFont.load_default(15)
    for i, (place, thumbnail) in enumerate(thumbnails.items()):
        page = pages[place]
        left, top = 2 * GAP + i % columns * width, 2 * GAP + i // columns * height
        is_single = len(page.digits) == 1
        wide = TILE if is_single else 2 * TILE + GAP
        draw.rectangle((left - 1, top - 1, left + wide, top + TILE), AROUND, "#d0d0d0")
        sheet.paste(ImageOps.pad(thumbnail, (wide, TILE), color=AROUND), (left, top))
        text = page.text.replace("\n", " / ")
        line = f"{percent(page.probability)} at least"
        if is_single:
            (reading,) = page.digits
            seen = Image.fromarray(reading.image.numpy())
            seen = seen.resize((TILE, TILE), Image.Resampling.NEAREST)
            sheet.paste(seen, (left + TILE + GAP, top))
            second = f"{reading.second}, {percent(reading.second_probability)}"
            line = f"{percent(reading.probability)}    then {second}"
        text = _shorten(text, width - 200, large)
        middle, aside = top + TILE + TEXT // 2, left + 14 + round(large.getlength(text))
        draw.text((left, middle), text, "black", large, anchor="lm")
        draw.text((aside, middle - 2), line, "black", small, anchor="ld")
        file = _shorten(Path(names[place]).name, left + width - 2 * GAP - aside, small)
        draw.text((aside, middle + 2), file, "#6b6b6b", small, anchor="la")
    return sheet


def _thumbnail(picture: Image.Image, page: Page) -> Image.Image:
    flat = picture.convert("RGB")
    if len(page.digits) == 1:
        return fit(flat, TILE, to_show=True)
    scale = min((2 * TILE + GAP) / flat.width, (TILE - ANSWER) / flat.height)
    small = fit(flat, max(1, int(scale * max(flat.size))), to_show=True)
    small = ImageOps.expand(small, (0, ANSWER, 0, 0), AROUND)  # a digit may be at the very top
    draw, font = ImageDraw.Draw(small), ImageFont.load_default(15)
    for reading in page.digits:
        left, top, right, bottom = (round(scale * side) for side in reading.box)
        top, bottom = top + ANSWER, bottom + ANSWER
        draw.rectangle((left - 2, top - 2, right + 1, bottom + 1), None, ACCENT)
        draw.text((left - 1, top - 3), str(reading), ACCENT, font, anchor="ld")
    return small


def _shorten(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    for end in range(len(text), 0, -1):
        shortened = text if end == len(text) else f"{text[:end]}…"
        if font.getlength(shortened) <= width:
            return shortened
    return ""


def _standard_input() -> bytes:
    if sys.stdin is None:
        raise OSError("there is no standard input")
    contents = sys.stdin.buffer.read(MAX_BYTES + 1)  # it may have no end
    if len(contents) > MAX_BYTES:
        raise UserError(f"standard input has more than {MAX_BYTES:,} bytes")
    return contents


def _is_drawn(path: Path) -> bool:
    try:
        return path.is_file() and is_ours(path, PNG)
    except OSError:  # it is said once the picture is read
        return False


def _cell(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula; `-` alone, standard input, stays."""
    text = printable(text)
    return f"'{text}" if re.match("[=+@]|-.", text) else text


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("read", __doc__, writes=True)
    parser.add_argument("--output", type=Path, help="a .csv or .json file to write readings to")
    parser.add_argument("--show", type=Path, help="a .png file to draw what the network saw in")
    parser.add_argument(
        "pictures", nargs="+", help="picture files, folders of them, or - for standard input"
    )
    options = parser.parse_args(arguments)
    marks = {".csv": CSV, ".json": JSON}
    if options.output and options.output.suffix not in marks:
        raise UserError(f"{options.output} must end in {' or '.join(marks)}")
    if options.show and options.show.suffix != ".png":
        raise UserError(f"{options.show} must end in .png")
    files, notes = expand(options.pictures)
    inputs = [*files, *options.ckpt_path]
    if options.output:
        check_output(options.output, marks[options.output.suffix], inputs, options.overwrite)
    if options.show:
        check_output(options.show, PNG, inputs, options.overwrite)
    network = load(*options.ckpt_path)
    pages, errors, thumbnails = read_files(files, network, show=options.show is not None)
    names = labels([*pages, *errors])

    if options.show and len(pages) > MOST_SHOWN:
        notes.append(f"{options.show} shows the first {MOST_SHOWN} of {len(pages):,} pictures")

    code: int | str = 1 if errors else 0
    try:
        if options.output:
            write = to_csv if options.output.suffix == ".csv" else to_json
            replace_file(options.output, write(pages, errors))
        if thumbnails:
            png, mark = io.BytesIO(), PngInfo()
            for key, value in PNG_METADATA.items():
                mark.add_text(key, value)
            contact_sheet(pages, thumbnails, names).save(png, "PNG", pnginfo=mark)
            replace_file(options.show, png.getvalue())
    except OSError as error:
        code = f"error: {error}"
    for stream in filter(None, (sys.stdout, sys.stderr)):  # either may be closed
        stream.reconfigure(errors="replace")  # names in any script
    try:
        if pages:
            print(table(pages, names), flush=True)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for Python's last flush
        if not isinstance(error, BrokenPipeError):  # `| head` has seen enough
            code = f"error: standard output: {error.strerror}"
    for note in notes:
        print(f"note: {printable(note)}", file=sys.stderr)
    for place, reason in errors.items():
        print(f"error: {names[place]}: {printable(reason)}", file=sys.stderr)
    sys.exit(code)
