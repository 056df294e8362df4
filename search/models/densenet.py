"""DenseNet (Huang et al. 2017): every layer reads what all earlier ones of its block made."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form, imagenet_form

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers


@dataclass(frozen=True)
class Dense:
    """Layers in each of the blocks, and how many channels each adds: a 1x1 convolution to 4 times as many, and 3x3."""

    blocks: tuple[int, ...]
    growth: int


def _widths(dense: Dense) -> dict[str, int]:
    """Return the published widths: of the stem, both convolutions of every layer, and of what joins two blocks."""
    channels = 2 * dense.growth
    widths = {"stem": channels}
    for block, count in enumerate(dense.blocks, start=1):
        for layer in range(1, count + 1):
            widths[f"block{block}.layer{layer}.inside"] = 4 * dense.growth
            widths[f"block{block}.layer{layer}"] = dense.growth
        channels += count * dense.growth
        if block < len(dense.blocks):
            channels //= 2
            widths[f"transition{block}"] = channels
    return widths


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; stem and classifier are float, the 1x1 convolutions that halve the channels are binary.

    BNAS v2 does not say which layers of this network it left float.
    """
    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, classifier_behind_norm

    widths = DENSENET.widths_of(config)
    layers = Layers(config)
    dense: Dense = NETWORKS[config.network].architecture
    last = widths[f"transition{len(dense.blocks) - 1}"]
    last += sum(widths[f"block{len(dense.blocks)}.layer{layer}"] for layer in range(1, dense.blocks[-1] + 1))
    return Network(
        layers.stem(config.in_channels, widths["stem"], large=config.form == "imagenet"),
        _blocks(dense, widths, layers),
        classifier_behind_norm(last, config.classes),
    )


def _blocks(dense: Dense, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Joined, halving_mean

    channels = widths["stem"]
    for block, count in enumerate(dense.blocks, start=1):
        parts: list[nn.Module] = []
        for layer in range(1, count + 1):
            inside, growth = widths[f"block{block}.layer{layer}.inside"], widths[f"block{block}.layer{layer}"]
            branch = nn.Sequential(layers.preactivated(channels, inside, 1), layers.preactivated(inside, growth, 3))
            parts.append(Joined(branch))
            channels += growth
        if block < len(dense.blocks):
            parts += [layers.preactivated(channels, widths[f"transition{block}"], 1), halving_mean()]
            channels = widths[f"transition{block}"]
        yield nn.Sequential(*parts)


_DENSENET_121 = Dense((6, 12, 24, 16), 32)

NETWORKS = {
    "DenseNet-121": Backbone(
        "Huang et al. 2017; BNAS v2, Table 6, which leaves depth and growth open: 121 and 32 fit its bracket of 0.16e8 "
        "FLOPs",
        {
            "cifar": cifar_form(*_widths(_DENSENET_121).values()),
            "imagenet": imagenet_form(*_widths(_DENSENET_121).values()),
        },
        _DENSENET_121,
    )
}

DENSENET = BackboneFamily("densenet", NETWORKS, lambda backbone: tuple(_widths(backbone.architecture)), _build)
