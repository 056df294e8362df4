"""A maximum is taken first, and then what rises: the function has a quarter of the pixels to do."""

from collections.abc import Iterable

import onnx_ir as ir

from bnas_deploy.export.graph import UNRECORDED, is_binary_conv, node_before, shared_before
from bnas_deploy.export.passes.channelwise import channel_function

_FUSED_BY_CONV = ("Clip", "LeakyRelu", "Relu")


class PoolBeforeRising:
    """PRelu -> MaxPool becomes MaxPool -> PRelu, with slopes of at least 0: f(max) is the max of f, to the bit.

    This is the stem of Real-to-Binary and of others with PReLU, and any BN that is left there.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the maxima of functions of channels, but for those that a convolution takes in."""
        return (node for node in model.graph if node.op_type == "MaxPool" and _is_behind_function(node_before(node)))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the maximum stays behind."""
        before = node_before(node)
        function = channel_function(before)
        assert before is not None
        assert function is not None
        if not function.rises.all():
            return f"{before.op_type} falls in some channel"
        if shared := shared_before(node):
            return f"{shared} is also read without the maximum"
        return "it gives the places of the maxima, too" if len(node.outputs) > 1 else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Exchange both."""
        before = node_before(node)
        function = channel_function(before)
        assert before is not None
        assert function is not None
        y = node.outputs[0]
        pooled = ir.Value(name=f"{y.name}.first", shape=y.shape, type=y.type)
        pooled.meta[UNRECORDED] = True
        pool = ir.Node("", "MaxPool", [function.x], node.attributes, outputs=[pooled], name=node.name)
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        inputs = [pooled if value is function.x else value for value in before.inputs]
        behind = ir.Node("", before.op_type, inputs, before.attributes, outputs=[result], name=before.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node, before], [pool, behind], [y], [result])


def _is_behind_function(before: ir.Node | None) -> bool:
    function = channel_function(before)
    if before is None or function is None:
        return False
    return before.op_type not in _FUSED_BY_CONV and not is_binary_conv(function.x.producer())
