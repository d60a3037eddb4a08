import shutil
from pathlib import Path

import pytest
import torch
from conftest import call

from mnist_lightning.checkpoint import load, to_safetensors
from mnist_lightning.commands.compare import compare
from mnist_lightning.errors import UserError

CHECKPOINTS = "runs/smoke/version_0/checkpoints"


@pytest.fixture
def two(smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Return a run's checkpoint, and the same whose network says 3 for each 5."""
    checkpoint = torch.load(smoke / CHECKPOINTS / "last.ckpt", weights_only=False)
    last = [name for name in checkpoint["state_dict"] if name.endswith("dense2.bias")]
    checkpoint["state_dict"][last[0]][5] -= 100
    torch.save(checkpoint, tmp_path / "other.ckpt")
    shutil.copy(smoke / CHECKPOINTS / "last.ckpt", tmp_path / "last.ckpt")
    monkeypatch.chdir(tmp_path)
    return "last.ckpt", "other.ckpt"


def test_what_each_misreads_alone_is_counted(
    two: tuple[str, str],
    root: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert call(monkeypatch, "compare", *two, "--data_root", root) == 0
    first, a, b, shared, test = capsys.readouterr().out.splitlines()
    assert first == "500 validation images of MNIST"
    errors = [int(line.split()[1]) for line in (a, b)]
    both, only_a, only_b = (int(word.strip(",")) for word in shared.split() if word[0].isdigit())
    assert errors == [both + only_a, both + only_b]
    assert only_b > 30 > only_a  # some 45 of 500 images are a 5
    assert float(test.split()[-1]) < 1e-6
    assert "p = 1" in compare((two[0], two[0]), "validation", Path(root))[-1]


def test_networks_that_may_know_the_images_are_not_compared_on_them(
    two: tuple[str, str], root: str
) -> None:
    shipped = Path("shipped.safetensors")
    shipped.write_bytes(to_safetensors(load()))
    with pytest.raises(UserError, match="shipped.safetensors held out no images that are known"):
        compare((two[0], str(shipped)), "validation", Path(root))
    checkpoint = torch.load(two[1], weights_only=False)
    checkpoint["datamodule_hyper_parameters"]["split_seed"] = 1
    torch.save(checkpoint, two[1])
    with pytest.raises(UserError, match="held out other images, data.split_seed 0 and 1"):
        compare(two, "validation", Path(root))
    with pytest.raises(FileNotFoundError, match="no checkpoint file x.ckpt"):
        compare(("x.ckpt", two[1]), "test", Path(root))
    checkpoint["datamodule_hyper_parameters"]["val_size"] = "many"
    torch.save(checkpoint, two[1])
    with pytest.raises(UserError, match="other.ckpt is not a checkpoint .* look at its data"):
        compare(two, "validation", Path(root))


def test_a_checkpoint_from_before_there_were_writers_was_split_at_random(root: str) -> None:
    old = str(Path(__file__).parent / "format_1.ckpt")
    assert compare((old, old), "validation", Path(root))[0] == "500 validation images of MNIST"
