"""An activation behind a binary convolution becomes part of it."""

from collections.abc import Iterable
from dataclasses import replace

import onnx_ir as ir

from bnas_deploy.core.operators import ACTIVATIONS, operator
from bnas_deploy.export.graph import (
    channel_slopes,
    constant,
    is_binary_conv,
    node_before,
    replace_operator,
    shared_before,
)

_FUSED = tuple(activation for activation in ACTIVATIONS if activation)


class FuseActivation:
    """BinaryConv2d -> Relu or PRelu becomes BinaryConv2dRelu or BinaryConv2dPRelu."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every Relu and PRelu that reads a binary convolution."""
        return (node for node in model.graph if node.op_type in _FUSED and is_binary_conv(node_before(node)))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the activation stays a node of its own."""
        convolution = node_before(node)
        assert convolution is not None
        row = operator(convolution.op_type)
        if row.activation:
            return f"{convolution.name} has an activation already"
        if row.added:
            return f"an addition stands between {convolution.name} and the activation"
        if shared := shared_before(node):
            return f"{shared} is also read without the activation"
        if node.op_type == "PRelu" and channel_slopes(node) is None:
            return "its slope is computed from the input, or neither one number nor one per channel"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution compute what the activation did."""
        convolution = node_before(node)
        assert convolution is not None
        activation = next(name for name in _FUSED if name == node.op_type)
        inputs = {}
        if activation == "PRelu":
            slopes = channel_slopes(node)
            assert slopes is not None
            inputs["slope"] = constant(model.graph, f"{convolution.name}.slope", slopes)
        row = replace(operator(convolution.op_type), activation=activation)
        replace_operator(convolution, row, inputs, node)
