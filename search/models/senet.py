"""SENet (Hu et al. 2018): residual blocks whose channels are multiplied by a gate, computed from their means."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form, imagenet_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

SQUEEZE = 16
"""The gate's hidden layer has one neuron for so many channels."""


@dataclass(frozen=True)
class Gated:
    """Blocks in each of the stages; every stage but the first halves the resolution."""

    blocks: tuple[int, ...]


def _widths(gated: Gated) -> dict[str, int]:
    """Return the published widths: of the stem, of each stage inside its blocks and behind them.

    The first stage has those of the stem, since its shortcuts are identities.
    """
    widths = {"stem": 64}
    for stage, count in enumerate(gated.blocks, start=1):
        channels = 64 * 2 ** (stage - 1)
        widths |= {f"stage{stage}.block{block}.inside": channels for block in range(1, count + 1)}
        if stage > 1:
            widths[f"stage{stage}"] = channels
    return widths


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; gates, stem and classifier are float, the 1x1 convolution of a shortcut is binary."""
    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, classifier_behind_norm

    widths = SENET.widths_of(config)
    layers = Layers(config)
    gated: Gated = NETWORKS[config.network].architecture
    return Network(
        layers.stem(config.in_channels, widths["stem"], large=config.form == "imagenet"),
        _blocks(gated, widths, layers),
        classifier_behind_norm(widths[f"stage{len(gated.blocks)}"], config.classes),
    )


def _blocks(gated: Gated, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Gate, PreactivationBlock

    before = widths["stem"]
    for stage, count in enumerate(gated.blocks, start=1):
        for block in range(1, count + 1):
            channels, inside = widths.get(f"stage{stage}", before), widths[f"stage{stage}.block{block}.inside"]
            reduces = stage > 1 and block == 1
            stride = 2 if reduces else 1
            yield PreactivationBlock(
                nn.Sequential(nn.BatchNorm2d(before), layers.twin_relu()),
                nn.Sequential(
                    layers.convolution(before, inside, 3, stride),
                    layers.added(inside),
                    layers.preactivated(inside, channels, 3),
                    Gate(channels, max(1, channels // SQUEEZE)),
                ),
                layers.convolution(before, channels, 1, stride) if reduces else None,
            )
            before = channels


_SENET_18 = Gated((2, 2, 2, 2))

NETWORKS = {
    "SENet-18": Backbone(
        "Hu et al. 2018; BNAS v2, Table 6, which leaves the depth open: 18, as the ResNet beside it",
        {"cifar": cifar_form(*_widths(_SENET_18).values()), "imagenet": imagenet_form(*_widths(_SENET_18).values())},
        _SENET_18,
    )
}

SENET = BackboneFamily("senet", NETWORKS, lambda backbone: tuple(_widths(backbone.architecture)), _build)
