"""Counting mismatches, the bits in which activations and weights differ, by look-ups of bytes.

Lanes are pixels. A byte of activations holds C input channels of one pixel, and the same C channels of the weights of
two output channels, w and v, select a row of a table:

    row[x] = popcount(w ^ x) + 16 * popcount(v ^ x)    for x < 2^C

so one byte shuffle looks up C channels, of 2 output channels, of as many pixels as a vector has bytes.

The names say how many channels of how many outputs one look-up counts.

LUT4X2 has C = 4: a row is 16 bytes, which every byte shuffle can look up in. One byte of weights, v above w, selects
one of 256. An index of 0x80 stands for padding; the shuffle gives 0 for it, so that it adds nothing and needs no
correction.

LUT6X2 has C = 6: a row is 64 bytes, a whole vector of AVX-512, and VBMI looks up in it (`vpermb`). There would be 4096
rows, too many for the first-level cache, so each is the sum of two of 64: one of popcount(w ^ x), and one of 16 times
that for v. The look-up ignores the upper bits of an index. Padding is 0, and what it counts is subtracted later.

L look-ups are added in place, 3 with LUT4X2 and 2 with LUT6X2: each nibble of t stays <= 12. Then, with no mask at all,

    S += t        in bytes, modulo 256
    H += t >> 4   in 16-bit lanes, so that a byte of H also takes the low nibble of the odd byte above, times 16

After at most 252 / C steps the mismatches are below 256, and S and H determine them by substitution, even bytes and odd
bytes of each 16-bit lane in turn: H.odd is the odd byte's high count; S.odd - 16 H.odd its low count; H.even - 16 times
that is the even byte's high count; S.even - 16 times that its low count (all modulo 256).

NEON shifts bytes, and adds in the same instruction (`usra`). There H += t >> 4 is in bytes, H the high count of each,
and S - 16 H the low count.
"""

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.runtime.kernels.specs import LUT6X2, KernelSpec
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, begin, integer, parameters

Expression = Any
"""TIR's expressions, buffers and functions: TVM has no types for them."""

COUNTED = 252  # channels whose differing bits are counted in a byte, a multiple of the 12 that L look-ups take


class _Bytes:
    """Vectors of bytes, as wide as the spec has them."""

    def __init__(self, spec: KernelSpec) -> None:
        self.width, self.tile = spec.vector_bytes, spec.tile_lanes
        self.dtype = f"uint8x{self.width}"
        self.pairs_dtype = f"uint16x{self.width // 2}"
        self.shuffle_id = llvm_lookup_intrinsic_id(spec.shuffle)
        self.shifts_bytes = spec.architecture == "aarch64"

    def zero(self) -> Expression:
        return T.broadcast(T.uint8(0), self.width)

    def look_up(self, row: Expression, index: Expression) -> Expression:
        return T.call_llvm_pure_intrin(self.dtype, self.shuffle_id, row, index)

    def _in_pairs(self, x: Expression, operation: Callable[[Expression], Expression]) -> Expression:
        return T.reinterpret(self.dtype, operation(T.reinterpret(self.pairs_dtype, x)))

    def _constant(self, value: int) -> Expression:
        return T.broadcast(T.uint16(value), self.width // 2)

    def right_4(self, x: Expression) -> Expression:
        if self.shifts_bytes:
            return x >> T.broadcast(T.uint8(4), self.width)
        return self._in_pairs(x, lambda y: y >> self._constant(4))

    def left_4(self, x: Expression) -> Expression:
        if self.shifts_bytes:
            return x << T.broadcast(T.uint8(4), self.width)
        return self._in_pairs(x, lambda y: y << self._constant(4))

    def mask(self, x: Expression, value: int) -> Expression:
        return self._in_pairs(x, lambda y: y & self._constant(value))


class _Nibbles:
    """LUT4X2's tables, (rows, 16): the rows of the weights, or of two pixels."""

    weight_bytes = 1  # for each step of a pair of output channels

    def __init__(self, lanes: _Bytes, tables: Expression) -> None:
        self.lanes, self.tables = lanes, tables

    def of_weights(self, weights: Expression, at: Expression) -> Expression:
        return self.of_pixels(weights[at].astype("int32") * 16)

    def of_pixels(self, code: Expression) -> Expression:
        """Load the 16 bytes of a row into every 16 bytes of a vector."""
        row = T.Bind(self.tables.vload([code], "uint8x16"))
        width = self.lanes.width
        return row if width == 16 else T.Bind(T.Shuffle([row] * (width // 16), [T.int32(i) for i in range(width)]))


class _Sixes:
    """LUT6X2's tables, (2, 65, 64): the rows of a first and a second output channel, or pixel; row 64 is padding."""

    weight_bytes = 2
    SECOND = 65 * 64

    def __init__(self, lanes: _Bytes, tables: Expression) -> None:
        self.lanes, self.tables = lanes, tables

    def of_weights(self, weights: Expression, at: Expression) -> Expression:
        return self._sum(*(weights[at + i].astype("int32") for i in range(2)))

    def of_pixels(self, code: Expression) -> Expression:
        return self._sum(code & 0xFF, code >> 8)

    def _sum(self, first: Expression, second: Expression) -> Expression:
        low, high = (self.tables.vload([at], self.lanes.dtype) for at in (first * 64, self.SECOND + second * 64))
        return T.Bind(low + high)


Tables = _Nibbles | _Sixes


class _Accumulators:
    """S and H of a block of `pairs` pairs of channels and `vectors` vectors of pixels."""

    def __init__(self, lanes: _Bytes, pairs: int, vectors: int) -> None:
        self.lanes, self.pairs, self.vectors = lanes, pairs, vectors
        self.at = [T.ramp(tirx.const(0, "int32"), 1, lanes.width)]
        self.buffers = {
            (pair, vector): tuple(T.alloc_buffer((lanes.width,), "uint8") for _ in "SH")
            for pair in range(pairs)
            for vector in range(vectors)
        }

    def clear(self) -> None:
        for both in self.buffers.values():
            for buffer in both:
                T.buffer_store(buffer, self.lanes.zero(), self.at)

    def add(self, block: tuple[int, int], t: Expression) -> None:
        for buffer, value in zip(self.buffers[block], (t, self.lanes.right_4(t)), strict=True):
            T.buffer_store(buffer, self._load(buffer) + value, self.at)

    def counts(self, block: tuple[int, int]) -> tuple[Expression, Expression]:
        """Return the counts of the pair's first and second channel."""
        lanes = self.lanes
        s, h = (self._load(buffer) for buffer in self.buffers[block])
        if lanes.shifts_bytes:
            return T.Bind(s - lanes.left_4(h)), T.Bind(h)
        odd_low = T.Bind(s - lanes.left_4(lanes.mask(h, 0xFF00)))  # its even bytes are still those of S
        high = T.Bind(h - lanes.mask(lanes.right_4(odd_low), 0x00F0))
        low = T.Bind(odd_low - lanes.mask(lanes.left_4(high), 0x00F0))
        return low, high

    def _load(self, buffer: Expression) -> Expression:
        return buffer.vload([tirx.const(0, "int32")], self.lanes.dtype)


def count(spec: KernelSpec) -> Expression:
    """Count the differing bits of one tile of pixels and any number of pairs of output channels.

    The activations of step k of the tile's first pixel lie at blocked[offsets[k]], the other pixels behind it; weights
    is (pairs, steps, weight_bytes), and the number of look-ups that are added in place must divide `steps`. mismatches
    is (2 * pairs, spec.tile_lanes).
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "count")
        vectors, pairs, steps = parameters("vectors", "pairs", "steps")
        blocked = T.arg("blocked", T.buffer((ANY_SIZE,), "uint8", align=1))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=1))
        tables = T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=16))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        lanes = _Bytes(spec)
        rows = _rows(spec, lanes, tables)

        def count_block(wide: int, together: int, first_pair: Expression) -> None:
            sums = _Accumulators(lanes, together, wide)
            with _chunks(spec, steps) as chunk:

                def load_step(step: Expression) -> Step:
                    at = T.Bind(offsets[step])
                    return (
                        lambda pair: rows.of_weights(weights, ((first_pair + pair) * steps + step) * rows.weight_bytes),
                        lambda vector: blocked.vload([at + vector * lanes.width], lanes.dtype),
                    )

                _count_chunk(spec, sums, chunk, steps, load_step)
                _store_mismatches(sums, chunk, first_pair, mismatches)

        for wide, together in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then():
                _in_blocks(pairs, together, partial(count_block, wide))
    return builder.get()


def count_channels(spec: KernelSpec) -> Expression:
    """Count the same with the roles exchanged: lanes are output channels, and pairs of pixels select the tables.

    weights is (steps, vectors * vector_bytes), the channels of one output channel in each byte. The activations of
    step k of pair p are codes[offsets[k] + positions[p]], which select a row; padding selects one where that pixel
    adds nothing. mismatches is (2 * pairs, spec.tile_lanes). A chunk of the weights is used for all pairs before the
    next one: it stays in the first-level cache.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "count_channels")
        vectors, pairs, steps = parameters("vectors", "pairs", "steps")
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=64))
        codes = T.arg("codes", T.buffer((ANY_SIZE,), "uint16", align=2))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        positions = T.arg("positions", T.buffer((ANY_SIZE,), "int32", align=4))
        tables = T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=16))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        lanes = _Bytes(spec)
        rows = _rows(spec, lanes, tables)

        def count_block(wide: int, together: int, chunk: Expression, first_pair: Expression) -> None:
            sums = _Accumulators(lanes, together, wide)
            pixels = [T.Bind(positions[first_pair + pair]) for pair in range(together)]

            def load_step(step: Expression) -> Step:
                at = T.Bind(offsets[step])
                return (
                    lambda pair: rows.of_pixels(codes[at + pixels[pair]].astype("int32")),
                    lambda vector: weights.vload([(step * wide + vector) * lanes.width], lanes.dtype),
                )

            _count_chunk(spec, sums, chunk, steps, load_step)
            _store_mismatches(sums, chunk, first_pair, mismatches)

        for wide, together in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then(), _chunks(spec, steps) as chunk:
                _in_blocks(pairs, together, partial(count_block, wide, chunk=chunk))
    return builder.get()


Step = tuple[Callable[[int], Expression], Callable[[int], Expression]]
"""The table row of a pair, and a vector of indices."""


def _rows(spec: KernelSpec, lanes: _Bytes, tables: Expression) -> Tables:
    return (_Sixes if spec.counting == LUT6X2 else _Nibbles)(lanes, tables)


def _chunk_steps(spec: KernelSpec) -> int:
    return COUNTED // spec.counting.channels


def _chunks(spec: KernelSpec, steps: Expression) -> Any:
    length = _chunk_steps(spec)
    return T.serial(0, tirx.floordiv(steps + (length - 1), integer(length)))


def _in_blocks(pairs: Expression, together: int, count_block: Callable[..., None]) -> None:
    blocks = T.Bind(tirx.floordiv(pairs, together))
    with T.serial(0, blocks) as block:
        count_block(together=together, first_pair=block * together)
    if together > 1:
        with T.serial(0, pairs - blocks * together) as pair:
            count_block(together=1, first_pair=blocks * together + pair)


def _count_chunk(
    spec: KernelSpec,
    sums: _Accumulators,
    chunk: Expression,
    steps: Expression,
    load_step: Callable[[Expression], Step],
) -> None:
    lanes, length, look_ups = sums.lanes, _chunk_steps(spec), spec.counting.multiple
    first = T.Bind(chunk * length)
    sums.clear()
    with T.serial(0, tirx.floordiv(T.min(integer(length), steps - first), integer(look_ups))) as group:
        step = T.Bind(first + group * look_ups)
        loaded = [load_step(step + j) for j in range(look_ups)]
        for pair in range(sums.pairs):
            rows = [row(pair) for row, _ in loaded]
            for vector in range(sums.vectors):
                found = [lanes.look_up(row, x(vector)) for row, (_, x) in zip(rows, loaded, strict=True)]
                sums.add((pair, vector), T.Bind(reduce(operator.add, found)))


def _store_mismatches(sums: _Accumulators, chunk: Expression, first_pair: Expression, mismatches: Expression) -> None:
    with T.If(chunk == 0):
        with T.Then():
            _add_mismatches(sums, first_pair, mismatches, adding=False)
        with T.Else():
            _add_mismatches(sums, first_pair, mismatches, adding=True)


def _add_mismatches(sums: _Accumulators, first_pair: Expression, mismatches: Expression, *, adding: bool) -> None:
    width = sums.lanes.width
    wide = f"uint16x{width}"
    for pair, vector in sums.buffers:
        for channel, value in enumerate(sums.counts((pair, vector))):
            at = ((first_pair + pair) * 2 + channel) * sums.lanes.tile + vector * width
            total = T.Cast(wide, value)
            T.buffer_store(
                mismatches, mismatches.vload([at], wide) + total if adding else total, [T.ramp(at, 1, width)]
            )
