"""The callback that draws into TensorBoard: what it writes, and that training does not notice."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

from mnist_lightning import figures
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.figures.measures import layer_output, worst
from mnist_lightning.training.classifier import MNISTClassifier
from mnist_lightning.training.tensorboard import Pictures, Settings


def fit(root: str, logger: Logger | None, *callbacks: pl.Callback, **data: Any) -> MNISTClassifier:
    pl.seed_everything(0, verbose=False)
    classifier = MNISTClassifier(channels=(2, 3), hidden=8)
    pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=logger or False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=None if data.get("val_size", 300) else 0,
        log_every_n_steps=1,
    ).fit(classifier, MNISTDataModule(root, **{"train_size": 256, "val_size": 300, **data}))
    return classifier


def tensorboard(folder: Path) -> TensorBoardLogger:
    return TensorBoardLogger(folder, "pictures", default_hp_metric=False)


class RandomStates(pl.Callback):
    """Keeps the states of the random generators at the end of every hook that draws."""

    def __init__(self) -> None:
        self.states: list[Any] = []

    def keep(self, *_: Any) -> None:
        name, keys, *rest = np.random.get_state()
        self.states.append((torch.get_rng_state().tolist(), name, list(keys), rest))

    on_train_batch_start = on_validation_end = on_train_epoch_start = on_fit_end = keep  # type: ignore[assignment]


@pytest.fixture(scope="module")
def drawn(root: str, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a run with pictures: its events, its classifier, its random states, its folder."""
    folder, states = tmp_path_factory.mktemp("drawn"), RandomStates()
    classifier = fit(root, tensorboard(folder), Settings(), Pictures(), states)
    run = folder / "pictures/version_0"
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    return SimpleNamespace(events=events, classifier=classifier, states=states.states, folder=run)


def test_training_is_the_same_to_the_bit_without_pictures(
    drawn: Any, root: str, tmp_path: Path
) -> None:
    states = RandomStates()
    plain = fit(root, tensorboard(tmp_path), states)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, drawn.classifier.state_dict()[name]), name
    assert states.states == drawn.states
    scalars = EventAccumulator(str(tmp_path / "pictures/version_0")).Reload()
    names = scalars.Tags()["scalars"]
    assert names == drawn.events.Tags()["scalars"]
    for name in names:
        one, other = ([(e.step, e.value) for e in x.Scalars(name)] for x in (scalars, drawn.events))
        assert one == other


def test_every_epoch_has_its_pictures_at_the_steps_of_its_curves(drawn: Any) -> None:
    steps = {
        tag: [image.step for image in drawn.events.Images(tag)]
        for tag in drawn.events.Tags()["images"]
    }
    validations = [event.step for event in drawn.events.Scalars("val/accuracy")]
    drawn_each_time = [
        "network/filters",
        "network/feature_maps",
        "val/confusion_matrix",
        "val/mistakes",
    ]
    assert steps == {"data/augmentation": [0], **dict.fromkeys(drawn_each_time, validations)}
    assert validations == [1, 3]


def test_the_graph_names_every_layer(drawn: Any) -> None:
    names = " ".join(node.name for node in drawn.events.Graph().node)
    assert all(f"[{name}]" in names for name, _ in drawn.classifier.network.named_children())


def test_hparams_are_the_runs_settings_with_its_last_val_accuracy(drawn: Any) -> None:
    tags = drawn.events.summary_metadata
    contents = [
        plugin_data_pb2.HParamsPluginData.FromString(data.plugin_data.content)
        for tag, data in tags.items()
        if tag.startswith("_hparams_/")
    ]
    (experiment,) = [data.experiment for data in contents if data.HasField("experiment")]
    assert [metric.name.tag for metric in experiment.metric_infos] == ["val/accuracy"]
    (start,) = [data.session_start_info for data in contents if data.HasField("session_start_info")]
    assert start.hparams["hidden"].number_value == 8
    assert start.hparams["batch_norm"].string_value == "True"
    assert start.hparams["channels"].string_value == "[2, 3]"
    assert start.hparams["rotation"].number_value == 8
    assert start.hparams["epochs"].number_value == 2 and start.hparams["seed"].number_value == 0
    assert "torch" in start.hparams["versions"].string_value
    # The tab shows the curve's last value, and no made-up one is among them.
    assert all(event.value > 0 for event in drawn.events.Scalars("val/accuracy"))


def test_training_and_validation_are_in_one_chart(drawn: Any) -> None:
    data = drawn.events.summary_metadata["custom_scalars__config__"]
    assert data.plugin_data.plugin_name == "custom_scalars"
    (layout,) = drawn.events.Tensors("custom_scalars__config__")
    (category,) = layout_pb2.Layout.FromString(layout.tensor_proto.string_val[0]).category
    charts = {chart.title: set(chart.multiline.tag) for chart in category.chart}
    assert charts == {name: {f"train/{name}", f"val/{name}"} for name in ("loss", "accuracy")}
    logged = drawn.events.Tags()["scalars"]
    assert all(tags <= set(logged) for tags in charts.values())


def test_the_embedding_is_what_the_hidden_layer_makes_of_validation_images(
    drawn: Any, root: str
) -> None:
    folder = drawn.folder / "00004/hidden"
    rows = np.loadtxt(folder / "tensors.tsv", delimiter="\t")
    data = MNISTDataModule(root, train_size=256, val_size=300)
    data.setup("fit")
    pixels = data.train_images[data.val_indices][:, None] / 255
    network = drawn.classifier.network.eval()
    expected = layer_output(network, pixels, "relu5")
    np.testing.assert_allclose(rows, expected, atol=6e-4)
    labels = (folder / "metadata.tsv").read_text().split()
    assert labels == [str(int(label)) for label in data.train_labels[data.val_indices]]
    assert (folder / "sprite.png").stat().st_size > 0


def test_the_confusion_matrix_and_the_mistakes_are_of_all_validation_images_once(
    root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Any]] = {"confusion_matrix": [], "mistakes": []}
    for name, calls in seen.items():
        draw = getattr(figures, name)
        monkeypatch.setattr(
            figures, name, lambda *a, calls=calls, draw=draw: calls.append(a) or draw(*a)
        )
    fit(root, tensorboard(tmp_path), Pictures(), val_size=250, eval_batch_size=100)
    events = EventAccumulator(str(tmp_path / "pictures/version_0")).Reload()
    errors = [event.value for event in events.Scalars("val/errors")]
    assert [len(labels) for _, labels in seen["confusion_matrix"]] == [250, 250]
    assert [int((p != labels).sum()) for p, labels in seen["confusion_matrix"]] == errors
    for pixels, labels, probabilities in seen["mistakes"]:
        assert len(pixels) == len(labels) == len(worst(probabilities, labels))
    assert [len(pixels) for pixels, *_ in seen["mistakes"]] == errors


def test_the_first_process_draws_what_all_processes_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(shares: list[Any], own: Any) -> None:
        shares[:] = [own, other]

    drawings: list[Any] = []
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(
        "mnist_lightning.training.tensorboard._draw", lambda *args: drawings.append(args[1:])
    )
    trainer: Any = SimpleNamespace(
        loggers=[tensorboard(tmp_path)],
        sanity_checking=False,
        world_size=2,
        is_global_zero=False,
    )
    logits = torch.eye(10)[[3, 5, 5]]
    batch = torch.rand(3, 1, 28, 28), torch.tensor([3, 5, 6])
    second = Pictures()
    second.on_validation_batch_end(trainer, None, logits, batch, 0)  # type: ignore[arg-type]
    other = second.answers
    second.on_validation_epoch_end(trainer, None)  # type: ignore[arg-type]
    assert drawings == []

    trainer.is_global_zero = True
    first = Pictures()
    first.on_validation_batch_end(trainer, None, logits, batch, 0)  # type: ignore[arg-type]
    first.on_validation_epoch_end(trainer, None)  # type: ignore[arg-type]
    (_, confusion), (_, mistakes) = drawings
    assert confusion.texts[0].get_text() == "2 of 6 misread, most often 6 as 5 (2 times)"
    assert mistakes.texts[0].get_text().startswith("2 images misread")


def test_without_validation_images_it_draws_the_others(root: str, tmp_path: Path) -> None:
    fit(root, tensorboard(tmp_path), Pictures(), val_size=0, rotation=0, shift=0, shear=0, zoom=0)
    run = tmp_path / "pictures/version_0"
    events = EventAccumulator(str(run)).Reload()
    assert set(events.Tags()["images"]) == {"network/filters", "network/feature_maps"}
    assert (run / "00004/hidden/tensors.tsv").exists()


@pytest.mark.parametrize("kind", [None, CSVLogger])
def test_other_loggers_get_nothing(kind: type[CSVLogger] | None, root: str, tmp_path: Path) -> None:
    fit(root, kind(tmp_path) if kind else None, Pictures())
    assert not list(tmp_path.rglob("events*")) and not list(tmp_path.rglob("hidden"))
