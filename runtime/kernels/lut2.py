"""LUT2: counting the bits in which activations and weights differ, by look-up.

Lanes are pixels. A byte of activations holds 4 input channels of one pixel, its low nibble; 0x80 stands for padding. A
byte of weights holds the same 4 channels for two output channels, one in each nibble. It selects a table of 16 bytes,

    table[weights][x] = popcount(low nibble ^ x) + 16 * popcount(high nibble ^ x)

so one byte shuffle looks up 4 channels, of 2 output channels, of as many pixels as a vector has bytes. A shuffle gives
0 for an index of 0x80, so that padding adds nothing and needs no correction.

Three look-ups are added in place: each nibble of t stays <= 12. Then, with no mask at all,

    S += t        in bytes, modulo 256
    H += t >> 4   in 16-bit lanes, so that a byte of H also takes the low nibble of the odd byte above, times 16

After at most 63 steps the counts are below 256, and S and H determine them by substitution, even bytes and odd bytes of
each 16-bit lane in turn: H.odd is the odd byte's high count; S.odd - 16 H.odd its low count; H.even - 16 times that is
the even byte's high count; S.even - 16 times that its low count (all modulo 256).
"""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.runtime.kernels.tir import ANY_SIZE, integer, parameters
from bnas_deploy.runtime.kernels.variants import Variant, function_name

Expression = Any
"""TIR's expressions, buffers and functions: TVM has no types for them."""

LOOKUPS = 3  # are added before a nibble could overflow: 3 * 4 <= 15
CHUNK = 63  # steps of 4 channels are counted in a byte: 63 * 4 <= 255
VECTORS = 4  # of pixels in a tile, at most


class _Bytes:
    """Vectors of bytes, as wide as the variant has them."""

    def __init__(self, variant: Variant) -> None:
        self.width = variant.vector_bytes
        self.dtype = f"uint8x{self.width}"
        self.pairs_dtype = f"uint16x{self.width // 2}"
        self.shuffle_id = llvm_lookup_intrinsic_id(variant.shuffle)

    def zero(self) -> Expression:
        return T.broadcast(T.uint8(0), self.width)

    def look_up(self, table: Expression, index: Expression) -> Expression:
        return T.call_llvm_pure_intrin(self.dtype, self.shuffle_id, table, index)

    def load_table(self, tables: Expression, weights: Expression) -> Expression:
        """Load the 16 bytes that a byte of weights selects, into every 16 bytes of a vector."""
        row = T.Bind(tables.vload([weights.astype("int32") * 16], "uint8x16"))
        if self.width == 16:
            return row
        return T.Bind(T.Shuffle([row] * (self.width // 16), [T.int32(i) for i in range(self.width)]))

    def _in_pairs(self, x: Expression, operation: Callable[[Expression], Expression]) -> Expression:
        return T.reinterpret(self.dtype, operation(T.reinterpret(self.pairs_dtype, x)))

    def _constant(self, value: int) -> Expression:
        return T.broadcast(T.uint16(value), self.width // 2)

    def right_4(self, x: Expression) -> Expression:
        return self._in_pairs(x, lambda y: y >> self._constant(4))

    def left_4(self, x: Expression) -> Expression:
        return self._in_pairs(x, lambda y: y << self._constant(4))

    def mask(self, x: Expression, value: int) -> Expression:
        return self._in_pairs(x, lambda y: y & self._constant(value))


class _Accumulators:
    """S and H of a block of `pairs` pairs of channels and `vectors` vectors of pixels."""

    def __init__(self, lanes: _Bytes, pairs: int, vectors: int) -> None:
        self.lanes = lanes
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
        odd_low = T.Bind(s - lanes.left_4(lanes.mask(h, 0xFF00)))  # its even bytes are still those of S
        high = T.Bind(h - lanes.mask(lanes.right_4(odd_low), 0x00F0))
        low = T.Bind(odd_low - lanes.mask(lanes.left_4(high), 0x00F0))
        return low, high

    def _load(self, buffer: Expression) -> Expression:
        return buffer.vload([tirx.const(0, "int32")], self.lanes.dtype)


def count(variant: Variant) -> Expression:
    """Count the differing bits of one tile of pixels and any number of pairs of output channels.

    As C: int count(int vectors, int pairs, int steps, const uint8_t* planes, const int32_t* offsets,
    const uint8_t* weights, const uint8_t* tables, uint16_t* counts).

    The activations of step k of the tile's first pixel lie at planes[offsets[k]], the other pixels behind it; the
    weights of a pair are `steps` bytes, which LOOKUPS must divide. counts is (2 * pairs, VECTORS * vector_bytes).
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        name = function_name(variant, "count")
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        vectors, pairs, steps = parameters("vectors", "pairs", "steps")
        buffers = {
            "planes": T.arg("planes", T.buffer((ANY_SIZE,), "uint8", align=1)),
            "offsets": T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4)),
            "weights": T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=1)),
            "tables": T.arg("tables", T.buffer((256 * 16,), "uint8", align=16)),
            "counts": T.arg("counts", T.buffer((ANY_SIZE,), "uint16", align=64)),
        }
        for wide, together in enumerate(variant.pairs, 1):
            with T.If(vectors == wide), T.Then():
                blocks = T.Bind(tirx.floordiv(pairs, together))
                with T.serial(0, blocks) as block:
                    _count_block(variant, together, wide, block * together, steps, **buffers)
                if together > 1:
                    with T.serial(0, pairs - blocks * together) as pair:
                        _count_block(variant, 1, wide, blocks * together + pair, steps, **buffers)
    return builder.get()


def _count_block(
    variant: Variant,
    pairs: int,
    vectors: int,
    first_pair: Expression,
    steps: Expression,
    *,
    planes: Expression,
    offsets: Expression,
    weights: Expression,
    tables: Expression,
    counts: Expression,
) -> None:
    lanes = _Bytes(variant)
    sums = _Accumulators(lanes, pairs, vectors)
    with T.serial(0, tirx.floordiv(steps + (CHUNK - 1), integer(CHUNK))) as chunk:
        first = T.Bind(chunk * CHUNK)
        sums.clear()
        with T.serial(0, tirx.floordiv(T.min(integer(CHUNK), steps - first), integer(LOOKUPS))) as group:
            step = T.Bind(first + group * LOOKUPS)
            at = [T.Bind(offsets[step + j]) for j in range(LOOKUPS)]
            for pair in range(pairs):
                base = (first_pair + pair) * steps + step
                rows = [lanes.load_table(tables, weights[base + j]) for j in range(LOOKUPS)]
                for vector in range(vectors):
                    x = [planes.vload([at[j] + vector * lanes.width], lanes.dtype) for j in range(LOOKUPS)]
                    found = [lanes.look_up(row, index) for row, index in zip(rows, x, strict=True)]
                    sums.add((pair, vector), T.Bind(found[0] + found[1] + found[2]))
        with T.If(chunk == 0):
            with T.Then():
                _store_counts(sums, first_pair, counts, adding=False)
            with T.Else():
                _store_counts(sums, first_pair, counts, adding=True)


def _store_counts(sums: _Accumulators, first_pair: Expression, counts: Expression, *, adding: bool) -> None:
    width = sums.lanes.width
    wide = f"uint16x{width}"
    for pair, vector in sums.buffers:
        for channel, value in enumerate(sums.counts((pair, vector))):
            at = ((first_pair + pair) * 2 + channel) * (VECTORS * width) + vector * width
            total = T.Cast(wide, value)
            T.buffer_store(counts, counts.vload([at], wide) + total if adding else total, [T.ramp(at, 1, width)])
