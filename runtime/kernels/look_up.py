"""Counting mismatches by look-ups of bytes: micro-kernels, each declared by its meaning.

A schedule puts them in the place of loops of the algorithm, and TVM checks that these loops are the meaning. That the
body does what the meaning says is derived here, and tested.

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

TVM has no word for S and H. It takes them for the sums of the two rows of a group, from `accumulate` to `decode`. So it
takes the fragments of a GPU for matrices, although their elements lie where only some instructions find them.
"""

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any

from tvm import s_tir, tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.runtime.kernels.algorithm import Code, ones, whole
from bnas_deploy.runtime.kernels.specs import LUT6X2, KernelSpec
from bnas_deploy.runtime.kernels.tir import ANY_SIZE

Expression = Any
"""TIR's expressions, buffers and functions: TVM has no types for them."""

ROWS = 2  # of a group
SECOND = 65 * 64  # where LUT6X2's tables of second rows begin, (2, 65, 64); row 64 is padding


class _Bytes:
    """Vectors of bytes, as wide as the spec has them."""

    def __init__(self, spec: KernelSpec) -> None:
        self.width = spec.vector_bytes
        self.dtype = f"uint8x{self.width}"
        self.pairs_dtype = f"uint16x{self.width // 2}"
        self.shuffle_id = llvm_lookup_intrinsic_id(spec.shuffle)
        self.shifts_bytes = spec.architecture == "aarch64"

    def load(self, buffer: Expression, *at: Any) -> Expression:
        return buffer.vload(list(at), self.dtype)

    def store(self, buffer: Expression, row: int, value: Expression) -> None:
        T.buffer_store(buffer, value, [row, T.ramp(0, 1, self.width)])

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


def accumulate(spec: KernelSpec, code: Code) -> str:
    """Return the name of the micro-kernel that adds up the mismatches of a group, in as many steps as fit a nibble."""
    bytes_, steps, lanes = _Bytes(spec), spec.counting.multiple, spec.vector_bytes

    operands = (
        _Operand("sums", (ROWS, lanes), written=True),
        _Operand("codes", (steps,), "uint16"),
        _Operand("lane_bytes", (steps, lanes)),
        _Operand("tables", (ANY_SIZE,)),
    )

    def meaning(sums: Expression, codes: Expression, lane_bytes: Expression, tables: Expression) -> None:
        with T.grid(ROWS, lanes, steps) as at, T.sblock("sums"):
            row, lane, step = T.axis.remap("SSR", at)
            T.reads(sums[row, lane], codes[step], lane_bytes[step, lane], whole(tables))
            T.writes(sums[row, lane])
            found = ones(spec.counting, code.value(codes[step], row), lane_bytes[step, lane])
            T.buffer_store(sums, sums[row, lane] + found, [row, lane])

    def body(sums: Expression, codes: Expression, lane_bytes: Expression, tables: Expression) -> None:
        rows = (_table_row(spec, bytes_, tables, codes[step]) for step in range(steps))
        found = [bytes_.look_up(row, bytes_.load(lane_bytes, step, 0)) for step, row in enumerate(rows)]
        t = T.Bind(reduce(operator.add, found))
        for row, value in enumerate((t, bytes_.right_4(t))):
            bytes_.store(sums, row, bytes_.load(sums, row, 0) + value)

    return _declare(f"{spec.isa}_accumulate_{code.radix}", operands, meaning, body)


def decode(spec: KernelSpec) -> str:
    """Return the name of the micro-kernel that makes counts of S and H."""
    bytes_, lanes = _Bytes(spec), spec.vector_bytes

    operands = (_Operand("sums", (ROWS, lanes)), _Operand("counts", (ROWS, lanes), read=False, written=True))

    def meaning(sums: Expression, counts: Expression) -> None:
        with T.grid(ROWS, lanes) as at, T.sblock("counts"):
            row, lane = T.axis.remap("SS", at)
            T.buffer_store(counts, sums[row, lane], [row, lane])

    def body(sums: Expression, counts: Expression) -> None:
        s, h = (bytes_.load(sums, row, 0) for row in range(ROWS))
        if bytes_.shifts_bytes:
            low, high = s - bytes_.left_4(h), h
        else:
            odd_low = T.Bind(s - bytes_.left_4(bytes_.mask(h, 0xFF00)))  # its even bytes are still those of S
            high = T.Bind(h - bytes_.mask(bytes_.right_4(odd_low), 0x00F0))
            low = odd_low - bytes_.mask(bytes_.left_4(high), 0x00F0)
        for row, count in enumerate((low, high)):
            bytes_.store(counts, row, count)

    return _declare(f"{spec.isa}_decode", operands, meaning, body)


def _table_row(spec: KernelSpec, bytes_: _Bytes, tables: Expression, code: Expression) -> Expression:
    """Load the row of a table that a code selects."""
    code = T.Cast("int32", code)
    if spec.counting == LUT6X2:
        first, second = code & 0xFF, code >> 8
        return T.Bind(bytes_.load(tables, first * 64) + bytes_.load(tables, SECOND + second * 64))
    # LUT4X2's 16 bytes go into every 16 bytes of a vector.
    row = T.Bind(tables.vload([code], "uint8x16"))
    times = bytes_.width // 16
    return row if times == 1 else T.Bind(T.Shuffle([row] * times, [T.int32(i) for i in range(bytes_.width)]))


@dataclass(frozen=True)
class _Operand:
    """A part of a schedule's buffer, which may lie anywhere."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "uint8"
    read: bool = True
    written: bool = False

    def declare(self) -> Expression:
        handle = T.arg(f"{self.name}_handle", T.handle())
        strides = [*(tirx.Var(f"{self.name}_stride", "int32") for _ in self.shape[:-1]), 1]
        return T.match_buffer(handle, self.shape, self.dtype, strides=strides, offset_factor=1, align=1)


def _declare(name: str, operands: tuple[_Operand, ...], meaning: Callable[..., None], body: Callable[..., None]) -> str:
    """Tell TVM that a body does what a meaning says; it puts one for the other where a schedule asks for it."""
    functions = []
    for part in (meaning, body):
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name(part.__name__)
            buffers = [operand.declare() for operand in operands]
            both = list(zip(operands, buffers, strict=True))
            with T.sblock("root"):
                T.reads(*(whole(buffer) for operand, buffer in both if operand.read))
                T.writes(*(whole(buffer) for operand, buffer in both if operand.written))
                part(*buffers)
        functions.append(builder.get())
    s_tir.TensorIntrin.register(name, *functions, override=True)
    return name
