"""Show what a trained network learned, where it errs and how sure it is, on one page.

    python -m mnist_lightning report
    python -m mnist_lightning report --ckpt_path runs/base/version_0/checkpoints/best.ckpt
    python -m mnist_lightning report --layer relu3 --output_dir report

It tests on the 10,000 test images of the dataset that the checkpoint was trained on, MNIST for a
safetensors file, and writes each figure as a PNG file and `report.html`, which holds them all and
needs nothing else. The training curves come from the checkpoint's run folder. Existing files that
no report wrote are replaced only with `--overwrite`.
"""

from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mnist_lightning import figures
from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.data import datasets
from mnist_lightning.data.augment import Augmentation
from mnist_lightning.figures.measures import layer_output, wilson_interval
from mnist_lightning.files import PNG, check_folder, check_output, is_ours, replace_file
from mnist_lightning.network import Ensemble, Network, networks_of, to_pixels
from mnist_lightning.runs import Curves, read_curves, run_folder
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

Drawings = dict[str, Callable[[], "Figure"]]


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("report", __doc__, writes=True)
    help_ = "folder for the page and its figures (default: %(default)s)"
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help=help_)
    parser.add_argument("--layer", help="whose feature maps to show (default: the first ReLU's)")
    help_ = "folder of the images (default: %(default)s)"
    parser.add_argument("--data_root", type=Path, default="data", help=help_)
    options = parser.parse_args(arguments)
    outputs = {options.output_dir / f"{name}.png": PNG for name in FIGURES}
    outputs[options.output_dir / "report.html"] = MARK
    check_folder(options.output_dir)
    for path, mark in outputs.items() if options.output_dir.exists() else ():
        check_output(path, mark, options.ckpt_path, options.overwrite)
    _make(options.ckpt_path, options.output_dir, options.layer, options.data_root)


def _make(paths: list[str], output_dir: Path, layer: str | None, root: Path) -> None:
    network = load(*paths)
    # Several checkpoints have no single run whose settings and curves could be shown.
    is_run = len(paths) == 1 and not paths[0].endswith(".safetensors")
    run = read_checkpoint(paths[0]) if is_run else {}
    if layer is not None:
        layer_output(network, torch.zeros(1, 1, 28, 28), layer)
    dataset = run.get("datamodule_hyper_parameters", {}).get("dataset", "MNIST")
    datasets.prepare(root, dataset)
    images, labels = datasets.read(root, dataset, train=False)
    pixels = to_pixels(images)
    curves = read_curves(run_folder(paths[0])) if run else {}

    parts = tqdm(pixels.split(500), desc="reading the images", leave=False, disable=None)
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in parts])
    logits = logits.clone()  # inference tensors can't be used for gradients
    drawings = _drawings(network, pixels, labels, logits.softmax(dim=1), layer)
    drawings |= _drawings_of_run(run, curves, pixels[:2], int(labels[0]))
    files, drawn = {}, {}
    for name, draw in tqdm(drawings.items(), desc="drawing", leave=False, disable=None):
        figure = draw()
        title, subtitle = (text.get_text() for text in figure.texts[:2])
        files[name] = figures.to_png(figure)
        drawn[name] = _figure(name, title, subtitle, figures.without_title(files[name]))
    source = ", ".join(paths) or "the network that is shipped"
    page = _page(source, dataset, network, run, labels, logits, drawn)

    output_dir.mkdir(parents=True, exist_ok=True)
    page_path = output_dir / "report.html"
    for name in FIGURES:
        path = output_dir / f"{name}.png"
        if name in files:
            replace_file(path, files[name])
        elif path.is_file() and is_ours(path, PNG):
            path.unlink()  # from an earlier report on another network
    replace_file(page_path, page.encode())
    print(printable(f"wrote {page_path} and {len(drawn)} figures beside it"))


# -- what is drawn


def _drawings(
    network: Network | Ensemble,
    pixels: Tensor,
    labels: Tensor,
    probabilities: Tensor,
    layer: str | None,
) -> Drawings:
    predicted = probabilities.argmax(dim=1)
    misread = (pixels, labels, probabilities)
    drawings: Drawings = {
        "confusion_matrix": lambda: figures.confusion_matrix(predicted, labels),
        "class_accuracy": lambda: figures.class_accuracy(predicted, labels),
        "mistakes": lambda: figures.mistakes(*misread),
        "attribution": lambda: figures.attribution(network, *misread),
        "reliability": lambda: figures.reliability(probabilities, labels),
        "feature_maps": lambda: figures.feature_maps(network, pixels[0], layer),
        "layers": lambda: figures.layers(networks_of(network)[0], pixels[0]),
        "filters": lambda: figures.filters(network),
    }
    if (predicted == labels).all():
        del drawings["attribution"]
    return drawings


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


# -- the page


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
    "filters": "",
    "curves": "",
    "augmentation": "The first test image as an example; only training images are changed.",
}


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
    error = multiclass_calibration_error(probabilities, labels, 10)
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
        f"<div><dt>{name}</dt><dd>{value}</dd><p>{note}</p></div>" for name, value, note in numbers
    )

    predicted = probabilities.argmax(dim=1)
    wrong = (predicted != labels).nonzero().flatten().tolist()
    wrong.sort(key=lambda i: -float(probabilities[i, predicted[i]]))
    misread = "".join(
        f"<tr><td>{i}<td>{labels[i]}<td>{predicted[i]}"
        f"<td>{percent(float(probabilities[i, predicted[i]]))}"
        f"<td>{percent(float(probabilities[i, labels[i]]))}</tr>"
        for i in wrong
    )
    settings = run.get("hyper_parameters", {"members": len(members)} | members[0].settings)
    settings = settings | run.get("datamodule_hyper_parameters", {})
    settings = settings | run.get("made_with", {})  # earlier checkpoints do not say
    unused = ("predict_set",) if settings.get("pseudo_labels") else ("predict_set", "pseudo_")
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(_value(value))}</td></tr>"
        for name, value in settings.items()
        if not name.startswith(("_", *unused)) and value != ""
    )
    missing = "" if run else "There is no single run, so there are no curves and no warps to show."
    if run and "curves" not in drawn:
        missing = "There are no curves: the checkpoint is not in a run's folder with event files."

    def show(*names: str) -> str:
        return "".join(drawn[name] for name in names if name in drawn)

    return Template(PAGE.read_text()).substitute(
        errors=f"{num_images - hits:,}",
        images=f"{num_images:,}",
        dataset=escape(dataset),
        source=escape(printable(source)),
        steps=f", after {run['global_step']:,} training steps" if run else "",
        tiles=tiles,
        misread=misread,
        errs=show(*NARROW, *ERRORS),
        learned=show(*LEARNED),
        missing=missing,
        training=show(*TRAINING),
        settings=rows,
    )


def _figure(name: str, title: str, subtitle: str, png: bytes) -> str:
    kind = "narrow" if name in NARROW else "wide"
    alt = escape(f"{title}: {subtitle}")
    image = f'<img alt="{alt}" src="data:image/png;base64,{b64encode(png).decode()}">'
    caption = f"<figcaption>{escape(CAPTIONS[name])}</figcaption>" if CAPTIONS[name] else ""
    heading = f"<h3>{escape(title)}</h3><p>{escape(subtitle)}</p>"
    return f'<figure class="{kind}">{heading}<div tabindex="0">{image}</div>{caption}</figure>\n'


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not given" if value is None else str(value)
