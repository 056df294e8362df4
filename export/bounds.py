"""How far a piece may be from PyTorch: what the roundings of its own arithmetic can explain, value by value.

Both compute the same in float32 and round otherwise; u = 2^-24 is the relative error of one rounding.

Moves and choices (Relu, MaxPool, Concat, Reshape, Clip, comparisons, ...) round nothing: the bound is 0. One addition,
product or quotient is rounded once by both, so they agree but where one of them divides by multiplying with a
reciprocal: 4 u |y|.

A sum of n products, such as a convolution, is rounded n times by each, in an order of its own. At worst that is n u M
for each, where M is the sum of the magnitudes: |W| * |x| + |b|. Roundings go both ways, though, and those of a sum
grow like sqrt(n): the largest seen for one order is about sqrt(n) / 3 in units of u M, where all terms have one sign
and the partial sums are largest. The difference of two orders is then at most sqrt(2) of that, and `SPREAD` sqrt(n) is
eight times as much. The bound is the smaller of both, with `FEW` roundings for the bias and the weights. Where a value
lies outside, the terms are alike (a constant image, equal weights) and the roundings all go one way; there n of each
is the bound, for that piece alone.

Where a BN was folded, PyTorch rounds its own products and sums: beta acc, its sum with the layer's own bias,
1 / sqrt(var + eps), the slope gamma / sqrt(var + eps), the shift beta - slope mean, their product and sum; here
weights, bias, product and sum are rounded. That is at most `FOLD` roundings, relative to the terms before they cancel,
whose magnitudes the pass notes (`BIAS_TERMS`). Where more was folded, such as a learned bias in front of the BN, each
fold adds its own (`FOLD_ROUNDINGS`).

A layer in 8 bits repeats its own answer but where a value lies on the border of two steps: one step of its output, or
where the output is not rounded (a classifier), one step of one input times the largest weight.

Anything else is measured: `measured_bounds.py`.
"""

from collections.abc import Sequence
from dataclasses import replace
from math import prod, sqrt

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from bnas_deploy.core.operators import Operator, operator
from bnas_deploy.export.graph import (
    activations_of,
    array_of,
    constant_array,
    gates_of,
    input_of,
    is_binary_conv,
    is_fused,
)
from bnas_deploy.export.opset import max_pool
from bnas_deploy.export.passes.folding import BIAS_TERMS, FOLD, FOLD_ROUNDINGS, Affine
from bnas_deploy.export.passes.fuse_affine import AFFINE_TERMS
from bnas_deploy.export.passes.fuse_k import K_ROUNDINGS
from bnas_deploy.export.passes.fuse_reach import REACHED, Reached
from bnas_deploy.export.passes.fuse_shift import SHIFTS
from bnas_deploy.export.passes.gate_images import GATED_NORM, GatedNorm
from bnas_deploy.export.passes.mean_before_gemm import MEAN_IN_GEMM, MeanInGemm
from bnas_deploy.export.passes.means import MEAN_OF_TERMS, MeanNote
from bnas_deploy.export.passes.pool_of_norm import POOLED_NORM
from bnas_deploy.export.pieces import QUANTIZATION, Piece, Recorded, weight_of
from bnas_deploy.export.written_bits import bits_of

ROUNDING = 2.0**-24
"""Half the distance of 1.0 to the next float32: the relative error of one rounding."""

SPREAD = 4
FEW = 4

Bound = NDArray[np.float64]
"""The largest absolute difference of each value, or of values that broadcast to them."""

MOVES = frozenset({
    "Abs", "Clip", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GlobalMaxPool", "Identity", "Max", "MaxPool", "Min", "Neg", "Pad", "ReduceMax", "ReduceMin", "Relu", "Reshape",
    "Shape", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
})  # fmt: skip
"""Operators that round nothing, and whose result changes by no more than what they read."""

CHOICES = frozenset({
    "And", "ArgMax", "ArgMin", "Cast", "Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual",
    "Not", "Or", "Round", "Sign", "Where",
})  # fmt: skip
"""Operators that round nothing, but jump."""

ROUNDED_ONCE = frozenset({
    "Add", "Div", "LeakyRelu", "Mul", "PRelu", "Reciprocal", "Sqrt", "Sub",
})  # fmt: skip

AVERAGES = frozenset({
    "AveragePool", "GlobalAveragePool", "ReduceMean", "ReduceSum",
})  # fmt: skip


def bound_of(piece: Piece, recorded: Recorded, *, worst: bool = False) -> Bound | None:
    """Return the bound of a piece; None if it has to be measured.

    `worst` is for pieces whose roundings all go one way. Of bits it is the bound of the floats that they stand for.
    """
    if is_quantized(piece):
        return _quantized_bound(piece, recorded)
    if (bits := bits_of(piece.output)) is not None:
        return _Known(replace(piece, output=bits.value), recorded, worst).of_binary_convolution(bits.layer)
    rounding = [node for node in piece.nodes if not _rounds_nothing(node)]
    if not rounding:
        return np.zeros(())
    last = rounding[-1]
    if any(node.op_type in CHOICES and node.domain == "" and not _is_integer(node) for node in piece.nodes):
        return None
    known = _Known(piece, recorded, worst)
    if POOLED_NORM in last.meta:
        return known.of_pooled_norm(last, last.meta[POOLED_NORM])
    if GATED_NORM in last.meta:
        return known.of_gated_norm(last, last.meta[GATED_NORM])
    if REACHED in last.meta:
        return known.of_reached(last, last.meta[REACHED])
    if MEAN_IN_GEMM in last.meta:
        bound = known.of_mean_in_gemm(rounding)
    elif MEAN_OF_TERMS in last.meta:
        bound = known.of_mean_of_terms(rounding)
    else:
        is_norm = BIAS_TERMS in last.meta and last.op_type == "Add"
        bound = known.of_batch_norm(rounding) if is_norm else known.of(rounding)
    if bound is None:
        return None
    return bound if last is piece.nodes[-1] else np.full((), bound.max())


def is_quantized(piece: Piece) -> bool:
    """Tell whether a piece computes in 8 bits."""
    return any(node.op_type in QUANTIZATION for node in piece.nodes)


def _quantized_bound(piece: Piece, recorded: Recorded) -> Bound:
    *_, last = piece.nodes
    if last.op_type in QUANTIZATION:
        return np.full((), 1.001 * float(constant_array(last.inputs[1])))
    x = last.inputs[0]
    assert x is not None
    dequantize = x.producer()
    assert dequantize is not None
    weight = np.abs(weight_of(last).astype(np.float64))
    if last.op_type == "MatMul" or not last.attributes.get_int("transB", 1):
        weight = weight.T  # (classes, features)
    terms = weight.reshape(len(weight), -1)
    largest = max(float(np.abs(recorded[value]).max()) for value in piece.inputs)
    step = float(constant_array(dequantize.inputs[1]))
    rounded = roundings(terms.shape[1], worst=True) * ROUNDING * terms.sum(axis=1) * largest
    bound: Bound = step * terms.max(axis=1) + rounded + 32 * ROUNDING * float(np.abs(recorded[piece.output]).max())
    return bound


def _rounds_nothing(node: ir.Node) -> bool:
    exact = node.domain == "" and node.op_type in MOVES | CHOICES
    return exact or _is_integer(node)


def _fold_roundings(node: ir.Node) -> int:
    """Return how many roundings what was folded into a convolution accounts for."""
    return int(node.meta.get(FOLD_ROUNDINGS, FOLD)) if BIAS_TERMS in node.meta else 0


def _is_integer(node: ir.Node) -> bool:
    """Tell whether a node computes on integers, such as sizes."""
    return all(value.type is not None and not value.type.dtype.is_floating_point() for value in node.outputs)


def roundings(terms: int, *, worst: bool) -> float:
    """Return how many roundings two sums of so many products may differ by, relative to the sum of magnitudes."""
    most = 2 * terms
    return FEW + (most if worst else min(most, SPREAD * sqrt(terms)))


class _Known:
    """The rules for one piece."""

    def __init__(self, piece: Piece, recorded: Recorded, worst: bool) -> None:
        self.piece = piece
        self.recorded = recorded
        self.worst = worst
        self.y = np.abs(recorded[piece.output].astype(np.float64))

    def of(self, rounding: Sequence[ir.Node]) -> Bound | None:
        """Return the bound of one operator, or of a convolution to which a constant is added."""
        node, *others = rounding
        if [each.op_type for each in others] == ["Add"] and node.op_type == "Conv":
            added = next((data for value in others[0].inputs if (data := array_of(value)) is not None), None)
            bound = self.of([node])
            return None if added is None or bound is None else bound + 4 * ROUNDING * (self.y + np.abs(added))
        if others:
            return None
        if is_binary_conv(node):
            return self.of_binary_convolution(node)
        if is_fused(node):
            return self.of_images(node)
        if node.domain != "":
            return None
        if node.op_type in ROUNDED_ONCE:
            return 4 * ROUNDING * self.y
        if node.op_type in AVERAGES:
            return self.of_average(node)
        return self.of_products(node) if node.op_type in ("Conv", "Gemm", "MatMul") else None

    def magnitude(self, value: ir.Value | None) -> torch.Tensor | None:
        """Return the magnitudes of a recorded value or a constant, float64."""
        data = array_of(value)
        if data is None:
            if value is None or value not in self.piece.inputs:
                return None
            data = self.recorded[value]
        return torch.from_numpy(np.abs(data.astype(np.float64)))

    def of_images(self, node: ir.Node) -> Bound | None:
        """Return 0: they round as PyTorch does, unless a BN was folded. A mean may be summed in another order."""
        if not operator(node.op_type).mean_pool:
            return np.zeros(())
        x = self.magnitude(input_of(node, "X"))
        if x is None:
            return None
        largest = x.numpy().max(axis=(2, 3), keepdims=True) * np.maximum(1, _per_channel(node, "slope"))
        bound: Bound = roundings(4, worst=self.worst) * ROUNDING * largest
        return bound

    def of_products(self, node: ir.Node) -> Bound | None:
        """(roundings of n terms + those of a fold) u (|W| * |x| + what the bias was summed from)."""
        x, weight = (self.magnitude(value) for value in node.inputs[:2])
        if x is None or weight is None:
            return None
        bias = self.magnitude(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
        terms = torch.zeros(()) if bias is None else bias
        folded = BIAS_TERMS in node.meta
        if folded:
            terms = torch.from_numpy(np.asarray(node.meta[BIAS_TERMS], np.float64))
        if node.op_type == "Conv":
            products, count = self._convolved(node, x, weight), prod(weight.shape[1:])
            if products is None:
                return None
            terms = terms.reshape(-1, *(1,) * (products.ndim - 2))
        elif node.op_type == "Gemm":
            alpha, beta = (abs(node.attributes.get_float(name, 1.0)) for name in ("alpha", "beta"))
            left = x.T if node.attributes.get_int("transA", 0) else x
            right = weight.T if node.attributes.get_int("transB", 0) else weight
            products, count, terms = alpha * (left @ right), left.shape[-1], beta * terms
        else:
            products, count = x @ weight, x.shape[-1]
        number = roundings(count, worst=self.worst) + _fold_roundings(node)
        bound: Bound = (number * ROUNDING * (products + terms)).numpy()
        return bound

    def _convolved(self, node: ir.Node, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor | None:
        rank = weight.ndim - 2
        if node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET" or rank > 3:
            return None
        pads = node.attributes.get_ints("pads", (0,) * 2 * rank)
        sides = [pads[axis + end] for axis in reversed(range(rank)) for end in (0, rank)]
        convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        return convolve(
            F.pad(x, sides),
            weight,
            stride=tuple(node.attributes.get_ints("strides", (1,) * rank)),
            dilation=tuple(node.attributes.get_ints("dilations", (1,) * rank)),
            groups=node.attributes.get_int("group", 1),
        )

    def of_average(self, node: ir.Node) -> Bound | None:
        """(roundings of n terms) u, relative to the largest magnitude of the channel: a mean is no larger."""
        x = self.magnitude(node.inputs[0])
        if x is None or x.ndim < 2:
            return None
        if node.op_type == "AveragePool":
            terms, average = prod(node.attributes.get_ints("kernel_shape")), True
            if terms == 1:
                return np.zeros(())  # it only leaves out rows and columns
        else:
            terms, average = max(1, round(x.numel() / self.y.size)), node.op_type != "ReduceSum"
        number = roundings(terms, worst=self.worst) * ROUNDING * (1 if average else terms)
        if node.op_type in ("AveragePool", "GlobalAveragePool"):
            largest = x.flatten(2).amax(dim=2).reshape(*x.shape[:2], *(1,) * (x.ndim - 2))
            return (number * largest).numpy()
        return np.full((), number * float(x.max()))

    def of_gated_norm(self, node: ir.Node, note: GatedNorm) -> Bound | None:
        """Return the bound of a BN behind a product, as GateImages writes it: a fold, each product, and each sum."""
        factors = [self.magnitude(value) for value in self._factors(input_of(node, "X"))]
        factors.append(self.magnitude(input_of(node, "gate")))
        products = np.abs(note.slope).reshape(-1, 1, 1)
        for factor in factors:
            if factor is None:
                return None
            products = products * factor.numpy()
        names = operator(node.op_type).added_inputs
        sums = 2 * len(names) * (self.y + self._sum_of(node, names))
        roundings_of_products, terms = 2 * len(factors), note.terms.reshape(-1, 1, 1)
        bound: Bound = ROUNDING * ((FOLD + roundings_of_products) * products + FOLD * terms + sums)
        return bound

    def of_pooled_norm(self, node: ir.Node, note: Affine) -> Bound | None:
        """Return the bound of a BN in front of a maximum, as PoolOfNorm writes it: the largest of 2x2 pixels."""
        parts = [self.magnitude(value) for value in activations_of(node)]
        known = [part.numpy() for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        slope, terms = (np.abs(numbers).reshape(-1, 1, 1) for numbers in (note.slope, note.terms))
        return max_pool(note.roundings * ROUNDING * (np.concatenate(known, axis=1) * slope + terms))

    def of_reached(self, node: ir.Node, note: Reached) -> Bound:
        """Return the bound of what FuseReach has put together, from front to back.

        The comparison and the first sum are PyTorch's own. Each scale and bias has the roundings of what was folded,
        relative to all its terms; the product of a PReLU and a sum are rounded once in each.
        """
        terms = self._sum_of(node, ("X", "before1"))
        error = np.zeros(())
        steepest = np.maximum(1, _per_channel(node, "slope"))
        for affine, name in ((note.first, "slope"), (note.second, "added1"), (note.last, "")):
            slope, shift = (np.abs(part).reshape(-1, 1, 1) for part in (affine.slope, affine.terms))
            terms = slope * terms + shift
            error = slope * error + affine.roundings * terms
            if name == "slope":
                terms, error = steepest * terms, steepest * error + 2 * steepest * terms
            elif name:
                terms = terms + self._sum_of(node, (name,))
                error = error + 2 * terms
        return ROUNDING * error

    def _factors(self, value: ir.Value) -> list[ir.Value]:
        """Return `value`, or where it is a product within the piece its factors."""
        maker = value.producer()
        if value in self.piece.inputs or maker is None or maker.op_type != "Mul":
            return [value]
        return [factor for each in maker.inputs if each is not None for factor in self._factors(each)]

    def of_mean_of_terms(self, rounding: Sequence[ir.Node]) -> Bound | None:
        """Return the bound of s mean(x) + t mean(y) + c for mean(s x + t y + c), as MeanOfTerms writes it.

        All is relative to M, the largest that a pixel can be: |s| |x| + |t| |y| and what c is summed from. PyTorch
        rounds each pixel, and its mean of n of them; here the means are rounded as one, then scaled and added: a
        product, a sum, and the two constants, for each term.
        """
        note: MeanNote = rounding[-1].meta[MEAN_OF_TERMS]
        largest, count, means = note.terms, 1, 0
        for node in rounding:
            if node.op_type not in AVERAGES:
                continue
            x = self.magnitude(node.inputs[0])
            if x is None:
                return None
            scaled = next(
                (each for each in rounding if each.op_type == "Mul" and each.inputs[0] is node.outputs[0]), None
            )
            slope = 1.0 if scaled is None else np.abs(constant_array(scaled.inputs[1])).astype(np.float64).ravel()
            largest = largest + slope * x.numpy().max(axis=(0, 2, 3))
            count, means = max(count, prod(x.shape[2:])), means + 1
        number = roundings(count, worst=self.worst) + note.roundings + FEW * means
        bound: Bound = number * ROUNDING * largest.reshape(-1, *(1,) * (self.y.ndim - 2))
        return bound

    def of_mean_in_gemm(self, rounding: Sequence[ir.Node]) -> Bound | None:
        """Return the bound of (W s) mean(x) + (b + W c) for W mean(s x + c) + b, as FoldMeanIntoGemm writes it.

        The mean differs by some roundings of M, the largest that a pixel can be, |s| |x| and what c is summed from. So
        does the sum of products, by |W| times that; and it has the roundings of its own terms, |W| M and |b|, and those
        of the folded numbers.
        """
        mean, product = rounding if len(rounding) == 2 else (None, rounding[-1])
        x = None if mean is None or mean.op_type != "ReduceMean" else self.magnitude(mean.inputs[0])
        if x is None:
            return None
        note: MeanInGemm = product.meta[MEAN_IN_GEMM]
        largest = note.slope * x.numpy().max(axis=(0, 2, 3)) + note.mean.terms
        of_mean = roundings(prod(x.shape[2:]), worst=self.worst) + note.mean.roundings + FEW
        of_product = roundings(len(largest), worst=self.worst) + FOLD
        products = note.weight @ largest
        bound: Bound = ROUNDING * ((of_mean + of_product) * products + of_product * note.bias_terms)
        return bound

    def of_batch_norm(self, rounding: Sequence[ir.Node]) -> Bound | None:
        """X * slope + shift, as BatchNormToConstants writes it."""
        product, total = rounding
        x, slope = (self.magnitude(value) for value in product.inputs)
        if x is None or slope is None:
            return None
        terms = torch.from_numpy(np.asarray(total.meta[BIAS_TERMS], np.float64)).reshape(slope.shape)
        return (FOLD * ROUNDING * (x * slope + terms)).numpy()

    def of_binary_convolution(self, node: ir.Node) -> Bound:
        """Return 0 for plain ones, which do what PyTorch does, in the same order.

        With K, the mean over C channels and KH KW taps is summed in another order: at most C + KH KW + 3 roundings of
        the product acc scale K. That is no larger than |y| plus |bias|, which may cancel it, and the bias is added with
        one more rounding on either side. A PReLU multiplies both by its slope.

        What is added at the end is the same in both. Where the terms before it are equal, so are the sums; where they
        are not, each addition rounds two sums that differ, to within twice half a unit of their last place. No value on
        the way is larger than |y| plus each |added|.
        """
        row = operator(node.op_type)
        error = self._of_activation(node, row)
        added = self._sum_of(node, row.added_inputs)
        if row.affine:
            error = self._behind_affine(node, error, added)
        if not error.any():
            return np.zeros(())
        return error + 2 * (row.added + self._shifts(node, behind=True)) * ROUNDING * (self.y + added)

    def _sum_of(self, node: ir.Node, names: Sequence[str]) -> Bound:
        """Return the sum of the magnitudes of what these inputs are."""
        terms = (self.magnitude(input_of(node, name)) for name in names)
        return sum((term.numpy() for term in terms if term is not None), start=np.zeros(()))

    def _of_activation(self, node: ir.Node, row: Operator) -> Bound:
        """Return the bound behind the activation.

        With a BN folded behind the sum, the roundings of a fold are relative to |scale| n K with K at most the largest
        |x|, or to |scale| n gate, and to what the bias was summed from. What is added before the activation, and a
        constant that PyTorch adds behind that, is rounded as what is added at the end; the sums are no larger than all
        terms. A PReLU multiplies all by its slope, and limits leave it.
        """
        before = self._sum_of(node, row.before_inputs)
        slope = _per_channel(node, "slope") if row.activation == "PRelu" else np.ones(())
        steepest = np.maximum(1, slope)
        k_roundings = self._k_roundings(node) if row.k_map else 0
        if BIAS_TERMS not in node.meta:
            if not k_roundings:
                return np.zeros(())
            largest = self.y + self._sum_of(node, row.added_inputs) + steepest * _per_channel(node, "bias")
            return (k_roundings + 2) * ROUNDING * largest
        terms = self._products(node, row) + np.asarray(node.meta[BIAS_TERMS]).reshape(-1, 1, 1)
        sums = 2 * (row.before + self._shifts(node, behind=False)) * (terms + before)
        bound: Bound = ROUNDING * steepest * ((_fold_roundings(node) + k_roundings) * terms + sums)
        return bound

    def _k_roundings(self, node: ir.Node) -> int:
        _, height, width, _ = node.attributes.get_ints("weight_shape")
        own: int = node.meta.get(K_ROUNDINGS, 0)
        return len(constant_array(input_of(node, "threshold"))) + height * width + 3 + own

    def _products(self, node: ir.Node, row: Operator) -> Bound:
        """Return |scale| n [K] [gate], the largest that the scaled accumulator can be: (O, 1, 1) or (N, O, ...)."""
        _, height, width, channels = node.attributes.get_ints("weight_shape")
        count = channels * height * width + _per_channel(node, "offset")
        products = _per_channel(node, "scale") * count
        if row.k_map:
            products = products * max(float(np.abs(self.recorded[value]).max()) for value in self.piece.inputs)
        for value in gates_of(node):
            gate = self.magnitude(value)
            assert gate is not None, f"{value} is not recorded"  # FuseGate asks for that
            products = products * gate.numpy()
        return products

    def _shifts(self, node: ir.Node, *, behind: bool) -> int:
        """Return how many constants PyTorch adds behind the sum that they are before here, which is `behind` or not."""
        is_behind = not operator(node.op_type).before
        return node.meta.get(SHIFTS, 0) if behind == is_behind else 0

    def _behind_affine(self, node: ir.Node, error: Bound, added: Bound) -> Bound:
        """Return the bound behind the second scale and bias.

        Product and sum are rounded in both as they are here, unless what they read differs. A BN is folded: its
        roundings are relative to the product, which is no larger than |y| plus |added| and the bias, and to what
        the bias was summed from.
        """
        values = self.y + added + _per_channel(node, "bias2")
        error = error * _per_channel(node, "scale2")
        if AFFINE_TERMS in node.meta:
            terms = np.asarray(node.meta[AFFINE_TERMS], np.float64).reshape(-1, 1, 1)
            folded: Bound = error + FOLD * ROUNDING * (values + terms)
            return folded
        return error + 4 * ROUNDING * values if error.any() else error


def _per_channel(node: ir.Node, name: str) -> Bound:
    """Return the magnitudes of a constant with a number for each output channel, (O, 1, 1)."""
    values: Bound = np.abs(constant_array(input_of(node, name))).astype(np.float64).reshape(-1, 1, 1)
    return values
