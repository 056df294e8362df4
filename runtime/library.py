"""Where the operator library is, what it was built for, and which kernels it has."""

import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.files import read_bytes

LIBRARY = "libbnas_ort.so"

ISA_VARIABLE = "BNAS_ISA"
"""Environment variable: the library reads it, and runs the kernels that it names; unset, the best."""

ELF_MAGIC = b"\x7fELF"
ELF_MACHINE = slice(18, 20)
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
"""The numbers that an ELF header has for architectures, by the names of `uname -m`."""


@dataclass(frozen=True)
class LibraryFile:
    """What can be read from a library without loading it; `glibc` is the oldest that it runs with, None for any."""

    path: Path
    bytes: int
    architecture: str
    glibc: str | None


@dataclass(frozen=True)
class KernelRow:
    """One row of the library's dispatch table: the name of an instruction set, and whether this processor has it."""

    isa: str
    runs_here: bool


def library_path() -> Path:
    """Return the path of the operator library, which onnxruntime loads with `register_custom_ops_library`.

    Raises:
        RuntimeLibraryError: the package was installed without building it.
    """
    path = Path(__file__).with_name(LIBRARY)
    if not path.is_file():
        raise RuntimeLibraryError(
            f"{path}: missing; wanted the operator library that the installation builds; "
            "install bnas-deploy again with `pip install .` or `pip install -e .` in its repository"
        )
    return path


def read_library(path: Path) -> LibraryFile:
    """Read the header of the library at `path`, which may be for another architecture than this machine's.

    Raises:
        RuntimeLibraryError: it is no library for Linux, or cannot be read.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise RuntimeLibraryError(f"{path}: cannot be read: {error.strerror}; install bnas-deploy again") from None
    machine = int.from_bytes(data[ELF_MACHINE], "little")
    if not data.startswith(ELF_MAGIC) or machine not in ELF_MACHINES:
        raise RuntimeLibraryError(
            f"{path}: not a library for Linux on {' or '.join(ELF_MACHINES.values())}; install bnas-deploy again"
        )
    versions = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)]
    return LibraryFile(path, len(data), ELF_MACHINES[machine], "{}.{}".format(*max(versions)) if versions else None)


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
