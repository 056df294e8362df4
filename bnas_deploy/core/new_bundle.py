"""A bundle that is written: in a hidden folder first, which then takes the place of the bundle before."""

import os
import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath
from types import FrameType

from bnas_deploy.core import host
from bnas_deploy.core.bundle import MANIFEST, Manifest, read_manifest
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import NO_ROOM
from bnas_deploy.core.model_card import CARD, check_card
from bnas_deploy.core.partial import partial_folder, put_folder, remove_leftovers


@contextmanager
def new_bundle(path: Path) -> Iterator[Path]:
    """Give an empty folder to fill, and put it at `path` when the block ends without an error.

    Whoever looks at `path` sees a whole bundle, the old one or the new one (`put_folder` has the exception). After an
    error the old one is still there and nothing else is left, folders made on the way included; so it is after SIGTERM.
    A killed process leaves a hidden folder beside `path`, which the next write there removes.

    Raises:
        BundleError: `path` exists and is no bundle or holds other files too, or cannot be written; or the block ran
            out of room.
    """
    with _sigterm_as_exit():
        yield from _new_bundle(path)


def _new_bundle(path: Path) -> Iterator[Path]:
    made: list[Path] = []
    try:
        with ExitStack() as until_it_is_there:
            with _as_unwritable(path):
                remove_leftovers(path.parent)  # one of them may hold the bundle that was here
                _check_replaceable(path)
                made += (folder for folder in path.parents if not folder.exists())  # innermost first
                path.parent.mkdir(parents=True, exist_ok=True)
                work = until_it_is_there.enter_context(partial_folder(path.parent))
                fresh = work / "new"
                (fresh / "test_vectors").mkdir(parents=True)
            with _as_unwritable(path, NO_ROOM):
                yield fresh
            with _as_unwritable(path):
                _check_replaceable(path)  # again, because minutes may have passed
                _sync(fresh)
                put_folder(fresh, path, work)
    finally:
        for folder in made:
            with suppress(OSError):  # it is not empty: the bundle lies in it
                folder.rmdir()


@contextmanager
def _as_unwritable(path: Path, errors: Collection[int] | None = None) -> Iterator[None]:
    """Turn an OSError of the block, or one of these `errors`, into a BundleError."""
    try:
        yield
    except OSError as error:
        if errors is not None and error.errno not in errors:
            raise
        raise BundleError(f"{path}: cannot be written: {error.strerror}; choose another folder or make room") from None


def _sync(folder: Path) -> None:
    """Have the disk take all files, or a power cut could leave a bundle of empty files; a full disk shows here too."""
    for file in folder.rglob("*"):
        if file.is_file():
            host.sync(file)


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Make SIGTERM raise SystemExit in the block, so that the block cleans up.

    By default SIGTERM ends the process without any `finally`; `kill`, a job queue and a shutdown send it. Another
    handler is left as it is.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()  # Python sets handlers only there
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # the exit code that a shell gives to a process ended by this signal


def _check_replaceable(path: Path) -> None:
    """Refuse a path whose replacement would remove anything but a bundle, or cannot succeed."""
    left_alone = "it was left alone, choose another folder"
    here = Path.cwd()
    if Path(os.path.realpath(path)) in (here, *here.parents):
        raise BundleError(f"{path}: the current folder lies in it; {left_alone}")
    if os.path.ismount(path):
        raise BundleError(f"{path}: a mount point, which cannot be replaced; {left_alone}")
    if not os.path.lexists(path) or (path.is_dir() and not any(path.iterdir())):
        return
    try:
        manifest = read_manifest(path / MANIFEST)
    except (BundleError, OSError):
        raise BundleError(f"{path}: exists and is not a bundle; {left_alone}") from None
    if others := sorted(_files_of_others(path, manifest)):
        raise BundleError(f"{path}: holds files that are not of the bundle, such as {others[0]}; {left_alone}")
    check_card(path, BundleError)


def _files_of_others(path: Path, manifest: Manifest) -> set[str]:
    """Return what is below `path` and neither of the bundle nor a folder for it."""
    ours = {MANIFEST, CARD, *manifest.files}
    ours |= {folder.as_posix() for name in ours for folder in PurePosixPath(name).parents}
    return {file.relative_to(path).as_posix() for file in path.rglob("*")} - ours
