"""The library built in other ways and loaded by other versions of onnxruntime; and the way it is built."""

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.operators import CONSTANTS, MOST_ADDED, MOST_BEFORE, OPERATORS, VERSION
from bnas_deploy.runtime import library
from bnas_deploy.runtime.targets import TARGETS

ROOT = Path(__file__).parents[2]
NET = ROOT / "tests/fuzz/native_operators.py"
OPERATOR_TESTS = Path(__file__).with_name("test_native_operators.py")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def run_tests(chosen: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the chosen tests of the operators in a process of their own, with these environment variables."""
    # -P keeps the working folder, which holds a half of the package, off the path.
    # -s, because a sanitizer stops the process before pytest could show what it captured.
    # -n0, because these are the tests of one file.
    options = ["-q", "-s", "-n0", "-p", "no:cacheprovider", "-k", chosen]
    command = [sys.executable, "-P", "-m", "pytest", *options, str(OPERATOR_TESTS)]
    run = subprocess.run(
        command, cwd=ROOT, env={**os.environ, **variables}, capture_output=True, text=True, check=False
    )
    assert " passed" in run.stdout, run.stdout[-4000:] + run.stderr[-4000:]
    assert " failed" not in run.stdout, run.stdout[-4000:]
    return run


def sanitizer_libraries(*names: str) -> str:
    """Return what LD_PRELOAD needs, so that a sanitized library can be loaded into a Python that is not."""
    # The sanitizer must find the C++ library, or it stops at onnxruntime's first exception.
    found = [
        subprocess.check_output(["gcc", f"-print-file-name={name}"], text=True).strip()
        for name in (*names, "libstdc++.so.6")
    ]
    if not all(Path(path).is_absolute() for path in found):
        pytest.skip("this gcc has no sanitizers")
    return ":".join(found)


def test_onnxruntime_1_17_gives_the_same_answers(onnxruntime_1_17: Any) -> None:
    # What differs is onnxruntime's side of the call, which is the same for each instruction set.
    run = run_tests("edges_of and generic", PYTHONPATH=str(onnxruntime_1_17.folder))
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


def test_onnxruntime_1_16_is_refused(onnxruntime_1_16: Any) -> None:
    code = "import onnxruntime, sys; onnxruntime.SessionOptions().register_custom_ops_library(sys.argv[1])"
    run = onnxruntime_1_16.run(code, library.library_path())
    assert run.returncode == 1
    assert "the bnas library needs onnxruntime 1.17 or later, this is 1.16.3; upgrade onnxruntime" in run.stderr


@needs_gcc
def test_the_sanitizers_find_nothing(
    native: ModuleType, generated_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "gcc")
    libraries = sanitizer_libraries("libasan.so", "libubsan.so")
    built = tmp_path / "libbnas_ort.so"
    native.build_library(built, ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
    # All tests but those with a library of their own, and those that the test of races has, with the best kernels that
    # run here and the portable ones: what is in C is the same around all others. Leaks are not looked for: Python and
    # onnxruntime leave much to the end of the process.
    variables = {"BNAS_TEST_LIBRARY": str(built), "LD_PRELOAD": libraries, "ASAN_OPTIONS": "detect_leaks=0"}
    rows = [row.isa for row in library.kernel_rows(library.library_path()) if row.runs_here]
    others = "".join(f" and not {isa}" for isa in rows[1:] if isa != "generic")
    run = run_tests(f"not memory and not eight_threads{others}", **variables)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    # Other seeds than those of tests/fuzz/test_native_operators.py.
    net = [sys.executable, "-P", str(NET), "--first", "1000", "--count", "50", "--isa", rows[0], "generic"]
    run = subprocess.run(net, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]


@needs_gcc
def test_threads_never_race(
    native: ModuleType, generated_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "gcc")
    libraries = sanitizer_libraries("libtsan.so")
    built = tmp_path / "libbnas_ort.so"
    native.build_library(built, ["-g", "-O1", "-fsanitize=thread"])
    # Sessions of one thread each: ThreadSanitizer cannot see how onnxruntime, which it has not instrumented, makes its
    # own threads wait for each other. For the same reason only reports about this library's code count.
    run = run_tests("eight_threads and serial", BNAS_TEST_LIBRARY=str(built), LD_PRELOAD=libraries)
    reports = run.stderr.split("WARNING: ThreadSanitizer")[1:]
    ours = [report for report in reports if re.search(r"^SUMMARY: .*runtime/ort/", report, re.MULTILINE)]
    assert not ours, ours[0]


@needs_gcc
def test_the_library_compiles_without_warnings(
    native: ModuleType, generated_kernels: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", "gcc")
    warnings = ("all", "extra", "pedantic", "shadow", "vla", "conversion", "sign-conversion", "error")
    native.build_library(tmp_path / "libbnas_ort.so", [f"-W{name}" for name in warnings])


@needs_gcc
def test_another_compiler_is_told_which_ones_there_are(native: ModuleType) -> None:
    command = ["gcc", "-E", "-U__GNUC__", str(native.SOURCES / "kernel.h")]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    said = (
        "bnas needs gcc, clang or zig, for their attributes and built-in functions: runtime/build/wheels.py fetches zig"
    )
    assert said in run.stderr


def test_the_library_is_built_with_the_table_of_operators(
    native: ModuleType, generated_kernels: None, tmp_path: Path
) -> None:
    native.write_headers(tmp_path)
    text = (tmp_path / "operator_table.h").read_text()
    assert int(re.findall(r"BNAS_VERSION = (\d+)", text)[0]) == VERSION
    terms = [*range(MOST_BEFORE), *range(MOST_ADDED)]
    assert re.findall(r"^    TERM\((\d+)\)", text, re.MULTILINE) == [str(index) for index in terms]
    vectors = re.findall(r"^    VECTOR\((\w+), \d, [01], (.*)\)", text, re.MULTILINE)
    infinite = {"__builtin_inff()": "inf", "-__builtin_inff()": "-inf"}
    assert {name: float(infinite.get(neutral, neutral.removesuffix("f"))) for name, neutral in vectors} == {
        each.name: each.neutral for each in CONSTANTS if each.dtype == "float32" and each.name != "level"
    }
    rows = re.findall(r'OPERATOR\("(\w+)", .*\.inputs = (\d+), \.places = \{(.*)\}\)', text)
    assert [(name, int(inputs)) for name, inputs, _ in rows] == [(row.name, len(row.inputs)) for row in OPERATORS]
    for row, (_, _, places) in zip(OPERATORS, rows, strict=True):
        found = {constant.name: int(place) for constant, place in zip(CONSTANTS, places.split(","), strict=True)}
        assert found == {name: row.inputs.index(name) if name in row.inputs else -1 for name in found}


def test_a_constant_that_the_library_cannot_read_fails_the_build(
    native: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = native.OPERATORS.read_text().replace('"float32", ("O", 1, 1)', '"float32", ("O", "KH", 1)')
    monkeypatch.setattr(native, "OPERATORS", tmp_path / "operators.py")
    native.OPERATORS.write_text(changed)
    with pytest.raises(AssertionError, match="offset: the library reads vectors of channels"):
        native.write_headers(tmp_path)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ("*.h", "incompatible|makes integer from pointer"),  # the calls in runtime/ort pass something else
        ("avx2-*.h", "conflicting types|typedef redefinition"),  # the other rows' kernels take something else
    ],
)
@pytest.mark.skipif(platform.machine() != "x86_64", reason="needs several rows of kernels")
def test_the_compiler_checks_calls_against_the_generated_kernels(
    native: ModuleType,
    generated_kernels: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rows: str,
    reason: str,
) -> None:
    kernels = shutil.copytree(native.build_kernels()[0].parent, tmp_path / "kernels")
    for header in kernels.glob(rows):
        text = header.read_text()
        assert "const float* threshold, uint8_t* bits)" in text
        header.write_text(text.replace("const float* threshold, uint8_t* bits)", "uint8_t* bits, int32_t threshold)"))
    monkeypatch.setenv("BNAS_KERNELS", str(kernels))
    with pytest.raises(native.BuildError, match=reason):
        native.build_library(tmp_path / "library.so", ["-O0", "-Werror"])


def test_a_processor_without_kernels_gets_portable_ones(
    native: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "specs", list)
    native.build_library(tmp_path / "library.so", ["-O0"])
    rows = [row.isa for row in library.kernel_rows(tmp_path / "library.so")]
    assert rows == (["popcnt", "generic"] if platform.machine() == "x86_64" else ["generic"])


@pytest.mark.skipif(shutil.which("readelf") is None, reason="needs readelf")
def test_the_library_needs_libc_only_and_shows_four_functions() -> None:
    path = str(library.library_path())
    dynamic = subprocess.check_output(["readelf", "--dynamic", "--wide", path], text=True)
    assert "RPATH" not in dynamic
    assert "RUNPATH" not in dynamic
    needed = [line.split("[")[1].rstrip("]") for line in dynamic.splitlines() if "(NEEDED)" in line]
    assert [name.split(".")[0] for name in needed] == ["libc"]
    symbols = subprocess.check_output(["readelf", "--dyn-syms", "--wide", path], text=True)
    rows = [line.split() for line in symbols.splitlines() if " FUNC " in line]
    defined = {row[7].split("@")[0] for row in rows if row[6] != "UND"}
    exported = {"RegisterCustomOps", "bnas_isa", "bnas_native_calls", "bnas_row", "bnas_shared_stages"}
    assert defined - {"_init", "_fini"} == exported


def test_a_library_that_was_not_built_is_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    with pytest.raises(RuntimeLibraryError) as error:
        library.library_path()
    assert str(error.value) == (
        f"{tmp_path / 'libbnas_ort.so'}: missing; wanted the operator library that the installation builds; "
        "install bnas-deploy again with `pip install .` or `pip install -e .` in its repository"
    )


def test_a_generator_that_fails_fails_the_build(
    native: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNAS_KERNELS", str(tmp_path / "kernels"))
    monkeypatch.setattr(native, "GENERATOR", shutil.copytree(native.GENERATOR, tmp_path / "a" / "b" / "generator"))
    (native.GENERATOR / "generate.py").write_text("import no_such_tvm")
    with pytest.raises(native.BuildError, match=r"(?s)kernels cannot be generated: .*apache-tvm==.*no_such_tvm"):
        native.build_library(tmp_path / "library.so")
    assert not (tmp_path / "library.so").exists()


# --------------------------------------------------------------------------------------------------------------------
# Which compiler, for which platform


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any compiler and with no wishes about it."""
    for name in ("CC", "BNAS_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return monkeypatch


def test_without_a_compiler_zig_is_required(native: ModuleType, bare: pytest.MonkeyPatch) -> None:
    assert native.needs_zig()
    assert native.compiler() == [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
    assert native.platform_tag() is None


def test_cc_names_the_compiler(native: ModuleType, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CC", "ccache clang")
    assert not native.needs_zig()
    assert native.compiler() == ["ccache", "clang"]


def test_a_target_is_built_with_zig_and_tags_the_wheel(native: ModuleType, bare: pytest.MonkeyPatch) -> None:
    bare.setenv("CC", "gcc")
    bare.setenv("BNAS_TARGET", "aarch64-linux-gnu.2.17")
    assert native.needs_zig()
    assert native.compiler() == [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-gnu.2.17"]
    assert native.platform_tag() == "manylinux_2_17_aarch64"


@pytest.mark.parametrize("name", TARGETS)
def test_every_target_has_its_tag_and_its_file(native: ModuleType, bare: pytest.MonkeyPatch, name: str) -> None:
    row = TARGETS[name]
    bare.setenv("BNAS_TARGET", row.zig)
    assert native.platform_tag() == row.tag
    assert native.library_name() == row.library
    assert native.system() == row.system
    windows = [path.stem for path in native.sources() if path.stem.startswith("system_")] == ["system_windows"]
    assert windows == (row.system == "windows")


@pytest.mark.parametrize(("system", "machine", "name"), [("Darwin", "arm64", "macos"), ("Windows", "AMD64", "windows")])
def test_other_systems_than_linux_build_for_themselves(
    native: ModuleType, bare: pytest.MonkeyPatch, system: str, machine: str, name: str
) -> None:
    bare.setattr(platform, "system", lambda: system)
    bare.setattr(platform, "machine", lambda: machine)
    assert native.needs_zig()
    assert native.system() == name


@pytest.mark.parametrize(
    ("system", "machine", "name"),
    [
        ("FreeBSD", "amd64", "x86_64-freebsd"),
        *(("Linux", machine, f"{machine}-linux") for machine in ("riscv64", "armv7l", "ppc64le", "i686")),
    ],
)
def test_a_machine_without_a_library_is_told_what_to_do(
    native: ModuleType, bare: pytest.MonkeyPatch, system: str, machine: str, name: str
) -> None:
    bare.setattr(platform, "system", lambda: system)
    bare.setattr(platform, "machine", lambda: machine)
    with pytest.raises(native.BuildError) as error:
        native.platform_tag()
    assert str(error.value) == (
        f"{name}: there is no operator library for this machine, only for x86_64-linux, aarch64-linux, "
        "x86_64-windows, aarch64-macos, aarch64-android; run model.onnx of a bundle with onnxruntime alone, which "
        "computes the operators by their function bodies: the same answers, slower"
    )


@pytest.mark.parametrize("target", ["aarch64", "aarch64-linux-gnu", "aarch64-linux-musl", "aarch64-linux-gnu.2"])
def test_a_target_without_a_tag_is_refused(native: ModuleType, bare: pytest.MonkeyPatch, target: str) -> None:
    bare.setenv("BNAS_TARGET", target)
    with pytest.raises(native.BuildError) as error:
        native.platform_tag()
    assert str(error.value) == (
        f"BNAS_TARGET is '{target}', wanted CPU-linux-gnu.MAJOR.MINOR, such as aarch64-linux-gnu.2.17 "
        "(the oldest glibc that the wheel is to run on), or x86_64-windows-gnu, aarch64-macos.11.0, "
        "aarch64-linux-android.24"
    )


def test_a_failing_compiler_is_quoted(
    native: ModuleType, generated_kernels: None, bare: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bare.setenv("CC", f"{sys.executable} -c 'import sys; sys.exit(\"out of registers\")'")
    with pytest.raises(native.BuildError, match=r"(?s)the C compiler failed: .*out of registers"):
        native.build_library(tmp_path / "library.so")
    bare.setenv("CC", "no-such-compiler")
    with pytest.raises(native.BuildError, match=r"cannot start the C compiler: no-such-compiler .*; set CC"):
        native.build_library(tmp_path / "library.so")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("asked", "name"), [("system", "FreeBSD"), ("machine", "riscv64")])
@pytest.mark.parametrize("hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"])
def test_pip_says_in_one_sentence_that_there_is_no_library(
    native: ModuleType, asked: str, name: str, hook: str
) -> None:
    code = (
        f"import platform, sys; platform.{asked} = lambda: {name!r}; sys.path.insert(0, sys.argv[1]); "
        f"import backend; backend.{hook}()"
    )
    command = [sys.executable, "-P", "-c", code, str(Path(native.__file__ or "").parent)]
    environment = {name: value for name, value in os.environ.items() if name != "BNAS_TARGET"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    (said,) = run.stderr.strip().splitlines()[-1:]
    machine = f"{platform.machine()}-freebsd" if asked == "system" else "riscv64-linux"
    assert said.startswith(f"bnas-deploy: {machine}: there is no operator library for this machine")
