"""VGG for small images: a chain of 3x3 convolutions with max pools between them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Pools:
    """After which convolutions, counted from one, the resolution is halved."""

    after: tuple[int, ...]


def _width_names(backbone: Backbone) -> tuple[str, ...]:
    count = len(backbone.forms["cifar"].widths)
    return tuple(f"conv{number}" for number in range(1, count + 1))


def _build(config: BackboneConfig) -> "nn.Module":
    """Return a chain of units: convolution -> max pool -> BN -> activation, as BinaryNet and XNOR-Net order them.

    The pool stands behind the convolution, since one of signs would nearly always be +1. Its last row and column are
    pooled as well where the size is odd, so that images of any size come through. First convolution and classifier are
    float.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers, float_convolution, halving_maximum

    pools: Pools = NETWORKS[config.network].architecture
    layers = Layers(config)

    def unit(number: int, before: int, channels: int) -> nn.Sequential:
        convolution = float_convolution(before, channels, 3) if number == 1 else layers.convolution(before, channels, 3)
        pool = [halving_maximum()] if number in pools.after else []
        activation = layers.twin_relu() if number == 1 else layers.activation(channels)
        return nn.Sequential(convolution, *pool, nn.BatchNorm2d(channels), activation)

    channels = (config.in_channels, *config.widths)
    units = [unit(number, channels[number - 1], channels[number]) for number in range(1, len(channels))]
    return Network(units[0], units[1:], Classifier(channels[-1], config.classes))


NETWORKS = {
    "VGG-11": Backbone(
        "Simonyan and Zisserman 2014, column A; one dense layer and a quarter of the channels: DMS, Table 1",
        {"cifar": cifar_form(16, 32, 64, 64, 128, 128, 128, 128)},
        Pools((1, 2, 4, 6, 8)),
    ),
    "VGG-Small": Backbone(
        "VGG-Small of LQ-Nets (Zhang et al. 2018): BNAS v2, Table 7",
        {"cifar": cifar_form(128, 128, 256, 256, 512, 512)},
        Pools((2, 4, 6)),
    ),
    "VGG-13": Backbone(
        "Simonyan and Zisserman 2014, column B, with one dense layer, as its binary versions for CIFAR-10 have it",
        {"cifar": cifar_form(*(channels for channels in (64, 128, 256, 512, 512) for _ in range(2)))},
        Pools((2, 4, 6, 8, 10)),
    ),
    "VGG-16": Backbone(
        "Simonyan and Zisserman 2014, column D, with one dense layer, as its binary versions for CIFAR-10 have it",
        {"cifar": cifar_form(64, 64, 128, 128, *(channels for channels in (256, 512, 512) for _ in range(3)))},
        Pools((2, 4, 7, 10, 13)),
    ),
}

VGG = BackboneFamily("vgg", NETWORKS, _width_names, _build)
