"""ReActNet-A (Liu et al. 2020): MobileNetV1 with ordinary 3x3 convolutions and a shortcut past every convolution."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, imagenet_form
from bnas_deploy.search.models.layouts.reactnet import REACTNET_LAYOUTS

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
"""Of the blocks."""

WIDTH_NAMES = ("stem", *(f"block{number}" for number in range(1, len(STRIDES) + 1)))


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network: a float 3x3 convolution of stride 2, blocks, and a float dense layer.

    Where the channels double the paper has two 1x1 convolutions side by side, with a shortcut past each. They read the
    same signs and have an output channel and a BN for each of theirs, so they are one convolution here, and the
    shortcut gives every channel twice. For other widths it repeats its channels until there are enough.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers, float_convolution

    layers = Layers(config)
    stem = nn.Sequential(
        float_convolution(config.in_channels, config.widths[0], 3, stride=2),
        nn.BatchNorm2d(config.widths[0]),
        layers.twin_relu(),
    )
    return Network(stem, _blocks(config.widths, layers), Classifier(config.widths[-1], config.classes))


def _blocks(widths: Sequence[int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Repeated, Sum, halving_mean

    for before, channels, stride in zip(widths[:-1], widths[1:], STRIDES, strict=True):
        spatial = Sum(layers.normalised(before, before, 3, stride), halving_mean() if stride == 2 else None)
        pointwise = Sum(layers.normalised(before, channels, 1), Repeated(channels) if channels != before else None)
        yield nn.Sequential(spatial, layers.activation(before), pointwise, layers.activation(channels))


NETWORKS = {
    "ReActNet-A": Backbone(
        "Liu et al. 2020, ReActNet",
        {"imagenet": imagenet_form(32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)},
        scheme="reactnet",
    )
}

REACTNET = BackboneFamily("reactnet", NETWORKS, lambda backbone: WIDTH_NAMES, _build, layouts=REACTNET_LAYOUTS)
