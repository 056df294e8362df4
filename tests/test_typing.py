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


def test_mypy_strict(package_tree: Path) -> None:
    shutil.copy(ROOT / "pyproject.toml", package_tree.parent)
    # The cache stays in the repository, because reading torch's types takes a minute.
    _run("mypy", "--cache-dir", str(ROOT / ".mypy_cache"), "-p", package_tree.name, cwd=package_tree.parent)
