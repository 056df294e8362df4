"""Bits instead of floats: what the layer makes of its mismatches where others read its signs alone."""

from itertools import product
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.script.ir_builder import tirx as T

from bnas_deploy.core.operators import BYTE
from bnas_deploy.runtime.kernels.specs import KernelSpec
from bnas_deploy.runtime.kernels.tir import ANY_SIZE, begin, cast, in_vectors, load, parameters, spread, store

HALF = 4  # channels for which there is a shorter loop
WIDTHS = (64, 32, 16, 8)
"""Pixels at once, each of 16 bits while the channels are compared: no more than two vectors of them."""


def to_bits(spec: KernelSpec) -> Any:
    """Compare sums of signs with constants, and write the bits of each pixel.

    Bit j of bits[i] is 1 where mismatches[j, i] < limits[j], if all these pixels have as many signs under the kernel,
    else where totals[i] - 2 * mismatches[j, i] > limits[j].

    mismatches is (channels, spec.tile_lanes), totals (count), limits (8): channels are at most 8, and the caller's
    limits make bits of 0 of those that are not there. All sums fit in 16 bits. A product with 2 may not: it wraps, as
    does the difference, which is right again.
    """
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        begin(spec, "to_bits")
        channels, count, are_equal = parameters("channels", "count", "are_equal")
        mismatches = T.arg("mismatches", T.buffer((ANY_SIZE,), "uint16", align=2))
        totals = T.arg("totals", T.buffer((ANY_SIZE,), "int16", align=2))
        limits = T.arg("limits", T.buffer((BYTE,), "int16", align=2))
        bits = T.arg("bits", T.buffer((ANY_SIZE,), "uint8", align=1))
        widths = tuple(width for width in WIDTHS if width <= spec.vector_bytes)

        def write(present: int, *, equal: bool) -> None:
            each_limit = [T.Bind(limits[j]) for j in range(present)]

            def write_vector(i: Any, lanes: int) -> None:
                total = None if equal else T.Bind(load(totals, i, lanes))
                found = spread(T.int16(0), lanes)
                for j, limit in enumerate(each_limit):
                    mismatch = cast("int16", load(mismatches, i + j * spec.tile_lanes, lanes), lanes)
                    at = spread(limit, lanes)
                    reaches = at > mismatch if equal else total - (mismatch + mismatch) > at
                    found = found | T.Select(reaches, spread(T.int16(1 << j), lanes), spread(T.int16(0), lanes))
                store(bits, i, cast("uint8", found, lanes), lanes)

            in_vectors(count, widths, write_vector)

        for present, equal in product((HALF, BYTE), (True, False)):
            asked = channels <= HALF if present == HALF else channels > HALF
            with T.If(tirx.all(asked, are_equal == int(equal))), T.Then():
                write(present, equal=equal)
    return builder.get()
