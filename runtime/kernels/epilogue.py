"""The epilogue: from mismatches to the operator's output."""

from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.core.operators import ACTIVATIONS, MOST_ADDED, constant
from bnas_deploy.runtime.kernels.specs import KernelSpec, function_name
from bnas_deploy.runtime.kernels.tir import (
    ANY_SIZE,
    WIDTHS,
    cast,
    in_vectors,
    integer,
    load,
    parameters,
    spread,
    store,
)

NO_ACTIVATION, RELU, PRELU = (ACTIVATIONS.index(name) for name in ("", "Relu", "PRelu"))
PLAIN, ADDED, GENERAL = range(3)  # of K, offsets and additions, the epilogue does none, additions, anything
TOGETHER = 4  # channels that the epilogue takes through one loop: more would write to lines that displace each other


@dataclass(frozen=True)
class _Arguments:
    """The parameters of the kernel, in their order."""

    channels: Any
    count: Any
    activation: Any
    k_map: Any
    offset_stride: Any
    added: Any
    y_stride: Any
    mismatches: Any
    totals: Any
    offset: Any
    scale: Any
    bias: Any
    slope: Any
    k: Any
    added_inputs: tuple[Any, ...]
    y: Any


@dataclass(frozen=True)
class _Channel:
    """The values of one channel; slope and offset only where the loop needs them."""

    scale: Any
    bias: Any
    slope: Any
    offset: Any
    offset_start: Any  # of its part of a map of offsets
    start: Any  # of its part of y and of what is added


@dataclass(frozen=True)
class _Loop:
    """What a loop over elements does: with which activation, and how much of the rest (PLAIN, ADDED or GENERAL)."""

    activation: int
    extent: int

    @property
    def general(self) -> bool:
        return self.extent == GENERAL


def epilogue(spec: KernelSpec) -> Any:
    """Turn mismatches into outputs, with the roundings of docs/operators.md in their order.

    mismatches is (channels, spec.tile_lanes), totals and k (count). y, and as many of added1, added2 and so on as
    `added` says, are (channels, y_stride). offset is neutral throughout where offset_stride is 0, a number per channel
    where it is 1, else a number per channel and element of mismatches, (channels, offset_stride). The sum of the signs
    is total - 2 * mismatches.

    Most calls are PLAIN or ADDED. What GENERAL leaves out it multiplies by 1 or adds as 0, which changes no bit: a sum
    of signs is never -0.0.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        name = function_name(spec, "epilogue")
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        given = _arguments()
        is_general = tirx.any(given.k_map == 1, given.offset_stride > 0)
        asked = T.Bind(T.Select(is_general, integer(GENERAL), T.min(given.added, integer(ADDED))))
        whole = T.Bind(tirx.floordiv(given.channels, integer(TOGETHER)))
        for kind, extent in product((NO_ACTIVATION, RELU, PRELU), (PLAIN, ADDED, GENERAL)):
            loop = _Loop(kind, extent)
            with T.If(tirx.all(given.activation == kind, asked == extent)), T.Then():
                with T.serial(0, whole) as block:
                    _write_channels(spec, given, loop, block * TOGETHER, TOGETHER)
                with T.serial(0, given.channels - whole * TOGETHER) as rest:
                    _write_channels(spec, given, loop, whole * TOGETHER + rest, 1)
    return builder.get()


def _arguments() -> _Arguments:
    """Declare the parameters."""
    names = [field.name for field in fields(_Arguments)]
    sizes, vectors = names[: names.index("mismatches")], names[names.index("offset") : names.index("added_inputs")]
    return _Arguments(
        **dict(zip(sizes, parameters(*sizes), strict=True)),
        mismatches=T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=2)),
        totals=T.arg("totals", T.buffer((ANY_SIZE,), "int32", align=4)),
        **{name: _floats(name) for name in vectors},
        added_inputs=tuple(_floats(f"added{i + 1}") for i in range(MOST_ADDED)),
        y=_floats("y"),
    )


def _floats(name: str) -> Any:
    return T.arg(name, T.buffer((ANY_SIZE,), "float32", align=4))


def _write_channels(spec: KernelSpec, given: _Arguments, loop: _Loop, first: Any, together: int) -> None:
    """Write `together` channels from `first` on, in one loop over their elements."""
    has_map = T.Bind(given.offset_stride > 1) if loop.general else None
    channels = [_channel(given, loop, first + j) for j in range(together)]
    mismatches_start = T.Bind(T.Cast("int64", first * spec.tile_lanes))

    def write_vector(i: Any, lanes: int) -> None:
        i = T.Bind(T.Cast("int64", i))  # LLVM adds 64 bits to a pointer without an instruction of its own
        total = T.Bind(load(given.totals, i, lanes))
        one = spread(T.float32(1), lanes)
        k = T.Bind(T.if_then_else(given.k_map == 1, load(given.k, i, lanes), one)) if loop.general else None
        for j, channel in enumerate(channels):
            at = T.Bind(channel.start + i)
            mismatches = load(given.mismatches, mismatches_start + i + j * spec.tile_lanes, lanes)
            sum_of_signs = total - cast("int32", mismatches, lanes) * spread(integer(2), lanes)
            value = cast("float32", sum_of_signs, lanes)
            if loop.general:
                value = T.Bind(value + spread(channel.offset, lanes))
                from_map = value + load(given.offset, channel.offset_start + i, lanes)
                value = T.if_then_else(has_map, from_map, value)
            value = _rounded(value * spread(channel.scale, lanes), lanes)
            if loop.general:
                value = _rounded(value * k, lanes)
            value = T.Bind(value + spread(channel.bias, lanes))
            value = T.Bind(_activated(loop.activation, value, channel.slope, lanes))
            store(given.y, at, _with_added(given, loop, value, at, lanes), lanes)

    in_vectors(given.count, WIDTHS, write_vector)


def _channel(given: _Arguments, loop: _Loop, channel: Any) -> _Channel:
    """Load the values of a channel."""
    neutral = T.float32(constant("offset").neutral)
    offset = T.if_then_else(given.offset_stride == 1, given.offset[channel], neutral) if loop.general else None
    return _Channel(
        scale=T.Bind(given.scale[channel]),
        bias=T.Bind(given.bias[channel]),
        slope=T.Bind(given.slope[channel]) if loop.activation == PRELU else None,
        offset=T.Bind(offset) if loop.general else None,
        offset_start=T.Bind(T.Cast("int64", channel * given.offset_stride)) if loop.general else None,
        start=T.Bind(T.Cast("int64", channel * given.y_stride)),
    )


def _with_added(given: _Arguments, loop: _Loop, value: Any, at: Any, lanes: int) -> Any:
    """Add the tensors that the call has; a loop that is ADDED has at least one."""
    if loop.extent == PLAIN:
        return value
    for index, added in enumerate(given.added_inputs):
        total = value + load(added, at, lanes)
        is_there = loop.extent == ADDED and index == 0
        value = T.Bind(total if is_there else T.if_then_else(given.added > index, total, value))
    return value


def _activated(activation: int, value: Any, slope: Any, lanes: int) -> Any:
    zero = spread(T.float32(0), lanes)
    if activation == RELU:
        return T.Select(value < zero, zero, value)  # NaN stays NaN, as in onnxruntime's Relu
    if activation == PRELU:
        return T.Select(value < zero, _rounded(spread(slope, lanes) * value, lanes), value)
    return value


def _rounded(product_: Any, lanes: int) -> Any:
    """Keep the rounding of a product: TVM lets LLVM fuse it with the addition that follows, the operators do not."""
    fence = llvm_lookup_intrinsic_id("llvm.arithmetic.fence")
    return T.call_llvm_pure_intrin(f"float32x{lanes}" if lanes > 1 else "float32", fence, product_)
