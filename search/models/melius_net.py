"""MeliusNet (Bethge et al. 2021): a dense layer adds channels, and an improvement layer adds to these."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, imagenet_form
from bnas_deploy.search.models.layouts.larq import larq_layouts

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers

GROWTH = 64


@dataclass(frozen=True)
class Melius:
    """Blocks in each section, and the channels behind each section but the last."""

    blocks: tuple[int, ...]
    transitions: tuple[int, ...]


def _widths(melius: Melius) -> dict[str, int]:
    """Return the published widths: of the three convolutions of the stem, every block, and what joins sections."""
    widths = {"stem1": 32, "stem2": 32, "stem3": 64}
    for section, count in enumerate(melius.blocks, start=1):
        widths |= {f"section{section}.block{block}": GROWTH for block in range(1, count + 1)}
        if section < len(melius.blocks):
            widths[f"transition{section}"] = melius.transitions[section - 1]
    return widths


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network; the second and third convolution of its stem have 4 and 8 groups."""
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Layers, classifier_behind_norm, float_unit, halving_maximum

    widths = MELIUS_NET.widths_of(config)
    melius: Melius = NETWORKS[config.network].architecture
    layers = Layers(config)
    stem = nn.Sequential(
        float_unit(config.in_channels, widths["stem1"], 3, stride=2, image=layers.strided_image),
        float_unit(widths["stem1"], widths["stem2"], 3, groups=4),
        float_unit(widths["stem2"], widths["stem3"], 3, groups=8),
        halving_maximum(),
    )
    sections = len(melius.blocks)
    last = widths[f"transition{sections - 1}"]
    last += sum(widths[f"section{sections}.block{block}"] for block in range(1, melius.blocks[-1] + 1))
    return Network(stem, _sections(melius, widths, layers), classifier_behind_norm(last, config.classes))


def _sections(melius: Melius, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import AddedToLast, Joined, float_convolution, halving_maximum

    channels = widths["stem3"]
    for section, count in enumerate(melius.blocks, start=1):
        parts: list[nn.Module] = []
        for block in range(1, count + 1):
            growth = widths[f"section{section}.block{block}"]
            parts.append(Joined(layers.preactivated(channels, growth, 3)))
            channels += growth
            parts.append(AddedToLast(layers.preactivated(channels, growth, 3), channels - growth))
        if section < len(melius.blocks):
            after = widths[f"transition{section}"]
            parts += [nn.BatchNorm2d(channels), halving_maximum(), nn.ReLU(), float_convolution(channels, after, 1)]
            channels = after
        yield nn.Sequential(*parts)


_MELIUS_22 = Melius((4, 5, 4, 4), (160, 224, 256))

NETWORKS = {
    "MeliusNet-22": Backbone(
        "Bethge et al. 2021, MeliusNet; signs without a scale",
        {"imagenet": imagenet_form(*_widths(_MELIUS_22).values())},
        _MELIUS_22,
        scheme="binarynet",
    )
}

MELIUS_NET = BackboneFamily(
    "melius-net",
    NETWORKS,
    lambda backbone: tuple(_widths(backbone.architecture)),
    _build,
    lambda backbone: {"stem1": 4, "stem2": 8, "stem3": 8},
    layouts=larq_layouts(),
    in_larq=tuple(NETWORKS),
)
