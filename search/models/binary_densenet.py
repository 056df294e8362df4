"""BinaryDenseNet (Bethge et al. 2019): a DenseNet without bottlenecks, its 1x1 convolutions float."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, cifar_form, imagenet_form
from bnas_deploy.search.models.layouts.larq import larq_layouts

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

GROWTH = 64
"""Channels that a layer adds, and those of the stem."""


@dataclass(frozen=True)
class BinaryDense:
    """Layers in each block, and by how much the channels are divided behind each block but the last.

    The quotient is rounded to a multiple of 32, as in the authors' code and in larq's.
    """

    blocks: tuple[int, ...]
    reductions: tuple[float, ...]


def _widths(dense: BinaryDense) -> dict[str, int]:
    """Return the published widths: of the stem, of every layer, and of what joins two blocks."""
    channels = GROWTH
    widths = {"stem": channels}
    for block, count in enumerate(dense.blocks, start=1):
        widths |= {f"block{block}.layer{layer}": GROWTH for layer in range(1, count + 1)}
        channels += count * GROWTH
        if block < len(dense.blocks):
            channels = round(channels // dense.reductions[block - 1] / 32) * 32
            widths[f"transition{block}"] = channels
    return widths


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network: BN -> binary convolution, joined to its input; BN -> max pool -> ReLU -> 1x1 between blocks.

    The form for small images has neither BN nor ReLU behind its stem. larq's max pools between blocks leave out an odd
    last row and column.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, classifier_behind_norm, float_convolution

    widths = BINARY_DENSENET.widths_of(config)
    layers = Layers(config)
    dense: BinaryDense = NETWORKS[config.network].architecture
    last = widths[f"transition{len(dense.blocks) - 1}"]
    last += sum(widths[f"block{len(dense.blocks)}.layer{layer}"] for layer in range(1, dense.blocks[-1] + 1))
    if config.form == "imagenet":
        stem: nn.Module = layers.stem(config.in_channels, widths["stem"], large=True, activation=nn.ReLU())
    else:
        stem = float_convolution(config.in_channels, widths["stem"], 3)
    return Network(stem, _blocks(dense, widths, layers), classifier_behind_norm(last, config.classes))


def _blocks(dense: BinaryDense, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Joined, float_convolution, halving_maximum

    channels = widths["stem"]
    for block, count in enumerate(dense.blocks, start=1):
        parts: list[nn.Module] = []
        for layer in range(1, count + 1):
            growth = widths[f"block{block}.layer{layer}"]
            parts.append(Joined(layers.preactivated(channels, growth, 3)))
            channels += growth
        if block < len(dense.blocks):
            after = widths[f"transition{block}"]
            pool = nn.MaxPool2d(2) if layers.config.like_larq else halving_maximum()
            parts += [nn.BatchNorm2d(channels), pool, nn.ReLU(), float_convolution(channels, after, 1)]
            channels = after
        yield nn.Sequential(*parts)


def _backbone(blocks: tuple[int, ...], *reductions: float) -> Backbone:
    dense = BinaryDense(blocks, reductions)
    widths = _widths(dense).values()
    return Backbone(
        "Bethge et al. 2019, Back to Simplicity; signs without a scale",
        {"cifar": cifar_form(*widths), "imagenet": imagenet_form(*widths)},
        dense,
        scheme="binarynet",
    )


NETWORKS = {
    "BinaryDenseNet-28": _backbone((6, 6, 6, 5), 2.7, 2.7, 2.2),
    "BinaryDenseNet-37": _backbone((6, 8, 12, 6), 3.3, 3.3, 4),
    "BinaryDenseNet-45": _backbone((6, 12, 14, 8), 2.7, 3.3, 4),
}

BINARY_DENSENET = BackboneFamily(
    "binary-densenet",
    NETWORKS,
    lambda backbone: tuple(_widths(backbone.architecture)),
    _build,
    layouts=larq_layouts(),
    in_larq=tuple(NETWORKS),
)
