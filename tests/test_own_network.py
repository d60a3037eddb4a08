"""A network of one's own, from the module that defines it to a reading."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import PLAIN, call, run

from mnist_lightning.checkpoint import load, read_checkpoint, to_safetensors
from mnist_lightning.errors import UserError
from mnist_lightning.figures.measures import map_layers
from mnist_lightning.network import Network, ResNet, build
from mnist_lightning.training.classifier import MNISTClassifier

MODULE = """
from torch import nn
from mnist_lightning import Network

class Net(Network):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, width, 5, stride=2)
        self.hidden = nn.Linear(width * 144, 16)
        self.relu = nn.ReLU()
        self.dense = nn.Linear(16, 10)
        self.unused = nn.ReLU()

    def forward(self, pixels):
        hidden = self.hidden(self.conv(pixels).relu().flatten(1))
        return self.dense(self.relu(hidden))
"""
# base.yaml's settings of ConvNet do not fit another network, and smoke.yaml has some.
SHORT = ["--data.train_size=640", "--data.val_size=100", "--trainer.max_epochs=1"]


@pytest.fixture(scope="module")
def own(root: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a module, and a run of its network, with pictures in TensorBoard."""
    cwd = tmp_path_factory.mktemp("own")
    (cwd / "mine.py").write_text(MODULE)
    fit = ["fit", *SHORT, "--network", "mine.Net", "--network.width=3", "--data.root", root]
    done = run(*fit, "--trainer.logger.name=own", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "network.class_path=mine.Net" in (cwd / "runs/own/version_0/config.yaml").read_text()
    return cwd


CHECKPOINT = "runs/own/version_0/checkpoints/last.ckpt"


def test_it_is_imported_only_if_the_user_names_it(
    own: Path, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own)
    for command in (["test", "--data.root", root], ["read", "x.png"], ["export", "x.onnx"]):
        line = call(monkeypatch, *command, "--ckpt_path", CHECKPOINT)
        assert "holds a network of another class, mine.Net: give --network mine.Net" in str(line)
    assert "mine" not in sys.modules


def test_its_name_is_enough_and_a_contradiction_refused(own: Path, root: str) -> None:
    name = ["--ckpt_path", CHECKPOINT, "--network", "mine.Net"]
    test = run("test", *name, "--data.root", root, cwd=own)
    assert "of 10,000 test images misread" in test.stdout, test.stderr
    test = run("test", *name, "--network.width=4", "--data.root", root, cwd=own)
    assert test.returncode == 1 and "'width': 4" in test.stderr
    assert "Traceback" not in test.stderr


def test_every_command_takes_it(
    own: Path, root: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(own)
    monkeypatch.syspath_prepend(str(own))
    name = ["--ckpt_path", CHECKPOINT, "--network", "mine.Net"]
    digit = Path(__file__).parents[1] / "docs/digits/7.jpg"
    assert call(monkeypatch, "read", *name, digit) == 0
    report = ["report", *name, "--data_root", root]
    line = call(monkeypatch, *report, "--layer=unused")
    assert line == "error: the network does not use its layer 'unused'"
    assert call(monkeypatch, *report) == 0
    for figure in ("feature_maps", "layers"):  # of the convolution: its ReLU is no layer
        assert Path(f"report/{figure}.png").exists()
    assert map_layers(load(CHECKPOINT)) == ["conv"]
    assert call(monkeypatch, "export", *name, "own.safetensors") == 0
    assert call(monkeypatch, "runs", "--network", "mine.Net") == 0
    assert "1 of 1" in capsys.readouterr().out
    assert type(load("own.safetensors")) is type(load(CHECKPOINT))
    assert load("own.safetensors").conv.weight.shape == (3, 1, 5, 5)


def test_a_network_without_convolutions_is_trained_and_shown(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["from torch import nn", "from mnist_lightning import Network", "class Net(Network):"]
    lines += ["    def __init__(self):", "        super().__init__()"]
    lines += ["        self.dense = nn.Linear(784, 10)", "    def forward(self, pixels):"]
    (tmp_path / "flat.py").write_text(
        "\n".join([*lines, "        return self.dense(pixels.flatten(1))"])
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    fit = ["fit", *SHORT, "--network=flat.Net", "--trainer.logger.name=own"]
    assert call(monkeypatch, *fit, "--data.root", root) == 0
    report = ["report", "--network=flat.Net", "--ckpt_path", CHECKPOINT, "--data_root", root]
    assert call(monkeypatch, *report) == 0
    page = Path("report/report.html").read_text()
    assert "Where it errs" in page and "What it learned" not in page
    digit = str(Path(__file__).parents[1] / "docs/digits/7.jpg")
    assert call(monkeypatch, *report, "--picture", digit) == 0
    assert "What the layers see" not in Path("report/picture.html").read_text()
    assert call(monkeypatch, *report, "--picture", digit, "--layer=dense") == 0
    assert "What the layers see" in Path("report/picture.html").read_text()


@pytest.mark.parametrize(
    ("name", "line"),
    [("mime.Net", "No module named 'mime'"), ("json.JSONDecoder", "no subclass of")],
)
def test_what_is_no_network_is_named(
    name: str, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "read", "--network", name, "x.png") == 2
    assert line in capsys.readouterr().err


def test_settings_of_convnet_are_not_ignored(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = call(monkeypatch, "fit", *PLAIN, "--network=ResNet", "--data.root", root)
    assert "channels is of ConvNet, not of mnist_lightning.network.ResNet" in str(line)
    assert not Path("runs").exists()


def test_a_file_builds_no_class_but_a_network(tmp_path: Path) -> None:
    network = build({"class_path": "mnist_lightning.network.ResNet", "init_args": {"width": 2}})
    assert isinstance(network, ResNet) and network.settings["init_args"]["views"] is False
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_safetensors(network))
    again = load(path)
    pixels = torch.rand(2, 1, 28, 28)
    torch.testing.assert_close(again(pixels), network.eval()(pixels))
    assert read_checkpoint(path)["hyper_parameters"]["network"] == network.settings
    for other in ("torch.nn.modules.linear.Linear", "os.system"):
        network.settings = {"class_path": other, "init_args": {"in_features": 1}}
        path.write_bytes(to_safetensors(network))
        with pytest.raises(UserError, match=f"of another class, {other}"):
            load(path)
    name = "mnist_lightning.network.ResNet"
    damaged: list[Any] = [{"class_path": name, "init_args": {"widht": 2}}, {"class_path": name}]
    damaged += [{"class_path": 3, "init_args": {}}, "class_path", ["class_path"]]
    for settings in damaged:
        network.settings = settings
        path.write_bytes(to_safetensors(network))
        with pytest.raises(UserError, match="another network than this version builds"):
            load(path)
    with pytest.raises(UserError, match=r"no imported module has a network nobody\.Net"):
        MNISTClassifier(network={"class_path": "nobody.Net"})


def test_resnet_answers_by_views_and_is_a_list_of_layers() -> None:
    network = ResNet(2, views=True).eval()
    pixels = torch.rand(3, 1, 28, 28)
    answer = network(pixels)
    network.views = False
    assert answer.shape == (3, 10) and not torch.allclose(answer, network(pixels))
    assert [name for name, _ in network.named_children()][-3:] == ["mean", "flatten", "dense"]
    assert issubclass(ResNet, Network)
    with pytest.raises(UserError, match="width 0"):
        ResNet(0)
    with pytest.raises(UserError, match="no_digit_below 2"):
        ResNet(no_digit_below=2)
