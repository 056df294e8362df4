"""Constants that are added behind a sum become part of the bias of the binary convolution that has taken the sum."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    replace_operator,
    set_input,
    sole_consumer,
)
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import BIAS_TERMS, Doubles

SHIFTS = "shifts"
"""Key of a node's note for `export.bounds`: how many constants it adds before a sum that PyTorch adds behind it."""


class FuseShift:
    """BinaryConv2dAdd -> Add or Sub of a number per channel becomes BinaryConv2dAdd with another bias.

    (acc scale + bias + added) + shift = (acc scale + (bias + shift)) + added. This is the first shift of an RPReLU
    behind a shortcut; the activation, which can be fused then, reads it.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every sum of such a convolution, which has no activation, and a constant, in running order."""
        made: set[ir.Value] = set()
        for node in model.graph:
            is_site = _adds_constant(node) and any(value in made for value in node.inputs if value is not None)
            if is_site or _takes_shift(node):
                made.add(node.outputs[0])
            if is_site:
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the sum stays a node of its own."""
        convolution = _convolution_of(node)
        if convolution is None:
            return "the sum that it reads was left in another node"
        if sole_consumer(convolution.outputs[0]) is None:
            return f"{convolution.outputs[0].name} is also read without the constant"
        if shift_of(node) is None:
            return "the constant is neither one number nor one per channel"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Add the constant to the bias."""
        convolution = _convolution_of(node)
        assert convolution is not None
        shift = shift_of(node)
        assert shift is not None
        bias = constant_array(input_of(convolution, "bias")).astype(np.float64)
        terms = convolution.meta.get(BIAS_TERMS, np.abs(bias))
        convolution.meta[BIAS_TERMS] = terms + np.abs(shift)
        convolution.meta[SHIFTS] = convolution.meta.get(SHIFTS, 0) + 1
        moved = (bias + shift).astype(np.float32)
        set_input(convolution, "bias", constant(model.graph, f"{convolution.name}.bias", moved))
        replace_operator(convolution, operator(convolution.op_type), {}, node)


def _adds_constant(node: ir.Node) -> bool:
    return node.op_type in ("Add", "Sub") and constant_operand(node) is not None


def _takes_shift(node: ir.Node) -> bool:
    """Tell whether `node` is a binary convolution that adds something and has no activation."""
    row = operator(node.op_type) if is_binary_conv(node) else None
    return row is not None and row.added > 0 and not row.activation


def _convolution_of(node: ir.Node) -> ir.Node | None:
    """Return the binary convolution that `node` adds a constant to."""
    makers = (value.producer() for value in node.inputs if value is not None)
    return next((maker for maker in makers if maker is not None and _takes_shift(maker)), None)


def shift_of(node: ir.Node) -> Doubles | None:
    """Return what an Add or a Sub adds to each channel, (C); None if it is no such constant.

    x - c is x + (-c), to the bit; c - x is no sum.
    """
    affine = affine_of(node)
    return affine.shift if affine is not None and affine.is_sum else None
