"""The wheels of a release, whatever machine built them."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from bnas_deploy import __version__


def test_there_is_one_for_each_architecture(wheels: dict[str, Path]) -> None:
    assert {path.name for path in wheels.values()} == {
        f"bnas_deploy-{__version__}-py3-none-manylinux_2_17_{architecture}.whl"
        for architecture in ("x86_64", "aarch64")
    }


@pytest.mark.parametrize(("architecture", "machine"), [("x86_64", 62), ("aarch64", 183)])
def test_the_library_is_for_it_and_small(wheels: dict[str, Path], architecture: str, machine: int) -> None:
    with zipfile.ZipFile(wheels[architecture]) as wheel:
        library = wheel.read("bnas_deploy/runtime/libbnas_ort.so")
    assert int.from_bytes(library[18:20], "little") == machine  # e_machine of its ELF header
    assert len(library) < 1_000_000  # as docs/platforms.md says


def test_they_differ_in_nothing_else(wheels: dict[str, Path]) -> None:
    contents = []
    for path in wheels.values():
        with zipfile.ZipFile(path) as wheel:
            own = ("libbnas_ort.so", "dist-info/WHEEL", "dist-info/RECORD")
            contents.append({name: wheel.read(name) for name in wheel.namelist() if not name.endswith(own)})
    assert contents[0] == contents[1]


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_installing_needs_no_compiler(wheels: dict[str, Path], architecture: str) -> None:
    with zipfile.ZipFile(wheels[architecture]) as wheel:
        (metadata,) = (name for name in wheel.namelist() if name.endswith("dist-info/METADATA"))
        requires = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []
        assert not [name for name in wheel.namelist() if name.endswith((".c", ".h", ".o"))]
    assert {line.split(">")[0] for line in requires if "extra" not in line} == {"click", "numpy", "onnxruntime", "rich"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_auditwheel_agrees_with_the_tag(wheels: dict[str, Path], architecture: str) -> None:
    pytest.importorskip("auditwheel", reason="needs auditwheel")
    command = [sys.executable, "-m", "auditwheel", "show", str(wheels[architecture])]
    shown = " ".join(subprocess.check_output(command, text=True).split())
    assert f'consistent with the following platform tag: "manylinux_2_17_{architecture}"' in shown
