"""The table of kernels and the objects made from it. What they compute is tested in test_native_operators.py."""

import ctypes
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import (
    KERNEL_SPECS,
    LUT6X2,
    POPCOUNT8,
    WITHOUT_COUNTING,
    KernelSpec,
    function_name,
    owner,
    specs_of,
)
from bnas_deploy.runtime.library import library_path

ROOT = Path(__file__).parents[2]
CALLED = {"memcpy", "memset"}
FUSED = re.compile(r"\b(vfn?m(add|sub)|fn?m(la|ls|add|sub))")

needs_binutils = pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump and nm")


@pytest.fixture(params=specs_of(platform.machine()), ids=lambda row: row.isa)
def kernel_object(
    request: pytest.FixtureRequest, native: ModuleType, generated_kernels: None
) -> tuple[KernelSpec, Path]:
    paths = dict(zip((row.isa for row in specs_of(platform.machine())), native.build_kernels(), strict=True))
    return request.param, paths[request.param.isa]


def test_isas_have_names_of_their_own() -> None:
    assert len({row.isa for row in KERNEL_SPECS}) == len(KERNEL_SPECS)


def test_wider_rows_come_first() -> None:
    rows = specs_of("x86_64")
    assert [row.vector_bytes for row in rows] == sorted((row.vector_bytes for row in rows), reverse=True)


def test_rows_share_what_does_not_depend_on_the_way_of_counting() -> None:
    shared = {(row.isa, owner(row, "epilogue").isa) for row in KERNEL_SPECS if owner(row, "epilogue") != row}
    assert shared == {("avx512vbmi", "avx512bw")}
    for row in KERNEL_SPECS:
        assert owner(row, "count") == row
        for function in WITHOUT_COUNTING:
            # Whatever runs the row can run the function, which is written with the same vectors and tiles.
            assert owner(row, function).cpu_flags <= row.cpu_flags
            assert (owner(row, function).vector_bytes, owner(row, function).tiles) == (row.vector_bytes, row.tiles)


def test_the_first_row_that_the_cpu_can_run_is_picked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNAS_ISA", raising=False)
    select = ctypes.CDLL(str(library_path())).bnas_isa
    select.restype = ctypes.c_char_p
    rows = [row for row in specs_of(platform.machine()) if row.cpu_flags <= cpu_flags()]
    # On ARM it depends on the cores, too: tests/arm has some.
    picked = select().decode()
    suiting = [row.isa for row in rows if row.suits == "any_cpu" or row.isa == picked]
    assert picked == [*suiting, "popcnt", "generic"][0]


def test_the_library_stays_under_a_megabyte() -> None:
    assert library_path().stat().st_size < 1_000_000


@needs_binutils
def test_an_object_has_its_functions_and_calls_only_libc(kernel_object: tuple[KernelSpec, Path]) -> None:
    spec, path = kernel_object
    rows = [line.split() for line in subprocess.check_output(["nm", str(path)], text=True).splitlines()]
    defined = {row[-1] for row in rows if row[-2] == "T"}
    functions = {"pack", "halve", "encode", "count", "count_channels", "transpose", "epilogue", "block_epilogue"}
    functions |= {"to_bits"} | ({"correct_padding"} if spec.counting == LUT6X2 else set())
    assert defined == {function_name(spec, name) for name in functions if owner(spec, name) == spec}
    assert {row[-1] for row in rows if row[-2] == "U"} <= CALLED


@needs_binutils
def test_no_multiplication_is_fused_with_an_addition(kernel_object: tuple[KernelSpec, Path]) -> None:
    spec, path = kernel_object
    code = subprocess.check_output(["objdump", "--disassemble", "--no-show-raw-insn", str(path)], text=True)
    assert ("mulps" in code) == (owner(spec, "epilogue") == spec)
    assert not FUSED.findall(code)


def arm_assembly(isa: str, folder: Path) -> str:
    pytest.importorskip("tvm", reason="needs TVM to cross-compile", exc_type=ImportError)
    assembly = folder / f"{isa}.s"
    command = [sys.executable, str(ROOT / "runtime/kernels/generate.py"), isa, "aarch64-linux-gnu", str(assembly)]
    subprocess.run(command, check=True, capture_output=True)
    return assembly.read_text()


def inner_loops(assembly: str) -> Iterator[list[str]]:
    """Yield the mnemonics of every loop that holds no other: from a label to the branch back to it."""
    for loop in re.finditer(r"^(\.LBB\w+):\n((?:(?!\.LBB).*\n)*?)\s+b\.\w+\s+\1$", assembly, re.MULTILINE):
        yield re.findall(r"^\t(\w+)", loop[2], re.MULTILINE)


@pytest.mark.parametrize("row", specs_of("aarch64"), ids=lambda row: row.isa)
def test_arm_counts_in_registers(row: KernelSpec, tmp_path: Path) -> None:
    assembly = arm_assembly(row.isa, tmp_path)
    counts, beside = ("cnt", "eor") if row.counting == POPCOUNT8 else ("tbl", "usra")
    count = assembly.split(f"\n{function_name(row, 'count')}:")[1].split("\n.Lfunc_end")[0]
    loops = [loop for loop in inner_loops(count) if counts in loop]
    for vectors, together in enumerate(row.tiles, 1):
        # LLVM may have written the loop several times over.
        counted = row.counting.multiple * vectors * together
        accumulated = counted if row.counting == POPCOUNT8 else vectors * together
        assert any(
            loop.count(counts) % counted == 0 and loop.count(beside) * counted == loop.count(counts) * accumulated
            for loop in loops
        ), f"no inner loop of {together} rows of weights by {vectors} vectors"
    # For cores that run in order LLVM writes two turns of smaller tiles beside one another, and keeps a few in memory.
    largest = [loop for loop in loops if loop.count(counts) % counted == 0]
    for loop in largest if row.suits == "in_order" else loops:
        assert not {"str", "stp", "st1"} & set(loop), "sums leave their registers"
    assert not FUSED.findall(assembly)
