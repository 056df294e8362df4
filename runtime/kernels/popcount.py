"""Counting mismatches, the bits in which activations and weights differ, on CPUs with a popcount of bytes.

Lanes are pixels. A byte of activations holds 8 input channels of one pixel, a byte of weights the same 8 channels of
one output channel, spread over all lanes: XOR, popcount and addition count 8 channels of as many pixels as a vector has
bytes. After at most 30 steps the sums, which fit a byte until then, are added to the counts of 16 bits.

Padding is 0, so a padded tap adds the ones of its weights; runtime/ort takes them off again at the borders.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.runtime.kernels.specs import POPCOUNT8, KernelSpec
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, begin, cast, integer, load, parameters, spread, store

UNROLLED = POPCOUNT8.multiple  # steps in one turn of the loop: one alone is predicted to be 10 % slower
CHUNK = 30  # steps of 8 channels are counted in a byte: 30 * 8 <= 255


Sums = list[list[Any]]
"""A vector of bytes for each row of a block, an output channel or a pixel, and for each vector of lanes."""

Step = tuple[list[Any], Callable[[int], Any]]
"""The byte of each row of a block, spread over a vector, and a vector of lanes."""


def count(spec: KernelSpec) -> Any:
    """Count the differing bits of one tile of pixels and any number of output channels.

    The tables, which look-ups need, are not read.

    The activations of step k of the tile's first pixel lie at blocked[offsets[k]], the other pixels behind it; the
    weights of a channel are `steps` bytes. mismatches is (channels, spec.tile_lanes).
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "count")
        vectors, channels, steps = parameters("vectors", "channels", "steps")
        blocked = T.arg("blocked", T.buffer((ANY_SIZE,), "uint8", align=1))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=1))
        T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=1))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        lanes = spec.vector_bytes

        def count_block(wide: int, together: int, first: Any) -> None:
            sums = _new_sums(spec, together, wide)

            def load_step(step: Any, at: Any) -> Step:
                rows = [weights[(first + channel) * steps + step] for channel in range(together)]
                bits = [T.Bind(spread(row, lanes)) for row in rows]
                return bits, lambda vector: load(blocked, at + vector * lanes, lanes)

            with _chunks(steps) as chunk:
                _count_chunk(spec, sums, chunk, steps, offsets, load_step)
                _store_mismatches(spec, sums, chunk, first, mismatches)

        for wide, together in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then():
                _in_blocks(channels, together, partial(count_block, wide))
    return builder.get()


def count_channels(spec: KernelSpec) -> Any:
    """Count the same with the roles exchanged: lanes are output channels, and pixels come in pairs.

    weights is (steps, vectors * vector_bytes), the channels of one output channel in each byte. The activations of
    step k of pair p are the two bytes of codes[offsets[k] + positions[p]]. mismatches is (2 * pairs, spec.tile_lanes).
    A chunk of the weights is used for all pairs before the next one: it stays in the first-level cache.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "count_channels")
        vectors, pairs, steps = parameters("vectors", "pairs", "steps")
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=64))
        codes = T.arg("codes", T.buffer((ANY_SIZE,), "uint16", align=2))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        positions = T.arg("positions", T.buffer((ANY_SIZE,), "int32", align=4))
        T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=16))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        lanes = spec.vector_bytes

        def count_block(wide: int, together: int, first: Any, chunk: Any) -> None:
            sums = _new_sums(spec, 2 * together, wide)
            pixels = [T.Bind(positions[first + pair]) for pair in range(together)]

            def load_step(step: Any, at: Any) -> Step:
                both = [T.Bind(codes[at + pixel]) for pixel in pixels]
                rows = [T.Cast("uint8", one) for code in both for one in (code & T.uint16(0xFF), code >> T.uint16(8))]
                bits = [T.Bind(spread(row, lanes)) for row in rows]
                return bits, lambda vector: load(weights, (step * wide + vector) * lanes, lanes)

            _count_chunk(spec, sums, chunk, steps, offsets, load_step)
            _store_mismatches(spec, sums, chunk, first * 2, mismatches)

        for wide, rows in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then(), _chunks(steps) as chunk:
                _in_blocks(pairs, max(1, rows // 2), partial(count_block, wide, chunk=chunk))
    return builder.get()


def _new_sums(spec: KernelSpec, rows: int, vectors: int) -> Sums:
    return [[T.alloc_buffer((spec.vector_bytes,), "uint8") for _ in range(vectors)] for _ in range(rows)]


def _chunks(steps: Any) -> Any:
    return T.serial(0, tirx.floordiv(steps + (CHUNK - 1), integer(CHUNK)))


def _in_blocks(rows: Any, together: int, count_block: Callable[..., None]) -> None:
    blocks = T.Bind(tirx.floordiv(rows, integer(together)))
    with T.serial(0, blocks) as block:
        count_block(together=together, first=block * together)
    if together > 1:
        with T.serial(0, rows - blocks * together) as row:
            count_block(together=1, first=blocks * together + row)


def _count_chunk(
    spec: KernelSpec, sums: Sums, chunk: Any, steps: Any, offsets: Any, load_step: Callable[[Any, Any], Step]
) -> None:
    """Count the steps of a chunk, whose sums fit a byte."""
    first = T.Bind(chunk * CHUNK)
    for buffer in (buffer for row in sums for buffer in row):
        _set(buffer, spread(T.uint8(0), spec.vector_bytes))
    with T.serial(0, tirx.floordiv(T.min(integer(CHUNK), steps - first), integer(UNROLLED))) as i:
        step = T.Bind(first + i * UNROLLED)
        at = [T.Bind(offsets[step + j]) for j in range(UNROLLED)]
        for j in range(UNROLLED):
            _count_step(sums, *load_step(step + j, at[j]), spec.side_by_side)


def _count_step(sums: Sums, bits: list[Any], load_vector: Callable[[int], Any], side_by_side: int) -> None:
    """Add the mismatches of 8 input channels."""
    for vector in range(len(sums[0])):
        x = T.Bind(load_vector(vector))
        for some in range(0, len(sums), side_by_side):
            # A core that runs in order waits for each result that the next instruction needs.
            those = slice(some, some + side_by_side)
            differing = [T.Bind(x ^ w) for w in bits[those]]
            counted = [T.Bind(tirx.popcount(each)) for each in differing]
            for row, ones in zip(sums[those], counted, strict=True):
                _set(row[vector], _get(row[vector]) + ones)


def _store_mismatches(spec: KernelSpec, sums: Sums, chunk: Any, first_row: Any, mismatches: Any) -> None:
    with T.If(chunk == 0):
        with T.Then():
            _add_mismatches(spec, sums, first_row, mismatches, adding=False)
        with T.Else():
            _add_mismatches(spec, sums, first_row, mismatches, adding=True)


def _add_mismatches(spec: KernelSpec, sums: Sums, first_row: Any, mismatches: Any, *, adding: bool) -> None:
    """Write the sums of a block, or add them to what was written before."""
    lanes = spec.vector_bytes
    for i, row in enumerate(sums):
        for vector, buffer in enumerate(row):
            at = (first_row + i) * spec.tile_lanes + vector * lanes
            total = cast("uint16", _get(buffer), lanes)
            store(mismatches, at, load(mismatches, at, lanes) + total if adding else total, lanes)


def _get(buffer: Any) -> Any:
    """Return a buffer that is one vector."""
    return load(buffer, integer(0), buffer.shape[0].value)


def _set(buffer: Any, value: Any) -> None:
    store(buffer, integer(0), value, buffer.shape[0].value)
