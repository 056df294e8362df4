"""Every operator gives the right result before it is timed, and times are what is left beside a run's cost."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.latency_table import OPERATORS, RUN, Workload
from bnas_deploy.runtime.bench import operations as op_times
from bnas_deploy.runtime.bench.operations import PROBES, Probe, layer_of, measure_workloads
from bnas_deploy.runtime.bench.samples import Samples


def workload(operator: str, channels: int, side: int, channels_out: int, kernel: int = 1, stride: int = 1) -> Workload:
    output = channels_out, -(-side // stride), -(-side // stride)
    return Workload(operator, (channels, side, side), output, (kernel, kernel), (stride, stride))


WORKLOADS = (
    RUN,
    *(
        replace(workload("BinaryConv2dRelu", 5, 9, 7, kernel, stride), dilation=(dilation, dilation))
        for kernel, dilation in ((1, 1), (3, 1), (5, 1), (3, 2), (5, 2))
        for stride in (1, 2)
    ),
    workload("BinaryConv2dRelu", 5, 9, 5, 3),  # without the sum of FusedAdd
    *(
        Workload(operator, (5, 8, 6), (5, 8 // stride, 6 // stride), (3, 3), (stride, stride))
        for operator in ("MaxPool", "AveragePool")
        for stride in (1, 2)
    ),
    workload("Conv", 6, 8, 8, 2, 2),
    workload("Conv", 3, 8, 12, 3),
    workload("Conv", 3, 16, 4, 3, 2),
    workload("Add", 5, 8, 5),
    workload("FusedAdd", 5, 9, 5),
    workload("Mul", 3, 8, 3),
    workload("Relu", 5, 8, 5),
    Workload("Concat", (16, 4, 4), (16, 4, 4), parts=3),
    workload("Slice", 16, 4, 4),
    Workload("ReduceMean", (16, 7, 7), (16, 1, 1)),
    workload("Gemm", 16, 1, 10),
)


def test_every_operator_is_measured() -> None:
    assert PROBES.keys() == set(OPERATORS) == {each.operator for each in WORKLOADS}


@pytest.mark.parametrize("batch", [1, 2])
def test_results_are_right_and_times_come_back(batch: int) -> None:
    times = measure_workloads(WORKLOADS, threads=1, batch=batch, min_seconds=0)
    assert [time.workload for time in times] == list(WORKLOADS)
    assert all(0 <= time.p10_us <= time.median_us <= time.p90_us and time.runs >= 10 for time in times)


def test_a_run_is_measured_even_if_it_is_not_asked_for() -> None:
    assert [time.workload for time in measure_workloads(WORKLOADS[-1:], threads=1, batch=1, min_seconds=0)] == [
        RUN,
        WORKLOADS[-1],
    ]


@pytest.mark.parametrize("given", WORKLOADS[1:], ids=str)
def test_a_wrong_result_is_refused(given: Workload, monkeypatch: pytest.MonkeyPatch) -> None:
    def off(given: Workload, batch: int) -> Probe:
        probe = make(given, batch)
        answer = probe.answer.copy()
        answer.flat[-1] += 1
        return replace(probe, answer=answer)

    make = PROBES[given.operator]
    monkeypatch.setitem(op_times.PROBES, given.operator, off)
    with pytest.raises(RuntimeLibraryError) as refused:
        measure_workloads([given], threads=1, batch=1, min_seconds=0)
    assert refused.value.message == (
        f"{given}: gives a wrong result (threads: 1); nothing was measured, please report this with your CPU's name"
    )


def undisturbed(ns: np.ndarray) -> Samples:
    return Samples(ns, np.zeros(ns.shape, np.bool_), told=True)


def test_preempted_runs_are_left_out_on_either_side() -> None:
    pool = workload("MaxPool", 5, 8, 5, 3)
    running = [op_times._Running(RUN, 1, None), op_times._Running(pool, 8, None)]  # type: ignore[arg-type]  # not run
    ns = np.array([[2_000, 18_000]] * 12)
    ns[0, 0] = ns[1, 1] = 9_000_000
    run, time = op_times._times(running, Samples(ns, ns > 1_000_000, told=True))
    assert (run.runs, run.p90_us) == (11, 2.0)
    assert (time.runs, time.p10_us, time.p90_us) == (10, 2.0, 2.0)


def test_the_cost_of_a_run_is_taken_off_and_shared_by_the_copies() -> None:
    pool = workload("MaxPool", 5, 8, 5, 3)
    running = [op_times._Running(RUN, 1, None), op_times._Running(pool, 8, None)]  # type: ignore[arg-type]  # not run
    samples = np.array([[2_000, 18_000], [3_000, 27_000], [2_000, 1_000]])
    run, time = op_times._times(running, undisturbed(samples))
    assert (run.median_us, time.runs) == (2.0, 3)
    assert time.median_us == 2.0  # of 16, 24 and 0 microseconds (no time is negative) for eight copies


def test_a_fused_sum_takes_what_the_convolution_takes_longer() -> None:
    added, convolution = workload("FusedAdd", 5, 9, 5), workload("BinaryConv2dRelu", 5, 9, 5, 3)
    running = [op_times._Running(each, 8, None) for each in (RUN, added, convolution)]  # type: ignore[arg-type]  # not run
    _, time, _ = op_times._times(running, undisturbed(np.array([[2_000, 34_000, 18_000]])))
    assert time.median_us == 2.0


def test_copies_are_not_merged(tmp_path: Path) -> None:
    """Onnxruntime does equal nodes once; each copy has an input of its own."""
    probe = PROBES["MaxPool"](workload("MaxPool", 64, 32, 64, 3), 1)
    times = {}
    for copies in (2, 8):
        path = tmp_path / f"{copies}.onnx"
        path.write_bytes(op_times._model(replace(probe, copies=copies)))
        runner = op_times.OrtRunner(path, probe.x, threads=1, library=False, profile_to=tmp_path)
        times[copies] = [time for time in runner.node_times(skip=-1) if time.op_type == "MaxPool"]
    assert {copies: len(found) for copies, found in times.items()} == {2: 2, 8: 8}


def test_a_layer_is_what_its_workload_says() -> None:
    layer = layer_of(Workload("BinaryConv2dRelu", (36, 32, 32), (36, 16, 16), (5, 5), (2, 2), (2, 2)))
    assert (layer.kernel, layer.stride, layer.dilation, layer.weight_bits) == ((5, 5), (2, 2), (2, 2), 1)
    assert (layer.input, layer.output) == ((36, 32, 32), (36, 16, 16))
    assert layer_of(workload("Conv", 72, 32, 288, 2, 2)).weight_bits == 32
