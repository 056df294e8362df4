"""The copy of onnxruntime without AVX-512: which bytes are instructions, and which only look like them."""

import importlib.util
import platform
import shutil
import subprocess
from pathlib import Path

import onnxruntime
import pytest

SPEC = importlib.util.spec_from_file_location("without_avx512", Path(__file__).with_name("without_avx512.py"))
assert SPEC is not None
assert SPEC.loader is not None
without_avx512 = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(without_avx512)

SOURCE = """
unsigned saved(void) { unsigned low; __asm__ volatile("xgetbv" : "=a"(low) : "c"(0) : "edx"); return low; }
unsigned number(void) { return 0x00d0010f; }
const unsigned char data[] = {0x0f, 0x01, 0xd0};
"""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="xgetbv is an instruction of x86-64")
@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("objdump")), reason="cc or objdump is not installed")
def test_instructions_are_told_from_the_same_bytes_elsewhere(tmp_path: Path) -> None:
    source, library = tmp_path / "asks.c", tmp_path / "asks.so"
    source.write_text(SOURCE, encoding="utf-8")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", source, "-o", library], check=True)

    found = without_avx512.places(library)

    code = library.read_bytes()
    assert code.count(without_avx512.ASKS) == 3
    assert [code[place : place + 3] for place in found] == [without_avx512.ASKS]


def test_the_copy_has_a_version_of_its_own(tmp_path: Path) -> None:
    module = tmp_path / "info.py"
    original = Path(onnxruntime.__file__).parent / without_avx512.VERSION_FILE
    module.write_bytes(original.read_bytes())
    without_avx512.mark_version(module)
    info: dict[str, str] = {}
    exec(module.read_text(encoding="utf-8"), info)  # two lines of onnxruntime's, one of them changed
    assert info["__version__"] == f"{onnxruntime.__version__}+without-avx512"
