"""Functions of each channel move past what only arranges values, to the convolutions that can take them in."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    array_of,
    channel_numbers,
    channels_of,
    constant,
    is_binary_conv,
    new_value,
    origin_of,
    same_size,
    sole_consumer,
)
from bnas_deploy.export.passes.channelwise import channel_function
from bnas_deploy.export.passes.shapes import is_reshape


class MoveReshapeBehind:
    """Reshape -> f becomes f -> Reshape, where the Reshape only leaves out rows and columns of one element.

    So a binary matrix product, which is a convolution of one pixel, has its BN and its activation next to it.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Reshapes of one pixel that a function of channels reads."""
        return (node for node in model.graph if _drops_pixel_axes(node) and _function_behind(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the function stays behind."""
        if sole_consumer(node.outputs[0]) is None:
            return f"{node.outputs[0].name} is also read without it"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Put all functions behind the Reshape in front of it, one after another."""
        while sole_consumer(node.outputs[0]) is not None and (function := _function_behind(node)) is not None:
            node = _exchanged(model.graph, node, function)


def _drops_pixel_axes(node: ir.Node) -> bool:
    x, y = (node.inputs[0], node.outputs[0]) if is_reshape(node) else (None, node.outputs[0])
    if x is None or x.shape is None or y.shape is None or len(x.shape) <= len(y.shape) or len(y.shape) != 2:
        return False
    return all(map(same_size, x.shape[:2], y.shape)) and all(size == 1 for size in x.shape[2:])


def _function_behind(node: ir.Node) -> ir.Node | None:
    """Return the function of channels that reads what `node` makes, and makes as much of it."""
    for reader, _ in node.outputs[0].uses():
        function = channel_function(reader)
        if function is not None and function.x is node.outputs[0]:
            return reader
    return None


def _exchanged(graph: ir.Graph, reshape: ir.Node, function: ir.Node) -> ir.Node:
    """Exchange two neighbours; return what reshapes now."""
    x, between, y = reshape.inputs[0], reshape.outputs[0], function.outputs[0]
    assert x is not None
    assert x.shape is not None
    pixels = ir.Value(name=f"{y.name}.pixel", shape=x.shape, type=y.type)
    pixels.meta["origin"] = origin_of(y)
    inputs = [x if value is between else _aligned(graph, function, value, len(x.shape)) for value in function.inputs]
    first = ir.Node("", function.op_type, inputs, function.attributes.values(), outputs=[pixels], name=function.name)
    first.meta.update(function.meta)
    flat = ir.Value(name=y.name, shape=y.shape, type=y.type)
    flat.meta.update(y.meta)
    last = ir.Node(
        "",
        reshape.op_type,
        [pixels, *reshape.inputs[1:]],
        reshape.attributes.values(),
        outputs=[flat],
        name=reshape.name,
    )
    ir.convenience.replace_nodes_and_values(graph, function, [function, reshape], [first, last], [y], [flat])
    return last


def _aligned(graph: ir.Graph, function: ir.Node, value: ir.Value | None, rank: int) -> ir.Value | None:
    """Return a parameter for more axes; those of a BN are (C) for any number of them."""
    data = array_of(value)
    if value is None or data is None or data.size == 1 or function.op_type == "BatchNormalization":
        return value
    numbers = channel_numbers(value, function.outputs[0])
    assert numbers is not None
    return constant(graph, f"{value.name}.pixel", numbers.reshape(-1, *(1,) * (rank - 2)))


class DistributeOverConcat:
    """f(Concat(a, b)) becomes Concat(f(a), f(b)), where a binary convolution stands behind each part.

    So two convolutions side by side, whose outputs are joined, have what follows next to them. It is the same function
    of each number, to the bit.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the functions of channels that alone read a concatenation, or what such a one before will make."""
        joined = set()
        for node in model.graph:
            function = channel_function(node)
            is_site = function is not None and function.x in joined
            if (is_site or _joins_channels(node)) and sole_consumer(node.outputs[0]) is not None:
                joined.add(node.outputs[0])
            if is_site:
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it is computed of all channels at once."""
        function = channel_function(node)
        assert function is not None
        concat = function.x.producer()
        if concat is None or not _joins_channels(concat):
            return ""  # the function in front of it was left, and said why
        parts = [value for value in concat.inputs if value is not None]
        if not all(_has_convolution(value, alone=False) for value in parts):
            return ""  # as in every network that joins features, where nothing is lost by it
        if not all(_has_convolution(value) for value in parts):
            return f"a part of {function.x.name} is also read elsewhere"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Compute it part by part."""
        function = channel_function(node)
        assert function is not None
        concat, y = function.x.producer(), node.outputs[0]
        assert concat is not None
        made, nodes, first = [], [], 0
        for part in concat.inputs:
            assert part is not None
            channels = channels_of(part)
            place = slice(first, first + channels)
            output = new_value(f"{y.name}.{first}", y, channels, origin_of(y).channel_range(*_ends(place)))
            inputs = [
                part if value is function.x else _restricted(model.graph, node, value, place) for value in node.inputs
            ]
            fresh = ir.Node("", node.op_type, inputs, node.attributes.values(), outputs=[output])
            fresh.name = f"{node.name}.{first}"
            fresh.meta.update(node.meta)
            made.append(output)
            nodes.append(fresh)
            first += channels
        total = ir.Value(name=y.name, shape=y.shape, type=y.type)
        total.meta.update(y.meta)
        axis = [ir.AttrInt64("axis", CHANNEL_AXIS)]
        nodes.append(ir.Node("", "Concat", made, axis, outputs=[total], name=str(concat.name)))
        ir.convenience.replace_nodes_and_values(model.graph, node, [node, concat], nodes, [y], [total])


def _ends(place: slice) -> tuple[int, int]:
    return int(place.start), int(place.stop)


def _joins_channels(node: ir.Node | None) -> bool:
    return (
        node is not None
        and node.domain == ""
        and node.op_type == "Concat"
        and node.attributes.get_int("axis", 0) == CHANNEL_AXIS
        and len(node.inputs) > 1
    )


def _has_convolution(value: ir.Value, *, alone: bool = True) -> bool:
    """Tell whether a binary convolution makes `value`, through functions of channels and sums, and for it `alone`."""
    node = value.producer()
    if node is None or (alone and sole_consumer(value) is None):
        return False
    if is_binary_conv(node):
        return True
    function = channel_function(node)
    if function is not None:
        return _has_convolution(function.x, alone=alone)
    return node.op_type == "Add" and any(
        each is not None and _has_convolution(each, alone=alone) for each in node.inputs
    )


def _restricted(graph: ir.Graph, function: ir.Node, value: ir.Value | None, place: slice) -> ir.Value | None:
    """Return what a parameter, (C), (C, 1, 1), (1, C, 1, 1) or one number, is for some of the channels."""
    data = array_of(value)
    if value is None or data is None or data.size == 1:
        return value
    channels = channels_of(function.outputs[0])
    axis = next(axis for axis, size in enumerate(data.shape) if size == channels)
    taken = np.take(data, np.arange(*_ends(place)), axis=axis)
    return constant(graph, f"{value.name}.{place.start}to{place.stop}", taken)
