"""The ResNet-20 of IR-Net's code (Qin et al. 2020): a shortcut past every convolution, Hardtanh behind every sum."""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form
from bnas_deploy.search.models.layouts.ir_net import IR_NET_LAYOUTS

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

BLOCKS = 3
"""In each of the three stages; the first of every stage but the first halves the resolution."""

WIDTHS = {"stem": 16, "stage2": 32, "stage3": 64}
"""The shortcuts hold all outputs of a stage to one width, and those of the first to the stem's."""


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; where channels change, the shortcut has channels of zeros on both sides of its own.

    The paper has the ResNet-20 of He et al.; its code puts a BN behind the last mean as well. A float twin has ReLU in
    the place of Hardtanh.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, Mean

    widths = IR_NET.widths_of(config)
    layers = Layers(config)
    last = widths["stage3"]
    return Network(
        layers.stem(config.in_channels, widths["stem"], large=False, activation=_activation(layers, widths["stem"])),
        _blocks(widths, layers),
        nn.Sequential(Mean(), nn.BatchNorm1d(last), nn.Linear(last, config.classes)),
    )


def _blocks(widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Centred, Sum

    before = widths["stem"]
    for stage in (1, 2, 3):
        channels = widths.get(f"stage{stage}", before)
        for block in range(BLOCKS):
            stride = 2 if stage > 1 and block == 0 else 1
            yield nn.Sequential(
                Sum(layers.normalised(before, channels, 3, stride), Centred(channels, stride) if stride > 1 else None),
                _activation(layers, channels),
                Sum(layers.normalised(channels, channels, 3)),
                _activation(layers, channels),
            )
            before = channels


def _activation(layers: "Layers", channels: int) -> "nn.Module":
    """Return Hardtanh, unless the scheme has an activation of its own or the network is a float twin."""
    from torch import nn

    own = layers.activation(channels)
    return nn.Hardtanh() if isinstance(own, nn.Identity) else own


NETWORKS = {
    "IR-Net-20": Backbone(
        "Qin et al. 2020, IR-Net, the ResNet-20 of its code", {"cifar": cifar_form(*WIDTHS.values())}, scheme="ir-net"
    )
}

IR_NET = BackboneFamily("ir-net", NETWORKS, lambda backbone: tuple(WIDTHS), _build, layouts=IR_NET_LAYOUTS)
