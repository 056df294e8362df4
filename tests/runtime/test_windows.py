"""The library for Windows, with onnxruntime's own DLL, under Wine: the answers are those of Linux, to the bit."""

import importlib.util
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest

from bnas_deploy.remote.wheels import library_in
from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import specs_of
from bnas_deploy.runtime.library import library_path

HERE = Path(__file__).parent
RUNNER = HERE / "run_cases.c"
C_LIBRARIES = ("filesystem", "heap", "private", "runtime", "stdio", "string")
"""Parts of Windows' own C run-time library."""
Zig = Callable[..., subprocess.CompletedProcess[str]]

ISAS = [
    *(
        pytest.param(
            row.isa, marks=pytest.mark.skipif(not row.cpu_flags <= cpu_flags(), reason=f"needs {row.cpu_check}")
        )
        for row in specs_of("x86_64")
    ),
    "popcnt",
    "generic",
]

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the DLL is for x86-64")


@pytest.fixture(scope="module")
def onnxruntime_dll(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The onnxruntime.dll of the wheel for Windows, kept from one run of the tests to the next."""
    version = onnxruntime.__version__
    cache = getattr(pytestconfig, "cache", None)
    folder: Path = cache.mkdir("onnxruntime-windows") if cache else tmp_path_factory.mktemp("onnxruntime")
    path = folder / version / "onnxruntime.dll"
    if not path.is_file():
        work = tmp_path_factory.mktemp("download")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        python = ["--platform", "win_amd64", "--python-version", "3.11", "--implementation", "cp"]
        done = subprocess.run(
            [*pip, *python, "-d", str(work), f"onnxruntime=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"onnxruntime {version} for Windows cannot be had: {done.stderr.strip().splitlines()[-1]}")
        (wheel,) = work.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (work / "onnxruntime.dll").write_bytes(archive.read("onnxruntime/capi/onnxruntime.dll"))
        path.parent.mkdir(exist_ok=True)
        (work / "onnxruntime.dll").replace(path)
    return path


@pytest.fixture(scope="module")
def library(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The DLL of the wheel, in a folder whose name Windows' old code pages do not have."""
    path = tmp_path_factory.mktemp("dll") / "ein Ordner, 二値, ż" / "bnas_ort.dll"
    path.parent.mkdir()
    path.write_bytes(library_in(wheels["x86_64-windows"])[0])
    return path


# --------------------------------------------------------------------------------------------------------------------
# Cases


def operator_tests() -> ModuleType:
    path = HERE / "test_native_operators.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def named(name: str) -> bytes:
    return struct.pack("<I", len(name.encode())) + name.encode()


def tensor(array: np.ndarray) -> bytes:
    head = struct.pack(f"<II{array.ndim}q", array.itemsize, array.ndim, *array.shape)
    return head + np.ascontiguousarray(array, "<u1" if array.dtype == np.uint8 else "<f4").tobytes()


def case(model: bytes, fed: dict[str, np.ndarray], outputs: list[str]) -> bytes:
    """Return one model as run_cases.c reads it."""
    parts = [struct.pack("<I", len(model)), model, struct.pack("<I", len(fed))]
    parts += (named(name) + tensor(value) for name, value in fed.items())
    parts += [struct.pack("<I", len(outputs)), *map(named, outputs)]
    return b"".join(parts)


@dataclass(frozen=True)
class Cases:
    """Models in a file, how many nodes they have, and what Linux answers."""

    path: Path
    nodes: int
    answers: bytes


@pytest.fixture(scope="module")
def linux_runner(header_folder: Path, onnxruntime_for_c: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The words that start run_cases here, up to the cases."""
    if shutil.which("gcc") is None:
        pytest.skip("needs gcc")
    program = str(tmp_path_factory.mktemp("linux") / "run_cases")
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-isystem", str(header_folder)]
    subprocess.run(["gcc", *flags, str(RUNNER), "-o", program, "-ldl", "-lpthread"], check=True)
    return [program, str(onnxruntime_for_c), str(library_path())]


@pytest.fixture(scope="module")
def cases(linux_runner: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Cases, Cases]:
    """All models, and a few that have an edge for each operator."""
    folder = tmp_path_factory.mktemp("cases")
    tests = operator_tests()
    every, few = list(tests.all_models()), list(tests.few_models())
    return _cases(folder / "all", every, linux_runner), _cases(folder / "few", few, linux_runner)


def _cases(path: Path, models: list[Any], linux_runner: list[str]) -> Cases:
    path.write_bytes(b"".join(case(*each) for each in models))
    answers = path.with_suffix(".answers")
    done = subprocess.run(
        [*linux_runner, str(path), str(answers), "1", "1"], capture_output=True, text=True, check=True
    )
    nodes = sum(len(outputs) for *_, outputs in models)
    assert done.stdout.split()[1] == str(nodes)
    return Cases(path, nodes, answers.read_bytes())


@pytest.fixture(scope="module")
def runner(header_folder: Path, zig: Zig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """run_cases.exe, which needs nothing but what Windows has."""
    folder = tmp_path_factory.mktemp("runner")
    cc = ("cc", "-target", "x86_64-windows-gnu")
    # A mark in onnxruntime's header that Microsoft's compiler knows, and MinGW's headers do not.
    flags = ["-std=c11", "-O1", "-D_Return_type_success_(x)=", "-isystem", header_folder]
    zig(*cc, *flags, "-c", RUNNER, "-o", folder / "run_cases.o")
    parts = [f"-lapi-ms-win-crt-{part}-l1-1-0" for part in C_LIBRARIES]
    start = ["-Wl,--subsystem,console", "-Wl,-e,mainCRTStartup"]
    program = folder / "run_cases.exe"
    zig(*cc, "-nostdlib", *start, "-o", program, folder / "run_cases.o", *parts, "-lkernel32", "-lshell32")
    return program


# --------------------------------------------------------------------------------------------------------------------
# What it answers


@dataclass(frozen=True)
class Windows:
    """Everything that a run needs."""

    wine: Any
    runner: Path
    onnxruntime: Path
    library: Path

    def run(self, cases: Path, answers: Path, threads: int, sessions: int, **variables: str) -> Any:
        paths = map(self.wine.path, (self.onnxruntime, self.library, cases, answers))
        return self.wine.run(self.runner, *paths, threads, sessions, **variables)


@pytest.fixture(scope="module")
def windows(wine: Any, runner: Path, onnxruntime_dll: Path, library: Path) -> Windows:
    return Windows(wine, runner, onnxruntime_dll, library)


@pytest.mark.parametrize("isa", ISAS)
def test_every_operator_has_the_bits_of_linux(
    windows: Windows, cases: tuple[Cases, Cases], isa: str, tmp_path: Path
) -> None:
    every, _ = cases
    done = windows.run(every.path, tmp_path / "answers", 1, 1, BNAS_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [isa, str(every.nodes)]
    assert (tmp_path / "answers").read_bytes() == every.answers


@pytest.mark.parametrize("isa", ISAS)
def test_three_sessions_at_once_with_two_threads_each_have_them_too(
    windows: Windows, cases: tuple[Cases, Cases], isa: str, tmp_path: Path
) -> None:
    _, few = cases
    done = windows.run(few.path, tmp_path / "answers", 2, 3, BNAS_ISA=isa)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [isa, str(3 * 2 * few.nodes)]  # three sessions, each runs twice
    assert (tmp_path / "answers").read_bytes() == few.answers


def test_kernels_that_the_library_lacks_are_refused(
    windows: Windows, cases: tuple[Cases, Cases], tmp_path: Path
) -> None:
    done = windows.run(cases[1].path, tmp_path / "answers", 1, 1, BNAS_ISA="neon")
    assert done.returncode == 1
    said = "BNAS_ISA is 'neon', but this library has avx512vbmi, avx512bw, avx2, ssse3, popcnt, generic; unset it"
    assert said in done.stderr
    done = windows.run(cases[1].path, tmp_path / "answers", 1, 1, BNAS_ISA="x" * 100)
    assert done.returncode == 1
    assert f"BNAS_ISA is '{'?' * 63}', but this library has" in done.stderr


@pytest.mark.parametrize("source", ["c/run_model.c", "cpp/run_model.cpp"])
def test_the_examples_compile_with_wide_paths(source: str, header_folder: Path, zig: Zig, tmp_path: Path) -> None:
    compiler = ("c++", "-std=c++17") if source.endswith("cpp") else ("cc", "-std=c11")
    # Another mark of Microsoft's that MinGW's headers do not have.
    flags = ["-Wall", "-Werror", "-municode", "-D_Return_type_success_(x)=", "-isystem", header_folder]
    path = HERE.parents[1] / "examples" / source
    zig(*compiler, "-target", "x86_64-windows-gnu", *flags, "-c", path, "-o", tmp_path / "example.o")
    assert (tmp_path / "example.o").read_bytes()[:2] == b"\x64\x86"


START = """
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

#include <shellapi.h>

int wmain(int argc, wchar_t** argv);

#define PRINT(name, file, ...)                                              \\
    int name(__VA_ARGS__, ...) {                                            \\
        va_list values;                                                     \\
        va_start(values, format);                                           \\
        return __stdio_common_vfprintf(0, file, format, NULL, values);      \\
    }
PRINT(fprintf, file, FILE* file, const char* format)
PRINT(printf, stdout, const char* format)

void mainCRTStartup(void) {
    int argc;
    wchar_t** argv = CommandLineToArgvW(GetCommandLineW(), &argc);
    exit(wmain(argc, argv));
}
"""


def test_the_example_names_a_path_that_no_code_page_has(
    windows: Windows, header_folder: Path, zig: Zig, tmp_path: Path
) -> None:
    folder = tmp_path / "ein Ordner, 二値, ż"
    folder.mkdir()
    program = linked_example(header_folder, zig, folder)
    shutil.copy(windows.onnxruntime, folder)
    model, _, _ = next(iter(operator_tests().few_models()))
    (folder / "model.onnx").write_bytes(model)
    paths = [windows.wine.path(path) for path in (folder / "model.onnx", windows.library, folder / "nichts, 二値.f32")]
    done = windows.wine.run(program, *paths)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"{paths[-1]}: cannot be read"  # Wine may say something before


def linked_example(header_folder: Path, zig: Zig, folder: Path) -> Path:
    """Link the C example as run_cases.c is, without the minute that MinGW's own start takes."""
    cc = ("cc", "-target", "x86_64-windows-gnu")
    # printf of Windows, and not MinGW's own.
    flags = ("-std=c11", "-O1", "-D_Return_type_success_(x)=", "-D__USE_MINGW_ANSI_STDIO=0", "-isystem", header_folder)
    (folder / "start.c").write_text(START, encoding="utf-8")
    (folder / "onnxruntime.def").write_text("LIBRARY onnxruntime.dll\nEXPORTS\nOrtGetApiBase\n", encoding="utf-8")
    imported = folder / "onnxruntime.lib"
    zig("dlltool", "-m", "i386:x86-64", "-d", folder / "onnxruntime.def", "-l", imported)
    objects = [folder / "example.o", folder / "start.o"]
    for source, output in zip((HERE.parents[1] / "examples/c/run_model.c", folder / "start.c"), objects, strict=True):
        zig(*cc, *flags, "-c", source, "-o", output)
    parts = [f"-lapi-ms-win-crt-{part}-l1-1-0" for part in C_LIBRARIES]
    start = ("-nostdlib", "-Wl,--subsystem,console", "-Wl,-e,mainCRTStartup")
    program = folder / "run_model.exe"
    zig(*cc, *start, "-o", program, *objects, imported, *parts, "-lkernel32", "-lshell32")
    return program
