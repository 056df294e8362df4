"""How the code of ReActNet names the weights of ReActNet-A.

Code: github.com/liuzechun/ReActNet at a6cd08d, mobilenet/2_step2/reactnet.py. Its names, with those here behind them
(i a block from 1 on, b = i - 1):

    feature.0.{conv1.weight, bn1.*}                  stem.{0.weight, 1.*}
    feature.{i}.move11.bias                          blocks.{b}.0.branch.0.level     with the other sign
    feature.{i}.binary_3x3.weights                   blocks.{b}.0.branch.0.weight    in one column
    feature.{i}.bn1.*                                blocks.{b}.0.branch.1.*
    feature.{i}.move12.bias                          blocks.{b}.1.shift_in           with the other sign
    feature.{i}.{prelu1.weight, move13.bias}         blocks.{b}.1.{prelu.weight, shift_out}
    feature.{i}.{move21.bias, binary_pw.weights}     blocks.{b}.2.branch.0.{level, weight}
    feature.{i}.bn2.*                                blocks.{b}.2.branch.1.*
    feature.{i}.{move22.bias, prelu2.weight, move23.bias}    blocks.{b}.3.{shift_in, prelu.weight, shift_out}
    fc.*                                             classifier.linear.*

Where the channels double, two convolutions, `binary_pw_down1` and `binary_pw_down2`, and their BN, `bn2_1` and `bn2_2`,
stand for `binary_pw` and `bn2`; here they are one of all outputs.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.layouts.imagenet import imagenet_layout
from bnas_deploy.search.models.layouts.learnable_bias import adapt

if TYPE_CHECKING:
    from torch import Tensor

_IN_A_BLOCK = re.compile(r"feature\.(?P<number>[1-9]\d*)\.(?P<module>\w+)\.(?P<kind>\w+)")

_OUTSIDE = (("feature.0.conv1.", "stem.0."), ("feature.0.bn1.", "stem.1."), ("fc.", "classifier.linear."))

_NAMES = {
    "move11.bias": "0.branch.0.level",
    "binary_3x3.weights": "0.branch.0.weight",
    "move12.bias": "1.shift_in",
    "prelu1.weight": "1.prelu.weight",
    "move13.bias": "1.shift_out",
    "move21.bias": "2.branch.0.level",
    "binary_pw.weights": "2.branch.0.weight",
    "binary_pw_down1.weights": "2.branch.0.weight",
    "move22.bias": "3.shift_in",
    "prelu2.weight": "3.prelu.weight",
    "move23.bias": "3.shift_out",
}

_NORMS = {"bn1": "0.branch.1", "bn2": "2.branch.1", "bn2_1": "2.branch.1"}

_HALVES = {"binary_pw_down1": "binary_pw_down2", "bn2_1": "bn2_2"}
"""The second half of each module that is the first half of one here."""


def rename(config: BackboneConfig, theirs: str) -> str:
    """Return the name here of a tensor of the code of ReActNet."""
    if found := _IN_A_BLOCK.fullmatch(theirs):
        module, kind = found["module"], found["kind"]
        here = f"{_NORMS[module]}.{kind}" if module in _NORMS else _NAMES.get(f"{module}.{kind}")
        return theirs if here is None else f"blocks.{int(found['number']) - 1}.{here}"
    return next((here + theirs.removeprefix(start) for start, here in _OUTSIDE if theirs.startswith(start)), theirs)


def join(state: "Mapping[str, Tensor]") -> "dict[str, Tensor]":
    """Return the tensors with the two halves of a convolution or a BN as one, by the name of the first."""
    import torch

    joined = dict(state)
    for name, first in state.items():
        block, _, tensor = name.rpartition(".")
        block, _, module = block.rpartition(".")
        other = f"{block}.{_HALVES.get(module)}.{tensor}"
        if module not in _HALVES or other not in joined:
            continue
        second = joined[other]
        if first.ndim == 0 or first.shape[1:] == second.shape[1:]:
            del joined[other]
            # A count of batches is no vector, and the same for both.
            joined[name] = torch.cat((first, second)) if first.ndim else first
    return joined


REACTNET_LAYOUTS = {
    "reactnet": imagenet_layout("the code of ReActNet", rename, {}, join=join, adapt=adapt, sign_of_zero=True)
}
"""By name."""
