"""ResNeXt (Xie et al. 2017): residual bottlenecks whose 3x3 convolution has groups."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

STAGES = (1, 2, 3)


@dataclass(frozen=True)
class Grouped:
    """Blocks in each of the three stages, and `groups` with `channels` each in the first stage."""

    blocks: int
    groups: int
    channels: int


def _widths(grouped: Grouped) -> dict[str, int]:
    """Return the published widths: of the stem, of the groups of each block together, and behind each stage."""
    widths = {"stem": 64}
    for stage in STAGES:
        inside = grouped.groups * grouped.channels * 2 ** (stage - 1)
        widths |= {f"stage{stage}.block{block}.inside": inside for block in range(1, grouped.blocks + 1)}
        widths[f"stage{stage}"] = 256 * 2 ** (stage - 1)
    return widths


def _divisors(backbone: Backbone) -> dict[str, int]:
    grouped: Grouped = backbone.architecture
    return {name: grouped.groups for name in _widths(grouped) if name.endswith(".inside")}


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; the 1x1 convolution of a shortcut is binary, as in the rest of BNAS v2's Table 6."""
    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers

    widths = RESNEXT.widths_of(config)
    layers = Layers(config)
    return Network(
        layers.stem(config.in_channels, widths["stem"], large=False),
        _blocks(NETWORKS[config.network].architecture, widths, layers),
        Classifier(widths[f"stage{STAGES[-1]}"], config.classes),
    )


def _blocks(grouped: Grouped, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Sum

    before = widths["stem"]
    for stage in STAGES:
        for block in range(1, grouped.blocks + 1):
            channels, inside = widths[f"stage{stage}"], widths[f"stage{stage}.block{block}.inside"]
            stride = 2 if stage > 1 and block == 1 else 1
            branch = nn.Sequential(
                layers.unit(before, inside, 1),
                layers.unit(inside, inside, 3, stride, grouped.groups),
                layers.normalised(inside, channels, 1),
            )
            shortcut = layers.normalised(before, channels, 1, stride) if block == 1 else None
            yield nn.Sequential(Sum(branch, shortcut), layers.activation(channels))
            before = channels


NETWORKS = {
    "ResNeXt-29-64": Backbone(
        "Xie et al. 2017, 29 layers, 8 groups of 64 channels; BNAS v2, Table 6, which leaves the groups open: 8 give "
        "0.86e8 FLOPs, in the bracket of 0.90e8 there",
        {"cifar": cifar_form(*_widths(Grouped(3, 8, 64)).values())},
        Grouped(3, 8, 64),
    )
}

RESNEXT = BackboneFamily("resnext", NETWORKS, lambda backbone: tuple(_widths(backbone.architecture)), _build, _divisors)
