"""Our own declarations of onnxruntime's C ABI against its official header."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")


def _compile_check(header_folder: Path, our_folder: Path) -> subprocess.CompletedProcess[str]:
    check = Path(__file__).with_name("abi_check.c")
    # -w: the official header warns about itself.
    command = ["gcc", "-w", "-std=c11", "-fsyntax-only", f"-I{header_folder}", f"-I{our_folder}", str(check)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_our_declarations_are_those_of_the_official_header(header_folder: Path) -> None:
    run = _compile_check(header_folder, ROOT / "runtime/ort")
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(
    ("ours", "wrong", "reason"),
    [
        ("SLOT(130, AddSession", "SLOT(131, AddSession", "slot of AddSessionConfigEntry"),
        ("(OrtStatus*))", "(const OrtStatus*))", "type of ReleaseStatus"),
        ("BNAS_ORT_UINT8 = 2", "BNAS_ORT_UINT8 = 3", "BNAS_ORT_UINT8"),
        ("    int (*GetStartVersion)", "    void* extra;\n    int (*GetStartVersion)", "OrtCustomOp.GetStartVersion"),
    ],
)
def test_a_wrong_declaration_is_noticed(
    header_folder: Path, tmp_path: Path, ours: str, wrong: str, reason: str
) -> None:
    text = (ROOT / "runtime/ort/ort_abi.h").read_text()
    assert ours in text
    (tmp_path / "ort_abi.h").write_text(text.replace(ours, wrong))
    run = _compile_check(header_folder, tmp_path)
    assert run.returncode != 0
    assert reason in run.stderr
