"""An engine in a process of its own, which stands still whenever it is not asked for something.

Engines keep threads. Those of OpenVINO go on looking for work after a run, and those of onnxruntime are where the next
run finds them. In one process BNAS-D gained 1.06 times from a second thread with OpenVINO beside it, alone 1.7 times.

Both ends are here. A request is a line of JSON on the process's standard input, the answer a line on its standard
output; arrays go through files. Between requests the process is stopped, with all its threads. It ends with the one
that started it, however that ends, and is in a session of its own, so that Ctrl-C in a terminal is that one's.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Protocol, Self

from numpy.typing import NDArray

from bnas_deploy.core import errors, host
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.npz import read_arrays, write_arrays
from bnas_deploy.runtime.bench.openvino import UnsupportedLayerError
from bnas_deploy.runtime.bench.profile import NodeTime
from bnas_deploy.runtime.bench.waiting import Run, Stopwatch

WARM_NS = 500_000
"""A process that has stood still finds the caches full of others' data, the translations of its addresses gone, and its
threads asleep: a layer of 12 million MACs took a tenth longer in its second run than after ten of them."""


class Runner(Protocol):
    """A model that is loaded, has run once, and has its input and output in place."""

    output: NDArray[Any]

    def run(self) -> None:
        """Run once."""


Opener = Callable[..., Runner]
"""A function at the top of a module; its arguments, all by name, are what JSON holds."""


@dataclass(frozen=True)
class OpenedModel:
    """A model in a process: what its first run gave, and how long it took to load, where its engine tells.

    `others` are its outputs behind the first.
    """

    process: "EngineProcess"
    number: int
    output: NDArray[Any]
    creation_ns: int | None
    others: tuple[NDArray[Any], ...] = ()

    @property
    def outputs(self) -> tuple[NDArray[Any], ...]:
        """Return all outputs, in the order of the file."""
        return (self.output, *self.others)

    def run(self) -> Run:
        """Run for `WARM_NS`, and then once more; return how long that took."""
        return Run(**self.process.ask("run", number=self.number, warm_ns=WARM_NS))

    def run_twice(self) -> Run:
        """Run twice, and return how long the second took: a profile has to tell which runs count."""
        return Run(**self.process.ask("run", number=self.number, warm_ns=0))

    def node_times(self, *, skip: int) -> list[NodeTime]:
        """End profiling: see `OrtRunner.node_times`."""
        times: list[dict[str, Any]] = self.process.ask("node_times", number=self.number, skip=skip)
        return [NodeTime(each["name"], each["op_type"], tuple(each["runs_us"])) for each in times]


class EngineProcess:
    """The end that asks; a context manager, at whose end the process is gone."""

    def __init__(self, name: str, *, threads: int) -> None:
        """Start a process; `name` is what errors call it, `threads` how many share the work of a run in it."""
        self._name = name
        # -P: the current folder may hold modules that have the names of packages.
        command = [
            sys.executable,
            "-P",
            "-m",
            "bnas_deploy.runtime.bench.engine_process",
            str(os.getpid()),
            str(threads),
        ]
        self._process = host.start_apart(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._opened = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the process, stopped or not."""
        self._process.kill()
        with suppress(BrokenPipeError), self._process:  # closes the pipes and waits
            pass

    def open(self, opener: Opener, **arguments: Any) -> OpenedModel:
        """Have the process call `opener` with `arguments`, and keep what it returns.

        Raises:
            BnasError: as `opener` raises it, or the system has ended the process.
            UnsupportedLayerError: as `opener` raises it.
        """
        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "output.npz"
            given = {"module": opener.__module__, "function": opener.__qualname__, "output": str(output)}
            creation_ns = self.ask("open", **given, arguments=arguments)
            self._opened += 1
            first, *others = read_arrays(output).values()
            return OpenedModel(self, self._opened - 1, first, creation_ns, tuple(others))

    def forget(self) -> None:
        """Have the process drop all models, with their threads and memory."""
        self.ask("forget")
        self._opened = 0

    def ask(self, do: str, **request: Any) -> Any:
        """Wake the process, have it do something, and have it stand still again."""
        assert self._process.stdin
        assert self._process.stdout
        line = json.dumps({"do": do, **request}).encode() + b"\n"
        try:
            host.go_on(self._process)
            self._process.stdin.write(line)
            self._process.stdin.flush()
        except (BrokenPipeError, ProcessLookupError):
            raise self._ended() from None
        answer = self._process.stdout.readline()
        if not answer or not host.stop(self._process):
            raise self._ended()
        said: dict[str, Any] = json.loads(answer)
        if "error" in said:
            raise ERRORS[said["error"]](said["message"])
        return said["answer"]

    def _ended(self) -> Exception:
        code = self._process.wait()
        if (ender := host.ended_by(code)) is None:  # it has shown its traceback
            return ChildProcessError(f"the process of {self._name} ended with {code}")
        return BnasError(
            f"{self._name}: its process was ended by {ender}; nothing was measured. SIGKILL "
            "mostly means that the system was short of memory: end other programs, or measure fewer images at once"
        )


class EngineProcesses:
    """A process for each engine and number of threads, started when it is asked for first; ended together."""

    def __init__(self) -> None:
        self._processes: dict[tuple[str, int], EngineProcess] = {}

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.__exit__(kind, error, traceback)

    def of(self, engine: str, threads: int) -> EngineProcess:
        """Return the process of an engine with so many threads."""
        key = engine, threads
        if key not in self._processes:
            self._processes[key] = EngineProcess(engine, threads=threads)
        return self._processes[key]

    def forget(self) -> None:
        """Have all of them drop their models."""
        for process in self._processes.values():
            process.forget()


ERRORS: Mapping[str, type[Exception]] = {
    "UnsupportedLayerError": UnsupportedLayerError,
    **{name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, BnasError)},
}
"""What crosses the pipe; anything else is a bug, and ends the process with its traceback."""


# --------------------------------------------------------------------------------------------------------------------
# The end that answers


class _Models:
    """The models of this process."""

    def __init__(self, threads: int) -> None:
        self._models: list[Any] = []
        self._stopwatch = Stopwatch(threads=threads)

    def open(self, module: str, function: str, arguments: Mapping[str, Any], output: str) -> int | None:
        model = getattr(importlib.import_module(module), function)(**arguments)
        outputs = getattr(model, "outputs", (model.output,))
        write_arrays(Path(output), {str(number): array for number, array in enumerate(outputs)})
        self._models.append(model)
        return getattr(model, "creation_ns", None)

    def run(self, number: int, warm_ns: int) -> dict[str, int | None]:
        self._stopwatch.look_for_threads()
        return vars(self._stopwatch.time_warm(self._models[number].run, warm_ns))

    def node_times(self, number: int, skip: int) -> list[dict[str, Any]]:
        return [vars(each) for each in self._models[number].node_times(skip=skip)]

    def forget(self) -> None:
        self._models.clear()
        self._stopwatch.close()


def _serve(requests: BinaryIO, answers: BinaryIO, *, threads: int) -> None:
    models = _Models(threads)
    for line in requests:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(models, request.pop("do"))(**request)}
        except tuple(ERRORS.values()) as error:
            answer = {"error": type(error).__name__, "message": getattr(error, "message", str(error))}
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()


def _main(parent: int, threads: int) -> None:
    host.end_with_parent(parent)  # stopped, this process would see no end of its input
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what an engine prints is no answer
    _serve(sys.stdin.buffer, answers, threads=threads)


if __name__ == "__main__":
    _main(*map(int, sys.argv[1:]))
