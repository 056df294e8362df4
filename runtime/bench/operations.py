"""How long each workload of a network takes on this machine: what `bnas-deploy bench-ops` runs.

Every workload is measured as it is in an exported network, in onnxruntime, with the operator library: binary
convolutions with BN, scale and ReLU folded in, float layers as onnxruntime optimises them. A run of onnxruntime costs
some microseconds by itself, as much as a small workload. So a model holds several copies of one, side by side, and

    time of a workload = (time of the model - time of a model that does next to nothing) / copies

All copies read one input, which stays in the cache, as the result of the node before does in a network. The outputs
are each copy's own, because a network writes to a place that it last used some nodes ago, and so are the weights. All
models run in turns, so that a machine that slows down for a while slows all of them. docs/latency.md says how well the
sum over a network agrees with the network.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bits import sign
from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.latency_table import BINARY_CONVOLUTION, RUN, Workload, WorkloadTime
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.engines import OrtRunner
from bnas_deploy.runtime.bench.layer_engines import binary_convolution, conv_attributes
from bnas_deploy.runtime.bench.layer_problems import problem
from bnas_deploy.runtime.bench.samples import MIN_RUNS, PATIENCE, WARMUP_NS, Column, Samples, interleave
from bnas_deploy.runtime.bench.waiting import Stopwatch
from bnas_deploy.runtime.onnx_file.writer import NewNode, Value, model_bytes

MOST_COPIES = 8
LARGE_MACS = 4_000_000
"""A model has fewer copies of float layers that are larger than this: they take long enough by themselves."""

NodesOfCopy = Callable[[str, str, str], list[NewNode]]
"""(name of the input, name of the output, prefix of all other names) -> nodes."""


@dataclass(frozen=True)
class Probe:
    """One workload as nodes of a model.

    `nodes` returns those of one copy, from the input `x` to the output `y`, with `prefix` before all other names;
    `constants` are of one copy, by their names without the prefix. `x` (N, C, H, W) float32 is what it reads, `answer`
    what it has to give, and `tolerance` by how much it may be off: by nothing, where nothing rounds on the way.
    """

    nodes: NodesOfCopy
    constants: Mapping[str, NDArray[Any]]
    x: NDArray[np.float32]
    answer: NDArray[np.float32]
    copies: int = MOST_COPIES
    tolerance: float = 0.0


@dataclass(frozen=True)
class _Running:
    workload: Workload
    copies: int
    runner: OrtRunner = field(repr=False)


def measure_workloads(
    workloads: Sequence[Workload],
    *,
    threads: int,
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> list[WorkloadTime]:
    """Measure every workload, in turns.

    Args:
        workloads: to measure; `RUN` is measured in any case.
        threads: threads that share the work of one operator.
        batch: images per run.
        min_seconds: how long to measure, at least.
        on_step: is told what is being done, for people who wait.

    Raises:
        RuntimeLibraryError: the operator library cannot be used, or an operation gives a wrong result.
    """
    with temporary_folder() as folder:
        on_step(f"making {len(workloads)} operations and checking their results")
        running = [
            _open(workload, batch, threads, folder) for workload in (RUN, *(each for each in workloads if each != RUN))
        ]
        on_step(f"measuring {len(workloads)} operations in turns")
        samples = samples_in_turns([each.runner for each in running], threads, min_seconds)
    return _times(running, samples)


def samples_in_turns(runners: Sequence[OrtRunner], threads: int, min_seconds: float) -> Samples:
    """Run all in turns, each twice, and return the samples of the second runs.

    The first finds the caches full of what ran before it. All are of one engine, whose threads sleep between runs; so
    that they need no processes of their own.
    """
    stopwatch = Stopwatch(threads=threads)
    calls = [partial(stopwatch.time_warm, runner.run) for runner in runners]
    interleave(calls, min_rounds=1, min_ns=WARMUP_NS)
    return interleave(calls, min_rounds=MIN_RUNS, min_ns=round(min_seconds * 1e9), patience=PATIENCE)


def time_models(
    models: Sequence[Path], images: NDArray[np.float32], *, threads: int, min_seconds: float
) -> list[float]:
    """Return the median milliseconds of a run of each model on `images` (N, C, H, W), in turns as the workloads are."""
    runners = [OrtRunner(model, images, threads=threads, library=True) for model in models]
    samples = samples_in_turns(runners, threads, min_seconds)
    return [float(np.median(samples.of(i).kept_ns()) / 1e6) for i in range(len(models))]


def _times(running: Sequence[_Running], samples: Samples) -> list[WorkloadTime]:
    """Take the cost of what a model does besides off, round by round, where neither was preempted."""
    columns = {each.workload: samples.of(i) for i, each in enumerate(running)}
    return [_workload_time(each, columns) for each in running]


def _workload_time(running: _Running, columns: Mapping[Workload, Column]) -> WorkloadTime:
    own = columns[running.workload]
    if running.workload == RUN:
        us = own.kept_ns() / 1000
    else:
        base = columns[_base(running.workload)]
        kept = own.undisturbed(base)
        difference = own.ns - base.ns
        us = np.maximum(difference if kept is None else difference[kept], 0) / (1000 * running.copies)
    p10, median, p90 = np.percentile(us, (10, 50, 90)).tolist()
    return WorkloadTime(running.workload, median, p10, p90, runs=len(us))


def _open(workload: Workload, batch: int, threads: int, folder: Path) -> _Running:
    """Write the model of a workload, run it once and compare its results."""
    probe = PROBES[workload.operator](workload, batch)
    path = folder / "workload.onnx"
    path.write_bytes(_model(probe))
    runner = OrtRunner(path, probe.x, threads=threads, library=True)
    for output in runner.outputs:
        if output.shape != probe.answer.shape or not np.abs(output - probe.answer).max() <= probe.tolerance:
            raise RuntimeLibraryError(
                f"{workload}: gives a wrong result (threads: {threads}); nothing was measured, please report this with "
                "your CPU's name"
            )
    return _Running(workload, probe.copies, runner)


def _model(probe: Probe) -> bytes:
    nodes: list[NewNode] = []
    constants: dict[str, NDArray[Any]] = {}
    copies = range(probe.copies)
    for copy in copies:
        prefix = f"copy{copy}."
        nodes += probe.nodes(f"x{copy}", f"y{copy}", prefix)
        constants |= {f"{prefix}{name}": array for name, array in probe.constants.items()}
    inputs = [Value(f"x{copy}", "float32", probe.x.shape) for copy in copies]
    outputs = [Value(f"y{copy}", "float32", probe.answer.shape) for copy in copies]
    return model_bytes(nodes, constants, inputs, outputs)


# --------------------------------------------------------------------------------------------------------------------
# Probes: one function for each operator


def layer_of(workload: Workload) -> LayerCost:
    """Return the convolution that a workload is."""
    return LayerCost(
        str(workload),
        workload.input,
        workload.output,
        workload.kernel,
        workload.stride,
        workload.dilation,
        workload.groups,
        32 if workload.operator == "Conv" else 1,
    )


def _binary(workload: Workload, batch: int) -> Probe:
    given = problem(layer_of(workload), batch)
    _, constants = binary_convolution(given)
    return Probe(
        lambda x, y, prefix: [binary_convolution(given, x, y, prefix)[0]], constants, given.x, given.binary_answer
    )


def _fused_add(workload: Workload, batch: int) -> Probe:
    """Add to the result of the convolution that `_base` is."""
    given = problem(layer_of(_base(workload)), batch)
    _, constants = binary_convolution(given)
    other = _activations(workload, batch)

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        return [binary_convolution(given, x, y, prefix, added=(f"{prefix}other",))[0]]

    return Probe(nodes, {**constants, "other": other}, given.x, given.binary_answer + other)


def _base(workload: Workload) -> Workload:
    """Return what a model holds besides the workload: with the same copies where a difference is measured."""
    return replace(workload, operator=BINARY_CONVOLUTION, kernel=(3, 3)) if workload.operator == "FusedAdd" else RUN


def _convolution(workload: Workload, batch: int) -> Probe:
    given = problem(layer_of(workload), batch)
    constants = {"W": given.signs * given.scale.reshape(-1, 1, 1, 1), "bias": given.bias}
    macs = given.layer.macs * batch
    copies = max(1, min(MOST_COPIES, LARGE_MACS * MOST_COPIES // macs))
    nodes = _standard("Conv", conv_attributes(given.layer), *constants)
    return Probe(nodes, constants, given.x, given.linear_answer, copies)


def _max_pool(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)
    taps = _taps(np.pad(x, _PADS, constant_values=-np.inf), workload)
    return Probe(_standard("MaxPool", _pool_attributes(workload)), {}, x, np.max(taps, axis=0))


def _average_pool(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)
    counts = np.sum(_taps(np.pad(np.ones_like(x), _PADS), workload), axis=0)
    answer = np.sum(_taps(np.pad(x, _PADS), workload), axis=0) / counts
    # The sums are exact; a quotient, or a product with a reciprocal, is within two units in the last place.
    tolerance = 2 * 2.0**-23 * float(np.abs(answer).max())
    attributes = {**_pool_attributes(workload), "count_include_pad": 0}
    return Probe(_standard("AveragePool", attributes), {}, x, answer, tolerance=tolerance)


_PADS = [(0, 0), (0, 0), (1, 1), (1, 1)]


def _taps(padded: NDArray[np.float32], workload: Workload) -> list[NDArray[np.float32]]:
    """Return what each tap of a 3x3 window sees."""
    (_, rows, columns), (vertical, horizontal) = workload.output, workload.stride
    return [padded[:, :, row::vertical, column::horizontal][:, :, :rows, :columns] for row, column in np.ndindex(3, 3)]


def _pool_attributes(workload: Workload) -> dict[str, int | Sequence[int]]:
    return {"kernel_shape": (3, 3), "strides": workload.stride, "pads": (1, 1, 1, 1)}


def _standard(op_type: str, attributes: Mapping[str, int | Sequence[int]], *inputs: str) -> NodesOfCopy:
    """Return one node of a standard operator that reads x, and then the constants `inputs`."""
    return lambda x, y, prefix: [NewNode(op_type, (x, *(f"{prefix}{name}" for name in inputs)), y, attributes)]


def _add(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)
    return Probe(_standard("Add", {}, "other"), {"other": x[:, ::-1].copy()}, x, x + x[:, ::-1])


def _multiply(workload: Workload, batch: int) -> Probe:
    """Multiply each channel by a number."""
    x = _activations(workload, batch)
    scale = np.full((workload.input[0], 1, 1), 0.5, np.float32)
    return Probe(_standard("Mul", {}, "scale"), {"scale": scale}, x, x * scale)


def _relu(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)
    return Probe(_standard("Relu", {}), {}, x, np.maximum(x, np.float32(0)))


def _concat(workload: Workload, batch: int) -> Probe:
    """Concatenate `parts` tensors, all but the first of one size."""
    total, height, width = workload.output
    others, channels = workload.parts - 1, total // workload.parts
    x = _activations(replace(workload, input=(total - others * channels, height, width)), batch)
    constants = {f"other{i}": np.full((batch, channels, height, width), i, np.float32) for i in range(others)}
    return Probe(
        _standard("Concat", {"axis": 1}, *constants), constants, x, np.concatenate([x, *constants.values()], axis=1)
    )


def _slice(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)
    channels = workload.output[0]
    bounds = {"start": [0], "end": [channels], "axis": [1]}
    constants = {name: np.array(value, np.int64) for name, value in bounds.items()}
    return Probe(_standard("Slice", {}, *constants), constants, x, x[:, :channels])


def _mean(workload: Workload, batch: int) -> Probe:
    """Take the mean over all pixels."""
    x = _activations(workload, batch)
    constants = {"axes": np.array([2, 3], np.int64)}
    answer = x.mean(axis=(2, 3), dtype=np.float64).astype(np.float32)
    # The sum is exact; a quotient, or a product with a reciprocal, is within two units in the last place.
    tolerance = 2 * 2.0**-23 * float(np.abs(answer).max())
    return Probe(_standard("ReduceMean", {"keepdims": 0}, "axes"), constants, x, answer, tolerance=tolerance)


def _matrix_product(workload: Workload, batch: int) -> Probe:
    x = _activations(workload, batch)[:, :, 0, 0]
    rng = np.random.default_rng(0)
    channels_in, channels_out = workload.input[0], workload.output[0]
    constants = {
        "W": sign(rng.normal(size=(channels_out, channels_in)).astype(np.float32)),
        "bias": np.zeros(channels_out, np.float32),
    }
    return Probe(_standard("Gemm", {"transB": 1}, *constants), constants, x, x @ constants["W"].T)


def _run(workload: Workload, batch: int) -> Probe:
    """Return next to nothing, so that the cost of a run is left."""
    x = np.ones((batch, 1, 1, 1), np.float32)
    return Probe(_standard("Relu", {}), {}, x, x, copies=1)


def _activations(workload: Workload, batch: int) -> NDArray[np.float32]:
    """Return multiples of 1/16 below 8, whose sums are exact: (N, C, H, W)."""
    shape = batch, *workload.input
    return (np.random.default_rng(0).integers(-127, 128, shape) / 16).astype(np.float32)


PROBES: dict[str, Callable[[Workload, int], Probe]] = {
    BINARY_CONVOLUTION: _binary,
    "FusedAdd": _fused_add,
    "Conv": _convolution,
    "Gemm": _matrix_product,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "ReduceMean": _mean,
    "Add": _add,
    "Mul": _multiply,
    "Relu": _relu,
    "Concat": _concat,
    "Slice": _slice,
    "Run": _run,
}
"""How each of `bnas_deploy.core.latency_table.OPERATORS` is measured."""
