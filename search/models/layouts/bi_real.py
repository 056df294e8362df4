"""How the codes of Bi-Real Net and ReActNet name the weights of residual networks with a shortcut past every layer.

Code: github.com/liuzechun/Bi-Real-net at f58aa4d, pytorch_implementation/BiReal18_34/birealnet.py, and
github.com/liuzechun/ReActNet at a6cd08d, resnet/2_step2/birealnet.py. Both number the convolutions of a stage, of which
two make a block here. Their names, with those here behind them (s a stage, k a convolution, b a block, p its half,
"first" or "second", q 0 or 1 for these):

    conv1.weight, bn1.*                              stem.0.weight, stem.1.*
    layer{s}.{k}.binary_conv.weights                 blocks.{b}.{p}.0.weight         Bi-Real Net, in one column
    layer{s}.{k}.binary_conv.weight                  blocks.{b}.{p}.0.weight         ReActNet
    layer{s}.{k}.bn1.*                               blocks.{b}.{p}.1.*
    layer{s}.{k}.downsample.{1.weight, 2.*}          blocks.{b}.shortcut.{1.weight, 2.*}
    layer{s}.{k}.move0.bias                          blocks.{b}.{p}.0.level          ReActNet, with the other sign
    layer{s}.{k}.move1.bias                          blocks.{b}.activation{q}.shift_in       the same
    layer{s}.{k}.{prelu.weight, move2.bias}          blocks.{b}.activation{q}.{prelu.weight, shift_out}
    fc.*                                             classifier.linear.*

ReActNet's files of its first step, whose weights are float, have the names of the second, too.
"""

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.family import Layout
from bnas_deploy.search.models.layouts.imagenet import imagenet_layout
from bnas_deploy.search.models.layouts.learnable_bias import adapt, as_kernel

if TYPE_CHECKING:
    from torch import Tensor

NETWORKS = ("Bi-Real-18", "Bi-Real-34")

_IN_A_STAGE = re.compile(r"layer(?P<stage>\d)\.(?P<number>\d+)\.(?P<rest>.+)")

_OUTSIDE = (("conv1.", "stem.0."), ("bn1.", "stem.1."), ("fc.", "classifier.linear."))

_REACTNET = {"move1.bias": "shift_in", "prelu.weight": "prelu.weight", "move2.bias": "shift_out"}


Blocks = Callable[[BackboneConfig], tuple[int, ...]]
"""How many blocks the stages of a network have."""


def renaming(blocks: Blocks, weight: str) -> Callable[[BackboneConfig, str], str]:
    """Return what renames tensors where the weights of a binary convolution are its `weight`."""

    def rename(config: BackboneConfig, theirs: str) -> str:
        if found := _IN_A_STAGE.fullmatch(theirs):
            block, half = divmod(int(found["number"]), 2)
            here = _in_block(found["rest"], half, weight)
            before = sum(blocks(config)[: int(found["stage"]) - 1])
            return theirs if here is None else f"blocks.{before + block}.{here}"
        return next((here + theirs.removeprefix(start) for start, here in _OUTSIDE if theirs.startswith(start)), theirs)

    return rename


def _in_block(theirs: str, half: int, weight: str) -> str | None:
    """Return the name in its block of a tensor of a convolution; None for one that none has."""
    convolution = ("first", "second")[half]
    if theirs == f"binary_conv.{weight}":
        return f"{convolution}.0.weight"
    if theirs == "move0.bias":
        return f"{convolution}.0.level"
    if theirs in _REACTNET:
        return f"activation{half}.{_REACTNET[theirs]}"
    module, _, rest = theirs.partition(".")
    if module == "downsample" and half == 0:
        return f"shortcut.{rest}"
    return f"{convolution}.1.{rest}" if module == "bn1" else None


def _adapt(name: str, tensor: "Tensor", shape: tuple[int, ...]) -> "Tensor":
    return as_kernel(tensor, shape) if name.endswith(".0.weight") else tensor


def bi_real_layouts(blocks: Blocks) -> dict[str, Layout]:
    """Return the layouts by name."""
    return {
        "bi-real": imagenet_layout(
            "the code of Bi-Real Net",
            renaming(blocks, "weights"),
            {},
            networks=NETWORKS,
            adapt=_adapt,
            sign_of_zero=True,
        ),
        "reactnet-resnet": imagenet_layout(
            "the residual networks of the code of ReActNet",
            renaming(blocks, "weight"),
            {"scheme": "reactnet"},
            networks=NETWORKS,
            adapt=adapt,
            sign_of_zero=True,
        ),
    }
