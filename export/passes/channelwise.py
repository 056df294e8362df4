"""Nodes that compute each channel by itself, as functions of one number per channel.

Two things are read off them: whether such a function rises or falls, so that a sign behind it is a comparison of what
it reads; and whether it is a product and a sum, so that a convolution in front of it can take it into its own.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from bnas_deploy.export.graph import array_of, channel_numbers, channel_slopes, channels_of, clip_limits, same_shape
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.folding import Affine
from bnas_deploy.export.passes.threshold import Floats, as_on_images

Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class ChannelFunction:
    """What a node makes of each channel of `x`: a function of one float, for each of C channels.

    Attributes:
        x: the value that the node reads.
        rises: (C), the function never falls.
        falls: (C), it never rises; a constant one does neither.
        compute: the function on images, (N, C, H, W), as PyTorch computes it.
    """

    x: ir.Value
    rises: Bools
    falls: Bools
    compute: Callable[[Tensor], Tensor]

    @property
    def is_monotone(self) -> bool:
        """Tell whether it rises or falls in every channel."""
        return bool((self.rises | self.falls).all())

    def __call__(self, x: Floats) -> Floats:
        """Apply to x, (C) or (C, n), as PyTorch does, to the bit."""
        return as_on_images(self.compute, x)


def channel_function(node: ir.Node | None) -> ChannelFunction | None:
    """Return what `node` does to each channel; None if it is none of the known functions, or not one of one value."""
    if node is None or node.domain != "" or not node.inputs or not _makes_one_float_per_float(node):
        return None
    if node.op_type in _ARITHMETIC:
        return _arithmetic(node)
    make = _FUNCTIONS.get(node.op_type)
    return None if make is None else make(node)


def _makes_one_float_per_float(node: ir.Node) -> bool:
    y = node.outputs[0]
    if y.type is None or y.type.dtype != ir.DataType.FLOAT or y.shape is None or len(y.shape) < 2:
        return False
    return isinstance(y.shape[1], int) and all(not value.uses() for value in node.outputs[1:])


# --- a product and a sum --------------------------------------------------------------------------------------------


CONSTANT_ROUNDINGS = 4
"""Of a constant behind a convolution, relative to all that is added there: PyTorch rounds its step, and rounds a sum in
front of it that is larger by the constant; here scale and bias are rounded once more."""

_ARITHMETIC: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Div": torch.div,
}


def constant_operand(node: ir.Node) -> tuple[ir.Value, Floats | None, bool] | None:
    """Return the computed operand of a sum, difference, product or quotient, the constant one, and which is first.

    The constant is (C) float32, None if it is neither one number nor one per channel; True if it is the first operand.
    None if both operands are computed, or the result is larger than the computed one.
    """
    if node.domain != "" or node.op_type not in _ARITHMETIC or not _makes_one_float_per_float(node):
        return None
    for position in (0, 1):
        data, x = array_of(node.inputs[position]), node.inputs[1 - position]
        if data is not None and x is not None and array_of(x) is None and same_shape(x, node.outputs[0]):
            return x, channel_numbers(node.inputs[position], node.outputs[0]), position == 0
    return None


def affine_of(node: ir.Node) -> Affine | None:
    """Return what a node with a constant operand computes; None if that is no product and sum with finite numbers."""
    found = constant_operand(node)
    _, numbers, is_first = found or (None, None, False)
    if numbers is None:
        return None
    constant, one, zero = numbers.astype(np.float64), np.ones(len(numbers)), np.zeros(len(numbers))
    if node.op_type == "Div" and (is_first or not constant.all()):
        return None
    match node.op_type:
        case "Add":
            slope, shift = one, constant
        case "Sub":
            slope, shift = (-one, constant) if is_first else (one, -constant)
        case "Mul":
            slope, shift = constant, zero
        case _:
            slope, shift = 1 / constant, zero
    if not (np.isfinite(slope).all() and np.isfinite(shift).all()):
        return None
    return Affine(slope, shift, np.abs(shift), CONSTANT_ROUNDINGS)


def _arithmetic(node: ir.Node) -> ChannelFunction | None:
    found, affine = constant_operand(node), affine_of(node)
    if found is None or affine is None:
        return None
    x, numbers, is_first = found
    assert numbers is not None
    # One number is given to PyTorch as one, because it may divide by it otherwise than by many.
    alike = torch.from_numpy(numbers[:1].reshape(()) if (numbers == numbers[0]).all() else numbers[:, None, None])
    function = _ARITHMETIC[node.op_type]

    def compute(images: Tensor) -> Tensor:
        return function(alike, images) if is_first else function(images, alike)

    return ChannelFunction(x, affine.slope >= 0, affine.slope <= 0, compute)


# --- the others -----------------------------------------------------------------------------------------------------


def _batch_norm(node: ir.Node) -> ChannelFunction | None:
    if not has_known_parameters(node):
        return None
    norm = BatchNorm.of(node)
    return ChannelFunction(_first(node), norm.gamma >= 0, norm.gamma <= 0, norm.on_images)


def _rising(node: ir.Node, compute: Callable[[Tensor], Tensor]) -> ChannelFunction:
    channels = channels_of(node.outputs[0])
    return ChannelFunction(_first(node), np.ones(channels, bool), np.zeros(channels, bool), compute)


def _negative(node: ir.Node) -> ChannelFunction:
    channels = channels_of(node.outputs[0])
    return ChannelFunction(_first(node), np.zeros(channels, bool), np.ones(channels, bool), lambda images: -images)


def _clip(node: ir.Node) -> ChannelFunction | None:
    low, high = clip_limits(node) or (inf, -inf)
    return _rising(node, lambda images: images.clamp(low, high)) if low <= high else None


def _leaky_relu(node: ir.Node) -> ChannelFunction:
    alpha = node.attributes.get_float("alpha", 0.01)
    function = _rising(node, lambda images: F.leaky_relu(images, alpha))
    return function if alpha >= 0 else ChannelFunction(function.x, function.falls, function.falls, function.compute)


def _prelu(node: ir.Node) -> ChannelFunction | None:
    slopes = channel_slopes(node)
    if slopes is None:
        return None
    rises, learned = slopes >= 0, torch.from_numpy(slopes)
    return ChannelFunction(_first(node), rises, np.zeros_like(rises), lambda images: F.prelu(images, learned))


def _first(node: ir.Node) -> ir.Value:
    x = node.inputs[0]
    assert x is not None
    return x


_FUNCTIONS: dict[str, Callable[[ir.Node], ChannelFunction | None]] = {
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Identity": lambda node: _rising(node, lambda images: images),
    "LeakyRelu": _leaky_relu,
    "Neg": _negative,
    "PRelu": _prelu,
    "Relu": lambda node: _rising(node, torch.relu),
}
