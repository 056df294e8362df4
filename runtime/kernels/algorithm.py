"""What counting computes, whatever the instruction set: schedule.py says in which order.

A kernel counts mismatches, the bits in which activations and weights differ. One side of them are *rows*, which come
one after the other, the other side *lanes*, which fill vectors: output channels and pixels, or pixels and output
channels. A *step* is one tap of the kernel and as many input channels as share a byte. So a convolution is

    mismatches[row, lane] = sum over steps of popcount(signs[row, step] ^ signs[step, lane])

and the inner product of the signs is the number of channels that were compared less twice that.

Rows come in groups of `members`, whose signs share a code: two output channels whose weights a look-up takes at once,
or a pixel and the next one.

Padding is zero: a value past the signs of its channels, which adds nothing. Where a byte has no such value, padding is
the byte 0, and runtime/ort subtracts later what that counts.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.core.operators import BYTE
from bnas_deploy.runtime.kernels.specs import Counting
from bnas_deploy.runtime.kernels.tir import integer

MOST_IN_BYTE = 255


@dataclass(frozen=True)
class Code:
    """How the signs of a group's rows are one number: unit * (first + radix * second)."""

    unit: int
    radix: int

    def value(self, code: Any, member: Any) -> Any:
        """Return the signs of one row of the group."""
        place = T.Select(member == 0, T.uint16(self.unit), T.uint16(self.unit * self.radix))
        return T.Cast("uint8", tirx.floormod(tirx.floordiv(code, place), T.uint16(self.radix)))


@dataclass(frozen=True)
class Operands:
    """The two sides, and where the counts go."""

    groups: Any  # of rows
    members: int  # rows of a group
    lanes: int
    steps: Any  # a multiple of what the way of counting takes at a time
    code: Code
    codes: Callable[[Any, Any], Any]  # by group and step
    lane_bytes: Callable[[Any, Any], Any]  # by step and lane
    tables: Any  # what a schedule may look up in, instead of counting
    mismatches: Any
    place: Callable[[Any, Any, Any], Any]  # in mismatches, by group, member and lane


def chunk_steps(counting: Counting) -> int:
    """Return after how many steps the counts may no longer fit a byte: a multiple of what is taken at a time."""
    return MOST_IN_BYTE // counting.channels // counting.multiple * counting.multiple


def ones(counting: Counting, row: Any, lane: Any) -> Any:
    """Count the mismatches of a byte of signs: the one definition, for algorithm and look-ups."""
    differing = tirx.popcount(row ^ lane)
    if counting.channels == BYTE:  # every value stands for signs
        return differing
    signs = T.uint8(1 << counting.channels)
    return T.Select(tirx.all(row < signs, lane < signs), differing, T.uint8(0))


def count_mismatches(name: str, counting: Counting, sides: Operands) -> None:
    """Sum the mismatches of chunks of steps in bytes, and the chunks in 16 bits."""
    length = chunk_steps(counting)
    chunks = tirx.floordiv(sides.steps + (length - 1), integer(length))
    with T.serial(0, chunks) as i, T.sblock(f"chunk_{name}"):
        chunk = T.axis.spatial(chunks, i)
        first = chunk * length
        # The product tells TVM what divides the steps, so that a schedule can split them with nothing left.
        turns = tirx.floordiv(T.min(integer(length), sides.steps - first), integer(counting.multiple))
        steps = turns * counting.multiple
        codes = _buffer("codes", (sides.groups, length), "uint16")
        lane_bytes = _buffer("lane_bytes", (length, sides.lanes), "uint8")
        sums = _buffer("sums", (sides.groups, sides.members, sides.lanes), "uint8")

        with T.grid(sides.groups, steps) as at, T.sblock(f"codes_{name}"):
            group, step = T.axis.remap("SS", at)
            T.buffer_store(codes, sides.codes(group, first + step), [group, step])
        with T.grid(steps, sides.lanes) as at, T.sblock(f"lane_bytes_{name}"):
            step, lane = T.axis.remap("SS", at)
            T.buffer_store(lane_bytes, sides.lane_bytes(first + step, lane), [step, lane])
        with T.grid(sides.groups, sides.members, sides.lanes, steps) as at, T.sblock(f"sums_{name}"):
            group, member, lane, step = T.axis.remap("SSSR", at)
            T.reads(codes[group, step], lane_bytes[step, lane], whole(sides.tables))
            T.writes(sums[group, member, lane])
            with T.init():
                T.buffer_store(sums, T.uint8(0), [group, member, lane])
            found = ones(counting, sides.code.value(codes[group, step], member), lane_bytes[step, lane])
            T.buffer_store(sums, sums[group, member, lane] + found, [group, member, lane])
        with T.grid(sides.groups, sides.members, sides.lanes) as at, T.sblock(f"mismatches_{name}"):
            group, member, lane = T.axis.remap("SSS", at)
            T.axis.reduce(chunks, chunk)  # whose first begins with 0
            place = sides.place(group, member, lane)
            with T.init():
                T.buffer_store(sides.mismatches, T.uint16(0), [place])
            count = T.Cast("uint16", sums[group, member, lane])
            T.buffer_store(sides.mismatches, sides.mismatches[place] + count, [place])


def whole(buffer: Any) -> Any:
    """Return all of a buffer, as a region to read or to write."""
    return buffer[tuple(slice(0, length) for length in buffer.shape)]


def _buffer(name: str, shape: tuple[Any, ...], dtype: str) -> Any:
    buffer = T.sblock_alloc_buffer(shape, dtype)
    IRBuilder.name(name, buffer)
    return buffer
