"""Where the operator library is, what it was built for, and which kernels it has."""

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.runtime.library_formats import built_for
from bnas_deploy.runtime.targets import TARGETS, this_machine

ISA_VARIABLE = "BNAS_ISA"
"""Environment variable: the library reads it, and runs the kernels that it names; unset, the best."""


@dataclass(frozen=True)
class LibraryFile:
    """What can be read from a library without loading it.

    `system` is one of runtime/targets.py, `glibc` the oldest that it runs with; None for any, and for none. A library
    for Android has no glibc, and is told from one for Linux by that it has no version of it either.
    """

    path: Path
    bytes: int
    architecture: str
    system: str
    glibc: str | None

    @property
    def target(self) -> str:
        """The name of what it was built for."""
        return f"{self.architecture}-{self.system}"


@dataclass(frozen=True)
class KernelRow:
    """One row of the library's dispatch table: the name of an instruction set, and whether this processor has it."""

    isa: str
    runs_here: bool


def library_name() -> str:
    """Return the name of the operator library's file on this system."""
    target = TARGETS.get(this_machine())
    return target.library if target else "libbnas_ort.so"  # of a Linux whose processor has portable kernels only


def library_path() -> Path:
    """Return the path of the operator library, which onnxruntime loads with `register_custom_ops_library`.

    Raises:
        RuntimeLibraryError: the package was installed without building it.
    """
    path = Path(__file__).with_name(library_name())
    if not path.is_file():
        raise RuntimeLibraryError(
            f"{path}: missing; wanted the operator library that the installation builds; "
            "install bnas-deploy again with `pip install .` or `pip install -e .` in its repository"
        )
    return path


def read_library(path: Path) -> LibraryFile:
    """Read the header of the library at `path`, which may be for another machine than this one.

    Raises:
        RuntimeLibraryError: it is for no system that has libraries of this package, or cannot be read.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise RuntimeLibraryError(f"{path}: cannot be read: {error.strerror}; install bnas-deploy again") from None
    found = built_for(data)
    if found is None:
        raise RuntimeLibraryError(f"{path}: not a library for {', '.join(TARGETS)}; install bnas-deploy again")
    architecture, system, glibc = found
    return LibraryFile(path, len(data), architecture, system, glibc)


def kernel_rows(path: Path) -> tuple[KernelRow, ...]:
    """Return the dispatch table of the library at `path`, best first.

    Raises:
        RuntimeLibraryError: this machine cannot load it.
    """
    try:
        row = ctypes.CDLL(str(path)).bnas_row
    except (OSError, AttributeError) as error:  # AttributeError: an older library, which has no such function
        raise RuntimeLibraryError(
            f"{path}: cannot be loaded: {error}; install bnas-deploy again on this machine"
        ) from None
    row.argtypes, row.restype = [ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)], ctypes.c_char_p
    rows: list[KernelRow] = []
    runs_here = ctypes.c_int()
    while (isa := row(len(rows), ctypes.byref(runs_here))) is not None:
        rows.append(KernelRow(isa.decode(), bool(runs_here.value)))
    return tuple(rows)


def check_forced_isa(path: Path) -> None:
    """Find out whether the library at `path` has the kernels that BNAS_ISA names, if it names some.

    Raises:
        RuntimeLibraryError: it does not, or not for this processor; or this machine cannot load it.
    """
    forced = os.environ.get(ISA_VARIABLE)
    runnable = [row.isa for row in kernel_rows(path) if row.runs_here]
    if forced and forced not in runnable:
        raise RuntimeLibraryError(
            f"{ISA_VARIABLE} is {forced!r}, and the kernels that run on this machine are {', '.join(runnable)}; name "
            "one of these, or unset it to have the best"
        )
