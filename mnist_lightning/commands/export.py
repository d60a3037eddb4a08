"""Write a trained network for other programs: ONNX, torch.export or safetensors.

    python -m mnist_lightning export model.onnx
    python -m mnist_lightning export --ckpt_path runs/base/version_0/checkpoints/best.ckpt model.pt2
    python -m mnist_lightning export model.safetensors
    python -m mnist_lightning export --int8 small.onnx

`.onnx` and `.pt2` take pixels, float32 `(B, 1, 28, 28)` in [0, 1] for any B, and return logits and
probabilities, `(B, 10)` each, and are compared with the network on all 10,000 test images before
they are written. `.safetensors` holds the weights and the network's settings, as `load` and
`--ckpt_path` read them. `--int8` makes an ONNX file a quarter as large. A file that no export wrote
is replaced only with `--overwrite`.
"""

from pathlib import Path

from mnist_lightning.commands.terminal import make_parser
from mnist_lightning.errors import UserError
from mnist_lightning.text import printable


def main(arguments: list[str]) -> None:
    """Run the command line."""
    parser = make_parser("export", __doc__, writes=True)
    parser.add_argument("output", type=Path, help="a file that ends in .onnx, .pt2 or .safetensors")
    parser.add_argument("--int8", action="store_true", help="8-bit weights, for .onnx")
    options = parser.parse_args(arguments)
    output = options.output
    if output.suffix not in (".onnx", ".pt2", ".safetensors"):
        raise UserError(f"{output} must end in .onnx, .pt2 or .safetensors")
    if options.int8 and output.suffix != ".onnx":
        raise UserError(f"--int8 is for .onnx files, and {output} is none")
    from mnist_lightning.commands.formats import export  # torch takes seconds

    print(printable(export(options.ckpt_path, output, options.overwrite, options.int8)))
