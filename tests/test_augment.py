import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import affine, gaussian_blur

from mnist_lightning.data import nondigits
from mnist_lightning.data.augment import Augmentation, affine_table, change_looks, warp
from mnist_lightning.data.drawing import is_line, to_convention, upstrokes
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.network import to_pixels

ARTICLE = {"rotation": 8.0, "shift": 0.08, "shear": 0.3, "zoom": 0.08}
LOOKS = {"noise": 0.3, "blur": 2.0, "contrast": 0.7, "stroke": 1.0, "outline": 1.0, "cover": 8.0}
SHARES = {"no_digit_share": 0.3, "neighbor_share": 0.3, "upstroke_share": 0.3}
NOTHING = {"rotation": 0.0, "shift": 0.0, "shear": 0.0, "zoom": 0.0}


@pytest.fixture(scope="module")
def pixels(root: str) -> torch.Tensor:
    data = MNISTDataModule(root)
    data.setup("test")
    return to_pixels(data.test_images[:64])


@pytest.fixture(scope="module")
def labels(root: str) -> torch.Tensor:
    data = MNISTDataModule(root)
    data.setup("test")
    return data.test_labels[:64]


def by_torchvision(pixels: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor | None:
    """Warp one image with torchvision's own parameters for a matrix, where it has such."""
    inverse = matrix[:, :2].double()
    # torchvision moves the input to the output: angle, translation, one scale, two shears.
    forward = torch.linalg.inv(inverse)
    scale = math.sqrt(torch.linalg.det(forward))
    column = torch.linalg.vector_norm(forward[:, 0]).item()
    if column < scale:
        return None  # its shears only stretch
    direction = math.atan2(forward[1, 0], forward[0, 0])
    for shear_y in (math.acos(scale / column), -math.acos(scale / column)):
        angle = direction + shear_y
        # Its second column: scale * (-sin angle, cos angle), less the first one times tan(shear_x).
        upright = scale * torch.tensor([-math.sin(angle), math.cos(angle)], dtype=torch.float64)
        difference = upright - forward[:, 1]
        tan_shear_x = (difference @ forward[:, 0]).item() / column**2
        if torch.allclose(difference, tan_shear_x * forward[:, 0], atol=1e-6):
            break
    else:
        raise AssertionError("no shear gives this matrix")
    shift = -forward @ matrix[:, 2].double() * 14
    shears = [math.degrees(math.atan(tan_shear_x)), math.degrees(shear_y)]
    return affine(
        pixels,
        angle=math.degrees(angle),
        translate=shift.tolist(),  # type: ignore[arg-type]
        scale=scale,
        shear=shears,
        interpolation=InterpolationMode.BILINEAR,
    )


@pytest.mark.parametrize("ranges", [ARTICLE, *({**NOTHING, k: v} for k, v in ARTICLE.items())])
def test_each_image_is_warped_as_torchvision_warps_it(
    pixels: torch.Tensor, ranges: dict[str, float]
) -> None:
    table = affine_table(len(pixels), np.random.default_rng(0), **ranges)
    warped = warp(pixels, table)
    pairs = [
        (ours, theirs)
        for ours, image, matrix in zip(warped, pixels, table, strict=True)
        if (theirs := by_torchvision(image, matrix)) is not None
    ]
    assert len(pairs) >= 20
    for ours, theirs in pairs:
        # In gray levels of 255, at most one: float32 places differ in their last bits.
        assert (ours - theirs).abs().max() < 1 / 255
    assert not torch.equal(warped, pixels)


def test_matrices_compose_as_keras_composes_them() -> None:
    n = 50
    table = affine_table(n, np.random.default_rng(3), **ARTICLE).double().numpy()
    draws = np.random.default_rng(3).uniform(-1, 1, (6, n))
    for matrix, (angle, width, height, shear, zoom_x, zoom_y) in zip(table, draws.T, strict=True):
        a, h = math.radians(8 * angle), 0.3 * shear
        # Keras 2.0.x, keras/preprocessing/image.py, random_transform: (row, column, 1), in pixels.
        rotation = [[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]]
        shift = [[1, 0, 0.08 * height * 28], [0, 1, 0.08 * width * 28], [0, 0, 1]]
        sheared = [[1, -math.sin(h), 0], [0, math.cos(h), 0], [0, 0, 1]]
        zoom = np.diag([1 + 0.08 * zoom_y, 1 + 0.08 * zoom_x, 1])
        keras = np.array(rotation) @ shift @ sheared @ zoom
        ours = matrix[::-1, [1, 0, 2]] * [1, 1, 14]
        np.testing.assert_allclose(ours, keras[:2], atol=1e-5)


def test_no_range_gives_the_image_itself(pixels: torch.Tensor) -> None:
    table = affine_table(len(pixels), np.random.default_rng(0), **NOTHING)
    torch.testing.assert_close(warp(pixels, table), pixels, atol=1e-5, rtol=0)


def test_switching_one_part_off_leaves_the_others() -> None:
    whole = affine_table(9, np.random.default_rng(1), **{**NOTHING, "rotation": 8.0, "shift": 0.1})
    part = affine_table(9, np.random.default_rng(1), **{**NOTHING, "rotation": 8.0})
    torch.testing.assert_close(whole[:, :, :2], part[:, :, :2])
    assert not part[:, :, 2].any() and whole[:, :, 2].all()


def test_parameters_fill_their_ranges_and_stay_inside() -> None:
    shifts = affine_table(10_000, np.random.default_rng(0), **{**NOTHING, "shift": 0.08})[:, :, 2]
    assert 0.155 < shifts.max() <= 0.16 and -0.16 <= shifts.min() < -0.155  # 2 units a width
    zoom = affine_table(10_000, np.random.default_rng(0), **{**NOTHING, "zoom": 0.08})
    scale_x, scale_y = zoom[:, 0, 0], zoom[:, 1, 1]
    assert 0.92 <= scale_x.min() < 0.921 and 1.079 < scale_y.max() <= 1.08
    assert abs(np.corrcoef(scale_x, scale_y)[0, 1]) < 0.05  # drawn separately


def test_a_preview_shows_changes_of_the_one_image(pixels: torch.Tensor) -> None:
    same = Augmentation(**NOTHING).preview(pixels[3], 0, pixels[4], num=4)
    assert torch.equal(same, pixels[3].expand(4, -1, -1))
    augmentation = Augmentation(**ARTICLE, **LOOKS, **SHARES)
    shown = augmentation.preview(pixels[3], 0, pixels[4])
    assert len(torch.unique(shown, dim=0)) == 29
    assert torch.equal(shown, augmentation.preview(pixels[3], 0, pixels[4]))
    assert 0 <= shown.min() and shown.max() <= 1
    of_a_one = augmentation.preview(pixels[3], 1, pixels[4])
    assert not torch.equal(shown, of_a_one)  # some have an upstroke


@pytest.mark.parametrize("name", LOOKS)
def test_a_change_of_looks_is_made_to_its_share_of_the_images(
    pixels: torch.Tensor, name: str
) -> None:
    augmentation = Augmentation(**NOTHING, **{name: LOOKS[name]}, changed_share=0.25)
    many = pixels[:1].expand(1000, -1, -1, -1)
    rows = augmentation.table(1000, 1, (5,))[0]
    changed, labels = augmentation(many, torch.zeros(1000, dtype=torch.int64), rows, many)
    share = (changed != many).flatten(1).any(dim=1).float().mean()
    assert 0.2 < share < 0.3
    assert labels.dtype == torch.int64  # not probabilities, as long as all are digits


def test_each_change_of_looks_is_what_it_is_called(pixels: torch.Tensor) -> None:
    def change(pixels: torch.Tensor, **strengths: float) -> torch.Tensor:
        rows = torch.full((len(pixels), 25), 0.5)  # all levels and places at their middle
        rows[:, 6:12] = 0
        for name, strength in strengths.items():
            rows[:, 6 + list(LOOKS).index(name)] = strength
        return change_looks(pixels, rows)

    assert torch.equal(change(pixels), pixels)
    gray = torch.full_like(pixels, 0.5)
    assert change(gray, noise=0.1).std() == pytest.approx(0.1, rel=0.02)
    ours, theirs = change(pixels, blur=1.5), gaussian_blur(pixels, [13, 13], [1.5, 1.5])
    inside = slice(7, 21)  # at the border they differ
    torch.testing.assert_close(
        ours[..., inside, inside], theirs[..., inside, inside], atol=2e-3, rtol=0
    )
    torch.testing.assert_close(change(pixels, contrast=0.6), 0.3 + 0.4 * pixels)
    line = torch.zeros(1, 1, 28, 28)
    line[..., 10:14, :] = 1
    assert change(line, stroke=1)[0, 0, :, 14].sum() == 6  # one more at each side
    assert change(line, stroke=-1)[0, 0, :, 14].sum() == 2
    assert change(line, stroke=-0.5)[0, 0, :, 14].sum() == 3
    assert change(line, outline=1)[0, 0, :, 14].nonzero().flatten().tolist() == [9, 14]
    assert change(line, outline=0.6)[0, 0, 11, 14] == pytest.approx(0.4)
    covered = change(torch.zeros_like(pixels), cover=6)  # upright, 17 long, half of it outside
    torch.testing.assert_close(covered[..., 6:22, 11:17], torch.full((64, 1, 16, 6), 0.5))
    assert covered[0].sum() == pytest.approx(0.5 * 6 * 17)


def test_no_digit_bears_the_same_probability_for_each(pixels: torch.Tensor) -> None:
    augmentation = Augmentation(**NOTHING, no_digit_share=0.3)
    many = pixels.repeat(20, 1, 1, 1)
    labels = torch.arange(len(many)) % 10
    rows = augmentation.table(len(many), 1, (0,))[0]
    changed, probabilities = augmentation(many, labels, rows, many.roll(1, 0))
    is_none = (probabilities == 0.1).all(dim=1)
    assert 0.25 < is_none.float().mean() < 0.35
    assert torch.equal(probabilities[~is_none].argmax(dim=1), labels[~is_none])
    assert torch.equal(changed[~is_none], many[~is_none])
    assert (changed != many)[is_none].flatten(1).any(dim=1).all()


def test_a_cut_piece_is_less_its_digit_the_more_is_cut_wrongly(
    pixels: torch.Tensor, labels: torch.Tensor
) -> None:
    augmentation = Augmentation(**NOTHING, neighbor_share=0.6)
    many, digits = pixels.repeat(20, 1, 1, 1), labels.repeat(20)
    others = many.roll(7, 0)
    rows = augmentation.table(len(many), 1, (0,))[0]
    changed, probabilities = augmentation(many, digits, rows, others)
    share = (probabilities.amax(dim=1) - 0.1) / 0.9
    is_none, is_piece = share == 0, (changed != many).flatten(1).any(dim=1) & (share == 1)
    is_partly = (share > 0) & (share < 1)
    assert 0.15 < is_none.float().mean() < 0.25 and 0.12 < is_piece.float().mean() < 0.22
    assert 0.07 < is_partly.float().mean() < 0.14
    assert torch.equal(probabilities[~is_none].argmax(dim=1), digits[~is_none])
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(len(many)))
    # A piece with its digit's label looks like the digit, what is none does not.
    likeness = torch.cosine_similarity(changed.flatten(1), many.flatten(1))
    none, partly, piece = (likeness[k].median() for k in (is_none, is_partly, is_piece))
    assert none < partly < 0.6 and piece > 0.9
    # In another batch it is the same piece.
    alone = augmentation(many[:40], digits[:40], rows[:40], others[:40])
    torch.testing.assert_close(alone, (changed[:40], probabilities[:40]))


def test_ink_is_placed_as_mnist_does_it(pixels: torch.Tensor) -> None:
    torch.testing.assert_close(to_convention(pixels), pixels, atol=0.05, rtol=0)
    moved = torch.nn.functional.pad(pixels, (25, 3, 2, 9))
    torch.testing.assert_close(to_convention(moved), pixels, atol=0.05, rtol=0)
    large = torch.nn.functional.interpolate(pixels, scale_factor=3, mode="nearest")
    assert torch.cosine_similarity(to_convention(large).flatten(1), pixels.flatten(1)).min() > 0.95
    assert to_convention(torch.zeros(1, 1, 40, 80)).sum() == 0


def test_only_ones_get_an_upstroke(pixels: torch.Tensor, labels: torch.Tensor) -> None:
    augmentation = Augmentation(**NOTHING, upstroke_share=0.99)
    rows = augmentation.table(64, 1, (0,))[0]
    changed, same = augmentation(pixels, labels, rows, pixels)
    assert same is labels
    has_more = (changed != pixels).flatten(1).any(dim=1)
    assert has_more.any() and torch.equal(has_more, (labels == 1) & (rows[:, 20] > 0))
    stem = torch.zeros(1, 1, 28, 28)
    stem[..., 4:24, 13:15] = 1
    with_foot, without = (
        upstrokes(stem, torch.tensor([[0.5, 0.5, 0.5, 0.5, foot]])) - stem for foot in (0, 0.9)
    )
    assert without[..., :15, :14].sum() > 0.8 * without.sum() > 4  # to the left of the stem's top
    assert with_foot[..., 22:, :].sum() > 2 > without[..., 22:, :].sum()


def test_no_digit_is_a_bare_stroke(pixels: torch.Tensor) -> None:
    ones = torch.zeros(2000, 1, 28, 28)
    ones[..., 4:24, 13:15] = 1
    assert is_line(ones).all()
    augmentation = Augmentation(**NOTHING, no_digit_share=0.99)
    rows = augmentation.table(2000, 1, (0,))[0]
    made, _ = augmentation(ones, torch.ones(2000, dtype=torch.int64), rows, ones)
    assert is_line(made)[rows[:, 19] > 0].float().mean() < 0.02


def test_a_share_of_the_scribbles_are_crosses(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = torch.rand(1000, nondigits.NUM_NUMBERS - 1, generator=torch.manual_seed(0))
    is_whole = torch.arange(1000) < 800
    made = nondigits._scribbles(numbers, is_whole)[:, 0]
    monkeypatch.setattr(nondigits, "CROSSES", 0.0)
    without = nondigits._scribbles(numbers, is_whole)[:, 0]
    is_cross = (made != without).any(dim=(1, 2))
    assert 0.12 < is_cross[:800].float().mean() < 0.18 and not is_cross[800:].any()
    inked = made[is_cross] > 0.5
    assert inked[:, 13:15, 13:15].any(dim=(1, 2)).float().mean() > 0.9
    # Upright and level lines fill a row and a column in the middle, lines aslant the corners.
    rows, columns = inked.float().mean(dim=2), inked.float().mean(dim=1)
    is_plus = (rows[:, 10:18].amax(dim=1) > 0.4) & (columns[:, 10:18].amax(dim=1) > 0.4)
    is_times = inked[:, 4:10, 4:10].any(dim=(1, 2)) & inked[:, 18:24, 18:24].any(dim=(1, 2))
    assert 0.3 < is_plus.float().mean() < 0.7
    assert (is_times | is_plus).float().mean() > 0.95


def test_shares_of_no_digits_and_neighbors_fit_into_one() -> None:
    with pytest.raises(ValueError, match="must be at most 1 together"):
        Augmentation(no_digit_share=0.6, neighbor_share=0.6)


def test_what_happens_to_an_image_is_a_function_of_seed_and_image() -> None:
    augmentation = Augmentation(**ARTICLE, **LOOKS, **SHARES)
    table = augmentation.table(50, 2, (7, 3))
    assert torch.equal(table, augmentation.table(50, 2, (7, 3)))
    assert not torch.equal(table, augmentation.table(50, 2, (7, 4)))
    assert len(torch.unique(table.flatten(0, 1), dim=0)) == 100  # each copy's own
    # The warps are what they are without the rest.
    assert torch.equal(table[..., :6], Augmentation(**ARTICLE).table(50, 2, (7, 3)))


@pytest.mark.parametrize("name", [*ARTICLE, *LOOKS, "changed_share", *SHARES])
@pytest.mark.parametrize("value", [-0.1, 1000.0, float("nan")])
def test_a_range_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{name} {value} must be in 0 to"):
        Augmentation(**{name: value})


def test_pixels_are_the_bytes_over_255() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    pixels = to_pixels(images)
    assert pixels.shape == (1, 1, 16, 16) and pixels.dtype == torch.float32
    assert pixels.min() == 0 and pixels.max() == 1
    assert torch.equal((pixels * 255).round().byte()[:, 0], images)
