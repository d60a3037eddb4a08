"""Show what a trained network learned, where it errs and how sure it is, on one page.

    python -m mnist_lightning report
    python -m mnist_lightning report --ckpt_path runs/base/version_0/checkpoints/best.ckpt
    python -m mnist_lightning report --layer relu3 --output_dir report

It measures on the 10,000 test images of the dataset that the checkpoint was trained on, MNIST for a
safetensors file, and writes each figure as PNG and `report.html`, which holds them all and needs
nothing else. The training curves come from the checkpoint's run folder.
"""

import os
from base64 import b64encode
from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from mnist_lightning import figures
from mnist_lightning.checkpoint import load, read_checkpoint
from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.data import datasets
from mnist_lightning.data.augment import preview
from mnist_lightning.figures.measures import layer_output, wilson_interval
from mnist_lightning.files import replace_file
from mnist_lightning.network import ConvNet, Ensemble, networks_of, to_pixels
from mnist_lightning.runs import Curves, read_curves, run_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW = ("confusion_matrix", "reliability")
ERRORS = ("class_accuracy", "mistakes", "attribution")
LEARNED = ("filters", "feature_maps", "layers")
TRAINING = ("curves", "augmentation")
DPI = 160

Drawings = dict[str, Callable[[], "Figure"]]


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("report", __doc__)
    parser.add_argument("--output_dir", type=Path, default=Path("report"), help="report")
    parser.add_argument("--layer", help="whose feature maps to show; left out, the first ReLU's")
    parser.add_argument("--data_root", type=Path, default="data", help="folder of the images: data")
    options = parser.parse_args(arguments)
    _make(options.ckpt_path, options.output_dir, options.layer, options.data_root)


def _make(paths: list[str], output_dir: Path, layer: str | None, root: Path) -> None:
    _check_folder(output_dir)
    network = load(*paths)
    # Of several checkpoints none is the run whose settings and curves are shown.
    is_run = len(paths) == 1 and not paths[0].endswith(".safetensors")
    run = read_checkpoint(paths[0]) if is_run else {}
    if layer is not None:
        layer_output(network, torch.zeros(1, 1, 28, 28), layer)
    dataset = run.get("datamodule_hyper_parameters", {}).get("dataset", "MNIST")
    datasets.prepare(root, dataset)
    images, labels = datasets.read(root, dataset, train=False)
    pixels = to_pixels(images)
    curves = read_curves(run_folder(paths[0])) if run else {}

    parts = tqdm(pixels.split(500), desc="reading the images", leave=False)
    with torch.inference_mode():
        logits = torch.cat([network(part) for part in parts])
    logits = logits.clone()  # an inference tensor has no part in gradients
    drawings = _drawings(network, pixels, labels, logits.softmax(dim=1), layer)
    drawings |= _drawings_of_run(run, curves, pixels[0])
    drawn = {}
    for name, draw in tqdm(drawings.items(), desc="drawing", leave=False):
        figure = draw()
        title, subtitle = (text.get_text() for text in figure.texts[:2])
        drawn[name] = (figures.to_png(figure, DPI), f"{title}: {subtitle}")
    source = ", ".join(paths) or "the network that is shipped"
    page = _page(source, dataset, network, run, labels, logits, drawn)

    output_dir.mkdir(parents=True, exist_ok=True)
    page_path = output_dir / "report.html"
    is_ours = page_path.exists()  # another folder's pictures are a user's own
    for name in NARROW + ERRORS + LEARNED + TRAINING:
        path = output_dir / f"{name}.png"
        if name in drawn:
            replace_file(path, drawn[name][0])
        elif is_ours:
            path.unlink(missing_ok=True)  # an earlier report's, of another network
    replace_file(page_path, page.encode())
    print(f"wrote {page_path} and {len(drawn)} figures beside it")


# -- what goes in


def _check_folder(folder: Path) -> None:
    """Find out before the work, not after it, that the output can't be written."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise NotADirectoryError(f"output_dir {folder}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(f"output_dir {folder}: {there} can't be written")


# -- what is drawn


def _drawings(
    network: ConvNet | Ensemble,
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


def _drawings_of_run(run: dict[str, Any], curves: Curves, pixels: Tensor) -> Drawings:
    drawings: Drawings = {}
    if curves.get("train/loss"):
        drawings["curves"] = lambda: figures.curves(curves)
    settings = run.get("datamodule_hyper_parameters", {})
    ranges = {name: settings.get(name, 0) for name in ("rotation", "shift", "shear", "zoom")}
    if any(ranges.values()):
        warped = preview(pixels, ranges)
        drawings["augmentation"] = lambda: figures.augmentation(pixels[0], warped)
    return drawings


# -- the page


CAPTIONS = {
    "confusion_matrix": "A row is what the images are, a column what the network took them for.",
    "class_accuracy": "Classes whose intervals overlap much may well be equally hard.",
    "mistakes": "Wrong answers that are given with much confidence are the ones that do harm.",
    "attribution": (
        "Integrated gradients from a black image on, of the logit of the class that was read less "
        "the true one's. A map's sum is what the whole image adds to that difference; each map has "
        "its own scale, and its strongest pixels are saturated."
    ),
    "reliability": (
        "Of a well calibrated network's answers that are 80% sure, 80% are right. The error is the "
        "mean distance of the bins' dots from the dashed line, weighted by the number of images."
    ),
    "feature_maps": "The first test image. --layer shows another layer.",
    "layers": "The first test image.",
    "filters": "",
    "curves": "",
    "augmentation": "The first test image stands in for training images, which alone are warped.",
}


def _page(
    source: str,
    dataset: str,
    network: ConvNet | Ensemble,
    run: dict[str, Any],
    labels: Tensor,
    logits: Tensor,
    drawn: dict[str, tuple[bytes, str]],
) -> str:
    from torchmetrics.functional.classification import multiclass_calibration_error

    num_images, hits = len(labels), int((logits.argmax(dim=1) == labels).sum())
    low, high = wilson_interval(hits, num_images)
    probabilities = logits.softmax(dim=1)
    error = multiclass_calibration_error(probabilities, labels, probabilities.shape[1])
    numbers = [
        ("accuracy", f"{hits / num_images:.2%}", f"95% interval {low:.2%} to {high:.2%}"),
        ("errors", f"{num_images - hits:,}", f"of {num_images:,} images"),
        ("loss", f"{F.cross_entropy(logits, labels):.4f}", "mean cross-entropy, nats"),
        ("calibration error", f"{error:.2%}", "expected, l1, 15 bins"),
        ("parameters", f"{sum(p.numel() for p in network.parameters()):,}", _size(network)),
    ]
    tiles = "".join(
        f"<div><dt>{name}</dt><dd>{value}</dd><p>{note}</p></div>" for name, value, note in numbers
    )

    settings = run.get("hyper_parameters") or {}
    settings = settings or {"members": len(networks_of(network))} | networks_of(network)[0].settings
    settings = {**settings, **run.get("datamodule_hyper_parameters", {})}
    rows = "".join(
        f"<tr><th scope=row>{escape(name)}</th><td>{escape(_value(value))}</td></tr>"
        for name, value in settings.items()
        if not name.startswith("_")
    )
    missing = "" if run else "There is no single run, so there are no curves and no warps to show."
    if run and "curves" not in drawn:
        missing = "There are no curves: the checkpoint is in no run's folder with event files."
    steps = f", after {run['global_step']:,} training steps" if run else ""

    def show(*names: str) -> str:
        return "".join(_figure(name, *drawn[name]) for name in names if name in drawn)

    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{num_images - hits:,} of {num_images:,} {dataset} images misread</title>
<style>{CSS}</style>
<main>
<header>
<h1>{num_images - hits:,} of {num_images:,} images misread</h1>
<p>Measured on the {num_images:,} test images of {escape(dataset)}. The network is
<code>{escape(source)}</code>{steps}.</p>
</header>
<dl>{tiles}</dl>
<h2>Where it errs, and how sure it is</h2>
<section>{show(*NARROW, *ERRORS)}</section>
<h2>What it learned</h2>
<section>{show(*LEARNED)}</section>
<h2>How it learned</h2>
<p>{missing}</p>
<section>{show(*TRAINING)}</section>
<table><caption>Settings</caption>{rows}</table>
</main>
</html>
"""


def _figure(name: str, png: bytes, title: str) -> str:
    kind = "narrow" if name in NARROW else "wide"
    image = f'<img alt="{escape(title)}" src="data:image/png;base64,{b64encode(png).decode()}">'
    caption = f"<figcaption>{escape(CAPTIONS[name])}</figcaption>" if CAPTIONS[name] else ""
    return f'<figure class="{kind}"><div tabindex="0">{image}</div>{caption}</figure>\n'


def _size(network: ConvNet | Ensemble) -> str:
    number = len(networks_of(network))
    return "one network" if number == 1 else f"in {number} networks"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "not given" if value is None else str(value)


CSS = """
:root { color-scheme: light dark; --page: #f1f1ee; --card: #fcfcfa; --ink: #222; --soft: #666;
  --line: #ddddd8 }
@media (prefers-color-scheme: dark) {
  :root { --page: #161618; --card: #212124; --ink: #ececea; --soft: #a4a4a4; --line: #38383c } }
* { box-sizing: border-box; margin: 0 }
body { background: var(--page); color: var(--ink); font: 1rem/1.5 system-ui, sans-serif }
main { max-width: 1156px; margin: auto; padding: 2.5rem 1rem 4rem }
h1 { font-size: clamp(1.6rem, 5vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em }
h2 { font-size: 1.25rem; margin: 3rem 0 1rem }
header p { color: var(--soft); margin-top: .6rem }
code { overflow-wrap: anywhere; color: var(--ink) }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 1rem;
  margin-top: 2rem }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: .9rem 1.1rem }
dt, dl p, figcaption, caption { color: var(--soft); font-size: .875rem }
dd { font-size: 1.7rem; font-weight: 600; line-height: 1.3; font-variant-numeric: tabular-nums }
section { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1.5rem 1rem;
  align-items: start }
figure.wide { grid-column: 1 / -1 }
figure div { overflow-x: auto; border-radius: 10px; border: 1px solid var(--line) }
img { display: block; width: 100%; height: auto; background: #fcfcfa }
.wide img { min-width: 720px }
.narrow img { min-width: 538px }
figcaption { margin: .5rem .2rem 0; max-width: 75ch }
table { margin-top: 2rem; border-collapse: collapse; min-width: min(100%, 26rem) }
caption { text-align: left; padding-bottom: .4rem }
th, td { text-align: left; padding: .35rem .5rem .35rem 0; border-top: 1px solid var(--line);
  font-size: .9rem }
th { font-weight: normal; color: var(--soft); padding-right: 2rem }
@media (max-width: 1100px) { section { grid-template-columns: minmax(0, 1fr) }
  figure { max-width: 760px } .narrow { max-width: 600px } }
"""
