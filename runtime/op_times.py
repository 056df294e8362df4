"""How long each work of a network takes on this machine: what `bnas-deploy bench --ops` runs.

Every work is measured as it is in an exported network, in onnxruntime, with the operator library: the binary operations
with BN, scale and ReLU folded in, float layers as onnxruntime optimises them. A run of onnxruntime costs some
microseconds by itself, as much as a small work. So a model holds several copies of its work, side by side, and

    time of a work = (time of the model - time of a model that does next to nothing) / copies

All copies read one input, which stays in the cache, as what the work before has just written does in a network; the
outputs are each copy's own, because a network writes to a place that it last used some works ago, and so are the
weights. All models run in turns, so that a machine that slows down for a while slows all of them. docs/latency.md says
how well the sum over a network agrees with the network.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.bits import sign
from bnas_deploy.cost import LayerCost
from bnas_deploy.errors import RuntimeLibraryError
from bnas_deploy.latency import CONVOLUTIONS, RUN, Work, WorkTime
from bnas_deploy.runtime.engines import OrtRunner
from bnas_deploy.runtime.layers import Problem, binary_convolution, conv_attributes, problem
from bnas_deploy.runtime.model_writer import NewNode, Value, model_bytes
from bnas_deploy.runtime.samples import MIN_RUNS, PATIENCE, WARMUP_NS, Column, Samples, interleave
from bnas_deploy.runtime.waiting import Stopwatch

MOST_COPIES = 8
LARGE_MACS = 4_000_000
"""A model has fewer copies of float layers that are larger than this: they take long enough by themselves."""

NodesOfCopy = Callable[[str, str, str], list[NewNode]]
"""(name of the input, name of the output, prefix of all other names) -> nodes."""


@dataclass(frozen=True)
class Probe:
    """One work as nodes of a model.

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
    work: Work
    copies: int
    runner: OrtRunner = field(repr=False)


def measure_works(
    works: Sequence[Work],
    *,
    threads: int,
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> list[WorkTime]:
    """Measure every work, in turns.

    Args:
        works: what to measure; `RUN` is measured in any case.
        threads: threads that share the work of one operator.
        batch: images per run.
        min_seconds: how long to measure, at least.
        on_step: is told what is being done, for people who wait.

    Raises:
        RuntimeLibraryError: the operator library cannot be used, or an operation gives a wrong result.
    """
    with tempfile.TemporaryDirectory() as folder:
        on_step(f"making {len(works)} operations and checking their results")
        running = [
            _open(work, batch, threads, Path(folder)) for work in (RUN, *(each for each in works if each != RUN))
        ]
        on_step(f"measuring {len(works)} operations in turns")
        samples = _samples([each.runner for each in running], threads, min_seconds)
    return _times(running, samples)


def _samples(runners: Sequence[OrtRunner], threads: int, min_seconds: float) -> Samples:
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
    """Return the median milliseconds of a run of each model on `images` (N, C, H, W), in turns as the works are."""
    runners = [OrtRunner(model, images, threads=threads, library=True) for model in models]
    samples = _samples(runners, threads, min_seconds)
    return [float(np.median(samples.of(i).kept_ns()) / 1e6) for i in range(len(models))]


def _times(running: Sequence[_Running], samples: Samples) -> list[WorkTime]:
    """Take the cost of what a model does besides off, round by round, where neither was preempted."""
    columns = {each.work: samples.of(i) for i, each in enumerate(running)}
    return [_work_time(each, columns) for each in running]


def _work_time(running: _Running, columns: Mapping[Work, Column]) -> WorkTime:
    own = columns[running.work]
    if running.work == RUN:
        us = own.kept_ns() / 1000
    else:
        base = columns[_base(running.work)]
        kept = own.undisturbed(base)
        difference = own.ns - base.ns
        us = np.maximum(difference if kept is None else difference[kept], 0) / (1000 * running.copies)
    p10, median, p90 = np.percentile(us, (10, 50, 90)).tolist()
    return WorkTime(running.work, median, p10, p90, runs=len(us))


def _open(work: Work, batch: int, threads: int, folder: Path) -> _Running:
    """Write the model of a work, run it once and compare its results."""
    probe = PROBES[work.kind](work, batch)
    path = folder / "work.onnx"
    path.write_bytes(_model(probe))
    runner = OrtRunner(path, probe.x, threads=threads, library=True)
    for output in runner.outputs:
        if output.shape != probe.answer.shape or not np.abs(output - probe.answer).max() <= probe.tolerance:
            raise RuntimeLibraryError(
                f"{work}: gives a wrong result (threads: {threads}); nothing was measured, please report this with "
                "your CPU's name"
            )
    return _Running(work, probe.copies, runner)


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
# Probes: one function for each kind of work


def layer_of(work: Work) -> LayerCost:
    """Return the convolution that a work is."""
    kernel, dilation = CONVOLUTIONS.get(work.kind, (FLOAT_KERNELS.get(work.kind, 1), 1))
    out = (work.channels_out, math.ceil(work.height / work.stride), math.ceil(work.width / work.stride))
    bits = 1 if work.kind in CONVOLUTIONS else 32
    kernels, strides, dilations = ((size, size) for size in (kernel, work.stride, dilation))
    image = work.channels_in, work.height, work.width
    return LayerCost(str(work), image, out, kernels, strides, dilations, 1, bits)


FLOAT_KERNELS = {"skip": 2, "stem_cifar": 3, "stem_imagenet": 3}


def _binary(work: Work, batch: int) -> Probe:
    given = problem(layer_of(work), batch)
    _, constants = binary_convolution(given)
    return Probe(
        lambda x, y, prefix: [binary_convolution(given, x, y, prefix)[0]], constants, given.x, given.binary_answer
    )


def _fused_add(work: Work, batch: int) -> Probe:
    """Add to the result of the convolution that `_base` is."""
    given = problem(layer_of(_base(work)), batch)
    _, constants = binary_convolution(given)
    other = _activations(work, batch)

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        return [binary_convolution(given, x, y, prefix, added=(f"{prefix}other",))[0]]

    return Probe(nodes, {**constants, "other": other}, given.x, given.binary_answer + other)


def _base(work: Work) -> Work:
    """Return what a model does besides the work itself: with the same copies, for what is measured as a difference."""
    return replace(work, kind="bin_conv_3x3") if work.kind == "fused_add" else RUN


def _skip(work: Work, batch: int) -> Probe:
    given = problem(layer_of(work), batch)
    # The BN before it is folded into its weights and its bias.
    constants = {"W": given.signs * given.scale.reshape(-1, 1, 1, 1), "bias": given.bias}

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        return [NewNode("Conv", (x, f"{prefix}W", f"{prefix}bias"), y, conv_attributes(given.layer))]

    return Probe(nodes, constants, given.x, given.linear_answer, _copies(given.layer.macs * batch))


def _copies(macs: int) -> int:
    return max(1, min(MOST_COPIES, LARGE_MACS * MOST_COPIES // macs))


def _stem_cifar(work: Work, batch: int) -> Probe:
    """BN on the image, which stays a product and a sum because of the padding behind it; convolution and ReLU."""
    given = problem(layer_of(work), batch)
    scale, shift = np.full((2, work.channels_in, 1, 1), 0.5, np.float32)
    constants = {
        "scale": scale,
        "shift": shift,
        "W": given.signs * given.scale.reshape(-1, 1, 1, 1),
        "bias": given.bias,
    }

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        return [
            NewNode("Mul", (x, f"{prefix}scale"), f"{prefix}scaled"),
            NewNode("Add", (f"{prefix}scaled", f"{prefix}shift"), f"{prefix}shifted"),
            NewNode(
                "Conv",
                (f"{prefix}shifted", f"{prefix}W", f"{prefix}bias"),
                f"{prefix}sum",
                conv_attributes(given.layer),
            ),
            NewNode("Relu", (f"{prefix}sum",), y),
        ]

    shifted = Problem(given.layer, given.x * scale + shift, given.signs, given.scale, given.bias)
    return Probe(nodes, constants, given.x, shifted.float_answer, _copies(given.layer.macs * batch))


def _stem_imagenet(work: Work, batch: int) -> Probe:
    """Three convolutions of stride 2 with their BN folded in. All numbers are integers, so that nothing rounds."""
    shapes = [(work.channels_in, work.channels_out // 2), (work.channels_out // 2, work.channels_out)]
    shapes.append((work.channels_out, work.channels_out))
    height, width = work.height, work.width
    given = []
    for channels_in, channels_out in shapes:
        given.append(problem(layer_of(Work("stem_imagenet", channels_in, channels_out, height, width, 2)), batch))
        height, width = math.ceil(height / 2), math.ceil(width / 2)
    x = answer = sign(given[0].x)
    for i, each in enumerate(given):
        one, zero = np.ones_like(each.scale), np.zeros_like(each.bias)
        stage = Problem(each.layer, answer, each.signs, one, zero)
        answer = stage.linear_answer if i == len(given) - 1 else stage.float_answer
    constants = {f"W{i}": each.signs for i, each in enumerate(given)}
    constants |= {f"bias{i}": np.zeros_like(each.bias) for i, each in enumerate(given)}

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        made, value = [], x
        for i, each in enumerate(given):
            last = i == len(given) - 1
            result = y if last else f"{prefix}sum{i}"
            inputs = (value, f"{prefix}W{i}", f"{prefix}bias{i}")
            made.append(NewNode("Conv", inputs, result, conv_attributes(each.layer)))
            if not last:
                value = f"{prefix}relu{i}"
                made.append(NewNode("Relu", (result,), value))
        return made

    return Probe(nodes, constants, x, answer, _copies(sum(each.layer.macs for each in given) * batch))


def _max_pool(work: Work, batch: int) -> Probe:
    x = _activations(work, batch)
    taps = _taps(np.pad(x, _PADS, constant_values=-np.inf), work)
    return Probe(_standard("MaxPool", _pool_attributes(work)), {}, x, np.max(taps, axis=0))


def _average_pool(work: Work, batch: int) -> Probe:
    x = _activations(work, batch)
    counts = np.sum(_taps(np.pad(np.ones_like(x), _PADS), work), axis=0)
    answer = np.sum(_taps(np.pad(x, _PADS), work), axis=0) / counts
    # The sums are exact; a quotient, or a product with a reciprocal, is within two units in the last place.
    tolerance = 2 * 2.0**-23 * float(np.abs(answer).max())
    attributes = {**_pool_attributes(work), "count_include_pad": 0}
    return Probe(_standard("AveragePool", attributes), {}, x, answer, tolerance=tolerance)


_PADS = [(0, 0), (0, 0), (1, 1), (1, 1)]


def _taps(padded: NDArray[np.float32], work: Work) -> list[NDArray[np.float32]]:
    """Return what each tap of a 3x3 window sees."""
    rows, columns = (math.ceil(side / work.stride) for side in (work.height, work.width))
    return [
        padded[:, :, row :: work.stride, column :: work.stride][:, :, :rows, :columns]
        for row, column in np.ndindex(3, 3)
    ]


def _pool_attributes(work: Work) -> dict[str, int | Sequence[int]]:
    return {"kernel_shape": (3, 3), "strides": (work.stride,) * 2, "pads": (1, 1, 1, 1)}


def _standard(op_type: str, attributes: Mapping[str, int | Sequence[int]], *inputs: str) -> NodesOfCopy:
    """Return one node of a standard operator that reads x, and then the constants `inputs`."""
    return lambda x, y, prefix: [NewNode(op_type, (x, *(f"{prefix}{name}" for name in inputs)), y, attributes)]


def _add(work: Work, batch: int) -> Probe:
    x = _activations(work, batch)
    return Probe(_standard("Add", {}, "other"), {"other": x[:, ::-1].copy()}, x, x + x[:, ::-1])


def _concat(work: Work, batch: int) -> Probe:
    """Concatenate `channels_in` tensors, all but the first of one size."""
    others, channels = work.channels_in - 1, work.channels_out // work.channels_in
    first = replace(work, channels_in=work.channels_out - others * channels)
    x = _activations(first, batch)
    constants = {f"other{i}": np.full((batch, channels, work.height, work.width), i, np.float32) for i in range(others)}
    return Probe(
        _standard("Concat", {"axis": 1}, *constants), constants, x, np.concatenate([x, *constants.values()], axis=1)
    )


def _slice(work: Work, batch: int) -> Probe:
    x = _activations(work, batch)
    bounds = {"start": [0], "end": [work.channels_out], "axis": [1]}
    constants = {name: np.array(value, np.int64) for name, value in bounds.items()}
    return Probe(_standard("Slice", {}, *constants), constants, x, x[:, : work.channels_out])


def _classifier(work: Work, batch: int) -> Probe:
    x = _activations(work, batch)
    rng = np.random.default_rng(0)
    constants = {
        "axes": np.array([2, 3], np.int64),
        "W": sign(rng.normal(size=(work.channels_out, work.channels_in)).astype(np.float32)),
        "bias": np.zeros(work.channels_out, np.float32),
    }

    def nodes(x: str, y: str, prefix: str) -> list[NewNode]:
        mean = f"{prefix}mean"
        return [
            NewNode("ReduceMean", (x, f"{prefix}axes"), mean, {"keepdims": 0}),
            NewNode("Gemm", (mean, f"{prefix}W", f"{prefix}bias"), y, {"transB": 1}),
        ]

    mean = x.mean(axis=(2, 3), dtype=np.float64)
    answer = (mean @ constants["W"].T).astype(np.float32)
    # A mean of p pixels rounds p times, a sum of c products c times, each by at most half a unit of the whole sum.
    roundings = work.height * work.width + work.channels_in + 2
    tolerance = roundings * 2.0**-24 * float(np.abs(x).mean(axis=(2, 3), dtype=np.float64).sum(axis=1).max())
    return Probe(nodes, constants, x, answer, tolerance=tolerance)


def _run(work: Work, batch: int) -> Probe:
    """Return next to nothing: what is left is what a run costs."""
    x = np.ones((batch, 1, 1, 1), np.float32)
    return Probe(_standard("Relu", {}), {}, x, x, copies=1)


def _activations(work: Work, batch: int) -> NDArray[np.float32]:
    """Return multiples of 1/16 below 8, whose sums are exact: (N, C, H, W)."""
    shape = batch, work.channels_in, work.height, work.width
    return (np.random.default_rng(0).integers(-127, 128, shape) / 16).astype(np.float32)


PROBES: dict[str, Callable[[Work, int], Probe]] = {
    **dict.fromkeys(CONVOLUTIONS, _binary),
    "fused_add": _fused_add,
    "max_pool_3x3": _max_pool,
    "avg_pool_3x3": _average_pool,
    "skip": _skip,
    "add": _add,
    "concat": _concat,
    "slice": _slice,
    "stem_cifar": _stem_cifar,
    "stem_imagenet": _stem_imagenet,
    "classifier": _classifier,
    "run": _run,
}
"""How each kind of `bnas_deploy.latency.KINDS` is measured."""
