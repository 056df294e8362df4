"""What is monotone per channel in front of a sign becomes a comparison of what the first of it reads."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    UNRECORDED,
    activations_of,
    channels_of,
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    is_recorded,
    set_input,
    sole_consumer,
)
from bnas_deploy.export.passes.channelwise import channel_function
from bnas_deploy.export.passes.shapes import is_reshape
from bnas_deploy.export.passes.threshold import Floats, threshold_of


class FoldIntoThreshold:
    """BN, sum, product, Clip, PReLU, ... -> binary convolution: the sign is a comparison of what the first one reads.

    A chain of functions that rise or fall in each channel rises or falls. So the x whose sign behind the chain is +1
    lie on one side of a threshold, which bisection finds with PyTorch's own arithmetic. A maximum commutes with what
    rises, max(f(a), f(b)) = f(max(a, b)), and concatenation with everything: both are done on what is read instead.

    Where the comparison is flipped, the weights of that input channel are negated: sign(f(x)) * w = -sign(x) * w. So is
    what padded taps hold in that channel, (-p) * (-w) = p * w; a 0 there is 0 either way.

    Other readers keep the chain. What they keep is read where it lies, and only what signs alone read is left out: what
    stands in front of it may become part of the operator that makes it; see `_may_pass`.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the binary convolutions that read such a chain, or what would be one but for one thing."""
        return (node for node in model.graph if is_binary_conv(node) and _is_site(node))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the chain is kept."""
        if _uses_k(node):
            return "the K map needs the normalised activations, not only their signs"
        chain = _chain_of(node)
        return None if chain.nodes else chain.reason

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution read what the chain reads."""
        chain = _chain_of(node)
        threshold = threshold_of(chain.function, constant_array(input_of(node, "threshold")))
        signs = constant_array(input_of(node, "W")).copy()
        group = node.attributes.get_int("group", 1)
        by_group = signs.reshape(group, -1, *signs.shape[1:])  # (G, O/G, C/G, KH, KW)
        channels = len(threshold.flip) // group  # those of X; constant channels are behind them
        by_group[:, :, :channels] *= np.where(threshold.flip, -1, 1).astype(np.float32).reshape(group, 1, -1, 1, 1)
        if operator(node.op_type).pads_signs:
            pad = np.where(threshold.flip, -1, 1).astype(np.float32) * constant_array(input_of(node, "pad"))
            set_input(node, "pad", constant(model.graph, f"{node.name}.pad", pad))
        set_input(node, "threshold", constant(model.graph, f"{node.name}.threshold", threshold.level))
        set_input(node, "W", constant(model.graph, f"{node.name}.signs", signs))
        set_input(node, "X", chain.build(node))


@dataclass(frozen=True)
class _Chain:
    """How a value comes from what a convolution would read instead.

    Attributes:
        function: what the value is for numbers of what is read, (C) or (C, n), each channel by itself.
        build: gives what is read; new nodes are put in front of the node that it is given.
        nodes: functions that are left out.
        reason: why the nearest of them is not, where it might have been.
    """

    function: Callable[[Floats], Floats]
    build: Callable[[ir.Node], ir.Value]
    nodes: int = 0
    reason: str | None = None


def _is_site(node: ir.Node) -> bool:
    if len(activations_of(node)) > 1:
        return False
    if _uses_k(node):
        return channel_function(input_of(node, "X").producer()) is not None
    chain = _chain_of(node)
    return chain.nodes > 0 or chain.reason is not None


def _uses_k(node: ir.Node) -> bool:
    return "K" in operator(node.op_type).pieces


def _chain_of(node: ir.Node) -> _Chain:
    """Return the chain in front of a binary convolution."""
    return _trace(input_of(node, "X"), rising=False)


def _end(value: ir.Value, reason: str | None = None) -> _Chain:
    return _Chain(lambda x: x, lambda reader: value, reason=reason)


def _trace(value: ir.Value, *, rising: bool) -> _Chain:
    """Follow `value` back as far as its signs can be told; with `rising` only through functions that rise."""
    node = value.producer()
    if node is None or node.domain != "":
        return _end(value)
    if node.op_type == "Concat" and node.attributes.get_int("axis", 0) == CHANNEL_AXIS:
        return _trace_concat(value, node, rising=rising)
    if node.op_type == "MaxPool" and len(node.outputs) == 1:
        return _trace_pool(value, node)
    if is_reshape(node):
        return _trace_reshape(value, node, rising=rising)
    function = channel_function(node)
    if function is None or _costs_nothing(node, function.x) or not _may_pass(value, function.x):
        return _end(value)
    if not is_recorded(value):
        return _end(value)  # PyTorch may compute it in one step with what follows, and round once
    if not function.is_monotone:
        return _end(value, f"{node.name} neither rises nor falls in some channel")
    if rising and not function.rises.all():
        reason = f"{node.name} falls in some channel, and a maximum stands behind it"
        return _end(value, None if _takes_in(function.x.producer()) else reason)
    before = _trace(function.x, rising=rising)
    return _Chain(lambda x: function(before.function(x)), before.build, before.nodes + 1)


def _trace_concat(value: ir.Value, node: ir.Node, *, rising: bool) -> _Chain:
    parts = [part for part in node.inputs if part is not None]
    chains = [_trace(part, rising=rising) for part in parts]
    count = sum(chain.nodes for chain in chains)
    if not count:
        return _end(value, next((chain.reason for chain in chains if chain.reason), None))
    borders = np.cumsum([channels_of(part) for part in parts])[:-1]

    def function(x: Floats) -> Floats:
        pieces = zip(chains, np.split(x, borders), strict=True)
        return np.concatenate([chain.function(piece) for chain, piece in pieces])

    return _Chain(function, lambda reader: _again(node, [chain.build(reader) for chain in chains], reader), count)


def _trace_pool(value: ir.Value, node: ir.Node) -> _Chain:
    x = node.inputs[0]
    assert x is not None
    if not _only_signs(value):
        return _end(value)  # it is computed anyway; doing it once more costs more than what it saves
    before = _trace(x, rising=True)
    if not before.nodes:
        return _end(value, before.reason)
    return _Chain(before.function, lambda reader: _again(node, [before.build(reader)], reader), before.nodes)


def _trace_reshape(value: ir.Value, node: ir.Node, *, rising: bool) -> _Chain:
    """Pass over axes of one element that come or go behind the channels, and over images that become vectors."""
    x = node.inputs[0]
    pixels = None if x is None else _pixels_per_channel(x, value)
    if x is None or pixels is None:
        return _end(value)
    before = _trace(x, rising=rising)
    if not before.nodes:
        return _end(value, before.reason)

    def function(numbers: Floats) -> Floats:
        return before.function(numbers.reshape(len(numbers) // pixels, -1)).reshape(numbers.shape)

    rest = list(node.inputs[1:])
    return _Chain(function, lambda reader: _again(node, [before.build(reader), *rest], reader), before.nodes)


def _pixels_per_channel(x: ir.Value, y: ir.Value) -> int | None:
    """Return how many channels of y, each of one element, hold one of x; None if y has other channels than these."""
    if x.shape is None or y.shape is None or min(len(x.shape), len(y.shape)) < 2 or x.shape[0] != y.shape[0]:
        return None
    sizes = [size for size in (*x.shape[1:], *y.shape[1:]) if isinstance(size, int)]
    if len(sizes) != len(x.shape) + len(y.shape) - 2:
        return None
    pixels = prod(sizes[1 : len(x.shape) - 1])
    return pixels if sizes[len(x.shape) - 1 :] == [sizes[0] * pixels, *[1] * (len(y.shape) - 2)] else None


def _again(node: ir.Node, inputs: Sequence[ir.Value | None], reader: ir.Node) -> ir.Value:
    """Return what a node of the attributes of `node` makes of other inputs, from a new node in front of `reader`."""
    old = node.outputs[0]
    output = ir.Value(name=f"{old.name}.before_{reader.name}", shape=old.shape, type=old.type)
    output.meta[UNRECORDED] = True  # PyTorch applies the functions first
    fresh = ir.Node("", node.op_type, inputs, node.attributes.values(), outputs=[output], name=str(output.name))
    assert reader.graph is not None
    reader.graph.insert_before(reader, fresh)
    return output


# --- what is worth leaving out --------------------------------------------------------------------------------------


def _may_pass(value: ir.Value, x: ir.Value) -> bool:
    """Tell whether a sign should be taken of `x` rather than of `value`, which a function of channels makes of it.

    If signs alone read `value`, it should: the function goes. If not, both stay, and to read `x` saves nothing. Where x
    is kept anyway it costs nothing, and leaves the function to its other readers, such as a float convolution that
    takes it in. But where only the function reads x, and what makes x could take the function in, such as a convolution
    or a sum, a second reader would keep them apart.
    """
    maker = x.producer()
    if _only_signs(value) or maker is None or sole_consumer(x) is None:
        return True
    return not (_takes_in(maker) or channel_function(maker) is not None)


def _costs_nothing(node: ir.Node, x: ir.Value) -> bool:
    """Tell whether a Relu becomes part of the convolution that makes its input, with a BN between them or not.

    onnxruntime does so with float ones. Left out, it would save nothing, and a binary operator would have another name,
    for which a device has no latency.
    """
    maker = x.producer()
    if node.op_type != "Relu" or sole_consumer(x) is None or maker is None:
        return False
    between = channel_function(maker) if maker.op_type == "BatchNormalization" else None
    return is_binary_conv(maker) or maker.op_type == "Conv" if between is None else _costs_nothing(node, between.x)


def _takes_in(maker: ir.Node | None) -> bool:
    """Tell whether a function of channels behind `maker` may become part of it."""
    return maker is not None and (is_binary_conv(maker) or maker.op_type in _TAKING)


_TAKING = frozenset({"Add", "Conv", "Gemm", "MatMul", "Mul"})


def _only_signs(value: ir.Value) -> bool:
    """Tell whether all that is read of `value` are its signs, behind a chain or not."""
    uses = list(value.uses())
    return bool(uses) and not value.is_graph_output() and all(_reads_signs(node, place) for node, place in uses)


def _reads_signs(node: ir.Node, place: int) -> bool:
    if is_binary_conv(node):
        return not _uses_k(node) and place < len(activations_of(node))
    function = channel_function(node)
    passes = function.is_monotone if function is not None else _passes_signs(node)
    return passes and _only_signs(node.outputs[0])


def _passes_signs(node: ir.Node) -> bool:
    if node.domain == "" and node.op_type == "Concat":
        return node.attributes.get_int("axis", 0) == CHANNEL_AXIS
    if is_reshape(node):
        x = node.inputs[0]
        return x is not None and _pixels_per_channel(x, node.outputs[0]) is not None
    return node.domain == "" and node.op_type == "MaxPool" and len(node.outputs) == 1
