"""How much memory an engine takes at most, asked of a process that does nothing else.

The figure is VmHWM of /proc/self/status: the most physical memory that the process ever held. Not ru_maxrss of
getrusage, which a new process inherits from the one that started it.
"""

import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from bnas_deploy.runtime.engines import ENGINES


@dataclass(frozen=True)
class PeakMemory:
    """Peak resident memory of a process that loaded and ran a model, and its peak before it loaded the model.

    None where the system has no VmHWM.
    """

    peak_bytes: int | None
    import_bytes: int | None


def peak_memory(engine: str, model: Path, input_shape: tuple[int, ...]) -> PeakMemory:
    """Run `model` in `engine` with one thread on zeros of `input_shape`, batch included, in a fresh process."""
    arguments = json.dumps({"engine": engine, "model": str(model), "input_shape": input_shape})
    # -P: the current folder may hold a package of the same name, such as this repository's bnas_deploy.
    command = [sys.executable, "-P", "-m", "bnas_deploy.runtime.memory", arguments]
    run = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return PeakMemory(**json.loads(run.stdout))


def _run_alone(engine: str, model: str, input_shape: list[int]) -> PeakMemory:
    import onnxruntime  # noqa: F401 - part of what is there before the model is

    (row,) = (row for row in ENGINES if row.name == engine)
    import_bytes = _peak_so_far()
    row.open(Path(model), np.zeros(input_shape, np.float32), threads=1).run()
    return PeakMemory(_peak_so_far(), import_bytes)


def _peak_so_far() -> int | None:
    match = re.search(r"^VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text(encoding="utf-8"), re.MULTILINE)
    return int(match[1]) * 1024 if match else None


if __name__ == "__main__":
    print(json.dumps(asdict(_run_alone(**json.loads(sys.argv[1])))))
