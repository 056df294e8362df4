"""Channels in another order: a shuffle is one node, and none where a convolution beside it can have that order."""

from collections.abc import Iterable
from math import prod

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    array_of,
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    same_shape,
    same_size,
    set_input,
    sole_consumer,
)
from bnas_deploy.export.passes.batch_norm import has_known_parameters, is_conv
from bnas_deploy.export.passes.folding import BIAS_TERMS, take_over_output
from bnas_deploy.export.passes.shapes import is_reshape, known_sizes

Order = NDArray[np.int64]
"""Which channel of what is read each channel is."""


class ShuffleToGather:
    """Reshape -> Transpose -> Reshape, which writes groups of channels in turns, becomes one Gather of channels.

    A Gather moves whole images and takes two thirds of the time (64 to 192 channels, 28x28 and 32x32; AMD EPYC).
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Transposes between two Reshapes that shuffle channels and nothing else."""
        return (node for node in model.graph if _shuffled_order(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the three stay."""
        groups, shuffled = node.inputs[0], node.outputs[0]
        assert groups is not None
        read = next((value for value in (groups, shuffled) if sole_consumer(value) is None), None)
        return None if read is None else f"{read.name} is also read by others"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the last of the three."""
        order, first, last = _shuffled_order(node), _reshape_before(node), _reshape_behind(node)
        assert order is not None
        assert first is not None
        assert last is not None
        y = last.outputs[0]
        output = ir.Value(name=y.name, shape=y.shape, type=y.type)
        output.meta.update(y.meta)
        indices = constant(model.graph, f"{y.name}.order", order)
        axis = [ir.AttrInt64("axis", CHANNEL_AXIS)]
        gather = ir.Node("", "Gather", [first.inputs[0], indices], axis, outputs=[output], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, last, [last], [gather], [y], [output])


def _reshape_before(node: ir.Node) -> ir.Node | None:
    before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
    return before if is_reshape(before) else None


def _reshape_behind(node: ir.Node) -> ir.Node | None:
    return next((reader for reader, _ in node.outputs[0].uses() if is_reshape(reader)), None)


def _shuffled_order(node: ir.Node) -> Order | None:
    """Return the order that a Transpose and the Reshapes around it give the channels of images; None if they do not."""
    if node.op_type != "Transpose" or node.domain != "":
        return None
    first, last = _reshape_before(node), _reshape_behind(node)
    if first is None or last is None or first.inputs[0] is None:
        return None
    x, groups, y = first.inputs[0], first.outputs[0], last.outputs[0]
    sizes, parts = known_sizes(x), known_sizes(groups)
    if sizes is None or parts is None or len(sizes) != 4 or not same_shape(x, y):
        return None
    assert x.shape is not None
    assert groups.shape is not None
    axes, rank = node.attributes.get_ints("perm", ()), len(parts)
    keeps_pixels = parts[-2:] == sizes[-2:] and None not in (*parts[1:], *sizes[1:])
    moves_channels = rank > 4 and axes[0] == 0 and tuple(axes[-2:]) == (rank - 2, rank - 1)
    if not (keeps_pixels and moves_channels and same_size(x.shape[0], groups.shape[0])):
        return None
    split = [size for size in parts[1:-2] if size is not None]
    numbers = np.arange(prod(split), dtype=np.int64).reshape(split)
    return numbers.transpose([axis - 1 for axis in axes[1:-2]]).ravel()


def _order_of(node: ir.Node | None) -> Order | None:
    """Return the order in which a Gather of channels takes all of them, each once; None if `node` is no such Gather."""
    if (
        node is None
        or node.op_type != "Gather"
        or node.domain != ""
        or node.attributes.get_int("axis", 0) != CHANNEL_AXIS
    ):
        return None
    order, sizes = array_of(node.inputs[1]), known_sizes(node.inputs[0])
    channels = None if sizes is None else sizes[CHANNEL_AXIS]
    if order is None or order.ndim != 1 or channels is None:
        return None
    return order if np.array_equal(np.sort(order), np.arange(channels)) else None


class FoldOrderIntoProducer:
    """Convolution -> Gather of channels: the convolution makes its channels in that order."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Gathers of all channels of a convolution."""
        return (node for node in model.graph if _order_of(node) is not None and _convolution_before(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the Gather is kept."""
        convolution, order = _convolution_before(node), _order_of(node)
        assert convolution is not None
        assert order is not None
        if sole_consumer(convolution.outputs[0]) is None:
            return f"{convolution.outputs[0].name} is also read in its own order"
        if is_binary_conv(convolution) and operator(convolution.op_type).computed_inputs:
            return f"what {convolution.name} adds or multiplies has the order of its channels"
        if not is_binary_conv(convolution) and not has_known_parameters(convolution):
            return f"the weights of {convolution.name} are computed from the input"
        groups = convolution.attributes.get_int("group", 1)
        if groups > 1 and not _stays_in_groups(order, groups):
            return f"{convolution.name} has groups, whose outputs stay together"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Write the weights, and all that is there once for each output, in that order."""
        convolution, order = _convolution_before(node), _order_of(node)
        assert convolution is not None
        for place, value in enumerate(convolution.inputs):
            data = array_of(value)
            if value is not None and data is not None and not _is_per_input(convolution, place):
                ordered = constant(model.graph, f"{value.name}.ordered", data[order])
                convolution.replace_input_with(place, ordered)
        if BIAS_TERMS in convolution.meta:
            convolution.meta[BIAS_TERMS] = convolution.meta[BIAS_TERMS][order]
        take_over_output(model.graph, convolution, node)


def _is_per_input(convolution: ir.Node, place: int) -> bool:
    """Tell whether an input of a binary convolution has a number for each channel that it reads."""
    return is_binary_conv(convolution) and operator(convolution.op_type).inputs[place] in ("threshold", "pad")


def _convolution_before(node: ir.Node) -> ir.Node | None:
    before = node.inputs[0].producer() if node.inputs[0] is not None else None
    return before if is_conv(before) or is_binary_conv(before) else None


def _stays_in_groups(order: Order, groups: int) -> bool:
    """Tell whether an order moves no channel to another group."""
    return bool((order // (len(order) // groups) == np.arange(len(order)) // (len(order) // groups)).all())


class FoldOrderIntoReader:
    """Gather of channels -> convolution: its weights have the order of what the Gather reads.

    Other readers keep the Gather.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the convolutions that read channels in another order."""
        return (node for node in model.graph if _is_convolution(node) and _order_of(_gather_before(node)) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the convolution goes on reading the Gather."""
        order, groups = _order_of(_gather_before(node)), node.attributes.get_int("group", 1)
        assert order is not None
        if not is_binary_conv(node) and not has_known_parameters(node):
            return f"the weights of {node.name} are computed from the input"
        return f"{node.name} has groups, and the order mixes them" if not _stays_in_groups(order, groups) else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read what the Gather reads."""
        gather = _gather_before(node)
        order = _order_of(gather)
        assert gather is not None
        assert gather.inputs[0] is not None
        assert order is not None
        back = np.argsort(order)  # channel c of what is read is channel back[c] of what was
        groups = node.attributes.get_int("group", 1)
        weight = input_of(node, "W") if is_binary_conv(node) else node.inputs[1]
        data = constant_array(weight).copy()
        by_group = data.reshape(groups, -1, *data.shape[1:])  # (G, O/G, C/G, KH, KW); constant channels are behind C/G
        size = len(back) // groups
        for group in range(groups):
            places = back[group * size : (group + 1) * size] - group * size
            by_group[group, :, :size] = by_group[group][:, places]
        ordered = constant(model.graph, f"{node.name}.ordered", data)
        if not is_binary_conv(node):
            node.replace_input_with(1, ordered)
            node.replace_input_with(0, gather.inputs[0])
            return
        for name in ("threshold", "pad"):
            if name in operator(node.op_type).inputs:
                moved = constant(model.graph, f"{node.name}.{name}", constant_array(input_of(node, name))[back])
                set_input(node, name, moved)
        set_input(node, "W", ordered)
        set_input(node, "X", gather.inputs[0])


def _is_convolution(node: ir.Node) -> bool:
    return is_conv(node) or (is_binary_conv(node) and operator(node.op_type).parts == 1)


def _gather_before(node: ir.Node) -> ir.Node | None:
    x = node.inputs[0]
    return None if x is None else x.producer()


class GatherParts:
    """Gather of channels -> Split: each part is a Gather of its own, and no channel is moved twice."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the Splits of what a Gather of channels makes."""
        return (
            node
            for node in model.graph
            if node.op_type == "Split"
            and node.domain == ""
            and node.attributes.get_int("axis", 0) == CHANNEL_AXIS
            and _order_of(_gather_before(node)) is not None
        )

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the channels are put in order first."""
        x = node.inputs[0]
        assert x is not None
        if sole_consumer(x) is None:
            return f"{x.name} is also read whole"
        known = [known_sizes(part) for part in node.outputs]
        if any(sizes is None or sizes[CHANNEL_AXIS] is None for sizes in known):
            return "how many channels its parts have is not known"
        return (
            "a part of it is an output of the graph" if any(each.is_graph_output() for each in node.outputs) else None
        )

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Gather each part from what the Gather reads."""
        gather = _gather_before(node)
        order = _order_of(gather)
        assert gather is not None
        assert order is not None
        nodes, values, first = [], [], 0
        for part in node.outputs:
            sizes = known_sizes(part)
            assert sizes is not None
            count = sizes[CHANNEL_AXIS] or 0
            output = ir.Value(name=part.name, shape=part.shape, type=part.type)
            output.meta.update(part.meta)
            indices = constant(model.graph, f"{part.name}.order", order[first : first + count])
            axis = [ir.AttrInt64("axis", CHANNEL_AXIS)]
            fresh = ir.Node("", "Gather", [gather.inputs[0], indices], axis, outputs=[output], name=str(part.name))
            nodes.append(fresh)
            values.append(output)
            first += count
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, list(node.outputs), values)
