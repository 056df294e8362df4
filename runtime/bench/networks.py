"""How long a bundle takes, engine against engine: the answer is checked first, then records come back.

This module returns numbers and knows nothing of text; `bnas_deploy.report` shows them.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import IMAGES, INT8_TWIN, MODEL, Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.runtime.bench.engine_process import EngineProcesses, OpenedModel
from bnas_deploy.runtime.bench.engines import BASELINE, Engine, open_engine, open_profiled_engine
from bnas_deploy.runtime.bench.memory import PeakMemory, peak_memory
from bnas_deploy.runtime.bench.profile import NodeTime, kind_of_node, layer_of, original_nodes
from bnas_deploy.runtime.bench.samples import WARMUP_ROUNDS, Column, interleave, measure_in_turns
from bnas_deploy.runtime.onnx_file.reader import Node, read_nodes, uses_k
from bnas_deploy.runtime.session import Model, create_session, session_options
from bnas_deploy.runtime.verify import output_faults, verify_pieces

NETWORK = "network"
"""The subject of a record that is about a whole network."""

CREATIONS = 5
"""Sessions whose median creation time counts, after one that loads what the process keeps."""

PROFILED_RUNS = 100
"""Enough for a median to settle; the profile of a thousand nodes then stays far below onnxruntime's limit of events."""


@dataclass(frozen=True)
class Ratio:
    """How many times faster than `baseline`: percentiles over rounds of the ratio of two neighbouring runs.

    `pairs` of runs count, None in the file of an older version; in `preempted` further ones another program had the
    processor. Where it left too few, `disturbed` is set, and the preempted ones are among those that count.
    """

    baseline: str
    p10: float
    median: float
    p90: float
    pairs: int | None = None
    preempted: int = 0
    disturbed: bool = False


@dataclass(frozen=True)
class Record:
    """How long one subject took in one engine, over `runs` runs.

    In `preempted` further runs another program had the processor; None where the system does not tell. Where these left
    too few, `disturbed` is set, and they are among those that count.

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
    preempted: int | None = None
    disturbed: bool = False


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


def record(subject: str, setting: Setting, samples: Column) -> Record:
    """Describe the runs that were not preempted; percentiles are interpolated linearly, as numpy does."""
    used = samples.kept_ns()
    median, p90, p99 = (np.percentile(used, (50, 90, 99)) / 1e6).tolist()
    preempted = int(samples.preempted.sum()) if samples.told else None
    return Record(
        subject,
        **asdict(setting),
        runs=len(used),
        median_ms=median,
        p90_ms=p90,
        p99_ms=p99,
        preempted=preempted,
        disturbed=samples.undisturbed() is None,
    )


def ratio(baseline: str, baseline_samples: Column, samples: Column) -> Ratio:
    """Compare round by round, where neither run was preempted."""
    kept = samples.undisturbed(baseline_samples)
    ratios = baseline_samples.ns / samples.ns
    used = ratios if kept is None else ratios[kept]
    p10, median, p90 = np.percentile(used, (10, 50, 90)).tolist()
    preempted = int((samples.preempted | baseline_samples.preempted).sum())
    return Ratio(baseline, p10, median, p90, len(used), preempted, kept is None)


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
    with Subject.of(bundle, {len(images): images}) as subject:
        opened = [subject.open(engine, Workload(threads=1, batch=len(images))) for engine in compared]
    _refuse_other_shapes(bundle, compared, opened)
    answers = {engine.name: model.output for engine, model in zip(compared, opened, strict=True)}
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
    with Subject.of(bundle, images) as subject:
        return _measure_subject(subject, engines, threads, min_seconds, on_step)


def _measure_subject(
    subject: "Subject",
    engines: Sequence[Engine],
    threads: Sequence[int],
    min_seconds: float,
    on_step: Callable[[str], object],
) -> list[Record]:
    bundle, batches = subject.bundle, list(subject.images)
    on_step("creation of sessions")
    creation_ms = _creation_ms(subject, engines, batches[0])
    scalings = _measure_scalings(subject, engines[0], threads, min_seconds, on_step)
    records: list[Record] = []
    for batch in batches:
        where = f", batch {batch}" if len(batches) > 1 else ""
        on_step(f"peak memory{where}")
        memory = {
            engine.name: peak_memory(engine.name, bundle.file(engine.file), subject.images[batch].shape)
            for engine in engines
        }
        for count in threads:
            on_step(f"{_count(count)}{where}: whole network")
            workload = Workload(count, batch)
            networks = _measure_networks(subject, engines, workload, min_seconds)
            on_step(f"{_count(count)}{where}: layer by layer")
            nodes = _profile_nodes(subject, engines, workload, runs=min(networks[0].runs, PROFILED_RUNS))
            for network in networks:
                name = network.engine
                whole = replace(network, memory=memory[name], creation_ms=creation_ms[name])
                if name == engines[0].name:
                    whole = _with_scaling(whole, scalings)
                records += [whole, *nodes.get(name, ())]
    return records


@dataclass(frozen=True)
class Workload:
    """How many threads, and how many images per run."""

    threads: int
    batch: int


@dataclass(frozen=True)
class Subject:
    """A bundle, its images by their number, where these are in files, and the processes that run it."""

    bundle: Bundle
    images: Mapping[int, NDArray[np.float32]]
    folder: Path
    processes: EngineProcesses

    @classmethod
    @contextmanager
    def of(cls, bundle: Bundle, images: Mapping[int, NDArray[np.float32]]) -> "Iterator[Subject]":
        """Write the images to a folder, which is gone at the end, as are the processes."""
        with temporary_folder() as folder, EngineProcesses() as processes:
            subject = cls(bundle, images, folder, processes)
            for batch, array in images.items():
                np.save(subject._file_of(batch), array)
            yield subject

    def open(self, engine: Engine, workload: Workload, profile_to: Path | None = None) -> OpenedModel:
        """Open the engine's model in its process; with `profile_to` so that it tells the time of every node.

        Raises:
            BundleError: the file is missing or damaged.
        """
        process = self.processes.of(engine.name, workload.threads)
        given = {
            "engine": engine.name,
            "model": str(self.bundle.file(engine.file)),
            "images": str(self._file_of(workload.batch)),
            "threads": workload.threads,
        }
        if profile_to:
            return process.open(open_profiled_engine, **given, profile_to=str(profile_to))
        return process.open(open_engine, **given)

    def _file_of(self, batch: int) -> Path:
        return self.folder / f"{batch}.npy"


def _creation_ms(subject: Subject, engines: Sequence[Engine], batch: int) -> dict[str, float]:
    """Make sessions with one thread, engine by engine in turns, and return the median milliseconds of each."""
    rounds: list[list[int]] = []
    for _ in range(1 + CREATIONS):
        opened = [subject.open(engine, Workload(1, batch)) for engine in engines]
        rounds.append([model.creation_ns for model in opened if model.creation_ns is not None])
        subject.processes.forget()
    medians: NDArray[np.float64] = np.median(rounds[1:], axis=0) / 1e6
    return dict(zip((engine.name for engine in engines), medians.tolist(), strict=True))


def _measure_scalings(
    subject: Subject,
    engine: Engine,
    threads: Sequence[int],
    min_seconds: float,
    on_step: Callable[[str], object],
) -> dict[Workload, Column]:
    """Run one engine with all numbers of threads and images in turns: nanoseconds per image.

    In a measurement of its own, because those of the engines come one after the other, and the machine changes.
    """
    workloads = [Workload(count, batch) for batch in subject.images for count in threads]
    if len(workloads) < 2:
        return {}
    on_step(f"{engine.name}: threads and batches in turns")
    samples = measure_in_turns([subject.open(engine, each).run for each in workloads], min_seconds)
    subject.processes.forget()
    columns = {each: samples.of(i) for i, each in enumerate(workloads)}
    return {each: replace(column, ns=column.ns / each.batch) for each, column in columns.items()}


def _with_scaling(network: Record, scalings: Mapping[Workload, Column]) -> Record:
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


def _scaling(name: str, scalings: Mapping[Workload, Column], baseline: Workload, own: Workload) -> Ratio | None:
    return None if baseline == own else ratio(name, scalings[baseline], scalings[own])


def read_images(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the images (N, C, H, W) among the test vectors and the logits (N, classes) that PyTorch gave to them.

    Raises:
        BundleError: they are not there, or not arrays.
    """
    path = bundle.file(IMAGES)
    try:
        arrays = read_arrays(path)
        images, logits = arrays["images"], arrays["logits"]
        if not images.size:
            raise ValueError(f"images of shape {images.shape}")
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(
            f"{path}: no `images` and `logits` to be read in it ({error}); export the model again"
        ) from None
    return images, logits


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
    subject: Subject, engines: Sequence[Engine], workload: Workload, min_seconds: float
) -> list[Record]:
    opened = [subject.open(engine, workload) for engine in engines]
    _refuse_other_shapes(subject.bundle, engines, opened)
    samples = measure_in_turns([model.run for model in opened], min_seconds)
    subject.processes.forget()
    columns = {engine.name: samples.of(i) for i, engine in enumerate(engines)}
    return [
        replace(
            record(NETWORK, _setting(engine, workload), columns[engine.name]),
            file_bytes=subject.bundle.file(engine.file).stat().st_size,
            ratio=None if engine.name == BASELINE else ratio(BASELINE, columns[BASELINE], columns[engine.name]),
        )
        for engine in engines
    ]


def _refuse_other_shapes(bundle: Bundle, engines: Sequence[Engine], opened: Sequence[OpenedModel]) -> None:
    """A twin that answers with another shape is another network, and no time of it means anything."""
    shapes = {engine.file: model.output.shape for engine, model in zip(engines, opened, strict=True)}
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{file} {shape}" for file, shape in shapes.items())
        raise BundleError(f"{bundle.path}: its models answer with different shapes: {given}; export the model again")


def _profile_nodes(
    subject: Subject, engines: Sequence[Engine], workload: Workload, *, runs: int
) -> Mapping[str, list[Record]]:
    profiled = [engine for engine in engines if engine.open_profiled]
    with temporary_folder() as folder:
        opened = [subject.open(engine, workload, profile_to=folder) for engine in profiled]
        samples = interleave([model.run_twice for model in opened], min_rounds=WARMUP_ROUNDS + runs)
        # Of each two runs the second counts, here as elsewhere.
        times = [model.node_times(skip=2 * WARMUP_ROUNDS) for model in opened]
    subject.processes.forget()
    layers = {layer.name: layer_name(layer) for layer in subject.bundle.manifest.layers}
    return {
        engine.name: _node_records(
            subject.bundle.file(engine.file),
            _setting(engine, workload),
            [replace(time, runs_us=time.runs_us[1::2]) for time in found],
            samples.of(i).since(WARMUP_ROUNDS),
            layers,
        )
        for i, (engine, found) in enumerate(zip(profiled, times, strict=True))
    }


def _node_records(
    model: Path, setting: Setting, times: Sequence[NodeTime], runs: Column, layers: Mapping[str, str]
) -> list[Record]:
    nodes = original_nodes(times, read_nodes(model))
    return [_node_record(time, node, setting, runs, layers) for time, node in zip(times, nodes, strict=True)]


def _node_record(
    time: NodeTime, node: Node | None, setting: Setting, runs: Column, layers: Mapping[str, str]
) -> Record:
    subject = layer_of(node.name if node else time.name)
    measured = record(subject, setting, replace(runs, ns=1000 * np.array(time.runs_us)))
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


def _setting(engine: Engine, workload: Workload) -> Setting:
    return Setting(engine.name, engine.isa(), workload.threads, workload.batch)


def _count(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"
