"""A factor for each image and channel, or for each pixel, becomes part of the binary convolution before it."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import operator, with_changes
from bnas_deploy.export.graph import (
    array_of,
    channel_numbers,
    constant,
    constant_array,
    constant_beside,
    input_of,
    is_binary_conv,
    is_recorded,
    replace_operator,
    sole_consumer,
)


class FuseGate:
    """BinaryConv2d * gate becomes BinaryConv2dGate.

    A gate is computed from the data, (N, O, 1, 1), or a constant map of scales, (1, O, OH, OW). What follows, such as a
    BN, finds the convolution bare: the bias stands behind the gate.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every product of a binary convolution and what is not one number per channel."""
        return (
            node
            for node in model.graph
            if (convolved := _convolved(node)) is not None
            and channel_numbers(constant_beside(node, convolved), node.outputs[0]) is None
        )

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the product stays a node of its own."""
        convolved = _convolved(node)
        assert convolved is not None
        convolution = convolved.producer()
        assert convolution is not None
        gate = constant_beside(node, convolved)
        row = operator(convolution.op_type)
        if gate is None:
            return f"{convolved.name} is multiplied by itself"
        if row.activation or row.added or row.gate or with_changes(row, gate=True) is None:
            return f"no operator does what {convolution.op_type} does and has a gate behind it"
        if sole_consumer(convolved) is None:
            return f"{convolved.name} is also read without the gate"
        if constant_array(input_of(convolution, "bias")).any():
            return f"{convolution.name} has a bias, which stands before the gate"
        if not is_recorded(gate):
            return "PyTorch's program has no value of its own for the gate"
        if not _fits(gate, convolved):
            return f"{gate.name} {gate.shape} has neither one number per image and channel nor one per pixel"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution multiply."""
        convolved = _convolved(node)
        assert convolved is not None
        convolution, gate = convolved.producer(), constant_beside(node, convolved)
        assert convolution is not None
        assert gate is not None
        if (numbers := array_of(gate)) is not None:
            whole = numbers.reshape(1, *numbers.shape[-3:]).astype(np.float32)
            gate = constant(model.graph, f"{convolution.name}.gate", whole)
        row = with_changes(operator(convolution.op_type), gate=True)
        assert row is not None
        replace_operator(convolution, row, {"gate": gate}, node)


def _convolved(node: ir.Node) -> ir.Value | None:
    """Return the factor of a product that a binary convolution makes; of two the first."""
    if node.domain != "" or node.op_type != "Mul":
        return None
    made = (value for value in node.inputs if value is not None and is_binary_conv(value.producer()))
    return next(made, None)


def _fits(gate: ir.Value, y: ir.Value) -> bool:
    """Tell whether the operator can have the gate: (N, O, 1, 1), all of y, or a constant for all images.

    A constant that is the same for all channels would have to be stored for each.
    """
    if gate.shape is None or y.shape is None:
        return False
    if (data := array_of(gate)) is not None:
        return data.shape in (tuple(y.shape[1:]), (1, *y.shape[1:]))
    return len(gate.shape) == 4 and gate.shape[:2] == y.shape[:2] and gate.shape[2:] in ((1, 1), y.shape[2:])
