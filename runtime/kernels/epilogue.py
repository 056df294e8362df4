"""The epilogues of cells and of blocks: from mismatches to the operator's output."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.core.operators import ACTIVATIONS, MOST_ADDED, MOST_BEFORE, constant
from bnas_deploy.runtime.kernels.specs import KernelSpec
from bnas_deploy.runtime.kernels.tir import (
    ANY_SIZE,
    WIDTHS,
    begin,
    cast,
    in_vectors,
    integer,
    load,
    parameters,
    spread,
    store,
)

NO_ACTIVATION, RELU, PRELU, CLIP = (ACTIVATIONS.index(name) for name in ("", "Relu", "PRelu", "Clip"))
TOGETHER = 4  # channels that the epilogue takes through one loop: more would write to lines that displace each other

# How much a loop does besides scale, bias and activation. In the epilogue of cells:
PLAIN = 0  # nothing
ADDED = 1  # additions
GENERAL = 2  # K, offsets, additions
# In that of blocks, an offset for each channel and the second scale and bias, and:
BEFORE = 3  # additions before the activation
BEHIND = 4  # a gate for each channel, additions at the end
ANYTHING = 5  # all of it, and maps of offsets and gates, with so many choices in each vector that it is slow


@dataclass(frozen=True)
class _Arguments:
    """The parameters of both kernels, in their order; `_CELLS` and `_BLOCKS` name those that one has."""

    channels: Any = None
    count: Any = None
    activation: Any = None
    affine: Any = None
    k_map: Any = None
    gate_stride: Any = None
    offset_stride: Any = None
    before: Any = None
    added: Any = None
    y_stride: Any = None
    mismatches: Any = None
    totals: Any = None
    offset: Any = None
    scale: Any = None
    bias: Any = None
    slope: Any = None
    low: Any = None
    high: Any = None
    scale2: Any = None
    bias2: Any = None
    k: Any = None
    gate: Any = None
    before_inputs: tuple[Any, ...] = ()
    added_inputs: tuple[Any, ...] = ()
    y: Any = None


_OF_CELLS = frozenset({"k_map", "k"})
_OF_BLOCKS = frozenset({
    "affine", "gate_stride", "before", "low", "high", "scale2", "bias2", "gate", "before_inputs",
})  # fmt: skip
_TERMS = {"before_inputs": ("before", MOST_BEFORE), "added_inputs": ("added", MOST_ADDED)}
_INTEGERS = frozenset({
    "channels", "count", "activation", "affine", "k_map", "gate_stride", "offset_stride", "before", "added", "y_stride",
})  # fmt: skip


@dataclass(frozen=True)
class _Channel:
    """The values of one channel; those that its loop does not need are None."""

    scale: Any
    bias: Any
    slope: Any
    low: Any
    high: Any
    scale2: Any
    bias2: Any
    gate: Any
    gate_start: Any  # of its part of a map of gates
    offset: Any
    offset_start: Any  # of its part of a map of offsets
    start: Any  # of its part of y and of what is added


@dataclass(frozen=True)
class _Loop:
    """What a loop over elements does: with which activation, and how much of the rest."""

    activation: int
    extent: int

    @property
    def k_map(self) -> bool:
        return self.extent == GENERAL

    @property
    def offset(self) -> bool:
        return self.extent not in (PLAIN, ADDED)

    @property
    def offset_map(self) -> bool:
        return self.extent in (GENERAL, ANYTHING)

    @property
    def gate(self) -> bool:
        return self.extent in (BEHIND, ANYTHING)

    @property
    def before(self) -> bool:
        return self.extent in (BEFORE, ANYTHING)

    @property
    def affine(self) -> bool:
        return self.extent in (BEFORE, BEHIND, ANYTHING)

    @property
    def added(self) -> bool:
        return self.extent not in (PLAIN, BEFORE)

    @property
    def together(self) -> int:
        """Channels that it takes at once."""
        return 1 if self.extent == ANYTHING else TOGETHER

    @property
    def together_singly(self) -> bool:
        """Whether it takes several channels at once even of elements that fill no vector.

        Dense layers are faster so, but where a loop does much it is much code: a fifth of the kernel.
        """
        return self.extent == PLAIN

    @property
    def widths(self) -> tuple[int, ...]:
        """Of its vectors, in elements."""
        return WIDTHS[:1] if self.extent == ANYTHING else WIDTHS


def epilogue(spec: KernelSpec) -> Any:
    """Turn mismatches into outputs of operators of cells, with the roundings of docs/operators.md in their order.

    mismatches is (channels, spec.tile_lanes), totals and k (count). y, and as many of added1, added2 and so on as
    `added` says, are (channels, y_stride). offset is neutral throughout where offset_stride is 0, a number per channel
    where it is 1, else a number per channel and element of mismatches, (channels, offset_stride). The sum of the signs
    is total - 2 * mismatches.

    Most calls are PLAIN or ADDED. What GENERAL leaves out it multiplies by 1 or adds as 0, which changes no bit: a sum
    of signs is never -0.0.
    """
    kinds = product((NO_ACTIVATION, RELU, PRELU), (PLAIN, ADDED, GENERAL))
    return _kernel(spec, "epilogue", _OF_BLOCKS, kinds, _extent_of_cells)


def block_epilogue(spec: KernelSpec) -> Any:
    """Turn mismatches into outputs of operators of blocks, as `epilogue` does for cells.

    As many of before1, before2 and so on as `before` says are (channels, y_stride), too. gate is as offset is: with a
    gate_stride of 0 there is none.

    It is a kernel of its own because most layers have none of it, and every parameter takes time in every call.
    """
    kinds = (*product((RELU, PRELU, CLIP), (BEFORE,)), *product(range(len(ACTIVATIONS)), (BEHIND, ANYTHING)))
    return _kernel(spec, "block_epilogue", _OF_CELLS, kinds, _extent_of_blocks)


def _kernel(
    spec: KernelSpec,
    name: str,
    without: frozenset[str],
    kinds: Iterable[tuple[int, int]],
    extent_of: Callable[[_Arguments], Any],
) -> Any:
    """Return a kernel `without` some parameters, which has a loop for each kind."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, name)
        given = _arguments(without)
        asked = T.Bind(extent_of(given))
        for activation, extent in kinds:
            with T.If(tirx.all(given.activation == activation, asked == extent)), T.Then():
                _write_all(spec, given, _Loop(activation, extent))
    return builder.get()


def _extent_of_cells(given: _Arguments) -> Any:
    is_general = tirx.any(given.k_map == 1, given.offset_stride > 0)
    return T.Select(is_general, integer(GENERAL), T.min(given.added, integer(ADDED)))


def _extent_of_blocks(given: _Arguments) -> Any:
    has_map = tirx.any(given.offset_stride > 1, given.gate_stride > 1)
    before = given.before > 0
    both = tirx.all(before, tirx.any(given.gate_stride > 0, given.added > 0))
    of_channels = T.Select(before, integer(BEFORE), integer(BEHIND))
    return T.Select(tirx.any(has_map, both), integer(ANYTHING), of_channels)


def _arguments(without: frozenset[str]) -> _Arguments:
    """Declare the parameters."""
    given: dict[str, Any] = {}
    for name in (field.name for field in fields(_Arguments) if field.name not in without):
        if name in _INTEGERS:
            (given[name],) = parameters(name)
        elif name in _TERMS:
            prefix, most = _TERMS[name]
            given[name] = tuple(_floats(f"{prefix}{i + 1}") for i in range(most))
        elif name == "mismatches":
            given[name] = T.arg(name, T.buffer((ANY_SIZE,), "uint16", align=2))
        elif name == "totals":
            given[name] = T.arg(name, T.buffer((ANY_SIZE,), "int32", align=4))
        else:
            given[name] = _floats(name)
    return _Arguments(**given)


def _floats(name: str) -> Any:
    return T.arg(name, T.buffer((ANY_SIZE,), "float32", align=4))


def _write_all(spec: KernelSpec, given: _Arguments, loop: _Loop) -> None:
    """Write all channels."""
    if loop.together == 1:
        with T.serial(0, given.channels) as channel:
            _write_channels(spec, given, loop, channel, 1)
        return
    whole = tirx.floordiv(given.channels, integer(loop.together))
    if not loop.together_singly:
        # Fewer elements than the narrowest vector has are left to the loop below.
        whole = T.Select(given.count >= loop.widths[-1], whole, integer(0))
    whole = T.Bind(whole)
    with T.serial(0, whole) as block:
        _write_channels(spec, given, loop, block * loop.together, loop.together)
    with T.serial(0, given.channels - whole * loop.together) as rest:
        _write_channels(spec, given, loop, whole * loop.together + rest, 1)


def _write_channels(spec: KernelSpec, given: _Arguments, loop: _Loop, first: Any, together: int) -> None:
    """Write `together` channels from `first` on, in one loop over their elements."""
    channels = [_channel(given, loop, first + j) for j in range(together)]
    mismatches_start = T.Bind(T.Cast("int64", first * spec.tile_lanes))

    def write_vector(i: Any, lanes: int) -> None:
        i = T.Bind(T.Cast("int64", i))  # LLVM adds 64 bits to a pointer without an instruction of its own
        total = T.Bind(load(given.totals, i, lanes))
        one = spread(T.float32(1), lanes)
        k = T.Bind(T.if_then_else(given.k_map == 1, load(given.k, i, lanes), one)) if loop.k_map else None
        for j, channel in enumerate(channels):
            at = T.Bind(channel.start + i)
            mismatches = load(given.mismatches, mismatches_start + i + j * spec.tile_lanes, lanes)
            sum_of_signs = total - cast("int32", mismatches, lanes) * spread(integer(2), lanes)
            value = cast("float32", sum_of_signs, lanes)
            value = _with_offset(given, loop, channel, value, i, lanes)
            value = _rounded(value * spread(channel.scale, lanes), lanes)
            if loop.k_map:
                value = _rounded(value * k, lanes)
            if loop.gate:
                value = _rounded(value * _gate(given, loop, channel, i, lanes), lanes)
            value = T.Bind(value + spread(channel.bias, lanes))
            if loop.before:
                has_one = loop.extent == BEFORE
                value = _with_terms(given.before_inputs, given.before, value, at, lanes, has_one=has_one)
            value = T.Bind(_activated(loop.activation, value, channel, lanes))
            if loop.affine:
                # TVM's analysis of integer ranges fails on the product of a choice of floats: the fence hides that.
                value = T.Bind(_rounded(value, lanes))
                value = _rounded(value * spread(channel.scale2, lanes), lanes)
                value = T.Bind(value + spread(channel.bias2, lanes))
            if loop.added:
                has_one = loop.extent == ADDED
                value = _with_terms(given.added_inputs, given.added, value, at, lanes, has_one=has_one)
            store(given.y, at, value, lanes)

    in_vectors(given.count, loop.widths, write_vector, fills_one=together > 1 and not loop.together_singly)


def _channel(given: _Arguments, loop: _Loop, channel: Any) -> _Channel:
    """Load the values of a channel."""

    def chosen(condition: Any, name: str, neutral: float) -> Any:
        return T.Bind(T.if_then_else(condition, getattr(given, name)[channel], T.float32(neutral)))

    def start(stride: Any) -> Any:
        return T.Bind(T.Cast("int64", channel * stride))

    def second(name: str) -> Any:
        return chosen(given.affine == 1, name, constant(name).neutral) if loop.affine else None

    def of(activation: int, name: str) -> Any:
        return T.Bind(getattr(given, name)[channel]) if loop.activation == activation else None

    return _Channel(
        scale=T.Bind(given.scale[channel]),
        bias=T.Bind(given.bias[channel]),
        slope=of(PRELU, "slope"),
        low=of(CLIP, "low"),
        high=of(CLIP, "high"),
        scale2=second("scale2"),
        bias2=second("bias2"),
        gate=chosen(given.gate_stride == 1, "gate", 1.0) if loop.gate else None,
        gate_start=start(given.gate_stride) if loop.extent == ANYTHING else None,
        offset=chosen(given.offset_stride == 1, "offset", constant("offset").neutral) if loop.offset else None,
        offset_start=start(given.offset_stride) if loop.offset_map else None,
        start=start(given.y_stride),
    )


def _with_offset(given: _Arguments, loop: _Loop, channel: _Channel, value: Any, i: Any, lanes: int) -> Any:
    if not loop.offset:
        return value
    value = T.Bind(value + spread(channel.offset, lanes))
    if not loop.offset_map:
        return value
    from_map = value + load(given.offset, channel.offset_start + i, lanes)
    return T.if_then_else(given.offset_stride > 1, from_map, value)


def _gate(given: _Arguments, loop: _Loop, channel: _Channel, i: Any, lanes: int) -> Any:
    of_channel = spread(channel.gate, lanes)
    if loop.extent != ANYTHING:
        return of_channel
    return T.if_then_else(given.gate_stride > 1, load(given.gate, channel.gate_start + i, lanes), of_channel)


def _with_terms(terms: tuple[Any, ...], count: Any, value: Any, at: Any, lanes: int, *, has_one: bool) -> Any:
    """Add as many of `terms` as `count` says; at least one where the loop has one."""
    for index, term in enumerate(terms):
        total = value + load(term, at, lanes)
        is_there = has_one and index == 0
        value = T.Bind(total if is_there else T.if_then_else(count > index, total, value))
    return value


def _activated(activation: int, value: Any, channel: _Channel, lanes: int) -> Any:
    zero = spread(T.float32(0), lanes)
    if activation == RELU:
        return T.Select(value < zero, zero, value)  # NaN stays NaN, as in onnxruntime's Relu
    if activation == PRELU:
        return T.Select(value < zero, _rounded(spread(channel.slope, lanes) * value, lanes), value)
    if activation == CLIP:
        low, high = spread(channel.low, lanes), spread(channel.high, lanes)
        not_below = T.Bind(T.Select(value < low, low, value))
        return T.Select(not_below > high, high, not_below)
    return value


def _rounded(product_: Any, lanes: int) -> Any:
    """Keep the rounding of a product: TVM lets LLVM fuse it with the addition that follows, the operators do not."""
    fence = llvm_lookup_intrinsic_id("llvm.arithmetic.fence")
    return T.call_llvm_pure_intrin(f"float32x{lanes}" if lanes > 1 else "float32", fence, product_)
