"""Reading regular files and nothing else; writing a file whole, and asking first whether that will work."""

import errno
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from bnas_deploy.core import host
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.memory import memory_bytes
from bnas_deploy.core.partial import partial_file

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""Errors of the system that a disk causes, whatever is written to it."""

_KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
}


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. Nothing else is opened, so nothing can block or be disturbed.

    A pipe, such as `<(command)` makes, is refused too: most files are read more than once, and from several places.

    Raises:
        OSError: the file cannot be opened, or is not regular; `strerror` says what it is.
    """
    _check_regular(path, path.stat())  # before it is opened, which may already do something to a device
    descriptor = host.open_to_read(path)
    try:
        _check_regular(path, os.fstat(descriptor))
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Return the contents of a regular file.

    Args:
        path: the file.
        most: bytes that it may have; None for as many as this machine has memory.

    Raises:
        OSError: the file cannot be read, is not regular, or is larger; `strerror` says which.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        limit = memory_bytes() if most is None else most
        if limit is not None and size > limit:
            reason = "more than this machine's memory" if most is None else f"and {most:,} are the most that are read"
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, {reason}", str(path))
        return file.read()


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that whoever looks at `path` sees the old file or the new one, whole.

    A process that is killed meanwhile leaves a hidden file beside `path`; the next write into that folder removes it.

    Raises:
        BnasError: `path` is no regular file, or cannot be written.
    """
    if not path.name:  # as Path("") has none
        raise BnasError(f"{path}: cannot be written: this names a folder; give the name of a file")
    try:
        _check_replaceable(path)
        path = Path(os.path.realpath(path))  # what a link points to is written, and the link stays
        with partial_file(path.parent) as (fresh, descriptor):
            _write(descriptor, data)
            os.fsync(descriptor)  # or a power cut could leave the new name on an empty file
            host.publish(descriptor)  # until here nobody else could read it
            host.replace(fresh, path)
    except OSError as error:
        raise BnasError(f"{path}: cannot be written: {error.strerror}; choose another folder or make room") from None


def check_writable(path: Path) -> None:
    """Find out before minutes are spent whether `path` can be written.

    Raises:
        BnasError: it is a folder or another thing than a file, or its folder is missing or read-only.
    """
    try:
        _check_replaceable(path)
        tempfile.TemporaryFile(dir=Path(os.path.realpath(path)).parent).close()
    except OSError as error:
        raise BnasError(f"{path}: cannot be written: {error.strerror}; name another file") from None


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Give a folder where the system keeps such (TMPDIR); it is removed at the end.

    Raises:
        BnasError: there is no room for it, or for what is written in it.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="bnas-") as folder:  # short: a socket's path may have 100 characters
            yield Path(folder)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and error.filename is None:  # tempfile tried all folders that it knows
            reason = "no temporary folder can be written"
        elif error.errno in NO_ROOM:
            reason = f"{error.filename or tempfile.gettempdir()}: cannot be written: {error.strerror}"
        else:
            raise
        raise BnasError(f"{reason}; make room, or set TMPDIR to a folder that has some") from None


def _check_regular(path: Path, state: os.stat_result) -> None:
    if stat.S_ISDIR(state.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(state.st_mode):
        kind = _KINDS[stat.S_IFMT(state.st_mode)]
        raise OSError(errno.EINVAL, f"it is {kind}, and only files are read; save it to a file first", str(path))


def _check_replaceable(path: Path) -> None:
    """Refuse what is there and no regular file: a rename would replace a device as root, and a pipe for everybody.

    Raises:
        BnasError: it is something else.
        OSError: it cannot be looked at.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise BnasError(f"{path}: is a folder; give the name of a file in it")
    if not stat.S_ISREG(mode):
        raise BnasError(f"{path}: is {_KINDS[stat.S_IFMT(mode)]}, which no file may replace; give the name of a file")
    if _leads_through_proc(path):
        raise BnasError(f"{path}: leads through /proc to a file that the shell has opened; give that file's own name")


def _leads_through_proc(path: Path) -> bool:
    """Tell whether a link on the way is one of /proc: /dev/stdout leads to whatever file the shell has opened."""
    while path.is_symlink():
        if os.path.realpath(path.parent).startswith("/proc/"):
            return True
        path = path.parent / path.readlink()
    return False


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]  # Linux writes at most 2 GiB at a time
