"""Counting mismatches, the bits in which activations and weights differ, on CPUs with a popcount of bytes.

Lanes are pixels. A byte of activations holds 8 input channels of one pixel, a byte of weights the same 8 channels of
one output channel, spread over all lanes: XOR, popcount and addition count 8 channels of as many pixels as a vector has
bytes. After at most 30 steps the sums, which fit a byte until then, are added to the counts of 16 bits.

Padding is 0, so a padded tap adds the ones of its weights; runtime/ort takes them off again at the borders.
"""

from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.runtime.kernels.specs import POPCOUNT8, KernelSpec, function_name
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, cast, integer, load, parameters, spread, store

UNROLLED = POPCOUNT8.multiple  # steps in one turn of the loop: one alone is predicted to be 10 % slower
CHUNK = 30  # steps of 8 channels are counted in a byte: 30 * 8 <= 255


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

        def count_block(together: int, wide: int, first_channel: Any) -> None:
            sums = [[T.alloc_buffer((spec.vector_bytes,), "uint8") for _ in range(wide)] for _ in range(together)]
            with T.serial(0, tirx.floordiv(steps + (CHUNK - 1), integer(CHUNK))) as chunk:
                first = T.Bind(chunk * CHUNK)
                for buffer in (buffer for row in sums for buffer in row):
                    _set(buffer, spread(T.uint8(0), spec.vector_bytes))
                with T.serial(0, tirx.floordiv(T.min(integer(CHUNK), steps - first), integer(UNROLLED))) as i:
                    step = T.Bind(first + i * UNROLLED)
                    at = [T.Bind(offsets[step + j]) for j in range(UNROLLED)]
                    for j in range(UNROLLED):
                        count_step(sums, first_channel, step + j, at[j])
                with T.If(chunk == 0):
                    with T.Then():
                        store_mismatches(sums, first_channel, adding=False)
                    with T.Else():
                        store_mismatches(sums, first_channel, adding=True)

        def count_step(sums: list[list[Any]], first_channel: Any, step: Any, at: Any) -> None:
            lanes = spec.vector_bytes
            rows = [(first_channel + channel) * steps for channel in range(len(sums))]
            bits = [T.Bind(spread(weights[row + step], lanes)) for row in rows]
            for vector in range(len(sums[0])):
                x = T.Bind(load(blocked, at + vector * lanes, lanes))
                for row, w in zip(sums, bits, strict=True):
                    _set(row[vector], _get(row[vector]) + tirx.popcount(x ^ w))

        def store_mismatches(sums: list[list[Any]], first_channel: Any, *, adding: bool) -> None:
            lanes = spec.vector_bytes
            for channel, row in enumerate(sums):
                for vector, buffer in enumerate(row):
                    at = (first_channel + channel) * spec.tile_lanes + vector * lanes
                    total = cast("uint16", _get(buffer), lanes)
                    store(mismatches, at, load(mismatches, at, lanes) + total if adding else total, lanes)

        for wide, together in enumerate(spec.tiles, 1):
            with T.If(vectors == wide), T.Then():
                blocks = T.Bind(tirx.floordiv(channels, integer(together)))
                with T.serial(0, blocks) as block:
                    count_block(together, wide, block * together)
                if together > 1:
                    with T.serial(0, channels - blocks * together) as channel:
                        count_block(1, wide, blocks * together + channel)
    return builder.get()


def _get(buffer: Any) -> Any:
    """Return a buffer that is one vector."""
    return load(buffer, integer(0), buffer.shape[0].value)


def _set(buffer: Any, value: Any) -> None:
    store(buffer, integer(0), value, buffer.shape[0].value)
