"""C and C++ are laid out by clang-format, whose version is pinned: others lay out a few things in another way."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("runtime", "examples", "tests")


@pytest.fixture(scope="module")
def clang_format() -> str:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (pinned,) = (name.removeprefix("clang-format==") for name in extras["test"] if name.startswith("clang-format=="))
    found = shutil.which("clang-format", path=str(Path(sys.executable).parent)) or shutil.which("clang-format")
    if found is None or pinned not in re.findall(
        r"version (\S+)", subprocess.check_output([found, "--version"], text=True)
    ):
        pytest.skip(f"needs clang-format {pinned}, which the extra `test` installs")
    return found


def test_c_is_laid_out_by_clang_format(clang_format: str) -> None:
    files = [path for folder in FOLDERS for end in ("c", "h", "cpp") for path in (ROOT / folder).rglob(f"*.{end}")]
    assert len(files) > 20
    run = subprocess.run(
        [clang_format, "--dry-run", "--Werror", *map(str, files)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[:4000] + "\nrun: clang-format -i on these files"


def test_another_layout_is_noticed(clang_format: str, tmp_path: Path) -> None:
    shutil.copy(ROOT / ".clang-format", tmp_path)
    (tmp_path / "file.c").write_text("int  f(void) { return 1; }\n")
    run = subprocess.run(
        [clang_format, "--dry-run", "--Werror", "file.c"], cwd=tmp_path, check=False, capture_output=True
    )
    assert run.returncode != 0
