"""The ResNet-18 of Real-to-Binary (Martinez et al. 2020): BN -> binary convolution -> PReLU, a shortcut past each."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, Form, imagenet_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

CONVOLUTIONS = (4, 4, 4, 4)
"""In each stage; the first of every stage but the first halves the resolution."""

WIDTHS = {"stem": 64, "stage2": 128, "stage3": 256, "stage4": 512}
"""The shortcuts hold all outputs of a stage to one width, and those of the first to the stem's."""


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; its gates and the PReLU behind them are those of the scheme real-to-binary.

    The PReLU of the stem is the network's own, as in larq's code; the paper does not tell what stands there.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers

    widths = REAL_TO_BINARY.widths_of(config)
    layers = Layers(config)
    stem = widths["stem"]
    activation = nn.ReLU() if config.is_float else nn.PReLU(stem)
    return Network(
        layers.stem(config.in_channels, stem, large=config.form == "imagenet", activation=activation),
        _stages(widths, layers),
        Classifier(widths["stage4"], config.classes),
    )


def _stages(widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Sum, float_convolution, halving_mean

    before = widths["stem"]
    for stage, count in enumerate(CONVOLUTIONS, start=1):
        channels = widths.get(f"stage{stage}", before)
        parts = []
        for number in range(1, count + 1):
            reduces = stage > 1 and number == 1
            branch = nn.Sequential(
                nn.BatchNorm2d(before),
                layers.convolution(before, channels, 3, 2 if reduces else 1),
                layers.activation(channels),
            )
            smaller = [halving_mean(), float_convolution(before, channels, 1), nn.BatchNorm2d(channels)]
            parts.append(Sum(branch, nn.Sequential(*smaller) if reduces else None))
            before = channels
        # Two convolutions are what a block of the teacher is compared with.
        yield from (nn.Sequential(*parts[first : first + 2]) for first in range(0, count, 2))


NETWORKS = {
    "Real-to-Binary-18": Backbone(
        "Martinez et al. 2020, Training binary neural networks with real-to-binary convolutions",
        {"cifar": Form(tuple(WIDTHS.values()), (32, 32), 100), "imagenet": imagenet_form(*WIDTHS.values())},
        scheme="real-to-binary",
    )
}

REAL_TO_BINARY = BackboneFamily("real-to-binary", NETWORKS, lambda backbone: tuple(WIDTHS), _build)
