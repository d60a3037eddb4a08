"""A network -> a file for other programs, compared with the network before it is written."""

import io
import logging
import sys
from collections.abc import Callable
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from tqdm import tqdm

from mnist_lightning.checkpoint import load, to_safetensors
from mnist_lightning.commands.terminal import need
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.errors import UserError
from mnist_lightning.files import check_output, replace_file
from mnist_lightning.network import networks_of, to_pixels
from mnist_lightning.sizes import CLASSES, SIDE
from mnist_lightning.text import printable

METADATA = {
    "labels": ",".join(CLASSES),
    "input": f"pixels, float32 (batch, 1, {SIDE}, {SIDE}) in [0, 1], light ink on black",
    "producer": f"mnist_lightning {version('mnist_lightning')}",
    "torch": version("torch"),
}

OPSET = 20  # of ONNX

# Most test images that 8 bits may read differently: twice a seed's standard deviation, and more.
MAX_DIFFERING = 20

# How an exported file is known as ours: by METADATA's producer, or safetensors' metadata.
MARK = rb"producer.{0,100}mnist_lightning \d|mnist_lightning_format"

Run = Callable[[Tensor], Tensor]  # pixels (B, 1, 28, 28) to logits (B, 10)


class WithProbabilities(nn.Module):
    """A copy of a network, in eval mode, that also returns its probabilities.

    Args:
        network: Pixels `(B, 1, 28, 28)` to logits `(B, 10)`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # torch.export warns of weights in the layout that trains fastest.
        self.network = deepcopy(network).to(memory_format=torch.contiguous_format)
        self.eval()

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits and probabilities, `(B, 10)` each."""
        logits = self.network(pixels)
        return logits, logits.softmax(dim=1)


def to_onnx(network: nn.Module) -> bytes:
    """Return the network as one ONNX file, its weights inside.

    Args:
        network: Pixels `(B, 1, 28, 28)` to logits `(B, 10)`.

    Returns:
        The file's contents: input `pixels`, outputs `logits` and `probabilities`, and metadata.
    """
    program = torch.onnx.export(
        WithProbabilities(network),
        (torch.zeros(2, 1, SIDE, SIDE),),  # a batch of 1 would be taken for a constant
        dynamo=True,
        input_names=["pixels"],
        output_names=["logits", "probabilities"],
        dynamic_shapes=({0: "batch"},),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None
    model = program.model_proto
    for key, value in {**METADATA, "opset": f"{OPSET}"}.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


def to_int8(contents: bytes) -> bytes:
    """Return an ONNX file with its weights in 8 bits, a quarter of the size.

    Args:
        contents: A file of `to_onnx`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(contents)
    del model.graph.value_info[:]  # older quantizers transpose weights, and keep the shapes in it
    with TemporaryDirectory() as folder:
        path = Path(folder, "int8.onnx")
        logging.disable(logging.WARNING)  # it advises steps for models that lack shapes
        try:
            # Signed weights want a newer onnxruntime.
            quantize_dynamic(model, path, weight_type=QuantType.QUInt8)
        finally:
            logging.disable(logging.NOTSET)
        return path.read_bytes()


def to_pt2(network: nn.Module) -> bytes:
    """Return the network as a file for `torch.export.load`.

    Args:
        network: Pixels `(B, 1, 28, 28)` to logits `(B, 10)`.

    Returns:
        The file's contents: a program from pixels to logits and probabilities, and metadata.
    """
    contents = io.BytesIO()
    program = torch.export.export(
        WithProbabilities(network),
        (torch.zeros(2, 1, SIDE, SIDE),),
        dynamic_shapes=({0: torch.export.Dim("batch")},),
    )
    torch.export.save(program, contents, extra_files=METADATA)
    return contents.getvalue()


def largest_difference(network: Run, exported: Run, allowed: int = 0) -> tuple[float, int]:
    """Compare an exported network with its original on MNIST's 10,000 test images.

    With `views`, the original takes them all of every image too.

    Args:
        network: The original.
        exported: What other programs would run.
        allowed: How many images it may read as another digit.

    Returns:
        The largest absolute difference between two probabilities, and the number of those images.

    Raises:
        UserError: If it reads more images differently.
    """
    images, _ = read_test_set()
    largest, differing = 0.0, 0
    for part in tqdm(images.split(1000), "compare", leave=False, disable=None):
        pixels = to_pixels(part)
        with torch.no_grad():  # a network takes all views of pixels that want a gradient
            expected, actual = network(pixels.clone().requires_grad_()), exported(pixels)
        differing += int((expected.argmax(1) != actual.argmax(1)).sum())
        largest = max(largest, float((expected.softmax(1) - actual.softmax(1)).abs().max()))
    if differing > allowed:
        raise UserError(f"the export would read {differing} of 10,000 test images differently")
    return largest, differing


def export(paths: list[str], output: Path, overwrite: bool = False, int8: bool = False) -> str:
    """Write a network in the format that the output's suffix names.

    Args:
        paths: Checkpoints, see `load`; none for the network that is shipped.
        output: A file that ends in `.onnx`, `.pt2` or `.safetensors`; one that an export wrote is
            replaced.
        overwrite: Whether to replace any other one.
        int8: Whether an ONNX file's weights have 8 bits.

    Returns:
        A line that says what was written and how it compares.

    Raises:
        UserError: If the output is a checkpoint or a user's own file, the checkpoint is not good,
            or the export reads digits differently; nothing is written then.
        OSError: If a file can't be read or written.
    """
    check_output(output, MARK, paths, overwrite)
    if output.suffix == ".onnx":
        need("onnx", "onnxruntime", "onnxscript")
    network = load(*paths)
    print(f"exporting to {printable(str(output))}", file=sys.stderr)
    if output.suffix == ".safetensors":
        replace_file(output, to_safetensors(network))
        return f"wrote {output}: the same weights"
    if output.suffix == ".onnx":
        contents = to_onnx(network)
        if int8:
            contents = to_int8(contents)
        exported = _run_onnx(contents)
    else:
        contents = to_pt2(network)
        exported = _run_pt2(contents)
    difference, differing = largest_difference(network, exported, MAX_DIFFERING if int8 else 0)
    replace_file(output, contents)
    by = f"torch {METADATA['torch']}"
    by += f", opset {OPSET}" if output.suffix == ".onnx" else ", or a newer one, reads it"
    digits = "the same digits as torch for all 10,000 test images"
    if differing:
        digits = f"another digit than torch for {differing} of 10,000 test images"
    line = f"wrote {output} ({by}): {digits}, probabilities within {difference:.1g}"
    if any(getattr(each, "views", False) for each in networks_of(network)):
        line += "; compared with all views of every image, which torch takes if it is unsure of one"
    return line


def _run_onnx(contents: bytes) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(contents, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(["logits"], {"pixels": pixels.numpy()})[0])


def _run_pt2(contents: bytes) -> Run:
    module = torch.export.load(io.BytesIO(contents)).module()
    return lambda pixels: module(pixels)[0]
