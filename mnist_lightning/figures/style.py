"""The style of all figures: colors, titles, tiles and scales, and a figure's pixels.

Dark ink on light paper, or within `on_dark_pages` the other way round; Okabe and Ito's blue and
vermilion, which all kinds of color blindness can tell apart; images as the network sees them, light
on black. Digits stand for classes, unless a figure is told their names.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from mnist_lightning.files import PNG_METADATA
from mnist_lightning.sizes import SIDE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Palette:
    """A figure's colors; `pale` is for lines of a grid, `neutral` for values around 0."""

    paper: str = "#fcfcfa"
    ink: str = "#222222"
    gray: str = "#666666"
    pale: str = "#e8e8e4"
    neutral: str = "#f4f4f0"
    blue: str = "#0072b2"
    vermilion: str = "#d55e00"


LIGHT = Palette()
DARK = Palette("#212124", "#ececea", "#a4a4a4", "#3c3c41", "#303035", "#4ba6e0", "#f47a30")
BLUE, VERMILION = LIGHT.blue, LIGHT.vermilion
INK, GRAY, PALE = LIGHT.ink, LIGHT.gray, LIGHT.pale
_palette = ContextVar("palette", default=LIGHT)


PAD = 0.12  # inches around a figure's parts
TITLE = PAD + 0.42  # inches that its title and the line below take

PIXELS: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}

STYLE: Any = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib
    "font.size": 10,
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.h_pad": PAD / 2,
    "figure.constrained_layout.w_pad": PAD,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10,
    "legend.frameon": False,
}
# Which of a palette's colors each part has.
PARTS = {
    "paper": ["figure.facecolor", "axes.facecolor"],
    "pale": ["grid.color"],
    "gray": ["axes.titlecolor", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"],
    "ink": ["xtick.labelcolor", "ytick.labelcolor", "text.color"],
}


def are_long(names: Sequence[str]) -> bool:
    """Return whether the names of classes are words."""
    return max(map(len, names)) > 3


def palette() -> Palette:
    """Return the colors to draw in."""
    return _palette.get()


@contextmanager
def on_dark_pages() -> Iterator[None]:
    """Draw figures for dark pages within a `with` block."""
    token = _palette.set(DARK)
    try:
        yield
    finally:
        _palette.reset(token)


@contextmanager
def house_style() -> Iterator[None]:
    """Apply the style, in the palette's colors, within a `with` block or a decorated function."""
    import matplotlib

    colors = {part: getattr(palette(), name) for name, parts in PARTS.items() for part in parts}
    with matplotlib.rc_context(STYLE | colors):
        yield


def new_figure(size: tuple[float, float], title: str, subtitle: str) -> "Figure":
    """Return a figure of a width and height in inches, with its finding as the title."""
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=size)
    figure.text(PAD / width, 1 - PAD / height, title, va="top", size=11, weight="bold")
    figure.text(PAD / width, 1 - (PAD + 0.24) / height, subtitle, va="top", color=palette().gray)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.set(rect=(0, 0, 1, 1 - TITLE / height))  # type: ignore[call-arg]
    return figure


def figure_of_tiles(
    title: str,
    subtitle: str,
    tiles: Tensor,
    columns: int,
    gap: tuple[int, int] = (2, 2),
    color_bar: str = "",
    **style: Any,
) -> "tuple[Figure, Axes, list[tuple[float, float]]]":
    """Return a figure with one panel of tiles, as high as they need, and each tile's corner.

    `color_bar` labels the color bar, if there is one; for other arguments see `show_tiles`.
    """
    width = 6.4 if color_bar else 7.26
    height = width * -(-len(tiles) // columns) * (SIDE + gap[0]) / (columns * (SIDE + gap[1]))
    figure = new_figure((7.5, height + 0.8), title, subtitle)
    axes = figure.subplots()
    corners = show_tiles(axes, tiles, columns, gap, **style)
    axes.set_anchor("NW")
    if color_bar:
        add_color_bar(axes, color_bar)
    return figure, axes, corners


def show_tiles(
    axes: "Axes", tiles: Tensor, columns: int, gap: tuple[int, int] = (2, 2), **style: Any
) -> list[tuple[float, float]]:
    """Draw tiles `(N, H, W)` in rows, small ones enlarged to about 28 x 28.

    Args:
        axes: The panel to draw in.
        tiles: Their values.
        columns: Number of tiles in a row.
        gap: Pixels left free below each tile and to its right.
        style: Arguments of `imshow`.

    Returns:
        The upper left corner of each tile.
    """
    axes.axis("off")
    if len(tiles) == 0:
        return []
    scale = max(1, SIDE // tiles.shape[1])
    tiles = tiles.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    num, height, width = tiles.shape
    rows, down, along = -(-num // columns), height + gap[0], width + gap[1]
    # NaN is not drawn: the background shows.
    canvas = np.full((rows, down, columns, along), np.nan, np.float32)
    for i, tile in enumerate(tiles.float().cpu().numpy()):
        canvas[i // columns, :height, i % columns, :width] = tile
    canvas = canvas.reshape(rows * down, columns * along)[:, : columns * along - gap[1]]
    axes.imshow(canvas, interpolation="nearest", **style)
    return [(i % columns * along - 0.5, i // columns * down - 0.5) for i in range(num)]


def diverging() -> Any:
    """Return a color map from blue through almost the paper to vermilion, for values around 0."""
    from matplotlib.colors import LinearSegmentedColormap

    colors = [palette().blue, palette().neutral, palette().vermilion]
    return LinearSegmentedColormap.from_list("blue_vermilion", colors)


def add_color_bar(axes: "Axes", label: str) -> None:
    """Add a color bar beside a panel of tiles."""
    assert axes.figure is not None
    bar = axes.figure.colorbar(axes.images[0], ax=axes, label=label, shrink=0.8, aspect=30)
    bar.outline.set_visible(False)


def to_array(figure: "Figure") -> np.ndarray:
    """Return a figure's pixels, uint8 `(H, W, 3)`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def to_png(figure: "Figure", dpi: int = 160) -> bytes:
    """Return a figure as the contents of a PNG file."""
    contents = io.BytesIO()
    figure.savefig(contents, format="png", dpi=dpi, metadata=PNG_METADATA)
    return contents.getvalue()


def without_title(png: bytes, dpi: int = 160) -> bytes:
    """Return a PNG file of `to_png` less its title, for a page that has the title as text."""
    contents = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.crop((0, round(TITLE * dpi), *image.size)).save(contents, "PNG")
    return contents.getvalue()
