"""The kernels that count: what of the C functions' memory the algorithm reads, and a schedule for each size of tile."""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.runtime.kernels.algorithm import Code, Operands, count_mismatches
from bnas_deploy.runtime.kernels.schedule import Tile, schedule
from bnas_deploy.runtime.kernels.specs import LUT4X2, LUT6X2, POPCOUNT8, Counting, KernelSpec
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, begin, integer, parameters

PIXELS = 2  # in a pair of them
PAIR_CODES = {LUT4X2: Code(16, 17), LUT6X2: Code(1, 256), POPCOUNT8: Code(1, 256)}
"""Of two pixels, each with one value more than its signs have, for padding; LUT4X2's is where their row begins."""

WEIGHT_CODES = {**PAIR_CODES, LUT4X2: Code(16, 16)}
"""Of two output channels, or of one: weights have no padding."""


def count(spec: KernelSpec) -> Any:
    """Count the mismatches of one tile of pixels, which are the lanes, and any number of output channels.

    A group are the `outputs` channels whose weights share a byte, or with LUT6X2 two bytes: weights is (groups, steps).
    The activations of step k of the tile's first pixel lie at blocked[offsets[k]], the other pixels behind it.
    mismatches is (groups * outputs, spec.tile_lanes).
    """
    counting = spec.counting
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "count")
        vectors, groups, steps = parameters("vectors", "groups", "steps")
        blocked = T.arg("blocked", T.buffer((ANY_SIZE,), "uint8", align=1))
        offsets = T.arg("offsets", T.buffer((ANY_SIZE,), "int32", align=4))
        weights = T.arg("weights", T.buffer((ANY_SIZE,), "uint8", align=1))
        tables = T.arg("tables", T.buffer((ANY_SIZE,), "uint8", align=16))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))

        def operands(first: Any, groups: Any, lanes: int) -> Operands:
            return Operands(
                groups,
                counting.outputs,
                lanes,
                steps,
                WEIGHT_CODES[counting],
                lambda group, step: _weight_code(counting, weights, (first + group) * steps + step),
                lambda step, lane: blocked[offsets[step] + lane],
                tables,
                mismatches,
                lambda group, member, lane: ((first + group) * counting.outputs + member) * spec.tile_lanes + lane,
            )

        tiles = [Tile(wide, bytes_) for wide, bytes_ in enumerate(spec.tiles, 1)]
        _count_in_tiles(spec, tiles, vectors, groups, operands)
    return schedule(builder.get(), spec, tiles, WEIGHT_CODES[counting])


def _weight_code(counting: Counting, weights: Any, at: Any) -> Any:
    if counting == LUT6X2:
        first, second = (T.Cast("uint16", weights[at * 2 + i]) for i in range(2))
        return first + second * T.uint16(256)
    return T.Cast("uint16", weights[at]) * T.uint16(WEIGHT_CODES[counting].unit)


def count_channels(spec: KernelSpec) -> Any:
    """Count the same with the roles exchanged: lanes are output channels, and rows are pairs of pixels.

    weights is (steps, vectors * vector_bytes), the signs of one output channel in each byte. The activations of step k
    of pair p are codes[offsets[k] + positions[p]]. mismatches is (2 * pairs, spec.tile_lanes).
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

        def operands(first: Any, pairs: Any, lanes: int) -> Operands:
            return Operands(
                pairs,
                PIXELS,
                lanes,
                steps,
                PAIR_CODES[spec.counting],
                lambda pair, step: codes[offsets[step] + positions[first + pair]],
                lambda step, lane: weights[step * lanes + lane],
                tables,
                mismatches,
                lambda pair, pixel, lane: ((first + pair) * PIXELS + pixel) * spec.tile_lanes + lane,
            )

        tiles = [
            Tile(wide, max(1, bytes_ * spec.counting.outputs // PIXELS)) for wide, bytes_ in enumerate(spec.tiles, 1)
        ]
        _count_in_tiles(spec, tiles, vectors, pairs, operands)
    return schedule(builder.get(), spec, tiles, PAIR_CODES[spec.counting])


def _count_in_tiles(
    spec: KernelSpec, tiles: list[Tile], vectors: Any, groups: Any, operands: Callable[[Any, Any, int], Operands]
) -> None:
    """Write the algorithm once for the blocks of groups of each tile, and once for the groups that are left."""
    for tile in tiles:
        lanes = tile.vectors * spec.vector_bytes
        with T.If(vectors == tile.vectors), T.Then():
            in_blocks = tirx.floordiv(groups, integer(tile.groups)) * tile.groups
            count_mismatches(tile.name, spec.counting, operands(integer(0), in_blocks, lanes))
            if tile.rest:
                rest = T.Bind(groups - in_blocks)  # a name, or TVM takes what remains of two for a single group
                count_mismatches(tile.rest.name, spec.counting, operands(in_blocks, rest, lanes))
