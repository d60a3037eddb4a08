"""Numbers, lines of numbers, forms: which digits are read, and in which order."""

from itertools import pairwise

import numpy as np
import pages
import pytest
from photos import first
from PIL import Image, ImageDraw

from mnist_lightning.checkpoint import load
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.errors import UserError
from mnist_lightning.reading.cuts import CUT, find_cuts
from mnist_lightning.reading.lines import Part, box_of
from mnist_lightning.reading.reader import read, read_images
from mnist_lightning.reading.segments import (
    MARK,
    SURE,
    Border,
    Segment,
    _cost,
    _is_one_line,
    _pairs,
    _propose,
)

# Of each kind how many of ten pictures are read right at least
LEAST = {
    "numbers of 2 to 6 digits": 9,
    "pairs that touch": 8,
    "a digit in a box": 9,
    "a comb of boxes": 8,
    "dark lines through the digit": 8,
    "an underlined number": 9,
    "a sheet on a desk": 9,
    "two lines of two numbers": 8,
    "a sign between two numbers": 8,
}


@pytest.mark.parametrize("kind", LEAST)
def test_pages_are_read(kind: str) -> None:
    network = load()
    images, labels = (tensor[:300] for tensor in read_test_set())
    sure = [reading.probability > 0.98 for reading in read_images(images, network)]
    right = [
        read(picture, network).text == text
        for picture, text in pages.samples(kind, images[sure].numpy(), labels[sure].numpy(), 10)
    ]
    assert sum(right) >= LEAST[kind]


def test_each_digit_keeps_its_place_in_the_picture() -> None:
    images, labels = read_test_set()
    sheet = np.zeros((300, 700), np.float32)
    places = [(40, 60), (260, 90), (480, 40)]
    for (left, top), image in zip(places, images, strict=False):
        ink = pages.ink_of(image.numpy())
        sheet[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    page = read(pages.picture(0.9 - 0.7 * sheet), load())
    assert page.text.replace(" ", "") == "".join(str(int(label)) for label in labels[:3])
    for reading, (left, top), image in zip(page.digits, places, images, strict=False):
        height, width = pages.ink_of(image.numpy()).shape
        expected = left, top, left + width, top + height
        assert np.abs(np.subtract(reading.box, expected)).max() <= 4


def test_a_wide_gap_is_a_space_and_a_forms_post_is_none() -> None:
    network = load()
    digits = [pages.ink_of(image.numpy()) for image in read_test_set()[0][:3]]
    paper = np.random.default_rng(0)
    apart = pages.join(digits, [20, 160], [0, 0, 0])
    assert read(pages.picture(pages.on_paper(apart, paper)), network).text == "72 1"


def test_a_blob_is_cut_where_it_is_thin() -> None:
    ink = np.zeros((100, 160), np.float32)
    ink[:, 10:70] = ink[:, 90:150] = 1
    ink[48:54, 70:90] = 1  # a bridge
    cuts = find_cuts(ink, 100)
    cheapest = min(cuts, key=lambda cut: cut[1])
    assert (cheapest[0] >= 68).all() and (cheapest[0] <= 92).all()


def test_a_low_or_flat_piece_costs_more_than_a_digit_of_the_lines_height() -> None:
    def cost(width: int, height: int) -> float:
        sure = np.eye(10, dtype=np.float32)[3]
        return _cost(Segment((0, 0, width, height), np.zeros((28, 28), np.uint8), sure), 100)

    assert cost(70, 100) == cost(70, 80) == 0
    assert cost(40, 50) > CUT and cost(120, 100) > CUT  # so another cut may be worth it


def test_a_mark_costs_the_same_whatever_its_shape() -> None:
    def cost(probability: float, least: float, empty: int = 0) -> float:
        rest = (1 - probability) / 9
        probabilities = np.array([probability, *[rest] * 9], np.float32)
        image = np.zeros((28, 28), np.uint8)
        return _cost(Segment((0, 0, 150, 100), image, probabilities, False, empty, least), 100)

    mark = cost(0.1, np.inf)
    assert cost(0.2, MARK) == cost(0.45, MARK) == mark < cost(0.49, MARK)
    assert mark < cost(0.45, 0) < cost(0.2, 0)  # what is no mark must be a digit
    assert mark < cost(0.1, np.inf, empty=20)  # two marks beside each other are two


def test_what_is_low_solid_or_of_one_part_may_be_a_mark() -> None:
    def drawn(height: int, width: int) -> Part:
        ink = np.ones((height, width), np.float32)
        ink[6:-6, 6:-6] = 0
        return Part(ink, 0, 0)

    def least(*line: Part, cut: int | None = None) -> float | None:
        end = Border(len(line)) if cut is None else Border(0, np.full(len(line[0].ink), cut))
        segment = _propose(list(line), 100, (Border(0), end))
        return segment and segment.least

    assert least(drawn(39, 60)) == SURE and least(drawn(41, 60)) == MARK
    assert least(drawn(100, 90)) == MARK and least(drawn(100, 91)) == 0  # it may be two digits
    assert least(drawn(100, 30), drawn(100, 60)) == least(drawn(100, 60), cut=40) == 0
    assert least(drawn(39, 30), drawn(39, 60)) == SURE  # an equals sign
    assert least(drawn(39, 60), cut=30) == 0
    dot_and_line = np.zeros((100, 80), np.float32)
    down, right = np.mgrid[-20:20, -20:20]
    dot_and_line[30:70, :40], dot_and_line[:, 70:76] = down**2 + right**2 < 400, 1
    assert least(Part(dot_and_line[30:70, :40], 0, 0)) == np.inf
    assert least(Part(dot_and_line, 0, 0), cut=60) is None


def test_a_part_of_the_lines_height_is_a_digit_to_a_network_that_knows_no_other() -> None:
    seven = Image.fromarray(255 - first(7)).resize((200, 200))
    (unsure,) = read(seven, lambda pixels: load()(pixels) / 20).digits
    assert unsure.probability < MARK and unsure.is_digit


def test_a_dot_is_no_digit_to_any_network() -> None:
    shipped = load()
    paper = Image.new("L", (300, 200), 255)
    seven = Image.fromarray(255 - first(7)).resize((200, 200))
    for left in (60, 180):
        ImageDraw.Draw(paper).ellipse((left, 80, left + 40, 120), 0)
        pages_ = read([paper, seven], lambda pixels: shipped(pixels))
        assert [page.text for page in pages_] == ["?" if left == 60 else "??", "7"]
        assert pages_[0].probability == pytest.approx(0.1)


def test_three_digits_that_touch_are_no_mark() -> None:
    rng = np.random.default_rng(0)
    inks = [pages.ink_of(first(label)) for label in (2, 5, 3)]
    line = pages.join(inks, [-6, -4], [0, 0, 0])
    assert read(pages.picture(pages.on_paper(line, rng)), load()).text == "253"


@pytest.mark.parametrize("name", ["minus", "equals"])
def test_a_low_sign_is_no_digit_to_any_network(name: str) -> None:
    shipped = load()
    rng = np.random.default_rng(1)
    inks = [pages.ink_of(first(4)), pages.sign(pages.SIGNS[name], rng), pages.ink_of(first(2))]
    page = pages.picture(pages.on_paper(pages.join(inks, [30, 30], [0, 40, 0]), rng))
    found = read(page, lambda pixels: shipped(pixels))  # which knows no least probability
    assert found.text == "4?2"
    assert found.digits[1].probabilities == pytest.approx([0.1] * 10)
    assert found.probability > 0.5  # of the digits


def test_a_part_on_the_other_side_of_a_gap_costs() -> None:
    sure = np.eye(10, dtype=np.float32)[3]
    image = np.zeros((28, 28), np.uint8)
    costs = [_cost(Segment((0, 0, 70, 100), image, sure, empty=empty), 100) for empty in (0, 5, 20)]
    assert costs[0] == 0 < costs[1] < CUT < costs[2]  # a narrow gap may be a broken stroke


def test_a_digit_of_several_parts_is_proposed_however_many_cuts_there_are() -> None:
    parts = [Part(np.ones((100, 60), np.float32), left, 0) for left in (0, 60)]
    cuts = [Border(part, np.full(100, 2 * i), 0.5) for part in (0, 1) for i in range(1, 29)]
    borders = [Border(0), *cuts[:28], Border(1), *cuts[28:], Border(2)]
    found = set(_pairs(parts, 100, borders, 2))
    assert (borders[0], borders[-1]) in found
    assert (cuts[0], cuts[-1]) not in found  # too many lie between them


@pytest.mark.parametrize(("right", "rise"), [(240, 40), (260, 25), (280, 10)])
def test_a_fives_bar_belongs_to_it(right: int, rise: int) -> None:
    five = Image.new("L", (340, 300), 255)
    draw = ImageDraw.Draw(five)
    draw.line([(80, 120), (75, 160)], 0, 12)
    draw.arc((50, 150, 160, 240), 215, 140, 0, 12)
    draw.line([(105, 95), (right, 95 - rise)], 0, 12)
    assert read(five, load()).text == "5"


def test_halves_one_above_the_other_are_one_digit() -> None:
    zero = Image.new("L", (200, 200), 255)
    draw = ImageDraw.Draw(zero)
    draw.ellipse((60, 40, 140, 160), None, 0, 12)
    draw.rectangle((0, 92, 200, 108), 255)
    assert read(zero, load()).text == "0"


def test_broken_digits_one_above_the_other_are_put_together_one_by_one() -> None:
    zeros = Image.new("L", (200, 340), 255)
    draw = ImageDraw.Draw(zeros)
    for top in (40, 166):
        draw.ellipse((60, top, 140, top + 120), None, 0, 12)
        draw.rectangle((0, top + 54, 200, top + 66), 255)
    assert read(zeros, load()).text == "0\n0"


def test_two_lines_are_one_if_a_digit_has_parts_of_both_and_none_is_above_another() -> None:
    upper, lower, beside = (
        Part(np.ones((40, 40), np.float32), left, top) for left, top in ((0, 0), (0, 50), (60, 45))
    )
    both = [upper, lower, beside]
    sure, image = np.eye(10, dtype=np.float32)[3], np.zeros((28, 28), np.uint8)

    def way(*ends: int) -> list[tuple[Border, Border, Segment]]:
        pairs = [(both[start:end], start, end) for start, end in pairwise((0, *ends))]
        return [
            (Border(start), Border(end), Segment(box_of(parts), image, sure))
            for parts, start, end in pairs
        ]

    assert _is_one_line(way(2, 3), both, [upper])
    assert not _is_one_line(way(1, 2, 3), both, [upper])  # one is above another
    assert not _is_one_line(way(2, 3), both, [upper, lower])  # none has parts of both


def test_a_one_with_a_slit_is_one() -> None:
    one = Image.new("L", (200, 200), 255)
    ImageDraw.Draw(one).line([(110, 40), (90, 160)], 0, 12)
    ImageDraw.Draw(one).rectangle((0, 98, 200, 101), 255)
    assert read(one, load()).text == "1"


@pytest.mark.parametrize("labels", [(1, 1), (7, 0), (4, 9)])
def test_digits_one_above_the_other_are_two(labels: tuple[int, int]) -> None:
    upper, lower = (pages.ink_of(first(label)) for label in labels)
    width = max(upper.shape[1], lower.shape[1])
    rows = [np.pad(ink, ((0, 20), (0, width - ink.shape[1]))) for ink in (upper, lower)]
    picture = pages.picture(pages.on_paper(np.concatenate(rows), np.random.default_rng(0)))
    assert read(picture, load()).text == f"{labels[0]}\n{labels[1]}"


def test_gaps_are_columns_between_parts() -> None:
    ink = np.zeros((10, 30), np.float32)
    ink[:, 3:8] = ink[:, 15:25] = 1
    assert Part(ink, 0, 0).empty == 7


@pytest.mark.parametrize(("above", "below"), [(0, 10), (100, 110)])
def test_lines_that_nearly_touch_are_two(above: int, below: int) -> None:
    (images, labels), rng = read_test_set(), np.random.default_rng(0)
    four = [slice(above, above + 4), slice(below, below + 4)]
    upper, lower = (pages.number(list(images[each].numpy()), rng) for each in four)
    width = max(upper.shape[1], lower.shape[1])
    rows = [np.pad(row, ((0, 2), (0, width - row.shape[1]))) for row in (upper, lower)]
    picture = pages.picture(pages.on_paper(np.concatenate(rows), rng))
    expected = ("".join(map(str, labels[each].tolist())) for each in four)
    assert read(picture, load()).text == "\n".join(expected)


def test_a_picture_of_dots_is_no_writing() -> None:
    dots = np.full((1200, 1200), 255, np.uint8)
    for offset in range(10):
        dots[10 + offset :: 30, 10::30] = dots[10 + offset :: 30, 11::30] = 0
    errors = []
    for _ in range(2):
        with pytest.raises(UserError, match="over 500 marks on the picture: crop to") as raised:
            read(Image.fromarray(dots), load())
        errors.append(raised.value)
    assert errors[0] is not errors[1]  # whose traceback would keep both pictures


def test_a_part_may_stay_whole_however_many_cuts_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_cuts(ink: np.ndarray, height: float) -> list[tuple[np.ndarray, float]]:
        cut = np.full(len(ink), ink.shape[1] // 2)
        return [(cut, 0.1)] * 30  # between them is nothing

    monkeypatch.setattr("mnist_lightning.reading.segments.find_cuts", find_cuts)
    blot = Image.new("L", (300, 160), 255)
    ImageDraw.Draw(blot).rectangle((60, 60, 240, 100), 0)
    assert len(read(blot, load()).digits) == 1


def test_a_broken_digit_stays_together_however_many_cuts_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def find_cuts(ink: np.ndarray, height: float) -> list[tuple[np.ndarray, float]]:
        return [(np.full(len(ink), 8 + i), 2.0) for i in range(16)]

    monkeypatch.setattr("mnist_lightning.reading.segments.find_cuts", find_cuts)
    zero = Image.new("L", (200, 200), 255)
    draw = ImageDraw.Draw(zero)
    draw.ellipse((60, 40, 140, 160), None, 0, 12)
    draw.rectangle((94, 0, 106, 200), 255)
    assert read(zero, load()).text == "0"
