"""Builds the operator library with one compiler call, for this machine or another one.

Used by the build backend beside it, and by tests that need the library built in a special way. Only the standard
library is imported: this runs before anything of the package is installed.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "ort"
LIBRARY = "libbnas_ort.so"

TARGET_VARIABLE = "BNAS_TARGET"
"""Environment variable: a target of zig, such as aarch64-linux-gnu.2.17; unset, the library is for this machine."""

ZIG_REQUIREMENT = "ziglang>=0.13"

COMPILER_FLAGS = (
    "-std=c11",
    "-O3",
    # The order of roundings is part of the operators' meaning. Without this flag a compiler whose CPU has fused
    # multiply-add may skip the rounding between `* scale` and `+ bias`: gcc does so on ARM outside of strict -std=c11.
    "-ffp-contract=off",
    "-fPIC",
    "-fvisibility=hidden",
)
LINKER_FLAGS = (
    "-shared",
    "-Wl,--no-undefined",
    # onnxruntime keeps pointers into the library for as long as the process has sessions.
    "-Wl,-z,nodelete",
)
STRIP_FLAG = "-s"

MANYLINUX_TARGET = re.compile(r"(?P<cpu>\w+)-linux-gnu\.(?P<major>\d+)\.(?P<minor>\d+)")


class BuildError(Exception):
    """The library cannot be built; the message says why and what to do."""


def target() -> str | None:
    """Return the target to cross-compile for, None for this machine."""
    return os.environ.get(TARGET_VARIABLE) or None


def needs_zig() -> bool:
    """Whether the compiler is PyPI's zig: for another target, or because this machine has none of its own."""
    return target() is not None or _own_compiler() is None


def compiler() -> list[str]:
    """Return the words that start a compiler call."""
    zig = [sys.executable, "-m", "ziglang", "cc"]
    if wanted := target():
        return [*zig, "-target", wanted]
    # Left alone, zig compiles for the CPU it runs on, and the wheel would be tied to that.
    return _own_compiler() or [*zig, "-mcpu=baseline"]


def _own_compiler() -> list[str] | None:
    if given := os.environ.get("CC"):
        return shlex.split(given)
    return next(([name] for name in ("cc", "gcc", "clang") if shutil.which(name)), None)


def platform_tag() -> str | None:
    """Return the platform that a wheel for `target()` is tagged with, None for this machine's own.

    The library uses nothing but libc, so the version of glibc that zig links against is the whole promise.

    Raises:
        BuildError: the target is not a Linux with a glibc version.
    """
    if (wanted := target()) is None:
        return None
    match = MANYLINUX_TARGET.fullmatch(wanted)
    if match is None:
        raise BuildError(
            f"{TARGET_VARIABLE} is {wanted!r}, wanted CPU-linux-gnu.MAJOR.MINOR, such as aarch64-linux-gnu.2.17 "
            "(the oldest glibc that the wheel is to run on)"
        )
    return f"manylinux_{match['major']}_{match['minor']}_{match['cpu']}"


def build_library(output: Path, extra_flags: Sequence[str] = (STRIP_FLAG,)) -> None:
    """Compile all of runtime/ort/ into the shared library `output`; whoever reads it sees the old or the new one.

    Raises:
        BuildError: the compiler fails or is missing.
    """
    sources = [str(source) for source in sorted(SOURCES.glob("*.c"))]
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bnas-build-") as folder:
        fresh = Path(folder) / output.name
        command = [*compiler(), *COMPILER_FLAGS, *LINKER_FLAGS, *extra_flags, "-o", str(fresh), *sources]
        try:
            run = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise BuildError(f"cannot start the C compiler: {shlex.join(command)}: {error.strerror}; set CC") from None
        if run.returncode != 0:
            raise BuildError(f"the C compiler failed: {shlex.join(command)}\n{run.stderr}")
        fresh.replace(output)
