"""How fast the inner loops count, as llvm-mca predicts it: `python tests/bench/predict.py [--isa ISA ...]`.

It prints the multiply-adds of one bit per cycle of each loop that counts, with all data in the first-level cache, on
models of processors that need not be here. A prediction is no measurement: docs/kernels.md says what it leaves out.
A tile is vectors x groups. A group is a row of weights, of two output channels with look-ups; where lanes are channels,
a pair of pixels. Two tiles may have as many multiply-adds in a turn: the loop with more instructions then counts more
groups. A tile may have several loops, since LLVM writes some out again.

The loops are those of the objects in build/kernels. Those of another architecture are generated first, which needs TVM
and half a minute of a processor for each.
"""

import argparse
import importlib.util
import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from native_kernels import load_native

from bnas_deploy.runtime.kernels.specs import KERNEL_SPECS, LUT6X2, POPCOUNT8, KernelSpec, function_name
from bnas_deploy.runtime.targets import this_architecture

MODELS = {
    "aarch64": ("cortex-a53", "cortex-a55", "cortex-a72", "neoverse-n1"),
    "x86_64": ("znver2", "znver3", "skylake", "icelake-server", "alderlake"),
}
"""LLVM's names of processors.

Before LLVM 16 it predicts the Neoverse N1 with the model of the Cortex-A57, and Alder Lake with that of Skylake.
"""

WITHOUT_AVX512 = frozenset({"znver2", "znver3", "skylake", "alderlake"})

FUNCTIONS = ("count", "count_channels")
PIXELS = 2  # of a pair, a group where lanes are channels
ITERATIONS = 100
NEWEST_LLVM = 30

# An instruction of a disassembly: its address, and what it does.
_INSTRUCTION = re.compile(r"^\s*(?P<at>[0-9a-f]+):\s+(?P<text>\S.*?)(?:\s+(?:#|//)\s.*)?$")
_BRANCH = re.compile(r"^(?:j\w+|b\.\w+|cbn?z|tbn?z)\s+.*?0x(?P<to>[0-9a-f]+) <")
_CYCLES = re.compile(r"^Total Cycles:\s+(\d+)$", re.MULTILINE)


class MissingToolError(Exception):
    """What is not installed; the message names the package that has it."""


@dataclass(frozen=True)
class Tools:
    """LLVM's programs, of one version."""

    objdump: str
    mca: str

    def loops(self, path: Path, function: str) -> list[list[str]]:
        """Return the instructions of each loop of a function that holds no other loop, without the branch back."""
        options = ["--disassemble", "--no-show-raw-insn", f"--disassemble-symbols={function}"]
        return list(inner_loops(_output([self.objdump, *options, str(path)])))

    def cycles(self, loop: Sequence[str], architecture: str, model: str) -> float:
        """Return the cycles of one turn of a loop."""
        options = [f"-mtriple={architecture}-linux-gnu", f"-mcpu={model}", f"-iterations={ITERATIONS}"]
        shown = _output([self.mca, *options], "\n".join(loop))
        found = _CYCLES.search(shown)
        assert found, f"{self.mca} says no cycles:\n{shown}"
        return int(found[1]) / ITERATIONS


def find_tools() -> Tools:
    """Return the newest LLVM that is here: its models are the better the newer they are.

    Raises:
        MissingToolError: there is none.
    """
    for suffix in (*(f"-{version}" for version in range(NEWEST_LLVM, 13, -1)), ""):
        objdump, mca = (shutil.which(f"{name}{suffix}") for name in ("llvm-objdump", "llvm-mca"))
        if objdump and mca:
            return Tools(objdump, mca)
    raise MissingToolError(
        "llvm-mca and llvm-objdump are not installed; Debian has them in the package llvm: apt-get install llvm, or "
        "llvm-19 for newer models"
    )


def inner_loops(disassembly: str) -> Iterator[list[str]]:
    """Yield the instructions of each loop that holds no other, without the branch back."""
    lines = [found for line in disassembly.splitlines() if (found := _INSTRUCTION.match(line))]
    places = {int(line["at"], 16): i for i, line in enumerate(lines)}
    branches = ((_BRANCH.match(line["text"]), i) for i, line in enumerate(lines))
    loops = [(start, end) for to, end in branches if to and (start := places.get(int(to["to"], 16), end)) < end]
    for start, end in sorted(loops):
        if not any(start <= a and b <= end for a, b in loops if (a, b) != (start, end)):
            yield [re.sub(r" <.*>$", "", line["text"]) for line in lines[start:end]]


def multiply_adds(loop: Sequence[str], row: KernelSpec) -> int:
    """Return the multiply-adds of one bit in one turn of a loop."""
    counts = {POPCOUNT8: "cnt", LUT6X2: "vpermb"}.get(row.counting)
    names = {counts} if counts else {"tbl", "pshufb", "vpshufb"}
    each = row.vector_bytes * row.counting.channels * row.counting.outputs
    return each * sum(instruction.split()[0] in names for instruction in loop)


def tiles(loop: Sequence[str], row: KernelSpec, function: str) -> str:
    """Name the tiles that a loop may count, vectors x groups: as many multiply-adds in a turn have more than one.

    LLVM may have written out two turns.
    """
    outputs = row.counting.outputs
    members = outputs if function == "count" else PIXELS
    groups = [max(1, each * outputs // members) for each in row.tiles]
    each = {(wide, some) for wide, whole in enumerate(groups, 1) for some in (whole, 1)}
    counted = multiply_adds(loop, row) // (row.vector_bytes * row.counting.channels * members * row.counting.multiple)
    for turns, note in ((1, ""), (2, ", 2 turns")):
        if found := [f"{wide}x{some}" for wide, some in sorted(each) if wide * some * turns == counted]:
            return " or ".join(found) + note
    return ""


def objects(architecture: str) -> dict[str, Path]:
    """Return the objects of an architecture's rows by ISA, generated where they are missing.

    Raises:
        MissingToolError: that needs TVM.
    """
    native = load_native()
    if architecture != this_architecture():
        os.environ[native.TARGET_VARIABLE] = native.targets().TARGETS[f"{architecture}-linux"].zig
    try:
        return dict(zip((row.isa for row in native.specs()), native.build_kernels(), strict=True))
    except native.BuildError as error:
        missing = " ".join(map(repr, native.TVM_REQUIREMENTS))
        reason = f", and fails:\n{error}" if importlib.util.find_spec("tvm") else f": pip install {missing}"
        raise MissingToolError(
            f"the kernels for {architecture} are not in build/kernels, and TVM generates them{reason}"
        ) from None
    finally:
        os.environ.pop(native.TARGET_VARIABLE, None)


def table(row: KernelSpec, path: Path, tools: Tools) -> Iterator[str]:
    """Yield a row's table, line by line."""
    models = [model for model in MODELS[row.architecture] if row.vector_bytes < 64 or model not in WITHOUT_AVX512]
    yield f"| {row.isa} | tile | multiply-adds in a turn | instructions | {' | '.join(models)} |"
    yield "|---" * (4 + len(models)) + "|"
    for function in FUNCTIONS:
        done: list[list[str]] = []
        for loop in tools.loops(path, function_name(row, function)):
            operations = multiply_adds(loop, row)
            if operations and loop not in done:
                done.append(loop)
                rates = (operations / tools.cycles(loop, row.architecture, model) for model in models)
                cells = (function, tiles(loop, row, function), str(operations), str(len(loop)))
                yield f"| {' | '.join((*cells, *(f'{rate:.0f}' for rate in rates)))} |"


def _output(command: Sequence[str], given: str = "") -> str:
    run = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    assert run.returncode == 0, f"{command[0]} ended with {run.returncode}: {run.stderr[-2000:]}"
    return run.stdout


def main() -> None:
    """Find the loops, predict, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="+", choices=[row.isa for row in KERNEL_SPECS], help="only these")
    options = parser.parse_args()
    wanted = [row for row in KERNEL_SPECS if not options.isa or row.isa in options.isa]
    # This machine's come first: where the library was built their objects are there.
    wanted.sort(key=lambda row: row.architecture != this_architecture())
    try:
        tools = find_tools()
        version = _output([tools.mca, "--version"]).split("version ")[1].split()[0]
        print(f"Predicted by llvm-mca {version}: multiply-adds of one bit per cycle, data in the first-level cache.")
        for architecture, rows in itertools.groupby(wanted, lambda row: row.architecture):
            print_tables(list(rows), objects(architecture), tools)
    except MissingToolError as error:
        raise SystemExit(f"predict: {error}") from None


def print_tables(rows: Sequence[KernelSpec], found: Mapping[str, Path], tools: Tools) -> None:
    """Print a table for each row, of the objects by ISA."""
    for row in rows:
        print()
        for line in table(row, found[row.isa], tools):
            print(line, flush=True)


if __name__ == "__main__":
    main()
