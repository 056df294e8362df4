"""How much memory an engine takes at most, asked of a process that does nothing else.

The figures are from VmHWM of /proc/self/status: the most physical memory that the process ever held. Not ru_maxrss of
getrusage, which a new process inherits from the one that started it on Linux. macOS has that alone, Windows a counter.
"""

import importlib
import json
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core import host
from bnas_deploy.core.memory import MMAP_THRESHOLD
from bnas_deploy.runtime.bench.engines import ENGINES, Engine, Runner


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory of a process that loaded and ran a model, and its peak before it loaded the model.

    `activation_bytes` is the most that a run held at once besides the loaded model, its input and its output: the
    values between the nodes, and what the operators need for themselves. It is known to some 128 kB. None where the
    system does not tell, or the engine takes no memory in a run because it took it when it loaded the model.
    """

    peak_bytes: int | None
    import_bytes: int | None
    activation_bytes: int | None = None


Shapes = Mapping[str, tuple[str, Sequence[int]]]
"""Type and shape of each input by name, batch included."""


def shapes_of(inputs: Mapping[str, NDArray[Any]]) -> Shapes:
    """Return what `peak_memory` is told of the inputs."""
    return {name: (str(array.dtype), array.shape) for name, array in inputs.items()}


def peak_memory(engine: str, model: Path, inputs: Shapes) -> PeakMemory:
    """Run `model` in `engine` with one thread on zeros, in fresh processes."""
    whole = _ask("whole", engine, model, inputs)
    return PeakMemory(**whole, **_ask("activations", engine, model, inputs))


def _ask(what: str, engine: str, model: Path, inputs: Shapes) -> dict[str, int | None]:
    arguments = json.dumps({"what": what, "engine": engine, "model": str(model), "inputs": inputs})
    # -P: the current folder may hold modules that have the names of packages.
    command = [sys.executable, "-P", "-m", "bnas_deploy.runtime.bench.memory", arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    answer: dict[str, int | None] = json.loads(run.stdout)
    return answer


def _answer(what: str, engine: str, model: str, inputs: Shapes) -> dict[str, int | None]:
    (row,) = (row for row in ENGINES if row.name == engine)
    importlib.import_module(row.package)  # part of what is there before the model is
    zeros = {name: np.zeros(shape, dtype) for name, (dtype, shape) in inputs.items()}
    return (_run_alone if what == "whole" else _run_without_arena)(row, Path(model), zeros)


def _run_alone(engine: Engine, model: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int | None]:
    import_bytes = _status_bytes("VmHWM")
    engine.open(model, inputs, threads=1).run()
    return {"peak_bytes": _status_bytes("VmHWM"), "import_bytes": import_bytes}


def _run_without_arena(engine: Engine, model: Path, inputs: Mapping[str, NDArray[Any]]) -> dict[str, int | None]:
    """Measure how far a run raises the peak above what was resident before it.

    Every block goes back to the system when it is freed, so that no reserve hides what a run takes.
    """
    # Linux counts pages by processor and adds up what is known to some 32 pages each: on one, that is 128 kB.
    host.stay_on_one_cpu()
    if engine.open_without_arena is None or not _return_freed_blocks():
        return {"activation_bytes": None}
    runner = engine.open_without_arena(model, inputs, threads=1)
    grown = [_growth_of(runner) for _ in range(GROWTHS)]
    known = [each for each in grown if each is not None]
    return {"activation_bytes": statistics.median_low(known) or None if known else None}


def _growth_of(runner: Runner) -> int | None:
    before = _status_bytes("VmRSS")
    if before is None or not _forget_peak():
        return None
    runner.run()
    peak = _status_bytes("VmHWM")
    return None if peak is None else max(0, peak - before)


GROWTHS = 5
"""Runs whose median counts: the first of them touches code that the others find in place."""

SMALLEST_BLOCK = 4096
"""Bytes of a page: what is smaller cannot go back to the system by itself."""


def _return_freed_blocks() -> bool:
    """Make malloc map each block by itself, from a page up; tell whether it does so."""
    libc = host.glibc()
    return bool(libc and libc.mallopt(MMAP_THRESHOLD, SMALLEST_BLOCK))


def _forget_peak() -> bool:
    """Set VmHWM to what is resident now; tell whether the system can."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _status_bytes(field: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:  # no Linux
        return host.peak_bytes() if field == "VmHWM" else None
    match = re.search(rf"^{field}:\s*(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


if __name__ == "__main__":
    print(json.dumps(_answer(**json.loads(sys.argv[1]))))
