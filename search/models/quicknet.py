"""QuickNet (Bannink et al. 2021): the network of Larq Compute Engine, whose binary convolutions are padded with +1."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, imagenet_form
from bnas_deploy.search.models.layouts.larq import larq_layouts

if TYPE_CHECKING:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Layers


@dataclass(frozen=True)
class Quick:
    """Blocks in each section, and its channels."""

    blocks: tuple[int, ...]
    channels: tuple[int, ...]


def _widths(quick: Quick) -> dict[str, int]:
    """Return the published widths: of the first convolution, a quarter of the first section's, and of each section."""
    sections = {f"section{number}": channels for number, channels in enumerate(quick.channels, start=1)}
    return {"stem": quick.channels[0] // 4, **sections}


def _build(config: BackboneConfig) -> "nn.Module":
    """Return the network.

    Its stem is a float 3x3 convolution, a depthwise one and a 1x1 one. TensorFlow, where it comes from, pads strided
    layers on one side only and has another epsilon in the BN of the stem. Here both sides have the same padding, unless
    `like_larq` wants larq's.
    """
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Backbone as Network
    from bnas_deploy.search.models.backbone_layers import Classifier, Layers, float_convolution, float_unit
    from bnas_deploy.search.models.keras_layers import halved, set_norms

    widths = QUICKNET.widths_of(config)
    quick: Quick = NETWORKS[config.network].architecture
    first, second = widths["stem"], widths["section1"]
    layers = Layers(config)
    image = layers.strided_image
    stem = nn.Sequential(
        float_unit(config.in_channels, first, 3, stride=2, image=image),
        float_convolution(first, first, 3, stride=2, groups=first, image=image and halved(image)),
        nn.BatchNorm2d(first, affine=False),
        float_convolution(first, second, 1),
        nn.BatchNorm2d(second),
    )
    if config.like_larq:
        set_norms(stem, eps=1e-3, momentum=0.01)
    last = Classifier(widths[f"section{len(quick.blocks)}"], config.classes)
    return Network(stem, _sections(quick, widths, layers), nn.Sequential(nn.ReLU(), last))


def _sections(quick: Quick, widths: Mapping[str, int], layers: "Layers") -> Iterator["nn.Module"]:
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import Sum
    from bnas_deploy.search.models.keras_layers import halved

    before = widths["section1"]
    image = layers.strided_image and halved(halved(layers.strided_image))
    for section, count in enumerate(quick.blocks, start=1):
        channels = widths[f"section{section}"]
        pooled = image and (image[0] - 1, image[1] - 1)
        parts = [_transition(before, channels, pooled)] if section > 1 else []
        image = pooled and halved(pooled) if section > 1 else image
        for _ in range(count):
            convolution = layers.convolution(channels, channels, 3, pad_value=1)
            activation = layers.activation(channels, has_relu=True)
            parts.append(Sum(nn.Sequential(convolution, activation, nn.BatchNorm2d(channels))))
        yield nn.Sequential(*parts)
        before = channels


def _transition(before: int, channels: int, pooled: tuple[int, int] | None) -> "nn.Module":
    """Return ReLU -> 2x2 maximum of stride 1 -> blur of stride 2 -> float 1x1 convolution -> BN.

    The blur is a depthwise convolution with fixed weights, (1, 2, 1) / 4 in both directions (Zhang 2019). `pooled` is
    the size of its images where it is padded by that.
    """
    import torch
    from torch import nn

    from bnas_deploy.search.models.backbone_layers import float_convolution

    blur = float_convolution(before, before, 3, stride=2, groups=before, image=pooled)
    row = torch.tensor([0.25, 0.5, 0.25])
    with torch.no_grad():
        blur.weight.copy_(row[:, None] * row)
    blur.weight.requires_grad_(False)
    maximum = nn.MaxPool2d(2, stride=1)
    return nn.Sequential(nn.ReLU(), maximum, blur, float_convolution(before, channels, 1), nn.BatchNorm2d(channels))


def _backbone(blocks: tuple[int, ...], channels: tuple[int, ...]) -> Backbone:
    quick = Quick(blocks, channels)
    return Backbone(
        "Bannink et al. 2021, Larq Compute Engine; signs without a scale",
        {"imagenet": imagenet_form(*_widths(quick).values())},
        quick,
        scheme="binarynet",
        least_image=29,
    )


NETWORKS = {
    "QuickNet": _backbone((4, 4, 4, 4), (64, 128, 256, 512)),
    "QuickNet-Small": _backbone((4, 4, 4, 4), (32, 64, 256, 512)),
    "QuickNet-Large": _backbone((6, 8, 12, 6), (64, 128, 256, 512)),
}

QUICKNET = BackboneFamily(
    "quicknet",
    NETWORKS,
    lambda backbone: tuple(_widths(backbone.architecture)),
    _build,
    layouts=larq_layouts(),
    in_larq=tuple(NETWORKS),
)
