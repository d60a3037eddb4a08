"""The network, and what it takes in: torch only, images in, logits out."""

import math
from collections import OrderedDict
from collections.abc import Iterable
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mnist_lightning.errors import UserError
from mnist_lightning.sizes import NUM_CLASSES, SIDE

# Shifts of an image's other views, (right, down) in pixels.
VIEWS = (1, 0), (-1, 0), (0, 1), (0, -1)

# The probability from which the image alone is enough: of writers held out, no answer above 0.89
# was changed by the other views.
SURE = 0.95


class Network(nn.Module):
    """What a network is here: float pixels `(B, 1, 28, 28)` in [0, 1] to logits `(B, 10)`.

    A subclass is a kind of its own, which `--network my.Net` trains, and which `load` builds again
    by its name and its arguments: plain values, as numbers, words and lists. A file can name no
    other class than the subclasses that are imported already.

    Attributes:
        settings: The arguments that it was built with, by name.
        no_digit_below: Least probability of an answer; what is less probable is no digit, to
            `read` and its like.
    """

    settings: dict[str, Any]
    no_digit_below: float = 0.0


class Layers(Network, nn.Sequential):
    """A network that is a list of layers.

    Args:
        layers: The layers by name, from pixels to logits.
        no_digit_below: Least probability of an answer.
        views: True makes the answer, in eval mode, the mean of the probabilities for the image and
            its shifts by one pixel to all four sides, if the image alone leaves it below 0.95: a
            few images in a hundred. An exported or compiled network does so for all images, at
            five times the cost.

    Raises:
        UserError: If `no_digit_below` is out of its range.
    """

    def __init__(
        self, layers: OrderedDict[str, nn.Module], no_digit_below: float, views: bool
    ) -> None:
        if not 0 <= no_digit_below < 1:
            raise UserError(f"no_digit_below {no_digit_below} must be in 0 to 1, 1 excluded")
        super().__init__(layers)
        self.no_digit_below = no_digit_below
        self.views = views

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits `(B, 10)` for pixels `(B, 1, 28, 28)` in [0, 1].

        Raises:
            UserError: If the shape or the type is another one. The values are not looked at, which
                torch.export could not follow.
        """
        if not torch.jit.is_tracing():  # as TensorBoard does, for its graph
            _check(pixels)
        logits = super().forward(pixels)
        if self.training or not self.views:
            return logits
        # No branch on values can be exported, and a gradient wants a function without jumps.
        exported = torch.jit.is_tracing() or torch.compiler.is_compiling()
        if exported or pixels.requires_grad:
            return self._mean_of_views(pixels, logits)
        answers = logits.log_softmax(dim=1)
        unsure = answers.amax(dim=1) < math.log(SURE)
        if unsure.any():
            means = self._mean_of_views(pixels[unsure], logits[unsure])
            answers = answers.index_put((unsure,), means)
        return answers

    def _mean_of_views(self, pixels: Tensor, logits: Tensor) -> Tensor:
        """Return the mean answer `(B, 10)` for pixels, whose logits are known, and their shifts."""
        shifted = [F.pad(pixels, (right, -right, down, -down)) for right, down in VIEWS]
        return _mean_answer([logits, *(super(Layers, self).forward(view) for view in shifted)])

    def __getitem__(self, index: int | slice) -> Any:
        """Return a layer, or for a slice a plain `nn.Sequential` of layers."""
        return nn.Sequential(OrderedDict(self.named_children()))[index]


class ConvNet(Layers):
    """The article's CNN, with the batch norm that it describes.

    For each entry of `channels` a block of convolutions, each with batch norm and ReLU, the last
    with a 2x2 max-pool before its ReLU; a hidden dense layer with batch norm, ReLU
    and dropout; the output layer. Takes float `(B, 1, 28, 28)` in [0, 1], returns logits `(B, 10)`.

    A layer before a batch norm has no bias: the norm would subtract it again, at the cost of one
    more pass over memory.

    A slice of it, `network[:6]`, is a plain `nn.Sequential` of those layers, which it shares.

    Args:
        channels: Output channels of the convolutions in each block.
        hidden: Units of the hidden dense layer.
        dropout: Probability of dropping a hidden unit in training.
        batch_norm: False leaves out every batch norm, as the article's notebook does.
        convolutions: Number of convolutions in each block.
        kernel_size: Side of their kernels, in pixels.
        padding: Black pixels that they see around their images, fewer than `kernel_size`; 0 leaves
            room for two blocks of 3x3 kernels, 1 keeps the size and leaves room for more.
        standardize: True shifts and scales each image to mean 0 and standard deviation 1 first, so
            that brightness and contrast do not matter.
        no_digit_below: Least probability of an answer; what is less probable is no digit, to
            `read` and its like. The logits do not change.
        views: True makes the answer, in eval mode, the mean of the probabilities for the image and
            its shifts by one pixel to all four sides, if the image alone leaves it below 0.95: a
            few images in a hundred. An exported or compiled network does so for all images, at
            five times the cost.

    Attributes:
        settings: The arguments by name, as a file with weights keeps them.

    Raises:
        UserError: If a size is below 1, there are no blocks or too many for the image, or
            `padding` or `dropout` is out of its range.
    """

    def __init__(
        self,
        channels: tuple[int, ...] = (32, 64),
        hidden: int = 512,
        dropout: float = 0.2,
        batch_norm: bool = True,
        convolutions: int = 2,
        kernel_size: int = 3,
        padding: int = 0,
        standardize: bool = True,
        no_digit_below: float = 0.0,
        views: bool = False,
    ) -> None:
        channels = tuple(channels)  # files and users give lists too
        arguments = dict(locals())
        settings = {name: arguments[name] for name in signature(ConvNet).parameters}
        sizes = {"hidden": hidden, "convolutions": convolutions, "kernel_size": kernel_size}
        for name, value in (*sizes.items(), *(("channels", size) for size in channels)):
            if value < 1:
                raise UserError(f"{name} {value} must be 1 or more")
        if not 0 <= padding < kernel_size:
            raise UserError(
                f"padding {padding} must be in 0 to {kernel_size - 1} for kernels of {kernel_size}"
            )
        if not channels:
            raise UserError("channels [] must hold one number or more")
        if not 0 <= dropout < 1:
            raise UserError(f"dropout {dropout} must be in 0 to 1, 1 excluded")

        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if standardize:
            layers["standardize"] = nn.LayerNorm((1, SIDE, SIDE), elementwise_affine=False)
        in_channels, size, i = 1, SIDE, 0
        for block, out_channels in enumerate(channels, start=1):
            for number in range(1, convolutions + 1):
                i += 1
                layers[f"conv{i}"] = nn.Conv2d(
                    in_channels, out_channels, kernel_size, padding=padding, bias=not batch_norm
                )
                if batch_norm:
                    layers[f"norm{i}"] = nn.BatchNorm2d(out_channels)
                # Before ReLU the result is the same, and ReLU is left a quarter to do.
                if number == convolutions:
                    layers[f"pool{block}"] = nn.MaxPool2d(2)
                layers[f"relu{i}"] = nn.ReLU()
                in_channels = out_channels
            size = (size - convolutions * (kernel_size - 1 - 2 * padding)) // 2
            if size < 1:
                raise UserError(
                    f"channels {list(channels)}: a {SIDE}x{SIDE} image has room for {block - 1} "
                    f"blocks of {convolutions} convolutions with kernels of {kernel_size}, "
                    f"padding {padding}"
                )
        layers["flatten"] = nn.Flatten()
        layers["dense1"] = nn.Linear(in_channels * size * size, hidden, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{i + 1}"] = nn.BatchNorm1d(hidden)
        layers[f"relu{i + 1}"] = nn.ReLU()
        layers["dropout"] = nn.Dropout(dropout)
        layers["dense2"] = nn.Linear(hidden, NUM_CLASSES)
        super().__init__(layers, no_digit_below, views)
        self.settings = settings


class Residual(nn.Module):
    """A batch norm, and what a 3x3 convolution adds to it: `z + relu(conv(z))`.

    Args:
        channels: Number of channels C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps `(B, C, H, W)` for maps of the same size."""
        normed = self.norm(maps)
        return normed + self.conv(normed).relu()


class ResNet(Layers):
    """Tom Doucet's network (https://github.com/ttdoucet/mnist), without its costliest layer.

    Three convolutions, each with a max-pool and then a residual block, the mean over all places
    that are left (4x4), and one dense layer. His has a residual block before the first pool too,
    and is twice as wide: five times the cost, and no fewer errors here.

    Args:
        width: Channels of the first convolution; the second has twice, the third four times as
            many.
        standardize: As for `ConvNet`.
        no_digit_below: As for `ConvNet`.
        views: As for `ConvNet`.

    Raises:
        UserError: If a value is out of its range.
    """

    def __init__(
        self,
        width: int = 64,
        standardize: bool = True,
        no_digit_below: float = 0.0,
        views: bool = False,
    ) -> None:
        if width < 1:
            raise UserError(f"width {width} must be 1 or more")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if standardize:
            layers["standardize"] = nn.LayerNorm((1, SIDE, SIDE), elementwise_affine=False)
        layers["conv1"] = nn.Conv2d(1, width, 5, padding=2)
        layers["pool1"] = nn.MaxPool2d(2)
        layers["relu1"] = nn.ReLU()
        for block in (1, 2):
            layers[f"residual{block}"] = Residual(width)
            layers[f"norm{block}"] = nn.BatchNorm2d(width)
            layers[f"conv{block + 1}"] = nn.Conv2d(width, 2 * width, 3, padding=1)
            layers[f"pool{block + 1}"] = nn.MaxPool2d(2, ceil_mode=True)
            layers[f"relu{block + 1}"] = nn.ReLU()
            width *= 2
        layers["residual3"] = Residual(width)
        layers["norm3"] = nn.BatchNorm2d(width)
        layers["mean"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["dense"] = nn.Linear(width, NUM_CLASSES)
        super().__init__(layers, no_digit_below, views)


class Ensemble(nn.Module):
    """Independent networks whose answer is the mean of their probabilities.

    Args:
        networks: Its members; an ensemble among them adds its own members.

    Attributes:
        members: The networks, one by one.
        no_digit_below: The mean of the members' own.

    Raises:
        UserError: If there are none.
    """

    def __init__(self, networks: "Iterable[Network | Ensemble]") -> None:
        super().__init__()
        self.members = nn.ModuleList(one for network in networks for one in networks_of(network))
        if not len(self.members):
            raise UserError("an ensemble needs at least one network")
        thresholds = [network.no_digit_below for network in networks_of(self)]
        self.no_digit_below = sum(thresholds) / len(thresholds)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the ensemble's logits, or in training each member's logits for its own images.

        Args:
            pixels: Float `(B, 1, 28, 28)` in [0, 1]. In training they are B images for each of the
                M members, `(M * B, 1, 28, 28)`, the first member's first.

        Returns:
            In eval mode `(B, 10)`, the logarithms of the mean probabilities: logits, since their
            softmax is that mean. In training mode the members' own logits, `(M * B, 10)`.
        """
        if self.training:
            shares = pixels.chunk(len(self.members))
            pairs = zip(self.members, shares, strict=True)
            return torch.cat([member(share) for member, share in pairs])
        return _mean_answer([member(pixels) for member in self.members])


def to_pixels(images: Tensor) -> Tensor:
    """Turn stored images into what the network takes.

    Args:
        images: uint8 `(B, H, W)`, 0 to 255.

    Returns:
        float32 `(B, 1, H, W)` in [0, 1].
    """
    return images.unsqueeze(1).float().div_(255)


def build(settings: dict[str, Any]) -> Network:
    """Build a network from what a file, or a command line, says of it.

    Args:
        settings: The arguments of a `ConvNet`; or of another network `class_path`, its module and
            name, and `init_args`, its arguments.

    Raises:
        TypeError: If it does not take these arguments.
        UserError: If no such class is imported, or an argument is out of its range.
    """
    if "class_path" not in settings:
        return ConvNet(**settings)
    class_ = kinds().get(settings["class_path"])
    if class_ is None:
        raise UserError(f"no imported module has a network {settings['class_path']}: import it")
    arguments = signature(class_).bind(**settings.get("init_args") or {})
    arguments.apply_defaults()  # a later version may have others
    network = class_(**arguments.arguments)
    network.settings = {"class_path": settings["class_path"], "init_args": arguments.arguments}
    return network


def kinds(class_: type[Network] = Network) -> dict[str, type[Network]]:
    """Return all subclasses of `Network` that are imported, by module and name."""
    found: dict[str, type[Network]] = {}
    for subclass in class_.__subclasses__():
        found |= {f"{subclass.__module__}.{subclass.__qualname__}": subclass, **kinds(subclass)}
    return found


def networks_of(network: "Network | Ensemble") -> list[Network]:
    """Return an ensemble's networks, or a single network as the only one."""
    return list(network.members) if isinstance(network, Ensemble) else [network]  # type: ignore[arg-type]


def _check(pixels: Tensor) -> None:
    if pixels.shape[1:] != (1, SIDE, SIDE) or not pixels.is_floating_point():
        raise UserError(
            f"a network takes float pixels (B, 1, {SIDE}, {SIDE}) in [0, 1], not {pixels.dtype} "
            f"{tuple(pixels.shape)}; network.to_pixels makes them of uint8 images "
            f"(B, {SIDE}, {SIDE})"
        )


def _mean_answer(answers: list[Tensor]) -> Tensor:
    """Return logits `(B, 10)` whose softmax is the mean of the softmaxes of others."""
    return torch.stack(answers).log_softmax(dim=2).logsumexp(dim=0) - math.log(len(answers))
