import itertools
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor
from torchmetrics.classification import MulticlassCalibrationError

from mnist_lightning import figures
from mnist_lightning.data.datasets import SETS, read_test_set
from mnist_lightning.figures.measures import (
    integrated_gradients,
    layer_output,
    wilson_interval,
    worst,
)
from mnist_lightning.network import ConvNet, Ensemble, to_pixels

torch.manual_seed(0)
NETWORK = ConvNet((8, 16), 32).eval()
IMAGES, LABELS = (part[:500] for part in read_test_set())
PIXELS = to_pixels(IMAGES)
# Mostly right, and as sure as a trained network: what a figure must show well.
PROBABILITIES = (8 * torch.eye(10)[LABELS] + 3 * torch.randn(500, 10)).softmax(dim=1)
PREDICTED = PROBABILITIES.argmax(dim=1)
NAMES = SETS["FashionMNIST"].classes
RIGHT = torch.eye(10)[LABELS]
STEPS = list(range(0, 4000, 10))
SCALARS = {
    "train/loss": (STEPS, [2.3 / (1 + step) + 0.01 for step in STEPS]),
    "train/accuracy": (STEPS, [1 - 0.9 / (1 + step) for step in STEPS]),
    "val/loss": ([1999, 3999], [0.05, 0.04]),
    "val/accuracy": ([1999, 3999], [0.98, 0.9876]),
}

FIGURES: dict[str, Callable[[], Figure]] = {
    "augmentation": lambda: figures.augmentation(PIXELS[0, 0], PIXELS[1:30, 0]),
    "filters": lambda: figures.filters(NETWORK),
    "feature_maps": lambda: figures.feature_maps(NETWORK, PIXELS[0]),
    "feature_maps_dense": lambda: figures.feature_maps(NETWORK, PIXELS[0], "dense1"),
    "layers": lambda: figures.layers(NETWORK, PIXELS[0]),
    "confusion_matrix": lambda: figures.confusion_matrix(PREDICTED, LABELS),
    "confusion_matrix_bad": lambda: figures.confusion_matrix(torch.full_like(LABELS, 3), LABELS),
    "confusion_matrix_right": lambda: figures.confusion_matrix(LABELS, LABELS),
    "mistakes": lambda: figures.mistakes(PIXELS, LABELS, PROBABILITIES),
    "mistakes_none": lambda: figures.mistakes(PIXELS, LABELS, RIGHT),
    "attribution": lambda: figures.attribution(NETWORK, PIXELS, LABELS, PROBABILITIES),
    "class_accuracy": lambda: figures.class_accuracy(PREDICTED, LABELS),
    "confusion_matrix_names": lambda: figures.confusion_matrix(PREDICTED, LABELS, NAMES),
    "mistakes_names": lambda: figures.mistakes(PIXELS, LABELS, PROBABILITIES, 8, NAMES),
    "attribution_names": lambda: figures.attribution(
        NETWORK, PIXELS, LABELS, PROBABILITIES, names=NAMES
    ),
    "class_accuracy_names": lambda: figures.class_accuracy(PREDICTED, LABELS, NAMES),
    "evidence": lambda: figures.evidence(NETWORK, PIXELS[:1], PROBABILITIES[:1]),
    "evidence_many": lambda: figures.evidence(NETWORK, PIXELS[:8], PROBABILITIES[:8]),
    "page_long": lambda: figures.page(np.zeros((90, 600)), [], [], "Read as " + 99 * "8"),
    "class_accuracy_right": lambda: figures.class_accuracy(LABELS[:9], LABELS[:9]),
    "reliability": lambda: figures.reliability(PROBABILITIES, LABELS),
    "reliability_right": lambda: figures.reliability(RIGHT, LABELS),
    "curves": lambda: figures.curves(SCALARS),
    "curves_train": lambda: figures.curves({"train/loss": SCALARS["train/loss"]}),
}


def title(figure: Figure) -> str:
    return figure.texts[0].get_text()


def visible_texts(figure: Figure) -> list[Text]:
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            # An axis that is shared with the panel below has no labels.
            ticks = zip(axis.get_majorticklocs(), axis.get_ticklabels(), strict=False)
            texts += [label for place, label in ticks if low <= place <= high and axes.axison]
    return [text for text in texts if text.get_text().strip() and text.get_visible()]


@pytest.mark.parametrize("name", FIGURES)
def test_texts_are_large_lie_inside_and_do_not_overlap(name: str) -> None:
    figure = FIGURES[name]()
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    texts = visible_texts(figure)
    assert min(text.get_fontsize() for text in texts) >= 9
    boxes = [text.get_window_extent() for text in texts]
    width, height = canvas.get_width_height()
    for text, box in zip(texts, boxes, strict=True):
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, text.get_text()
    for (one, a), (other, b) in itertools.combinations(zip(texts, boxes, strict=True), 2):
        apart = a.x1 <= b.x0 + 1 or b.x1 <= a.x0 + 1 or a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1
        assert apart, f"{one.get_text()} / {other.get_text()}"


def test_figures_have_their_own_paper_and_leave_no_state_behind() -> None:
    from matplotlib import pyplot

    before = dict(matplotlib.rcParams)
    pixels = figures.to_array(figures.reliability(PROBABILITIES, LABELS))
    assert pixels[0, 0].tolist() == [0xFC, 0xFC, 0xFA]
    assert dict(matplotlib.rcParams) == before and pyplot.get_fignums() == []


def test_the_confusion_matrix_counts_and_colors_mistakes_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    labels = torch.tensor([4, 4, 4, 4, 7, 7])
    predicted = torch.tensor([9, 9, 9, 4, 7, 2])
    figure = figures.confusion_matrix(predicted, labels)
    (axes,) = figure.axes
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert (
        cells.items() >= {(9, 4): "3", (2, 7): "1", (4, 4): "1", (7, 7): "1", (0, 0): "0"}.items()
    )
    assert (4, 2) not in cells
    colors = axes.images[0].get_array()
    assert isinstance(colors, np.ma.MaskedArray)
    assert colors.mask.diagonal().all() and colors[4, 9] == 3
    assert title(figure) == "4 of 6 misread, most often 4 as 9 (3 times)"
    monkeypatch.setattr("mnist_lightning.figures.evaluation.NUM_CLASSES", 12)
    (axes,) = figures.confusion_matrix(predicted, labels, "0123456789AB").axes
    assert len(axes.get_xticks(minor=True)) == 11  # a line between each two classes


def test_mistakes_come_surest_first_and_say_what_was_read_and_what_is() -> None:
    labels = torch.tensor([1, 2, 3, 4])
    probabilities = torch.zeros(4, 10)
    probabilities[0, 1] = 1  # right, and so left out
    probabilities[1, [7, 2]] = torch.tensor([0.6, 0.4])
    probabilities[2, [5, 3]] = torch.tensor([0.9999, 0.0001])
    probabilities[3, [9, 4]] = torch.tensor([0.8, 0.2])
    assert worst(probabilities, labels).tolist() == [2, 3, 1]
    figure = figures.mistakes(PIXELS[:4], labels, probabilities, num=2)
    (axes,) = figure.axes
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["read 5  >99.9%", "is 3  <0.1%", "read 9  80.0%", "is 4  20.0%"]
    assert title(figure) == "3 images misread; the 2 it was surest of"
    tiles = np.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(tiles[:28, :28], PIXELS[2, 0])


def test_the_calibration_error_is_torchmetrics_and_what_the_dots_show() -> None:
    metric = MulticlassCalibrationError(10)
    metric.update(PROBABILITIES, LABELS)
    figure = figures.reliability(PROBABILITIES, LABELS)
    assert title(figure).startswith(f"Calibration error {metric.compute():.2%}: ")
    above, below = figure.axes
    (dots,) = [line for line in above.lines if line.get_marker() == "o"]
    heights = np.array([patch.get_height() for patch in below.patches])  # type: ignore[attr-defined]
    assert heights.sum() == 500
    distances = np.abs(np.subtract(*dots.get_data())) / 100
    weighted = (distances * heights[heights > 0]).sum() / 500
    assert weighted == pytest.approx(float(metric.compute()), abs=1e-6)


def test_class_accuracy_shows_every_class_and_its_errors() -> None:
    figure = figures.class_accuracy(PREDICTED, LABELS)
    (axes,) = figure.axes
    accuracies, classes = axes.lines[0].get_data()
    assert list(classes) == list(range(10))
    for digit in range(10):
        of_class = LABELS == digit
        hits = (PREDICTED[of_class] == digit).double().mean()
        assert accuracies[digit] == pytest.approx(100 * float(hits))
        errors = f"{int((PREDICTED[of_class] != digit).sum())} of {int(of_class.sum())} wrong"
        assert axes.texts[digit].get_text() == errors


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"), [(0, 10, 0, 0.2775), (81, 263, 0.2553, 0.3662)]
)
def test_wilsons_interval_is_the_published_one(
    hits: int, count: int, low: float, high: float
) -> None:
    # 81 of 263: Newcombe, 1998, Statistics in Medicine 17, table I.
    ends = wilson_interval(hits, count)
    assert [float(end) for end in ends] == pytest.approx([low, high], abs=1e-4)


def test_integrated_gradients_add_up_to_what_the_image_changes() -> None:
    predicted, labels = torch.tensor([3, 1]), torch.tensor([7, 2])

    def margin(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            logits = NETWORK(pixels)
        return logits[[0, 1], predicted] - logits[[0, 1], labels]

    parts = integrated_gradients(NETWORK, PIXELS[:2], predicted, labels, num_steps=256)
    whole = margin(PIXELS[:2]) - margin(torch.zeros(2, 1, 28, 28))
    torch.testing.assert_close(parts.sum((1, 2, 3)), whole, rtol=0.02, atol=1e-3)
    assert (parts[PIXELS[:2] == 0] == 0).all()


def test_feature_maps_are_the_layers_output_and_the_first_relu_by_default() -> None:
    maps = layer_output(NETWORK, PIXELS[:1], "relu1")[0]
    assert maps.shape == (8, 26, 26) and (maps >= 0).all()
    axes = figures.feature_maps(NETWORK, PIXELS[0]).axes[1]
    tiles = np.asarray(axes.images[0].get_array())
    np.testing.assert_array_equal(tiles[:26, 28:54], maps[1])


def test_an_ensembles_layers_are_found_by_name() -> None:
    ensemble = Ensemble([ConvNet((8, 16), 32), NETWORK]).eval()
    maps = layer_output(ensemble, PIXELS[:1], "members.1.relu1")
    assert torch.equal(maps, layer_output(NETWORK, PIXELS[:1], "relu1"))
    assert title(figures.feature_maps(ensemble, PIXELS[0])).startswith("members.0.relu1: ")


def test_a_layer_that_does_not_exist_names_those_that_do() -> None:
    with pytest.raises(
        ValueError, match="no layer 'relu9'; it has standardize, conv1, norm1, relu1, .* dense2$"
    ):
        figures.feature_maps(NETWORK, PIXELS[0], "relu9")


def test_augmentation_frames_the_original_first() -> None:
    figure = figures.augmentation(PIXELS[0, 0], PIXELS[1:12, 0])
    (axes,) = figure.axes
    tiles: Any = axes.images[0].get_array()
    np.testing.assert_array_equal(tiles[:28, :28], PIXELS[0, 0])
    np.testing.assert_array_equal(tiles[30:58, 30:58], PIXELS[11, 0])
    (frame,) = axes.patches
    assert frame.get_bbox().bounds == (-0.5, -0.5, 28, 28)  # type: ignore[attr-defined]


def test_curves_show_every_value_in_its_unit() -> None:
    figure = figures.curves(SCALARS)
    loss, accuracy = figure.axes
    assert title(figure) == "After 4,000 steps: validation loss 0.0400, accuracy 98.76%"
    assert loss.get_yscale() == "log"
    np.testing.assert_allclose(loss.lines[0].get_ydata(), SCALARS["train/loss"][1])
    np.testing.assert_allclose(accuracy.lines[-1].get_data(), [[1999, 3999], [98, 98.76]])
    steps, means = loss.lines[1].get_data()
    assert len(means) == 400 - 19 and steps[0] == 100  # in the middle of the first 20 values
    assert means[-1] == pytest.approx(np.mean(SCALARS["train/loss"][1][-20:]))
