"""What only says how values lie: shapes that are computed, copies of constants, cuts that cut nothing away.

torch.onnx computes the shape of `x.view(x.size(0), -1)` or `bias.expand_as(x)` from the batch in every run. The sizes
are known but for the batch, and broadcasting needs no copies.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import (
    UNRECORDED,
    array_of,
    constant,
    is_recorded,
    origin_of,
    same_shape,
    same_size,
    sole_consumer,
)

_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "PRelu", "Max", "Min", "Pow", "Where"})
"""Operators that read a value of one row and column as if it were repeated."""

_RESHAPES = frozenset({"Reshape", "Unsqueeze", "Squeeze", "Flatten"})
"""Operators that keep all elements in their order; their first input is what they reshape."""


def is_reshape(node: ir.Node | None) -> bool:
    """Tell whether `node` is an operator of ONNX that gives floats another shape, and no other order."""
    if node is None or node.domain != "" or node.op_type not in _RESHAPES:
        return False
    value = node.outputs[0]
    return value.type is not None and value.type.dtype == ir.DataType.FLOAT


def known_sizes(value: ir.Value | None) -> tuple[int | None, ...] | None:
    """Return the shape of a value, None for sizes that are not known; None if not even its rank is."""
    if value is None or value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else None for size in value.shape)


class DropExpand:
    """Expand(x) that a sum, a product or the like reads beside a value of the same shape: that broadcasts x itself."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every Expand."""
        return (node for node in model.graph if node.op_type == "Expand" and node.domain == "")

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why some reader needs the copies."""
        copied = node.outputs[0]
        if copied.is_graph_output():
            return "it is an output of the graph"
        for use in copied.uses():
            if not _broadcasts(use.node, copied):
                return f"{use.node.name} reads the copies, or nothing beside them has their shape"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Let all readers broadcast; what has one axis less, such as a scalar, does so, too."""
        assert node.inputs[0] is not None
        node.outputs[0].replace_all_uses_with(node.inputs[0])


def _broadcasts(reader: ir.Node, copied: ir.Value) -> bool:
    """Tell whether `reader` makes the same of what `copied` was expanded from."""
    if reader.domain != "" or reader.op_type not in _BROADCASTING or copied.shape is None:
        return False
    if reader.op_type == "PRelu" and reader.inputs[0] is copied:
        return False  # a slope is broadcast, and what it belongs to is not
    others = [value for value in reader.inputs if value is not copied]
    return any(other is not None and same_shape(other, copied) for other in others)


class StaticReshape:
    """Reshape, Unsqueeze, Squeeze or Flatten -> a Reshape with a constant shape, of what the first of them reads.

    The batch is written as 0, "as in the input", or where another axis holds it, as -1, "what is left".
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every operator that reshapes floats."""
        return (node for node in model.graph if is_reshape(node))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why its shape goes on being computed."""
        if _target(_first_of(node), node.outputs[0]) is None:
            return f"more than one size of {node.outputs[0].name} is unknown"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Reshape at once to a constant shape; where that is the shape already, do nothing."""
        x, y = _first_of(node), node.outputs[0]
        if same_shape(x, y) and not y.is_graph_output():
            replace_value(y, x)
            return
        target = constant(model.graph, f"{y.name}.shape", np.array(_target(x, y), np.int64))
        if node.op_type == "Reshape":
            node.replace_input_with(0, x)
            node.replace_input_with(1, target)
            node.attributes.pop("allowzero", None)
            return
        reshaped = ir.Value(name=y.name, shape=y.shape, type=y.type)
        reshaped.meta.update(y.meta)
        fresh = ir.Node("", "Reshape", [x, target], outputs=[reshaped], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [fresh], [y], [reshaped])


def _first_of(node: ir.Node) -> ir.Value:
    """Return what the first of a chain of reshaping operators reads."""
    x = node.inputs[0]
    assert x is not None
    before = x.producer()
    return _first_of(before) if before is not None and is_reshape(before) else x


def _target(x: ir.Value, y: ir.Value) -> list[int] | None:
    """Return the constant shape that makes y of x; None if more than one size has to be found in a run."""
    if y.shape is None:
        return None
    target = [size if isinstance(size, int) else -1 for size in y.shape]
    if target.count(-1) > 1 or 0 in target:
        return None
    if x.shape is not None and len(x.shape) > 0 and target and target[0] == -1 and same_size(x.shape[0], y.shape[0]):
        target[0] = 0
    return target


def channel_cut(node: ir.Node) -> tuple[int, int] | None:
    """Return the first channel and the one behind the last that a Slice of nothing else takes; None for other nodes."""
    sizes = known_sizes(node.inputs[0]) if node.inputs else None
    if sizes is None or len(sizes) < 2 or sizes[1] is None or _cuts(node) is None:
        return None
    real = _real_cuts(node)
    if set(real) != {1} or real[1][2] != 1:
        return None
    begin, end = (min(max(bound + sizes[1] if bound < 0 else bound, 0), sizes[1]) for bound in real[1][:2])
    return (begin, end) if begin < end else None


def replace_value(old: ir.Value, new: ir.Value) -> None:
    """Let all who read `old`, which no output of the graph is, read `new`, the same values."""
    if not is_recorded(new) and is_recorded(old):
        new.meta.pop(UNRECORDED, None)
        new.meta["origin"] = origin_of(old)
    old.replace_all_uses_with(new)


class OneSlice:
    """Slices one behind another along different axes are one; what cuts nothing away is left out.

    `x[:, :, ::2, ::2]` is written as three, the first of which takes all channels.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Slices whose places are constants."""
        return (node for node in model.graph if _cuts(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the Slice stays as it is."""
        if node.outputs[0].is_graph_output() and not _real_cuts(node):
            return "it is an output of the graph"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Leave out cuts that cut nothing away, and take those of the Slice before."""
        x, cuts = node.inputs[0], _real_cuts(node)
        assert x is not None
        if not cuts:
            replace_value(node.outputs[0], x)
            return
        before = x.producer()
        earlier = _real_cuts(before) if before is not None and _cuts(before) is not None else {}
        if before is not None and earlier and not set(earlier) & set(cuts) and sole_consumer(x) is node:
            node.replace_input_with(0, before.inputs[0])
            cuts = {**earlier, **cuts}
        axes = sorted(cuts)
        columns = [[cuts[axis][place] for axis in axes] for place in range(3)]
        rows = {"starts": columns[0], "ends": columns[1], "axes": axes, "steps": columns[2]}
        node.resize_inputs(5)
        for position, (name, numbers) in enumerate(rows.items(), start=1):
            data = constant(model.graph, f"{node.outputs[0].name}.{name}", np.array(numbers, np.int64))
            node.replace_input_with(position, data)


Cut = tuple[int, int, int]
"""Start, end and step."""


def _cuts(node: ir.Node) -> dict[int, Cut] | None:
    """Return start, end and step by axis of a Slice with constant places; None if `node` is none."""
    if node.op_type != "Slice" or node.domain != "" or node.inputs[0] is None or node.inputs[0].shape is None:
        return None
    given = [array_of(value) for value in node.inputs[1:]]
    if len(given) < 2 or any(data is None for data in given):
        return None
    starts, ends, *rest = ([int(number) for number in data.ravel()] for data in given if data is not None)
    rank = len(node.inputs[0].shape)
    axes: Sequence[int] = [axis % rank for axis in rest[0]] if rest else range(len(starts))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    return {axis: cut for axis, *cut in zip(axes, starts, ends, steps, strict=True)}  # type: ignore[misc]


def _real_cuts(node: ir.Node) -> dict[int, Cut]:
    """Return the cuts of a Slice that leave something out."""
    sizes, cuts = known_sizes(node.inputs[0]), _cuts(node)
    assert sizes is not None
    assert cuts is not None
    return {axis: cut for axis, cut in cuts.items() if not _is_whole(cut, sizes[axis])}


def _is_whole(cut: Cut, size: int | None) -> bool:
    start, end, step = cut
    if step != 1 or not (start == 0 or (size is not None and start <= -size)):
        return False
    return end >= _NO_END or (size is not None and end >= size)


_NO_END = 2**31 - 1
"""An end that no axis reaches: exporters write the largest integer of 32 or of 64 bits."""


class MeanOfOnePixel:
    """ReduceMean, GlobalAveragePool over rows and columns of one pixel -> the pixel: a mean of one number is itself."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the means of one number."""
        return (node for node in model.graph if _averages_one(node))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the mean is computed."""
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        return f"more than one size of {y.name} is unknown" if _target(x, y) is None else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Reshape instead; StaticReshape drops that where it changes nothing."""
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        pixel = ir.Value(name=y.name, shape=y.shape, type=y.type)
        pixel.meta.update(y.meta)
        target = constant(model.graph, f"{y.name}.shape", np.array(_target(x, y), np.int64))
        fresh = ir.Node("", "Reshape", [x, target], outputs=[pixel], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [fresh], [y], [pixel])


def _averages_one(node: ir.Node) -> bool:
    sizes = known_sizes(node.inputs[0]) if node.inputs else None
    if node.domain != "" or sizes is None:
        return False
    if node.op_type == "GlobalAveragePool":
        return all(size == 1 for size in sizes[2:])
    axes = array_of(node.inputs[1]) if node.op_type == "ReduceMean" and len(node.inputs) > 1 else None
    return axes is not None and axes.size > 0 and all(sizes[int(axis)] == 1 for axis in axes.ravel())


class StridedSliceToPool:
    """x[:, :, ::2, ::2] -> an average of one pixel with that stride, which onnxruntime computes a quarter faster.

    Not a maximum, which loses a NaN.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Slices that leave out rows or columns of images at regular distances, and nothing else."""
        return (node for node in model.graph if _strides(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return None: there is no reason against it."""
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the Slice."""
        y, strides = node.outputs[0], _strides(node)
        assert strides is not None
        output = ir.Value(name=y.name, shape=y.shape, type=y.type)
        output.meta.update(y.meta)
        attributes = [ir.AttrInt64s("kernel_shape", [1, 1]), ir.AttrInt64s("strides", list(strides))]
        pool = ir.Node("", "AveragePool", [node.inputs[0]], attributes, outputs=[output], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [pool], [y], [output])


def _strides(node: ir.Node) -> tuple[int, int] | None:
    """Return the strides of a Slice from the first row and column to the end; None if it is none."""
    sizes, cuts = (known_sizes(node.inputs[0]), _cuts(node)) if node.inputs else (None, None)
    is_float = node.outputs[0].type is not None and node.outputs[0].type.dtype == ir.DataType.FLOAT
    if sizes is None or cuts is None or len(sizes) != 4 or not is_float:
        return None
    real = _real_cuts(node)
    if not real or set(real) - {2, 3} or any(step < 1 for _, _, step in real.values()):
        return None
    if not all(_is_whole((start, end, 1), sizes[axis]) for axis, (start, end, _) in real.items()):
        return None
    return real.get(2, (0, 0, 1))[2], real.get(3, (0, 0, 1))[2]
