"""How long single binary convolutions take, engine against engine; docs/benchmarks.md says what is in each time.

`layer_problems` has the layers, `layer_engines` what runs them. A result is checked before it is timed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.engine_process import EngineProcesses, OpenedModel
from bnas_deploy.runtime.bench.engines import BASELINE, LeftOut
from bnas_deploy.runtime.bench.layer_engines import ENGINE_VARIANTS, EngineVariant, LayerRunner, missing_engines
from bnas_deploy.runtime.bench.layer_problems import Problem, problem
from bnas_deploy.runtime.bench.openvino import UnsupportedLayerError
from bnas_deploy.runtime.bench.records import EngineSetting, Record, ratio, record
from bnas_deploy.runtime.bench.samples import MIN_RUNS, WARMUP_NS, Samples, interleave, measure_in_turns

WRONG_RESULT = "wrong result"
NOT_SUPPORTED = "not supported"


# --------------------------------------------------------------------------------------------------------------------
# Measuring


@lru_cache(maxsize=1)
def _drawn(layer: LayerCost, batch: int) -> Problem:
    return problem(layer, batch)


def open_variant(
    engine: str, format: str | None, layer: Mapping[str, Any], batch: int, path: str, threads: int
) -> LayerRunner:
    """Open a layer, given as the fields of its LayerCost, in a variant: what an `EngineProcess` calls."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in layer.items()}
    cost = LayerCost(**fields)
    (variant,) = (each for each in ENGINE_VARIANTS if (each.engine, each.format) == (engine, format))
    return variant.open(_drawn(cost, batch), Path(path), threads)


@dataclass(frozen=True)
class Entry:
    """A variant that is loaded, right, and ready to be timed with `threads`."""

    variant: EngineVariant
    threads: int
    model: OpenedModel


def measure_layers(
    layers: Sequence[LayerCost],
    *,
    threads: Sequence[int],
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> tuple[list[Record], list[LeftOut]]:
    """Measure every engine that is installed on every layer.

    Args:
        layers: what to measure.
        threads: numbers of threads; all of them, and all engines, take turns in one run.
        batch: images per run.
        min_seconds: how long to measure each layer, at least; engines and numbers of threads share it.
        on_step: is told what is being done, for people who wait.

    Returns:
        Records by number of threads, then layer, then engine; and what was not measured.

    Raises:
        RuntimeLibraryError: the operator library cannot be used, or gives a wrong result.
    """
    left_out = missing_engines()
    missing = {each.engine for each in left_out}
    variants = [variant for variant in ENGINE_VARIANTS if variant.engine not in missing]
    records: list[Record] = []
    with EngineProcesses() as processes:
        for layer in layers:
            on_step(layer.name)
            measured, wrong = _measure_layer(processes, problem(layer, batch), variants, threads, min_seconds)
            records += measured
            left_out += wrong
            processes.forget()
    return sorted(records, key=lambda each: threads.index(each.threads)), left_out


def _measure_layer(
    processes: EngineProcesses,
    given: Problem,
    variants: Sequence[EngineVariant],
    threads: Sequence[int],
    min_seconds: float,
) -> tuple[list[Record], list[LeftOut]]:
    with temporary_folder() as folder:
        entries, left_out = _open_all(processes, given, variants, threads, folder)
        calls = [entry.model.run for entry in entries]
        entries = _fastest(entries, interleave(calls, min_rounds=MIN_RUNS, min_ns=WARMUP_NS).ns)
        samples = measure_in_turns([entry.model.run for entry in entries], min_seconds)
    return list(_records(given, entries, samples)), left_out


def _open_all(
    processes: EngineProcesses, given: Problem, variants: Sequence[EngineVariant], threads: Sequence[int], folder: Path
) -> tuple[list[Entry], list[LeftOut]]:
    """Load every variant with every number of threads; engines that cannot, or give a wrong result, are left out."""
    entries: list[Entry] = []
    left_out: dict[str, LeftOut] = {}
    for variant, count in product(variants, threads):
        try:
            model = processes.of(variant.engine, count).open(
                open_variant,
                engine=variant.engine,
                format=variant.format,
                layer=asdict(given.layer),
                batch=len(given.x),
                path=str(folder / f"{variant.engine}.onnx"),
                threads=count,
            )
        except UnsupportedLayerError:
            left_out[variant.engine] = LeftOut(variant.engine, given.layer.name, NOT_SUPPORTED)
            continue
        if variant.is_right(given, model.output):
            entries.append(Entry(variant, count, model))
        elif variant.engine == "bnas":
            raise RuntimeLibraryError(
                f"{given.layer.name}: the operator library ({variant.isa()}, threads: {count}) gives a wrong result; "
                "nothing more was measured, please report this with your CPU's name"
            )
        else:
            left_out[variant.engine] = LeftOut(variant.engine, given.layer.name, WRONG_RESULT)
    return [entry for entry in entries if entry.variant.engine not in left_out], list(left_out.values())


def _fastest(entries: Sequence[Entry], samples_ns: NDArray[np.int64]) -> list[Entry]:
    """Keep, for each engine and number of threads, the variant that had the shortest run.

    Not the smallest median: these are few runs, and other work on the machine only ever makes them longer.
    """
    best: dict[tuple[str, int], tuple[int, Entry]] = {}
    for entry, shortest in zip(entries, samples_ns.min(axis=0).tolist(), strict=True):
        key = entry.variant.engine, entry.threads
        if key not in best or shortest < best[key][0]:
            best[key] = shortest, entry
    return [entry for _, entry in best.values()]


def _records(given: Problem, entries: Sequence[Entry], samples: Samples) -> Iterator[Record]:
    columns = {(entry.variant.engine, entry.threads): samples.of(i) for i, entry in enumerate(entries)}
    for entry in entries:
        engine, threads, batch = entry.variant.engine, entry.threads, len(given.x)
        baseline = columns.get((BASELINE, threads))
        own = columns[engine, threads]
        yield replace(
            record(given.layer.name, EngineSetting(engine, entry.variant.isa(), threads, batch), own),
            macs=given.layer.macs * batch,
            format=entry.variant.format,
            ratio=None if engine == BASELINE or baseline is None else ratio(BASELINE, baseline, own),
        )
