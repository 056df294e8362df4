"""Samples of times, taken in turns, and which of them count."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.runtime.bench.waiting import Run, Stopwatch

MIN_RUNS = 10
"""However slow a network is: with fewer runs a 90th percentile says nothing."""

WARMUP_ROUNDS = 3
WARMUP_NS = 200_000_000
"""A processor needs some tenths of a second to raise its clock; the first runs also fill onnxruntime's arena."""

PATIENCE = 3
"""Where other programs disturb so many runs that too few are left, measuring goes on for this many times as long."""


@dataclass(frozen=True)
class Samples:
    """How long each call took in each round, and whether it was preempted: both (rounds, calls).

    `told` is whether the system tells which runs were preempted; where not, none is marked.
    """

    ns: NDArray[np.int64]
    preempted: NDArray[np.bool_]
    told: bool

    def of(self, call: int) -> "Column":
        """Return what was measured of one call."""
        return Column(self.ns[:, call], self.preempted[:, call], self.told)


@dataclass(frozen=True)
class Column:
    """The samples of one call, round by round: both arrays are (rounds,)."""

    ns: NDArray[np.int64] | NDArray[np.float64]
    preempted: NDArray[np.bool_]
    told: bool

    def since(self, round_: int) -> "Column":
        """Leave out the rounds before one."""
        return Column(self.ns[round_:], self.preempted[round_:], self.told)

    def kept_ns(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """Return the samples of runs that were not preempted; all, where that is too few."""
        kept = self.undisturbed()
        return self.ns if kept is None else self.ns[kept]

    def undisturbed(self, *others: "Column") -> NDArray[np.bool_] | None:
        """Return in which rounds neither this call nor one of the others was preempted; None if that is too few."""
        kept = ~np.any([self.preempted, *(other.preempted for other in others)], axis=0)
        return kept if kept.all() or kept.sum() >= MIN_RUNS else None


def interleave(
    calls: Sequence[Callable[[], Run]],
    *,
    min_rounds: int,
    min_ns: int = 0,
    patience: int = 1,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Samples:
    """Call A, B, A, B, ... and return how long each says that it took.

    In turns, because what slows a machine down for a while then slows all of them. Ends when there were `min_rounds`
    rounds and they took `min_ns`; where some call was preempted in all but fewer than `min_rounds` of them, it goes on
    for up to `patience` times `min_ns`.
    """
    start = clock()
    rounds: list[list[Run]] = []
    undisturbed = np.zeros(len(calls), np.int64)
    while (
        len(rounds) < min_rounds
        or clock() - start < min_ns
        or (undisturbed.min(initial=min_rounds) < min_rounds and clock() - start < patience * min_ns)
    ):
        rounds.append([call() for call in calls])
        undisturbed += [not run.preempted for run in rounds[-1]]
    return Samples(
        np.array([[run.ns for run in each] for each in rounds], np.int64),
        np.array([[run.preempted for run in each] for each in rounds], np.bool_),
        told=all(run.waited_ns is not None for each in rounds for run in each),
    )


def measure_in_turns(calls: Sequence[Callable[[], Run]], min_seconds: float) -> Samples:
    """Warm up, and then interleave the calls for `min_seconds` at least."""
    interleave(calls, min_rounds=WARMUP_ROUNDS, min_ns=WARMUP_NS)
    return interleave(calls, min_rounds=MIN_RUNS, min_ns=round(min_seconds * 1e9), patience=PATIENCE)


def timed(calls: Sequence[Callable[[], object]], *, threads: int) -> list[Callable[[], Run]]:
    """Have calls in this process, each of which shares its work among `threads`, tell how long they took."""
    stopwatch = Stopwatch(threads=threads)
    return [partial(stopwatch.time, call) for call in calls]
