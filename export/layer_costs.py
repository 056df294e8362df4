"""Count the layers of a rewritten graph."""

from collections.abc import Sequence
from math import prod

import onnx_ir as ir

from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import activations_of, array_of, constant_array, input_of, is_binary_conv

Shape = tuple[int, int, int]


def layer_costs(model: ir.Model) -> list[LayerCost]:
    """Return the layers with weights of the packed `model`, in running order."""
    return [layer_cost(node) for node in model.graph if has_weights(node)]


def has_weights(node: ir.Node) -> bool:
    """Tell whether `node` is a layer with weights, binary or float."""
    # torch.onnx writes a linear layer on more than two axes as a MatMul. Weights from the input are no layer's.
    is_float = node.op_type in {"Conv", "ConvTranspose", "Gemm", "MatMul"} and array_of(node.inputs[1]) is not None
    return is_binary_conv(node) or is_float


def layer_cost(node: ir.Node) -> LayerCost:
    """Count a layer with weights, a node of a packed model."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    if node.op_type in {"Gemm", "MatMul"}:
        read = _rows(x)
        return LayerCost(str(node.name), read, (_features_out(node), *read[1:]), (1, 1), (1, 1), (1, 1), 1, 32)
    if node.op_type == "ConvTranspose":
        # It does what the convolution from its output to its input does, backwards: as many weights and MACs.
        x, y = y, x
    binary = is_binary_conv(node)
    channels = _channels_read(node) if binary else shape_of(x)[0]
    # Packed weights are (O, KH, KW, bytes), float ones (O, C/groups, KH, KW).
    kernel = constant_array(input_of(node, "W")).shape[1:3] if binary else constant_array(node.inputs[1]).shape[2:]
    return LayerCost(
        name=str(node.name),
        input=(channels, *shape_of(x)[1:]),
        output=(_channels_made(node), *_size_made(node)) if binary else shape_of(y),
        kernel=_pair(kernel),
        stride=_pair(node.attributes.get_ints("strides", (1,) * len(kernel))),
        dilation=_pair(node.attributes.get_ints("dilations", (1,) * len(kernel))),
        groups=node.attributes.get_int("group", 1),
        weight_bits=1 if binary else 32,
    )


def _channels_read(node: ir.Node) -> int:
    """Return the channels of X of a binary convolution; a tensor of bits has eight in each of its own."""
    if operator(node.op_type).of_bits:
        return len(constant_array(input_of(node, "place")))
    return sum(shape_of(part)[0] for part in activations_of(node))


def _channels_made(node: ir.Node) -> int:
    return node.attributes.get_ints("weight_shape")[0]


def _size_made(node: ir.Node) -> tuple[int, int]:
    """Return the rows and columns of the accumulators of a binary convolution, all of which are computed."""
    (_, *size), made = shape_of(activations_of(node)[0]), shape_of(node.outputs[0])
    if not operator(node.op_type).max_pool:
        return made[1:]
    _, *kernel, _ = node.attributes.get_ints("weight_shape")
    strides, dilations = pair_of(node, "strides"), pair_of(node, "dilations")
    pads = node.attributes.get_ints("pads", (0, 0, 0, 0))
    rows, columns = (
        (size[axis] + pads[axis] + pads[2 + axis] - dilations[axis] * (kernel[axis] - 1) - 1) // strides[axis] + 1
        for axis in (0, 1)
    )
    return rows, columns


def pair_of(node: ir.Node, name: str) -> tuple[int, int]:
    """Return an attribute of a node, (vertical, horizontal), such as its strides; 1 where it is absent."""
    return _pair(node.attributes.get_ints(name, (1, 1)))


def shape_of(value: ir.Value) -> Shape:
    """Return (channels, height, width) of a value (N, C, H, W); 1 where it has fewer axes."""
    channels, *rest = _sizes(value) or [1]
    return (channels, *_pair(rest))


def _rows(value: ir.Value) -> Shape:
    """Return the shape of what a matrix product reads or makes: its last axis has the features, the others rows."""
    *rows, features = _sizes(value) or [1]
    return features, prod(rows), 1


def _features_out(node: ir.Node) -> int:
    """Return the features that a matrix product makes; torch.onnx does not say the shape of every one's result."""
    shape = constant_array(node.inputs[1]).shape
    if len(shape) == 1:
        return 1  # of a product with a vector
    rows, columns = shape[-2:]
    return int(rows if node.attributes.get_int("transB", 0) else columns)


def _sizes(value: ir.Value) -> list[int]:
    assert value.shape is not None
    return [size if isinstance(size, int) else 1 for size in value.shape[1:]]


def _pair(sizes: Sequence[int]) -> tuple[int, int]:
    """Return sizes along any axes as (vertical, horizontal), which leaves their product as it is."""
    *vertical, horizontal = sizes or (1,)
    return prod(vertical), horizontal
