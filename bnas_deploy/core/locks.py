"""Locks on files and folders, which end with the process that holds them, however that ends."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bnas_deploy.core import host

_LOOK_EVERY_S = 0.1


@contextmanager
def locked(
    path: Path, stop: Callable[[], bool] = lambda: False, waits: Callable[[], object] = lambda: None
) -> Iterator[bool]:
    """Hold the lock of a file, which is made if it is not there; wait while another process has it.

    Gives True with the lock, and False if `stop` answered True first. `waits` is called once, before waiting. Where a
    file system has no locks, it is as if nobody held it.

    Raises:
        OSError: the file cannot be opened.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if host.lock(descriptor) is False:
            waits()
            while host.lock(descriptor) is False:
                if stop():
                    yield False
                    return
                time.sleep(_LOOK_EVERY_S)
        yield True
    finally:
        os.close(descriptor)


@contextmanager
def locked_folder(folder: Path) -> Iterator[bool]:
    """Hold the lock of a folder; gives False where another process has it.

    Where folders have no locks, as on Windows and some network drives, it is as if nobody held it.

    Raises:
        OSError: there is no such folder.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # Windows opens no folder
        yield True
        return
    try:
        yield host.lock(descriptor) is not False
    finally:
        os.close(descriptor)
