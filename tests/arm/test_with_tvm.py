"""Tests of the generator that need TVM, which is there where wheels are made: run with the one that made them."""

import os
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "runtime/test_algorithm.py"


def test_the_algorithm_of_counting_is_not_skipped(wheels: dict[str, Path], build_tools: Path) -> None:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-n0", "-p", "no:cacheprovider", "-rs", str(FILE)]
    environment = {**os.environ, "PYTHONPATH": str(build_tools)}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout, run.stdout
