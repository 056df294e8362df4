"""Concatenations of channels that are cut or joined again: everybody reads the parts where they lie."""

from collections.abc import Iterable

import onnx_ir as ir

from bnas_deploy.core.operators import MOST_PARTS
from bnas_deploy.export.graph import CHANNEL_AXIS, channels_of, is_recorded
from bnas_deploy.export.passes.shapes import channel_cut, replace_value


class SliceOfConcat:
    """Slice(Concat(a, b, c)) of whole parts -> the part, or the Concat of several."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Slices of neighbouring channels of a concatenation."""
        return (
            node for node in model.graph if channel_cut(node) is not None and _concat_of(node.inputs[0]) is not None
        )

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the Slice stays."""
        if _covered(node) is None:
            return "it cuts through a part"
        return "it is an output of the graph" if node.outputs[0].is_graph_output() else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read the parts."""
        parts, y = _covered(node), node.outputs[0]
        assert parts is not None
        if len(parts) == 1:
            replace_value(y, parts[0])
            return
        joined = ir.Value(name=y.name, shape=y.shape, type=y.type)
        joined.meta.update(y.meta)
        concat = ir.Node("", "Concat", parts, [ir.AttrInt64("axis", CHANNEL_AXIS)], outputs=[joined], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [concat], [y], [joined])


class FlattenConcat:
    """Concat(Concat(a, b), c) -> Concat(a, b, c), as long as a binary convolution can read so many parts.

    Dense blocks then copy what they have so far in every third block, and not in each.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the concatenations of concatenations."""
        return (node for node in model.graph if _is_concat(node) and any(map(_concat_of, node.inputs)))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the inner one is made."""
        parts = _flattened(node)
        if len(parts) > MOST_PARTS:
            return f"{len(parts)} parts are more than {MOST_PARTS}"
        if not all(map(is_recorded, parts)):
            return "PyTorch's program has no value of its own for a part"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read the parts of the inner ones."""
        parts = _flattened(node)
        node.resize_inputs(len(parts))
        for position, part in enumerate(parts):
            node.replace_input_with(position, part)


def _is_concat(node: ir.Node | None) -> bool:
    is_one = node is not None and node.op_type == "Concat" and node.domain == ""
    return node is not None and is_one and node.attributes.get_int("axis") == CHANNEL_AXIS


def _concat_of(value: ir.Value | None) -> ir.Node | None:
    """Return the concatenation of channels that makes `value`; None if none does."""
    maker = None if value is None else value.producer()
    return maker if _is_concat(maker) else None


def _parts(concat: ir.Node) -> list[ir.Value]:
    return [part for part in concat.inputs if part is not None]


def _flattened(concat: ir.Node) -> list[ir.Value]:
    inner = [(part, _concat_of(part)) for part in _parts(concat)]
    return [each for part, made in inner for each in ([part] if made is None else _parts(made))]


def _covered(node: ir.Node) -> list[ir.Value] | None:
    """Return the parts that a Slice takes; None if it cuts through one."""
    concat, cut = _concat_of(node.inputs[0]), channel_cut(node)
    assert concat is not None
    assert cut is not None
    begin, covered = 0, []
    for part in _parts(concat):
        end = begin + channels_of(part)
        if begin < cut[1] and end > cut[0]:
            if begin < cut[0] or end > cut[1]:
                return None
            covered.append(part)
        begin = end
    return covered or None
