"""Records -> rows: numbers, unrounded, gathered as tables and pictures show them."""

import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from bnas_deploy.runtime.bench.profile import BINARY, LAYER_KINDS
from bnas_deploy.runtime.bench.records import Record


@dataclass(frozen=True)
class LayerRow:
    """All the layers of one shape: how many, and microseconds of one of them by engine."""

    layer: str
    kind: str  # in the first engine that has it, which is the one with the binary convolutions
    count: int
    each_us: Mapping[str, float]


@dataclass(frozen=True)
class Breakdown:
    """Microseconds of one run, the sum of its nodes' medians, in three parts that can be made faster apart.

    `other_layers_us` is of the layers with weights that are not binary: float and int8 convolutions, the classifier.
    Glue is all else: what adds, joins, pools, scales, and changes layouts or number formats.
    """

    binary_us: float
    other_layers_us: float
    glue_us: float

    @property
    def total_us(self) -> float:
        """Return the time of all nodes."""
        return self.binary_us + self.other_layers_us + self.glue_us

    def share(self, us: float) -> float:
        """Return which part of the whole `us` is; of nothing, none."""
        return us / self.total_us if self.total_us else 0.0


@dataclass(frozen=True)
class KindRow:
    """Microseconds of one run that one kind of work took, by engine."""

    kind: str
    us: Mapping[str, float]


def layer_rows(records: Iterable[Record]) -> list[LayerRow]:
    """Group the layers by shape, binary ones first, each in running order."""
    by_node = layers_by_name(records)
    by_shape: dict[tuple[str, str], list[list[Record]]] = {}
    for kind in LAYER_KINDS:
        for nodes in by_node.values():
            if nodes[0].kind == kind:
                by_shape.setdefault((nodes[0].layer or nodes[0].subject, kind), []).append(nodes)
    return [
        LayerRow(layer, kind, len(nodes), _mean_us(each for node in nodes for each in node))
        for (layer, kind), nodes in by_shape.items()
    ]


def layers_by_name(records: Iterable[Record]) -> dict[str, list[Record]]:
    """Gather the records of each layer with weights, in running order; one record per engine that has it."""
    found: dict[str, list[Record]] = {}
    for each in records:
        if each.kind in LAYER_KINDS:
            found.setdefault(each.subject, []).append(each)
    return found


def breakdown_by_engine(records: Iterable[Record]) -> dict[str, Breakdown]:
    """Add up the nodes' medians of each engine that was profiled."""
    nodes: dict[str, list[Record]] = {}
    for each in records:
        if each.kind:
            nodes.setdefault(each.engine, []).append(each)
    return {engine: _breakdown(found) for engine, found in nodes.items()}


def _breakdown(nodes: Sequence[Record]) -> Breakdown:
    def added_up(kinds: Collection[str]) -> float:
        return sum(1000 * each.median_ms for each in nodes if each.kind in kinds)

    glue = {each.kind for each in nodes if each.kind} - set(LAYER_KINDS)
    return Breakdown(added_up([BINARY]), added_up(set(LAYER_KINDS) - {BINARY}), added_up(glue))


def kind_rows(records: Iterable[Record]) -> list[KindRow]:
    """Add up the nodes' medians by kind of work: layers first, then glue, the slowest first."""
    sums: dict[str, dict[str, float]] = {}
    for each in records:
        if each.kind:
            us = sums.setdefault(each.kind, {})
            us[each.engine] = us.get(each.engine, 0) + 1000 * each.median_ms
    glue = sorted(sums.keys() - set(LAYER_KINDS), key=lambda kind: (-max(sums[kind].values()), kind))
    return [KindRow(kind, sums[kind]) for kind in (*LAYER_KINDS, *glue) if kind in sums]


@dataclass(frozen=True)
class SingleRow:
    """One layer that was measured by itself: microseconds by engine, and how many times as fast the first engine is.

    `macs` are of one run. `times_as_fast` has an entry for each other engine. `scaling` compares the first engine with
    itself at the fewest threads of the report; None where these are they. `disturbed` are the engines where other
    programs left too few runs to tell how many times.
    """

    layer: str
    macs: int
    us: Mapping[str, float]
    times_as_fast: Mapping[str, float]
    scaling: float | None
    disturbed: tuple[str, ...] = ()

    @property
    def gmacs_per_second(self) -> Mapping[str, float]:
        """Return billions of multiply-accumulates per second by engine."""
        return {engine: self.macs / (1000 * us) for engine, us in self.us.items()}


def single_rows(records: Iterable[Record], threads: int) -> list[SingleRow]:
    """Gather the layers that were measured by themselves, in the order of the records, with this many threads."""
    by_layer: dict[str, list[Record]] = {}
    for each in records:
        if each.macs is not None:
            by_layer.setdefault(each.subject, []).append(each)
    return [
        _single_row(layer, group, threads)
        for layer, group in by_layer.items()
        if any(each.threads == threads for each in group)
    ]


def _single_row(layer: str, records: Sequence[Record], threads: int) -> SingleRow:
    here = [each for each in records if each.threads == threads]
    first, *others = here
    fewest = min((each for each in records if each.engine == first.engine), key=lambda each: each.threads)
    return SingleRow(
        layer,
        first.macs or 0,
        {each.engine: 1000 * each.median_ms for each in here},
        {other.engine: times_as_fast(first, other) for other in others},
        None if fewest is first else fewest.median_ms / first.median_ms,
        tuple(other.engine for other in others if is_disturbed(first, other)),
    )


def times_as_fast(first: Record, other: Record) -> float:
    """Return how many times as fast the first is.

    From ratios to the same runs of the baseline where there are some: they are steadier than medians.
    """
    if first.ratio and other.engine == first.ratio.baseline:
        return first.ratio.median
    if first.ratio and other.ratio:
        return first.ratio.median / other.ratio.median
    return other.median_ms / first.median_ms


def is_disturbed(first: Record, other: Record) -> bool:
    """Tell whether other programs left too few runs to tell how many times as fast the first is."""
    compared = [each.ratio for each in (first, other) if each.ratio]
    # Without ratios it is the medians that are compared.
    return any(each.disturbed for each in compared or (first, other))


def _mean_us(records: Iterable[Record]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for each in records:
        found.setdefault(each.engine, []).append(1000 * each.median_ms)
    return {engine: statistics.fmean(times) for engine, times in found.items()}
