"""Which runs were preempted: how long threads of this process were ready to run while others had the processor.

Linux counts that for each thread, in the second number of /proc/self/task/*/schedstat. A thread that waits for another
one, or for work, is not ready, and a thread that is woken on an idle processor waits for some microseconds only; so the
sum over all threads is what other programs took. Where the kernel was built without these figures, getrusage tells at
least that a thread was interrupted, and the processor time of all threads how much they lost together.
"""

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core import host

HARMLESS_NS = 20_000
HARMLESS_SHARE = 0.03
"""A run that waited no longer than one of these is as good as undisturbed: a thread of the kernel ran for a moment.
What is preempted by another program waits for the end of its slice, which is some milliseconds."""


@dataclass(frozen=True)
class Run:
    """How long one run took, and how long its threads waited for a processor, added up; None: the system tells not."""

    ns: int
    waited_ns: int | None

    @property
    def preempted(self) -> bool:
        """Tell whether another program had the processor for long enough to matter."""
        return self.waited_ns is not None and self.waited_ns > max(HARMLESS_NS, HARMLESS_SHARE * self.ns)


class Stopwatch:
    """Times calls in this process; it keeps a file open for each of its threads."""

    def __init__(self, *, threads: int, tasks: Path = Path("/proc/self/task")) -> None:
        """`threads` is how many share the work of a call, `tasks` the folder that has one for each thread."""
        self._threads = threads
        self._tasks = tasks
        self._files: dict[str, int] = {}

    def look_for_threads(self) -> None:
        """Find the threads that there are by now; those that a call itself starts are not counted in it."""
        for name in self._tasks.iterdir() if self._tasks.is_dir() else ():
            if name.name not in self._files:
                with suppress(OSError):  # a kernel without the figures, or a thread that is gone
                    self._files[name.name] = os.open(name / "schedstat", os.O_RDONLY)

    def time(self, call: Callable[[], object]) -> Run:
        """Call it, and tell how long it took."""
        return self._with_delays(call) if self._files else self._with_usage(call)

    def time_warm(self, call: Callable[[], object], warm_ns: int = 0) -> Run:
        """Call it once, and on for `warm_ns`; tell how long a further call took, which finds its data in the caches."""
        start = time.perf_counter_ns()
        call()
        while time.perf_counter_ns() - start < warm_ns:
            call()
        return self.time(call)

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _with_delays(self, call: Callable[[], object]) -> Run:
        before = self._delays()
        start = time.perf_counter_ns()
        call()
        ns = time.perf_counter_ns() - start
        after = self._delays()
        return Run(ns, sum(after[name] - before[name] for name in before.keys() & after.keys()))

    def _delays(self) -> Mapping[str, int]:
        found: dict[str, int] = {}
        for name, file in self._files.items():
            with suppress(OSError):  # the thread has ended
                found[name] = int(os.pread(file, 100, 0).split()[1])
        return found

    def _with_usage(self, call: Callable[[], object]) -> Run:
        before, cpu = host.context_switches(), time.process_time_ns()
        start = time.perf_counter_ns()
        call()
        ns = time.perf_counter_ns() - start
        cpu = time.process_time_ns() - cpu
        after = host.context_switches()
        if before is None or after is None:
            return Run(ns, None)
        interrupted = after[1] > before[1]
        return Run(ns, max(0, self._threads * ns - cpu) if interrupted else 0)
