"""Count the layers of a rewritten graph."""

import onnx_ir as ir

from bnas_deploy.cost import LayerCost
from bnas_deploy.export.graph import activations_of, array_of, constant_array, input_of, is_binary_conv

Shape = tuple[int, int, int]


def layer_costs(model: ir.Model) -> list[LayerCost]:
    """Return the layers with weights of the packed `model`, in running order."""
    return [layer_cost(node) for node in model.graph if has_weights(node)]


def has_weights(node: ir.Node) -> bool:
    """Tell whether `node` is a layer with weights, binary or float."""
    # torch.onnx writes a linear layer on more than two axes as a MatMul.
    is_product = node.op_type == "MatMul" and array_of(node.inputs[1]) is not None
    return is_binary_conv(node) or node.op_type in {"Conv", "Gemm"} or is_product


def layer_cost(node: ir.Node) -> LayerCost:
    """Count a layer with weights, a node of a packed model."""
    x, y = node.inputs[0], node.outputs[0]
    assert x is not None
    if node.op_type in {"Gemm", "MatMul"}:
        return LayerCost(str(node.name), shape_of(x), shape_of(y), (1, 1), (1, 1), (1, 1), 1, 32)
    binary = is_binary_conv(node)
    channels = sum(shape_of(part)[0] for part in activations_of(node)) if binary else shape_of(x)[0]
    # Packed weights are (O, KH, KW, bytes), float ones (O, C/groups, KH, KW).
    kernel = constant_array(input_of(node, "W")).shape[1:3] if binary else constant_array(node.inputs[1]).shape[2:]
    return LayerCost(
        name=str(node.name),
        input=(channels, *shape_of(x)[1:]),
        output=shape_of(y),
        kernel=(kernel[0], kernel[1]),
        stride=pair_of(node, "strides"),
        dilation=pair_of(node, "dilations"),
        groups=node.attributes.get_int("group", 1),
        weight_bits=1 if binary else 32,
    )


def pair_of(node: ir.Node, name: str) -> tuple[int, int]:
    """Return an attribute of a node, (vertical, horizontal), such as its strides; 1 where it is absent."""
    vertical, horizontal = node.attributes.get_ints(name, (1, 1))
    return vertical, horizontal


def shape_of(value: ir.Value) -> Shape:
    """Return (channels, height, width) of a value (N, C, H, W); 1 where it has fewer axes."""
    assert value.shape is not None
    sizes = [size if isinstance(size, int) else 1 for size in value.shape[1:]]
    channels, height, width = (*sizes, 1, 1)[:3]
    return channels, height, width
