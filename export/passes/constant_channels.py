"""Zeroise and everything that it makes constant.

Each value (N, C, H, W) is followed as a list of segments along its channels: constants, and slices of values that are
computed. The zeros of a Zeroise layer are a constant segment; they pass through sums, pools, BN and concatenation.
Where constant meets computed, only the computed part is kept:

    constant + constant    is constant
    zero + computed        is the computed value itself
    pool, BN, ReLU         are applied to the computed part; an average pool only where the constants are zeros
    concatenation          concatenates segments, and costs nothing
    float convolution      its constant channels become a bias, or a map (O, OH, OW) where padding makes them vary
    binary convolution     its constant channels become the integers `offset`, or where padding makes these vary, the
                           last `constant_channels` of its weights, or both; they are exact, see docs/operators.md
    anything else          reads the whole value again, constants included

What no consumer needs any more (the dead preprocess of a reduction cell, the Zeroise nodes) is left for DropUnused.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from bnas_deploy.core.bits import sign
from bnas_deploy.core.operators import Operator, operator
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    SIGN_OF_ZERO,
    Origin,
    array_of,
    channel_slopes,
    channels_of,
    constant,
    constant_array,
    input_of,
    new_value,
    origin_of,
    set_input,
    spatial_of,
)
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.folding import BIAS_TERMS
from bnas_deploy.export.passes.segment_nodes import SegmentNodes
from bnas_deploy.export.passes.segments import (
    Computed,
    Constant,
    Floats,
    Segment,
    Segments,
    aligned,
    live_channels,
    merged_segments,
    positions,
)


class DropConstantChannels:
    """Keep constant channels out of everything that is computed."""

    def sweep(self, model: ir.Model) -> None:
        """Rewrite in place."""
        _Evaluation(model).run()


class _Evaluation:
    """One walk through the graph in topological order; nodes that are needed differently are added in place."""

    def __init__(self, model: ir.Model) -> None:
        self.graph = model.graph
        self.segments: dict[ir.Value, Segments] = {}
        self.nodes = SegmentNodes(model.graph)
        self.rules: dict[str, Callable[[ir.Node], None]] = {
            "Zeroise": self.zeroise,
            "Concat": self.concat,
            "Add": self.add,
            "Relu": self.channelwise,
            "PRelu": self.channelwise,
            "MaxPool": self.channelwise,
            "AveragePool": self.channelwise,
            "BatchNormalization": self.channelwise,
            "Conv": self.convolution,
            # As captured. BinaryConv2dK reads all channels: K is their mean, so constant ones cannot be left out of it.
            Operator().name: self.binary_convolution,
            Operator(pads_signs=True).name: self.binary_convolution,
        }

    def run(self) -> None:
        for node in list(self.graph):
            self.rules.get(node.op_type, self.whole)(node)
        for index, value in enumerate(self.graph.outputs):
            if value in self.segments:
                self.graph.outputs[index] = self.nodes.named(self.materialise(value, node=None), value)

    # --- looking -----------------------------------------------------------------------------------------------------

    def segments_of(self, value: ir.Value) -> Segments:
        return self.segments.get(value) or (Computed(value, 0, channels_of(value)),)

    def has_constants(self, value: ir.Value | None) -> bool:
        return value in self.segments and any(isinstance(part, Constant) for part in self.segments[value])

    def keeps_constants(self, node: ir.Node, x: ir.Value) -> bool:
        """Tell whether what `node` makes of the constants in x is known, and the same at every pixel."""
        if len(node.outputs) > 1 or not has_known_parameters(node):
            return False  # the places of the maxima, say, or a slope from the data
        if node.op_type == "AveragePool":
            # Zeros average to zero. Other constants do so up to rounding only, or shrink where the padding counts.
            return not any(any(part.values) for part in self.segments_of(x) if isinstance(part, Constant))
        if node.op_type == "PRelu":
            return channel_slopes(node) is not None
        return True

    # --- rules -------------------------------------------------------------------------------------------------------

    def zeroise(self, node: ir.Node) -> None:
        output = node.outputs[0]
        self.segments[output] = (Constant((0.0,) * channels_of(output)),)

    def concat(self, node: ir.Node) -> None:
        inputs = [value for value in node.inputs if value is not None]
        if node.attributes.get_int("axis", 0) != CHANNEL_AXIS or not any(value in self.segments for value in inputs):
            self.whole(node)
            return
        self.segments[node.outputs[0]] = tuple(part for value in inputs for part in self.segments_of(value))

    def add(self, node: ir.Node) -> None:
        left, right = node.inputs
        assert left is not None
        assert right is not None
        if not (self.has_constants(left) or self.has_constants(right)) or _shape(left) != _shape(right):
            self.whole(node)
            return
        pieces = aligned(self.segments_of(left), self.segments_of(right))
        self.segments[node.outputs[0]] = tuple(self.sum_of(node, *piece) for piece in pieces)

    def sum_of(self, node: ir.Node, first: int, left: Segment, right: Segment) -> Segment:
        """Add two segments that are channels `first` and on of the sum that `node` computes."""
        if isinstance(left, Constant):
            left, right = right, left
        if isinstance(left, Constant):
            assert isinstance(right, Constant)
            return Constant(tuple((left.array + right.array).tolist()))
        if isinstance(right, Constant):
            if not any(right.values):
                return left  # x + 0 is x
            addend = constant(self.graph, f"{node.name}.{first}.addend", right.array.reshape(-1, 1, 1))
        else:
            addend = self.nodes.slice_of(right, node)
        whole = node.outputs[0]
        origin = Origin(str(whole.name), tuple(range(first, first + left.count)))
        output = new_value(f"{whole.name}.{first}", whole, left.count, origin)
        self.nodes.insert(node, ir.Node("", "Add", [self.nodes.slice_of(left, node), addend], outputs=[output]))
        return Computed(output, 0, left.count)

    def channelwise(self, node: ir.Node) -> None:
        """Apply a function that treats each channel by itself to the computed channels only."""
        x = node.inputs[0]
        assert x is not None
        if not self.has_constants(x) or not self.keeps_constants(node, x):
            self.whole(node)
            return
        live = live_channels(self.segments_of(x))
        function = _CHANNEL_FUNCTIONS[node.op_type]
        constants = [
            Constant(tuple(function(node, part.array, slice(first, first + part.count)).tolist()))
            if isinstance(part, Constant)
            else part
            for first, part in positions(self.segments_of(x))
        ]
        if not live:
            self.segments[node.outputs[0]] = tuple(constants)
            return
        origin = Origin(str(node.outputs[0].name), tuple(live))
        output = new_value(f"{node.outputs[0].name}.live", node.outputs[0], len(live), origin)
        parameters = [self.restricted(value, channels_of(x), live) for value in node.inputs[1:]]
        twin = ir.Node(
            node.domain,
            node.op_type,
            [self.live_part(x, node), *parameters],
            node.attributes,
            outputs=[output],
        )
        self.nodes.insert(node, twin)
        done, parts = 0, []
        for part in constants:
            parts.append(part if isinstance(part, Constant) else Computed(output, done, part.count))
            done += 0 if isinstance(part, Constant) else part.count
        self.segments[node.outputs[0]] = merged_segments(parts)

    def convolution(self, node: ir.Node) -> None:
        x = node.inputs[0]
        assert x is not None
        if not self.has_constants(x) or node.attributes.get_int("group", 1) != 1 or not has_known_parameters(node):
            self.whole(node)
            return
        weight = constant_array(node.inputs[1])
        bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
        added = self.contribution(node, x, weight, lambda values, _: values)
        if bias is not None:
            added = added + bias[:, None, None]
        live = live_channels(self.segments_of(x))
        if not live:
            self.known(node, added)
            return
        terms = self.contribution(node, x, np.abs(weight), lambda values, _: np.abs(values)).max(axis=(1, 2))
        node.meta[BIAS_TERMS] = terms if bias is None else terms + np.abs(bias)
        uniform = _uniform(added)
        bias = np.zeros(len(added), np.float32) if uniform is None else uniform
        node.resize_inputs(3)
        node.replace_input_with(0, self.live_part(x, node))
        node.replace_input_with(1, constant(self.graph, f"{node.name}.live_weight", weight[:, live]))
        node.replace_input_with(2, constant(self.graph, f"{node.name}.live_bias", bias))
        if uniform is None:
            self.add_behind(node, added)

    def add_behind(self, node: ir.Node, added: Floats) -> None:
        """Add the map (O, OH, OW) to what `node` computes; the sum takes over the name."""
        output = node.outputs[0]
        total = new_value(str(output.name), output, channels_of(output), origin_of(output))
        output.replace_all_uses_with(total, replace_graph_outputs=True)
        output.name = f"{total.name}.live_part"
        border = self.nodes.map_of(added[None], node, f"{node.name}.constant_channels")
        self.graph.insert_after(node, ir.Node("", "Add", [output, border], outputs=[total], name=f"{node.name}.add"))

    def binary_convolution(self, node: ir.Node) -> None:
        x = input_of(node, "X")
        if not self.has_constants(x) or node.attributes.get_int("group", 1) != 1:
            self.whole(node)
            return
        weight = constant_array(input_of(node, "W"))
        threshold = constant_array(input_of(node, "threshold"))

        def activation(values: Floats, place: slice) -> Floats:
            if node.attributes.get_int(SIGN_OF_ZERO, 0):
                assert not threshold.any()  # no BN is in it yet
                return np.sign(values)
            return sign(values, threshold[place])

        pads_signs = operator(node.op_type).pads_signs
        pad = constant_array(input_of(node, "pad")) if pads_signs else np.zeros(len(threshold), np.float32)
        added = self.contribution(node, x, weight, activation, pad)
        offset = constant_array(input_of(node, "offset"))
        live = live_channels(self.segments_of(x))
        if not live:
            scale, bias = (constant_array(input_of(node, name)) for name in ("scale", "bias"))
            self.known(node, (offset + added) * scale[:, None, None] + bias[:, None, None])
            return
        kept, uniform = weight[:, live], _uniform(added)
        if uniform is None:
            constants, uniform = self.constant_weights(x, weight, activation, pad)
            kept = np.concatenate([kept, constants], axis=1)
            node.attributes["constant_channels"] = ir.AttrInt64s("constant_channels", [constants.shape[1]])
        offset = (offset + uniform.reshape(-1, 1, 1)).astype(np.float32)
        if pads_signs:
            set_input(node, "pad", constant(self.graph, f"{node.name}.live_pad", pad[live]))
        set_input(node, "X", self.live_part(x, node))
        set_input(node, "W", constant(self.graph, f"{node.name}.live_signs", kept))
        set_input(node, "threshold", constant(self.graph, f"{node.name}.live_threshold", threshold[live]))
        set_input(node, "offset", constant(self.graph, f"{node.name}.offset", offset))

    def constant_weights(
        self, x: ir.Value, weight: Floats, activation: Callable[[Floats, slice], Floats], pad: Floats
    ) -> tuple[Floats, Floats]:
        """Return weights (O, constant channels, KH, KW) and numbers (O) that add what the constant channels of x do.

        The operator's constant channels are +1 on the image and 0 at the padding. One of x is v on the image and p at
        the padding: p everywhere, which adds p times the sum of its weights w, and v - p on the image. That is -2 to
        2: so many channels of weights w or -w. (Where sign(0) is 0, v may be 0.)
        """
        parts, everywhere = [], np.zeros(len(weight), np.float32)
        for first, part in positions(self.segments_of(x)):
            if isinstance(part, Constant):
                place = slice(first, first + part.count)
                difference = activation(part.array, place) - pad[place]
                signed = weight[:, place] * np.sign(difference)[:, None, None]
                parts.append(np.repeat(signed, np.abs(difference).astype(int), axis=1))
                everywhere += weight[:, place].sum(axis=(2, 3)) @ pad[place]
        return np.concatenate(parts, axis=1), everywhere

    def whole(self, node: ir.Node) -> None:
        """Let `node` read its inputs in full."""
        for index, value in enumerate(node.inputs):
            if value in self.segments:
                node.replace_input_with(index, self.materialise(value, node))

    # --- building ----------------------------------------------------------------------------------------------------

    def contribution(
        self,
        node: ir.Node,
        x: ir.Value,
        weight: Floats,
        activation: Callable[[Floats, slice], Floats],
        pad: Floats | None = None,
    ) -> Floats:
        """Convolve the constant channels of x alone: (O, OH, OW), exact where they are ±1.

        `pad` (C) is what each channel of x has at the padding, None for zeros.
        """
        image = np.zeros((1, channels_of(x), *spatial_of(x)), np.float32)
        around = np.zeros(channels_of(x), np.float32)
        for first, part in positions(self.segments_of(x)):
            if isinstance(part, Constant):
                place = slice(first, first + part.count)
                image[0, place] = activation(part.array, place)[:, None, None]
                around[place] = 0 if pad is None else pad[place]
        return _convolve(node, image, weight, around)

    def known(self, node: ir.Node, image: Floats) -> None:
        """Record that the output of `node` is the constant (O, OH, OW), whatever the input."""
        output = node.outputs[0]
        uniform = _uniform(image)
        if uniform is not None:
            self.segments[output] = (Constant(tuple(uniform.tolist())),)
            return
        name = self.nodes.unique(f"{output.name}.constant")
        repeated = self.nodes.expanded(image[None], node, name, output, origin_of(output))
        self.segments[output] = (Computed(repeated, 0, channels_of(output)),)

    def materialise(self, value: ir.Value, node: ir.Node | None) -> ir.Value:
        """Return `value` in full, constants included, as a value that `node` (None: the end) can read."""
        if value not in self.segments:
            return value
        return self.nodes.join(self.segments_of(value), node, value, origin_of(value))

    def live_part(self, value: ir.Value, node: ir.Node) -> ir.Value:
        """Return the computed channels of `value`."""
        parts = self.segments_of(value)
        computed = tuple(part for part in parts if isinstance(part, Computed))
        return self.nodes.join(computed, node, value, Origin(str(value.name), tuple(live_channels(parts))))

    def restricted(self, value: ir.Value | None, channels: int, live: Sequence[int]) -> ir.Value | None:
        """Return the part of a parameter, per channel or one number, that belongs to the computed channels."""
        data = constant_array(value)
        if value is None or data.size == 1:
            return value
        return constant(self.graph, f"{value.name}.live", np.take(data, live, axis=data.shape.index(channels)))


# --- functions of constants -----------------------------------------------------------------------------------------


def _prelu(node: ir.Node, values: Floats, place: slice) -> Floats:
    slopes = channel_slopes(node)
    assert slopes is not None
    return np.where(values > 0, values, values * slopes[place])


def _batch_norm(node: ir.Node, values: Floats, place: slice) -> Floats:
    norm = BatchNorm.of(node)
    image = np.zeros(len(norm.gamma), np.float32)
    image[place] = values
    return norm(image)[place]


_CHANNEL_FUNCTIONS: dict[str, Callable[[ir.Node, Floats, slice], Floats]] = {
    "Relu": lambda node, values, place: np.maximum(values, 0),
    "PRelu": _prelu,
    "MaxPool": lambda node, values, place: values,
    "AveragePool": lambda node, values, place: values,
    "BatchNormalization": _batch_norm,
}
"""(node, constant values, which channels they are) -> what the node makes of them."""


def _convolve(node: ir.Node, image: Floats, weight: Floats, around: Floats) -> Floats:
    """Convolve (1, C, H, W), with `around` (C) at the padding, with the geometry of `node`: (O, OH, OW)."""
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    _, channels, height, width = image.shape
    padded = np.empty((1, channels, top + height + bottom, left + width + right), np.float32)
    padded[...] = around[:, None, None]
    padded[:, :, top : top + height, left : left + width] = image
    y = torch.nn.functional.conv2d(
        torch.from_numpy(padded),
        torch.from_numpy(np.array(weight)),
        stride=tuple(node.attributes.get_ints("strides", (1, 1))),
        dilation=tuple(node.attributes.get_ints("dilations", (1, 1))),
    )
    result: Floats = y[0].numpy()
    return result


def _uniform(image: Floats) -> Floats | None:
    """Return (O) if the map (O, OH, OW) has one value per channel."""
    corner = image[:, 0, 0]
    return corner if (image == corner[:, None, None]).all() else None


def _shape(value: ir.Value) -> tuple[Any, ...]:
    return tuple(value.shape or ())
