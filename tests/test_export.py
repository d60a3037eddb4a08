import re
import sys
from collections import OrderedDict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from conftest import CONFIGS, call, run
from torch import nn

from mnist_lightning.checkpoint import PRETRAINED, load, to_safetensors
from mnist_lightning.commands.formats import MARK, export, largest_difference, to_pt2
from mnist_lightning.data.datasets import read_test_set
from mnist_lightning.files import is_ours
from mnist_lightning.network import ConvNet, Layers, to_pixels


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the shipped network as ONNX, made by the real command."""
    folder = tmp_path_factory.mktemp("export")
    done = run("export", "model.onnx", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "arn" not in done.stderr  # no warning
    assert "the same digits as torch for all 10,000 test images" in done.stdout
    assert [path.name for path in folder.iterdir()] == ["model.onnx"]  # one file, weights inside
    return folder / "model.onnx"


def test_onnxruntime_reads_every_test_image_as_torch_does(onnx_file: Path) -> None:
    images, labels = read_test_set()
    network, errors = load(), 0
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    for part, part_labels in zip(images.split(1000), labels.split(1000), strict=True):
        pixels = to_pixels(part)
        logits, probabilities = map(torch.from_numpy, session.run(None, {"pixels": pixels.numpy()}))
        with torch.inference_mode():
            expected = network(pixels)
        assert torch.equal(logits.argmax(1), expected.argmax(1))
        torch.testing.assert_close(probabilities, expected.softmax(1))
        errors += int((logits.argmax(1) != part_labels).sum())
    assert abs(errors - 39) <= 1  # of 10,000, as README.md says, but for rounding elsewhere


@pytest.mark.parametrize("batch", [1, 3])
def test_onnx_takes_any_batch(onnx_file: Path, batch: int) -> None:
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    pixels = torch.rand(batch, 1, 28, 28)
    assert [out.shape for out in session.run(None, {"pixels": pixels.numpy()})] == [(batch, 10)] * 2


def test_onnx_says_what_it_reads(onnx_file: Path) -> None:
    metadata = {prop.key: prop.value for prop in onnx.load(onnx_file).metadata_props}
    assert metadata["labels"] == "0,1,2,3,4,5,6,7,8,9"
    assert metadata["producer"].startswith("mnist_lightning ")
    assert "[0, 1]" in metadata["input"]
    assert metadata["torch"] == version("torch") and metadata["opset"] == "20"


@pytest.mark.parametrize("views", [False, True])
def test_pt2_runs_without_this_package(
    views: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt2"
    weights = tmp_path / "small.safetensors"
    torch.manual_seed(0)
    network = ConvNet(channels=(4,), hidden=16, views=views)
    network.dense2.weight.data *= 100  # so sure of some that torch takes one view
    weights.write_bytes(to_safetensors(network))
    assert call(monkeypatch, "export", "--ckpt_path", weights, path) == 0
    extra_files: dict[str, Any] = {"labels": ""}
    program = torch.export.load(path, extra_files=extra_files).module()
    pixels = torch.rand(5, 1, 28, 28)
    logits, probabilities = program(pixels)
    # The file takes all views of all images, as the network does where gradients are wanted.
    torch.testing.assert_close(logits, load(weights)(pixels.clone().requires_grad_()))
    torch.testing.assert_close(probabilities, logits.softmax(1))
    assert extra_files["labels"] == "0,1,2,3,4,5,6,7,8,9"


def test_safetensors_come_back_as_they_went(
    monkeypatch: pytest.MonkeyPatch, smoke: Path, tmp_path: Path
) -> None:
    checkpoint = smoke / "runs/smoke/version_0/checkpoints/best.ckpt"
    path = tmp_path / "model.safetensors"
    assert call(monkeypatch, "export", "--ckpt_path", checkpoint, path) == 0
    expected, actual = load(checkpoint).state_dict(), load(path).state_dict()
    assert expected.keys() == actual.keys()
    assert all(torch.equal(expected[name], actual[name]) for name in expected)


def test_the_shipped_network_is_that_of_wild_yaml() -> None:
    import yaml

    base, wild = (
        yaml.safe_load((CONFIGS / name).read_text()) for name in ("base.yaml", "wild.yaml")
    )
    settings = base["model"] | wild["model"]
    settings["channels"] = tuple(settings["channels"])
    assert load().settings == {name: settings[name] for name in load().settings}


@pytest.mark.parametrize("place", [20, 5_000, -1])
def test_a_damaged_safetensors_file_is_refused(tmp_path: Path, place: int) -> None:
    contents = bytearray(PRETRAINED.read_bytes())
    contents[place] ^= 1
    (tmp_path / "x.safetensors").write_bytes(contents)
    with pytest.raises(ValueError, match="x.safetensors (is damaged|was not written by|holds)"):
        load(tmp_path / "x.safetensors")


def test_an_export_that_reads_other_digits_is_refused() -> None:
    def constant(digit: int) -> Any:
        return lambda pixels: torch.eye(10)[digit].expand(len(pixels), 10)

    assert largest_difference(constant(3), constant(3)) == (0, 0)
    with pytest.raises(ValueError, match="10000 of 10,000 test images differently"):
        largest_difference(constant(3), constant(4))

    torch.manual_seed(0)
    layers = OrderedDict(flatten=nn.Flatten(), dense=nn.Linear(784, 10))
    network = Layers(layers, 0.0, views=True).eval()
    layers["dense"].weight.data *= 100  # so sure that views change digits that torch leaves alone
    with pytest.raises(ValueError, match="test images differently"):
        largest_difference(network, network)
    # A file takes all views, as the network does if gradients are wanted.
    assert largest_difference(network, lambda pixels: network(pixels.requires_grad_())) == (0, 0)


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the file of a small network, in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("small.safetensors").write_bytes(to_safetensors(ConvNet(channels=(4,), hidden=16)))
    return "small.safetensors"


def test_the_same_export_works_twice(
    weights: str, onnx_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert call(monkeypatch, "export", "--ckpt_path", weights, "x.safetensors") == 0
    Path("x.pt2").write_bytes(to_pt2(load(weights)))
    assert is_ours(Path("x.pt2"), MARK) and is_ours(onnx_file, MARK)


@pytest.mark.parametrize("name", ["x.onnx", "x.pt2", "x.safetensors"])
def test_what_no_export_wrote_is_not_replaced(
    name: str, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(name).write_bytes(b"mine, of mnist_lightning/network.py")
    said = call(monkeypatch, "export", "--ckpt_path", weights, name)
    assert str(said).startswith(f"error: {name} exists and bears no mark of mnist_lightning: ")
    assert Path(name).read_bytes()[:4] == b"mine"


def test_a_checkpoint_is_not_replaced_by_its_own_export(
    weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("link.safetensors").symlink_to(weights)
    Path("x.safetensors").write_text("mine")
    before = Path(weights).read_bytes()
    said = call(monkeypatch, "export", "--ckpt_path", weights, "link.safetensors", "--overwrite")
    assert said == "error: link.safetensors is read by this very command: name another file"
    assert Path(weights).read_bytes() == before
    assert call(monkeypatch, "export", "--ckpt_path", weights, "x.safetensors", "--overwrite") == 0
    load("x.safetensors")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.h5"], "error: model.h5 must end in .onnx, .pt2 or .safetensors"),
        (["--int8", "model.pt2"], "error: --int8 is for .onnx files, and model.pt2 is none"),
        (["nowhere/model.onnx"], "error: there is no folder nowhere to write model.onnx in"),
        (["--ckpt_path", "x.ckpt", "model.onnx"], "error: there is no checkpoint file x.ckpt"),
    ],
)
def test_mistakes_are_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, "export", *arguments) == message
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_before_the_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    message = str(call(monkeypatch, "export", "model.onnx"))
    assert message == (
        f"error: onnxscript is missing: {sys.executable} -m pip install onnx onnxruntime onnxscript"
    )
    assert not list(tmp_path.iterdir())


def test_eight_bits_read_almost_the_same_digits_from_a_quarter_of_the_size(tmp_path: Path) -> None:
    small = tmp_path / "small.onnx"
    line = export([], small, int8=True)
    assert re.search(
        r" \(torch .*, opset 20\): (the same digits|another digit .* for \d+ of)", line
    )
    assert small.stat().st_size < 700_000 and is_ours(small, MARK)


def test_a_pt2_file_says_which_torch_reads_it(tmp_path: Path) -> None:
    assert f"torch {version('torch')}, or a newer one, reads it" in export([], tmp_path / "x.pt2")
    extra = {"torch": ""}
    torch.export.load(tmp_path / "x.pt2", extra_files=extra)
    assert extra["torch"] == version("torch")


def test_the_pages_preprocessing_reads_a_drawing(
    onnx_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (CONFIGS.parent / "docs/export.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(onnx_file.parent)
    exec(code, names := {})
    assert re.fullmatch(r"7 0\.9\d+\n", capsys.readouterr().out)
    with torch.inference_mode():
        expected = load()(torch.from_numpy(names["pixels"])).softmax(1)
    assert torch.allclose(torch.from_numpy(names["probabilities"]), expected, atol=1e-5)
