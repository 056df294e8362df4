"""Every kind of work gives the right result before it is timed, and times are what is left beside a run's cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.errors import RuntimeLibraryError
from bnas_deploy.latency import CONVOLUTIONS, KINDS, RUN, Work
from bnas_deploy.runtime import op_times
from bnas_deploy.runtime.op_times import PROBES, Probe, layer_of, measure_works
from bnas_deploy.runtime.samples import Samples

WORKS = (
    RUN,
    *(Work(kind, 5, 7 if "preprocess" in kind else 5, 9, 9, stride) for kind in CONVOLUTIONS for stride in (1, 2)),
    *(Work(kind, 5, 5, 8, 6, stride) for kind in ("max_pool_3x3", "avg_pool_3x3") for stride in (1, 2)),
    Work("skip", 6, 8, 8, 8, 2),
    Work("add", 5, 5, 8, 8),
    Work("fused_add", 5, 5, 9, 9),
    Work("concat", 3, 16, 4, 4),
    Work("slice", 16, 4, 4, 4),
    Work("stem_cifar", 3, 12, 8, 8),
    Work("stem_imagenet", 3, 8, 16, 16),
    Work("classifier", 16, 10, 7, 7),
)


def test_every_kind_is_measured() -> None:
    assert PROBES.keys() == set(KINDS) == {work.kind for work in WORKS}


@pytest.mark.parametrize("batch", [1, 2])
def test_results_are_right_and_times_come_back(batch: int) -> None:
    times = measure_works(WORKS, threads=1, batch=batch, min_seconds=0)
    assert [time.work for time in times] == list(WORKS)
    assert all(0 <= time.p10_us <= time.median_us <= time.p90_us and time.runs >= 10 for time in times)


def test_a_run_is_measured_even_if_it_is_not_asked_for() -> None:
    assert [time.work for time in measure_works(WORKS[-1:], threads=1, batch=1, min_seconds=0)] == [RUN, WORKS[-1]]


@pytest.mark.parametrize("work", WORKS[1:], ids=str)
def test_a_wrong_result_is_refused(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(work: Work, batch: int) -> Probe:
        probe = make(work, batch)
        answer = probe.answer.copy()
        answer.flat[-1] += 1
        return replace(probe, answer=answer)

    make = PROBES[work.kind]
    monkeypatch.setitem(op_times.PROBES, work.kind, off)
    with pytest.raises(RuntimeLibraryError) as refused:
        measure_works([work], threads=1, batch=1, min_seconds=0)
    assert refused.value.message == (
        f"{work}: gives a wrong result (threads: 1); nothing was measured, please report this with your CPU's name"
    )


def undisturbed(ns: np.ndarray) -> Samples:
    return Samples(ns, np.zeros(ns.shape, np.bool_), told=True)


def test_preempted_runs_are_left_out_on_either_side() -> None:
    pool = Work("max_pool_3x3", 5, 5, 8, 8)
    running = [op_times._Running(RUN, 1, None), op_times._Running(pool, 8, None)]  # type: ignore[arg-type]  # not run
    ns = np.array([[2_000, 18_000]] * 12)
    ns[0, 0] = ns[1, 1] = 9_000_000
    run, time = op_times._times(running, Samples(ns, ns > 1_000_000, told=True))
    assert (run.runs, run.p90_us) == (11, 2.0)
    assert (time.runs, time.p10_us, time.p90_us) == (10, 2.0, 2.0)


def test_the_cost_of_a_run_is_taken_off_and_shared_by_the_copies() -> None:
    pool = Work("max_pool_3x3", 5, 5, 8, 8)
    running = [op_times._Running(RUN, 1, None), op_times._Running(pool, 8, None)]  # type: ignore[arg-type]  # not run
    samples = np.array([[2_000, 18_000], [3_000, 27_000], [2_000, 1_000]])
    run, time = op_times._times(running, undisturbed(samples))
    assert (run.median_us, time.runs) == (2.0, 3)
    assert time.median_us == 2.0  # of 16, 24 and 0 microseconds (no time is negative) for eight copies


def test_a_fused_sum_takes_what_the_convolution_takes_longer() -> None:
    added, convolution = Work("fused_add", 5, 5, 9, 9), Work("bin_conv_3x3", 5, 5, 9, 9)
    running = [op_times._Running(work, 8, None) for work in (RUN, added, convolution)]  # type: ignore[arg-type]  # not run
    _, time, _ = op_times._times(running, undisturbed(np.array([[2_000, 34_000, 18_000]])))
    assert time.median_us == 2.0


def test_copies_are_not_merged(tmp_path: Path) -> None:
    """Onnxruntime does equal nodes once; each copy has an input of its own."""
    probe = PROBES["max_pool_3x3"](Work("max_pool_3x3", 64, 64, 32, 32), 1)
    times = {}
    for copies in (2, 8):
        path = tmp_path / f"{copies}.onnx"
        path.write_bytes(op_times._model(replace(probe, copies=copies)))
        runner = op_times.OrtRunner(path, probe.x, threads=1, library=False, profile_to=tmp_path)
        times[copies] = [time for time in runner.node_times(skip=-1) if time.op_type == "MaxPool"]
    assert {copies: len(found) for copies, found in times.items()} == {2: 2, 8: 8}


def test_layers_are_those_of_the_networks() -> None:
    layer = layer_of(Work("bin_dil_conv_5x5", 36, 36, 32, 32, 2))
    assert (layer.kernel, layer.stride, layer.dilation, layer.weight_bits) == ((5, 5), (2, 2), (2, 2), 1)
    assert (layer.input, layer.output) == ((36, 32, 32), (36, 16, 16))
    assert layer_of(Work("skip", 72, 288, 32, 32, 2)).kernel == (2, 2)
    assert layer_of(Work("preprocess_3x3", 72, 72, 32, 32, 2)).output == (72, 16, 16)
