"""Timing arithmetic on known samples, and turn-taking under a clock that only moves when told. Nothing is timed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.networks import _with_scaling
from bnas_deploy.runtime.bench.records import EngineSetting, Ratio, layer_name, ratio, record
from bnas_deploy.runtime.bench.samples import Column, interleave
from bnas_deploy.runtime.bench.subject import RunSetting
from bnas_deploy.runtime.bench.waiting import Run

SETTING = EngineSetting(engine="bnas", isa="portable", threads=2, batch=3)
PREEMPTED_NS = 1_000_000


def column(*ns: float, preempted: tuple[int, ...] = (), told: bool = True) -> Column:
    """Samples of which those at the places `preempted` were preempted."""
    return Column(np.array(ns), np.isin(np.arange(len(ns)), preempted), told)


class Clock:
    """Stands still until a call moves it."""

    def __init__(self) -> None:
        self.now = 1_000
        self.called: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, *durations: int, waited_ns: int | None = 0) -> Callable[[], Run]:
        """Return a callable that takes the durations in turn, and the last one from then on."""
        left = list(durations)

        def run() -> Run:
            self.called.append(name)
            duration = left.pop(0) if len(left) > 1 else left[0]
            self.now += duration
            return Run(duration, waited_ns)

        return run


def test_calls_take_turns() -> None:
    clock = Clock()
    calls = [clock.call("A", 10, 11, 12), clock.call("B", 100, 110, 120, waited_ns=PREEMPTED_NS)]
    samples = interleave(calls, min_rounds=3, clock=clock)
    assert clock.called == ["A", "B"] * 3
    assert samples.ns.tolist() == [[10, 100], [11, 110], [12, 120]]
    assert samples.ns.dtype == np.int64
    assert samples.preempted.tolist() == [[False, True]] * 3
    assert samples.told


def test_what_the_system_does_not_tell_is_not_told() -> None:
    clock = Clock()
    samples = interleave([clock.call("A", 10), clock.call("B", 10, waited_ns=None)], min_rounds=2, clock=clock)
    assert not samples.told
    assert not samples.preempted.any()


@pytest.mark.parametrize(
    ("min_rounds", "min_ns", "rounds"),
    [(4, 0, 4), (1, 0, 1), (1, 300, 3), (1, 301, 4), (5, 300, 5)],
    ids=["rounds", "one", "time", "time is not cut short", "both"],
)
def test_it_goes_on_for_both_minima(min_rounds: int, min_ns: int, rounds: int) -> None:
    clock = Clock()
    samples = interleave([clock.call("A", 40), clock.call("B", 60)], min_rounds=min_rounds, min_ns=min_ns, clock=clock)
    assert samples.ns.shape == (rounds, 2)


@pytest.mark.parametrize(("waited_ns", "rounds"), [(0, 4), (PREEMPTED_NS, 12)], ids=["undisturbed", "disturbed"])
def test_it_goes_on_where_too_few_runs_were_undisturbed(waited_ns: int, rounds: int) -> None:
    clock = Clock()
    calls = [clock.call("A", 40), clock.call("B", 60, waited_ns=waited_ns)]
    assert interleave(calls, min_rounds=3, min_ns=400, patience=3, clock=clock).ns.shape == (rounds, 2)


def test_scaling_is_by_threads_with_the_same_batch_and_by_batch_with_the_same_threads() -> None:
    ns_per_image = {
        RunSetting(threads=1, batch=1): column(800, 800, 800),
        RunSetting(threads=2, batch=1): column(500, 500, 500),
        RunSetting(threads=1, batch=8): column(600, 600, 600),
        RunSetting(threads=2, batch=8): column(400, 400, 400),
    }
    network = record("network", replace(SETTING, threads=2, batch=8), column(3200))
    scaled = _with_scaling(network, ns_per_image)
    assert scaled.thread_scaling == Ratio("1 thread", 1.5, 1.5, 1.5, pairs=3)
    assert scaled.batch_scaling == Ratio("batch 1", 1.25, 1.25, 1.25, pairs=3)
    smallest = _with_scaling(replace(network, threads=1, batch=1), ns_per_image)
    assert (smallest.thread_scaling, smallest.batch_scaling) == (None, None)
    assert _with_scaling(network, {}) == network


def test_percentiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    samples = rng.integers(1_000_000, 9_000_000, 101)
    measured = record("network", SETTING, column(*samples))
    # Of 101 samples the percentiles are samples: the 51st, the 91st and the 100th in order.
    ordered = np.sort(samples) / 1e6
    assert (measured.median_ms, measured.p90_ms, measured.p99_ms) == (ordered[50], ordered[90], ordered[99])
    assert (measured.subject, measured.runs, measured.preempted) == ("network", 101, 0)
    assert (measured.engine, measured.isa, measured.threads, measured.batch) == ("bnas", "portable", 2, 3)


def test_percentiles_between_samples_are_interpolated() -> None:
    measured = record("network", SETTING, column(1_000_000, 2_000_000))
    assert measured.median_ms == 1.5
    assert measured.p90_ms == pytest.approx(1.9, rel=1e-15)


def test_figures_are_plain_numbers() -> None:
    measured = record("network", SETTING, column(5, 6, 7))
    assert type(measured.median_ms) is float
    assert type(measured.runs) is int


def test_preempted_runs_are_left_out() -> None:
    # Ten runs of 2 ms, and three that took a hundred times as long because something else had the processor.
    samples = column(*[2_000_000] * 10, *[200_000_000] * 3, preempted=(10, 11, 12))
    measured = record("network", SETTING, samples)
    assert (measured.median_ms, measured.p99_ms) == (2.0, 2.0)
    assert (measured.runs, measured.preempted, measured.disturbed) == (10, 3, False)
    baseline = column(*[4_000_000] * 13, preempted=(0, 10))
    # Without the first pair, too, only nine are left: then all count, and that is said.
    assert ratio("ort-fp32", baseline, samples) == Ratio("ort-fp32", 0.02, 2.0, 2.0, 13, 4, disturbed=True)
    steady = ratio("ort-fp32", column(*[4_000_000] * 13), samples)
    assert steady == Ratio("ort-fp32", 2.0, 2.0, 2.0, pairs=10, preempted=3)


def test_where_too_few_runs_were_undisturbed_all_count_and_it_is_said() -> None:
    measured = record("network", SETTING, column(*[2_000_000] * 9, *[8_000_000] * 20, preempted=tuple(range(9, 29))))
    assert (measured.median_ms, measured.runs, measured.preempted, measured.disturbed) == (8.0, 29, 20, True)


def test_what_is_not_told_has_no_count() -> None:
    assert record("network", SETTING, column(5, 6, 7, told=False)).preempted is None


def test_the_ratio_is_taken_round_by_round() -> None:
    # The machine was three times slower in the second round and nine times in the third: every pair says 2, although
    # the ratio of a slow run to a quick one could be anything from 0.2 to 18.
    slow, quick = column(200, 600, 1800), column(100, 300, 900)
    assert ratio("ort-fp32", slow, quick) == Ratio("ort-fp32", 2.0, 2.0, 2.0, pairs=3)


def test_the_spread_of_the_ratio() -> None:
    ratios = np.arange(1, 12)  # so that the 10th percentile is the second and the 90th the last but one
    found = ratio("ort-fp32", column(*ratios * 10), column(*[10] * 11))
    assert found == Ratio("ort-fp32", 2.0, 6.0, 10.0, pairs=11)
    assert type(found.median) is float


@pytest.mark.parametrize(
    ("kernel", "stride", "dilation", "groups", "name"),
    [
        ((3, 3), (1, 1), (1, 1), 1, "56x28 64->32 k3 s1 d1"),
        ((5, 5), (2, 2), (2, 2), 1, "56x28 64->32 k5 s2 d2"),
        ((1, 3), (2, 1), (1, 1), 4, "56x28 64->32 k1x3 s2x1 d1 g4"),
    ],
)
def test_layers_are_named_by_what_decides_their_time(
    kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int], groups: int, name: str
) -> None:
    cost = LayerCost("cells.0", (64, 56, 28), (32, 14, 7), kernel, stride, dilation, groups, 1)
    assert layer_name(cost) == name
