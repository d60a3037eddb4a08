from inspect import signature

import pytest
import torch
from torch import nn

from mnist_lightning.checkpoint import load
from mnist_lightning.errors import UserError
from mnist_lightning.figures.measures import layer_output
from mnist_lightning.network import SURE, ConvNet, Ensemble, networks_of


def num_parameters(network: ConvNet) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_without_batch_norm_it_has_the_notebooks_594922_parameters() -> None:
    assert num_parameters(ConvNet(batch_norm=False)) == 594_922


def test_batch_norm_adds_a_scale_and_puts_its_shift_in_the_place_of_the_bias() -> None:
    assert num_parameters(ConvNet()) == 594_922 + (32 + 32 + 64 + 64 + 512) == 595_626


def test_layers_stand_in_the_articles_order_but_for_the_pool_before_its_relu() -> None:
    assert [name.rstrip("0123456789") for name, _ in ConvNet().named_children()] == [
        "standardize",
        *("conv norm relu conv norm pool relu".split() * 2),
        *"flatten dense norm relu dropout dense".split(),
    ]


def test_brightness_and_contrast_do_not_matter_to_a_network_that_standardizes() -> None:
    pixels = torch.rand(4, 1, 28, 28)
    network = ConvNet().eval()
    torch.testing.assert_close(network(0.2 * pixels + 0.3), network(pixels), atol=1e-4, rtol=0)
    other = ConvNet(standardize=False).eval()
    assert (other(0.2 * pixels + 0.3) - other(pixels)).abs().max() > 1e-3
    assert network(torch.full((1, 1, 28, 28), 0.5)).isfinite().all()  # no deviation at all


def test_a_block_has_as_many_convolutions_as_asked_for_and_one_pool() -> None:
    network = ConvNet((4, 8), hidden=16, convolutions=1, kernel_size=5, batch_norm=False)
    names = "standardize conv1 pool1 relu1 conv2 pool2 relu2 flatten dense1 relu3 dropout dense2"
    assert [name for name, _ in network.named_children()] == names.split()
    assert network.conv2.weight.shape == (8, 4, 5, 5)
    assert network.dense1.in_features == 8 * 4 * 4


def test_padding_keeps_the_size_for_the_pools_alone_to_halve() -> None:
    network = ConvNet((4, 8, 16), hidden=16, padding=1)
    assert network.dense1.in_features == 16 * 3 * 3
    network = ConvNet((4,), hidden=16, kernel_size=5, padding=1)
    assert network.dense1.in_features == 4 * 12 * 12


@pytest.mark.parametrize(
    "arguments",
    [
        {"channels": (4,)},
        {"channels": (4, 8)},
        {"channels": (4, 4, 4), "convolutions": 1},
        {"channels": (4,), "convolutions": 3, "kernel_size": 5},
        {"channels": (4, 4, 4, 4), "padding": 1},
    ],
)
def test_images_become_ten_logits(arguments: dict) -> None:
    logits = ConvNet(**arguments, hidden=16).eval()(torch.rand(3, 1, 28, 28))
    assert logits.shape == (3, 10)
    assert (logits < 0).any() and not torch.allclose(logits.sum(1), torch.ones(3))  # no softmax


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"channels": (32, 0)}, "channels 0 must be 1 or more"),
        ({"hidden": 0}, "hidden 0 must be 1 or more"),
        ({"convolutions": 0}, "convolutions 0 must be 1 or more"),
        ({"kernel_size": 0}, "kernel_size 0 must be 1 or more"),
        ({"padding": -1}, "padding -1 must be in 0 to 2"),
        ({"padding": 3}, "padding 3 must be in 0 to 2 for kernels of 3"),
        ({"channels": (8, 8, 8)}, "room for 2 blocks of 2 convolutions with kernels of 3"),
        ({"channels": (8,), "kernel_size": 15}, "room for 0 blocks"),
        ({"channels": ()}, "one number or more"),
        ({"dropout": 1.0}, "dropout 1.0 must be in 0 to 1"),
        ({"dropout": float("nan")}, "dropout nan must be in 0 to 1"),
    ],
)
def test_impossible_sizes_are_refused(arguments: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ConvNet(**arguments)


def mean_over_views(network: ConvNet, images: torch.Tensor) -> torch.Tensor:
    views = [images] + [torch.zeros_like(images) for _ in range(4)]
    views[1][:, :, 1:] = images[:, :, :-1]
    views[2][:, :, :-1] = images[:, :, 1:]
    views[3][:, :, :, 1:] = images[:, :, :, :-1]
    views[4][:, :, :, :-1] = images[:, :, :, 1:]
    return torch.stack([network(each).softmax(1) for each in views]).mean(0)


def test_views_answer_with_the_mean_over_an_image_and_its_four_shifts_unless_it_is_sure() -> None:
    torch.manual_seed(0)
    network, plain = ConvNet((4,), hidden=16, views=True).eval(), ConvNet((4,), hidden=16).eval()
    network.dense2.weight.data *= 100  # so that half of the answers are sure
    plain.load_state_dict(network.state_dict())
    images = torch.rand(40, 1, 28, 28) * torch.rand(40, 1, 1, 28)
    alone, mean = plain(images).softmax(1), mean_over_views(plain, images)
    sure = alone.amax(1) >= SURE
    assert 10 < sure.sum() < 30 and (alone - mean)[sure].abs().max() > 0.01
    answers = network(images).softmax(1)
    torch.testing.assert_close(answers, torch.where(sure[:, None], alone, mean))
    one_by_one = torch.cat([network(image).softmax(1) for image in images.split(1)])
    torch.testing.assert_close(one_by_one, answers)
    # A gradient wants no jumps.
    torch.testing.assert_close(network(images.clone().requires_grad_()).softmax(1), mean)


@pytest.mark.parametrize("scale", [1.0, 100.0])  # unsure, and sure
def test_a_layers_output_is_that_of_the_image_itself(scale: float) -> None:
    network, image = ConvNet((4,), hidden=16, views=True).eval(), torch.rand(2, 1, 28, 28)
    network.dense2.weight.data *= scale
    seen = layer_output(network, image, "relu1")
    assert torch.equal(seen, network[:4](image))


def test_a_slice_is_a_plain_sequence_of_layers_a_feature_extractor() -> None:
    network, pixels = load(), torch.rand(2, 1, 28, 28)
    features = network[:8]  # type: ignore[index]
    assert type(features) is nn.Sequential and features.norm1 is network.norm1
    assert torch.equal(features(pixels), layer_output(network, pixels, "relu2"))
    assert features(pixels).shape == (2, 16, 14, 14)
    assert network[1] is network.conv1 and network[-1] is network.dense2  # type: ignore[index]


def test_channels_are_kept_as_a_tuple_whatever_they_were_given_as() -> None:
    settings = ConvNet([4], hidden=16, views=True).settings  # type: ignore[arg-type]
    assert settings["channels"] == (4,) and settings["hidden"] == 16 and settings["views"]
    assert list(settings) == list(signature(ConvNet).parameters)


def test_training_sees_no_views() -> None:
    torch.manual_seed(0)
    network, image = ConvNet((4,), hidden=16, dropout=0.0, views=True), torch.rand(2, 1, 28, 28)
    logits = network.train()(image)
    network.views = False
    assert torch.equal(logits, network(image))


def test_an_ensemble_answers_with_the_mean_of_its_members_probabilities() -> None:
    networks = [ConvNet((4,), hidden=16) for _ in range(3)]
    ensemble, pixels = Ensemble(networks).eval(), torch.rand(5, 1, 28, 28)
    mean = torch.stack([network(pixels).softmax(1) for network in networks]).mean(0)
    torch.testing.assert_close(ensemble(pixels).softmax(1), mean)
    torch.testing.assert_close(ensemble(pixels).exp().sum(1), torch.ones(5))


def test_in_training_each_member_gets_its_own_share() -> None:
    networks = [ConvNet((4,), hidden=16, dropout=0, batch_norm=False) for _ in range(2)]
    pixels = torch.rand(6, 1, 28, 28)
    logits = Ensemble(networks).train()(pixels)
    torch.testing.assert_close(logits[:3], networks[0](pixels[:3]))
    torch.testing.assert_close(logits[3:], networks[1](pixels[3:]))


def test_an_ensemble_of_ensembles_counts_every_network_once() -> None:
    one, two, three = (ConvNet((4,), hidden=16) for _ in range(3))
    assert networks_of(Ensemble([one, Ensemble([two, three])])) == [one, two, three]
    assert networks_of(one) == [one]
    with pytest.raises(ValueError, match="at least one"):
        Ensemble([])


@pytest.mark.parametrize(
    "pixels",
    [
        torch.zeros(2, 1, 28, 28, dtype=torch.uint8),
        torch.zeros(2, 28, 28),
        torch.zeros(1, 28, 28),
        torch.zeros(2, 1, 32, 32),
        torch.zeros(2, 3, 28, 28),
    ],
)
@pytest.mark.parametrize("standardize", [True, False])
def test_a_network_says_what_it_takes(pixels: torch.Tensor, standardize: bool) -> None:
    network = ConvNet((4,), hidden=8, standardize=standardize).eval()
    with pytest.raises(UserError, match=r"takes float pixels \(B, 1, 28, 28\) in \[0, 1\], not"):
        network(pixels)
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
