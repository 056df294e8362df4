"""What surrounds the counting but the epilogue: packing and pairing of activations, moves of mismatches."""

import operator
from functools import reduce
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T
from tvm.target.codegen import llvm_lookup_intrinsic_id

from bnas_deploy.runtime.kernels.specs import (
    CORRECTIONS,
    LUT4X2,
    LUT6X2,
    MOST_CHANNELS,
    POPCOUNT8,
    SQUARE,
    KernelSpec,
)
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

PAIR_CODES = {LUT4X2: (16, 16 * 17), LUT6X2: (1, 256), POPCOUNT8: (1, 256)}
"""What the first and the second pixel of a pair are multiplied with: LUT4X2's code is where their row begins."""

MERGED = [i // 2 + i % 2 * SQUARE for i in range(2 * SQUARE)]  # lanes of two rows, in turns


def pack(spec: KernelSpec) -> Any:
    """Compare the channels of a byte with their thresholds: bit j of bits[i] is 1 where x[j, i] >= threshold[j].

    x[j] (count) are the channels, which may lie anywhere; those past `channels` are not read.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "pack")
        channels, count = parameters("channels", "count")
        x = [T.arg(f"x{j}", T.buffer((ANY_SIZE,), "float32", align=4)) for j in range(MOST_CHANNELS)]
        threshold = T.arg("threshold", T.buffer((MOST_CHANNELS,), "float32", align=4))
        packed = T.arg("bits", T.buffer((ANY_SIZE,), "uint8", align=1))
        widths = (WIDEST, *WIDTHS) if spec.architecture == "x86_64" and spec.vector_bytes == WIDEST else WIDTHS
        for present in range(1, spec.counting.channels + 1):
            with T.If(channels == present), T.Then():
                thresholds = [T.Bind(threshold[j]) for j in range(present)]

                def pack_vector(i: Any, lanes: int, thresholds: list[Any] = thresholds) -> None:
                    bits_of = _bits_of_masks if lanes == WIDEST else _bits_of_floats
                    store(packed, i, bits_of(x, thresholds, i, lanes), lanes)

                in_vectors(count, widths, pack_vector)
    return builder.get()


def _bits_of_floats(x: list[Any], thresholds: list[Any], i: Any, lanes: int) -> Any:
    """Return the bytes of some pixels, collected in lanes as wide as the floats and narrowed once for all channels."""
    bits = spread(integer(0), lanes)
    for j, each in enumerate(thresholds):
        above = load(x[j], i, lanes) >= spread(each, lanes)
        bits = bits | T.Select(above, spread(integer(1 << j), lanes), spread(integer(0), lanes))
    return cast("uint8", bits, lanes)


WIDEST = 32  # bytes in a vector of AVX2


def _bits_of_masks(x: list[Any], thresholds: list[Any], i: Any, lanes: int) -> Any:
    """Return the same with AVX2, from masks narrowed to bytes: 9 instructions of a channel instead of 12.

    AVX2 narrows within each 16 bytes. What that mixes up is put right once for all channels.
    """
    to_words, to_bytes = map(llvm_lookup_intrinsic_id, ("llvm.x86.avx2.packssdw", "llvm.x86.avx2.packsswb"))
    part = lanes // 4
    masked = []
    for j, each in enumerate(thresholds):
        above = [load(x[j], i + k * part, part) >= spread(each, part) for k in range(4)]
        masks = [T.Select(one, spread(integer(-1), part), spread(integer(0), part)) for one in above]
        words = [T.call_llvm_pure_intrin(f"int16x{lanes // 2}", to_words, *masks[k : k + 2]) for k in (0, 2)]
        mask = T.reinterpret(f"uint8x{lanes}", T.call_llvm_pure_intrin(f"int8x{lanes}", to_bytes, *words))
        masked.append(mask & spread(T.uint8(1 << j), lanes))
    # 4 pixels of each part lie in the lower 16 bytes, the other 4 in the upper.
    order = [16 * half + 4 * k + j for k in range(4) for half in range(2) for j in range(4)]
    return T.Shuffle([T.Bind(reduce(operator.or_, masked))], [T.int32(lane) for lane in order])


def halve(spec: KernelSpec) -> Any:
    """Take every second byte of some rows: halved[row, i] = bytes[row, 2 * i].

    The steps are the bytes from one row to the next. Reads one byte more than it needs.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "halve")
        rows, count, bytes_step, halved_step = parameters("rows", "count", "bytes_step", "halved_step")
        whole = T.arg("bytes", T.buffer((ANY_SIZE,), "uint8", align=1))
        halved = T.arg("halved", T.buffer((ANY_SIZE,), "uint8", align=1))

        with T.serial(0, rows) as row:

            def halve_vector(i: Any, lanes: int) -> None:
                both = load(whole, row * bytes_step + i * 2, 2 * lanes if lanes > 1 else 1)
                even = T.Shuffle([both], [T.int32(2 * j) for j in range(lanes)]) if lanes > 1 else both
                store(halved, row * halved_step + i, even, lanes)

            in_vectors(count, WIDTHS, halve_vector)
    return builder.get()


def encode(spec: KernelSpec) -> Any:
    """Pair pixels: codes[i] is made of pixels[i] and pixels[i + distance], times PAIR_CODES."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "encode")
        count, distance = parameters("count", "distance")
        pixels = T.arg("pixels", T.buffer((ANY_SIZE,), "uint8", align=1))
        codes = T.arg("codes", T.buffer((ANY_SIZE,), "uint16", align=2))

        def encode_vector(i: Any, lanes: int) -> None:
            pair = (cast("uint16", load(pixels, at, lanes), lanes) for at in (i, i + distance))
            parts = (
                x * spread(T.uint16(factor), lanes) for x, factor in zip(pair, PAIR_CODES[spec.counting], strict=True)
            )
            store(codes, i, operator.add(*parts), lanes)

        in_vectors(count, (spec.vector_bytes // 2, *WIDTHS), encode_vector)
    return builder.get()


def correct_padding(spec: KernelSpec) -> Any:
    """Subtract the zero-padding correction: mismatches[channel, i] -= corrections[channel, correction_index[i]].

    There are as many lanes as `vectors` have bytes. mismatches is (channels, spec.tile_lanes), corrections (channels,
    CORRECTIONS): pixels with the same taps in the padding share one.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "correct_padding")
        channels, vectors = parameters("channels", "vectors")
        correction_index = T.arg("correction_index", T.buffer((ANY_SIZE,), "uint16", align=2))
        corrections = T.arg("corrections", T.buffer((ANY_SIZE,), "uint16", align=64))
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=64))
        look_up = llvm_lookup_intrinsic_id("llvm.x86.avx512.permvar.hi.512")
        with T.serial(0, vectors * (spec.vector_bytes // CORRECTIONS)) as some:
            index = T.Bind(load(correction_index, some * CORRECTIONS, CORRECTIONS))
            with T.serial(0, channels) as channel:
                at = T.Bind(channel * spec.tile_lanes + some * CORRECTIONS)
                row = load(corrections, channel * CORRECTIONS, CORRECTIONS)
                correction = T.call_llvm_pure_intrin(f"uint16x{CORRECTIONS}", look_up, row, index)
                store(mismatches, at, load(mismatches, at, CORRECTIONS) - correction, CORRECTIONS)
    return builder.get()


def transpose(spec: KernelSpec) -> Any:
    """Transpose `rows` by `columns` mismatches in squares of SQUARE, which must divide both.

    There are `stride` elements from one row to the next in both.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "transpose")
        rows, columns, stride = parameters("rows", "columns", "stride")
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=16))
        transposed = T.arg("transposed", T.buffer((ANY_SIZE,), "uint16", align=16))
        squares_right, squares_down = (tirx.floordiv(length, integer(SQUARE)) for length in (columns, rows))
        with T.serial(0, squares_right) as right, T.serial(0, squares_down) as down:
            from_, to = (T.Bind((down * stride + right) * SQUARE), T.Bind((right * stride + down) * SQUARE))
            square = [T.Bind(load(mismatches, from_ + i * stride, SQUARE)) for i in range(SQUARE)]
            # Merging each row with the one half a square below moves one bit of the row's number to the column's.
            for _ in range(SQUARE.bit_length() - 1):
                square = [
                    T.Bind(T.Shuffle([square[i], square[i + SQUARE // 2]], [T.int32(j) for j in merged]))
                    for i in range(SQUARE // 2)
                    for merged in (MERGED[:SQUARE], MERGED[SQUARE:])
                ]
            for i, row in enumerate(square):
                store(transposed, to + i * stride, row, SQUARE)
    return builder.get()
