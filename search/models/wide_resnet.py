"""Wide ResNet (Zagoruyko and Komodakis 2016): residual blocks with preactivation, a few times as wide as ResNet's."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers


@dataclass(frozen=True)
class Wide:
    """A depth of 6 `blocks` + 4, with `factor` times the channels of ResNet: blocks in each of the three stages."""

    blocks: int
    factor: int


def _widths(wide: Wide) -> dict[str, int]:
    """Return the published widths: of the stem, and of each stage inside its blocks and behind them."""
    widths = {"stem": 16}
    for stage in range(1, 4):
        channels = 16 * wide.factor * 2 ** (stage - 1)
        widths |= {f"stage{stage}.block{block}.inside": channels for block in range(1, wide.blocks + 1)}
        widths[f"stage{stage}"] = channels
    return widths


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; the 1x1 convolution of a shortcut is binary, as in the rest of BNAS v2's Table 6."""
    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, classifier_behind_norm, float_convolution

    widths = WIDE_RESNET.widths_of(config)
    return Network(
        float_convolution(config.in_channels, widths["stem"], 3),
        _blocks(NETWORKS[config.network].architecture, widths, Layers(config)),
        classifier_behind_norm(widths["stage3"], config.classes),
    )


def _blocks(wide: Wide, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import PreactivationBlock

    before = widths["stem"]
    for stage in range(1, 4):
        for block in range(1, wide.blocks + 1):
            channels, inside = widths[f"stage{stage}"], widths[f"stage{stage}.block{block}.inside"]
            stride = 2 if stage > 1 and block == 1 else 1
            yield PreactivationBlock(
                nn.Sequential(nn.BatchNorm2d(before), layers.twin_relu()),
                nn.Sequential(
                    layers.convolution(before, inside, 3, stride),
                    layers.added(inside),
                    layers.preactivated(inside, channels, 3),
                ),
                # The first block has one even where the channels stay: widths can be chosen, the layers stay the same.
                layers.convolution(before, channels, 1, stride) if block == 1 else None,
            )
            before = channels


NETWORKS = {
    "WRN-40-4": Backbone(
        "Zagoruyko and Komodakis 2016; BNAS v2, Table 6, which leaves the factor open: 4 gives 0.21e8 FLOPs, in the "
        "bracket of 0.27e8 there",
        {"cifar": cifar_form(*_widths(Wide(6, 4)).values())},
        Wide(6, 4),
    )
}

WIDE_RESNET = BackboneFamily("wide-resnet", NETWORKS, lambda backbone: tuple(_widths(backbone.architecture)), _build)
