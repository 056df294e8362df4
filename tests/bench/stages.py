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
from bnas_deploy.core.operators import BYTE, Operator
from bnas_deploy.export.opset import max_pool
from bnas_deploy.runtime.bench.layer_problems import LAYERS, problem, same_padding
from bnas_deploy.runtime.bench.samples import interleave, timed
from bnas_deploy.runtime.kernels.specs import KERNEL_SPECS

ROUNDS = 300
OPERATORS = (
    Operator(activation="Relu"),
    Operator(to_bits=True),
    Operator(of_bits=True, activation="Relu"),
    Operator(of_bits=True, to_bits=True),
    Operator(max_pool=True, to_bits=True),
    Operator(of_bits=True, max_pool=True, to_bits=True),
)


def call(kernels: NativeKernels, isa: str, layer: LayerCost, operator: Operator = OPERATORS[0]) -> Call:
    """Make the call of an operator that `bnas-deploy bench-layers` times, after it gave the right result once.

    Those that write bits compare with 0, and those that read bits read the signs of the same image.

    Raises:
        SystemExit: the result is wrong.
    """
    given = problem(layer, batch=1)
    channels_in, channels_out = layer.input[0], layer.output[0]
    levels = np.full(-(-channels_out // BYTE) * BYTE, np.inf, np.float32)
    levels[:channels_out] = np.nextafter(-given.bias / given.scale, np.float32(np.inf))
    inputs = {
        "X": packed(given.x) if operator.of_bits else given.x,
        "W": pack_signs(given.signs.transpose(0, 2, 3, 1)),
        "threshold": np.zeros(channels_in, np.float32),
        "place": np.arange(channels_in, dtype=np.float32),
        "pad": np.zeros(channels_in, np.float32),
        "offset": np.zeros((channels_out, 1, 1), np.float32),
        "scale": given.scale,
        "bias": given.bias,
        "level": levels.reshape(-1, BYTE),
    }
    inputs = {name: inputs[name] for name in operator.inputs}
    attributes = {
        "weight_shape": (channels_out, *layer.kernel, channels_in),
        "strides": layer.stride,
        "pads": [same_padding(layer)] * 4,
        "dilations": layer.dilation,
        "group": 1,
    }
    made = Call(kernels, isa, operator, inputs, attributes, layer.output[1:], allocate=aligned)
    made.run()
    answer = max_pool(given.binary_answer) if operator.max_pool else given.binary_answer
    if not np.array_equal(made.y, packed(np.where(answer > 0, 1, -1)) if operator.to_bits else answer):
        raise SystemExit(f"{isa}: wrong result on {layer.name}")
    return made


def packed(signs: np.ndarray) -> np.ndarray:
    """Pack the channels of images."""
    return np.ascontiguousarray(np.moveaxis(pack_signs(np.moveaxis(signs, 1, -1)), -1, 1))


def row(made: Call, layer: LayerCost, rounds: int) -> str:
    """Measure one layer: a row of the table."""
    runs: list[Ticks] = []
    interleave(timed([made.run], threads=1), min_rounds=3)
    times = interleave(timed([lambda: runs.append(made.run())], threads=1), min_rounds=rounds)
    ticks = {name: np.array([getattr(run, name) for run in runs], float) for name, _ in Ticks._fields_}
    whole = ticks["prepare"] + ticks["pack"] + ticks["k_map"] + ticks["convolve"] + ticks["pool"]
    shares = (
        ticks["prepare"] + ticks["pack"] + ticks["k_map"],  # of a layer without K it is a call, or a preemption
        ticks["convolve"] - ticks["count"] - ticks["epilogue"],
        ticks["count"],
        ticks["epilogue"] + ticks["pool"],
        whole - ticks["count"],
    )
    cells = (f"{100 * np.median(share / whole):.1f}" for share in shares)
    return f"| {layer.name} | {1e-3 * np.median(times.ns):.0f} | {' | '.join(cells)} |"


def main() -> None:
    """Build, check, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="runs of each layer that count")
    parser.add_argument("--isa", nargs="+", choices=[spec.isa for spec in KERNEL_SPECS], help="only these")
    names = {operator.name: operator for operator in OPERATORS}
    parser.add_argument("--operator", choices=names, default=OPERATORS[0].name)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kernels = build(Path(folder))
        for spec in runnable_specs(options.isa):
            print(f"\n{options.operator}, {spec.isa}, one thread: percent of the time (medians).\n")
            print("| layer | us | pack | gather and the rest | count | epilogue | all but count |")
            print("|---|---|---|---|---|---|---|")
            for layer in LAYERS:
                print(row(call(kernels, spec.isa, layer, names[options.operator]), layer, options.rounds), flush=True)


if __name__ == "__main__":
    main()
