"""How long a bundle takes, engine against engine: the answer is checked first, then records come back.

This module returns numbers and knows nothing of text; `bnas_deploy.report` shows them.
"""

import math
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.bundle import IMAGES, INT8_TWIN, MODEL, Bundle
from bnas_deploy.cost import LayerCost
from bnas_deploy.errors import BundleError
from bnas_deploy.runtime.engines import BASELINE, Engine, Runner
from bnas_deploy.runtime.graph import Node, read_nodes, uses_k
from bnas_deploy.runtime.memory import PeakMemory, peak_memory
from bnas_deploy.runtime.profile import NodeTime, kind_of_node, layer_of, original_nodes
from bnas_deploy.runtime.session import Model, create_session, session_options
from bnas_deploy.runtime.verify import output_faults, verify_pieces

NETWORK = "network"
"""The subject of a record that is about a whole network."""

MIN_RUNS = 10
"""However slow a network is: with fewer runs a 90th percentile says nothing."""

WARMUP_ROUNDS = 3
WARMUP_NS = 200_000_000
"""A processor needs some tenths of a second to raise its clock; the first runs also fill onnxruntime's arena."""

CREATIONS = 5
"""Sessions whose median creation time counts, after one that loads what the process keeps."""

PROFILED_RUNS = 100
"""Enough for a median to settle; the profile of a thousand nodes then stays far below onnxruntime's limit of events."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than `baseline`: percentiles over rounds of the ratio of two neighbouring runs."""

    baseline: str
    p10: float
    median: float
    p90: float


@dataclass(frozen=True)
class Record:
    """How long one subject took in one engine, over `runs` runs.

    `subject` is `network`, a node's name in the file (or, of a node that onnxruntime added, in its profile), or a
    layer such as `56x56 64->64 k3 s1 d1`. What follows `p99_ms` is None where it does not apply: `ratio` is of a
    network or of a layer that was measured by itself, and not of the baseline; `kind` is of a node, and `layer` of a
    node with weights; files, memory and creation are of a network, with one thread, and memory is that of a process of
    its own (`runtime.memory`); `creation_ms` is the median time that it takes to make a session of the file. `macs`,
    multiply-accumulates of one run, are of a layer that was measured by itself, and `format` is, among the number
    formats that the engine has for it, the fastest.

    `thread_scaling` and `batch_scaling` are of a network where there is something to compare it with: how many times
    as many images per second as with the fewest threads and the same batch, or with the smallest batch and as many
    threads.
    """

    subject: str
    engine: str
    isa: str
    threads: int
    batch: int
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    ratio: Ratio | None = None
    kind: str | None = None
    layer: str | None = None
    file_bytes: int | None = None
    memory: PeakMemory | None = None
    creation_ms: float | None = None
    thread_scaling: Ratio | None = None
    batch_scaling: Ratio | None = None
    macs: int | None = None
    format: str | None = None


@dataclass(frozen=True)
class AnswerCheck:
    """What was compared before measuring: so many images, and the largest difference of a logit from PyTorch's.

    Or, where the bundle's float layers are in 8 bits, from what the exported model gave: `reference` tells.
    `every_bit` is whether the library had to agree with the function bodies bit for bit, or within the tolerance.
    """

    images: int
    every_bit: bool
    largest_difference: float
    tolerance: float
    reference: str = "PyTorch"


@dataclass(frozen=True)
class TwinCheck:
    """What an engine in 8 bits answers, against the float twin, on the images among the test vectors.

    `largest_difference` is that of a logit, `relative_difference` the root of the mean square of all differences,
    divided by that of the float twin's logits; `agreement` of `images` images have the float twin's most likely class.
    """

    engine: str
    images: int
    largest_difference: float
    relative_difference: float
    agreement: int

    @property
    def sensible(self) -> bool:
        """Tell whether the answer is nearer to the float twin's than zeros are; NaN is not."""
        return self.relative_difference < 1


@dataclass(frozen=True)
class Setting:
    """What the records of one measurement share."""

    engine: str
    isa: str
    threads: int
    batch: int


def interleave(
    calls: Sequence[Callable[[], object]],
    *,
    min_rounds: int,
    min_ns: int = 0,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> NDArray[np.int64]:
    """Call A, B, A, B, ... and return how long each took: nanoseconds, (rounds, calls).

    In turns, because what slows a machine down for a while then slows all of them. Ends when there were `min_rounds`
    rounds and they took `min_ns`.
    """
    start = clock()
    rounds: list[list[int]] = []
    while len(rounds) < min_rounds or clock() - start < min_ns:
        rounds.append([_time(call, clock) for call in calls])
    return np.array(rounds, np.int64)


def interleave_warm(calls: Sequence[Callable[[], object]], *, min_rounds: int, min_ns: int) -> NDArray[np.int64]:
    """Like `interleave`, but each call runs twice, and the second run counts.

    The first finds the caches full of another's data, and the threads of that still looking for work: a layer of 12
    million MACs took up to a third longer after OpenVINO than after onnxruntime.
    """
    twice = [call for call in calls for _ in range(2)]
    return interleave(twice, min_rounds=min_rounds, min_ns=min_ns)[:, 1::2]


def _time(call: Callable[[], object], clock: Callable[[], int]) -> int:
    start = clock()
    call()
    return clock() - start


def record(subject: str, setting: Setting, samples_ns: Sequence[int] | NDArray[np.int64]) -> Record:
    """Describe samples in nanoseconds; percentiles are interpolated linearly, as numpy does."""
    median, p90, p99 = (np.percentile(samples_ns, (50, 90, 99)) / 1e6).tolist()
    return Record(subject, **asdict(setting), runs=len(samples_ns), median_ms=median, p90_ms=p90, p99_ms=p99)


Nanoseconds = NDArray[np.int64] | NDArray[np.float64]


def ratio(baseline: str, baseline_ns: Nanoseconds, samples_ns: Nanoseconds) -> Ratio:
    """Compare round by round: both arrays are (rounds,)."""
    p10, median, p90 = np.percentile(baseline_ns / samples_ns, (10, 50, 90)).tolist()
    return Ratio(baseline, p10, median, p90)


def check_answers(bundle: Bundle, threads: Sequence[int]) -> AnswerCheck:
    """Compare what the library gives with what the function bodies give, and both with what PyTorch gave, by piece.

    With the function bodies it must agree in every bit; in a network that uses K, whose sum has no defined order,
    within the tolerance of the manifest, as with PyTorch.

    Raises:
        BundleError: an answer differs, or there is no test vector to tell by.
    """
    model = bundle.file(MODEL)
    images, logits = read_images(bundle)
    tolerance = bundle.manifest.verification.output_tolerance
    every_bit = not any(uses_k(node.op_type) for node in read_nodes(model))
    plain = _predict(bundle, images, threads=threads[0], library=False)
    for count in threads:
        answers = _predict(bundle, images, threads=count, library=True)
        if not (_same_bits(answers, plain) if every_bit else _largest_difference(answers, plain) <= tolerance):
            raise BundleError(
                f"{model}: with {_count(count)} the operator library answers otherwise than onnxruntime without it: "
                f"logits differ by up to {_largest_difference(answers, plain):.3g}, and "
                f"{'no bit' if every_bit else f'{tolerance:.3g}'} may differ; {_not_measured(bundle)}"
            )
    pieces = verify_pieces(bundle)
    if faults := [*output_faults(bundle, plain, logits), *([] if pieces is None else pieces.failures)]:
        raise BundleError(f"{model}: {'; '.join(faults)}; {_not_measured(bundle)}")
    difference = _largest_difference(plain, logits)
    return AnswerCheck(len(images), every_bit, difference, tolerance, bundle.manifest.reference)


def check_twins(bundle: Bundle, engines: Sequence[Engine]) -> list[TwinCheck]:
    """Compare every engine that runs the int8 twin with the float twin in onnxruntime.

    Eight bits have no answer that is right to the bit, and the weights of a twin are no trained ones, so this is to be
    shown to people; what is not `sensible` should not be timed.

    Raises:
        BundleError: a file of the bundle is missing, damaged, or not the same network.
    """
    images = np.ascontiguousarray(read_images(bundle)[0], np.float32)
    compared = [engine for engine in engines if engine.name == BASELINE or engine.file == INT8_TWIN]
    runners = [engine.open(bundle.file(engine.file), images, threads=1) for engine in compared]
    _refuse_other_shapes(bundle, compared, runners)
    answers = {engine.name: runner.output for engine, runner in zip(compared, runners, strict=True)}
    wanted = answers.pop(BASELINE)
    return [_twin_check(name, answer, wanted) for name, answer in answers.items()]


def _twin_check(engine: str, answer: NDArray[np.float32], wanted: NDArray[np.float32]) -> TwinCheck:
    difference, size = (
        float(np.sqrt(np.mean(np.square(each, dtype=np.float64)))) for each in (answer - wanted, wanted)
    )
    return TwinCheck(
        engine,
        images=len(wanted),
        largest_difference=_largest_difference(answer, wanted),
        relative_difference=difference / size if size else math.inf,
        agreement=int((answer.argmax(axis=1) == wanted.argmax(axis=1)).sum()),
    )


def measure_bundle(
    bundle: Bundle,
    engines: Sequence[Engine],
    *,
    threads: Sequence[int],
    batches: Sequence[int],
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> list[Record]:
    """Measure `engines` on `bundle`, whose answers `check_answers` has found right.

    Args:
        bundle: what to measure, on the images among its test vectors, repeated to fill a batch.
        engines: those of `engines_for` that answer sensibly; the first is the one that all is about, and the baseline
            is among them.
        threads: numbers of threads, one measurement each.
        batches: images per run, one measurement each.
        min_seconds: how long to measure each number of threads and images, at least; the engines share it.
        on_step: is told what is being done, for people who wait.

    Returns:
        For each number of images, then threads, then engine, a record of the network and then, where the engine
        tells, one of every node that ran.

    Raises:
        BundleError: a file of the bundle is missing, damaged, or not the same network.
    """
    images = {batch: _batch_of(read_images(bundle)[0], batch) for batch in batches}
    on_step("creation of sessions")
    creation_ms = _creation_ms(bundle, engines, images[batches[0]])
    scalings = _measure_scalings(bundle, engines[0], images, threads, min_seconds, on_step)
    records: list[Record] = []
    for batch in batches:
        where = f", batch {batch}" if len(batches) > 1 else ""
        on_step(f"peak memory{where}")
        memory = {
            engine.name: peak_memory(engine.name, bundle.file(engine.file), images[batch].shape) for engine in engines
        }
        for count in threads:
            on_step(f"{_count(count)}{where}: whole network")
            networks = _measure_networks(bundle, engines, images[batch], count, min_seconds)
            on_step(f"{_count(count)}{where}: layer by layer")
            nodes = _profile_nodes(bundle, engines, images[batch], count, runs=min(networks[0].runs, PROFILED_RUNS))
            for network in networks:
                name = network.engine
                whole = replace(network, memory=memory[name], creation_ms=creation_ms[name])
                if name == engines[0].name:
                    whole = _with_scaling(whole, scalings)
                records += [whole, *nodes.get(name, ())]
    return records


def _creation_ms(bundle: Bundle, engines: Sequence[Engine], images: NDArray[np.float32]) -> dict[str, float]:
    """Make sessions with one thread, engine by engine in turns, and return the median milliseconds of each."""
    rounds = [
        [engine.open(bundle.file(engine.file), images, threads=1).creation_ns for engine in engines]
        for _ in range(1 + CREATIONS)
    ]
    medians: NDArray[np.float64] = np.median(rounds[1:], axis=0) / 1e6
    return dict(zip((engine.name for engine in engines), medians.tolist(), strict=True))


@dataclass(frozen=True)
class Workload:
    """How many threads, and how many images per run."""

    threads: int
    batch: int


def _measure_scalings(
    bundle: Bundle,
    engine: Engine,
    images: Mapping[int, NDArray[np.float32]],
    threads: Sequence[int],
    min_seconds: float,
    on_step: Callable[[str], object],
) -> dict[Workload, NDArray[np.float64]]:
    """Run one engine with all numbers of threads and images in turns: nanoseconds per image, (rounds,) each.

    In a measurement of its own, because those of the engines come one after the other, and the machine changes.
    """
    workloads = [Workload(count, batch) for batch in images for count in threads]
    if len(workloads) < 2:
        return {}
    on_step(f"{engine.name}: threads and batches in turns")
    calls = [engine.open(bundle.file(engine.file), images[each.batch], threads=each.threads).run for each in workloads]
    interleave_warm(calls, min_rounds=WARMUP_ROUNDS, min_ns=WARMUP_NS)
    samples = interleave_warm(calls, min_rounds=MIN_RUNS, min_ns=round(min_seconds * 1e9))
    return {each: samples[:, i] / each.batch for i, each in enumerate(workloads)}


def _with_scaling(network: Record, scalings: Mapping[Workload, NDArray[np.float64]]) -> Record:
    if not scalings:
        return network
    own = Workload(network.threads, network.batch)
    fewest = Workload(min(each.threads for each in scalings), own.batch)
    smallest = Workload(own.threads, min(each.batch for each in scalings))
    return replace(
        network,
        thread_scaling=_scaling(_count(fewest.threads), scalings, fewest, own),
        batch_scaling=_scaling(f"batch {smallest.batch}", scalings, smallest, own),
    )


def _scaling(
    name: str, scalings: Mapping[Workload, NDArray[np.float64]], baseline: Workload, own: Workload
) -> Ratio | None:
    return None if baseline == own else ratio(name, scalings[baseline], scalings[own])


def read_images(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the images (N, C, H, W) among the test vectors and the logits (N, classes) that PyTorch gave to them.

    Raises:
        BundleError: they are not there, or not arrays.
    """
    path = bundle.file(IMAGES)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return arrays["images"], arrays["logits"]
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise BundleError(
            f"{path}: no `images` and `logits` to be read in it ({error}); export the model again"
        ) from None


def _predict(bundle: Bundle, images: NDArray[np.float32], *, threads: int, library: bool) -> NDArray[np.float32]:
    session = create_session(bundle.file(MODEL), session_options(threads=threads, library=library))
    return Model(bundle, session).predict(images)


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def _largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape else math.inf


def _not_measured(bundle: Bundle) -> str:
    return f"nothing was measured, `bnas-deploy verify {bundle.path}` says where it begins"


def _batch_of(images: NDArray[np.float32], batch: int) -> NDArray[np.float32]:
    """Return `batch` images, the first ones, or all of them as often as it takes."""
    return np.ascontiguousarray(images[np.arange(batch) % len(images)], np.float32)


def _measure_networks(
    bundle: Bundle, engines: Sequence[Engine], images: NDArray[np.float32], threads: int, min_seconds: float
) -> list[Record]:
    runners = [engine.open(bundle.file(engine.file), images, threads=threads) for engine in engines]
    _refuse_other_shapes(bundle, engines, runners)
    calls = [runner.run for runner in runners]
    interleave_warm(calls, min_rounds=WARMUP_ROUNDS, min_ns=WARMUP_NS)
    samples = interleave_warm(calls, min_rounds=MIN_RUNS, min_ns=round(min_seconds * 1e9))
    columns = {engine.name: samples[:, i] for i, engine in enumerate(engines)}
    return [
        replace(
            record(NETWORK, _setting(engine, threads, len(images)), columns[engine.name]),
            file_bytes=bundle.file(engine.file).stat().st_size,
            ratio=None if engine.name == BASELINE else ratio(BASELINE, columns[BASELINE], columns[engine.name]),
        )
        for engine in engines
    ]


def _refuse_other_shapes(bundle: Bundle, engines: Sequence[Engine], runners: Sequence[Runner]) -> None:
    """A twin that answers with another shape is another network, and no time of it means anything."""
    shapes = {engine.file: runner.output.shape for engine, runner in zip(engines, runners, strict=True)}
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{file} {shape}" for file, shape in shapes.items())
        raise BundleError(f"{bundle.path}: its models answer with different shapes: {given}; export the model again")


def _profile_nodes(
    bundle: Bundle, engines: Sequence[Engine], images: NDArray[np.float32], threads: int, *, runs: int
) -> Mapping[str, list[Record]]:
    with tempfile.TemporaryDirectory() as folder:
        runners = {
            engine: engine.open_profiled(bundle.file(engine.file), images, threads=threads, profile_to=Path(folder))
            for engine in engines
            if engine.open_profiled
        }
        interleave([runner.run for runner in runners.values()], min_rounds=WARMUP_ROUNDS + runs)
        times = {engine: runner.node_times(skip=WARMUP_ROUNDS) for engine, runner in runners.items()}
    layers = {layer.name: layer_name(layer) for layer in bundle.manifest.layers}
    return {
        engine.name: _node_records(bundle.file(engine.file), _setting(engine, threads, len(images)), found, layers)
        for engine, found in times.items()
    }


def _node_records(model: Path, setting: Setting, times: Sequence[NodeTime], layers: Mapping[str, str]) -> list[Record]:
    nodes = original_nodes(times, read_nodes(model))
    return [_node_record(time, node, setting, layers) for time, node in zip(times, nodes, strict=True)]


def _node_record(time: NodeTime, node: Node | None, setting: Setting, layers: Mapping[str, str]) -> Record:
    subject = layer_of(node.name if node else time.name)
    measured = record(subject, setting, [1000 * us for us in time.runs_us])
    return replace(measured, kind=kind_of_node(time, node, layers), layer=layers.get(subject))


def layer_name(cost: LayerCost) -> str:
    """Name a layer by what decides its time: height and width of its input, channels, kernel, stride, dilation.

    Such as `56x56 64->64 k3 s1 d1`; a pair of unequal numbers is written `3x1`, and ` g4` stands for groups, where
    there are several.
    """
    channels, height, width = cost.input
    kernel, stride, dilation = map(_pair, (cost.kernel, cost.stride, cost.dilation))
    text = f"{height}x{width} {channels}->{cost.output[0]} k{kernel} s{stride} d{dilation}"
    return text if cost.groups == 1 else f"{text} g{cost.groups}"


def _pair(numbers: tuple[int, int]) -> str:
    vertical, horizontal = numbers
    return str(vertical) if vertical == horizontal else f"{vertical}x{horizontal}"


def _setting(engine: Engine, threads: int, batch: int) -> Setting:
    return Setting(engine.name, engine.isa(), threads, batch)


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
