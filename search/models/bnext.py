"""BNext (Guo et al. 2022): MobileNetV1 with 3x3 convolutions, a gate and a shortcut past every convolution."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, imagenet_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

HALVING = (2, 4, 6, 12)
"""Blocks that halve the resolution."""

DOUBLING = (1, 2, 4, 6, 12)
"""Blocks that have two 1x1 convolutions side by side."""

STAGES = (32, 64, *(128,) * 2, *(256,) * 2, *(512,) * 6, *(1024,) * 2)
"""Channels of the stem and behind each block."""


def _width_names(blocks: int) -> tuple[str, ...]:
    return ("stem", *(f"block{number}" for number in range(1, blocks + 1)))


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network: a float 3x3 convolution of stride 2, blocks, PReLU, and a float dense layer.

    It is that of the authors' code, github.com/hpi-xnor/BNext at 18bec91, src/bnext.py. The paper draws its blocks
    without saying which of them multiply by their shortcut: in the code it is every second one.
    Here even images of odd sides come through, and a float twin has gates and the PReLUs that are no scheme's, too.
    The paper's training, with two teachers and weights that harden slowly, is left out.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers, float_convolution

    first, last = config.widths[0], config.widths[-1]
    stem = nn.Sequential(float_convolution(config.in_channels, first, 3, stride=2), nn.BatchNorm2d(first))
    classifier = nn.Sequential(nn.PReLU(last), Classifier(last, config.classes))
    return Network(stem, _blocks(config.widths, Layers(config)), classifier)


def _blocks(widths: Sequence[int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.bnext_layers import BNextUnit, SideBySide

    for number, (before, channels) in enumerate(pairwise(widths), start=1):
        stride = 2 if number in HALVING else 1
        spatial = BNextUnit(layers, before, before, 3, stride, multiplies=number % 2 == 0)
        halves = (channels - channels // 2, channels // 2) if number in DOUBLING and channels > 1 else (channels,)
        pointwise = [BNextUnit(layers, before, part, 1, multiplies=False) for part in halves]
        yield nn.Sequential(spatial, pointwise[0] if len(pointwise) == 1 else SideBySide(pointwise))


NETWORKS = {
    "BNext-Tiny": Backbone(
        "Guo et al. 2022, Join the high accuracy club on ImageNet with a binary neural network ticket; BNext-T",
        {"imagenet": imagenet_form(*STAGES)},
        len(STAGES) - 1,
        scheme="bnext",
    )
}

BNEXT = BackboneFamily("bnext", NETWORKS, lambda backbone: _width_names(backbone.architecture), _build)
