"""An operator of the domain `bnas` reads the parts of a concatenation where they lie."""

from collections.abc import Iterable

import onnx_ir as ir

from bnas_deploy.core.operators import MOST_PARTS, operator, with_changes
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    activations_of,
    is_binary_conv,
    is_fused,
    is_recorded,
    node_before,
    replace_operator,
)


class FuseConcat:
    """Concat -> BinaryConv2d becomes BinaryConv2dConcat2, 3 or 4; other readers keep the Concat.

    So does Concat -> AffineMaxPool. The other operators of images have no parts.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every binary convolution and every maximum of images that reads a Concat."""
        return (node for node in model.graph if _may_have_parts(node) and _concat_before(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the operator goes on reading the concatenation."""
        concat = _concat_before(node)
        assert concat is not None
        if concat.attributes.get_int("axis") != CHANNEL_AXIS:
            return f"{concat.name} does not concatenate channels"
        if len(concat.inputs) > MOST_PARTS:
            return f"{concat.name} has {len(concat.inputs)} parts, more than {MOST_PARTS}"
        if with_changes(operator(node.op_type), parts=len(concat.inputs)) is None:
            return f"no operator does what {node.op_type} does and reads the parts of {concat.name}"
        if not all(value is not None and is_recorded(value) for value in concat.inputs):
            return f"PyTorch's program has no value of its own for a part of {concat.name}"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read the parts."""
        concat = _concat_before(node)
        assert concat is not None
        parts = [value for value in concat.inputs if value is not None]
        row = with_changes(operator(node.op_type), parts=len(parts))
        assert row is not None
        replace_operator(node, row, dict(zip(row.activations, parts, strict=True)), node)


def _may_have_parts(node: ir.Node) -> bool:
    if is_binary_conv(node):
        return True
    return is_fused(node) and with_changes(operator(node.op_type), parts=MOST_PARTS) is not None


def _concat_before(node: ir.Node) -> ir.Node | None:
    if len(activations_of(node)) > 1:
        return None
    before = node_before(node)
    return before if before is not None and before.op_type == "Concat" and len(before.inputs) > 1 else None
