"""Timing arithmetic on known samples, and turn-taking under a clock that only moves when told. Nothing is timed."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bnas_deploy.cost import LayerCost
from bnas_deploy.runtime.measure import (
    Ratio,
    Setting,
    Workload,
    _with_scaling,
    interleave,
    interleave_warm,
    layer_name,
    ratio,
    record,
)

SETTING = Setting(engine="bnas", isa="portable", threads=2, batch=3)


class Clock:
    """Stands still until a call moves it."""

    def __init__(self) -> None:
        self.now = 1_000
        self.called: list[str] = []

    def __call__(self) -> int:
        return self.now

    def call(self, name: str, *durations: int) -> Callable[[], None]:
        """Return a callable that takes the durations in turn, and the last one from then on."""
        left = list(durations)

        def run() -> None:
            self.called.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def test_calls_take_turns() -> None:
    clock = Clock()
    calls = [clock.call("A", 10, 11, 12), clock.call("B", 100, 110, 120)]
    samples = interleave(calls, min_rounds=3, clock=clock)
    assert clock.called == ["A", "B"] * 3
    assert samples.tolist() == [[10, 100], [11, 110], [12, 120]]
    assert samples.dtype == np.int64


@pytest.mark.parametrize(
    ("min_rounds", "min_ns", "rounds"),
    [(4, 0, 4), (1, 0, 1), (1, 300, 3), (1, 301, 4), (5, 300, 5)],
    ids=["rounds", "one", "time", "time is not cut short", "both"],
)
def test_it_goes_on_for_both_minima(min_rounds: int, min_ns: int, rounds: int) -> None:
    clock = Clock()
    samples = interleave([clock.call("A", 40), clock.call("B", 60)], min_rounds=min_rounds, min_ns=min_ns, clock=clock)
    assert samples.shape == (rounds, 2)


def test_the_second_of_two_runs_counts() -> None:
    called: list[str] = []
    samples = interleave_warm([lambda: called.append("A"), lambda: called.append("B")], min_rounds=2, min_ns=0)
    assert called == ["A", "A", "B", "B"] * 2
    assert samples.shape == (2, 2)


def test_scaling_is_by_threads_with_the_same_batch_and_by_batch_with_the_same_threads() -> None:
    ns_per_image = {
        Workload(threads=1, batch=1): np.full(3, 800.0),
        Workload(threads=2, batch=1): np.full(3, 500.0),
        Workload(threads=1, batch=8): np.full(3, 600.0),
        Workload(threads=2, batch=8): np.full(3, 400.0),
    }
    network = record("network", replace(SETTING, threads=2, batch=8), [3200])
    scaled = _with_scaling(network, ns_per_image)
    assert scaled.thread_scaling == Ratio("1 thread", 1.5, 1.5, 1.5)
    assert scaled.batch_scaling == Ratio("batch 1", 1.25, 1.25, 1.25)
    smallest = _with_scaling(replace(network, threads=1, batch=1), ns_per_image)
    assert (smallest.thread_scaling, smallest.batch_scaling) == (None, None)
    assert _with_scaling(network, {}) == network


def test_percentiles_are_those_of_numpy(rng: np.random.Generator) -> None:
    samples = rng.integers(1_000_000, 9_000_000, 101)
    measured = record("network", SETTING, samples)
    # Of 101 samples the percentiles are samples: the 51st, the 91st and the 100th in order.
    ordered = np.sort(samples) / 1e6
    assert (measured.median_ms, measured.p90_ms, measured.p99_ms) == (ordered[50], ordered[90], ordered[99])
    assert (measured.subject, measured.runs) == ("network", 101)
    assert (measured.engine, measured.isa, measured.threads, measured.batch) == ("bnas", "portable", 2, 3)


def test_percentiles_between_samples_are_interpolated() -> None:
    measured = record("network", SETTING, [1_000_000, 2_000_000])
    assert measured.median_ms == 1.5
    assert measured.p90_ms == pytest.approx(1.9, rel=1e-15)


def test_figures_are_plain_numbers() -> None:
    measured = record("network", SETTING, np.array([5, 6, 7]))
    assert type(measured.median_ms) is float
    assert type(measured.runs) is int


def test_the_ratio_is_taken_round_by_round() -> None:
    # The machine was three times slower in the second round and nine times in the third: every pair says 2, although
    # the ratio of a slow run to a quick one could be anything from 0.2 to 18.
    baseline = np.array([200, 600, 1800])
    assert ratio("ort-fp32", baseline, baseline // 2) == Ratio("ort-fp32", 2.0, 2.0, 2.0)


def test_the_spread_of_the_ratio() -> None:
    ratios = np.arange(1, 12)  # so that the 10th percentile is the second and the 90th the last but one
    assert ratio("ort-fp32", ratios * 10, np.full(11, 10)) == Ratio("ort-fp32", 2.0, 6.0, 10.0)
    assert type(ratio("ort-fp32", ratios, ratios).median) is float


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
