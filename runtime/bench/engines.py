"""What is measured against what: one row per engine, each able to open its model of a bundle and run it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import FLOAT_TWIN, INT8_TWIN, MODEL, Bundle
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.runtime.bench.machine import cpu_flags, native_isa, vector_isa
from bnas_deploy.runtime.bench.openvino import OpenVinoNetwork, openvino_is_installed
from bnas_deploy.runtime.bench.profile import NodeTime, read_profile
from bnas_deploy.runtime.session import create_session, session_options


class Runner(Protocol):
    """A model that is loaded, with its inputs and outputs in place."""

    output: NDArray[Any]
    """What the last run gave, of several outputs the first; the same array every time."""

    creation_ns: int
    """How long it took to make the session out of the file, before the first run."""

    def run(self) -> None:
        """Run once."""


class OrtRunner:
    """A model in onnxruntime, on the CPU, with all its optimisations.

    Inputs and outputs are bound once, so that a run costs no copy and the same few microseconds of Python in every
    engine.
    """

    def __init__(
        self,
        model: Path,
        inputs: Mapping[str, NDArray[Any]] | NDArray[Any],
        *,
        threads: int,
        library: bool,
        profile_to: Path | None = None,
        arena: bool = True,
    ) -> None:
        """Open `model` on an array for each input, or on one for all of them; `library` as in session_options.

        With `profile_to`, a folder, every run is profiled, and a little slower for it. Without `arena` onnxruntime
        keeps no memory between runs, and is a little slower for that.
        """
        import onnxruntime

        options = session_options(threads=threads, library=library)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        # Idle threads wait for work in a loop. Two engines take turns here, and the loop of the one would take the
        # processor from the other: with two threads on two processors, 7 ms a run became 15 ms.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.enable_cpu_mem_arena = arena
        if profile_to:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile_to / model.stem)
        start = time.perf_counter_ns()
        self._session = create_session(model, options)
        self.creation_ns = time.perf_counter_ns() - start
        if not isinstance(inputs, Mapping):
            inputs = dict.fromkeys((value.name for value in self._session.get_inputs()), inputs)
        # Where the shapes of the outputs are known from; a tensor without axes is given as a number.
        self.outputs = [np.asarray(output) for output in self._session.run(None, dict(inputs))]
        self._inputs = inputs  # their memory is bound, and nothing else may keep it
        self.output = self.outputs[0]
        self._binding = self._bind(inputs)

    def _bind(self, inputs: Mapping[str, NDArray[Any]]) -> Any:
        from onnxruntime import OrtValue

        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(array))
        for output, array in zip(self._session.get_outputs(), self.outputs, strict=True):
            binding.bind_ortvalue_output(output.name, OrtValue.ortvalue_from_numpy(array))
        return binding

    def run(self) -> None:
        """Run once."""
        self._session.run_with_iobinding(self._binding)

    def node_times(self, *, skip: int) -> list[NodeTime]:
        """End profiling and return the time of every node, without the first `skip` runs."""
        return read_profile(Path(self._session.end_profiling()), skip=1 + skip)  # 1 is the run that made the output


class Open(Protocol):
    """How an engine opens a model: see `OrtRunner`."""

    def __call__(self, model: Path, inputs: Mapping[str, NDArray[Any]], *, threads: int) -> Runner:
        """Load the model and run it once."""


class OpenProfiled(Protocol):
    """How an engine opens a model to tell the time of every node: see `OrtRunner`."""

    def __call__(self, model: Path, inputs: Mapping[str, NDArray[Any]], *, threads: int, profile_to: Path) -> OrtRunner:
        """Load the model and run it once."""


@dataclass(frozen=True)
class Engine:
    """One way to run a network: which file of the bundle, by which package, on which instruction set.

    `open_profiled` is None where the engine does not tell the time of its nodes, and `open_without_arena`, which opens
    a model so that it keeps no memory between runs, where it takes all memory when it loads the model.
    """

    name: str
    file: str
    package: str
    isa: Callable[[], str]
    open: Open
    open_profiled: OpenProfiled | None = None
    open_without_arena: Open | None = None


@dataclass(frozen=True)
class LeftOut:
    """Why there is no time of an engine: on one layer, or with `subject` None on anything."""

    engine: str
    subject: str | None
    reason: str


def open_engine(engine: str, model: str, inputs: str, threads: int) -> Runner:
    """Open `model` in the engine of this name, on the arrays in the file `inputs`: what an `EngineProcess` calls."""
    return _row(engine).open(Path(model), read_arrays(Path(inputs)), threads=threads)


def open_profiled_engine(engine: str, model: str, inputs: str, threads: int, profile_to: str) -> OrtRunner:
    """Open it so that it tells the time of every node, with a profile in the folder `profile_to`."""
    opening = _row(engine).open_profiled
    assert opening
    return opening(Path(model), read_arrays(Path(inputs)), threads=threads, profile_to=Path(profile_to))


def _row(engine: str) -> Engine:
    (row,) = (row for row in ENGINES if row.name == engine)
    return row


def _vector_isa() -> str:
    return vector_isa(cpu_flags())


def _onnxruntime(name: str, file: str, isa: Callable[[], str], *, library: bool) -> Engine:
    opening = partial(OrtRunner, library=library)
    return Engine(name, file, "onnxruntime", isa, opening, opening, partial(opening, arena=False))


ENGINES = (
    _onnxruntime("bnas", MODEL, native_isa, library=True),
    _onnxruntime("ort-fp32", FLOAT_TWIN, _vector_isa, library=False),
    _onnxruntime("ort-int8", INT8_TWIN, _vector_isa, library=False),
    Engine("openvino-int8", INT8_TWIN, "openvino", _vector_isa, OpenVinoNetwork),
)

BASELINE = "ort-fp32"
"""What every other engine's speed is divided by."""


def engines_for(bundle: Bundle) -> tuple[list[Engine], list[LeftOut]]:
    """Return the engines that can run here on what is in `bundle`, and why the others cannot."""
    reasons = {engine.name: _reason_against(engine, bundle) for engine in ENGINES}
    left_out = [LeftOut(name, None, reason) for name, reason in reasons.items() if reason]
    return [engine for engine in ENGINES if not reasons[engine.name]], left_out


def _reason_against(engine: Engine, bundle: Bundle) -> str | None:
    if engine.package == "openvino" and not openvino_is_installed():
        return "the package openvino is not installed"
    if engine.file not in bundle.manifest.files:
        return (
            f"the bundle was exported before bundles had an {engine.file} (bnas-deploy "
            f"{bundle.manifest.bnas_deploy}); export it again to compare with int8"
        )
    return None
