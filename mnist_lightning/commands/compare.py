"""Compare two trained networks on the same images: which misreads what the other reads.

    python -m mnist_lightning compare runs/base/version_0/checkpoints/best.ckpt other.ckpt
    python -m mnist_lightning compare best.ckpt model.safetensors --set test

Two networks on the same images tell more than two accuracies: images that both misread, or neither,
say nothing. McNemar's exact test asks how likely so uneven a split of the others would be if both
networks were as good. It is about these two networks: of two recipes several seeds tell.

By default both are compared on the validation images that both held out. To choose by test images
is to choose by luck; `--set test` is for when all is decided.
"""

from pathlib import Path
from typing import Any

from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.data.splits import held_out
from mnist_lightning.errors import UserError
from mnist_lightning.text import printable

# Settings that name a run's validation images, as a file has them that is older than they are.
SPLIT = {"dataset": "MNIST", "val_size": 0, "split": "random", "split_seed": 0}


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("compare", __doc__, ckpt_path=False)
    for name in ("first", "second"):
        parser.add_argument(name, help="a checkpoint that fit wrote, or a .safetensors file")
    parser.add_argument(
        "--set",
        choices=("validation", "test"),
        default="validation",
        help="which images (default: %(default)s)",
    )
    parser.add_argument("--data_root", type=Path, default=Path("data"), help="the data's folder")
    options = parser.parse_args(arguments)
    lines = compare((options.first, options.second), options.set, options.data_root)
    print("\n".join(map(printable, lines)))


def compare(paths: tuple[str, str], set_: str, root: Path) -> list[str]:
    """Compare two networks.

    Args:
        paths: Their checkpoints.
        set_: `validation` or `test`.
        root: The data's folder.

    Returns:
        Lines of text: the images, the errors of each, what they share, and McNemar's test.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the data can't be read.
        UserError: If a file is damaged or of no use, or they held out other images.
    """
    import torch
    from scipy.stats import binomtest
    from torch.nn.functional import cross_entropy

    from mnist_lightning.checkpoint import load, read_checkpoint
    from mnist_lightning.data import datasets
    from mnist_lightning.network import to_pixels

    settings = [_split_of(path, read_checkpoint(path)) for path in paths]
    if set_ == "validation":
        _check_split(paths, settings)
    name, *split = settings[0].values()
    if settings[1]["dataset"] != name:
        raise UserError(f"{paths[1]} is no network of {name}, as {paths[0]} is")
    datasets.prepare(root, name)
    images, labels = datasets.read(root, name, train=set_ == "validation")
    if set_ == "validation":
        indices = held_out(root, labels, *split)
        images, labels = images[indices], labels[indices]

    rows, wrong = [], []
    for which, path in zip("AB", paths, strict=True):
        network = load(path)
        with torch.inference_mode():
            logits = torch.cat([network(to_pixels(part)) for part in images.split(500)])
        wrong.append(logits.argmax(dim=1) != labels)
        loss = float(cross_entropy(logits, labels))
        rows.append(f"{which}  {int(wrong[-1].sum()):6,} misread  loss {loss:.4f}  {path}")
    first, second = wrong
    only_a, only_b = int((first & ~second).sum()), int((second & ~first).sum())
    p = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    return [
        f"{len(labels):,} {set_} images of {name}",
        *rows,
        f"both misread {int((first & second).sum()):,}, only A {only_a:,}, only B {only_b:,}",
        f"McNemar's exact test: p = {p:.2g}",
    ]


def _split_of(path: str, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return the settings in `SPLIT` of a checkpoint, whose values may be anything."""
    data = checkpoint.get("datamodule_hyper_parameters", {})
    split = {name: data.get(name, value) for name, value in SPLIT.items()}
    if any(type(split[name]) is not type(value) for name, value in SPLIT.items()):
        raise UserError(f"{path} is not a checkpoint of mnist_lightning: look at its data settings")
    return split


def _check_split(paths: tuple[str, str], settings: list[dict[str, Any]]) -> None:
    """Refuse networks one of which may have been trained on the other's validation images."""
    for path, each in zip(paths, settings, strict=True):
        if not each["val_size"]:
            raise UserError(f"{path} held out no images that are known: --set test is left")
    for key, value in settings[0].items():
        if settings[1][key] != value:
            raise UserError(
                f"{paths[0]} and {paths[1]} held out other images, data.{key} {value} and "
                f"{settings[1][key]}: --set test is left"
            )
