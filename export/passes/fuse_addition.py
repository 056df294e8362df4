"""Sums behind binary convolutions become part of them: the node's other branch, and the skip past the cell.

No sum is reordered: (branch + branch) + skip stays that, so every rounding is the one that PyTorch makes.
"""

from collections.abc import Iterable

import onnx_ir as ir

from bnas_deploy.core.operators import Operator, operator, with_changes
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    array_of,
    channels_of,
    is_fused,
    is_recorded,
    new_value,
    origin_of,
    replace_operator,
    sole_consumer,
)


def _is_addition(node: ir.Node) -> bool:
    """Tell whether `node` adds what is computed; FuseShift and others take constants."""
    computed = all(value is not None and array_of(value) is None for value in node.inputs)
    return node.op_type == "Add" and node.domain == "" and computed


def _takes_addition(value: ir.Value | None) -> ir.Node | None:
    """Return the binary convolution that makes `value` for one reader alone and can add once more, or None."""
    node = None if value is None else value.producer()
    if value is None or node is None or not is_fused(node) or sole_consumer(value) is None:
        return None
    return node if _with_one_more(node) is not None else None


def _with_one_more(node: ir.Node) -> Operator | None:
    """Return the operator that adds once more than `node`, a binary convolution."""
    row = operator(node.op_type)
    return with_changes(row, added=row.added + 1)


class FuseAddition:
    """BinaryConv2d -> Add becomes BinaryConv2dAdd, whose last input is what is added."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every Add that reads a binary convolution, or what such an Add before it will become."""
        made = set()
        for node in model.graph:
            is_site = _is_addition(node) and any(value in made for value in node.inputs)
            if is_site or is_fused(node):
                made.add(node.outputs[0])
            if is_site:
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the addition stays a node of its own."""
        left, right = node.inputs
        assert left is not None
        assert right is not None
        if not (is_recorded(left) and is_recorded(right)):
            return "PyTorch's program has no value of its own for what is added"
        if left.shape is None or left.shape != right.shape:
            return f"{left.name} {left.shape} and {right.name} {right.shape} differ in shape"
        if not (_takes_addition(left) or _takes_addition(right)):
            return "each convolution that it reads is read elsewhere too, or no operator adds once more than it does"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Let the convolution add; of two, the one that adds less so far, and else the later one."""
        candidates = [
            (operator(convolution.op_type).added, -position, convolution, other)
            for value, other in (tuple(node.inputs), tuple(reversed(node.inputs)))
            if (convolution := _takes_addition(value))
            for position in [_position(model.graph, convolution)]
        ]
        _, _, convolution, other = min(candidates, key=lambda candidate: candidate[:2])
        assert other is not None
        row = _with_one_more(convolution)
        assert row is not None
        replace_operator(convolution, row, {row.added_inputs[-1]: other}, node)


def _position(graph: ir.Graph, node: ir.Node) -> int:
    return next(i for i, each in enumerate(graph) if each is node)


class DistributeAddition:
    """Concat + Concat of the same parts becomes the Concat of the sums, which binary convolutions can take.

    This is the skip past a cell, from one cell's nodes to the next cell's.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every Add of two concatenations of channels, or of what such an Add before it will become."""
        joined = set()
        for node in model.graph:
            is_site = _is_addition(node) and all(value in joined for value in node.inputs)
            if is_site or _is_concat(node):
                joined.add(node.outputs[0])
            if is_site:
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the sum stays in one piece."""
        if not all(value and _is_concat(value.producer()) for value in node.inputs):
            return "one of its terms was left in one piece"
        left, right = (_parts(value) for value in node.inputs)
        if [channels_of(part) for part in left] != [channels_of(part) for part in right]:
            return "the concatenations have parts of different sizes"
        if not any(_takes_addition(part) for part in (*left, *right)):
            return "no binary convolution could take a part of it"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Add part by part."""
        total = node.outputs[0]
        concats = [value.producer() for value in node.inputs if value is not None]
        pairs = list(zip(*(_parts(value) for value in node.inputs), strict=True))
        added, nodes, first = [], [], 0
        for left, right in pairs:
            channels = channels_of(left)
            origin = origin_of(total).channel_range(first, first + channels)
            part = new_value(f"{total.name}.{first}", total, channels, origin)
            nodes.append(ir.Node("", "Add", [left, right], outputs=[part], name=str(part.name)))
            added.append(part)
            first += channels
        joined = ir.Value(name=total.name, shape=total.shape, type=total.type)
        joined.meta.update(total.meta)
        axis = ir.AttrInt64("axis", CHANNEL_AXIS)
        nodes.append(ir.Node("", "Concat", added, [axis], outputs=[joined], name=str(node.name)))
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, [total], [joined])
        # What nobody reads any more would look like a second reader of its parts.
        unread = {concat for concat in concats if concat and not (concat.outputs[0].uses() or _is_answer(concat))}
        model.graph.remove(unread, safe=True)


def _is_answer(node: ir.Node) -> bool:
    return node.outputs[0].is_graph_output()


def _is_concat(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Concat" and node.attributes.get_int("axis") == CHANNEL_AXIS


def _parts(value: ir.Value | None) -> list[ir.Value]:
    assert value is not None
    node = value.producer()
    assert node is not None
    return [part for part in node.inputs if part is not None]
