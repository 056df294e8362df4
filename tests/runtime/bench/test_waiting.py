"""Which runs were preempted, by what the kernel would count: files and getrusage that say what a test wants."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest

from bnas_deploy.runtime.bench.waiting import HARMLESS_NS, Run, Stopwatch

MS = 1_000_000


@pytest.mark.parametrize(
    ("ns", "waited_ns", "preempted"),
    [
        (50 * MS, 0, False),
        (50 * MS, 1_500_000, False),  # 3 %
        (50 * MS, 1_500_001, True),
        (22_000, HARMLESS_NS, False),  # a short run, and a thread of the kernel
        (22_000, HARMLESS_NS + 1, True),
        (4 * MS, None, False),
    ],
)
def test_a_run_is_preempted_if_it_waited_for_long_enough_to_matter(
    ns: int, waited_ns: int | None, preempted: bool
) -> None:
    assert Run(ns, waited_ns).preempted == preempted


def thread(tasks: Path, name: str, waited_ns: int) -> Path:
    """What /proc/self/task has of a thread: time on a processor, time of waiting for one, slices."""
    folder = tasks / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schedstat").write_text(f"123456 {waited_ns} 7\n")
    return folder


def test_waiting_is_added_up_over_all_threads(tmp_path: Path) -> None:
    for name in ("1", "2"):
        thread(tmp_path, name, 5 * MS)

    def run() -> None:
        thread(tmp_path, "1", 7 * MS)
        thread(tmp_path, "2", 8 * MS)
        thread(tmp_path, "3", 9 * MS)  # it was not there before

    stopwatch = Stopwatch(threads=2, tasks=tmp_path)
    stopwatch.look_for_threads()
    assert stopwatch.time(run).waited_ns == 5 * MS
    stopwatch.look_for_threads()
    assert stopwatch.time(lambda: thread(tmp_path, "3", 10 * MS)).waited_ns == MS
    stopwatch.close()


def test_the_first_call_does_not_count(tmp_path: Path) -> None:
    thread(tmp_path, "1", 0)
    stopwatch, calls = Stopwatch(threads=1, tasks=tmp_path), list[int]()
    stopwatch.look_for_threads()
    assert stopwatch.time_warm(lambda: calls.append(len(calls)) or thread(tmp_path, "1", 9 * MS)).waited_ns == 0
    assert calls == [0, 1]
    stopwatch.close()


@pytest.fixture
def usage(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What getrusage and the clocks say, in a system without the figures of each thread."""
    said = SimpleNamespace(now=0, cpu=0, ru_nvcsw=3, ru_nivcsw=5)
    monkeypatch.setattr("time.perf_counter_ns", lambda: said.now)
    monkeypatch.setattr("time.process_time_ns", lambda: said.cpu)
    monkeypatch.setattr(
        resource, "getrusage", lambda who: SimpleNamespace(ru_nvcsw=said.ru_nvcsw, ru_nivcsw=said.ru_nivcsw)
    )
    return said


@pytest.mark.parametrize(
    ("threads", "cpu", "interrupted", "waited_ns"),
    [
        (1, 10 * MS, 1, 0),  # interrupted, and nothing lost
        (1, 4 * MS, 1, 6 * MS),
        (1, 4 * MS, 0, 0),  # it waited for something else than a processor
        (2, 13 * MS, 1, 7 * MS),  # one of two threads lost 7 ms, or both together
        (2, 13 * MS, 0, 0),  # the work of one thread ended before the other's
    ],
)
def test_without_figures_of_threads_interruptions_and_processor_time_tell(
    usage: SimpleNamespace, tmp_path: Path, threads: int, cpu: int, interrupted: int, waited_ns: int
) -> None:
    def run() -> None:
        usage.now += 10 * MS
        usage.cpu += cpu
        usage.ru_nivcsw += interrupted

    stopwatch = Stopwatch(threads=threads, tasks=tmp_path / "none")
    stopwatch.look_for_threads()
    assert stopwatch.time(run) == Run(10 * MS, waited_ns)


def test_a_system_that_counts_nothing_tells_nothing(usage: SimpleNamespace, tmp_path: Path) -> None:
    usage.ru_nvcsw = usage.ru_nivcsw = 0
    (tmp_path / "1").mkdir()  # a thread, and no figures of it
    stopwatch = Stopwatch(threads=1, tasks=tmp_path)
    stopwatch.look_for_threads()
    assert stopwatch.time(lambda: None).waited_ns is None
