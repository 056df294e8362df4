"""The table of kernels and the objects made from it. What they compute is tested in test_native_operators.py."""

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from bnas_deploy.runtime.kernels.variants import VARIANTS, Variant, function_name, variants_of
from bnas_deploy.runtime.library import library_path
from bnas_deploy.runtime.machine import cpu_flags

ROOT = Path(__file__).parents[2]
CALLED = {"memcpy", "memset"}
FUSED = re.compile(r"\b(vfn?m(add|sub)|fn?m(la|ls|add|sub))")

needs_binutils = pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump and nm")


@pytest.fixture(params=variants_of(platform.machine()), ids=lambda row: row.isa)
def kernel_object(request: pytest.FixtureRequest, native: ModuleType, generated_kernels: None) -> tuple[Variant, Path]:
    paths = dict(zip((row.isa for row in variants_of(platform.machine())), native.build_kernels(), strict=True))
    return request.param, paths[request.param.isa]


def test_isas_have_names_of_their_own() -> None:
    assert len({row.isa for row in VARIANTS}) == len(VARIANTS)


def test_wider_rows_come_first() -> None:
    rows = variants_of("x86_64")
    assert [row.vector_bytes for row in rows] == sorted((row.vector_bytes for row in rows), reverse=True)


def test_the_first_row_that_the_cpu_can_run_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNAS_ISA", raising=False)
    select = ctypes.CDLL(str(library_path())).bnas_isa
    select.restype = ctypes.c_char_p
    runnable = [row.isa for row in variants_of(platform.machine()) if row.cpu_flags <= cpu_flags()]
    assert select().decode() == [*runnable, "popcnt", "generic"][0]


def test_the_library_stays_under_a_megabyte() -> None:
    assert library_path().stat().st_size < 1_000_000


@needs_binutils
def test_an_object_has_its_functions_and_calls_only_libc(kernel_object: tuple[Variant, Path]) -> None:
    variant, path = kernel_object
    rows = [line.split() for line in subprocess.check_output(["nm", str(path)], text=True).splitlines()]
    defined = {row[-1] for row in rows if row[-2] == "T"}
    functions = ("pack", "halve", "encode", "count", "count_channels", "transpose", "finish", "add")
    assert defined == {function_name(variant, name) for name in functions}
    assert {row[-1] for row in rows if row[-2] == "U"} <= CALLED


@needs_binutils
def test_no_multiplication_is_fused_with_an_addition(kernel_object: tuple[Variant, Path]) -> None:
    code = subprocess.check_output(["objdump", "--disassemble", "--no-show-raw-insn", str(kernel_object[1])], text=True)
    assert "mulps" in code
    assert not FUSED.findall(code)


def test_neon_looks_up_in_registers_and_fuses_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tvm", reason="needs TVM to cross-compile", exc_type=ImportError)
    assembly = tmp_path / "neon.s"
    command = [sys.executable, str(ROOT / "runtime/kernels/generate.py"), "neon", str(assembly)]
    subprocess.run(command, check=True, capture_output=True)
    code = assembly.read_text()
    assert re.search(r"\btbl\b", code)
    assert not FUSED.findall(code)
