"""The few figures that decide: how fast, what is left to gain, how large. Numbers, unrounded."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bnas_deploy.report.rows import Breakdown, breakdown_by_engine, is_disturbed, times_as_fast
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record


@dataclass(frozen=True)
class Ceilings:
    """How many times as fast as `baseline` a network would be if a part of its work took no time (Amdahl's law).

    With a share s of the time, that is the measured ratio / (1 - s). None where that part is all that it does.
    """

    baseline: str
    free_binary: float | None
    free_glue: float | None
    free_both: float | None


@dataclass(frozen=True)
class Summary:
    """What was measured of one network with one number of threads and of images per run.

    `engine` is the one that all is about, and the others are its twins. `times_as_fast` is how many times as fast it
    is as each twin; in `disturbed` are those where other programs left too few runs to tell. `file_share` is its file's
    size over each twin's. The work is that of one run, from the profile, and `nodes_of_run` the sum of all nodes over
    the run that was measured without a profiler. Memory and creation are with one thread.
    """

    engine: str
    isa: str
    threads: int
    batch: int
    median_ms: Mapping[str, float]
    image_ms: Mapping[str, float]
    times_as_fast: Mapping[str, float]
    disturbed: tuple[str, ...]
    work: Mapping[str, Breakdown]
    nodes_of_run: Mapping[str, float]
    glue_share: float | None
    ceilings: Ceilings | None
    file_bytes: Mapping[str, int]
    file_share: Mapping[str, float]
    activation_bytes: Mapping[str, int]
    creation_ms: Mapping[str, float]
    thread_scaling: Ratio | None
    batch_scaling: Ratio | None


def summaries(records: Iterable[Record]) -> list[Summary]:
    """Summarise each number of threads and images for which a network was measured, in the order of the records."""
    by_setting: dict[tuple[int, int], list[Record]] = {}
    for each in records:
        by_setting.setdefault((each.threads, each.batch), []).append(each)
    return [
        _summary([each for each in group if each.subject == NETWORK], group)
        for group in by_setting.values()
        if any(each.subject == NETWORK for each in group)
    ]


def _summary(networks: Sequence[Record], records: Sequence[Record]) -> Summary:
    own, *twins = networks
    work = breakdown_by_engine(records)
    file_bytes = _by_engine(networks, lambda each: each.file_bytes)
    return Summary(
        own.engine,
        own.isa,
        own.threads,
        own.batch,
        median_ms={each.engine: each.median_ms for each in networks},
        image_ms={each.engine: each.median_ms / each.batch for each in networks},
        times_as_fast={twin.engine: times_as_fast(own, twin) for twin in twins},
        disturbed=tuple(twin.engine for twin in twins if is_disturbed(own, twin)),
        work=work,
        nodes_of_run={
            each.engine: work[each.engine].total_us / (1000 * each.median_ms)
            for each in networks
            if each.engine in work
        },
        glue_share=work[own.engine].share(work[own.engine].glue_us) if own.engine in work else None,
        ceilings=_ceilings(own.ratio, work.get(own.engine)),
        file_bytes=file_bytes,
        file_share={
            twin.engine: file_bytes[own.engine] / file_bytes[twin.engine]
            for twin in twins
            if file_bytes.keys() >= {own.engine, twin.engine}
        },
        activation_bytes=_by_engine(networks, lambda each: each.memory.activation_bytes if each.memory else None),
        creation_ms=_by_engine(networks, lambda each: each.creation_ms),
        thread_scaling=own.thread_scaling,
        batch_scaling=own.batch_scaling,
    )


Figure = TypeVar("Figure")


def _by_engine(records: Iterable[Record], figure: Callable[[Record], Figure | None]) -> dict[str, Figure]:
    found = {each.engine: figure(each) for each in records}
    return {engine: value for engine, value in found.items() if value is not None}


def _ceilings(ratio: Ratio | None, work: Breakdown | None) -> Ceilings | None:
    if ratio is None or work is None:
        return None

    def without(us: float) -> float | None:
        return ratio.median * work.total_us / (work.total_us - us) if us < work.total_us else None

    return Ceilings(
        ratio.baseline, without(work.binary_us), without(work.glue_us), without(work.binary_us + work.glue_us)
    )
