"""Show what a trained network learned, where it errs and how sure it is, on one page.

    python -m mnist_lightning report
    python -m mnist_lightning report --ckpt_path runs/base/version_0/checkpoints/best.ckpt
    python -m mnist_lightning report --layer relu3 --output_dir report
    python -m mnist_lightning report --picture photo.jpg --layer conv3

It tests on the 10,000 test images of the dataset that the checkpoint was trained on, MNIST for a
safetensors file, and writes each figure as a PNG file and `report.html`, which holds them all and
needs nothing else. The training curves come from the checkpoint's run folder. Existing files that
no report wrote are replaced only with `--overwrite`.

With `--picture` the page is about a picture of yours, and tests nothing: what is read in it, which
pixels spoke for each digit, and what the layers make of it.
"""

from base64 import b64encode
from collections.abc import Callable, Sequence
from functools import partial
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mnist_lightning import figures
from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.data import datasets
from mnist_lightning.data.augment import Augmentation
from mnist_lightning.errors import UserError
from mnist_lightning.figures.measures import layer_output, wilson_interval
from mnist_lightning.files import PNG, check_folder, check_output, is_ours, replace_file
from mnist_lightning.network import Ensemble, Network, networks_of, to_pixels
from mnist_lightning.reading.picture import fit, open_picture
from mnist_lightning.reading.reader import read
from mnist_lightning.runs import Curves, read_curves, run_folder
from mnist_lightning.sizes import NUM_CLASSES, SIDE
from mnist_lightning.text import percent, printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = Path(__file__).with_name("report.html")  # a template
MARK = rb'<meta name="generator" content="mnist_lightning">'

NARROW = ("confusion_matrix", "reliability")
ERRORS = ("class_accuracy", "mistakes", "attribution")
LEARNED = ("filters", "feature_maps", "layers")
TRAINING = ("curves", "augmentation")
FIGURES = NARROW + ERRORS + LEARNED + TRAINING
MOST_DIGITS = 8  # of a picture whose maps are drawn
OF_PICTURE = ("page", "evidence") + tuple(
    f"{name}_{i}" for i in range(1, MOST_DIGITS + 1) for name in ("feature_maps", "layers")
)

Drawings = dict[str, Callable[[], "Figure"]]


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("report", __doc__, writes=True)
    help_ = "folder for the page and its figures (default: %(default)s)"
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help=help_)
    parser.add_argument("--layer", help="whose feature maps to show (default: the first ReLU's)")
    parser.add_argument("--picture", help="report on this picture of digits, into picture.html")
    help_ = "folder of the images (default: %(default)s)"
    parser.add_argument("--data_root", type=Path, default="data", help=help_)
    options = parser.parse_args(arguments)
    names, page = (OF_PICTURE, "picture.html") if options.picture else (FIGURES, "report.html")
    outputs = {options.output_dir / f"{name}.png": PNG for name in names}
    outputs[options.output_dir / page] = MARK
    check_folder(options.output_dir)
    inputs = [*options.ckpt_path, *([options.picture] if options.picture else [])]
    for path, mark in outputs.items() if options.output_dir.exists() else ():
        check_output(path, mark, inputs, options.overwrite)

    network = load(*options.ckpt_path)
    # Several checkpoints have no single run whose settings and curves could be shown.
    is_run = len(options.ckpt_path) == 1 and not options.ckpt_path[0].endswith(".safetensors")
    run = read_checkpoint(options.ckpt_path[0]) if is_run else {}
    if options.layer is not None:
        layer_output(network, torch.zeros(1, 1, SIDE, SIDE), options.layer)
    paths = ", ".join(f"<code>{escape(printable(path))}</code>" for path in options.ckpt_path)
    source = paths or "the one that is shipped"
    if options.picture:
        files, text = _of_picture(options.picture, network, options.layer, source, run)
    else:
        curves = read_curves(run_folder(options.ckpt_path[0])) if run else {}
        files, text = _of_test_set(network, options.layer, source, run, curves, options.data_root)

    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = options.output_dir / f"{name}.png"
        if name in files:
            replace_file(path, files[name])
        elif path.is_file() and is_ours(path, PNG):
            path.unlink()  # from an earlier report on another network or picture
    replace_file(options.output_dir / page, text.encode())
    print(printable(f"wrote {options.output_dir / page} and {len(files)} figures beside it"))


def _of_test_set(
    network: Network | Ensemble,
    layer: str | None,
    source: str,
    run: dict[str, Any],
    curves: Curves,
    root: Path,
) -> tuple[dict[str, bytes], str]:
    """Return the figures' PNG files by name, and the page."""
    dataset = _dataset(run)
    datasets.prepare(root, dataset)
    images, labels = datasets.read(root, dataset, train=False)
    pixels = to_pixels(images)
    parts = tqdm(pixels.split(500), desc="reading the images", leave=False, disable=None)
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in parts])
    logits = logits.clone()  # inference tensors can't be used for gradients
    names = datasets.SETS[dataset].classes
    drawings = _drawings(network, pixels, labels, logits.softmax(dim=1), layer, names)
    drawings |= _drawings_of_run(run, curves, pixels[:2], int(labels[0]))
    files, drawn = _draw(drawings)
    return files, _page(source, dataset, network, run, labels, logits, drawn)


def _dataset(run: dict[str, Any]) -> Any:
    return run.get("datamodule_hyper_parameters", {}).get("dataset", "MNIST")


# -- what is drawn


def _drawings(
    network: Network | Ensemble,
    pixels: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    layer: str | None,
    names: Sequence[str],
) -> Drawings:
    predicted = probabilities.argmax(dim=1)
    misread = (pixels, labels, probabilities)
    drawings: Drawings = {
        "confusion_matrix": lambda: figures.confusion_matrix(predicted, labels, names),
        "class_accuracy": lambda: figures.class_accuracy(predicted, labels, names),
        "mistakes": lambda: figures.mistakes(*misread, names=names),
        "attribution": lambda: figures.attribution(network, *misread, names=names),
        "reliability": lambda: figures.reliability(probabilities, labels),
        "feature_maps": lambda: figures.feature_maps(network, pixels[0], layer),
        "layers": lambda: figures.layers(networks_of(network)[0], pixels[0]),
        "filters": lambda: figures.filters(network),
    }
    if (predicted == labels).all():
        del drawings["mistakes"], drawings["attribution"]
    for name in set(LEARNED) - _drawable(network, layer):
        del drawings[name]
    return drawings


def _drawable(network: Network | Ensemble, layer: str | None) -> set[str]:
    """Return which of `LEARNED` can be drawn; maps of a layer that is asked for always can."""
    return figures.drawable(networks_of(network)[0]) | ({"feature_maps"} if layer else set())


def _drawings_of_run(run: dict[str, Any], curves: Curves, pixels: Tensor, label: int) -> Drawings:
    drawings: Drawings = {}
    if curves.get("train/loss"):
        drawings["curves"] = lambda: figures.curves(curves)
    settings = run.get("datamodule_hyper_parameters", {})
    augmentation = Augmentation.of(settings)
    if run and augmentation:
        changed = augmentation.preview(pixels[0], label, pixels[1])
        drawings["augmentation"] = lambda: figures.augmentation(pixels[0, 0], changed)
    return drawings


def _draw(drawings: Drawings) -> tuple[dict[str, bytes], dict[str, str]]:
    """Return the figures' PNG files, and their HTML, which has the title as text, by name."""
    files, drawn = {}, {}
    for name, draw in tqdm(drawings.items(), desc="drawing", leave=False, disable=None):
        figure = draw()
        title, subtitle = (text.get_text() for text in figure.texts[:2])
        files[name] = figures.to_png(figure)
        with figures.on_dark_pages():
            dark = figures.to_png(draw())
        png, dark = figures.without_title(files[name]), figures.without_title(dark)
        drawn[name] = _figure(name, title, subtitle, png, dark)
    return files, drawn


# -- the pages


CAPTIONS = {
    "confusion_matrix": "A row is what the images are, a column what the network took them for.",
    "class_accuracy": "Classes whose intervals overlap a lot may well be equally hard.",
    "mistakes": "Confident mistakes are the ones that do harm.",
    "attribution": (
        "Integrated gradients, from a black image, of the predicted class's logit less the true "
        "one's. A map's sum is what the whole image adds to that difference; each map has its own "
        "scale, and its strongest pixels are saturated."
    ),
    "reliability": (
        "A well calibrated network is right in 80% of its answers with a confidence of 80%. The "
        "error is the mean distance of the dots from the dashed line, weighted by the number of "
        "images."
    ),
    "feature_maps": "The first test image. --layer shows another layer.",
    "layers": "The first test image.",
    "augmentation": "The first test image as an example; only training images are changed.",
    "evidence": (
        "Integrated gradients, from a black image, of the answer's logit less the second guess's. "
        "Each map has its own scale, and its strongest pixels are saturated."
    ),
}
ALL_ERRORS = """<details><summary>All errors by their number in the test set, the most confident
first</summary><div tabindex="0"><table>
<tr><th>image<th>true class<th>read as<th>probability<th>of the true class</tr>
{rows}</table></div></details>"""
READINGS = """<div tabindex="0"><table>
<tr><th>digit<th>read as<th>probability<th>second guess<th>probability</tr>
{rows}</table></div>"""


def _page(
    source: str,
    dataset: str,
    network: Network | Ensemble,
    run: dict[str, Any],
    labels: Tensor,
    logits: Tensor,
    drawn: dict[str, str],
) -> str:
    from torchmetrics.functional.classification import multiclass_calibration_error

    num_images, hits = len(labels), int((logits.argmax(dim=1) == labels).sum())
    low, high = wilson_interval(hits, num_images)
    probabilities = logits.softmax(dim=1)
    error = multiclass_calibration_error(probabilities, labels, NUM_CLASSES)
    members = networks_of(network)
    size = f"in {len(members)} networks" if len(members) > 1 else "one network"
    numbers = [
        ("accuracy", f"{hits / num_images:.2%}", f"95% interval {low:.2%} to {high:.2%}"),
        ("errors", f"{num_images - hits:,}", f"of {num_images:,} images"),
        ("loss", f"{F.cross_entropy(logits, labels):.4f}", "mean cross-entropy, nats"),
        ("calibration error", f"{error:.2%}", "expected, l1, 15 bins"),
        ("parameters", f"{sum(p.numel() for p in network.parameters()):,}", size),
    ]
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><dd class=note>{note}</dd></div>"
        for name, value, note in numbers
    )

    names = datasets.SETS[dataset].classes
    predicted = probabilities.argmax(dim=1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    wrong.sort(key=lambda i: -float(probabilities[i, predicted[i]]))
    misread = "".join(
        f"<tr><td>{i}<td>{names[labels[i]]}<td>{names[predicted[i]]}"
        f"<td>{percent(float(probabilities[i, predicted[i]]))}"
        f"<td>{percent(float(probabilities[i, labels[i]]))}</tr>"
        for i in wrong
    )
    misread = misread and ALL_ERRORS.format(rows=misread)
    settings = run.get("hyper_parameters", {"members": len(members)} | members[0].settings)
    settings = run.get("made_with", {}) | settings  # earlier checkpoints do not say
    settings = settings | run.get("datamodule_hyper_parameters", {})
    sources = {"pseudo_labels": "pseudo_", "extra": "extra"}
    unused = ("predict_set", *(part for name, part in sources.items() if not settings.get(name)))
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(_value(value))}</td></tr>"
        for name, value in settings.items()
        if not name.startswith(("_", *unused)) and value != ""
    )
    no_curves = run and "curves" not in drawn
    missing = (
        "<p>There are no curves: the checkpoint is not in a run's folder with event files.</p>"
    )

    def show(*names: str) -> str:
        return "".join(drawn[name] for name in names if name in drawn)

    steps = f", after {run['global_step']:,} training steps" if run else ""
    return Template(PAGE.read_text()).substitute(
        title=f"{num_images - hits:,} of {num_images:,} {escape(dataset)} images misread",
        intro=f"Measured on the {num_images:,} test images of {escape(dataset)}. The network is "
        f"{source}{steps}.",
        sections=f"<dl>{tiles}</dl>"
        + _section("Where it errs, and how sure it is", show(*NARROW, *ERRORS), misread)
        + _section("What it learned", show(*LEARNED))
        + _section("How it learned", show(*TRAINING), missing if no_curves else "")
        + _section("Settings", "", f"<table>{rows}</table>"),
    )


def _of_picture(
    path: str, network: Network | Ensemble, layer: str | None, source: str, run: dict[str, Any]
) -> tuple[dict[str, bytes], str]:
    """Return the figures' PNG files by name, and the page, on a picture of a user's own."""
    try:
        picture = open_picture(path)
        page = read(picture, network)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error
    names = datasets.SETS[_dataset(run)].classes
    digits = page.digits[:MOST_DIGITS]
    pixels = to_pixels(torch.stack([reading.image for reading in digits]))
    probabilities = torch.tensor([reading.probabilities for reading in digits])
    name = escape(printable(Path(path).name))
    is_word = figures.are_long(names)
    text = ", ".join(names[each.digit] for each in page.digits) if is_word else page.text
    text = text.replace("\n", " / ")
    shown = fit(picture, min(1200, max(picture.size)), to_show=True)
    scale = max(shown.size) / max(picture.size)
    boxes = [[round(scale * side) for side in each.box] for each in page.digits]

    drawings: Drawings = {
        "page": lambda: figures.page(
            np.asarray(shown), boxes, [*map(str, page.digits)], f"Read as {text}"
        ),
        "evidence": lambda: figures.evidence(network, pixels, probabilities, names),
    }
    learned: dict[str, Callable[[Tensor], Any]] = {
        "feature_maps": lambda image: figures.feature_maps(network, image, layer),
        "layers": lambda image: figures.layers(networks_of(network)[0], image),
    }
    for i, image in enumerate(pixels, start=1):
        for kind, draw in learned.items():
            if kind in _drawable(network, layer):
                drawings[f"{kind}_{i}"] = partial(draw, image)
    files, drawn = _draw(drawings)
    rows = "".join(
        f"<tr><td>{i}<td>{names[each.digit] if each.is_digit else '?'}"
        f"<td>{percent(each.probability)}<td>{names[each.second]}<td>{percent(each.second_probability)}</tr>"
        for i, each in enumerate(page.digits, start=1)
    )
    maps = [
        _section(
            "What the layers see" + (f" of digit {i}, read as {each}" if len(digits) > 1 else ""),
            drawn.get(f"feature_maps_{i}", "") + drawn.get(f"layers_{i}", ""),
        )
        for i, each in enumerate(digits, start=1)
    ]
    more = (
        f" Maps are drawn of the first {MOST_DIGITS} digits."
        if len(page.digits) > MOST_DIGITS
        else ""
    )
    return files, Template(PAGE.read_text()).substitute(
        title=f"{name} reads {escape(text)}",
        intro=f"The network is {source}.{more}",
        sections=_section(
            "What it read, and why", drawn["page"] + drawn["evidence"], READINGS.format(rows=rows)
        )
        + "".join(maps),
    )


def _section(title: str, drawn: str, more: str = "") -> str:
    """Return a section of a page, or nothing if nothing is in it."""
    if not drawn and not more:
        return ""
    return f"<h2>{title}</h2>\n" + (f"<section>{drawn}</section>\n" if drawn else "") + more + "\n"


def _figure(name: str, title: str, subtitle: str, png: bytes, dark: bytes) -> str:
    kind = "narrow" if name in NARROW else "wide"
    alt = escape(f"{title}: {subtitle}")
    light_url, dark_url = (
        f"data:image/png;base64,{b64encode(each).decode()}" for each in (png, dark)
    )
    image = f'<source srcset="{dark_url}" media="(prefers-color-scheme: dark)">'
    image = f'<picture>{image}<img alt="{alt}" src="{light_url}"></picture>'
    text = CAPTIONS.get(name, "")
    caption = f"<figcaption>{escape(text)}</figcaption>" if text else ""
    heading = f"<h3>{escape(title)}</h3><p>{escape(subtitle)}</p>"
    return f'<figure class="{kind}">{heading}<div tabindex="0">{image}</div>{caption}</figure>\n'


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not given" if value is None else str(value)
