"""Writing a file whole, and asking first whether that will work; reading what should be JSON."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from bnas_deploy.errors import BnasError


def write_whole(path: Path, data: bytes) -> None:
    """Write `data` so that whoever looks at `path` sees the old file or the new one, whole.

    Raises:
        BnasError: `path` cannot be written.
    """
    if not path.name:  # as Path("") has none
        raise BnasError(f"{path}: cannot be written: this names a folder; give the name of a file")
    try:
        path = Path(os.path.realpath(path))  # what a link points to is written, and the link stays
        # Not named after `path`, whose own name may be as long as the file system allows.
        handle, name = tempfile.mkstemp(prefix=".bnas-deploy-", suffix=".partial", dir=path.parent)
        fresh = Path(name)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())  # or a power cut could leave the new name on an empty file
            fresh.chmod(0o666 & ~_umask())  # mkstemp lets nobody else read it
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)
    except OSError as error:
        raise BnasError(f"{path}: cannot be written: {error.strerror}; choose another folder or make room") from None


def read_json(path: Path, expected: str, error: type[BnasError] = BnasError) -> Any:
    """Return what is in the JSON file `path`; `expected` names what it should be, for the message.

    Raises:
        error: it cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}; expected {expected}") from None
    except (ValueError, RecursionError) as problem:  # not UTF-8, not JSON, too long an integer, nested too deeply
        raise error(f"{path}: not {expected} ({problem})") from None


def check_writable(path: Path) -> None:
    """Find out before minutes are spent whether `path` can be written.

    Raises:
        BnasError: it is a folder, or its folder is missing or read-only.
    """
    if path.is_dir():
        raise BnasError(f"{path}: is a folder; give the name of a file in it")
    if path.exists() and not path.is_file():
        raise BnasError(f"{path}: is no regular file, and cannot be replaced by one; give another name")
    try:
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise BnasError(f"{path}: cannot be written: {error.strerror}; name another file") from None


def _umask() -> int:
    # There is no way to ask without setting it.
    current = os.umask(0)
    os.umask(current)
    return current
