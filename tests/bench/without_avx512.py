"""Copy onnxruntime to a folder, without AVX-512: `python tests/bench/without_avx512.py FOLDER`.

With PYTHONPATH=FOLDER and BNAS_ISA=avx2 both sides of a benchmark compute as on a processor with AVX2 alone. In the
copy the instructions that ask which registers the system saves, `xgetbv`, are `mov al, 7; nop`: those of AVX. It needs
`objdump` and `readelf` (Debian's package `binutils`), and x86-64 Linux.

The copy's version ends in `+without-avx512`. Reports and tables have it beside the instruction sets that the processor
has, which they name as ever.
"""

import argparse
import re
import shutil
import subprocess
from pathlib import Path

import onnxruntime

VERSION_FILE = "capi/build_and_package_info.py"
VERSION = re.compile("^(__version__ = '.*)'$", re.MULTILINE)
ASKS = bytes.fromhex("0f01d0")
SAVES_AVX = bytes.fromhex("b00790")


def places(library: Path) -> list[int]:
    """Return where the instructions lie in the file: the same bytes elsewhere are something else."""
    sections = _output("readelf", "-SW", library)
    found = re.search(r"\.text\s+PROGBITS\s+(?P<address>[0-9a-f]+)\s+(?P<offset>[0-9a-f]+)", sections)
    assert found, f"{library}: readelf shows no .text"
    code = _output("objdump", "-d", "--no-show-raw-insn", library)
    moved = int(found["offset"], 16) - int(found["address"], 16)
    return [int(at, 16) + moved for at in re.findall(r"^\s*([0-9a-f]+):\s+xgetbv", code, re.MULTILINE)]


def _output(*command: str | Path) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main() -> None:
    """Copy, replace, and say how often."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    package = Path(onnxruntime.__file__).parent
    copy = Path(shutil.copytree(package, folder / package.name))
    for path in copy.glob("capi/onnxruntime_pybind11_state*.so"):
        code, found = bytearray(path.read_bytes()), places(path)
        for place in found:
            assert code[place : place + len(ASKS)] == ASKS
            code[place : place + len(ASKS)] = SAVES_AVX
        path.write_bytes(code)
        print(f"{path}: {len(found)} instructions replaced")
    mark_version(copy / VERSION_FILE)


def mark_version(module: Path) -> None:
    """Let reports tell the copy from the original."""
    marked, count = VERSION.subn(r"\1+without-avx512'", module.read_text(encoding="utf-8"))
    assert count == 1, f"{module}: {count} lines with a version, wanted one"
    module.write_text(marked, encoding="utf-8")


if __name__ == "__main__":
    main()
