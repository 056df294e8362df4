"""A product and a sum per channel behind a convolution become part of its own numbers.

What a convolution has been given is noted for `export.bounds`: PyTorch rounds each step, and here they are one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import array_of, constant, constant_array, input_of, set_input

BIAS_TERMS = "bias_terms"
"""Key of a node's note: the magnitudes that a folded bias (O) is the sum of."""

FOLD_ROUNDINGS = "fold_roundings"
"""Key of a node's note: how many roundings, relative to what the bias is summed from, its folds account for."""

FOLD = 11
"""Those of a BN, which `export.bounds` counts; a node with BIAS_TERMS and without FOLD_ROUNDINGS has these."""

Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Affine:
    """y = slope x + shift, each (C) float64, to be rounded once where they are used.

    Attributes:
        slope: (C).
        shift: (C).
        terms: (C), the magnitudes that PyTorch sums the shift from.
        roundings: PyTorch's and those of the folded numbers, relative to the terms.
    """

    slope: Doubles
    shift: Doubles
    terms: Doubles
    roundings: int

    @property
    def is_sum(self) -> bool:
        """Tell whether it only adds."""
        return bool((self.slope == 1).all())

    @property
    def is_product(self) -> bool:
        """Tell whether it only multiplies."""
        return not self.shift.any()


def fold_into_binary_conv(graph: ir.Graph, convolution: ir.Node, affine: Affine) -> None:
    """Let a binary convolution compute slope (scale acc [K] + bias) + shift, with a scale and a bias for that.

    Nothing is noted where PyTorch rounds as the operator does: a sum with a bias of 0, or a product with a scale of 1
    and a bias of 0.
    """
    scale, bias = (constant_array(input_of(convolution, name)).astype(np.float64) for name in ("scale", "bias"))
    row = operator(convolution.op_type)
    exact_sum = affine.is_sum and not row.added
    exact_product = affine.is_product and (scale == 1).all() and not (row.k_map or row.gate)
    is_exact = BIAS_TERMS not in convolution.meta and not bias.any() and (exact_sum or exact_product)
    terms = convolution.meta.get(BIAS_TERMS, np.abs(bias))
    folded = {"scale": affine.slope * scale, "bias": affine.slope * bias + affine.shift}
    for name, data in folded.items():
        rounded = constant(graph, f"{convolution.name}.{name}", data.astype(np.float32))
        set_input(convolution, name, rounded)
    if not is_exact:
        _note(convolution, affine, terms)


def fold_into_conv(graph: ir.Graph, convolution: ir.Node, affine: Affine) -> None:
    """Let a float convolution compute slope (W x + b) + shift = (slope W) x + (slope b + shift)."""
    weight, bias = conv_parameters(convolution)
    terms = bias_terms(convolution, bias)
    per_output = affine.slope.reshape(-1, *(1,) * (weight.ndim - 1))
    set_conv_parameters(graph, convolution, per_output * weight, affine.slope * bias + affine.shift)
    _note(convolution, affine, terms)


def _note(convolution: ir.Node, affine: Affine, terms: Doubles) -> None:
    before = FOLD if BIAS_TERMS in convolution.meta else 0
    convolution.meta[FOLD_ROUNDINGS] = convolution.meta.get(FOLD_ROUNDINGS, before) + affine.roundings
    convolution.meta[BIAS_TERMS] = np.abs(affine.slope) * terms + affine.terms


def conv_parameters(node: ir.Node) -> tuple[Doubles, Doubles]:
    """Return weight (O, C/groups, and one to three axes of the kernel) and bias (O) in float64."""
    weight = constant_array(node.inputs[1]).astype(np.float64)
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)


def bias_terms(node: ir.Node, bias: Doubles) -> Doubles:
    """Return the magnitudes that the bias (O) of a convolution was summed from so far."""
    terms: Doubles = node.meta.get(BIAS_TERMS, np.abs(bias))
    return terms


def set_conv_parameters(graph: ir.Graph, node: ir.Node, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    """Give a float convolution weights and a bias, rounded to float32."""
    node.resize_inputs(3)
    for position, name, data in ((1, "weight", weight), (2, "bias", bias)):
        node.replace_input_with(position, constant(graph, f"{node.name}.{name}", data.astype(np.float32)))


def take_over_output(graph: ir.Graph, convolution: ir.Node, folded: ir.Node) -> None:
    """Let the convolution's output stand where that of `folded` stood, under its name, and remove `folded`."""
    mine, theirs = convolution.outputs[0], folded.outputs[0]
    name, meta = theirs.name, dict(theirs.meta)
    theirs.replace_all_uses_with(mine, replace_graph_outputs=True)
    graph.remove(folded, safe=True)
    mine.name = name
    mine.meta.clear()
    mine.meta.update(meta)
