"""A 64-bit ARM machine on another one: `python make_environment.py FOLDER`, then `FOLDER/python program.py`.

It has qemu's user mode, Debian's libc and Python for arm64, and the wheels for aarch64 that bnas-deploy needs,
onnxruntime among them. apt downloads without root, into lists of its own, and installs nothing: the system stays as it
is. It takes half a minute and 240 MB. The environment variable QEMU_CPU picks the processor, a Cortex-A72 without it.
"""

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

PACKAGES = ("python3-minimal", "libpython3-stdlib", "libstdc++6")
"""With what they depend on: apt has been told that nothing is installed."""

QEMU = "qemu-aarch64-static"
WHEELS = ("click", "numpy", "onnxruntime", "rich")
GLIBCS = ("2_17", "2_27", "2_28")
"""Those that wheels for aarch64 are tagged with; Debian's is newer than all of them."""

# onnxruntime reads this file when it is imported and fails on an x86 one, which qemu before 8.1 would show it.
CPUINFO = "".join(
    f"processor\t: {processor}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd evtstrm crc32 cpuid\n"
    "CPU implementer\t: 0x41\nCPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd08\nCPU revision\t: 3\n\n"
    for processor in range(2)
)


class UnavailableError(Exception):
    """The environment cannot be made here; the message says which step failed and how."""


def make(folder: Path) -> Path:
    """Make the environment, unless it is there already, and return its Python.

    Raises:
        UnavailableError: a tool is missing, or there is no network.
    """
    python = folder.absolute() / "python"
    if python.is_file():
        return python
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.absolute().parent, prefix=".arm-"))
    try:
        _download(work / "apt", *PACKAGES)
        for package in (work / "apt/archives").glob("*.deb"):
            _run("dpkg-deb", "--extract", package, work / "root")
        (work / "root/proc").mkdir()
        (work / "root/proc/cpuinfo").write_text(CPUINFO)
        _add_qemu(work)
        (interpreter,) = (work / "root/usr/bin").glob("python3.*[0-9]")
        _add_wheels(work / "site", version=interpreter.name.removeprefix("python"))
        shutil.rmtree(work / "apt")
        (work / "python").write_text(
            '#!/bin/sh\nhere=$(dirname "$(readlink -f "$0")")\n'
            'export PYTHONPATH="${PYTHONPATH:+$PYTHONPATH:}$here/site" QEMU_CPU="${QEMU_CPU:-cortex-a72}"\n'
            # -0 makes this script sys.executable, which programs start further Pythons with. Python's library is not
            # beside it, and would be looked for where this system may have its own.
            'export PYTHONHOME="$here/root/usr"\n'
            f'exec "$here/{QEMU}" -0 "$here/python" -L "$here/root" "$here/root/usr/bin/{interpreter.name}" "$@"\n'
        )
        (work / "python").chmod(0o755)
        _run(work / "python", "-c", "import onnxruntime")
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return python


def _download(apt: Path, *packages: str) -> None:
    """Let apt put packages for arm64 and all that they need into apt/archives."""
    own = _run("dpkg", "--print-architecture").strip()
    for part in ("lists/partial", "archives/partial"):
        (apt / part).mkdir(parents=True)
    (apt / "status").touch()
    (apt / "conf").write_text(
        f'APT::Architecture "arm64"; APT::Architectures {{ "arm64"; "{own}"; }};\n'
        f'Dir::State "{apt}"; Dir::State::status "{apt}/status"; Dir::Cache "{apt}";\n'
        'APT::Install-Recommends "false"; APT::Sandbox::User ""; Acquire::Languages "none";\n'
    )
    _apt(apt, "update")
    _apt(apt, "install", "--yes", "--download-only", *packages)


def _add_qemu(work: Path) -> None:
    """Take the system's qemu, or the one in the package, which needs no library."""
    found = shutil.which(QEMU)
    if found is None:
        own = _run("dpkg", "--print-architecture").strip()
        _apt(work / "apt", "download", f"qemu-user-static:{own}", cwd=work / "apt")
        (package,) = (work / "apt").glob("qemu-user-static_*.deb")
        _run("dpkg-deb", "--extract", package, work / "apt/qemu")
        found = str(work / "apt/qemu/usr/bin" / QEMU)
    shutil.copy(found, work / QEMU)


def _add_wheels(site: Path, version: str) -> None:
    platforms = [word for glibc in GLIBCS for word in ("--platform", f"manylinux_{glibc}_aarch64")]
    options = ["--quiet", "--only-binary", ":all:", "--python-version", version, *platforms]
    _run(sys.executable, "-m", "pip", "install", *options, "--target", site, *WHEELS)


def _apt(apt: Path, *words: str, cwd: Path | None = None) -> None:
    _run("apt-get", "-qq", *words, cwd=cwd, APT_CONFIG=str(apt / "conf"))


def _run(*command: str | Path, cwd: Path | None = None, **variables: str) -> str:
    words: Sequence[str] = [str(word) for word in command]
    try:
        run = subprocess.run(
            words, cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise UnavailableError(f"needs {words[0]}") from None
    if run.returncode:
        last = " ".join(run.stderr.strip().splitlines()[-1:])
        raise UnavailableError(f"{' '.join(words[:4])} ... ended with {run.returncode}: {last}")
    return run.stdout


if __name__ == "__main__":
    if platform.machine() == "aarch64":
        sys.exit("this machine is aarch64 already")
    print(make(Path(sys.argv[1])))
