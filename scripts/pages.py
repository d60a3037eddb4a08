"""Make pictures of numbers, forms and sheets from MNIST's digits, and count those read right.

    python scripts/pages.py
    python scripts/pages.py --set train --ckpt_path CHECKPOINT

It prints a table in Markdown. The tables of docs/photos.md are of test digits. The reader's
constants were chosen on training digits, since 2026-11-28 on those of the writers that `fit
--data.split writers --data.val_size 15000` holds out, which `--set train` takes, and by a network
of `wild.yaml`'s trained so.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import writers
from PIL import Image, ImageDraw, ImageFilter

from mnist_lightning.checkpoint import load
from mnist_lightning.data import datasets
from mnist_lightning.errors import UserError
from mnist_lightning.reading.reader import read, read_images

ZOOM = 5  # pixels of a picture for one of MNIST's
Digits = list[np.ndarray]
Make = Callable[[Digits, np.random.Generator], Image.Image]


def ink_of(digit: np.ndarray, height: float = 1.0) -> np.ndarray:
    """Return a digit's ink, 0 to 1, cut to its bounding box, `ZOOM * height` times as large."""
    rows, columns = np.nonzero(digit > 50)
    ink = digit[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    size = [max(1, round(side * ZOOM * height)) for side in ink.shape[::-1]]
    return np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC), np.float32) / 255


def join(inks: Digits, gaps: list[int], drops: list[int]) -> np.ndarray:
    """Lay inks side by side: `gaps` before each but the first, below the top by `drops`, in pixels.

    A gap below 0 overlaps the boxes.
    """
    lefts = [0]
    for ink, gap in zip(inks, gaps, strict=False):
        lefts.append(lefts[-1] + ink.shape[1] + gap)
    lefts = [left - min(lefts) for left in lefts]  # a narrow digit may lie within the next
    height = max(len(ink) + drop for ink, drop in zip(inks, drops, strict=True))
    width = max(left + ink.shape[1] for left, ink in zip(lefts, inks, strict=False))
    line = np.zeros((height, width), np.float32)
    for ink, left, drop in zip(inks, lefts, drops, strict=False):
        place = line[drop : drop + len(ink), left : left + ink.shape[1]]
        np.maximum(place, ink, out=place)
    return line


def number(digits: Digits, rng: np.random.Generator) -> np.ndarray:
    """Write digits in a row, of uneven heights, one to eight of MNIST's pixels apart."""
    inks = [ink_of(digit, rng.uniform(0.8, 1.2)) for digit in digits]
    gaps = (ZOOM * rng.uniform(1, 8, len(inks))).astype(int).tolist()
    tallest = max(len(ink) for ink in inks)
    drops = [int((tallest - len(ink)) * rng.random()) + int(rng.integers(12)) for ink in inks]
    return join(inks, gaps, drops)


def touching(digits: Digits, rng: np.random.Generator) -> np.ndarray:
    """Write two digits so near that their ink joins and their boxes overlap."""
    left, right = (ink_of(digit, rng.uniform(0.9, 1.1)) for digit in digits)
    drops = [int(max(0, len(right) - len(left)) / 2), int(max(0, len(left) - len(right)) / 2)]
    drops[1] += int(rng.integers(8))
    # The gap at which they touch: the least distance of a row, less up to two of MNIST's pixels.
    rows = range(max(drops), min(len(left) + drops[0], len(right) + drops[1]))
    distances = []
    for row in rows:
        ends = np.flatnonzero(left[row - drops[0]] > 0.4)
        starts = np.flatnonzero(right[row - drops[1]] > 0.4)
        if len(ends) and len(starts):
            distances.append(left.shape[1] - 1 - ends[-1] + starts[0])
    gap = -min(distances, default=0) - int(rng.integers(1, 2 * ZOOM))
    return join([left, right], [min(gap, -1)], drops)


def on_paper(ink: np.ndarray, rng: np.random.Generator, margin: int = 40) -> np.ndarray:
    """Return a sheet, 0 to 1, with ink at a random place of it."""
    sides = rng.integers(margin // 2, 2 * margin, 4)
    sheet = np.pad(ink, (tuple(sides[:2]), tuple(sides[2:])))
    return 0.9 - 0.7 * sheet


def picture(values: np.ndarray) -> Image.Image:
    """Return values in 0 to 1 as a gray picture."""
    return Image.fromarray((values.clip(0, 1) * 255).round().astype(np.uint8))


def boxed(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write a digit into a box anywhere on a form, on its frame at times."""
    ink = ink_of(digits[0])
    side = int(max(ink.shape) * rng.uniform(1.1, 1.8))
    width, height = int(side * rng.uniform(0.8, 1.3)), side
    width = max(width, ink.shape[1] + 4)
    sheet = np.zeros((rng.integers(height + 20, 420), rng.integers(width + 20, 560)), np.float32)
    top, left = (
        int(rng.integers(5, all_ - own - 5))
        for all_, own in zip(sheet.shape, (height, width), strict=True)
    )
    y = top + int(rng.integers(-6, height - len(ink) + 7))
    x = left + int(rng.integers(-6, width - ink.shape[1] + 7))
    y, x = max(y, 0), max(x, 0)
    place = sheet[y : y + len(ink), x : x + ink.shape[1]]
    np.maximum(place, ink[: place.shape[0], : place.shape[1]], out=place)
    made = picture(0.9 - 0.7 * sheet)
    draw = ImageDraw.Draw(made)
    draw.rectangle(
        (left, top, left + width, top + height),
        None,
        int(rng.integers(30, 120)),
        int(rng.integers(1, 6)),
    )
    return made.rotate(rng.uniform(-2, 2), Image.Resampling.BILINEAR, fillcolor=230)


def comb(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write a number into a row of boxes, a digit in each."""
    width, height = int(rng.integers(110, 150)), int(rng.integers(125, 150))
    sheet = np.zeros((height + 80, len(digits) * width + 80), np.float32)
    for i, digit in enumerate(digits):
        ink = ink_of(digit, rng.uniform(0.8, 1.0))
        y = 40 + int(rng.integers(5, height - len(ink) - 5))
        x = 40 + i * width + int(rng.integers(-3, width - ink.shape[1] + 3))
        place = sheet[y : y + len(ink), x : x + ink.shape[1]]
        np.maximum(place, ink, out=place)
    made = picture(0.9 - 0.7 * sheet)
    draw = ImageDraw.Draw(made)
    gray, thick = int(rng.integers(30, 120)), int(rng.integers(1, 5))
    for i in range(len(digits)):
        draw.rectangle((40 + i * width, 40, 40 + (i + 1) * width, 40 + height), None, gray, thick)
    return made


def lined(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write a digit on ruled or squared paper, with lines as dark as the pen through it."""
    made = picture(on_paper(ink_of(digits[0]), rng, 80))
    draw = ImageDraw.Draw(made)
    step, thick, gray = (
        int(rng.integers(30, 70)),
        int(rng.integers(1, 5)),
        int(rng.integers(50, 110)),
    )
    for y in range(int(rng.integers(step)), made.height, step):
        draw.line((0, y, made.width, y), gray, thick)
    if rng.random() < 0.5:
        for x in range(int(rng.integers(step)), made.width, step):
            draw.line((x, 0, x, made.height), gray, thick)
    return made


def underlined(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write a number and a line under it, which it may touch."""
    ink = number(digits, rng)
    sheet = np.pad(ink, ((0, 40), (20, 20)))
    y = len(ink) + int(rng.integers(-4, 20))
    sheet[y : y + int(rng.integers(2, 7)), 5:-5] = 1
    return picture(on_paper(sheet, rng))


def on_desk(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Photograph a sheet with a number, its corners in view, on a darker desk."""
    sheet = picture(on_paper(number(digits, rng), rng, 120))
    sheet = sheet.convert("RGBA").rotate(
        rng.uniform(-15, 15), Image.Resampling.BILINEAR, expand=True
    )
    width, height = (int(side * rng.uniform(1.1, 1.4)) for side in sheet.size)
    noise = rng.normal(0, 6, (height, width))
    desk = Image.fromarray((rng.integers(20, 110) + noise).clip(0, 255).astype(np.uint8)).convert(
        "RGBA"
    )
    place = tuple(
        int(rng.integers(0, a - b + 1)) for a, b in zip(desk.size, sheet.size, strict=True)
    )
    desk.alpha_composite(sheet, place)
    return desk.convert("RGB")


def lines(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write two lines of two numbers each."""
    rows = []
    for pair in (digits[:4], digits[4:]):
        words = [number(pair[:2], rng), number(pair[2:], rng)]
        rows.append(join(words, [int(rng.integers(110, 160))], [0, int(rng.integers(8))]))
    width = max(row.shape[1] for row in rows)
    gap = np.zeros((int(rng.integers(30, 80)), width), np.float32)
    padded = [np.pad(row, ((0, 0), (0, width - row.shape[1]))) for row in rows]
    return picture(on_paper(np.concatenate([padded[0], gap, padded[1]]), rng))


# Lines of a sign, in a square as wide as the sign
SIGNS: dict[str, list[list[tuple[float, float]]]] = {
    "plus": [[(0, 0.5), (1, 0.5)], [(0.5, 0), (0.5, 1)]],
    "times": [[(0.1, 0), (0.9, 1)], [(0.9, 0), (0.1, 1)]],
    "minus": [[(0, 0.5), (1, 0.5)]],
    "equals": [[(0, 0.3), (1, 0.3)], [(0, 0.7), (1, 0.7)]],
}


def sign(strokes: list[list[tuple[float, float]]], rng: np.random.Generator) -> np.ndarray:
    """Draw a sign with a round pen, half to four fifths of a digit wide."""
    side, pen = 20 * ZOOM * rng.uniform(0.35, 0.5), ZOOM * rng.uniform(2, 3.5)
    drawn = Image.new("L", (int(side + 2 * pen),) * 2)
    draw = ImageDraw.Draw(drawn)
    for line in strokes:
        ends = [tuple(pen + side * (np.array(end) + rng.normal(0, 0.05, 2))) for end in line]
        draw.line(ends, 255, round(pen))
        for x, y in ends:
            draw.ellipse((x - pen / 2, y - pen / 2, x + pen / 2, y + pen / 2), 255)
    soft = drawn.filter(ImageFilter.GaussianBlur(2))
    return np.asarray(soft.crop(soft.getbbox()), np.float32) / 255


def calculation(digits: Digits, rng: np.random.Generator) -> Image.Image:
    """Write two numbers and a sign between them, which touches neither."""
    half = len(digits) // 2
    inks = [number(digits[:half], rng), number(digits[half:], rng)]
    inks.insert(1, sign(list(SIGNS.values())[rng.integers(len(SIGNS))], rng))
    middles = [len(inks[0]) / 2, rng.uniform(0.4, 0.6) * len(inks[0]), len(inks[0]) / 2]
    tops = [middle - len(ink) / 2 for middle, ink in zip(middles, inks, strict=True)]
    drops = [int(top - min(tops)) for top in tops]
    return picture(
        on_paper(join(inks, (ZOOM * rng.uniform(3, 9, 2)).astype(int).tolist(), drops), rng)
    )


def _plain(make: Callable[[Digits, np.random.Generator], np.ndarray]) -> Make:
    return lambda digits, rng: picture(on_paper(make(digits, rng), rng))


# Of each kind the least and the most digits, and what draws it.
KINDS: dict[str, tuple[int, int, Make]] = {
    "one digit": (1, 1, _plain(number)),
    "numbers of 2 to 6 digits": (2, 6, _plain(number)),
    "pairs that touch": (2, 2, _plain(touching)),
    "a digit in a box": (1, 1, boxed),
    "a comb of boxes": (3, 8, comb),
    "dark lines through the digit": (1, 1, lined),
    "an underlined number": (2, 6, underlined),
    "a sheet on a desk": (2, 6, on_desk),
    "two lines of two numbers": (8, 8, lines),
    "a sign between two numbers": (2, 6, calculation),
}


def samples(
    kind: str, images: np.ndarray, labels: np.ndarray, num: int, seed: int = 0
) -> list[tuple[Image.Image, str]]:
    """Return pictures of a kind and the text on each, the same ones for a seed.

    Args:
        kind: A name in `KINDS`.
        images: uint8 `(N, 28, 28)`.
        labels: int64 `(N,)`.
        num: Number of pictures.
        seed: Of the choice of digits and of all that is random.
    """
    least, most, make = KINDS[kind]
    rng = np.random.default_rng((seed, list(KINDS).index(kind)))
    made = []
    for _ in range(num):
        chosen = rng.integers(len(images), size=rng.integers(least, most + 1))
        text = "".join(str(label) for label in labels[chosen])
        if kind == "two lines of two numbers":
            text = f"{text[:2]} {text[2:4]}\n{text[4:6]} {text[6:]}"
        if kind == "a sign between two numbers":
            text = f"{text[: len(text) // 2]}?{text[len(text) // 2 :]}"
        made.append((make(list(images[chosen]), rng), text))
    return made


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=("test", "train"), default="test", help="whose digits")
    parser.add_argument("--num", type=int, default=1000, help="pictures of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of all that is random")
    parser.add_argument("--ckpt_path", action="append", default=[], help="as `read` takes it")
    parser.add_argument("--save", help="a folder for the pictures that are misread")
    parser.add_argument("kinds", nargs="*", default=list(KINDS), help="which kinds")
    options = parser.parse_args()
    for kind in set(options.kinds) - set(KINDS):
        parser.error(f"no kind is {kind!r}: choose of {', '.join(KINDS)}")
    network = load(*options.ckpt_path)
    if options.set == "train":
        datasets.prepare(Path("data"), "MNIST")
        images, labels = datasets.read(Path("data"), "MNIST", train=True)
        held_out = writers.held_out(labels)
        images, labels = images[held_out], labels[held_out]
    else:
        images, labels = datasets.read_test_set()
    read_images(images[:1], network)  # refuses a network whose answers are no numbers
    print("| pictures | right | of the wrong ones, all digits over 90% sure |\n|---|---|---|")
    for kind in options.kinds:
        right, sure = 0, 0
        made = samples(kind, images.numpy(), labels.numpy(), options.num, options.seed)
        for i, (image, text) in enumerate(made):
            try:
                page = read(image, network)
            except UserError:  # no ink is found
                continue
            right += page.text == text
            if page.text != text:
                sure += all(r.is_digit and r.probability > 0.9 for r in page.digits)
                if options.save:
                    name = re.sub(r"\W", "_", f"{kind}_{i}_{text}_{page.text}")
                    image.save(f"{options.save}/{name}.png")
        wrong = options.num - right
        print(
            f"| {kind} | {right / options.num:.1%} | {f'{sure / wrong:.0%}' if wrong else ''} |",
            flush=True,
        )


if __name__ == "__main__":
    try:
        main()
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
