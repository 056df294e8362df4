"""A second scale and shift behind the activation become part of the binary convolution."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import Operator, operator, with_changes
from bnas_deploy.export.graph import (
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    replace_operator,
    sole_consumer,
)
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import BIAS_TERMS, Doubles
from bnas_deploy.export.passes.fuse_shift import shift_of

AFFINE_TERMS = "affine_terms"
"""Key of a node's note for `export.bounds`: the magnitudes that the second bias (O) of a BN is the sum of."""


class FuseAffine:
    """BinaryConv2dRelu -> Mul, Add or Sub of a number per channel becomes BinaryConv2dReluAffine.

    This is a BN behind an activation, and the second shift of an RPReLU. A product is taken first, and then a sum: the
    roundings are those of PyTorch, which has one of each.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every product or sum of such a convolution and a constant, in running order."""
        made: set[ir.Value] = set()
        for node in model.graph:
            is_site = any(value in made for value in node.inputs if value is not None) and _is_affine(node)
            if is_site or _has_activation(node):
                made.add(node.outputs[0])
            if is_site:
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the node stays."""
        found = _convolution_of(node)
        if found is None:
            return "the product that it reads was left in another node"
        convolution, value = found
        if sole_consumer(value) is None:
            return f"{value.name} is also read without the constant"
        if _numbers(node) is None:
            return "the constant is neither one number nor one per channel"
        if _with_affine(convolution) is None:
            return f"no operator does what {convolution.op_type} does and has a second scale"
        if not _has_room(convolution, node):
            return f"{convolution.name} has a second scale or bias already"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution compute it."""
        found = _convolution_of(node)
        assert found is not None
        convolution, _ = found
        row, numbers = _with_affine(convolution), _numbers(node)
        assert row is not None
        assert numbers is not None
        name = "scale2" if node.op_type == "Mul" else "bias2"
        if BIAS_TERMS in node.meta:
            convolution.meta[AFFINE_TERMS] = node.meta[BIAS_TERMS]
        inputs = {name: constant(model.graph, f"{convolution.name}.{name}", numbers.astype(np.float32))}
        replace_operator(convolution, row, inputs, node)


def _is_affine(node: ir.Node) -> bool:
    return node.op_type in ("Mul", "Add", "Sub") and constant_operand(node) is not None


def _convolution_of(node: ir.Node) -> tuple[ir.Node, ir.Value] | None:
    """Return the binary convolution whose result meets a constant, and that result."""
    for value in node.inputs:
        maker = None if value is None else value.producer()
        if value is not None and maker is not None and _has_activation(maker):
            return maker, value
    return None


def _has_activation(node: ir.Node) -> bool:
    return is_binary_conv(node) and bool(operator(node.op_type).activation)


def _numbers(node: ir.Node) -> Doubles | None:
    """Return the factor or the term of each channel, (O), which are float32."""
    if node.op_type != "Mul":
        return shift_of(node)
    affine = affine_of(node)
    return None if affine is None else affine.slope


def _with_affine(convolution: ir.Node) -> Operator | None:
    """Return the operator that has a second scale and bias, too, behind the activation and not behind a sum."""
    row = operator(convolution.op_type)
    return None if row.added else with_changes(row, affine=True)


def _has_room(convolution: ir.Node, node: ir.Node) -> bool:
    """Tell whether the second bias is still to come, and for a product the second scale."""
    if not operator(convolution.op_type).affine:
        return True
    is_biased = bool(constant_array(input_of(convolution, "bias2")).any())
    return node.op_type != "Mul" and not is_biased
