"""The counting alone: what TVM generated against the same algorithm in C intrinsics, `python tests/bench/core.py`.

docs/benchmarks.md says what is measured, and shows a result.
"""

import argparse
import math
import tempfile
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from native_kernels import Counting, NativeKernels, aligned, build, generated_count, runnable_specs, yardstick_count

from bnas_deploy.runtime.bench.records import ratio
from bnas_deploy.runtime.bench.samples import interleave, timed
from bnas_deploy.runtime.kernels.specs import KERNEL_SPECS, LUT4X2, LUT6X2, KernelSpec
from bnas_deploy.runtime.kernels.specs import Counting as Way

INPUTS = (324, 576, 1152, 2304, 4608)  # of one output: 36, 64, 128, 256 and 512 channels under a kernel of 3 x 3
TILES = (1, 2, 3, 4)  # vectors of pixels
PAIRS = 8  # of output channels, as many as runtime/ort/blocked.h says
TAPS = 3
ROW = 57  # bytes from one row of a plane to the next: 56 pixels and their padding
SAMPLE_OPERATIONS = 200_000_000  # multiply-adds in one timing, some 200 us: longer than a call from Python takes
ROUNDS = 60


def counting(spec: KernelSpec, inputs: int, vectors: int) -> Counting:
    """Make random activations as blocked_pack.c has them for a kernel of 3 x 3, in place, a tenth of them padding."""
    rng = np.random.default_rng(inputs)
    way = spec.counting
    lanes = vectors * spec.vector_bytes
    plane = (TAPS - 1) * ROW + TAPS - 1 + lanes
    bytes_ = math.ceil(inputs / TAPS**2 / way.channels)
    steps = math.ceil(bytes_ * TAPS**2 / way.multiple) * way.multiple
    blocked = aligned(math.ceil(steps / TAPS**2) * plane)
    values = rng.integers(0, 1 << way.channels, blocked.size)
    blocked[:] = np.where(rng.random(blocked.size) < 0.1, way.padding, values)
    step = np.arange(steps)
    offsets = aligned(4 * steps).view(np.int32)
    offsets[:] = step // TAPS**2 * plane + step % TAPS**2 // TAPS * ROW + step % TAPS
    pairs = rng.integers(0, 1 << way.channels, (PAIRS, steps, 2), np.uint8)
    weights = aligned(PAIRS * steps * (2 if way == LUT6X2 else 1))
    weights[:] = (pairs if way == LUT6X2 else pairs[..., 0] + 16 * pairs[..., 1]).ravel()
    return Counting(vectors, PAIRS, blocked, offsets, weights, look_up_tables(way))


def look_up_tables(way: Way) -> np.ndarray:
    """Return the tables of runtime/kernels/look_up.py."""
    if way == LUT4X2:
        weights, x = np.arange(256)[:, None], np.arange(16)
        rows = np.bitwise_count(weights & 15 ^ x) + 16 * np.bitwise_count(weights >> 4 ^ x)
    else:
        ones = np.bitwise_count(np.arange(64)[:, None] ^ np.arange(64))
        padded = np.concatenate([ones, np.zeros_like(ones[:1])])
        rows = np.stack([padded, 16 * padded])
    tables = aligned(rows.size)
    tables[:] = rows.ravel()
    return tables


def expected(given: Counting, lanes: int, way: Way) -> np.ndarray:
    """Count bit by bit: (2 * pairs, lanes)."""
    x = given.blocked[given.offsets[:, None] + np.arange(lanes)]
    if way == LUT6X2:
        weights = given.weights.reshape(given.pairs, -1, 2).swapaxes(1, 2)
    else:
        weights = np.stack([given.weights & 15, given.weights >> 4]).reshape(2, given.pairs, -1).swapaxes(0, 1)
    rows = weights.reshape(2 * given.pairs, -1)
    ignored = way.padding if way.padding > 0 else None
    return np.array([np.where(x == ignored, 0, np.bitwise_count(row[:, None] ^ x)).sum(0) for row in rows])


def check(kernels: NativeKernels, symbol: str, given: Counting, spec: KernelSpec) -> np.ndarray:
    """Return an array that `symbol` has filled with the right mismatches.

    Raises:
        SystemExit: they are wrong.
    """
    lanes = given.vectors * spec.vector_bytes
    mismatches = aligned(4 * PAIRS * len(TILES) * spec.vector_bytes).view(np.uint16)
    kernels.repeat_count(1, symbol, given, mismatches)
    if not np.array_equal(mismatches.reshape(2 * PAIRS, -1)[:, :lanes], expected(given, lanes, spec.counting)):
        raise SystemExit(f"{symbol} counts wrongly: {given.offsets.size} steps, {given.vectors} vectors")
    return mismatches


def row(kernels: NativeKernels, spec: KernelSpec, inputs: int, vectors: int, rounds: int) -> str:
    """Measure one size: a row of the table."""
    given = counting(spec, inputs, vectors)
    operations = inputs * 2 * PAIRS * vectors * spec.vector_bytes
    calls = max(1, SAMPLE_OPERATIONS // operations)
    turns = [
        partial(kernels.repeat_count, calls, symbol, given, check(kernels, symbol, given, spec))
        for symbol in (generated_count(spec), yardstick_count(spec))
    ]
    interleave(timed(turns, threads=1), min_rounds=2)
    times = interleave(timed(turns, threads=1), min_rounds=rounds)
    rates = calls * operations / np.median(times.ns, axis=0)
    faster = ratio("C", times.of(1), times.of(0))
    return (
        f"| {spec.isa} | {inputs} | {vectors} | {rates[0]:.0f} | {rates[1]:.0f} "
        f"| {faster.median:.2f} | {faster.p10:.2f} to {faster.p90:.2f} |"
    )


def main() -> None:
    """Build, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="timings of each side for each row")
    parser.add_argument("--isa", nargs="+", choices=[spec.isa for spec in KERNEL_SPECS], help="only these")
    options = parser.parse_args()
    print("Counting in one thread, 10^9 multiply-adds per second (medians), and the ratio within each round.\n")
    print("| ISA | inputs | vectors | generated | C | generated / C | 10th to 90th percentile |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        kernels = build(Path(folder))
        specs = [spec for spec in runnable_specs(options.isa) if spec.architecture == "x86_64"]  # as count.c
        for spec, inputs, vectors in product(specs, INPUTS, TILES):
            print(row(kernels, spec, inputs, vectors, options.rounds), flush=True)


if __name__ == "__main__":
    main()
