"""The wheels of a release, whatever machine built them, and the library for Android."""

import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from bnas_deploy import __version__
from bnas_deploy.remote.wheels import library_in
from bnas_deploy.runtime.library import read_library
from bnas_deploy.runtime.targets import TARGETS

WHEELS = [name for name, target in TARGETS.items() if target.system != "android"]
EXPORTED = {"RegisterCustomOps", "bnas_isa", "bnas_native_calls", "bnas_row", "bnas_shared_stages"}


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def library(wheels: dict[str, Path], target: str, tmp_path: Path) -> Path:
    """The library for a target."""
    if target not in WHEELS:
        return wheels[target]
    path = tmp_path / TARGETS[target].library
    path.write_bytes(library_in(wheels[target])[0])
    return path


def test_there_is_one_for_each_system(wheels: dict[str, Path]) -> None:
    assert [wheels[name].name for name in WHEELS] == [
        f"bnas_deploy-{__version__}-py3-none-{TARGETS[name].tag}.whl" for name in WHEELS
    ]
    assert wheels["aarch64-android"].parts[-3:] == ("android", "arm64-v8a", "libbnas_ort.so")


def test_the_library_is_for_it_and_small(library: Path, target: str) -> None:
    file = read_library(library)
    assert file.target == target
    assert file.bytes < 1_000_000  # as docs/platforms.md says


def test_they_differ_in_nothing_else(wheels: dict[str, Path]) -> None:
    own = (*(target.library for target in TARGETS.values()), "dist-info/WHEEL", "dist-info/RECORD")
    contents = []
    for name in WHEELS:
        with zipfile.ZipFile(wheels[name]) as wheel:
            contents.append({each: wheel.read(each) for each in wheel.namelist() if not each.endswith(own)})
    assert all(each == contents[0] for each in contents)


@pytest.mark.parametrize("name", WHEELS)
def test_installing_needs_no_compiler(wheels: dict[str, Path], name: str) -> None:
    with zipfile.ZipFile(wheels[name]) as wheel:
        (metadata,) = (each for each in wheel.namelist() if each.endswith("dist-info/METADATA"))
        requires = Parser().parsestr(wheel.read(metadata).decode()).get_all("Requires-Dist") or []
        assert not [each for each in wheel.namelist() if each.endswith((".c", ".h", ".o", ".pdb", ".lib"))]
    assert {line.split(">")[0] for line in requires if "extra" not in line} == {"click", "numpy", "onnxruntime", "rich"}


@pytest.mark.parametrize("architecture", ["x86_64", "aarch64"])
def test_auditwheel_agrees_with_the_tag(wheels: dict[str, Path], architecture: str) -> None:
    pytest.importorskip("auditwheel", reason="needs auditwheel")
    command = [sys.executable, "-m", "auditwheel", "show", str(wheels[f"{architecture}-linux"])]
    shown = " ".join(subprocess.check_output(command, text=True).split())
    assert f'consistent with the following platform tag: "manylinux_2_17_{architecture}"' in shown


@pytest.mark.parametrize(
    ("platform", "name"),
    [
        ("manylinux_2_28_x86_64 manylinux_2_17_x86_64", "x86_64-linux"),
        ("manylinux_2_28_aarch64 manylinux_2_17_aarch64", "aarch64-linux"),
        ("win_amd64", "x86_64-windows"),
        ("macosx_14_0_arm64 macosx_11_0_arm64", "aarch64-macos"),
    ],
)
def test_pip_picks_the_one_for_its_platform(wheels: dict[str, Path], platform: str, name: str, tmp_path: Path) -> None:
    options = ["--no-index", "--find-links", wheels[name].parent, "--no-deps", "--only-binary", ":all:", "-d", tmp_path]
    tags = [word for tag in platform.split() for word in ("--platform", tag)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--pre", *options, *tags, "bnas-deploy"]
    subprocess.run([*map(str, command)], check=True)
    assert [path.name for path in tmp_path.iterdir()] == [wheels[name].name]


# --------------------------------------------------------------------------------------------------------------------
# What the libraries need and show, as LLVM's tools and binutils read it


def shown(*command: object) -> str:
    if shutil.which(str(command[0])) is None:
        pytest.skip(f"needs {command[0]}")
    return subprocess.check_output([*map(str, command)], text=True)


@pytest.mark.parametrize("target", ["x86_64-windows"], indirect=True)
def test_windows_needs_only_what_every_windows_10_has(library: Path) -> None:
    text = shown("objdump", "-p", library)
    needed = {line.split()[-1].lower() for line in text.splitlines() if "DLL Name:" in line}
    assert {name for name in needed if not name.startswith("api-ms-win-crt-")} == {"kernel32.dll"}
    names = text.split("[Ordinal/Name Pointer] Table")[1]
    assert {line.split()[-1] for line in names.splitlines() if line.strip().startswith("[")} == EXPORTED


@pytest.mark.parametrize("target", ["aarch64-macos"], indirect=True)
def test_macos_needs_only_its_system_library(library: Path) -> None:
    needed = shown("llvm-objdump", "--macho", "--dylibs-used", library)
    assert [line.split()[0] for line in needed.splitlines()[1:]] == [
        "@rpath/libbnas_ort.dylib",
        "/usr/lib/libSystem.B.dylib",
    ]
    exports = shown("llvm-objdump", "--macho", "--exports-trie", library)
    names = {line.split()[-1].removeprefix("_") for line in exports.splitlines() if line.startswith("0x")}
    assert names - {"_mh_dylib_header", "__dso_handle"} == EXPORTED  # zig's own two
    commands = shown("llvm-objdump", "--macho", "--private-headers", library)
    assert "LC_CODE_SIGNATURE" in commands  # without which no program on ARM loads it
    assert "minos 11.0" in commands


@pytest.mark.parametrize("target", ["aarch64-android"], indirect=True)
def test_android_needs_only_its_libc(library: Path) -> None:
    dynamic = shown("readelf", "--dynamic", "--segments", "--wide", library)
    assert [line.split("[")[1] for line in dynamic.splitlines() if "(NEEDED)" in line] == ["libc.so]"]
    # Android 15 has pages of 16 KB, and loads nothing whose segments are closer.
    loads = [line.split() for line in dynamic.splitlines() if line.split()[:1] == ["LOAD"]]
    assert {int(load[-1], 16) for load in loads} == {16384}
    symbols = shown("readelf", "--dyn-syms", "--wide", library)
    rows = [line.split() for line in symbols.splitlines() if " FUNC " in line]
    assert {row[7] for row in rows if row[6] != "UND"} == EXPORTED
    # Each of them is in Android's C library since version 5 at the latest.
    known = {"calloc", "free", "getenv", "malloc", "memcmp", "memcpy", "memmove", "memset", "posix_memalign"}
    known |= {"snprintf", "strcmp", "strlen", "strtoull", "vsnprintf", "open", "read", "close", "getauxval"}
    assert {row[7] for row in rows if row[6] == "UND"} <= known
    assert "@" not in symbols  # glibc's names of versions
