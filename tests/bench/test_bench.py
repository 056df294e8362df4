"""The benchmarks of kernels run, and stop at a wrong answer; their times are nobody's test."""

import os
import platform
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.runtime.bench.layer_problems import LAYERS
from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import KernelSpec, specs_of

KERNEL_SPECS = [row for row in specs_of(platform.machine()) if row.cpu_flags <= cpu_flags()]
RUNNABLE = [row.isa for row in KERNEL_SPECS]
SIZES = list(product(("324", "576", "1152", "2304", "4608"), ("1", "2", "3", "4")))

needs_x86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the yardstick is written for x86")


def run(code: str, *options: str, built: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run code that may import the benchmarks, which build their library unless it is given."""
    start = f"import sys; sys.path[:0] = [{str(Path(__file__).parent)!r}]\nimport native_kernels\n"
    if built:
        start += f"native_kernels.build = lambda folder: native_kernels.NativeKernels({str(built)!r})\n"
    command = [sys.executable, "-P", "-c", start + code, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def table(output: str) -> list[list[str]]:
    """Return the cells of the rows of all tables, without their heads."""
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    return [row for row in rows if row[0] not in ("ISA", "layer")]


@needs_x86
@pytest.mark.usefixtures("generated_kernels")
def test_generated_code_and_intrinsics_count_the_same() -> None:
    done = run("import core; core.main()", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert [(isa, (inputs, vectors)) for isa, inputs, vectors, *_ in rows] == list(product(RUNNABLE, SIZES))
    assert all(float(cell) > 0 for row in rows for cell in row[3:6])


# 324 inputs of an output are 9 taps of 36 channels, 4 or 6 of which share a byte.
STEPS = {"lut4x2": 81, "lut6x2": 54}


@needs_x86
@pytest.mark.parametrize("side", ["generated", "yardstick"])
@pytest.mark.parametrize("spec", KERNEL_SPECS, ids=RUNNABLE)
def test_a_wrong_count_ends_the_benchmark(spec: KernelSpec, side: str, kernels: Any) -> None:
    # The tables of zeros are what makes it wrong, and the side that is measured first meets them first.
    code = (
        f"import core; core.look_up_tables = lambda way: core.aligned(8320); core.generated_count = core.{side}_count"
    )
    done = run(f"{code}\ncore.main()", "--rounds", "1", "--isa", spec.isa, built=kernels.path)
    assert done.returncode == 1
    symbol = f"bnas_{spec.isa}_count" if side == "generated" else f"c_{spec.isa}_count"
    assert done.stderr == f"{symbol} counts wrongly: {STEPS[spec.counting.name]} steps, 1 vectors\n"
    assert table(done.stdout) == []


def test_the_stages_of_every_layer_are_measured(kernels: Any) -> None:
    done = run("import stages; stages.main()", "--rounds", "1", built=kernels.path)
    assert done.returncode == 0, done.stderr
    rows = table(done.stdout)
    assert [row[0] for row in rows] == [layer.name for layer in LAYERS] * len(RUNNABLE)
    for _, _, pack, rest, count, finish, all_but_count in rows:
        # Every number was rounded to 0.1.
        assert float(count) + float(all_but_count) == pytest.approx(100, abs=0.101)
        assert float(pack) + float(rest) + float(finish) == pytest.approx(float(all_but_count), abs=0.201)


@pytest.mark.parametrize("operator", ["BinaryConv2dOfBitsToBits", "BinaryConv2dOfBitsMaxPoolToBits"])
def test_the_stages_of_layers_of_bits_are_measured(operator: str, kernels: Any) -> None:
    asked = ("--rounds", "1", "--isa", RUNNABLE[0], "--operator", operator)
    done = run("import stages; stages.main()", *asked, built=kernels.path)
    assert done.returncode == 0, done.stderr  # the results are right
    assert f"{operator}, {RUNNABLE[0]}, one thread" in done.stdout


def test_a_wrong_result_ends_the_measuring_of_stages(kernels: Any) -> None:
    code = "import bnas_deploy.core.bits as bits, stages; stages.pack_signs = lambda signs: 0 * bits.pack_signs(signs)"
    done = run(f"{code}\nstages.main()", "--rounds", "1", built=kernels.path)
    assert done.returncode == 1
    assert done.stderr == f"{RUNNABLE[0]}: wrong result on 56x56 64->64 k3 s1 d1\n"


@needs_x86
def test_a_shared_core_can_be_told(tmp_path: Path) -> None:
    if not {"avx2", "fma"} <= cpu_flags():
        pytest.skip("needs avx2 and fma")
    source, program = Path(__file__).with_name("shared_core.c"), tmp_path / "shared_core"
    words = source.read_text().split("*     cc ")[1].split(" -o ")[0].split()
    compiler = os.environ.get("CC", "cc").split()
    subprocess.run([*compiler, *words[:-1], "-Wall", "-Werror", str(source), "-o", str(program)], check=True)
    shown = subprocess.run([program], capture_output=True, text=True, check=True).stdout.splitlines()
    line = r"(\S+) GHz; in a cycle: (\S+) additions of 32 bytes, (\S+) multiply-adds of 8 floats"
    figures = [[*map(float, match.groups())] for each in shown if (match := re.fullmatch(line, each))]
    assert len(figures) == len(shown) == 5
    assert all(figure > 0 for each in figures for figure in each)


def test_the_speed_of_a_search_is_measured() -> None:
    small = ("--device", "cpu", "--images", "8", "--batch-size", "4", "--cells", "3", "--channels", "1", "--profile")
    done = run("import torch; torch.set_num_threads(1); import search_speed; search_speed.main()", *small)
    assert done.returncode == 0, done.stderr
    counts = re.findall(r"operations of a step of the (\w+): (\d+)", done.stdout)
    assert [name for name, _ in counts] == ["alphas", "weights"]
    assert re.search(r"CPU, 1 threads, .* float32: \d+\.\d\d s per epoch of 8 images, \d+\.\d ms per step", done.stdout)
    assert "convolution_backward" in done.stdout


def test_a_step_of_the_published_supernet_is_not_made_of_more_operations_than_it_was() -> None:
    """A GPU is told each of them, at some microseconds, so work that edges share has to stay shared."""
    code = (
        "from search_speed import *\n"
        "config = SupernetConfig(SPACES['bnas'], 8, 16, classes=10, in_channels=3, image_size=(32, 32))\n"
        "print(*(operations(config, alphas=alphas).total() for alphas in (True, False)))"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr
    alphas, weights = map(int, done.stdout.split())
    assert alphas <= 3250
    assert weights <= 3250
