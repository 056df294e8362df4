"""How long a bundle takes, engine against engine; `answers` checks first that it is right."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import Bundle
from bnas_deploy.core.errors import printable
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.runtime.bench.engines import BASELINE, Engine
from bnas_deploy.runtime.bench.memory import peak_memory, shapes_of
from bnas_deploy.runtime.bench.profile import NodeTime, kind_of_node, layer_of, original_nodes
from bnas_deploy.runtime.bench.records import NETWORK, EngineSetting, Ratio, Record, layer_name, ratio, record
from bnas_deploy.runtime.bench.samples import WARMUP_ROUNDS, Column, interleave, measure_in_turns
from bnas_deploy.runtime.bench.subject import RunSetting, Subject, refuse_other_shapes, threads_text
from bnas_deploy.runtime.examples import feeds_of, read_examples
from bnas_deploy.runtime.onnx_file.reader import Node, read_nodes

CREATIONS = 5
"""Sessions whose median creation time counts, after one that loads what the process keeps."""

PROFILED_RUNS = 100
"""Enough for a median to settle; the profile of a thousand nodes then stays far below onnxruntime's limit of events."""


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
    examples = read_examples(bundle)
    with Subject.of(bundle, {batch: feeds_of(bundle, examples.inputs, batch) for batch in batches}) as subject:
        return _measure_subject(subject, engines, threads, min_seconds, on_step)


def _measure_subject(
    subject: "Subject",
    engines: Sequence[Engine],
    threads: Sequence[int],
    min_seconds: float,
    on_step: Callable[[str], object],
) -> list[Record]:
    bundle, batches = subject.bundle, list(subject.inputs)
    on_step("creation of sessions")
    creation_ms = _creation_ms(subject, engines, batches[0])
    scalings = _measure_scalings(subject, engines[0], threads, min_seconds, on_step)
    records: list[Record] = []
    for batch in batches:
        where = f", batch {batch}" if len(batches) > 1 else ""
        on_step(f"peak memory{where}")
        memory = {
            engine.name: peak_memory(engine.name, bundle.file(engine.file), shapes_of(subject.inputs[batch]))
            for engine in engines
        }
        for count in threads:
            on_step(f"{threads_text(count)}{where}: whole network")
            setting = RunSetting(count, batch)
            networks = _measure_networks(subject, engines, setting, min_seconds)
            on_step(f"{threads_text(count)}{where}: layer by layer")
            nodes = _profile_nodes(subject, engines, setting, runs=min(networks[0].runs, PROFILED_RUNS))
            for network in networks:
                name = network.engine
                whole = replace(network, memory=memory[name], creation_ms=creation_ms[name])
                if name == engines[0].name:
                    whole = _with_scaling(whole, scalings)
                records += [whole, *nodes.get(name, ())]
    return records


def _creation_ms(subject: Subject, engines: Sequence[Engine], batch: int) -> dict[str, float]:
    """Make sessions with one thread, engine by engine in turns, and return the median milliseconds of each."""
    rounds: list[list[int]] = []
    for _ in range(1 + CREATIONS):
        opened = [subject.open(engine, RunSetting(1, batch)) for engine in engines]
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
) -> dict[RunSetting, Column]:
    """Run one engine with all numbers of threads and images in turns: nanoseconds per image.

    In a measurement of its own, because those of the engines come one after the other, and the machine changes.
    """
    settings = [RunSetting(count, batch) for batch in subject.inputs for count in threads]
    if len(settings) < 2:
        return {}
    on_step(f"{engine.name}: threads and batches in turns")
    samples = measure_in_turns([subject.open(engine, each).run for each in settings], min_seconds)
    subject.processes.forget()
    columns = {each: samples.of(i) for i, each in enumerate(settings)}
    return {each: replace(column, ns=column.ns / each.batch) for each, column in columns.items()}


def _with_scaling(network: Record, scalings: Mapping[RunSetting, Column]) -> Record:
    if not scalings:
        return network
    own = RunSetting(network.threads, network.batch)
    fewest = RunSetting(min(each.threads for each in scalings), own.batch)
    smallest = RunSetting(own.threads, min(each.batch for each in scalings))
    return replace(
        network,
        thread_scaling=_scaling(threads_text(fewest.threads), scalings, fewest, own),
        batch_scaling=_scaling(f"batch {smallest.batch}", scalings, smallest, own),
    )


def _scaling(name: str, scalings: Mapping[RunSetting, Column], baseline: RunSetting, own: RunSetting) -> Ratio | None:
    return None if baseline == own else ratio(name, scalings[baseline], scalings[own])


def _measure_networks(
    subject: Subject, engines: Sequence[Engine], setting: RunSetting, min_seconds: float
) -> list[Record]:
    opened = [subject.open(engine, setting) for engine in engines]
    refuse_other_shapes(subject.bundle, engines, opened)
    samples = measure_in_turns([model.run for model in opened], min_seconds)
    subject.processes.forget()
    columns = {engine.name: samples.of(i) for i, engine in enumerate(engines)}
    return [
        replace(
            record(NETWORK, _setting(engine, setting), columns[engine.name]),
            file_bytes=subject.bundle.file(engine.file).stat().st_size,
            ratio=None if engine.name == BASELINE else ratio(BASELINE, columns[BASELINE], columns[engine.name]),
        )
        for engine in engines
    ]


def _profile_nodes(
    subject: Subject, engines: Sequence[Engine], setting: RunSetting, *, runs: int
) -> Mapping[str, list[Record]]:
    profiled = [engine for engine in engines if engine.open_profiled]
    with temporary_folder() as folder:
        opened = [subject.open(engine, setting, profile_to=folder) for engine in profiled]
        samples = interleave([model.run_twice for model in opened], min_rounds=WARMUP_ROUNDS + runs)
        # Of each two runs the second counts, here as elsewhere.
        times = [model.node_times(skip=2 * WARMUP_ROUNDS) for model in opened]
    subject.processes.forget()
    layers = {layer.name: layer_name(layer) for layer in subject.bundle.manifest.layers}
    return {
        engine.name: _node_records(
            subject.bundle.file(engine.file),
            _setting(engine, setting),
            [replace(time, runs_us=time.runs_us[1::2]) for time in found],
            samples.of(i).since(WARMUP_ROUNDS),
            layers,
        )
        for i, (engine, found) in enumerate(zip(profiled, times, strict=True))
    }


def _node_records(
    model: Path, setting: EngineSetting, times: Sequence[NodeTime], runs: Column, layers: Mapping[str, str]
) -> list[Record]:
    nodes = original_nodes(times, read_nodes(model))
    return [_node_record(time, node, setting, runs, layers) for time, node in zip(times, nodes, strict=True)]


def _node_record(
    time: NodeTime, node: Node | None, setting: EngineSetting, runs: Column, layers: Mapping[str, str]
) -> Record:
    subject = layer_of(node.name if node else time.name)
    # A node's name may be any bytes; a report is text.
    measured = record(printable(subject), setting, replace(runs, ns=1000 * np.array(time.runs_us)))
    return replace(measured, kind=kind_of_node(time, node, layers), layer=layers.get(subject))


def _setting(engine: Engine, setting: RunSetting) -> EngineSetting:
    return EngineSetting(engine.name, engine.isa(), setting.threads, setting.batch)
