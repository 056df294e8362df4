"""Tests of the generator that need TVM, which is there where wheels are made: run with the one that made them."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = ROOT / "tests/runtime/test_algorithm.py"

# An installed package has no generator, so the tests see that of the repository, as runtime/kernels/generate.py does.
FROM_REPOSITORY = """
import sys
from types import ModuleType
package = sys.modules["bnas_deploy"] = ModuleType("bnas_deploy")
package.__path__ = [sys.argv[1], sys.argv[1] + "/bnas_deploy"]
sys.modules["torch"] = None  # TVM would import it
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""


def test_the_algorithm_of_counting_is_not_skipped(wheels: dict[str, Path], build_tools: Path) -> None:
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-rs", str(FILE)]
    command = [sys.executable, "-P", "-c", FROM_REPOSITORY, str(ROOT), *options]
    environment = {**os.environ, "PYTHONPATH": str(build_tools)}
    run = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert " passed" in run.stdout
    assert "skipped" not in run.stdout, run.stdout
