"""Files and folders that are not finished yet: where they lie, whose they are, and what becomes of a killed writer's.

A writer works beside its target, under a name that no target has, and holds a lock on what it writes. The
system releases the lock however the process ends, SIGKILL included. So whoever gets the lock of a partial file knows
that its writer is gone, and removes the file: that happens before each write into the same folder.

A lock may not reach other machines on a shared file system. The name therefore carries the boot of the machine that
wrote it, and what another boot left is removed only after a week. Where a file system has no locks, nothing is removed.
"""

import errno
import os
import platform
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from bnas_deploy.core import host

TRIES = 100
"""Names that are tried. Another writer takes one for a leftover once in a while; in a folder such as /proc, where
nothing can be made, each is gone at once."""

OF_OTHER_BOOTS_S = 7 * 24 * 3600
"""Age from which the leftovers of another boot, or of another machine, are removed."""

# Not named after the target, whose own name may be as long as the file system allows.
_NAME = re.compile(r"\.bnas-deploy-(?:(?P<boot>[0-9a-f]{8})-)?[0-9a-z_]+\.partial")  # without boot: up to 0.1.0

_REPLACED = "old"  # in a partial folder: what it replaces goes there for an instant, under its own name


@contextmanager
def partial_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Give a new file in `folder`, its path and descriptor. It is closed at the end, and removed if it is still there.

    Raises:
        OSError: it cannot be made.
    """
    remove_leftovers(folder)
    path, descriptor = _locked(folder, host.create)
    try:
        yield path, descriptor
    finally:
        with suppress(OSError):  # it was renamed; or cannot be removed, then the next writer tries
            path.unlink()
        os.close(descriptor)  # Windows removes it now


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder in `folder`; it is removed at the end, with what is in it then.

    Raises:
        OSError: it cannot be made.
    """
    remove_leftovers(folder)
    path, descriptor = _locked(folder, _make_folder)
    try:
        yield path
    finally:
        emptied = _empty_folder(path)
        os.close(descriptor)  # what Windows locks lies in the folder, and cannot be removed before
        if emptied:
            shutil.rmtree(path, ignore_errors=True)


def put_folder(fresh: Path, path: Path, work: Path) -> None:
    """Rename `fresh`, which lies in the partial folder `work`, to `path`; what is there ends up in `work`.

    Linux and macOS exchange the two, so there is a whole folder at `path` at any time. Windows and some file systems
    (NFS) need two renamings. A process that is killed between them leaves nothing at `path`, and the next writer puts
    the old file back.

    Raises:
        OSError: it cannot be renamed; `path` is as before when `work` has been removed.
    """
    if not os.path.lexists(path):
        host.replace(fresh, path)
    elif not host.exchange(fresh, path):
        old = work / _REPLACED / path.name
        old.parent.mkdir()
        host.replace(path, old)
        host.replace(fresh, path)


def remove_leftovers(folder: Path) -> None:
    """Remove the partial files and folders in `folder` whose writers are gone, as far as that is certain."""
    try:
        names = os.listdir(folder)
    except OSError:  # nothing can be made there either, and that will be said
        return
    for name in names:
        if found := _NAME.fullmatch(name):
            with suppress(OSError):  # it is another user's, or was removed meanwhile
                _remove_if_left(folder / name, of_this_boot=found["boot"] == _boot())


def _remove_if_left(path: Path, *, of_this_boot: bool) -> None:
    descriptor = host.open_to_lock(path)
    try:
        state = os.stat(path, follow_symlinks=False)
        old_enough = of_this_boot or time.time() - state.st_mtime > OF_OTHER_BOOTS_S
        ours = host.is_mine(state) and (stat.S_ISREG(state.st_mode) or stat.S_ISDIR(state.st_mode))
        if not (ours and old_enough and host.lock(descriptor) and host.is_still(path, descriptor)):
            return
        emptied = stat.S_ISDIR(state.st_mode) and _empty_folder(path)
        if not stat.S_ISDIR(state.st_mode):
            path.unlink()
    finally:
        os.close(descriptor)
    if emptied:
        shutil.rmtree(path, ignore_errors=True)


def _empty_folder(path: Path) -> bool:
    """Remove what is in a partial folder, as far as that is possible; return False where it must stay.

    What it was replacing goes back if nothing came in its place.
    """
    try:
        for old in (path / _REPLACED).iterdir():
            if not os.path.lexists(path.parent / old.name):
                old.rename(path.parent / old.name)
    except FileNotFoundError:  # it replaces nothing
        pass
    except OSError:  # what it was replacing is in there; the next writer tries again
        return False
    shutil.rmtree(path, ignore_errors=True)
    return True


def _locked(folder: Path, make: Callable[[Path], int]) -> tuple[Path, int]:
    """Make a partial file or folder and lock it; return its path and descriptor.

    Raises:
        OSError: it cannot be made, or each one is gone before it is locked.
    """
    for _ in range(TRIES):
        path = folder / f".bnas-deploy-{_boot()}-{secrets.token_hex(6)}.partial"
        try:
            descriptor = make(path)
        except FileExistsError:
            continue
        # Before it is locked, another writer may take it for a leftover: then it is made anew.
        if host.lock(descriptor) is not False and host.is_still(path, descriptor):
            return path, descriptor
        os.close(descriptor)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))


def _make_folder(path: Path) -> int:
    try:
        return host.make_folder(path)
    except FileNotFoundError:
        if path.parent.is_dir():
            raise FileExistsError from None  # it was taken for a leftover: another name, please
        raise


def _boot() -> str:
    """Return eight digits that differ between machines, and on Linux from one boot to the next."""
    try:
        text = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    except OSError:
        text = platform.node()
    return sha256(text.encode()).hexdigest()[:8]
