"""`bnas-deploy ops-library`: the library of this machine, of a wheel, of another machine."""

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bnas_deploy.commands.ops_library import command
from bnas_deploy.remote import wheels
from bnas_deploy.runtime.library import library_path

AARCH64 = b"\x7fELF" + bytes(14) + b"\xb7\0" + b"\0GLIBC_2.17\0"
"""As much of a library as is looked at."""


def ops_library(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def write_wheel(path: Path, name: str = wheels.LIBRARY_IN_WHEEL) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, AARCH64)
    return path


@pytest.fixture
def on_x86(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.fixture
def clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one source, which this package claims to run from."""
    root = tmp_path / "clone"
    (root / "runtime/build").mkdir(parents=True)
    (root / "runtime/build/native.py").touch()
    (root / "pyproject.toml").touch()
    monkeypatch.setattr(wheels, "repository", lambda: root)
    return root


@pytest.fixture
def builds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was built, by BNAS_TARGET; a wheel comes out each time."""
    built: list[str] = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        assert command[1:4] == ["-m", "pip", "wheel"]
        built.append(env["BNAS_TARGET"])
        write_wheel(Path(command[command.index("--wheel-dir") + 1]) / "bnas_deploy-1-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return built


def test_the_path_is_printed() -> None:
    result = ops_library()
    assert result.exit_code == 0
    assert result.stdout == f"{library_path()}\n"
    assert ops_library("--target", f"{platform.machine()}-linux").stdout == f"{library_path()}\n"


def test_a_copy_is_written(tmp_path: Path) -> None:
    result = ops_library("-o", tmp_path / "copy.so")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "copy.so").read_bytes() == library_path().read_bytes()
    assert result.stdout.startswith(f"{tmp_path / 'copy.so'}: ")


def test_a_copy_beside_is_told_by_a_path_that_can_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = ops_library("-o", "copy.so")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{tmp_path / 'copy.so'}: ")


def test_another_target_is_built_once(tmp_path: Path, clone: Path, builds: list[str], on_x86: None) -> None:
    for name in ("a.so", "b.so"):
        result = ops_library("--target", "aarch64-linux", "-o", tmp_path / name)
        assert result.exit_code == 0, result.output
        assert (tmp_path / name).read_bytes() == AARCH64
    assert builds == ["aarch64-linux-gnu.2.17"]
    (clone / "runtime/new.c").write_text("int x;")
    assert ops_library("--target", "aarch64-linux", "-o", tmp_path / "c.so").exit_code == 0
    assert len(builds) == 2
    assert len(list((clone / "build/wheels").iterdir())) == 1  # the older one is gone


def test_a_build_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, clone: Path, on_x86: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    result = ops_library("--target", "aarch64-linux", "-o", tmp_path / "library.so")
    assert result.exit_code == 1
    said = "aarch64-linux: the wheel cannot be built: BNAS_TARGET=aarch64-linux-gnu.2.17 /bin/false -m pip wheel"
    assert said in result.output
    assert not (tmp_path / "library.so").exists()
    assert not list((clone / "build/wheels").iterdir())


def test_without_sources_it_says_what_to_do(tmp_path: Path, on_x86: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "repository", lambda: None)
    result = ops_library("--target", "aarch64-linux", "-o", tmp_path / "library.so")
    assert result.exit_code == 1
    assert "BNAS_TARGET=aarch64-linux-gnu.2.17 pip wheel --no-deps . and give the file with --wheel" in result.output


def test_a_wheel_gives_its_library(tmp_path: Path) -> None:
    wheel = write_wheel(tmp_path / "a.whl")
    result = ops_library("--wheel", wheel, "-o", tmp_path / "library.so")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "library.so").read_bytes() == AARCH64


def test_a_wheel_for_windows_gives_its_dll(tmp_path: Path) -> None:
    wheel = tmp_path / "a.whl"
    header = b"MZ" + bytes(0x3A) + b"\x40\0\0\0" + b"PE\0\0\x64\x86"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("bnas_deploy/runtime/bnas_ort.dll", header)
    result = ops_library("--wheel", wheel, "--target", "x86_64-windows", "-o", tmp_path / "bnas_ort.dll")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "bnas_ort.dll").read_bytes() == header


def test_what_is_no_wheel_is_refused(tmp_path: Path) -> None:
    other = write_wheel(tmp_path / "numpy.whl", "numpy/__init__.py")
    (tmp_path / "text.whl").write_text("text")
    output = tmp_path / "library.so"
    encrypted = write_wheel(tmp_path / "encrypted.whl")
    data = bytearray(encrypted.read_bytes())
    data[data.rindex(b"PK\x01\x02") + 8] |= 1
    encrypted.write_bytes(data)
    for wheel, said in (
        (other, "in it; give a wheel of bnas-deploy"),
        (tmp_path / "text.whl", "can be read in it (File is not a zip file); give a wheel of bnas-deploy"),
        (encrypted, "can be read in it (it is encrypted); give a wheel of bnas-deploy"),
    ):
        result = ops_library("--wheel", wheel, "-o", output)
        assert result.exit_code == 1
        assert result.output == f"Error: {wheel}: no bnas_deploy/runtime/libbnas_ort.so {said}\n"
    result = ops_library("--wheel", tmp_path / "none.whl", "-o", output)
    assert "none.whl: cannot be read: No such file or directory" in result.output
    assert not output.exists()


def test_options_that_make_no_sense_are_refused(tmp_path: Path, on_x86: None) -> None:
    wheel = write_wheel(tmp_path / "a.whl")
    for arguments, said in (
        (["--target", "riscv64-linux"], "--target is 'riscv64-linux'; there are x86_64-linux, aarch64-linux, x86"),
        (["--target", "aarch64-linux"], "give the file to write with -o"),
        (["--wheel", wheel], "give the file to write with -o"),
        (
            ["--wheel", wheel, "--target", "x86_64-linux", "-o", tmp_path / "x"],
            "its library is for aarch64-linux, and --target is x86_64-linux",
        ),
    ):
        result = ops_library(*arguments)
        assert result.exit_code == 2
        assert said in result.output
    assert ops_library("-o", tmp_path).exit_code == 1  # a folder


def test_an_architecture_without_kernels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    result = ops_library("-o", tmp_path / "library.so")
    assert result.exit_code == 1
    assert "riscv64-linux: no kernels for this machine; there are x86_64-linux, aarch64-linux" in result.output
