"""The operator library for other machines: out of a wheel, or built where the sources are."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import bnas_deploy.runtime
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import open_regular, temporary_folder
from bnas_deploy.runtime.library import LibraryFile, library_path, read_library
from bnas_deploy.runtime.targets import TARGETS, this_machine

LIBRARIES_IN_WHEELS = tuple(dict.fromkeys(f"bnas_deploy/runtime/{target.library}" for target in TARGETS.values()))
"""Of the kinds of systems; a wheel has one of them."""

LIBRARY_IN_WHEEL = LIBRARIES_IN_WHEELS[0]
"""What an error asks for."""

LARGEST_LIBRARY = 100_000_000
"""Bytes; it has three hundredths of that."""

SOURCES = ("pyproject.toml", "bnas_deploy", "search", "export", "runtime")
"""What a wheel is made of, in the repository."""

Say = Callable[[str], object]


def target_of(architecture: str) -> str:
    """Return the target for Linux on `architecture`, a name as `uname -m` has it.

    Raises:
        BnasError: there is no such target.
    """
    target = f"{architecture}-linux"
    if target not in TARGETS:
        there_are = ", ".join(name for name, row in TARGETS.items() if row.system == "linux")
        raise BnasError(f"{architecture}: no kernels for this architecture; there are {there_are}")
    return target


def library_for(target: str | None, say: Say = lambda step: None) -> bytes:
    """Return the library for `target`: the installed one for this machine, which None also stands for, else a new one.

    Raises:
        BnasError: it cannot be built here, or this machine is no target.
    """
    wanted = target or this_machine()
    if wanted not in TARGETS:
        raise BnasError(f"{wanted}: no kernels for this machine; there are {', '.join(TARGETS)}")
    if wanted == this_machine():
        return library_path().read_bytes()
    return library_in(wheel_for(wanted, say))[0]


def library_in(wheel: Path) -> tuple[bytes, LibraryFile]:
    """Return the library in a wheel of this package, and what its header says.

    Raises:
        BnasError: the file is no wheel of bnas-deploy.
    """
    try:
        with open_regular(wheel) as file, zipfile.ZipFile(file) as archive:
            data = _library(archive)
    except OSError as error:
        raise BnasError(f"{wheel}: cannot be read: {error.strerror}; give a wheel of bnas-deploy") from None
    except KeyError:
        raise BnasError(f"{wheel}: no {LIBRARY_IN_WHEEL} in it; give a wheel of bnas-deploy") from None
    # What zipfile raises for damage; NotImplementedError is for versions and flags that it does not know.
    except (EOFError, NotImplementedError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise BnasError(
            f"{wheel}: no {LIBRARY_IN_WHEEL} can be read in it ({error}); give a wheel of bnas-deploy"
        ) from None
    with temporary_folder() as folder:
        path = folder / "library"
        path.write_bytes(data)
        return data, read_library(path)


def _library(archive: zipfile.ZipFile) -> bytes:
    """Return the library, not encrypted and not larger than such a file is."""
    names = set(archive.namelist())
    member = archive.getinfo(next((name for name in LIBRARIES_IN_WHEELS if name in names), LIBRARY_IN_WHEEL))
    if member.flag_bits & 1:
        raise ValueError("it is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("it is compressed in a way that wheels are not")
    if member.file_size > LARGEST_LIBRARY:
        raise ValueError(f"it has {member.file_size:,} bytes, and {LARGEST_LIBRARY:,} are the most that are read")
    return archive.read(member)


def wheel_for(target: str, say: Say = lambda step: None) -> Path:
    """Return a wheel of this package for `target`, built from the sources that it runs from.

    It is kept in build/wheels of the repository until a source changes. `say` is told before minutes are spent.

    Raises:
        BnasError: there are no sources here, or the build fails.
    """
    root = repository()
    if root is None:
        raise BnasError(
            f"{target}: this bnas-deploy was installed from a wheel, and the sources are needed to build for another "
            f"machine; in a clone of the repository run: BNAS_TARGET={TARGETS[target].zig} pip wheel --no-deps . "
            "and give the file with --wheel"
        )
    folder = root / "build" / "wheels" / f"{target}-{_version_of_sources(root)}"
    if not folder.is_dir():
        say(f"building for {target}; pip fetches zig, and TVM where kernels have to be generated")
        _build_into(folder, root, target)
    (wheel,) = folder.glob("*.whl")
    return wheel


def repository() -> Path | None:
    """Return the clone or unpacked sdist that this package runs from, None if it was installed from a wheel."""
    root = Path(bnas_deploy.runtime.__path__[0]).parent
    return root if (root / "runtime/build/native.py").is_file() else None


def _version_of_sources(root: Path) -> str:
    digest = hashlib.sha256()
    for source in SOURCES:
        path = root / source
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and file.suffix in {".toml", ".py", ".c", ".h", ".map"}:
                digest.update(f"{file.relative_to(root).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _build_into(folder: Path, root: Path, target: str) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".bnas-wheel-"))
    try:
        command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", str(work), str(root)]
        environment = {**os.environ, "BNAS_TARGET": TARGETS[target].zig}
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if run.returncode or len(list(work.glob("*.whl"))) != 1:
            raise BnasError(
                f"{target}: the wheel cannot be built: BNAS_TARGET={TARGETS[target].zig} {' '.join(command)} "
                f"ended with {run.returncode}: {' '.join(run.stderr.split())[-2000:]}"
            )
        for old in folder.parent.glob(f"{target}-*"):
            shutil.rmtree(old, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
