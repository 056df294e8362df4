"""The candidate operations of a cell: name -> module."""

from typing import Protocol

from torch import Tensor, nn

from bnas_deploy.core.genotype import BATS_GROUPS
from bnas_deploy.search.models.bnas.scheme import scheme_of
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import Zeroise


class LayerConfig(Protocol):
    """What a layer has to know of a network's configuration."""

    @property
    def is_float(self) -> bool:
        """Whether nothing is binary."""

    @property
    def scheme(self) -> str:
        """Name of the scheme of binary convolutions."""

    @property
    def k_map(self) -> bool:
        """Whether binary convolutions are multiplied by the map K."""

    @property
    def deviations(self) -> tuple[str, ...]:
        """Names of `config.DEVIATIONS`; others mean nothing to a layer."""


class ConvBlock(nn.Module):
    """BN -> sign -> convolution -> ReLU; in the float twin BN -> convolution -> ReLU.

    The padding keeps the resolution at stride 1: dilation * (kernel_size - 1) / 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: LayerConfig,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.norm = nn.BatchNorm2d(in_channels, affine=affine)
        geometry = Geometry.of(in_channels, out_channels, kernel_size, stride, padding, dilation)
        self.conv = convolution(geometry, config)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, OH, OW), all >= 0."""
        y: Tensor = self.relu(self.conv(self.norm(x)))
        return y


def convolution(geometry: Geometry, config: LayerConfig) -> nn.Module:
    """Return what the scheme of a configuration has for a binary convolution; a float one for a float twin. No bias.

    The map K is a mean over all channels, so a grouped convolution has none.
    """
    if config.is_float:
        return nn.Conv2d(*geometry.arguments, bias=False)
    k_map = config.k_map and geometry.groups == 1
    return scheme_of(config.scheme, config.deviations, k_map=k_map).convolution(geometry)


class SeparableBlock(nn.Module):
    """BN -> sign -> depthwise convolution -> BN -> sign -> 1x1 convolution -> ReLU (BNAS v2, Eq. 4).

    Both convolutions are binary, each with its own beta; in the float twin there are no signs. DARTS does this twice in
    a row; Eq. 4 is of one.
    """

    def __init__(
        self, channels: int, config: LayerConfig, *, kernel_size: int, stride: int, dilation: int, affine: bool
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        geometry = Geometry.of(channels, channels, kernel_size, stride, padding, dilation, groups=channels)
        self.norm0 = nn.BatchNorm2d(channels, affine=affine)
        self.depthwise = convolution(geometry, config)
        self.pointwise = ConvBlock(channels, channels, config, kernel_size=1, affine=affine)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, OH, OW), all >= 0."""
        y: Tensor = self.pointwise(self.depthwise(self.norm0(x)))
        return y


class BatsBlock(nn.Module):
    """BN -> sign -> grouped convolution -> PReLU -> channel shuffle, plus the input where the stride is 1.

    That is the one operation of BATS, in four geometries; see docs/search.md for what is known of it.
    """

    def __init__(
        self, channels: int, config: LayerConfig, *, kernel_size: int, stride: int, dilation: int, affine: bool
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        geometry = Geometry.of(channels, channels, kernel_size, stride, padding, dilation, groups=BATS_GROUPS)
        self.norm = nn.BatchNorm2d(channels, affine=affine)
        self.conv = convolution(geometry, config)
        self.prelu = nn.PReLU(channels)
        self.shuffle = nn.ChannelShuffle(_BATS_SHUFFLE)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, OH, OW)."""
        y: Tensor = self.shuffle(self.prelu(self.conv(self.norm(x))))
        return y + x if self.stride == 1 else y


_BATS_SHUFFLE = 4  # groups of the shuffle, which are not those of the convolution


class Builder(Protocol):
    """Makes the module of an operation."""

    def __call__(self, channels: int, stride: int, config: LayerConfig, affine: bool = True) -> nn.Module:
        """Return it; `affine` is whether its BN have gamma and beta."""


def _conv(kernel_size: int, dilation: int) -> Builder:
    return lambda channels, stride, config, affine=True: ConvBlock(
        channels, channels, config, kernel_size=kernel_size, stride=stride, dilation=dilation, affine=affine
    )


def _separable(kernel_size: int, dilation: int) -> Builder:
    return lambda channels, stride, config, affine=True: SeparableBlock(
        channels, config, kernel_size=kernel_size, stride=stride, dilation=dilation, affine=affine
    )


def _bats(kernel_size: int, dilation: int) -> Builder:
    return lambda channels, stride, config, affine=True: BatsBlock(
        channels, config, kernel_size=kernel_size, stride=stride, dilation=dilation, affine=affine
    )


def _skip_connect(channels: int, stride: int, config: LayerConfig, affine: bool = True) -> nn.Module:
    # Where DARTS factorises a reduction, BNAS has a 3x3 convolution of stride 2: so before its cells, and so here.
    return nn.Identity() if stride == 1 else _conv(3, dilation=1)(channels, stride, config, affine)


OPERATION_BUILDERS: dict[str, Builder] = {
    "none": lambda channels, stride, config, affine=True: Zeroise(stride),
    "max_pool_3x3": lambda channels, stride, config, affine=True: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, config, affine=True: nn.AvgPool2d(
        3, stride, padding=1, count_include_pad=False
    ),
    "bin_dil_conv_3x3": _conv(3, dilation=2),
    "bin_dil_conv_5x5": _conv(5, dilation=2),
    "bin_conv_3x3": _conv(3, dilation=1),
    "bin_conv_5x5": _conv(5, dilation=1),
    "skip_connect": _skip_connect,
    "bin_sep_conv_3x3": _separable(3, dilation=1),
    "bin_sep_conv_5x5": _separable(5, dilation=1),
    "bin_dil_sep_conv_3x3": _separable(3, dilation=2),
    "bin_dil_sep_conv_5x5": _separable(5, dilation=2),
    "bats_conv_3x3": _bats(3, dilation=1),
    "bats_conv_5x5": _bats(5, dilation=1),
    "bats_dil_conv_3x3": _bats(3, dilation=2),
    "bats_dil_conv_5x5": _bats(5, dilation=2),
}
"""The builder of each name in `bnas_deploy.core.genotype`, OPERATIONS and EXTRA_OPERATIONS."""
