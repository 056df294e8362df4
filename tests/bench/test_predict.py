"""predict.py finds the loops that count, and says what it needs; how good its predictions are is nobody's test."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bnas_deploy.runtime.kernels.specs import specs_of

OTHER = {"x86_64": "aarch64", "aarch64": "x86_64"}
HERE = Path(__file__).parent

# As llvm-objdump writes it: a loop in another one, and a branch forward in the inner one.
AARCH64 = """
0000000000000000 <bnas_neon_count>:
       0:      	mov	x9, xzr
       4:      	mov	x8, xzr
       8:      	usra	v0.16b, v4.16b, #0x4            // a comment
       c:      	cbz	x1, 0x14 <bnas_neon_count+0x14>
      10:      	eor	v1.16b, v0.16b, v2.16b
      14:      	cnt	v1.16b, v1.16b
      18:      	add	v3.16b, v3.16b, v1.16b
      1c:      	b.ne	0x8 <bnas_neon_count+0x8>
      20:      	tbnz	w9, #0x3, 0x4 <bnas_neon_count+0x4>
      24:      	ret
"""
X86 = """
0000000000000040 <bnas_avx2_count>:
      40:      	xorl	%eax, %eax
      42:      	vpshufb	(%rcx,%rdi), %ymm0, %ymm1
      48:      	vpaddb	0x10(%rip), %ymm1, %ymm2        # 0x60 <bnas_avx2_count+0x20>
      50:      	jne	0x42 <bnas_avx2_count+0x2>
      52:      	retq
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run code beside the benchmark, which is no part of the package."""
    command = [sys.executable, "-P", "-c", f"import sys; sys.path[:0] = [{str(HERE)!r}]\nimport predict\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("text", "isa", "loop", "operations"),
    [
        (
            AARCH64,
            "neon",
            [
                "usra v0.16b, v4.16b, #0x4",
                "cbz x1, 0x14",
                "eor v1.16b, v0.16b, v2.16b",
                "cnt v1.16b, v1.16b",
                "add v3.16b, v3.16b, v1.16b",
            ],
            16 * 8,
        ),
        (X86, "avx2", ["vpshufb (%rcx,%rdi), %ymm0, %ymm1", "vpaddb 0x10(%rip), %ymm1, %ymm2"], 32 * 4 * 2),
    ],
    ids=["aarch64", "x86"],
)
def test_innermost_loops_are_found(text: str, isa: str, loop: list[str], operations: int) -> None:
    done = run(
        f"(loop,) = predict.inner_loops({text!r})\nrow = {{row.isa: row for row in predict.KERNEL_SPECS}}[{isa!r}]\n"
        "print(*(' '.join(each.split()) for each in loop), predict.multiply_adds(loop, row), sep='\\n')"
    )
    assert done.stdout.splitlines() == [*loop, str(operations)], done.stderr


@pytest.mark.parametrize(
    ("isa", "function", "look_ups", "tile"),
    [
        ("avx2", "count", 3 * 3, "3x1"),
        ("avx2", "count", 3 * 4, "2x2 or 4x1"),
        ("avx512vbmi", "count", 2 * 8, "2x4 or 4x2"),
        ("avx512vbmi", "count_channels", 2 * 6, "3x2"),
        ("neon", "count", 2 * 16, "4x4 or 8x2"),
        ("neon", "count_channels", 2 * 2 * 4, "2x2 or 4x1"),
        ("neon", "count_channels", 2 * 2 * 8, "4x2 or 8x1"),
        ("neon_inorder", "count_channels", 2 * 2 * 10, "5x2"),
        ("neon_inorder", "count", 2 * 20, "5x4"),
        ("neon_inorder", "count", 2 * 2 * 16, "4x4, 2 turns"),
    ],
)
def test_tiles_are_named(isa: str, function: str, look_ups: int, tile: str) -> None:
    done = run(
        f"row = {{row.isa: row for row in predict.KERNEL_SPECS}}[{isa!r}]\n"
        "name = {'lut6x2': 'vpermb', 'lut4x2': 'vpshufb', 'popcount8': 'cnt'}[row.counting.name]\n"
        f"print(predict.tiles([name + ' x'] * {look_ups}, row, {function!r}))"
    )
    assert done.stdout == f"{tile}\n", done.stderr


def test_a_missing_tool_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = run("sys.argv[1:] = ['--isa', 'avx2']; predict.main()")
    assert done.returncode == 1
    assert done.stderr == (
        "predict: llvm-mca and llvm-objdump are not installed; Debian has them in the package llvm: apt-get install "
        "llvm, or llvm-19 for newer models\n"
    )


@pytest.mark.usefixtures("generated_kernels")
def test_what_can_be_predicted_is_printed_before_what_is_missing() -> None:
    here, (other, *_) = specs_of(platform.machine())[-1], specs_of(OTHER[platform.machine()])
    done = run(
        "found = predict.objects\n"
        "def objects(architecture):\n"
        f"    if architecture == {other.architecture!r}:\n"
        "        raise predict.MissingToolError('no kernels')\n"
        "    return found(architecture)\n"
        "predict.objects = objects\n"
        f"sys.argv[1:] = ['--isa', {here.isa!r}, {other.isa!r}]; predict.main()"
    )
    if "not installed" in done.stderr:
        pytest.skip("needs llvm-mca and llvm-objdump, Debian's package llvm")
    assert (done.returncode, done.stderr) == (1, "predict: no kernels\n")
    assert f"| {here.isa} |" in done.stdout


@pytest.mark.usefixtures("generated_kernels")
def test_every_tile_of_a_row_is_predicted() -> None:
    row = specs_of(platform.machine())[-1]
    done = run(f"sys.argv[1:] = ['--isa', {row.isa!r}]; predict.main()")
    if "not installed" in done.stderr:
        pytest.skip("needs llvm-mca and llvm-objdump, Debian's package llvm")
    assert done.returncode == 0, done.stderr
    title, _, head, _, *lines = done.stdout.splitlines()
    assert re.match(r"Predicted by llvm-mca \d+", title)
    models = head.count("|") - 4
    tables = [line.strip("| ").split(" | ") for line in lines]
    assert {cells[0] for cells in tables} == {"count", "count_channels"}
    most = row.vector_bytes * row.counting.channels * row.counting.outputs * 4  # at most 4 instructions that count
    for cells in tables:
        assert len(cells) == 3 + models
        assert all(0 < float(rate) < most for rate in cells[3:])
