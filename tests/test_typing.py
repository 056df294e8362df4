"""Lint, format and types hold; types in the package as users import it, not in the folders as we edit them."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bnas_deploy", "search", "export", "runtime", "tests")


def _run(*command: str, cwd: Path = ROOT) -> None:
    run = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.mark.parametrize("command", [("check",), ("format", "--check")], ids=["lint", "format"])
def test_ruff(command: tuple[str, ...]) -> None:
    _run("ruff", *command, "--no-cache", *FOLDERS)


def test_mypy_strict(tmp_path: Path) -> None:
    # mypy does not follow the mapping of the folders in pyproject.toml, so it gets the tree that a wheel has.
    package = shutil.copytree(ROOT / "bnas_deploy", tmp_path / "bnas_deploy")
    for stage in ("search", "export", "runtime"):
        # runtime/build makes the wheel and is not in it; setuptools, which it is written for, has no types.
        shutil.copytree(ROOT / stage, package / stage, ignore=shutil.ignore_patterns("build"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    # The cache stays in the repository, because reading torch's types takes a minute.
    _run("mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "-p", "bnas_deploy", cwd=tmp_path)
