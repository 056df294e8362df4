"""The mean over the pixels of a sum is the sum of the means: nobody needs the pixels of the sum itself.

Gates ask for such means: of a BN in front of a sign (Real-to-Binary), of a mixture of what a convolution reads and what
it gives (BNext).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import (
    UNRECORDED,
    array_of,
    channels_of,
    constant,
    is_binary_conv,
    is_recorded,
    same_shape,
    sole_consumer,
    spatial_of,
)
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters, is_conv
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import Affine, Doubles

MEAN_OF_TERMS = "mean_of_terms"
"""Key of a node's note for `export.bounds`, a `MeanNote`: it ends what a mean of a sum has become."""


@dataclass(frozen=True)
class MeanNote:
    """What PyTorch does in front of a mean: the magnitudes (C) that a constant is summed from, and its roundings."""

    terms: Doubles
    roundings: int


@dataclass(frozen=True)
class _Sum:
    """A sum of values times a number per channel, and a constant, each (C); `note` is for the bounds."""

    values: dict[ir.Value, Doubles]
    shift: Doubles
    note: MeanNote

    @classmethod
    def of_value(cls, value: ir.Value) -> "_Sum":
        zeros = np.zeros(channels_of(value))
        return cls({value: zeros + 1}, zeros, MeanNote(zeros, 0))

    def behind(self, affine: Affine) -> "_Sum":
        """Return slope * self + shift."""
        note = MeanNote(np.abs(affine.slope) * self.note.terms + affine.terms, self.note.roundings + affine.roundings)
        values = {value: affine.slope * slope for value, slope in self.values.items()}
        return _Sum(values, affine.slope * self.shift + affine.shift, note)

    def plus(self, other: "_Sum", sign: int) -> "_Sum":
        """Return self + sign * other."""
        values = dict(self.values)
        for value, slope in other.values.items():
            values[value] = values.get(value, 0.0) + sign * slope
        note = MeanNote(self.note.terms + other.note.terms, self.note.roundings + other.note.roundings + 2)
        return _Sum(values, self.shift + sign * other.shift, note)


class MeanOfTerms:
    """ReduceMean(s x + t y + c) -> s ReduceMean(x) + t ReduceMean(y) + c, with numbers s, t and c per channel.

    What is computed for the mean alone is taken apart, and what signs read besides: their threshold takes it in.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the means over rows and columns of what can be taken apart."""
        means = (node for node in model.graph if averages_pixels(node))
        return (node for node in means if set(_sum_of(node).values) != {node.inputs[0]})

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays the mean of what it reads."""
        if not all(map(is_recorded, _sum_of(node).values)):
            return "PyTorch's program has no value of its own for a term"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace it by means of the terms."""
        y, total = node.outputs[0], _sum_of(node)
        nodes: list[ir.Node] = []

        def add(operation: str, inputs: list[ir.Value | None], of: ir.Node | None = None) -> ir.Value:
            name = f"{y.name}.{len(nodes)}"
            value = ir.Value(name=name, shape=y.shape, type=y.type)
            value.meta[UNRECORDED] = True
            attributes = () if of is None else of.attributes
            nodes.append(ir.Node("", operation, inputs, attributes, outputs=[value], name=name))
            return value

        def number(data: Doubles) -> ir.Value:
            assert y.shape is not None
            per_channel = data.astype(np.float32).reshape(-1, *(1,) * (len(y.shape) - 2))
            return constant(model.graph, f"{y.name}.constant", per_channel)

        sums = []
        for value, slope in total.values.items():
            known = _known_mean(value, node) if len(total.values) > 1 else None
            mean = known or add(node.op_type, [value, *node.inputs[1:]], node)
            sums.append(mean if (slope == 1).all() else add("Mul", [mean, number(slope)]))
        result = sums[0]
        for other in sums[1:]:
            result = add("Add", [result, other])
        if total.shift.any():
            add("Add", [result, number(total.shift)])
        last = nodes[-1]
        last.name = node.name
        last.meta[MEAN_OF_TERMS] = total.note
        last.outputs[0].name = y.name
        last.outputs[0].meta.clear()
        last.outputs[0].meta.update(y.meta)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, [y], [last.outputs[0]])


def _known_mean(value: ir.Value, like: ir.Node) -> ir.Value | None:
    """Return the mean of `value` that has been made for another sum, of branches side by side."""
    for use in value.uses():
        node = use.node
        y = node.outputs[0]
        if averages_pixels(node) and UNRECORDED in y.meta and node.op_type == like.op_type:
            axes = [
                [data.tolist() for data in map(array_of, each.inputs[1:]) if data is not None] for each in (node, like)
            ]
            if axes[0] == axes[1] and y.shape == like.outputs[0].shape:
                return y
    return None


def averages_pixels(node: ir.Node) -> bool:
    """Tell whether `node` is the mean of each channel of an image, (N, C, H, W) to (N, C, 1, 1) or (N, C)."""
    x = node.inputs[0] if node.inputs else None
    if node.domain != "" or x is None or x.shape is None or len(x.shape) != 4 or not isinstance(x.shape[1], int):
        return False
    if node.op_type == "GlobalAveragePool":
        return True
    axes = array_of(node.inputs[1]) if node.op_type == "ReduceMean" and len(node.inputs) > 1 else None
    return axes is not None and sorted(int(axis) % 4 for axis in axes.ravel()) == [2, 3]


def _sum_of(mean: ir.Node) -> _Sum:
    x = mean.inputs[0]
    assert x is not None
    return _expanded(x, mean)


def _expanded(value: ir.Value, reader: ir.Node) -> _Sum:
    """Return the terms of what `reader` averages, or takes into a sum that is averaged."""
    node = value.producer()
    if node is None or node.domain != "" or value.is_graph_output():
        return _Sum.of_value(value)
    others = [use.node for use in value.uses() if use.node is not reader]
    affine, x = _affine(node)
    if affine is not None and x is not None and all(map(is_binary_conv, others)) and not _folds(x, alone=not others):
        return _expanded(x, node).behind(affine)
    if others:
        return _Sum.of_value(value)
    if node.op_type in ("Add", "Sub") and same_shape(*_operands(node)):
        left, right = _operands(node)
        if is_taken_by_conv(left) or is_taken_by_conv(right):
            return _Sum.of_value(value)
        sign = 1 if node.op_type == "Add" else -1
        return _expanded(left, node).plus(_expanded(right, node), sign) if left is not right else _Sum.of_value(value)
    if node.op_type == "AveragePool" and _tiles(node):
        x = node.inputs[0]
        assert x is not None
        total = _expanded(x, node)
        note = MeanNote(total.note.terms, total.note.roundings + prod(node.attributes.get_ints("kernel_shape")))
        return _Sum(total.values, total.shift, note)
    return _Sum.of_value(value)


def _affine(node: ir.Node) -> tuple[Affine | None, ir.Value | None]:
    """Return what `node` multiplies and adds to each channel, and of what; None if it is no such node."""
    if node.op_type == "BatchNormalization" and has_known_parameters(node):
        return BatchNorm.of(node).as_affine(), node.inputs[0]
    affine, found = affine_of(node), constant_operand(node)
    return (affine, found[0]) if affine is not None and found is not None else (None, None)


def _folds(x: ir.Value, *, alone: bool) -> bool:
    """Tell whether a convolution takes in a scale and a shift behind `x`; `alone`: nothing else reads the result."""
    return is_binary_conv(x.producer()) or is_conv(x.producer()) or (alone and is_taken_by_conv(x))


_TAKEN = frozenset({"Add", "BatchNormalization", "Clip", "LeakyRelu", "Mul", "PRelu", "Relu", "Sub"})
"""What a convolution takes in that stands alone behind it."""


def is_taken_by_conv(value: ir.Value) -> bool:
    """Tell whether only functions that it takes in stand between a convolution and a sum that it then takes in, too."""
    maker = value.producer()
    if maker is None or sole_consumer(value) is None:
        return False
    if is_binary_conv(maker) or is_conv(maker):
        return True
    read = (each for each in maker.inputs if each is not None)
    return maker.domain == "" and maker.op_type in _TAKEN and any(map(is_taken_by_conv, read))


def _operands(node: ir.Node) -> tuple[ir.Value, ir.Value]:
    left, right = node.inputs
    assert left is not None
    assert right is not None
    return left, right


def _tiles(pool: ir.Node) -> bool:
    """Tell whether every pixel is in one window of a pool, which are all alike."""
    x = pool.inputs[0]
    assert x is not None
    kernel = tuple(pool.attributes.get_ints("kernel_shape"))
    strides = tuple(pool.attributes.get_ints("strides", (1,) * len(kernel)))
    plain = not any(pool.attributes.get_ints("pads", (0,))) and len(kernel) == 2 and kernel == strides
    if not plain or pool.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    if any(not isinstance(size, int) for size in (x.shape or ())[2:]):
        return False
    return all(size % length == 0 for size, length in zip(spatial_of(x), kernel, strict=True))
