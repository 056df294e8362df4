"""The networks of `bnas_deploy.search.models.resnet` in PyTorch."""

from collections.abc import Iterator

from torch import Tensor, nn

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.backbone_layers import Backbone, Classifier, Layers, float_convolution, halving_mean
from bnas_deploy.search.models.keras_layers import halved, set_norms
from bnas_deploy.search.models.resnet import Residual
from bnas_deploy.search.nn.geometry import Pair


class Downsampling(nn.Sequential):
    """The shortcut where resolution and channels change: a 1x1 convolution and BN.

    A float one sees a 2x2 mean, so that no pixel is lost (Bi-Real Net); a binary one has the stride itself.
    """

    def __init__(self, in_channels: int, out_channels: int, layers: Layers, *, binary: bool) -> None:
        if binary:
            parts = [layers.convolution(in_channels, out_channels, 1, stride=2)]
        else:
            parts = [halving_mean(), float_convolution(in_channels, out_channels, 1)]
        super().__init__(*parts, nn.BatchNorm2d(out_channels))


class Block(nn.Module):
    """Two 3x3 convolutions and one shortcut: activation(unit(unit(x)) + shortcut(x))."""

    def __init__(self, in_channels: int, inside: int, out_channels: int, stride: int, layers: Layers, *, binary: bool):
        super().__init__()
        self.first = layers.unit(in_channels, inside, 3, stride)
        self.second = layers.normalised(inside, out_channels, 3)
        self.shortcut = nn.Identity() if stride == 1 else Downsampling(in_channels, out_channels, layers, binary=binary)
        self.activation = layers.activation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, ceil(H / stride), ceil(W / stride))."""
        y: Tensor = self.activation(self.second(self.first(x)) + self.shortcut(x))
        return y


class BiRealBlock(nn.Module):
    """Two 3x3 convolutions, each with a shortcut of its own (Liu et al. 2018, Figure 1)."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, layers: Layers, *, binary: bool, image: Pair | None
    ) -> None:
        super().__init__()
        self.first = layers.normalised(in_channels, out_channels, 3, stride, image=image)
        self.second = layers.normalised(out_channels, out_channels, 3)
        self.shortcut = nn.Identity() if stride == 1 else Downsampling(in_channels, out_channels, layers, binary=binary)
        self.activation0 = layers.activation(out_channels)
        self.activation1 = layers.activation(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, ceil(H / stride), ceil(W / stride))."""
        y = self.activation0(self.first(x) + self.shortcut(x))
        out: Tensor = self.activation1(self.second(y) + y)
        return out


def _blocks(widths: Iterator[int], channels: int, residual: Residual, layers: Layers) -> Iterator[nn.Module]:
    """Yield the blocks; `widths` gives the rest of the widths in the order of `resnet.width_names`."""
    image = layers.strided_image
    if image is not None and layers.config.form == "imagenet":
        image = halved(halved(image))
    for stage, count in enumerate(residual.blocks, start=1):
        for block in range(1, count + 1):
            reduces = stage > 1 and block == 1
            before, stride = channels, 2 if reduces else 1
            inside = None if residual.shortcut_each else next(widths)
            channels = next(widths) if reduces else channels
            binary = residual.binary_downsampling
            if inside is None:
                yield BiRealBlock(before, channels, stride, layers, binary=binary, image=image)
            else:
                yield Block(before, inside, channels, stride, layers, binary=binary)
            image = halved(image) if image is not None and reduces else image


def residual_network(config: BackboneConfig, residual: Residual) -> Backbone:
    """Return the network of a configuration."""
    layers = Layers(config)
    widths = iter(config.widths)
    stem = next(widths)
    blocks = _blocks(widths, stem, residual, layers)
    last = config.widths[-1] if residual.shortcut_each else _last_stage(config, residual)
    large = config.form == "imagenet"
    network = Backbone(layers.stem(config.in_channels, stem, large=large), blocks, Classifier(last, config.classes))
    if config.like_larq:
        set_norms(network, eps=1e-3, momentum=0.2)
    return network


def _last_stage(config: BackboneConfig, residual: Residual) -> int:
    """Return the channels of the last stage: behind them stand the insides of its blocks but the first."""
    return config.widths[-residual.blocks[-1]]
