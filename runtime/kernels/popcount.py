"""Counting mismatches, the bits in which activations and weights differ, on CPUs with a popcount of bytes.

Lanes are pixels. A byte of activations holds 8 input channels of one pixel, a byte of weights the same 8 channels of
one output channel, spread over all lanes: XOR, popcount and addition count 8 channels of as many pixels as a vector has
bytes. After at most 30 steps the sums, which fit a byte until then, are added to the counts of 16 bits.

Padding is 0, so a padded tap adds the ones of its weights; runtime/ort takes them off again at the borders.
"""

from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.runtime.kernels.specs import POPCOUNT8, KernelSpec, function_name
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, cast, integer, load, parameters, spread, store

UNROLLED = POPCOUNT8.multiple  # steps in one turn of the loop: one alone is predicted to be 10 % slower
CHUNK = 30  # steps of 8 channels are counted in a byte: 30 * 8 <= 255


@dataclass(frozen=True)
class _Arguments:
    """The parameters that blocks of channels need."""

    steps: Any
    blocked: Any
    offsets: Any
    weights: Any
    mismatches: Any


Sums = list[list[Any]]
"""A vector of bytes for each channel of a block, and for each vector of pixels."""


def count(spec: KernelSpec) -> Any:
    """Count the differing bits of one tile of pixels and any number of output channels.

    The tables, which look-ups need, are not read.

    The activations of step k of the tile's first pixel lie at blocked[offsets[k]], the other pixels behind it; the
    weights of a channel are `steps` bytes. mismatches is (channels, spec.tile_lanes).
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        name = function_name(spec, "count")
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, "global_symbol": name})
        vectors, channels, steps = parameters("vectors", "channels", "steps")
        blocked = T.arg("blocked", T.buffer((ANY_SIZE,), "uint8", align=1))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=1))
        T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=1))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        given = _Arguments(steps, blocked, offsets, weights, mismatches)
        for wide, together in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then():
                blocks = T.Bind(tirx.floordiv(channels, integer(together)))
                with T.serial(0, blocks) as block:
                    _count_block(spec, given, together, wide, block * together)
                if together > 1:
                    with T.serial(0, channels - blocks * together) as channel:
                        _count_block(spec, given, 1, wide, blocks * together + channel)
    return builder.get()


def _count_block(spec: KernelSpec, given: _Arguments, together: int, wide: int, first_channel: Any) -> None:
    """Count `together` channels at `wide` vectors of pixels, in chunks whose sums fit a byte."""
    sums = [[T.alloc_buffer((spec.vector_bytes,), "uint8") for _ in range(wide)] for _ in range(together)]
    with T.serial(0, tirx.floordiv(given.steps + (CHUNK - 1), integer(CHUNK))) as chunk:
        first = T.Bind(chunk * CHUNK)
        for buffer in (buffer for row in sums for buffer in row):
            _set(buffer, spread(T.uint8(0), spec.vector_bytes))
        with T.serial(0, tirx.floordiv(T.min(integer(CHUNK), given.steps - first), integer(UNROLLED))) as i:
            step = T.Bind(first + i * UNROLLED)
            at = [T.Bind(given.offsets[step + j]) for j in range(UNROLLED)]
            for j in range(UNROLLED):
                _count_step(given, sums, first_channel, step + j, at[j], spec.side_by_side)
        with T.If(chunk == 0):
            with T.Then():
                _store_mismatches(spec, given, sums, first_channel, adding=False)
            with T.Else():
                _store_mismatches(spec, given, sums, first_channel, adding=True)


def _count_step(given: _Arguments, sums: Sums, first_channel: Any, step: Any, at: Any, side_by_side: int) -> None:
    """Add the mismatches of 8 input channels, whose activations begin at `at`."""
    lanes = sums[0][0].shape[0].value
    rows = [(first_channel + channel) * given.steps for channel in range(len(sums))]
    bits = [T.Bind(spread(given.weights[row + step], lanes)) for row in rows]
    for vector in range(len(sums[0])):
        x = T.Bind(load(given.blocked, at + vector * lanes, lanes))
        for some in range(0, len(sums), side_by_side):
            # A core that runs in order waits for each result that the next instruction needs.
            those = slice(some, some + side_by_side)
            differing = [T.Bind(x ^ w) for w in bits[those]]
            counted = [T.Bind(tirx.popcount(each)) for each in differing]
            for row, ones in zip(sums[those], counted, strict=True):
                _set(row[vector], _get(row[vector]) + ones)


def _store_mismatches(spec: KernelSpec, given: _Arguments, sums: Sums, first_channel: Any, *, adding: bool) -> None:
    """Write the sums of a block, or add them to what was written before."""
    lanes = spec.vector_bytes
    for channel, row in enumerate(sums):
        for vector, buffer in enumerate(row):
            at = (first_channel + channel) * spec.tile_lanes + vector * lanes
            total = cast("uint16", _get(buffer), lanes)
            store(given.mismatches, at, load(given.mismatches, at, lanes) + total if adding else total, lanes)


def _get(buffer: Any) -> Any:
    """Return a buffer that is one vector."""
    return load(buffer, integer(0), buffer.shape[0].value)


def _set(buffer: Any, value: Any) -> None:
    store(buffer, integer(0), value, buffer.shape[0].value)
