"""A binary convolution that signs alone read writes them as bits: its float result is never made."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.core.bits import pack_signs, unpack_signs
from bnas_deploy.core.operators import BYTE, Operator, bits_of_channels, operator, with_changes
from bnas_deploy.export.graph import (
    activations_of,
    array_of,
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    is_recorded,
    replace_operator,
    sole_consumer,
)
from bnas_deploy.export.opset import epilogue
from bnas_deploy.export.written_bits import BITS, Bits

Floats = NDArray[np.float32]

CHANNELS = 64
"""Channels whose epilogue is computed for all accumulators at once: a few megabytes."""


@dataclass(frozen=True)
class Levels:
    """When the result of a layer reaches thresholds: where its accumulator, or its negative, reaches levels.

    Attributes:
        level: of each threshold and channel, (sets, O) float32; -inf is reached always, inf never.
        negated: channels whose accumulator is negated first, (O).
    """

    level: Floats
    negated: NDArray[np.bool_]


class WriteBits:
    """BinaryConv2dRelu -> BinaryConv2d becomes BinaryConv2dToBits -> BinaryConv2dOfBits.

    It needs packed weights. What the float formula makes of every accumulator that there can be is computed and
    compared with the threshold of the reader, so the comparison of the accumulator is exact for all of them.

    A MaxPool of 2x2 pixels between both becomes a part of it: some of four numbers is at least t where their maximum
    is, so the bits are pooled instead.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the binary convolutions whose result nothing but binary convolutions read.

        The last comes first: a reader that was replaced would be no site any more.
        """
        nodes = [node for node in model.graph if is_binary_conv(node) and _signs_alone_read(_compared(node))]
        return reversed(nodes)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the result stays float."""
        row, readers, pool = operator(node.op_type), _readers(node), _pool_behind(node)
        if row.k_map or row.gate or row.before or row.added:
            return f"{node.op_type} computes more than its accumulator says"
        if pool is not None and not takes_pairs(pool):
            return f"{pool.name} takes another maximum than that of 2x2 pixels with stride 2, without padding"
        if with_changes(_bare(row), max_pool=pool is not None, to_bits=True) is None:
            pools = ", pools" if pool is not None else ""
            return f"no operator does what {node.op_type} does{pools} and writes bits"
        if not all(map(_is_known, activations_of(node))):
            return "PyTorch's program has no value of its own for what it reads"
        if node.attributes.get_int("group", 1) != 1:
            return "no operator of groups writes bits"
        for reader in readers:
            if with_changes(operator(reader.op_type), of_bits=True) is None:
                return f"no operator does what {reader.op_type} does and reads bits"
        if levels_of(node, _thresholds(readers)) is None:
            return "what it makes of its accumulator neither rises nor falls in some channel"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Write a set of bits for each threshold, and read it."""
        readers = _readers(node)
        thresholds = _thresholds(readers)
        levels = levels_of(node, thresholds)
        assert levels is not None
        _write(model, node, levels, thresholds)
        for reader in readers:
            number = list(map(np.ndarray.tobytes, thresholds)).index(_threshold(reader).tobytes())
            _read(model, reader, number * bits_of_channels(len(levels.negated)))


def levels_of(node: ir.Node, thresholds: Floats) -> Levels | None:
    """Return when the result of a binary convolution with packed weights is at least `thresholds`, (sets, O).

    The operator's own meaning computes it for every accumulator that there can be. None where the answer changes more
    than once in some channel, as behind a PReLU of negative slope, or to and fro for two thresholds.
    """
    row = operator(node.op_type)
    named = {each.name: constant_array(input_of(node, each.name)) for each in row.constants}
    of_channels = {name: data for name, data in named.items() if name not in ("W", "threshold", "place", "pad")}
    _, height, width, channels = node.attributes.get_ints("weight_shape")
    sums = np.arange(-height * width * channels, height * width * channels + 1)
    found = []
    for first in range(0, thresholds.shape[1], CHANNELS):
        some = slice(first, first + CHANNELS)
        here = {name: data[some] for name, data in of_channels.items()}
        found.append(_levels_of_some(row, sums, here, thresholds[:, some]))
    known = [each for each in found if each is not None]
    if len(known) < len(found):
        return None
    return Levels(*(np.concatenate(parts, axis=-1) for parts in zip(*map(_parts, known), strict=True)))


def _parts(levels: Levels) -> tuple[Floats, NDArray[np.bool_]]:
    return levels.level, levels.negated


def _levels_of_some(
    row: Operator, sums: NDArray[np.int64], named: Mapping[str, Floats], thresholds: Floats
) -> Levels | None:
    accumulator = sums + named["offset"].reshape(-1, 1)  # (O, sums), whole numbers
    y = epilogue(row, accumulator[None, :, None], named)[0, :, 0]
    reached = y >= thresholds[..., None]  # (sets, O, sums)
    changes = np.diff(reached.astype(np.int8))
    falls, rises = (np.asarray((way * changes > 0).any(axis=(0, 2))) for way in (-1, 1))
    if (falls & rises).any():
        return None
    order = np.where(falls[:, None], -accumulator[:, ::-1], accumulator)
    in_order = np.where(falls[:, None], reached[..., ::-1], reached)
    first = np.take_along_axis(order[None], in_order.argmax(axis=-1, keepdims=True), axis=-1)[..., 0]
    level = np.where(reached.all(axis=-1), -inf, np.where(reached.any(axis=-1), first, inf))
    return Levels(level.astype(np.float32), falls)


def _pool_behind(node: ir.Node) -> ir.Node | None:
    """Return the maximum that is all that reads the result of a binary convolution, if there is one."""
    reader = sole_consumer(node.outputs[0])
    return reader if reader is not None and _is_pool(reader) else None


def _is_pool(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type == "MaxPool" and len(node.outputs) == 1


_PAIRS = {"kernel_shape": [2, 2], "strides": [2, 2], "pads": [0, 0, 0, 0], "dilations": [1, 1]}
_DEFAULTS = {"strides": [1, 1], "pads": [0, 0, 0, 0], "dilations": [1, 1]}


def takes_pairs(pool: ir.Node) -> bool:
    """Tell whether a maximum or mean is of 2x2 pixels side by side, and leaves out a last row or column of its own."""
    found = {name: list(pool.attributes.get_ints(name, _DEFAULTS.get(name, ()))) for name in _PAIRS}
    if found != _PAIRS or pool.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return False
    x = pool.inputs[0]
    sizes = [] if x is None or x.shape is None else list(x.shape)[2:]
    even = len(sizes) == 2 and all(isinstance(size, int) and size % 2 == 0 for size in sizes)
    return even or not pool.attributes.get_int("ceil_mode", 0)


def _compared(node: ir.Node) -> ir.Value:
    """Return what readers of a binary convolution compare with their thresholds: its result, or the maximum of it."""
    return (_pool_behind(node) or node).outputs[0]


def _is_known(value: ir.Value) -> bool:
    """Tell whether PyTorch has a value, or one that a maximum is taken of, which rounds nothing."""
    maker = value.producer()
    x = maker.inputs[0] if maker is not None and _is_pool(maker) else None
    return is_recorded(value) or (x is not None and is_recorded(x))


def _signs_alone_read(value: ir.Value) -> bool:
    uses = list(value.uses())
    return bool(uses) and not value.is_graph_output() and all(_reads_signs(node, place) for node, place in uses)


def _reads_signs(node: ir.Node, place: int) -> bool:
    return is_binary_conv(node) and not operator(node.op_type).k_map and place < len(activations_of(node))


def _readers(node: ir.Node) -> list[ir.Node]:
    return list(_compared(node).consumers())


def _threshold(reader: ir.Node) -> Floats:
    return constant_array(input_of(reader, "threshold"))


def _thresholds(readers: Iterable[ir.Node]) -> Floats:
    """Return those that differ, (sets, O), in the order of their readers."""
    return np.stack(list({each.tobytes(): each for each in map(_threshold, readers)}.values()))


def _bare(row: Operator) -> Operator:
    """Return the operator that has the same X, and nothing behind its accumulator."""
    return Operator(parts=row.parts, of_bits=row.of_bits)


def _write(model: ir.Model, node: ir.Node, levels: Levels, thresholds: Floats) -> None:
    """Put what writes bits in the place of a node."""
    pool = _pool_behind(node)
    row = with_changes(_bare(operator(node.op_type)), max_pool=pool is not None, to_bits=True)
    assert row is not None
    sets, channels = thresholds.shape
    signs = unpack_signs(constant_array(input_of(node, "W")), node.attributes.get_ints("weight_shape")[3])
    signs[levels.negated] *= -1
    offset = constant_array(input_of(node, "offset")) * np.where(levels.negated, -1, 1).reshape(-1, 1, 1)
    level = np.full((sets, bits_of_channels(channels)), inf, np.float32)
    level[:, :channels] = levels.level
    inputs = {
        "W": constant(model.graph, f"{node.name}.W", pack_signs(signs)),
        "offset": constant(model.graph, f"{node.name}.offset", offset.astype(np.float32)),
        "level": constant(model.graph, f"{node.name}.level", level.reshape(-1, BYTE)),
    }
    note = Bits(_alone(node), thresholds, row.max_pool)
    shape = _compared(node).shape
    bits = replace_operator(node, row, inputs, pool or node)
    bits.meta[BITS] = note
    value = bits.outputs[0]
    assert shape is not None
    value.name = f"{value.name}.bits"
    value.type = ir.TensorType(ir.DataType.UINT8)
    value.shape = ir.Shape([shape[0], level.size // BYTE, *shape[2:]])


def _alone(node: ir.Node) -> ir.Node:
    """Return a node like `node` that is in no graph and reads constants alone."""
    values = [None if array_of(value) is None else value for value in node.inputs]
    inputs = [value and ir.Value(name=value.name, const_value=value.const_value) for value in values]
    old = node.outputs[0]
    output = ir.Value(name=old.name, shape=old.shape, type=old.type)
    output.meta.update(old.meta)
    alone = ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=[output], name=node.name)
    alone.meta.update(node.meta)
    return alone


def _read(model: ir.Model, reader: ir.Node, first: int) -> None:
    """Let `reader` read bits, those of a set that begins with bit `first` of each pixel."""
    row = with_changes(operator(reader.op_type), of_bits=True)
    assert row is not None
    place = first + np.arange(len(_threshold(reader)))
    inputs = {"place": constant(model.graph, f"{reader.name}.place", place.astype(np.float32))}
    replace_operator(reader, row, inputs, reader)
