"""An activation behind a binary convolution, or behind sums that it has taken, becomes part of it."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.operators import ACTIVATIONS, Operator, operator, with_changes
from bnas_deploy.export.graph import (
    channel_slopes,
    channels_of,
    clip_limits,
    constant,
    input_of,
    is_binary_conv,
    node_before,
    replace_operator,
    shared_before,
)

_FUSED = tuple(activation for activation in ACTIVATIONS if activation)


class FuseActivation:
    """BinaryConv2d -> Relu, PRelu or Clip becomes BinaryConv2dRelu and so on.

    Sums between them stay between them: BinaryConv2dAdd -> Relu becomes BinaryConv2dAddRelu.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every activation that reads a binary convolution."""
        return (
            node
            for node in model.graph
            if node.op_type in _FUSED and node.domain == "" and is_binary_conv(node_before(node))
        )

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the activation stays a node of its own."""
        convolution = node_before(node)
        assert convolution is not None
        if operator(convolution.op_type).activation:
            return f"{convolution.name} has an activation already"
        if shared := shared_before(node):
            return f"{shared} is also read without the activation"
        if node.op_type == "PRelu" and channel_slopes(node) is None:
            return "its slope is computed from the input, or neither one number nor one per channel"
        if node.op_type == "Clip" and clip_limits(node) is None:
            return "its limits are computed from the input"
        if _behind(convolution, node) is None:
            return f"no operator does what {convolution.op_type} does and {node.op_type} behind it"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution compute what the activation did."""
        convolution = node_before(node)
        assert convolution is not None
        row, before = _behind(convolution, node), operator(convolution.op_type)
        assert row is not None
        inputs = {
            name: constant(model.graph, f"{convolution.name}.{name}", values)
            for name, values in _constants(node).items()
        }
        sums = zip(row.before_inputs, before.added_inputs, strict=True)
        inputs |= {name: input_of(convolution, old) for name, old in sums}
        replace_operator(convolution, row, inputs, node)


def _behind(convolution: ir.Node, activation: ir.Node) -> Operator | None:
    """Return the operator that does both."""
    row = operator(convolution.op_type)
    name = next(name for name in _FUSED if name == activation.op_type)
    return with_changes(row, activation=name, before=row.added, added=0)


def _constants(node: ir.Node) -> dict[str, NDArray[np.float32]]:
    """Return the constants of an activation by their names in `Operator.inputs`, (O) each."""
    if node.op_type == "PRelu":
        slopes = channel_slopes(node)
        assert slopes is not None
        return {"slope": slopes}
    if node.op_type == "Clip":
        limits, channels = clip_limits(node), channels_of(node.outputs[0])
        assert limits is not None
        return {name: np.full(channels, limit, np.float32) for name, limit in zip(("low", "high"), limits, strict=True)}
    return {}
