"""The counting alone: what TVM generated against the same algorithm in C intrinsics, `python tests/bench/core.py`.

docs/benchmarks.md says what is measured, and shows a result.
"""

import argparse
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from native_kernels import Counting, NativeKernels, aligned, build, generated_count, runnable_variants, yardstick_count

from bnas_deploy.runtime.kernels.variants import VARIANTS, Variant
from bnas_deploy.runtime.measure import interleave, ratio

INPUTS = (324, 576, 1152, 2304, 4608)  # of one output: 36, 64, 128, 256 and 512 channels under a kernel of 3 x 3
TILES = (1, 2, 3, 4)  # vectors of pixels
PAIRS = 8  # of output channels, as many as runtime/ort/lut2.c takes at once
TAPS = 3
ROW = 57  # bytes from one row of a plane to the next: 56 pixels and their padding
PADDING = 0x80
SAMPLE_OPERATIONS = 200_000_000  # multiply-adds in one timing, some 200 us: longer than a call from Python takes
ROUNDS = 60


def counting(variant: Variant, inputs: int, vectors: int) -> Counting:
    """Make random planes as lut2.c lays them out for a kernel of 3 x 3, read in place, a tenth of them padding."""
    rng = np.random.default_rng(inputs)
    lanes = vectors * variant.vector_bytes
    plane = (TAPS - 1) * ROW + TAPS - 1 + lanes
    planes = aligned(inputs // 4 // TAPS**2 * plane)
    planes[:] = np.where(rng.random(planes.size) < 0.1, PADDING, rng.integers(0, 16, planes.size))
    step = np.arange(inputs // 4)
    offsets = aligned(4 * step.size).view(np.int32)
    offsets[:] = step // TAPS**2 * plane + step % TAPS**2 // TAPS * ROW + step % TAPS
    weights = aligned(PAIRS * step.size)
    weights[:] = rng.integers(0, 256, weights.size)
    return Counting(vectors, PAIRS, planes, offsets, weights, look_up_tables())


def look_up_tables() -> np.ndarray:
    """Return table[weights][x] of runtime/kernels/lut2.py."""
    weights, x = np.arange(256)[:, None], np.arange(16)
    tables = aligned(256 * 16)
    low, high = (np.bitwise_count(nibble ^ x) for nibble in (weights & 15, weights >> 4))
    tables[:] = (low + 16 * high).ravel()
    return tables


def expected(given: Counting, lanes: int) -> np.ndarray:
    """Count bit by bit: (2 * pairs, lanes)."""
    x = given.planes[given.offsets[:, None] + np.arange(lanes)]
    weights = given.weights.reshape(given.pairs, -1)
    nibbles = np.stack([weights & 15, weights >> 4], 1).reshape(2 * given.pairs, -1)
    counts = [np.where(x == PADDING, 0, np.bitwise_count(row[:, None] ^ x)).sum(0) for row in nibbles]
    return np.array(counts)


def check(kernels: NativeKernels, symbol: str, given: Counting, variant: Variant) -> np.ndarray:
    """Return an array that `symbol` has filled with the right counts.

    Raises:
        SystemExit: they are wrong.
    """
    lanes = given.vectors * variant.vector_bytes
    counts = aligned(4 * PAIRS * len(TILES) * variant.vector_bytes).view(np.uint16)
    kernels.repeat_count(1, symbol, given, counts)
    if not np.array_equal(counts.reshape(2 * PAIRS, -1)[:, :lanes], expected(given, lanes)):
        raise SystemExit(f"{symbol} counts wrongly: {given.offsets.size * 4} inputs, {given.vectors} vectors")
    return counts


def row(kernels: NativeKernels, variant: Variant, inputs: int, vectors: int, rounds: int) -> str:
    """Measure one size: a row of the table."""
    given = counting(variant, inputs, vectors)
    operations = inputs * 2 * PAIRS * vectors * variant.vector_bytes
    calls = max(1, SAMPLE_OPERATIONS // operations)
    turns = [
        partial(kernels.repeat_count, calls, symbol, given, check(kernels, symbol, given, variant))
        for symbol in (generated_count(variant), yardstick_count(variant))
    ]
    interleave(turns, min_rounds=2)
    times = interleave(turns, min_rounds=rounds)
    rates = calls * operations / np.median(times, axis=0)
    faster = ratio("C", times[:, 1], times[:, 0])
    return (
        f"| {variant.isa} | {inputs} | {vectors} | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {faster.median:.2f} | {faster.p10:.2f} to {faster.p90:.2f} |"
    )


def main() -> None:
    """Build, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timings of each side for each row")
    parser.add_argument("--isa", nargs="+", choices=[variant.isa for variant in VARIANTS], help="only these")
    options = parser.parse_args()
    print("Counting in one thread, 10^9 multiply-adds per second (medians), and the ratio within each round.\n")
    print("| ISA | inputs | vectors | generated | C | generated / C | 10th to 90th percentile |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        kernels = build(Path(folder))
        variants = [
            variant for variant in runnable_variants(options.isa) if variant.architecture == "x86_64"
        ]  # as count.c
        for variant, inputs, vectors in product(variants, INPUTS, TILES):
            print(row(kernels, variant, inputs, vectors, options.rounds), flush=True)


if __name__ == "__main__":
    main()
