"""What a release has for 64-bit ARM and x86-64, made as its makers make it."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OFFLINE = ("NewConnectionError", "Temporary failure in name resolution", "No matching distribution found")


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The wheels by architecture."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, str(ROOT / "runtime/build/wheels.py"), str(folder)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode and any(sign in run.stderr for sign in OFFLINE):
        pytest.skip("zig and TVM cannot be had from PyPI here")
    assert run.returncode == 0, run.stderr[-4000:]
    return {path.stem.split("2_17_")[1]: path for path in folder.glob("*.whl")}
