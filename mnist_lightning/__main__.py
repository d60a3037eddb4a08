"""The front door: python -m mnist_lightning COMMAND, or mnist-lightning COMMAND.

It opens a command's room only when it is asked for, so that its own help waits for no import, and
is where all of them end. Exit codes: 0, done; 1, not or not all done, with a line for each reason;
2, a command line that can't be understood; 130, Ctrl-C; 143, SIGTERM.
"""

import gc
import sys
from difflib import get_close_matches
from importlib import import_module
from typing import Any, NoReturn

from mnist_lightning.errors import UserError
from mnist_lightning.text import printable, program

TRAINING = {
    "fit": "train a network",
    "validate": "measure a checkpoint on its validation images",
    "test": "measure a checkpoint on the test images",
    "predict": "write a checkpoint's probabilities for each image to a CSV file",
}
USE = {
    "runs": "list your runs, and how good each one is",
    "compare": "compare two networks on the same images",
    "read": "read the digits in pictures",
    "report": "show what a network learned and where it errs, on one page",
    "export": "write a network for other programs: ONNX, torch.export, safetensors",
    "demo": "serve a page to draw a digit on",
}
HELP = """usage: {program} COMMAND ...

A small convolutional network on MNIST, in PyTorch Lightning.

train and measure:
{training}

use a trained network:
{use}

{program} COMMAND --help says what a command takes. To begin:

  {program} fit
  {program} test --ckpt_path runs/base/version_0/checkpoints/best.ckpt
  {program} read photo.jpg
"""


def main() -> None:
    """Run the command that the command line names, and end in one line if it can't be done."""
    command, *arguments = sys.argv[1:] or ["--help"]
    try:
        _run(command, arguments)
    except OSError as error:
        # TensorBoard's thread and sockets name no file.
        where = error.filename or "writing or connecting failed"
        _fail(f"{where}: {error.strerror}" if error.strerror else str(error))
    except UserError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        sys.exit(130)


def _fail(message: str) -> NoReturn:
    """Exit with 1 and one line, whatever is in a file's name."""
    sys.exit(f"error: {printable(' '.join(message.splitlines()))}")


def _run(command: str, arguments: list[str]) -> None:
    if command in ("-h", "--help"):
        training, use = (
            "\n".join(f"  {k:10}{v}" for k, v in group.items()) for group in (TRAINING, USE)
        )
        print(HELP.format(program=program(), training=training, use=use), end="")
    elif command == "--version":
        from importlib.metadata import version

        print(f"mnist_lightning {version('mnist_lightning')}")
    elif command in TRAINING:
        _open("mnist_lightning.training.cli").main()
    elif command in USE:
        _open(f"mnist_lightning.commands.{command}").main(arguments)
    else:
        near = get_close_matches(command, [*TRAINING, *USE], n=1)
        hint = f"did you mean {near[0]}?" if near else "--help lists them all"
        print(f"error: there is no command {command!r}: {hint}", file=sys.stderr)
        sys.exit(2)


def _open(room: str) -> Any:
    """Import a module and all that it needs, without a search for garbage.

    Imports leave a million objects and no garbage. To look through them again and again, now and
    later, took a third of the time of `test`.
    """
    if room in sys.modules:
        return sys.modules[room]
    collects = gc.isenabled()
    gc.disable()
    try:
        return import_module(room)
    finally:
        gc.freeze()  # what is there is not looked at any more
        if collects:
            gc.enable()


if __name__ == "__main__":
    main()
