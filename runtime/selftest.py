"""Runs small layers with the operator library and with standard operators, and compares every bit.

    python -P -m bnas_deploy.runtime.selftest

A process of its own, since a library that does not fit a processor may end the process that runs it. Lines of JSON go
to standard output, each an object that says a little more; `run_selftest` gathers them. BNAS_ISA names the kernels, as
everywhere.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.runtime.bench.layer_engines import open_bnas, open_standard
from bnas_deploy.runtime.bench.layer_problems import problem, same_convolution
from bnas_deploy.runtime.session import import_onnxruntime

LAYERS = (
    same_convolution(14, 36, 40, 3),  # channels that fill no word, rows that fill no vector
    same_convolution(8, 70, 17, 3, stride=2),
    same_convolution(9, 5, 3, 5, dilation=2),
    same_convolution(7, 160, 33, 1),
)
"""Small, and each takes another way through the kernels; the whole list of edges is in the repository's tests."""

BATCH, THREADS = 2, 2


@dataclass(frozen=True)
class SelfTest:
    """What a process said before it ended.

    `onnxruntime` is the version that it imported, None if it got no further. `layers` have been compared and `wrong`
    are the names of those that differ. `error` is why it ended early, None if it did not.
    """

    onnxruntime: str | None = None
    layers: int = 0
    wrong: tuple[str, ...] = ()
    error: str | None = None

    @property
    def passed(self) -> bool:
        """Tell whether all layers were compared, and none differs."""
        return self.error is None and not self.wrong and self.layers == len(LAYERS)


def run_selftest(isa: str | None = None) -> SelfTest:
    """Run the self-test with the kernels of `isa`, or with those that the library picks."""
    # -P: the current folder may hold modules that have the names of packages.
    command = [sys.executable, "-P", "-m", "bnas_deploy.runtime.selftest"]
    environment = {**os.environ, "BNAS_ISA": isa} if isa else None
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    said: dict[str, Any] = {}
    for line in run.stdout.splitlines():
        said |= json.loads(line)
    if run.returncode:
        last = " ".join(run.stderr.split("\n")[-2:]).strip()
        end = f"signal {-run.returncode}" if run.returncode < 0 else f"exit code {run.returncode}"
        said["error"] = f"the process that ran the self-test ended with {end} {last}".strip()
    return SelfTest(**{**said, "wrong": tuple(said.get("wrong", ()))})


def _lines() -> Iterator[dict[str, Any]]:
    """Do it; each line is complete before the next step can end the process."""
    try:
        yield {"onnxruntime": import_onnxruntime().__version__}
        wrong: list[str] = []
        for count, layer in enumerate(LAYERS, start=1):
            given = problem(layer, BATCH)
            with temporary_folder() as folder:
                answers = [
                    open_layer(given, folder / "layer.onnx", THREADS).output.view(np.uint32)
                    for open_layer in (open_bnas, open_standard)
                ]
            wanted = given.binary_answer.view(np.uint32)
            if not all(np.array_equal(answer, wanted) for answer in answers):
                wrong.append(layer.name)
            yield {"layers": count, "wrong": wrong}
    except BnasError as error:
        yield {"error": error.message}


if __name__ == "__main__":
    for line in _lines():
        print(json.dumps(line), flush=True)
