"""How the code of IR-Net names the weights of its ResNet-20.

Code: github.com/htqin/IR-Net at f63a590, CIFAR-10/ResNet20/1w1a/resnet.py and trainer.py. Its names, with those here
behind them (s a stage, k a block of it, b = 3 (s - 1) + k):

    conv1.weight, bn1.*                              stem.0.weight, stem.1.*
    layer{s}.{k}.{conv1.weight, bn1.*}               blocks.{b}.0.branch.{0.weight, 1.*}
    layer{s}.{k}.{conv2.weight, bn2.*}               blocks.{b}.2.branch.{0.weight, 1.*}
    bn2.*, linear.*                                  classifier.1.*, classifier.2.*
"""

import re
from collections.abc import Mapping

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.bnas.official import CIFAR_10
from bnas_deploy.search.models.family import Layout

_BLOCKS_OF_A_STAGE = 3

_IN_A_BLOCK = re.compile(r"layer(?P<stage>[123])\.(?P<block>[012])\.(?P<kind>conv|bn)(?P<half>[12])\.(?P<rest>\w+)")

_OUTSIDE = (("conv1.", "stem.0."), ("bn1.", "stem.1."), ("bn2.", "classifier.1."), ("linear.", "classifier.2."))


def rename(config: BackboneConfig, theirs: str) -> str:
    """Return the name here of a tensor of the code of IR-Net."""
    if found := _IN_A_BLOCK.fullmatch(theirs):
        block = _BLOCKS_OF_A_STAGE * (int(found["stage"]) - 1) + int(found["block"])
        half, part = 2 * (int(found["half"]) - 1), 0 if found["kind"] == "conv" else 1
        return f"blocks.{block}.{half}.branch.{part}.{found['rest']}"
    return next((here + theirs.removeprefix(start) for start, here in _OUTSIDE if theirs.startswith(start)), theirs)


def _data(config: BackboneConfig) -> str:
    return "cifar10"


def _names(config: BackboneConfig) -> tuple[str, ...]:
    return CIFAR_10 if config.classes == len(CIFAR_10) else tuple(map(str, range(config.classes)))


def _order(config: BackboneConfig) -> tuple[int, ...]:
    return tuple(range(config.classes))


def _mean(config: BackboneConfig) -> tuple[float, ...]:
    return (0.485, 0.456, 0.406)


def _std(config: BackboneConfig) -> tuple[float, ...]:
    return (0.229, 0.224, 0.225)


IR_NET_LAYOUTS: Mapping[str, Layout] = {
    "ir-net": Layout("the code of IR-Net, its ResNet-20 for CIFAR-10", rename, {}, _data, _names, _order, _mean, _std)
}
"""By name."""
