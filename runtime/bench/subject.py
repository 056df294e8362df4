"""A bundle that is measured: its images, and the processes that run its models."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from bnas_deploy.core.bundle import Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.npz import write_arrays
from bnas_deploy.runtime.bench.engine_process import EngineProcesses, OpenedModel
from bnas_deploy.runtime.bench.engines import Engine, open_engine, open_profiled_engine


@dataclass(frozen=True)
class RunSetting:
    """How many threads, and how many images per run."""

    threads: int
    batch: int


@dataclass(frozen=True)
class Subject:
    """A bundle, its inputs by the number of examples, where these are in files, and the processes that run it."""

    bundle: Bundle
    inputs: Mapping[int, Mapping[str, NDArray[Any]]]
    folder: Path
    processes: EngineProcesses

    @classmethod
    @contextmanager
    def of(cls, bundle: Bundle, inputs: Mapping[int, Mapping[str, NDArray[Any]]]) -> "Iterator[Subject]":
        """Write the inputs to a folder, which is gone at the end, as are the processes."""
        with temporary_folder() as folder, EngineProcesses() as processes:
            subject = cls(bundle, inputs, folder, processes)
            for batch, arrays in inputs.items():
                write_arrays(subject._file_of(batch), arrays)
            yield subject

    def open(self, engine: Engine, setting: RunSetting, profile_to: Path | None = None) -> OpenedModel:
        """Open the engine's model in its process; with `profile_to` so that it tells the time of every node.

        Raises:
            BundleError: the file is missing or damaged.
        """
        process = self.processes.of(engine.name, setting.threads)
        given = {
            "engine": engine.name,
            "model": str(self.bundle.file(engine.file)),
            "inputs": str(self._file_of(setting.batch)),
            "threads": setting.threads,
        }
        if profile_to:
            return process.open(open_profiled_engine, **given, profile_to=str(profile_to))
        return process.open(open_engine, **given)

    def _file_of(self, batch: int) -> Path:
        return self.folder / f"{batch}.npz"


def refuse_other_shapes(bundle: Bundle, engines: Sequence[Engine], opened: Sequence[OpenedModel]) -> None:
    """A twin that answers with another shape is another network, and no time of it means anything."""
    shapes = {
        engine.file: tuple(output.shape for output in model.outputs)
        for engine, model in zip(engines, opened, strict=True)
    }
    if len(set(shapes.values())) > 1:
        given = ", ".join(f"{file} {' '.join(map(str, each))}" for file, each in shapes.items())
        raise BundleError(f"{bundle.path}: its models answer with different shapes: {given}; export the model again")


def threads_text(threads: int) -> str:
    """Return a number of threads as people read it."""
    return "1 thread" if threads == 1 else f"{threads} threads"
