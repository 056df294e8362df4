"""Constants per channel behind a convolution, such as a learned bias or scale, become part of its own numbers."""

from collections.abc import Callable, Iterable

import onnx_ir as ir

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import is_binary_conv, sole_consumer
from bnas_deploy.export.passes.batch_norm import has_known_parameters, is_conv
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import fold_into_binary_conv, fold_into_conv, take_over_output

_SHAPE = "its constant is neither one number nor one per channel, or it is 0 or not finite where that divides"

_IN_FRONT = "the node with a constant in front of it was kept"


def _sites(model: ir.Model, is_convolution: Callable[[ir.Node | None], bool]) -> Iterable[ir.Node]:
    """Return the sums, products, ... with a constant behind a convolution, or behind such a node."""
    made = set()
    for node in model.graph:
        found = constant_operand(node)
        is_site = found is not None and found[0] in made
        if is_site or is_convolution(node):
            made.add(node.outputs[0])
        if is_site:
            yield node


def _convolution_before(node: ir.Node) -> ir.Node | None:
    found = constant_operand(node)
    return None if found is None else found[0].producer()


def _refusal(node: ir.Node) -> str | None:
    """Return what stands in the way, whatever the convolution."""
    found = constant_operand(node)
    assert found is not None
    if affine_of(node) is None:
        return _SHAPE
    return f"{found[0].name} is also read without the constant" if sole_consumer(found[0]) is None else None


class FoldConstantsAfterBinaryConv:
    """Binary convolution -> Add, Sub, Mul or Div with constants per channel: part of its scale and bias."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the nodes with a constant that read a binary convolution, or what will be one."""
        return _sites(model, is_binary_conv)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the node is kept."""
        convolution = _convolution_before(node)
        if convolution is None or not is_binary_conv(convolution):
            return _IN_FRONT
        row = operator(convolution.op_type)
        if row.activation or row.added:
            return f"an activation or an addition stands between {convolution.name} and the constant"
        return _refusal(node)

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold and remove the node."""
        _fold_into_binary_conv(model.graph, node)


def _fold_into_binary_conv(graph: ir.Graph, node: ir.Node) -> None:
    convolution, affine = _convolution_before(node), affine_of(node)
    assert convolution is not None
    assert affine is not None
    fold_into_binary_conv(graph, convolution, affine)
    take_over_output(graph, convolution, node)


class FoldConstantsAfterConv:
    """Float convolution -> Add, Sub, Mul or Div with constants per channel: part of its weights and bias."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the nodes with a constant that read a float convolution, or what will be one."""
        return _sites(model, is_conv)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the node is kept."""
        convolution = _convolution_before(node)
        if convolution is None or not is_conv(convolution):
            return _IN_FRONT
        if not has_known_parameters(convolution):
            return f"the weights of {convolution.name} are computed from the input"
        return _refusal(node)

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold and remove the node."""
        convolution, affine = _convolution_before(node), affine_of(node)
        assert convolution is not None
        assert affine is not None
        fold_into_conv(model.graph, convolution, affine)
        take_over_output(model.graph, convolution, node)
