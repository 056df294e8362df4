"""XNOR-Net's K, written with operations of the framework, becomes part of the binary convolution that it multiplies.

K is the mean of |X| over the channels, summed over the window of the convolution and divided by its size. Authors write
it as a mean or a sum, and then a convolution with a constant kernel or an average pool. Behind the operator K stands
before the bias, so this pass runs before others fold one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import operator, with_changes
from bnas_deploy.export.graph import (
    activations_of,
    array_of,
    channels_of,
    constant_array,
    constant_beside,
    input_of,
    is_binary_conv,
    replace_operator,
    sole_consumer,
)
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import Affine, fold_into_binary_conv, take_over_output

K_ROUNDINGS = "k_roundings"
"""Key of a node's note: roundings of PyTorch's K that the operator's has not: of a kernel of 1 / n, and of its mean."""

_OF_THEIRS = 4

_ONE_PIXEL = ((1, 1), (1, 1), (0, 0, 0, 0), (1, 1))
"""The window of a convolution whose K is the mean of the magnitudes itself."""


@dataclass(frozen=True)
class _Map:
    """What a value is: `factor` times the sum of |x| over the channels, and over a window if `window` is given.

    `window` has the kernel, strides, pads and dilations.
    """

    x: ir.Value
    factor: float
    window: tuple[tuple[int, ...], ...] | None = None


class FuseK:
    """BinaryConv2d(X), constants, * K(|X|) becomes BinaryConv2dK."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every product of what a binary convolution made and such a map."""
        return (node for node in model.graph if _parts(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the product stays a node of its own."""
        parts = _parts(node)
        assert parts is not None
        (convolution, *products), found = parts
        if found.x is not activations_of(convolution)[0]:
            return f"{convolution.name} takes signs of another value than K magnitudes"
        if with_changes(operator(convolution.op_type), k_map=True) is None:
            return f"no operator does what {convolution.op_type} does and has a K"
        if (found.window or _ONE_PIXEL) != _window(convolution):
            return f"K has another window than {convolution.name}"
        if constant_array(input_of(convolution, "bias")).any():
            return f"{convolution.name} has a bias, which stands before K"
        if not found.factor > 0:
            return "K is multiplied by 0 or less"
        shared = next((each for each in (convolution, *products) if sole_consumer(each.outputs[0]) is None), None)
        return None if shared is None else f"{shared.outputs[0].name} is also read without K"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution multiply by its own K."""
        parts = _parts(node)
        assert parts is not None
        (convolution, *products), found = parts
        x = activations_of(convolution)[0]
        kernel = _window(convolution)[0]
        for product in products:
            affine = affine_of(product)
            assert affine is not None
            fold_into_binary_conv(model.graph, convolution, affine)
            take_over_output(model.graph, convolution, product)
        outputs = len(constant_array(input_of(convolution, "scale")))
        slope = found.factor * channels_of(x) * int(np.prod(kernel))
        if slope != 1:
            zeros = np.zeros(outputs)
            fold_into_binary_conv(model.graph, convolution, Affine(np.full(outputs, slope), zeros, zeros, 1))
        convolution.meta[K_ROUNDINGS] = _OF_THEIRS
        row = with_changes(operator(convolution.op_type), k_map=True)
        assert row is not None
        replace_operator(convolution, row, {}, node)


def _parts(node: ir.Node) -> tuple[list[ir.Node], _Map] | None:
    """Return the binary convolution with the constant products behind it, and the map, that a product multiplies."""
    if node.domain != "" or node.op_type != "Mul":
        return None
    for y in node.inputs:
        other = None if y is None else constant_beside(node, y)
        made = None if y is None else _products(y)
        found = None if other is None else _map(other)
        if made is not None and found is not None:
            return made, found
    return None


def _products(y: ir.Value) -> list[ir.Node] | None:
    """Return the binary convolution and the products with a constant per channel that make a value, in this order."""
    nodes: list[ir.Node] = []
    node = y.producer()
    while node is not None and not is_binary_conv(node):
        found, affine = constant_operand(node), affine_of(node)
        if found is None or affine is None or not affine.is_product:
            return None
        nodes.insert(0, node)
        node = found[0].producer()
    return None if node is None else [node, *nodes]


def _map(value: ir.Value) -> _Map | None:
    """Read a map of magnitudes, (N, 1, OH, OW)."""
    node = value.producer()
    if node is None or node.domain != "":
        return None
    if (scaled := _scaled(node)) is not None:
        before, factor = scaled
        found = _map(before)
        return None if found is None else _Map(found.x, found.factor * factor, found.window)
    if node.op_type in {"ReduceMean", "ReduceSum"}:
        return _over_channels(node)
    box = _box(node)
    (x, *_) = node.inputs
    found = None if box is None or x is None else _map(x)
    if box is None or found is None or found.window is not None:
        return None
    return _Map(found.x, found.factor * box[0], box[1])


def _scaled(node: ir.Node) -> tuple[ir.Value, float] | None:
    """Return what is multiplied or divided by one number, and the factor."""
    if node.op_type not in {"Mul", "Div"}:
        return None
    for place, value in enumerate(node.inputs):
        data = array_of(value)
        other = node.inputs[1 - place]
        if data is not None and data.size == 1 and other is not None and (node.op_type == "Mul" or place == 1):
            number = float(data.item())
            return None if not number else (other, number if node.op_type == "Mul" else 1 / number)
    return None


def _over_channels(node: ir.Node) -> _Map | None:
    """Read a mean or a sum of magnitudes over the channels."""
    axes = array_of(node.inputs[1]) if len(node.inputs) > 1 else None
    x = node.inputs[0]
    absolute = None if x is None else x.producer()
    if axes is None or axes.tolist() not in ([1], [-3]) or node.attributes.get_int("keepdims", 1) != 1:
        return None
    if absolute is None or absolute.op_type != "Abs" or absolute.inputs[0] is None:
        return None
    of = absolute.inputs[0]
    if of.shape is None or len(of.shape) != 4:
        return None
    return _Map(of, 1 / channels_of(of) if node.op_type == "ReduceMean" else 1.0)


def _box(node: ir.Node) -> tuple[float, tuple[tuple[int, ...], ...]] | None:
    """Return the one number of a constant kernel (1, 1, KH, KW), or of an average pool, and its window."""
    if node.op_type == "AveragePool":
        pads = node.attributes.get_ints("pads", [0] * 4)
        counted = node.attributes.get_int("count_include_pad", 0) or not any(pads)
        kernel = tuple(node.attributes.get_ints("kernel_shape"))
        plain = counted and not node.attributes.get_int("ceil_mode", 0) and len(kernel) == 2
        return (1 / int(np.prod(kernel)), _geometry(node, kernel)) if plain else None
    weight = array_of(node.inputs[1]) if node.op_type == "Conv" else None
    bias = array_of(node.inputs[2]) if node.op_type == "Conv" and len(node.inputs) > 2 else None
    if weight is None or weight.ndim != 4 or weight.shape[:2] != (1, 1) or not (weight == weight.flat[0]).all():
        return None
    if len(node.inputs) > 2 and (bias is None or bias.any()):
        return None
    return float(weight.flat[0]), _geometry(node, weight.shape[2:])


def _geometry(node: ir.Node, kernel: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    attributes = node.attributes
    usual = (("strides", [1, 1]), ("pads", [0] * 4), ("dilations", [1, 1]))
    return (kernel, *(tuple(attributes.get_ints(name, default)) for name, default in usual))


def _window(convolution: ir.Node) -> tuple[tuple[int, ...], ...]:
    weights = constant_array(input_of(convolution, "W"))
    return _geometry(convolution, weights.shape[2:])
