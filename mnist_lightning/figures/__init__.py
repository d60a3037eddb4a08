"""Tensors, or a network and tensors -> matplotlib figures; nothing is shown or written."""

from mnist_lightning.figures.curves import curves
from mnist_lightning.figures.evaluation import (
    attribution,
    class_accuracy,
    confusion_matrix,
    evidence,
    mistakes,
    page,
    reliability,
)
from mnist_lightning.figures.learned import augmentation, drawable, feature_maps, filters, layers
from mnist_lightning.figures.style import are_long, on_dark_pages, to_array, to_png, without_title

__all__ = [
    "are_long",
    "attribution",
    "augmentation",
    "class_accuracy",
    "confusion_matrix",
    "curves",
    "drawable",
    "evidence",
    "feature_maps",
    "filters",
    "layers",
    "mistakes",
    "on_dark_pages",
    "page",
    "reliability",
    "to_array",
    "to_png",
    "without_title",
]
