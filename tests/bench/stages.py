"""Where the time of a binary convolution goes: packing, counting, epilogue, `python tests/bench/stages.py`.

The library's own C runs in one thread, without onnxruntime, with a clock around each stage and around the generated
functions inside the last. docs/benchmarks.md shows a result.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from native_kernels import Call, NativeKernels, Ticks, aligned, build, runnable_specs

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.operators import Operator
from bnas_deploy.runtime.bench.layer_problems import LAYERS, problem, same_padding
from bnas_deploy.runtime.bench.samples import interleave, timed
from bnas_deploy.runtime.kernels.specs import KERNEL_SPECS

ROUNDS = 300
OPERATOR = Operator(activation="Relu")


def call(kernels: NativeKernels, isa: str, layer: LayerCost) -> Call:
    """Make the call of `OPERATOR` that `bnas-deploy bench-layers` times, after it gave the right result once.

    Raises:
        SystemExit: the result is wrong.
    """
    given = problem(layer, batch=1)
    channels_in, channels_out = layer.input[0], layer.output[0]
    inputs = {
        "X": given.x,
        "W": pack_signs(given.signs.transpose(0, 2, 3, 1)),
        "threshold": np.zeros(channels_in, np.float32),
        "offset": np.zeros((channels_out, 1, 1), np.float32),
        "scale": given.scale,
        "bias": given.bias,
    }
    attributes = {
        "weight_shape": (channels_out, *layer.kernel, channels_in),
        "strides": layer.stride,
        "pads": [same_padding(layer)] * 4,
        "dilations": layer.dilation,
        "group": 1,
    }
    made = Call(kernels, isa, OPERATOR, inputs, attributes, layer.output[1:], allocate=aligned)
    made.run()
    if not np.array_equal(made.y, given.binary_answer):
        raise SystemExit(f"{isa}: wrong result on {layer.name}")
    return made


def row(made: Call, layer: LayerCost, rounds: int) -> str:
    """Measure one layer: a row of the table."""
    runs: list[Ticks] = []
    interleave(timed([made.run], threads=1), min_rounds=3)
    times = interleave(timed([lambda: runs.append(made.run())], threads=1), min_rounds=rounds)
    ticks = {name: np.array([getattr(run, name) for run in runs], float) for name, _ in Ticks._fields_}
    whole = ticks["prepare"] + ticks["pack"] + ticks["k_map"] + ticks["convolve"]
    shares = (
        ticks["prepare"] + ticks["pack"] + ticks["k_map"],  # of a layer without K it is a call, or a preemption
        ticks["convolve"] - ticks["count"] - ticks["epilogue"],
        ticks["count"],
        ticks["epilogue"],
        whole - ticks["count"],
    )
    cells = (f"{100 * np.median(share / whole):.1f}" for share in shares)
    return f"| {layer.name} | {1e-3 * np.median(times.ns):.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Build, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each layer that count")
    parser.add_argument("--isa", nargs="+", choices=[spec.isa for spec in KERNEL_SPECS], help="only these")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kernels = build(Path(folder))
        for spec in runnable_specs(options.isa):
            print(f"\n{spec.isa}, one thread: percent of the time (medians).\n")
            print("| layer | us | pack | gather and the rest | count | epilogue | all but count |")
            print("|---|---|---|---|---|---|---|")
            for layer in LAYERS:
                print(row(call(kernels, spec.isa, layer), layer, options.rounds), flush=True)


if __name__ == "__main__":
    main()
