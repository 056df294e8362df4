"""The candidate operations of a cell: name -> module."""

from collections.abc import Callable

from torch import Tensor, nn

from bnas_deploy.search.config import NetworkConfig
from bnas_deploy.search.layers import BinaryConv2d, Zeroise


class ConvBlock(nn.Module):
    """BN -> sign -> convolution -> ReLU; in the float twin BN -> convolution -> ReLU.

    The padding keeps the resolution at stride 1: dilation * (kernel_size - 1) / 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        config: NetworkConfig,
        *,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        affine: bool = True,
    ) -> None:
        super().__init__()
        padding = dilation * (kernel_size - 1) // 2
        self.norm = nn.BatchNorm2d(in_channels, affine=affine)
        self.conv: nn.Module
        if config.real:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False)
        else:
            self.conv = BinaryConv2d(
                in_channels,
                out_channels,
                kernel_size,
                stride,
                padding,
                dilation,
                k_map=config.k_map,
                centre_weights="centre-weights" in config.departures,
                clamp_weights="clamp-weights" in config.departures,
                fan_in_gradient="fan-in-gradient" in config.departures,
            )
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, OH, OW), all >= 0."""
        y: Tensor = self.relu(self.conv(self.norm(x)))
        return y


Builder = Callable[[int, int, NetworkConfig], nn.Module]


def _conv(kernel_size: int, dilation: int) -> Builder:
    return lambda channels, stride, config: ConvBlock(
        channels, channels, config, kernel_size=kernel_size, stride=stride, dilation=dilation
    )


OPERATION_BUILDERS: dict[str, Builder] = {
    "none": lambda channels, stride, config: Zeroise(stride),
    "max_pool_3x3": lambda channels, stride, config: nn.MaxPool2d(3, stride, padding=1),
    "avg_pool_3x3": lambda channels, stride, config: nn.AvgPool2d(3, stride, padding=1, count_include_pad=False),
    "bin_dil_conv_3x3": _conv(3, dilation=2),
    "bin_dil_conv_5x5": _conv(5, dilation=2),
    "bin_conv_3x3": _conv(3, dilation=1),
    "bin_conv_5x5": _conv(5, dilation=1),
}
"""(channels, stride, config) -> the module of each name in `bnas_deploy.genotype.OPERATIONS`."""
