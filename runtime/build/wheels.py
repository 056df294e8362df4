"""Builds what a release has: `python runtime/build/wheels.py FOLDER`, on any machine.

That is a wheel for every kind of system that has kernels and a Python, and for Android the library alone, in
FOLDER/android/arm64-v8a as apps want it. Zig compiles for all of them, and TVM generates the kernels that are missing.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import native

ROOT = native.SOURCES.parents[1]
BUILD_TOOLS = ("setuptools>=77", native.ZIG_REQUIREMENT, *native.TVM_REQUIREMENTS)
ANDROID_ABIS = {"aarch64": "arm64-v8a"}


def main() -> None:
    """Build them all, or stop at the first that fails."""
    targets = native.targets().TARGETS
    parser = argparse.ArgumentParser(description="Build the wheels of a release.")
    parser.add_argument("folder", type=Path, help="where they go")
    parser.add_argument("--target", choices=targets, action="append", help="only this one; may be repeated")
    parser.add_argument("--tools", type=Path, help="folder to keep zig and TVM in; found there, they are used again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bnas-tools-") as temporary:
        tools = given.tools or Path(temporary) / "tools"
        if not tools.is_dir():
            _install(tools)
        for name in given.target or targets:
            print(_build(targets[name], given.folder, tools))


def _install(tools: Path) -> None:
    """Have pip fetch the tools once for all wheels: each would fetch them again for itself."""
    tools.absolute().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=tools.absolute().parent, prefix=".bnas-tools-") as fresh:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(Path(fresh) / "tools")]
        _run([*pip, *BUILD_TOOLS])
        (Path(fresh) / "tools").rename(tools)


def _build(target: Any, folder: Path, tools: Path) -> Path:
    """Build what there is for a target; return its path."""
    environment = {
        native.TARGET_VARIABLE: target.zig,
        "PYTHONPATH": os.pathsep.join((str(tools.absolute()), os.environ.get("PYTHONPATH", ""))),
    }
    with tempfile.TemporaryDirectory(prefix="bnas-wheel-") as work:
        pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        _run([*pip, "--wheel-dir", work, str(ROOT)], **environment)
        (wheel,) = Path(work).glob("*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        if target.system == "android":
            return _unpack(wheel, target, folder)
        (folder / wheel.name).write_bytes(wheel.read_bytes())
        return folder / wheel.name


def _unpack(wheel: Path, target: Any, folder: Path) -> Path:
    """Take the library out of a wheel: an app has no Python."""
    path = folder / "android" / ANDROID_ABIS[target.architecture] / target.library
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        path.write_bytes(archive.read(f"bnas_deploy/runtime/{target.library}"))
    return path


def _run(command: Sequence[str], **variables: str) -> None:
    done = subprocess.run(command, env={**os.environ, **variables}, check=False)
    if done.returncode:
        raise SystemExit(done.returncode)


if __name__ == "__main__":
    main()
