"""What an export could not make binary though it looks it, and where sign(0) decides: for people to look at.

Both are found in what PyTorch computed on the user's images, so that it does not matter how a sign was written: as
`torch.sign`, `torch.where`, a comparison or a function of the user's own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.export.capture import CapturedModel
from bnas_deploy.export.foreign.left_float import FLOAT_WEIGHTS, REGISTER, Left
from bnas_deploy.export.graph import array_of, origin_of
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.ties import ZeroActivations, zeros_before_signs
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d

FEWEST_ACTIVATIONS = 16
"""Fewer values than these can be two by chance, such as the one weight of each channel of a scale."""

LOOKS_BINARY = "WARNING: look binary"

WEIGHTS = "WARNING: weights"

_FEW_LAYERS = 3


class LooksBinaryWarning(UserWarning):
    """A layer stays float in the exported model, though it looks binary."""


@dataclass(frozen=True)
class LikelyBinary:
    """A float layer whose weights or whose input have two values: probably a binary layer that was not recognised.

    `reason` says what it lacks, and what to do; "" where that is not known.
    """

    name: str
    weights: bool
    input: bool
    reason: str = ""


@dataclass(frozen=True)
class Doubts:
    """What a person should look at: layers in running order, and what is known of where the weights come from."""

    likely_binary: tuple[LikelyBinary, ...]
    zero_activations: tuple[ZeroActivations, ...]
    weights: str = ""

    def sentences(self) -> dict[str, str]:
        """Return what is to be said of them, by what it is about; `LOOKS_BINARY` is one to warn of."""
        said = {WEIGHTS: self.weights} if self.weights else {}
        if self.likely_binary:
            names = "; ".join(f"{layer.name} ({_looks(layer)})" for layer in self.likely_binary)
            said[LOOKS_BINARY] = f"{names}: meant to be binary? As they are, they stay float"
        if zeros := self.zero_activations:
            counts = [f"{layer.zeros:,} of {layer.activations:,} before {layer.name}" for layer in zeros[:_FEW_LAYERS]]
            counts += [f"and before {len(zeros) - _FEW_LAYERS} layers more"] * (len(zeros) > _FEW_LAYERS)
            said["activations of exactly 0"] = f"{', '.join(counts)}; sign(0) is +1 here, and 0 in torch.sign"
        return said


def _looks(layer: LikelyBinary) -> str:
    found = {"weights of two values": layer.weights, "input of two values": layer.input}
    looks = ", ".join(text for text, true in found.items() if true)
    return f"{looks}; {f'but {layer.reason}' if layer.reason else REGISTER}"


def find_doubts(
    captured: CapturedModel,
    values: dict[str, Tensor],
    module: nn.Module,
    images: Tensor | Feed,
    left: Sequence[Left] = (),
) -> Doubts:
    """Look for float layers that seem binary, and count the zeros whose sign binary layers take.

    Args:
        captured: the graph before any rewriting.
        values: what PyTorch computed in it on an image or more.
        module: what was captured; its own layers with float weights or float activations are meant to be as they are.
        images: (N, C, H, W) float32, or what else the network takes, to count on.
        left: why layers were not recognised as binary.
    """
    reasons = {each.name: each.advice for each in left}
    return Doubts(_likely_binary(captured, values, module, reasons), zeros_before_signs(captured, images))


def no_binary_layer(module: nn.Module, left: Sequence[Left]) -> str:
    """Say that a module has no binary layer, which classes of layers it has, and what to do.

    `left` are its layers with weights, and why each is none.
    """
    classes = Counter(type(layer).__name__ for layer in module.modules() if not list(layer.children()))
    seen = ", ".join(f"{name} ({count})" if count > 1 else name for name, count in classes.most_common())
    name, binary = type(module).__name__, "signs of what is computed times weights of one magnitude per output channel"
    nearest = [each for each in left if not each.reason.startswith(FLOAT_WEIGHTS)]
    if nearest:
        return f"{name}: no layer can be exported as a binary one, {binary}: {_few(nearest)}. Classes seen: {seen}"
    reasons = f"; {_few(left)}" if left else ""
    return (
        f"{name}: no binary layer in it, that is {binary}. Classes seen: {seen}{reasons}. Where a class of yours is "
        f"binary, {REGISTER}. Float networks are for torch.onnx"
    )


def _few(left: Sequence[Left]) -> str:
    """Say why some layers are none, and then each remedy once."""
    shown = left[:_FEW_LAYERS]
    more = f" (and {len(left) - _FEW_LAYERS} layers more)" if len(left) > _FEW_LAYERS else ""
    reasons = "; ".join(f"{each.called}: {each.reason}" for each in shown) + more
    remedies = dict.fromkeys(each.remedy for each in shown if each.remedy)
    return ". ".join((reasons, *(remedy[0].upper() + remedy[1:] for remedy in remedies)))


def _likely_binary(
    captured: CapturedModel, values: dict[str, Tensor], module: nn.Module, reasons: Mapping[str, str]
) -> tuple[LikelyBinary, ...]:
    meant = {
        name
        for name, layer in module.named_modules()
        if isinstance(layer, BinaryWeightConv2d) or (isinstance(layer, BinaryConv2d) and layer.scheme.weight_bits > 1)
    }
    found = []
    for node in captured.model.graph:
        if node.op_type not in _WEIGHT_AXES or node.domain != "" or str(node.name).partition("#")[0] in meant:
            continue
        x, weight = node.inputs[:2]
        weights, signs = _has_two_values_per_channel(node, _data(weight, values)), _has_two_values(x, values)
        if weights or signs:
            # A layer that is a function in the whole module's forward goes by the name of its value.
            reason = reasons.get(str(node.name)) or reasons.get(origin_of(node.outputs[0]).name, "")
            found.append(LikelyBinary(str(node.name), weights, signs, reason))
    return tuple(found)


_WEIGHT_AXES = {"Conv": 0, "ConvTranspose": 1, "Gemm": 0, "MatMul": -1}
"""Where the output channels are in the weights; torch.onnx writes linear layers as Gemm with transB."""


def _data(value: ir.Value | None, values: dict[str, Tensor]) -> NDArray[Any] | None:
    """Return the data of a constant, or of what PyTorch computed of constants."""
    known = array_of(value)
    if known is None and value is not None and origin_of(value).name in values:
        return values[origin_of(value).name].detach().numpy()
    return known


def _has_two_values_per_channel(node: ir.Node, weight: NDArray[Any] | None) -> bool:
    """Tell whether the weights have two values throughout, or one magnitude for each output channel with both signs."""
    if weight is None or weight.ndim < 2:
        return False
    rows = np.moveaxis(weight, _WEIGHT_AXES[node.op_type], 0).reshape(weight.shape[_WEIGHT_AXES[node.op_type]], -1)
    if rows.shape[1] < 2 or rows.size < FEWEST_ACTIVATIONS:
        return False
    magnitudes = np.abs(rows)
    one_magnitude = bool((magnitudes == magnitudes[:, :1]).all() and (rows > 0).any() and (rows < 0).any())
    # A kernel that moves pixels or channels has two values, too: a single 1 for each output channel.
    return one_magnitude or (len(np.unique(rows)) == 2 and bool((np.count_nonzero(rows, axis=1) > 1).any()))


def _has_two_values(value: ir.Value | None, values: dict[str, Tensor]) -> bool:
    """Tell whether a computed value has two values: ±s, zeros apart, or 0 and s. Images of two colours do not count."""
    if value is None or value.is_graph_input() or origin_of(value).name not in values:
        return False
    x = values[origin_of(value).name].detach().numpy()
    if x.size < FEWEST_ACTIVATIONS or len(np.unique(x.flat[:FEWEST_ACTIVATIONS])) > 3:
        return False  # the first few tell already, without a look at all of them
    levels = set(np.unique(x).tolist())
    return len(levels) == 2 or (len(levels) == 3 and sum(levels) == 0 and 0.0 in levels)
