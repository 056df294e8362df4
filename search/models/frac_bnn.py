"""The ResNet-20 of FracBNN (Zhang et al. 2021): a BN behind every sum, and a first layer that is binary, too."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

BLOCKS = 3
"""In each of the three stages; the first of every stage but the first halves the resolution."""

WIDTHS = {"stem": 16, "stage2": 32, "stage3": 64}
"""The shortcuts hold all outputs of a stage to one width, and those of the first to the stem's."""


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network of the authors' code, github.com/cornell-zhang/FracBNN at 5d4064e, model/fracbnn_cifar10.py.

    Its first convolution reads images in thermometer code with 32 marks for each channel, whatever the scheme. The code
    has marks at every 8 of 256 grey values. Here images come normalised, so the marks divide -2 to 2, which is about
    the range of CIFAR-10's. Other than in the code, even odd images come through. A float twin reads the image itself.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers, float_convolution
    from bnas_deploy.search.nn.geometry import Geometry
    from bnas_deploy.search.nn.thermometer import Marks, ThermometerConv2d

    widths = FRAC_BNN.widths_of(config)
    layers = Layers(config)
    stem = widths["stem"]
    first = (
        float_convolution(config.in_channels, stem, 3)
        if config.is_float
        else ThermometerConv2d(Geometry.of(config.in_channels, stem, 3, 1, 1), Marks())
    )
    return Network(
        nn.Sequential(first, nn.BatchNorm2d(stem), layers.twin_relu()),
        _blocks(NETWORKS[config.network].architecture, widths, layers),
        Classifier(widths["stage3"], config.classes),
    )


def _blocks(count: int, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    before = widths["stem"]
    for stage in (1, 2, 3):
        channels = widths.get(f"stage{stage}", before)
        for block in range(count):
            stride = 2 if stage > 1 and block == 0 else 1
            yield nn.Sequential(
                *_half(layers, before, channels, stride),
                *_half(layers, channels, channels, 1),
            )
            before = channels


def _half(layers: "Layers", before: int, channels: int, stride: int) -> Iterator["nn.Module"]:
    """Return a convolution with its BN, its activation and its shortcut, and a BN behind the sum.

    Where channels change, the shortcut is a mean whose channels stand there again and again.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Repeated, Sum, halving_mean

    branch = nn.Sequential(*layers.normalised(before, channels, 3, stride), layers.activation(channels))
    yield Sum(branch, nn.Sequential(halving_mean(), Repeated(channels)) if stride == 2 else None)
    yield nn.BatchNorm2d(channels)


NETWORKS = {
    "FracBNN-20": Backbone(
        "Zhang et al. 2021, FracBNN: accurate and FPGA-efficient binary neural networks with fractional activations",
        {"cifar": cifar_form(*WIDTHS.values())},
        BLOCKS,
        scheme="frac-bnn",
    )
}

FRAC_BNN = BackboneFamily("frac-bnn", NETWORKS, lambda backbone: tuple(WIDTHS), _build)
"""Its networks differ from those of other families in their first layer, which has no float weights."""
