import csv
import warnings
from contextlib import nullcontext
from inspect import signature
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import call
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    LearningRateFinder,
    StochasticWeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.tuner import Tuner

from mnist_lightning.checkpoint import read_checkpoint, to_safetensors
from mnist_lightning.data.module import MNISTDataModule
from mnist_lightning.data.predictions import read_predictions, write_predictions
from mnist_lightning.errors import UserError
from mnist_lightning.network import ConvNet
from mnist_lightning.training import speed
from mnist_lightning.training.classifier import CalibrationError, MNISTClassifier
from mnist_lightning.training.speed import Throughput
from mnist_lightning.training.trainer import Trainer


def small(**arguments: object) -> MNISTClassifier:
    return MNISTClassifier(channels=(2, 2), hidden=4, **arguments)  # type: ignore[arg-type]


def trainer(**arguments: object) -> pl.Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu"}
    return pl.Trainer(**quiet | arguments)  # type: ignore[arg-type]


class Watch(pl.Callback):
    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer, module, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:  # type: ignore[no-untyped-def]
        self.losses.append(outputs["loss"].item())


def test_one_cycle_spans_all_steps_and_peaks_at_the_learning_rate(root: str) -> None:
    watch, data = Watch(), MNISTDataModule(root, train_size=1280, val_size=100)
    trainer(max_epochs=2, callbacks=[watch]).fit(small(learning_rate=0.01), data)
    rates = watch.rates
    assert len(rates) == 20
    assert max(rates) == pytest.approx(0.01) and rates.index(max(rates)) == 5
    assert rates[0] == pytest.approx(0.01 / 25) and rates[-1] < 1e-5


def test_constant_schedule_keeps_the_learning_rate(root: str) -> None:
    watch, data = Watch(), MNISTDataModule(root, train_size=512, val_size=100)
    trainer(max_epochs=1, callbacks=[watch]).fit(small(schedule="constant"), data)
    assert watch.rates == [3e-3] * 4


SEARCHES: dict[str, Any] = {
    "a learning rate": lambda: LearningRateFinder(num_training_steps=16),
    "a batch size": lambda: BatchSizeFinder(max_trials=6),
    "an average": lambda: StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=2),
}


@pytest.mark.filterwarnings("ignore:.*weights_only|.*does not have many workers")
@pytest.mark.parametrize("schedule", ["one_cycle", "constant"])
@pytest.mark.parametrize("search", SEARCHES)
def test_lightnings_callbacks_that_search_or_average_work_with_both_schedules(
    search: str, schedule: str, root: str, tmp_path: Path
) -> None:
    # 16 steps, fewer than the trials for a batch size take together.
    data = MNISTDataModule(root, train_size=512, val_size=100)
    run = trainer(max_epochs=4, callbacks=[SEARCHES[search]()], default_root_dir=tmp_path)
    classifier = small(schedule=schedule, learning_rate=0.02)
    run.fit(classifier, data)
    (group,) = run.optimizers[0].param_groups
    assert (classifier.learning_rate == 0.02) == (search != "a learning rate")
    assert data.batch_size == data.hparams.batch_size == (64 if search == "a batch size" else 128)
    if search != "an average":
        steps = {"a batch size": 32, "a learning rate": 16}[search]
        assert run.global_step == steps
        if schedule == "one_cycle":
            assert group["max_lr"] == classifier.learning_rate
            assert classifier.lr_schedulers().total_steps == steps  # type: ignore[union-attr]
        else:
            assert group["lr"] == classifier.learning_rate
    assert list(tmp_path.iterdir()) == []


def test_the_tuner_finds_a_rate_that_fit_then_uses(root: str, tmp_path: Path) -> None:
    data, classifier = MNISTDataModule(root, train_size=512, val_size=100), small()
    run = trainer(max_epochs=5, default_root_dir=tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Tuner(run).lr_find(classifier, data, num_training=20)
        run.fit(classifier, data)
    assert found and classifier.learning_rate == found.suggestion() != 3e-3
    assert run.optimizers[0].param_groups[0]["max_lr"] == classifier.learning_rate


def test_an_average_of_a_network_without_batch_norm_is_the_last_checkpoint(
    root: str, tmp_path: Path
) -> None:
    average = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    run = Trainer(max_epochs=2, callbacks=[average], default_root_dir=tmp_path, **quiet)
    classifier = small(batch_norm=False, schedule="constant")
    run.fit(classifier, MNISTDataModule(root, train_size=256, val_size=100))
    saved = read_checkpoint(run.kept[1].best_model_path)["state_dict"]
    assert torch.equal(saved["network.conv1.weight"], classifier.network.conv1.weight)


def test_a_new_run_starts_from_a_files_weights(root: str, tmp_path: Path) -> None:
    data = MNISTDataModule(root, train_size=512, val_size=100)
    first = small()
    (tmp_path / "first.safetensors").write_bytes(to_safetensors(first.network))  # type: ignore[arg-type]
    run = Trainer(logger=False, enable_checkpointing=False, max_epochs=0, accelerator="cpu")
    second, path = small(), str(tmp_path / "first.safetensors")
    run.fit(second, data, init_weights=path)
    assert torch.equal(second.network.conv1.weight, first.network.conv1.weight)
    with pytest.raises(UserError, match="holds another network than this run's"):
        run.fit(MNISTClassifier(channels=(2, 3), hidden=4), data, init_weights=path)
    with pytest.raises(UserError, match="ckpt_path resumes one"):
        run.fit(second, data, ckpt_path=path, init_weights=path)


SGD = {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "momentum": 0.9}}


def test_another_optimizer_of_torchs_takes_adams_place(root: str) -> None:
    watch, data = Watch(), MNISTDataModule(root, train_size=256, val_size=100)
    step = {"class_path": "torch.optim.lr_scheduler.StepLR", "init_args": {"step_size": 1}}
    run = trainer(max_epochs=2, callbacks=[watch])
    run.fit(small(optimizer=SGD, lr_scheduler=step), data)
    assert type(run.optimizers[0]) is torch.optim.SGD
    assert watch.rates == pytest.approx([0.1, 0.1, 0.01, 0.01])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"lr_scheduler": SGD}, "lr_scheduler wants an optimizer"),
        ({"optimizer": SGD, "learning_rate": 0.1}, "has a rate of its own"),
        ({"optimizer": SGD, "schedule": "constant"}, "has a rate of its own"),
        ({"schedule": "cosine"}, "schedule cosine must be one_cycle or constant"),
        ({"optimizer": {"class_path": "os.system"}}, "os.system is no Optimizer of torch's"),
        ({"optimizer": SGD, "lr_scheduler": SGD}, "SGD is no LRScheduler of torch's"),
    ],
)
def test_an_optimizer_that_can_not_be_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small(**arguments)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_half_precision_clips_gradients(clip: float | None, root: str) -> None:
    run = trainer(precision="bf16-mixed", gradient_clip_val=clip, max_epochs=1)
    run.fit(small(), MNISTDataModule(root, train_size=256, val_size=100))
    assert run.optimizers[0].defaults["fused"] is (clip is None)


def test_every_nth_step_is_logged_as_it_was(root: str, tmp_path: Path) -> None:
    watch, data = Watch(), MNISTDataModule(root, train_size=896, val_size=0)
    logger = CSVLogger(tmp_path, "", "")
    options = {"logger": logger, "log_every_n_steps": 3, "limit_val_batches": 0}
    run = trainer(max_epochs=1, callbacks=[watch], **options)
    run.fit(small(), data)
    with (tmp_path / "metrics.csv").open() as file:
        lines = [line for line in csv.DictReader(file) if line["train/loss"]]
    assert [int(line["step"]) for line in lines] == [2, 5]  # of 0 to 6
    for column, values in (("loss", watch.losses), ("learning_rate", watch.rates)):
        logged = [float(line[f"train/{column}"]) for line in lines]
        assert logged == pytest.approx([values[2], values[5]])


def test_metrics_count_every_image_once_whatever_the_batches(root: str) -> None:
    torch.manual_seed(0)
    classifier = small().eval()
    data = MNISTDataModule(root, eval_batch_size=1500)  # 7 steps, not all of one size
    logged = trainer().test(classifier, data, verbose=False)[0]
    assert list(logged) == ["test/accuracy", "test/calibration_error", "test/loss", "test/errors"]

    data.setup("test")
    with torch.no_grad():
        logits = classifier(data.test_images.unsqueeze(1) / 255)
    hits = logits.argmax(1) == data.test_labels
    assert logged["test/errors"] == (~hits).sum()
    assert logged["test/accuracy"] == pytest.approx(hits.double().mean().item(), abs=1e-7)
    assert logged["test/loss"] == pytest.approx(
        F.cross_entropy(logits, data.test_labels).item(), 1e-5
    )
    # Expected calibration error: confidence against accuracy in 15 bins, weighted by their size.
    confidence = logits.softmax(1).amax(1)
    error = sum(
        abs(confidence[inside].double().mean() - hits[inside].double().mean())
        * inside.sum()
        / 10_000
        for i in range(15)
        if (inside := (confidence > i / 15) & (confidence <= (i + 1) / 15)).any()
    )
    assert logged["test/calibration_error"] == pytest.approx(float(error), abs=1e-4)


def test_the_loss_is_the_mean_over_images_not_over_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    classifier, pixels, labels = small(), torch.rand(20, 1, 28, 28), torch.arange(20) % 10
    monkeypatch.setattr(classifier, "log", lambda *_, **__: None)
    with torch.no_grad():
        for part in (slice(1), slice(1, None)):
            classifier.eval().test_step((pixels[part], labels[part]), 0)
        loss = F.cross_entropy(classifier(pixels), labels)
    torch.testing.assert_close(classifier.losses["test"].compute(), loss)  # type: ignore[operator]


def test_predict_in_half_precision_gives_probabilities_that_pseudo_labels_take(
    root: str, tmp_path: Path
) -> None:
    run = trainer(precision="bf16-mixed", limit_predict_batches=1)
    (probabilities,) = run.predict(small(), MNISTDataModule(root))  # type: ignore[misc, union-attr]
    write_predictions(tmp_path / "p.csv", "MNIST/test", np.arange(1000), probabilities)  # type: ignore[arg-type]
    _, _, read = read_predictions(tmp_path / "p.csv")
    torch.testing.assert_close(read.sum(1), torch.ones(1000))


def test_predict_gives_probabilities_in_the_order_of_the_images(root: str) -> None:
    classifier, data = small(), MNISTDataModule(root)
    probabilities = torch.cat(trainer().predict(classifier, data))  # type: ignore[arg-type]
    torch.testing.assert_close(probabilities.sum(1), torch.ones(10_000))
    with torch.no_grad():
        logits = classifier.eval()(data.test_images[5000:5010].unsqueeze(1) / 255)
    torch.testing.assert_close(probabilities[5000:5010], logits.softmax(1))


def test_predict_writes_each_steps_images_in_the_order_of_the_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = torch.eye(10)[:6].reshape(3, 2, 1, 10)  # of steps and ranks
    gather = lambda shares, own: shares.__setitem__(slice(None), [own, list(rows[:, 1])])  # noqa: E731
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    monkeypatch.setattr(pl.Trainer, "predict", lambda self: list(rows[:, 0]))
    monkeypatch.setattr(Trainer, "world_size", 2)
    run = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    data = SimpleNamespace(predict_indices=torch.arange(6), predict_images="MNIST/test")
    data.test_labels = 9 - torch.arange(6)
    run.datamodule = data  # type: ignore[attr-defined]
    run.predict(output=tmp_path / "p.csv")
    lines = (tmp_path / "p.csv").read_text().split()[1:]
    assert [line.split(",")[1:4] for line in lines] == [
        [f"{i}", f"{i}", f"{9 - i}"] for i in range(6)
    ]


def test_a_seed_gives_one_run_to_the_bit_and_another_seed_another(root: str) -> None:
    def losses(seed: int) -> list[float]:
        watch, data = Watch(), MNISTDataModule(root, train_size=512, val_size=100)
        pl.seed_everything(seed, verbose=False)
        trainer(max_epochs=2, callbacks=[watch]).fit(small(), data)
        return watch.losses

    first, again, other = losses(3), losses(3), losses(4)
    assert len(first) == 8 and first == again and not set(first) & set(other)


def step_loss(seed: int, step: int, rank: int) -> float:
    """Return the loss of one fixed network and batch with the dropout of a step."""
    torch.manual_seed(0)
    classifier = MNISTClassifier(channels=(2, 2), hidden=64, dropout=0.5)
    batch = torch.rand(8, 1, 28, 28), torch.arange(8)
    classifier.seed = seed
    loops = SimpleNamespace(total_batch_idx=step)
    stand_in = SimpleNamespace(fit_loop=loops, global_rank=rank, global_step=0, log_every_n_steps=0)
    classifier._trainer = stand_in  # type: ignore[assignment]
    before = torch.get_rng_state()
    loss = classifier.train().training_step(batch, 0)
    assert torch.equal(torch.get_rng_state(), before)
    return loss.item()


def test_dropout_is_a_function_of_seed_step_and_rank_and_leaves_torchs_generator_alone() -> None:
    losses = [step_loss(*where) for where in [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1)]]
    assert len(set(losses)) == 4
    assert step_loss(1, 0, 1) == losses[3]


@pytest.mark.parametrize("seeded", [True, False])
def test_a_run_is_resumed_in_the_same_process_to_the_same_bits(
    seeded: bool, root: str, tmp_path: Path
) -> None:
    path = tmp_path / "third_step.ckpt"  # an epoch has two

    class Save(pl.Callback):
        def on_train_batch_end(self, trainer, *_: object) -> None:  # type: ignore[no-untyped-def, override]
            if trainer.global_step == 3 and not path.exists():
                trainer.save_checkpoint(path)

    def fit(epochs: int = 2, focus: float = 0.5, **start: object) -> dict[str, torch.Tensor]:
        classifier, data = small(), MNISTDataModule(root, train_size=512, focus=focus)
        run = trainer(max_epochs=epochs, limit_val_batches=0, callbacks=[Save()])
        run.fit(classifier, data, **start)
        return classifier.state_dict()

    pl.seed_everything(1, verbose=False) if seeded else torch.seed()
    whole, resumed = fit(), fit(ckpt_path=path, weights_only=True)
    assert all(torch.equal(weight, whole[name]) for name, weight in resumed.items())
    with pytest.raises(UserError, match="ends after 4 steps, this run after 6"):
        fit(3, ckpt_path=path, weights_only=True)
    with pytest.raises(UserError, match="visits hard images, this one does not: mind focus"):
        fit(focus=1.0, ckpt_path=path, weights_only=True)
    pl.seed_everything(2, verbose=False)
    with pytest.raises(UserError, match=r"this one 2: .* or in Python with seed_everything\("):
        fit(ckpt_path=path, weights_only=True)


def test_a_focus_remembers_the_mean_loss_of_each_image_that_was_visited(
    root: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.csv"
    write_predictions(path, "MNIST/test", np.arange(5), torch.full((5, 10), 0.1))
    settings = {"train_size": 96, "batch_size": 64, "focus": 0.5, "val_size": 0}
    data = MNISTDataModule(root, pseudo_labels=str(path), **settings)  # type: ignore[arg-type]
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, *_: object) -> None:  # type: ignore[no-untyped-def, override]
            assert data.last_losses and len(batch) == 3
            seen.append((batch[2], data.last_losses.seen[batch[2]]))
            pixels, labels, visits = batch
            assert len(pixels) == len(labels) == 2 * 64 and len(visits) == 48
            own = data.train_labels[visits]
            assert torch.equal(labels[:48].argmax(dim=1), own)
            assert torch.equal(labels[64:112].argmax(dim=1), own)
            losses = F.cross_entropy(answers[-1], labels, reduction="none")
            torch.testing.assert_close(seen[-1][1], (losses[:48] + losses[64:112]) / 2)

    classifier = small(members=2)
    answers: list[torch.Tensor] = []
    classifier.network.register_forward_hook(lambda *args: answers.append(args[2].detach()))
    trainer(max_epochs=2, limit_val_batches=0, callbacks=[Watch()]).fit(classifier, data)
    (first, losses), (second, _) = seen
    assert data.last_losses and torch.equal(data.last_losses.losses[first], losses)
    assert data.last_losses.losses.isfinite().sum() == 48
    assert len(np.intersect1d(first, second)) < 48 - 24 + 1  # what was not seen comes first


def test_what_became_no_digit_tells_a_focus_nothing_of_the_digit(root: str) -> None:
    shares = {"no_digit_share": 0.3, "neighbor_share": 0.3}
    data = MNISTDataModule(root, train_size=200, batch_size=50, focus=0.5, val_size=0, **shares)  # type: ignore[arg-type]
    whole: list[torch.Tensor] = []

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, *_: object) -> None:  # type: ignore[no-untyped-def, override]
            assert data.last_losses
            whole.append(batch[1].amax(dim=1) == 1)
            assert torch.equal(data.last_losses.seen[batch[2]] > 0, whole[-1])

    trainer(max_epochs=1, limit_val_batches=0, callbacks=[Watch()]).fit(small(), data)
    assert 0.3 < torch.cat(whole).float().mean() < 0.8


def test_every_setting_is_saved_by_name_and_an_unknown_one_named() -> None:
    saved = MNISTClassifier(channels=(8, 16), views=True, members=2).hparams
    names = {*signature(ConvNet).parameters, "members", "learning_rate", "schedule"}
    names |= {"label_smoothing", "temperature", "network", "optimizer", "lr_scheduler"}
    assert saved.keys() == names
    assert saved["channels"] == [8, 16]  # as plain YAML can hold it, whichever was given
    assert MNISTClassifier(channels=[8, 16]).hparams["channels"] == [8, 16]
    assert saved["hidden"] == 512 and saved["views"] and saved["members"] == 2
    with pytest.raises(TypeError, match="'chanels'"):
        MNISTClassifier(chanels=(8, 16))
    assert all(network.views for network in MNISTClassifier(views=True, members=2).network.members)


@pytest.mark.parametrize("kind", [list, tuple])
def test_a_run_of_python_is_resumed_by_the_command_line(
    kind: type, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pl.seed_everything(42, verbose=False)
    classifier = MNISTClassifier(channels=[2, 2], hidden=4)  # type: ignore[arg-type]
    classifier.hparams["channels"] = kind((2, 2))  # a list in files of earlier versions
    run = trainer(max_epochs=1, limit_val_batches=0)
    run.fit(classifier, MNISTDataModule(root, train_size=256))
    run.save_checkpoint("last.ckpt")
    options = ["--model.channels=[2,2]", f"--data.root={root}", "--trainer.max_epochs=1"]
    options += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
    assert call(monkeypatch, "fit", "--ckpt_path=last.ckpt", *options) == 0


def test_the_loss_curve_is_the_one_that_every_refactor_must_keep(root: str) -> None:
    # Without dropout, whose random numbers differ between builds of torch. Other instruction sets
    # (AVX2 for AVX-512) and thread counts came within 7e-4.
    watch, data = Watch(), MNISTDataModule(root, train_size=640, val_size=0)
    pl.seed_everything(0, verbose=False)
    arguments = {"channels": (4, 8), "hidden": 16, "dropout": 0.0, "learning_rate": 0.01}
    arguments |= {"standardize": False}  # as when these figures were written down
    run = trainer(max_epochs=1, limit_val_batches=0, callbacks=[watch])
    run.fit(MNISTClassifier(**arguments), data)  # type: ignore[arg-type]
    expected = [2.39266, 2.38032, 2.22993, 2.11024, 2.13896]
    assert watch.losses == pytest.approx(expected, rel=2e-3)


def test_an_ensembles_first_member_learns_as_it_would_alone(root: str) -> None:
    # Without dropout, whose random numbers the members draw one after the other.
    def network(members: int) -> torch.nn.Module:
        data = MNISTDataModule(root, train_size=512, val_size=100)
        pl.seed_everything(0, verbose=False)
        classifier = small(members=members, dropout=0.0)
        trainer(max_epochs=1).fit(classifier, data)
        return classifier.network

    alone, ensemble = network(1), network(2)
    first, second = ensemble.members  # type: ignore[misc]
    for name, weight in alone.state_dict().items():
        torch.testing.assert_close(first.state_dict()[name], weight, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(first.conv1.weight, second.conv1.weight, atol=1e-2)


def test_an_ensembles_rate_counts_each_image_once(root: str) -> None:
    throughput, data = Throughput(), MNISTDataModule(root, train_size=512, val_size=100)
    trainer(max_epochs=1, callbacks=[throughput]).fit(small(members=2), data)
    assert throughput.images == 512


def test_the_rate_is_that_of_all_processes_without_what_lies_between_epochs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = iter([10.0, 14.0, 100.0, 101.0])
    monkeypatch.setattr("mnist_lightning.training.speed.time.perf_counter", lambda: next(clock))
    logged: list[tuple[dict[str, float], int]] = []
    logger = SimpleNamespace(log_metrics=lambda *values: logged.append(values))
    run: Any = SimpleNamespace(world_size=3, loggers=[logger], global_step=8)
    throughput, module, batch = Throughput(), small(), (None, torch.arange(16))
    throughput.advises = False  # which looks at the clock, too
    for is_last in [False, True, True]:
        run.is_last_batch = is_last
        throughput.on_train_batch_start(run, module, batch, 0)
        throughput.on_train_batch_end(run, module, None, batch, 0)
    names = [list(values) for values, _ in logged]
    assert names == [["train/images_per_second"]] * 2
    assert [value for values, _ in logged for value in values.values()] == [24.0, 48.0]
    assert [step for _, step in logged] == [7, 7]


@pytest.mark.parametrize(
    ("changed", "gain", "told"),
    [
        ({}, 1.5, True),
        ({}, 0.6, False),
        ({"precision": "bf16-mixed"}, 1.5, False),
        ({"strategy": SimpleNamespace(root_device=torch.device("cuda"))}, 1.5, False),
        ({"is_global_zero": False}, 1.5, False),
        ({"estimated_stepping_batches": 70}, 1.5, False),  # of 12 seconds
    ],
)
def test_a_long_run_is_told_once_that_bfloat16_is_faster_where_it_is(
    changed: dict[str, Any],
    gain: float,
    told: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(speed, "bfloat16_gain", lambda: gain)
    run: Any = SimpleNamespace(world_size=1, loggers=[], is_last_batch=False, is_global_zero=True)
    run.precision, run.strategy = "32-true", SimpleNamespace(root_device=torch.device("cpu"))
    run.estimated_stepping_batches, run.global_step, run.accumulate_grad_batches = 3000, 10, 2
    vars(run).update(changed)
    for steps in (8, 15):  # in an epoch
        throughput, module, batch = Throughput(), small(), (None, torch.arange(16))
        for i in range(30):
            run.is_last_batch = (i + 1) % steps == 0
            throughput.on_train_batch_start(run, module, batch, 0)
            throughput.on_train_batch_end(run, module, None, batch, 0)
        assert capsys.readouterr().out.count("trainer.precision bf16-mixed") == told


def test_to_measure_bfloat16_changes_no_later_number() -> None:
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    assert 0.01 < speed.bfloat16_gain() < 100
    assert torch.equal(torch.get_rng_state(), state) and torch.get_num_threads() == threads


def test_members_must_be_one_or_more() -> None:
    with pytest.raises(ValueError, match="members 0 must be 1 or more"):
        small(members=0)


@pytest.mark.parametrize(
    ("device", "step", "stops"), [("cpu", 0, True), ("cuda", 0, False), ("cuda", 2, True)]
)
def test_a_gpu_is_not_waited_for_but_in_steps_that_are_logged(
    device: str, step: int, stops: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = small()
    monkeypatch.setattr(MNISTClassifier, "device", torch.device(device))
    monkeypatch.setattr(classifier, "_seed_dropout", lambda: None)
    stand_in = SimpleNamespace(log_every_n_steps=3, global_step=step, current_epoch=0)
    monkeypatch.setattr(classifier, "_trainer", stand_in)
    batch = torch.full((2, 1, 28, 28), torch.nan), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the loss is nan") if stops else nullcontext():
        assert classifier.training_step(batch, 0).isnan()


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_learning_rates_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number above 0"):
        small(learning_rate=rate)


def test_a_short_training_learns_as_much_as_it_should(root: str) -> None:
    # A floor against a broken network or optimizer, a ceiling against labels that leak.
    data = MNISTDataModule(root, train_size=6000, val_size=2000, batch_size=64)
    pl.seed_everything(0, verbose=False)
    run = trainer(max_epochs=2)
    run.fit(MNISTClassifier(channels=(8, 16), hidden=64, learning_rate=0.01), data)
    assert 0.95 < run.callback_metrics["val/accuracy"] < 0.985


def test_the_calibration_error_is_the_same_in_any_order_of_the_images() -> None:
    torch.manual_seed(0)
    probabilities = (6 * torch.randn(10_000, 10)).softmax(dim=1)
    labels = torch.randint(10, (10_000,))

    def measure(order: torch.Tensor) -> float:
        metric = CalibrationError(10)
        for part in order.split(999):
            metric.update(probabilities[part], labels[part])
        return float(metric.compute())

    orders = [torch.arange(10_000), torch.randperm(10_000), torch.arange(10_000).flip(0)]
    assert len({measure(order) for order in orders}) == 1
