"""Builds the wheels of a release: `python runtime/build/wheels.py FOLDER`.

There is one for every kind of Linux that has kernels, and any machine builds all of them: pip fetches zig, which
compiles for all, and TVM where kernels have to be generated.
"""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import native

ROOT = native.SOURCES.parents[1]
TARGETS = "runtime/targets.py"
"""Read by its path: nothing of the package is installed here."""


def main(folder: str) -> None:
    """Build them all, or stop at the first that fails."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    for target in runpy.run_path(str(ROOT / TARGETS))["TARGETS"].values():
        environment = {**os.environ, native.TARGET_VARIABLE: target}
        subprocess.run([*command, str(ROOT)], env=environment, check=True)
    print(*sorted(map(str, Path(folder).glob("*.whl"))), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
