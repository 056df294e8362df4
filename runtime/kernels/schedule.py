"""How each instruction set runs the algorithm: schedules in TVM's language, every number with its reason.

A tile of sums, some groups of rows by some vectors of lanes, stays in registers while the steps of a chunk go by. Then
it is added to the counts of 16 bits. specs.py has the sizes of the tiles, and why.

The loops keep this order: chunk, block of groups, turn of the steps, and what one turn writes out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tvm import s_tir

from bnas_deploy.runtime.kernels import look_up
from bnas_deploy.runtime.kernels.algorithm import Code
from bnas_deploy.runtime.kernels.specs import POPCOUNT8, KernelSpec

FEW_ROWS = 2
"""Up to so many rows of a tile are counted one after the other."""


@dataclass(frozen=True)
class Tile:
    """What is counted at once: vectors of lanes, and groups of rows."""

    vectors: int
    groups: int

    @property
    def name(self) -> str:
        """Return the end of the names of the algorithm's blocks."""
        return f"{self.vectors}x{self.groups}"

    @property
    def rest(self) -> "Tile | None":
        """Return the tile for the groups that fill no whole one: one at a time."""
        return Tile(self.vectors, 1) if self.groups > 1 else None


def schedule(function: Any, spec: KernelSpec, tiles: Sequence[Tile], code: Code) -> Any:
    """Schedule each tile's part of a function, in which groups of rows have such codes."""
    sch = s_tir.Schedule(function)
    for tile in tiles:
        for each in filter(None, (tile, tile.rest)):
            if spec.counting == POPCOUNT8:
                _count_ones(sch, spec, each)
            else:
                _look_up(sch, spec, each, code)
    return sch.mod["main"]


def _count_ones(sch: Any, spec: KernelSpec, tile: Tile) -> None:
    """Schedule XOR, popcount and addition as they are, on vectors of bytes."""
    codes, lane_bytes, sums, mismatches = _blocks(sch, tile)
    block, *loops = _in_blocks(sch, mismatches, tile)
    _write_out(sch, loops, spec)
    sch.compute_at(sums, block, preserve_unit_loops=True)

    group, member, lane, step = sch.get_loops(sums)[-4:]
    # Two steps in a turn of the loop: with one alone a Cortex-A72 is predicted to be 10 % slower.
    turn, step = sch.split(step, [None, spec.counting.multiple])
    vector, lane = sch.split(lane, [None, spec.vector_bytes])
    # A vector of lanes is loaded once for all rows, and what is counted for one row does not wait for another: cores
    # that run in order need that. Of two rows each is counted in all vectors first, which are loaded together (`ldp`):
    # the 8 vectors of `neon` are predicted to take 3 % less on a Cortex-A72.
    if tile.groups * int(sch.get(member).extent) <= FEW_ROWS:
        sch.reorder(turn, step, group, member, vector, lane)
        sch.compute_at(lane_bytes, step, preserve_unit_loops=True)
    else:
        sch.reorder(turn, step, vector, group, member, lane)
        sch.compute_at(lane_bytes, vector, preserve_unit_loops=True)
    sch.compute_at(codes, turn, preserve_unit_loops=True)
    for loop in (step, vector, group, member, *sch.get_loops(codes)[-2:]):
        sch.unroll(loop)
    sch.vectorize(lane)
    _write_out(sch, sch.get_loops(lane_bytes)[-2:], spec)
    sch.decompose_reduction(sums, turn)


def _look_up(sch: Any, spec: KernelSpec, tile: Tile, code: Code) -> None:
    """Schedule look-ups, each of which counts the signs of a group in as many lanes as a vector has bytes."""
    codes, lane_bytes, sums, mismatches = _blocks(sch, tile)
    block, *loops = _in_blocks(sch, mismatches, tile)
    counts = sch.cache_read(mismatches, 0, "global")  # look_up.decode makes them of the sums
    # A group's counts are added before those of the next are made: all at once they leave the registers.
    sch.compute_at(counts, loops[0], preserve_unit_loops=True)
    sch.compute_at(sums, block, preserve_unit_loops=True)
    _write_out(sch, loops, spec)

    group, member, lane, step = sch.get_loops(sums)[-4:]
    # As many look-ups in a turn of the loop as a nibble of their sum can hold.
    turn, step = sch.split(step, [None, spec.counting.multiple])
    vector, lane = sch.split(lane, [None, spec.vector_bytes])
    sch.reorder(turn, group, vector, member, lane, step)
    # LLVM sees that all groups load the same lanes. Loaded once before them, they leave too few registers for the rows
    # of tables: 137 instead of 113 instructions in the largest loop of `avx512bw`.
    sch.compute_at(codes, group, preserve_unit_loops=True)
    sch.compute_at(lane_bytes, group, preserve_unit_loops=True)
    for loop in (group, vector, *sch.get_loops(codes)[-2:]):
        sch.unroll(loop)
    _write_out(sch, sch.get_loops(lane_bytes)[-2:], spec)
    _write_out(sch, sch.get_loops(sch.decompose_reduction(sums, turn))[-3:], spec)
    sch.tensorize(member, look_up.accumulate(spec, code))

    group, member, lane = sch.get_loops(counts)[-3:]
    vector, lane = sch.split(lane, [None, spec.vector_bytes])
    sch.reorder(group, vector, member, lane)
    sch.unroll(group)
    sch.unroll(vector)
    sch.tensorize(member, look_up.decode(spec))


def _blocks(sch: Any, tile: Tile) -> list[Any]:
    return [sch.get_sblock(f"{name}_{tile.name}") for name in ("codes", "lane_bytes", "sums", "mismatches")]


def _in_blocks(sch: Any, mismatches: Any, tile: Tile) -> tuple[Any, ...]:
    """Take the groups of a tile together."""
    group, member, lane = sch.get_loops(mismatches)
    block, group = sch.split(group, [None, tile.groups])
    return block, group, member, lane


def _write_out(sch: Any, loops: Sequence[Any], spec: KernelSpec) -> None:
    """Leave no loop: all that they do stands one after the other, in vectors of the last one's elements."""
    *outer, lane = loops
    vector, lane = sch.split(lane, [None, spec.vector_bytes])
    for loop in (*outer, vector):
        sch.unroll(loop)
    sch.vectorize(lane)
