"""Count the layers of a rewritten graph."""

import onnx_ir as ir

from bnas_deploy.cost import LayerCost
from bnas_deploy.export.graph import activations_of, array_of, constant_array, input_of, is_binary_conv

Shape = tuple[int, int, int]


def layer_costs(model: ir.Model) -> list[LayerCost]:
    """Return the layers with weights of the packed `model`, in running order."""
    return [_layer_cost(node) for node in model.graph if is_binary_conv(node) or _has_float_weights(node)]


def _has_float_weights(node: ir.Node) -> bool:
    # torch.onnx writes a linear layer on more than two axes as a MatMul.
    return node.op_type in {"Conv", "Gemm"} or (node.op_type == "MatMul" and array_of(node.inputs[1]) is not None)


def _layer_cost(node: ir.Node) -> LayerCost:
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    if node.op_type in {"Gemm", "MatMul"}:
        return LayerCost(str(node.name), _shape(x), _shape(y), (1, 1), (1, 1), (1, 1), 1, 32)
    binary = is_binary_conv(node)
    channels = sum(_shape(part)[0] for part in activations_of(node)) if binary else _shape(x)[0]
    # Packed weights are (O, KH, KW, bytes), float ones (O, C/groups, KH, KW).
    kernel = constant_array(input_of(node, "W")).shape[1:3] if binary else constant_array(node.inputs[1]).shape[2:]
    return LayerCost(
        name=str(node.name),
        input=(channels, *_shape(x)[1:]),
        output=_shape(y),
        kernel=(kernel[0], kernel[1]),
        stride=_pair(node, "strides"),
        dilation=_pair(node, "dilations"),
        groups=node.attributes.get_int("group", 1),
        weight_bits=1 if binary else 32,
    )


def _pair(node: ir.Node, name: str) -> tuple[int, int]:
    vertical, horizontal = node.attributes.get_ints(name, (1, 1))
    return vertical, horizontal


def _shape(value: ir.Value) -> Shape:
    assert value.shape is not None
    sizes = [size if isinstance(size, int) else 1 for size in value.shape[1:]]
    channels, height, width = (*sizes, 1, 1)[:3]
    return channels, height, width
