"""The layers that backbones are made of, as their configuration wants them: binary, relaxed or float."""

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.keras_layers import halved, same_maximum, same_padding
from bnas_deploy.search.nn.geometry import Geometry, Pair, Sizes
from bnas_deploy.search.nn.image_size import fit_to_images
from bnas_deploy.search.nn.layers import with_extra_padding
from bnas_deploy.search.nn.schemes import named_scheme


class Layers:
    """Makes the layers of one network.

    Args:
        config: says how they are binary.
    """

    def __init__(self, config: BackboneConfig) -> None:
        self.config = config
        self.name = config.name
        self.is_float = config.is_float
        self.scheme = replace(named_scheme(config.scheme), k_map=config.k_map)

    def convolution(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        padding: int | None = None,
        pad_value: int = 0,
        image: Pair | None = None,
    ) -> nn.Module:
        """Return a binary convolution, of a float twin a float one, both without bias.

        Without `padding` an image of stride 1 keeps its size. With `image`, the size that it reads, it is padded as
        TensorFlow's. `pad_value` is what stands at the padding of the binary one; that of the float one is 0.

        Raises:
            BnasError: no such convolution can have a K map.
            ExcludedError: none can have the scheme.
        """
        around: Sizes = kernel_size // 2 if padding is None else padding
        around, extra = (around, (0, 0)) if image is None else same_padding(image, kernel_size, stride)
        geometry = Geometry.of(
            *(in_channels, out_channels, kernel_size, stride, around),
            groups=groups,
            pad_value=pad_value,
            extra_padding=extra,
        )
        if self.is_float:
            return float_of(geometry)
        if self.scheme.k_map and (groups > 1 or pad_value):
            layer = f"{groups} groups" if groups > 1 else f"signs of {pad_value:+} at their padding"
            raise BnasError(
                f"{self.name}: it has convolutions with {layer}, and the K map is a mean of all channels, 0 at "
                "the padding; leave --k-map out"
            )
        return self.scheme.convolution(geometry)

    def activation(self, channels: int, *, has_relu: bool = False) -> nn.Module:
        """Return what stands behind a binary convolution and its BN: what the scheme wants there, or else ReLU.

        A binary network has ReLU where its author has one there, which `has_relu` tells; where a sign follows, most
        have nothing. A float twin always has it.
        """
        own = None if self.is_float else self.scheme.activation(channels)
        if own is not None:
            return own
        return nn.ReLU() if self.is_float or has_relu else nn.Identity()

    def added(self, channels: int) -> nn.Module:
        """Return what the scheme wants behind a convolution where the network itself has no activation."""
        own = None if self.is_float else self.scheme.activation(channels)
        return nn.Identity() if own is None else own

    def twin_relu(self) -> nn.Module:
        """Return the ReLU of a float twin where a binary network has the sign of the next layer instead."""
        return nn.ReLU() if self.is_float else nn.Identity()

    def normalised(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        *,
        image: Pair | None = None,
    ) -> nn.Sequential:
        """Return convolution -> BN; `image` as for the convolution."""
        convolution = self.convolution(in_channels, out_channels, kernel_size, stride, groups, image=image)
        return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))

    def unit(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """Return convolution -> BN -> activation; the sign of a binary one is the first thing that it does."""
        return nn.Sequential(
            *self.normalised(in_channels, out_channels, kernel_size, stride, groups), self.activation(out_channels)
        )

    def preactivated(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1
    ) -> nn.Sequential:
        """Return BN -> ReLU of a twin -> convolution, the order of networks with preactivation."""
        return nn.Sequential(
            nn.BatchNorm2d(in_channels),
            self.twin_relu(),
            self.convolution(in_channels, out_channels, kernel_size, stride, groups),
            self.added(out_channels),
        )

    @property
    def strided_image(self) -> Pair | None:
        """Return the size of the images where layers are padded by it, as larq's networks are; None where not."""
        return self.config.image_size if self.config.like_larq else None

    def stem(
        self, in_channels: int, channels: int, *, large: bool, activation: nn.Module | None = None
    ) -> nn.Sequential:
        """Return a float 3x3 convolution for small images; 7x7 of stride 2 and a max pool of stride 2 for large ones.

        Behind its BN stands `activation`, or else the ReLU of a twin.
        """
        image = self.strided_image if large else None
        convolution = float_convolution(in_channels, channels, 7 if large else 3, stride=2 if large else 1, image=image)
        pool = [nn.MaxPool2d(3, stride=2, padding=1) if image is None else same_maximum(halved(image))] if large else []
        activation = self.twin_relu() if activation is None else activation
        return nn.Sequential(convolution, nn.BatchNorm2d(channels), activation, *pool)


class ExtraPaddedConv2d(nn.Conv2d):
    """A float convolution without bias, with more zeros below and right than above and left."""

    def __init__(self, geometry: Geometry) -> None:
        super().__init__(*geometry.arguments, bias=False)
        self.extra_padding = geometry.extra_padding

    def forward(self, x: Tensor) -> Tensor:
        """Return conv(x)."""
        y: Tensor = super().forward(with_extra_padding(x, self.extra_padding))
        return y


def float_of(geometry: Geometry) -> nn.Conv2d:
    """Return the float convolution without bias of a geometry."""
    return ExtraPaddedConv2d(geometry) if any(geometry.extra_padding) else nn.Conv2d(*geometry.arguments, bias=False)


def float_convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    image: Pair | None = None,
) -> nn.Conv2d:
    """Return a float convolution without bias; an image of stride 1 keeps its size.

    With `image`, the size that it reads, it is padded as TensorFlow's; without, by as much on all sides.
    """
    if image is None:
        return nn.Conv2d(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups=groups, bias=False)
    padding, extra = same_padding(image, kernel_size, stride)
    geometry = Geometry.of(
        *(in_channels, out_channels, kernel_size, stride, padding), groups=groups, extra_padding=extra
    )
    return float_of(geometry)


def float_unit(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    stride: int = 1,
    groups: int = 1,
    *,
    image: Pair | None = None,
) -> nn.Sequential:
    """Return float convolution -> BN -> ReLU."""
    convolution = float_convolution(in_channels, out_channels, kernel_size, stride, groups, image=image)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels), nn.ReLU())


def halving_mean() -> nn.AvgPool2d:
    """Return a 2x2 mean of stride 2; at an odd edge it is the mean of what is there."""
    return nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False)


def halving_maximum() -> nn.MaxPool2d:
    """Return a 2x2 maximum of stride 2, of an odd last row and column, too."""
    return nn.MaxPool2d(2, ceil_mode=True)


class Sum(nn.Module):
    """branch(x) + shortcut(x); without a shortcut, x itself."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        y: Tensor = self.branch(x) + self.shortcut(x)
        return y


class Joined(nn.Module):
    """x and behind its channels those of branch(x): (N, C, H, W) to (N, C + growth, H, W)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        """Return both."""
        return torch.cat((x, self.branch(x)), dim=1)


class PreactivationBlock(nn.Module):
    """branch(norm(x)) + x; where resolution or channels change, plus shortcut(norm(x)) (He et al. 2016b)."""

    def __init__(self, norm: nn.Module, branch: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.norm = norm
        self.branch = branch
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum."""
        normalised = self.norm(x)
        y: Tensor = self.branch(normalised)
        return y + (x if self.shortcut is None else self.shortcut(normalised))


class Gate(nn.Module):
    """x times a factor for each image and channel: dense layer -> ReLU -> dense layer -> sigmoid of the means of x."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, hidden)
        self.expand = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        factors = torch.sigmoid(self.expand(torch.relu(self.reduce(x.mean(dim=(2, 3))))))
        return x * factors[:, :, None, None]


class Repeated(nn.Module):
    """The channels of x, again and again until there are `channels`: (N, C, H, W) to (N, channels, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Return them."""
        copies = -(-self.channels // x.shape[1])
        return torch.cat([x] * copies, dim=1)[:, : self.channels]


class Centred(nn.Module):
    """Every `stride`-th pixel of x, with channels of zeros before and behind its own until there are `channels`.

    (N, C, H, W) to (N, channels, ceil(H / stride), ceil(W / stride)); the odd channel of zeros is behind. It is
    shortcut A of He et al. 2016 as codes for CIFAR have it. Fewer channels than C are the middle ones.
    """

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        more = self.channels - x.shape[1]
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, more // 2, more - more // 2))


class AddedToLast(nn.Module):
    """branch(x) added to the channels of x from `first` on; those before it stay (MeliusNet's improvement block)."""

    def __init__(self, branch: nn.Module, first: int) -> None:
        super().__init__()
        self.branch = branch
        self.first = first

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        return torch.cat((x[:, : self.first], x[:, self.first :] + self.branch(x)), dim=1)


class OnePixel(nn.Module):
    """All of an image as the channels of one pixel, (N, C, H, W) to (N, C H W, 1, 1), for dense layers behind it."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the pixel."""
        return x.flatten(1)[:, :, None, None]


class Mean(nn.Module):
    """Mean over the pixels: (N, C, H, W) to (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        return x.mean(dim=(2, 3))


class Classifier(nn.Module):
    """Mean over the pixels, and a float dense layer: (N, C, H, W) to logits (N, classes)."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits


def classifier_behind_norm(channels: int, classes: int) -> nn.Sequential:
    """Return BN -> ReLU -> mean -> dense layer, how networks with preactivation end."""
    return nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(), Classifier(channels, classes))


def channels_behind(
    modules: Iterable[nn.Module], in_channels: int, image_size: tuple[int, int]
) -> tuple[int, int, int]:
    """Return (channels, height, width) of what comes out of a chain of modules for an image of a size."""
    chain = nn.Sequential(*modules)
    fit_to_images(chain, in_channels, image_size)  # or a layer of a scheme with maps could not run
    modes = [(module, module.training) for module in chain.modules()]
    with torch.no_grad():
        # In evaluation mode: BN of one pixel has no variance, and its statistics have to stay as they are.
        y = chain.eval()(torch.zeros(1, in_channels, *image_size))
    for module, mode in modes:
        module.training = mode
    return y.shape[1], y.shape[2], y.shape[3]


class Backbone(nn.Module):
    """Stem -> blocks -> classifier.

    Attributes:
        blocks: the parts whose outputs a student may be taught.
    """

    def __init__(self, stem: nn.Module, blocks: Iterable[nn.Module], classifier: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.blocks = nn.ModuleList(blocks)
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W), normalised, to logits (N, classes)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.classifier(x)
        return logits
