"""A digit on a sheet becomes what MNIST would have made of it, and a blank sheet is named."""

import numpy as np
import pytest
import torch
from photos import SIDE, first, on_paper, on_sheet, picture, scale, shadow, texture
from PIL import Image, ImageDraw

from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.reading.convention import to_mnist
from mnist_lightning.reading.ink import stroke_width


@pytest.mark.parametrize("invert", [False, True], ids=["light on black", "dark on white"])
def test_mnists_own_images_pass_unchanged(invert: bool) -> None:
    images, _ = read_test_set()
    for image in images[::10]:
        given = 255 - image if invert else image
        assert torch.equal(to_mnist(Image.fromarray(given.numpy())), image)


def test_what_the_network_sees_keeps_mnists_convention() -> None:
    image = to_mnist(picture(on_paper(on_sheet(scale(first(3)), np.random.default_rng(0)))))
    assert image.shape == (28, 28) and image.dtype == torch.uint8
    inked = image.nonzero()
    assert (inked.amax(0) - inked.amin(0)).max() == 19
    weights = image.double()
    rows = torch.arange(28.0, dtype=torch.double)
    for axis in (0, 1):
        assert abs((weights.sum(1 - axis) @ rows) / weights.sum() - 14) <= 0.5
    assert image.max() == 255 and image[0].max() == 0


@pytest.mark.parametrize("pen", [2, 6])
def test_a_thin_stroke_becomes_as_wide_as_mnists(pen: int) -> None:
    sheet = Image.new("L", (300, 300), 255)
    ImageDraw.Draw(sheet).line([(80, 50), (220, 50), (140, 250)], 0, pen, joint="curve")
    ink = to_mnist(sheet).float().numpy() / 255
    assert stroke_width(ink) == pytest.approx(2.1, abs=0.2)


@pytest.mark.parametrize("turns", range(4))
def test_a_heavy_end_pushes_no_ink_out_of_the_image(turns: int) -> None:
    sheet = Image.new("L", (120, 120), 255)
    ImageDraw.Draw(sheet).line((60, 20, 60, 70), 0, 6)
    ImageDraw.Draw(sheet).rectangle((20, 70, 100, 100), 0)
    inked = to_mnist(sheet.rotate(90 * turns)).nonzero()
    assert (inked.amax(0) - inked.amin(0)).tolist() == [19, 19]


def test_specks_and_lines_to_the_edge_are_left_out() -> None:
    sheet = picture(on_paper(scale(np.pad(first(5), 8))))
    clean = to_mnist(sheet)
    draw = ImageDraw.Draw(sheet)
    draw.ellipse((8, 200, 12, 204), 30)
    draw.line((0, 20, SIDE, 24), 30, 15)  # more ink than the digit has
    assert (to_mnist(sheet).int() - clean.int()).abs().float().mean() < 2


def blank_sheets() -> dict[str, Image.Image]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.05, (SIDE, SIDE))
    faint = np.full((50, 50), 700, np.uint16)
    faint[20:30, 20:30] = 670
    return {
        "white": Image.new("RGB", (300, 200), "white"),
        "black": Image.new("L", (28, 28)),
        "a strip": Image.new("L", (9, 4000), 255),
        "clear": Image.new("RGBA", (300, 200)),
        "noise": picture(0.8 + noise),
        "noise and shadow": picture(0.8 * shadow((SIDE, SIDE), rng, 0.7) + noise / 5),
        "rough": picture(0.8 * texture(rng)),
        "16 bits": Image.fromarray(np.full((50, 50), 700, np.uint16)),
        "16 bits, too pale": Image.fromarray(faint),
        "not a number": Image.fromarray(np.full((50, 50), np.nan, np.float32)),
    }


@pytest.mark.parametrize("sheet", blank_sheets().values(), ids=blank_sheets())
def test_a_blank_sheet_is_named(sheet: Image.Image) -> None:
    with pytest.raises(ValueError, match="no ink on the picture"):
        to_mnist(sheet)
