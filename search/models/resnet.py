"""Residual networks of two 3x3 convolutions a block: ResNet (He et al. 2016) and Bi-Real Net (Liu et al. 2018)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import Backbone, BackboneConfig, BackboneFamily, Form, cifar_form, imagenet_form
from bnas_deploy.search.models.layouts.bi_real import bi_real_layouts
from bnas_deploy.search.models.layouts.larq import bi_real_order, larq_layouts
from bnas_deploy.search.nn.schemes import DEFAULT

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Residual:
    """A residual network.

    Attributes:
        blocks: in each of the stages; every stage but the first halves the resolution and has channels of its own.
        shortcut_each: a shortcut past every convolution, as in Bi-Real Net, instead of one past every two.
        binary_downsampling: the 1x1 convolution of a shortcut that halves the resolution is binary as well (BNAS v2,
            footnote 5: XNOR-Net's are); otherwise it is float, behind a 2x2 mean.
    """

    blocks: tuple[int, ...]
    shortcut_each: bool = False
    binary_downsampling: bool = False


def width_names(backbone: Backbone) -> tuple[str, ...]:
    """Return what each width is: the channels of the stem, of the inside of each block, and of each later stage.

    The shortcuts hold the outputs of a stage's blocks to one width, which the first stage shares with the stem. So a
    block has one width of its own, and one that halves the resolution has a second (DMS, A.3).
    """
    names = ["stem"]
    residual: Residual = backbone.architecture
    for stage, count in enumerate(residual.blocks, start=1):
        for block in range(1, count + 1):
            if not residual.shortcut_each:
                names.append(f"stage{stage}.block{block}.inside")
            if stage > 1 and block == 1:
                names.append(f"stage{stage}")
    return tuple(names)


def _published(residual: Residual, stem: int, *, large: bool) -> Form:
    """Return the form in which every stage has twice the channels of the one before it."""
    widths = [stem]
    channels = stem
    for stage, count in enumerate(residual.blocks, start=1):
        channels *= 1 if stage == 1 else 2
        for block in range(1, count + 1):
            widths += [] if residual.shortcut_each else [channels]
            widths += [channels] if stage > 1 and block == 1 else []
    return (imagenet_form if large else cifar_form)(*widths)


def _build(config: BackboneConfig) -> "nn.Module":
    from bnas_deploy.search.models.residual_network import residual_network

    return residual_network(config, NETWORKS[config.network].architecture)


def _backbone(
    source: str, residual: Residual, *, small: int | None = None, large: int | None = None, scheme: str = DEFAULT
) -> Backbone:
    """Return a published network with so many channels in the stem of its forms."""
    forms = {}
    if small is not None:
        forms["cifar"] = _published(residual, small, large=False)
    if large is not None:
        forms["imagenet"] = _published(residual, large, large=True)
    return Backbone(source, forms, residual, scheme)


NETWORKS = {
    "ResNet-18": _backbone(
        "He et al. 2016; DMS, Table 1 (a quarter of the channels for CIFAR-10); BNAS v2, Tables 6 and 7",
        Residual((2, 2, 2, 2), binary_downsampling=True),
        small=64,
        large=64,
    ),
    "ResNet-34": _backbone(
        "He et al. 2016; BNAS v2, Tables 6 and 7",
        Residual((3, 4, 6, 3), binary_downsampling=True),
        small=64,
        large=64,
    ),
    "ResNet-18-float-shortcuts": _backbone(
        "ResNet-18 with float 1x1 convolutions, as XNOR-Net++, PCNN and BONN have it: BNAS v2, Table 7 and footnote 5",
        Residual((2, 2, 2, 2)),
        small=64,
        large=64,
    ),
    "ResNet-34-float-shortcuts": _backbone(
        "ResNet-34 with float 1x1 convolutions: BNAS v2, Table 7 and footnote 5",
        Residual((3, 4, 6, 3)),
        small=64,
        large=64,
    ),
    "Bi-Real-18": _backbone(
        "Liu et al. 2018; BNAS v2, Tables 6 and 7",
        Residual((2, 2, 2, 2), shortcut_each=True),
        small=64,
        large=64,
        scheme="bi-real",
    ),
    "Bi-Real-34": _backbone(
        "Liu et al. 2018; BNAS v2, Tables 6 and 7",
        Residual((3, 4, 6, 3), shortcut_each=True),
        small=64,
        large=64,
        scheme="bi-real",
    ),
    "ResNet-20": _backbone(
        "He et al. 2016, section 4.2; IR-Net (Qin et al. 2020)", Residual((3, 3, 3)), small=16, scheme="ir-net"
    ),
}


def _blocks(config: BackboneConfig) -> tuple[int, ...]:
    residual: Residual = NETWORKS[config.network].architecture
    return residual.blocks


IN_LARQ = ("Bi-Real-18",)

RESNET = BackboneFamily(
    "resnet",
    NETWORKS,
    width_names,
    _build,
    layouts={**bi_real_layouts(_blocks), **larq_layouts(bi_real_order, IN_LARQ)},
    in_larq=IN_LARQ,
)
