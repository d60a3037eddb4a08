import os
import pickle
from pathlib import Path

import pytest
import torch

from mnist_lightning.checkpoint import load, read_checkpoint, to_safetensors
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.network import ConvNet, Ensemble
from mnist_lightning.training.classifier import MNISTClassifier


def test_load_gives_the_network_ready_to_use(smoke: Path) -> None:
    path = smoke / "runs/smoke/version_0/checkpoints/best.ckpt"
    network = load(path)
    assert not network.training
    weights = read_checkpoint(path)["state_dict"]
    assert torch.equal(network.conv1.weight, weights["network.conv1.weight"])


def test_a_network_from_before_standardizing_is_not_standardized(tmp_path: Path) -> None:
    assert ConvNet().settings["standardize"] is True
    old = Path(__file__).parent / "format_1.ckpt"
    assert load(old).settings["standardize"] is False
    path = tmp_path / "new.safetensors"
    path.write_bytes(to_safetensors(ConvNet()))
    assert load(path).settings["standardize"] is True


def test_hyperparameters_are_plain(smoke: Path) -> None:
    checkpoint = read_checkpoint(smoke / "runs/smoke/version_0/checkpoints/last.ckpt")
    hparams = checkpoint["hyper_parameters"] | checkpoint["datamodule_hyper_parameters"]
    plain = (int, float, str, bool, type(None))
    for value in hparams.values():
        values = value if isinstance(value, tuple | list) else [value]
        assert all(isinstance(v, plain) for v in values)


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "contents",
    [b"", b"<html>Not Found</html>", b"PK\x03\x04 half a zip", pickle.dumps([1])],
    ids=["empty", "html", "truncated", "other"],
)
def test_what_is_no_checkpoint_is_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match="x.ckpt is damaged or not a checkpoint"):
        load(path)


def test_another_projects_checkpoint_is_refused(tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="x.ckpt is not a checkpoint of mnist_lightning"):
        load(tmp_path / "x.ckpt")


def test_code_in_a_checkpoint_does_not_run(tmp_path: Path) -> None:
    torch.save({"state_dict": Payload(tmp_path / "it ran")}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="not a checkpoint"):
        load(tmp_path / "x.ckpt")
    assert not (tmp_path / "it ran").exists()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no checkpoint file"):
        load(tmp_path / "x.ckpt")


def test_a_newer_safetensors_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as newer:
        newer.setattr("mnist_lightning.checkpoint.CHECKPOINT_FORMAT", 2)
        (tmp_path / "x.safetensors").write_bytes(to_safetensors(ConvNet((4,), hidden=16)))
    with pytest.raises(ValueError, match="x.safetensors was written by a newer mnist_lightning"):
        load(tmp_path / "x.safetensors")


def test_several_files_make_an_ensemble_that_fits_in_one(tmp_path: Path) -> None:
    networks = [ConvNet((4,), hidden=16, views=True).eval(), ConvNet((4, 8), hidden=8).eval()]
    paths = [tmp_path / f"{i}.safetensors" for i in range(2)]
    for path, network in zip(paths, networks, strict=True):
        path.write_bytes(to_safetensors(network))
    ensemble, pixels = load(*paths), torch.rand(5, 1, 28, 28)
    torch.testing.assert_close(ensemble(pixels), Ensemble(networks).eval()(pixels))
    (tmp_path / "both.safetensors").write_bytes(to_safetensors(ensemble))
    together = load(tmp_path / "both.safetensors")
    assert isinstance(together, Ensemble) and not together.training
    assert torch.equal(together(pixels), ensemble(pixels))


def test_a_compiled_networks_checkpoint_is_read(smoke: Path, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(smoke / "runs/smoke/version_0/checkpoints/last.ckpt")
    plain = checkpoint["state_dict"]
    compiled = {k.replace("network.", "network._orig_mod."): w for k, w in plain.items()}
    torch.save({**checkpoint, "state_dict": compiled}, tmp_path / "x.ckpt")
    assert read_checkpoint(tmp_path / "x.ckpt")["state_dict"].keys() == plain.keys()
    classifier = MNISTClassifier.load_from_checkpoint(tmp_path / "x.ckpt", map_location="cpu")
    assert torch.equal(classifier.network.conv1.weight, plain["network.conv1.weight"])  # type: ignore[union-attr, arg-type]
    classifier.network = torch.compile(classifier.network)  # type: ignore[assignment]
    given = {"state_dict": dict(plain)}
    classifier.on_load_checkpoint(given)
    assert given["state_dict"].keys() == compiled.keys()


def test_a_safetensors_file_is_a_checkpoint_without_progress(tmp_path: Path) -> None:
    network = Ensemble([ConvNet((2,), hidden=4), ConvNet((2,), hidden=4)])
    path = tmp_path / "x.safetensors"
    path.write_bytes(to_safetensors(network))
    checkpoint = read_checkpoint(path)
    settings = checkpoint["hyper_parameters"]
    assert settings["members"] == 2 and settings["hidden"] == 4
    MNISTClassifier(**settings).load_state_dict(checkpoint["state_dict"])
    mixed = Ensemble([ConvNet((2,), hidden=4), ConvNet((2,), hidden=5)])
    path.write_bytes(to_safetensors(mixed))
    with pytest.raises(ValueError, match="holds networks of several kinds"):
        read_checkpoint(path)


def test_a_checkpoint_gives_its_datamodule_back(smoke: Path) -> None:
    path = smoke / "runs/smoke/version_0/checkpoints/last.ckpt"
    data = MNISTDataModule.load_from_checkpoint(path, weights_only=True)
    assert data.train_size == 5120 and data.val_size == 500
