"""Builds the operator library, for this machine or another one: TVM generates the kernels, one compiler call the rest.

Used by the build backend beside it, and by tests that need the library built in a special way. Only the standard
library is imported: this runs before anything of the package is installed. TVM runs in processes of its own, one per
instruction set, and what it made is kept in build/kernels of the repository until the generator changes.
"""

import hashlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import Field, fields
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any

SOURCES = Path(__file__).parents[1] / "ort"
GENERATOR = Path(__file__).parents[1] / "kernels"
OPERATORS = Path(__file__).parents[2] / "bnas_deploy" / "core" / "operators.py"
TARGETS = Path(__file__).parents[1] / "targets.py"

TARGET_VARIABLE = "BNAS_TARGET"
"""Environment variable: a target of zig, such as aarch64-linux-gnu.2.17; unset, the library is for this machine.

runtime/targets.py has them all."""

KERNELS_VARIABLE = "BNAS_KERNELS"
"""Environment variable: a folder of kernels that were generated before; unset, build/kernels of the repository."""

TVM_REQUIREMENTS = ("apache-tvm==0.27.0.post1", "apache-tvm-ffi==0.1.14.post1")
"""Both pinned: the pair that pip would choose by itself crashes."""

GENERATORS = 2
"""Processes at once, each of which needs half a gigabyte."""

ZIG_REQUIREMENT = "ziglang>=0.13"

STRIP_FLAG = "-s"

MANYLINUX_TARGET = re.compile(r"(?P<cpu>\w+)-linux-gnu\.(?P<major>\d+)\.(?P<minor>\d+)")


class BuildError(Exception):
    """The library cannot be built; the message says why and what to do."""


def target() -> str | None:
    """Return the target to cross-compile for, None for this machine where it is a Linux with kernels.

    Raises:
        BuildError: this machine has no library of its own, and no other is asked for.
    """
    if given := os.environ.get(TARGET_VARIABLE):
        return given
    table = targets()
    if own := table.TARGETS.get(table.this_machine()):
        return None if own.system == "linux" else str(own.zig)
    raise BuildError(
        f"{table.this_machine()}: there is no operator library for this machine, only for {', '.join(table.TARGETS)}; "
        "run model.onnx of a bundle with onnxruntime alone, which computes the operators by their function bodies: the "
        "same answers, slower"
    )


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


@cache
def targets() -> Any:
    """Return runtime/targets.py."""
    return _load(TARGETS)


@cache
def linking() -> Any:
    """Return link.py, beside this file."""
    return _load(Path(__file__).with_name("link.py"))


def platform_tag() -> str | None:
    """Return the platform that a wheel for `target()` is tagged with, None for this machine's own.

    The library uses nothing but libc, so on Linux the version of glibc that zig links against is the whole promise.

    Raises:
        BuildError: there are no wheels for the target.
    """
    if (wanted := target()) is None:
        return None
    if match := MANYLINUX_TARGET.fullmatch(wanted):
        return f"manylinux_{match['major']}_{match['minor']}_{match['cpu']}"
    if row := _row(wanted):
        return str(row.tag)
    others = ", ".join(row.zig for row in targets().TARGETS.values() if row.system != "linux")
    raise BuildError(
        f"{TARGET_VARIABLE} is {wanted!r}, wanted CPU-linux-gnu.MAJOR.MINOR, such as aarch64-linux-gnu.2.17 "
        f"(the oldest glibc that the wheel is to run on), or {others}"
    )


def _row(wanted: str | None) -> Any:
    """Return the row of runtime/targets.py for a target that is no Linux with glibc, None for others."""
    return next((row for row in targets().TARGETS.values() if row.zig == wanted and row.system != "linux"), None)


def system() -> str:
    """Return the system that the library is for."""
    row = _row(target())
    return str(row.system) if row else "linux"


def library_name() -> str:
    """Return the name of the library's file."""
    row = _row(target())
    return str(row.library) if row else "libbnas_ort.so"


def _triple() -> str:
    """Return LLVM's name of the platform that kernels are for."""
    row = _row(target())
    return str(row.triple) if row else f"{_architecture()}-linux-gnu"


def _architecture() -> str:
    return (target() or platform.machine()).split("-")[0]


def specs() -> list[Any]:
    """Return the rows of runtime/kernels/specs.py for the target, best first; none for other architectures."""
    return list(_load(GENERATOR / "specs.py").specs_of(_architecture()))


def _load(path: Path) -> Any:
    """Run a table of the package, which is not installed yet, as a module of its own."""
    spec = importlib.util.spec_from_file_location(f"bnas_build_{path.stem}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def build_kernels() -> list[Path]:
    """Return the object files of all specs, generating those that are missing or out of date.

    Raises:
        BuildError: TVM is missing or fails; a library without these kernels would be a slow one, and nobody would know.
    """
    missing = missing_kernels()
    for path in missing.values():
        path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(GENERATORS) as pool:
        list(pool.map(_generate, missing, missing.values()))
    return list(_objects().values())


def missing_kernels() -> dict[str, Path]:
    """Return the object files that have to be generated, by ISA; each has a header beside it."""
    return {isa: path for isa, path in _objects().items() if not (path.is_file() and _header(isa).is_file())}


def _header(isa: str) -> Path:
    """Return where the prototypes of some kernels are."""
    return _kept(isa, ".h")


def _code(isa: str) -> Path:
    """Return where the code is that objects for all systems are made of."""
    return _kept(isa, ".ll")


def _objects() -> dict[str, Path]:
    of_system = "" if _triple().endswith("-linux-gnu") else f".{system()}"
    return {spec.isa: _kept(f"{spec.isa}{of_system}", ".o") for spec in specs()}


def _kept(name: str, suffix: str) -> Path:
    folder = Path(os.environ.get(KERNELS_VARIABLE) or GENERATOR.parents[1] / "build" / "kernels")
    return folder / f"{name}-{_generator_version()}{suffix}"


def _generator_version() -> str:
    """Name what decides about the kernels: TVM's version, the text of the generator and the table of operators."""
    digest = hashlib.sha256(" ".join(TVM_REQUIREMENTS).encode())
    for source in (*sorted(GENERATOR.glob("*.py")), OPERATORS):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def _generate(isa: str, path: Path) -> None:
    """Make an object, from the code that is kept if there is some: LLVM's optimiser takes most of the time."""
    kept = _code(isa).is_file() and _header(isa).is_file()
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".bnas-kernel-") as folder:
        fresh = Path(folder) / path.name
        made = {} if kept else {fresh.with_suffix(".h"): _header(isa), fresh.with_suffix(".ll"): _code(isa)}
        made[fresh] = path
        command = [sys.executable, str(GENERATOR / "generate.py"), isa, _triple(), str(fresh)]
        command += [str(_code(isa))] if kept else []
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode != 0 or not all(each.is_file() for each in made):
            raise BuildError(
                f"the {isa} kernels cannot be generated: {shlex.join(command)} ended with {run.returncode}; it needs "
                f"{' and '.join(TVM_REQUIREMENTS)}, which pip installs when it builds in an environment of its own\n"
                f"{run.stderr[-4000:]}"
            )
        for each, place in made.items():
            each.replace(place)
    for place in made.values():
        for old in {*place.parent.glob(f"{place.name.split('-')[0]}-*{place.suffix}")} - {place}:
            old.unlink(missing_ok=True)


def write_headers(folder: Path) -> None:
    """Write the headers that runtime/ort includes and nobody wrote. The kernels have to be there.

    operator_table.h is the table of operators, kernel_specs.h the dispatch table, kernel_sizes.h what kernels and their
    callers must agree on, kernel_prototypes.h every header of kernels.
    """
    (folder / "operator_table.h").write_text(_operator_table(), encoding="utf-8")
    (folder / "kernel_specs.h").write_text(_kernel_specs(), encoding="utf-8")
    (folder / "kernel_sizes.h").write_text(_kernel_sizes(), encoding="utf-8")
    prototypes = "".join(_header(isa).read_text(encoding="utf-8") for isa in _objects())
    (folder / "kernel_prototypes.h").write_text(prototypes, encoding="utf-8")


_LIMITS = ("BYTE", "MOST_PARTS", "MOST_BEFORE", "MOST_ADDED", "LARGEST_SIZE", "MOST_TERMS")


def _operator_table() -> str:
    """Return the table of operators for the preprocessor."""
    table = _load(OPERATORS)
    limits = [(name, getattr(table, name)) for name in _LIMITS]
    activations = [_activation(name) for name in table.ACTIVATIONS]
    return "\n".join(
        [
            "/* Written by runtime/build/native.py from bnas_deploy/core/operators.py. */",
            "#pragma once",
            "#include <stdbool.h>",
            "#include <stdint.h>",
            f'#define BNAS_DOMAIN "{table.DOMAIN}"',
            f"enum {{ BNAS_VERSION = {table.VERSION} }};",
            *(f"enum {{ BNAS_{name} = {value} }};" for name, value in limits),
            f"typedef enum BnasActivation {{ {', '.join(activations)} }} BnasActivation;",
            "/* ATTRIBUTE(name, length, least value, whether it is a list, whether it is required, its default) */",
            *_macro("BNAS_ATTRIBUTES", "ATTRIBUTE", map(_attribute, table.ATTRIBUTES)),
            "/* The inputs that are no activations: CONSTANT(name), in the order of the inputs. */",
            *_macro("BNAS_CONSTANTS", "CONSTANT", ((row.name,) for row in table.CONSTANTS)),
            "/* Those with a float32 per channel: VECTOR(name, rank, whether the channels are those of X, neutral) */",
            *_macro("BNAS_VECTORS", "VECTOR", (_vector(row) for row in table.CONSTANTS if _is_vector(row))),
            "/* The tensors that an operator may add before its activation, and to its result: TERM(index) */",
            *_macro("BNAS_BEFORE", "TERM", ((index,) for index in range(table.MOST_BEFORE))),
            *_macro("BNAS_ADDED", "TERM", ((index,) for index in range(table.MOST_ADDED))),
            "/* What a name chooses, and what follows from that: CHOICE(type, name) */",
            *_macro("BNAS_CHOICES", "CHOICE", (*map(_choice, fields(table.Operator)), ("bool", _OF_BLOCKS))),
            "/* OPERATOR(name, the choices and .inputs, how many, and .places, where each constant stands, or -1) */",
            *_macro("BNAS_OPERATORS", "OPERATOR", (_operator(row, table.CONSTANTS) for row in table.OPERATORS)),
            "/* The choices of those of images: STEP(type, name); and those that there are: OPERATOR(choices) */",
            *_macro("BNAS_IMAGE_STEPS", "STEP", (_choice(row) for row in fields(table.Operator) if row.name in _STEPS)),
            *_macro("BNAS_IMAGE_OPERATORS", "OPERATOR", dict.fromkeys(map(_image_operator, table.IMAGES))),
            "",
        ]
    )


def _macro(name: str, row: str, rows: Iterable[Sequence[object]]) -> list[str]:
    """Return the lines of a macro that expands to one call of the macro `row` per row."""
    return [f"#define {name}({row}) \\", *(f"    {row}({', '.join(map(str, cells))}) \\" for cells in rows), ""]


def _activation(name: str) -> str:
    return f"BNAS_{name.upper() or 'NO_ACTIVATION'}"


def _attribute(row: Any) -> tuple[object, ...]:
    default = row.default if isinstance(row.default, tuple) else (row.default or 0,)
    return row.name, row.length, row.least, int(row.is_list), int(row.default is None), *default


def _is_vector(row: Any) -> bool:
    """Tell whether an input has a float per channel. The library reads the weights and the levels otherwise."""
    return row.dtype == "float32" and row.shape[0] in ("C", "O")


def _vector(row: Any) -> tuple[object, ...]:
    channels, *ones = row.shape
    assert channels in ("C", "O"), f"{row.name}: the library reads vectors of channels"
    assert set(ones) <= {1}, f"{row.name}: the library reads vectors of channels"
    return row.name, len(row.shape), int(channels == "C"), _number(row.neutral)


def _number(value: float) -> str:
    return f"{value}f" if isfinite(value) else f"{'-' if value < 0 else ''}__builtin_inff()"


_OF_BLOCKS = "is_of_blocks"
"""The property of an operator that decides which of the epilogues it has."""


def _choice(field: Field[Any]) -> tuple[str, str]:
    return {bool: "bool", str: "BnasActivation", int: "int64_t"}[type(field.default)], field.name


def _operator(row: Any, constants: Sequence[Any]) -> list[str]:
    chosen = {name: getattr(row, name) for name in (*(field.name for field in fields(row)), _OF_BLOCKS)}
    places = [row.inputs.index(each.name) if each in row.constants else -1 for each in constants]
    return [
        f'"{row.name}"',
        *_chosen(chosen),
        f".inputs = {len(row.inputs)}",
        f".places = {{{', '.join(map(str, places))}}}",
    ]


_STEPS = (
    "second_bit",
    "reaches",
    "gate",
    "before",
    "scaled",
    "activation",
    "affine",
    "added",
    "scaled_last",
    "max_pool",
    "mean_pool",
)
"""What operators of images may choose."""


def _image_operator(row: Any) -> tuple[str, ...]:
    return tuple(_chosen({name: getattr(row, name) for name in _STEPS}))


def _chosen(choices: Mapping[str, object]) -> list[str]:
    """Return the choices of an operator as C initialises them."""
    return [
        f".{name} = {_activation(value) if isinstance(value, str) else int(value)}" for name, value in choices.items()
    ]


def _kernel_specs() -> str:
    """Return the dispatch table's rows."""
    lines = ["/* Written by runtime/build/native.py from runtime/kernels/specs.py. */"]
    for row in specs():
        counting = row.counting
        layout = (counting.channels, counting.outputs, counting.multiple, counting.padding)
        in_place = row.in_place or len(row.tiles)
        numbers = ", ".join(map(str, (row.vector_bytes, len(row.tiles), in_place, int(row.aligns), *layout)))
        lines.append(f"BNAS_KERNEL_SPEC({row.isa}, {row.cpu_check}, {row.suits}, {counting.name}, {numbers})")
    return "\n".join(lines) + "\n"


def _kernel_sizes() -> str:
    """Return the sizes that the generated kernels are made for."""
    table = _load(GENERATOR / "specs.py")
    sizes = (f"{name} = {getattr(table, name)}" for name in ("MOST_CHANNELS", "CORRECTIONS", "SQUARE"))
    return (
        "/* Written by runtime/build/native.py from runtime/kernels/specs.py. */\n"
        f"#pragma once\nenum {{ {', '.join(sizes)} }};\n"
    )


def sources() -> list[Path]:
    """Return the C files of the library; those around generated kernels only where the target has some."""
    files = (path for path in sorted(SOURCES.glob("*.c")) if linking().belongs(path, system()))
    return [path for path in files if specs() or not path.name.startswith("blocked")]


def build_library(output: Path, extra_flags: Sequence[str] = (STRIP_FLAG,)) -> None:
    """Link all of runtime/ort/ and the kernels into `output`; whoever reads it sees the old library or the new one.

    Raises:
        BuildError: the compiler or TVM fails or is missing.
    """
    kernels = build_kernels()
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".bnas-build-") as folder:
        fresh = Path(folder) / output.name
        write_headers(Path(folder))
        link = linking()
        given = link.Inputs(compiler(), sources(), kernels, Path(folder), extra_flags)
        link.LINK[system()](given, fresh, _run)
        fresh.replace(output)


def _run(command: Sequence[str], folder: Path) -> None:
    try:
        run = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    except OSError as error:
        raise BuildError(f"cannot start the C compiler: {shlex.join(command)}: {error.strerror}; set CC") from None
    if run.returncode != 0:
        raise BuildError(f"the C compiler failed: {shlex.join(command)}\n{run.stderr}")
