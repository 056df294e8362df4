"""A file is replaced whole or not at all; what is no file is neither read nor replaced."""

import errno
import os
import resource
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bnas_deploy.core import files, host
from bnas_deploy.core.errors import BnasError, BundleError
from bnas_deploy.core.files import check_writable, open_regular, read_bytes, temporary_folder, write_whole
from bnas_deploy.core.new_bundle import new_bundle


def refusal_of(path: Path) -> str:
    with pytest.raises(BnasError) as refusal:
        write_whole(path, b"new")
    return refusal.value.message


def test_the_new_file_replaces_the_old_one_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old", b"new"):
        write_whole(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_name_may_be_as_long_as_the_file_system_allows(tmp_path: Path) -> None:
    longest = os.pathconf(tmp_path, "PC_NAME_MAX")
    write_whole(tmp_path / (longest * "n"), b"new")
    path = tmp_path / ((longest + 1) * "n")
    assert refusal_of(path) == f"{path}: cannot be written: File name too long; choose another folder or make room"
    assert [len(each.name) for each in tmp_path.iterdir()] == [longest]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", no_room)
    assert refusal_of(path) == f"{path}: cannot be written: No space left on device; choose another folder or make room"
    assert [(each.name, each.read_bytes()) for each in tmp_path.iterdir()] == [("file", b"old")]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert refusal_of(Path("")) == ".: cannot be written: this names a folder; give the name of a file"
    assert refusal_of(tmp_path) == f"{tmp_path}: is a folder; give the name of a file in it"
    assert not list(tmp_path.iterdir())


def test_a_path_is_tried_before_it_is_needed(tmp_path: Path) -> None:
    check_writable(tmp_path / "bench.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(BnasError, match="is a folder; give the name of a file in it"):
        check_writable(tmp_path)
    with pytest.raises(BnasError, match=r"b\.json: cannot be written: No such file or directory; name another file"):
        check_writable(tmp_path / "none" / "b.json")


def test_what_a_link_points_to_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "file")
    write_whole(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def a_character_device(path: Path) -> None:
    """Make what /dev/null is."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")


NO_FILES = [(a_pipe, "a pipe"), (a_socket, "a socket"), (a_character_device, "a character device")]


@pytest.fixture(params=NO_FILES, ids=lambda row: row[1])
def no_file(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """Something that is no file: where it is, and what it is called."""
    make, kind = request.param
    make(tmp_path / "it")
    return tmp_path / "it", kind


@pytest.mark.parametrize("through_a_link", [False, True])
def test_what_is_no_file_is_not_replaced(no_file: tuple[Path, str], through_a_link: bool, tmp_path: Path) -> None:
    path, kind = no_file
    before = path.stat()
    if through_a_link:
        (tmp_path / "link").symlink_to(path)
        path = tmp_path / "link"
    for refuse in (check_writable, lambda path: write_whole(path, b"new")):
        with pytest.raises(BnasError) as refusal:
            refuse(path)
        assert refusal.value.message == f"{path}: is {kind}, which no file may replace; give the name of a file"
    assert os.path.samestat(path.stat(), before)


@pytest.mark.parametrize("name", ["proc", "link"])
def test_a_file_is_not_taken_from_under_the_program_that_has_it_open(name: str, tmp_path: Path) -> None:
    # As /dev/stdout stands for the file that a shell has opened.
    (tmp_path / "file").write_bytes(b"old")
    with (tmp_path / "file").open("rb") as opened:
        path = Path(f"/proc/self/fd/{opened.fileno()}")
        if not path.exists():
            pytest.skip("no /proc here")
        if name == "link":
            (tmp_path / "link").symlink_to(path)
            path = tmp_path / "link"
        for refuse in (check_writable, lambda path: write_whole(path, b"new")):
            with pytest.raises(BnasError) as refusal:
                refuse(path)
            assert refusal.value.message == (
                f"{path}: leads through /proc to a file that the shell has opened; give that file's own name"
            )
    assert (tmp_path / "file").read_bytes() == b"old"


@pytest.fixture
def limited() -> Iterator[None]:
    """Let no file have more than a thousand bytes, as on a disk with no more room."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("limited")
def test_a_file_that_does_not_fit_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, 1000 * b"o")
    with pytest.raises(BnasError) as refusal:
        write_whole(path, 1001 * b"n")
    assert refusal.value.message == f"{path}: cannot be written: File too large; choose another folder or make room"
    assert path.read_bytes() == 1000 * b"o"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.usefixtures("limited")
def test_a_temporary_folder_without_room_is_named() -> None:
    with pytest.raises(BnasError) as refusal, temporary_folder() as folder:
        (folder / "file").write_bytes(1001 * b"n")
    told = "cannot be written: File too large; make room, or set TMPDIR to a folder that has some"
    assert refusal.value.message == f"{tempfile.gettempdir()}: {told}"
    assert not folder.exists()


def test_no_temporary_folder_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    with pytest.raises(BnasError, match=r"^no temporary folder can be written; make room, or set TMPDIR to a folder"):
        temporary_folder().__enter__()


def test_errors_that_are_not_of_the_disk_go_through_a_temporary_folder() -> None:
    with pytest.raises(FileNotFoundError), temporary_folder() as folder:
        (folder / "missing").read_bytes()


def test_a_folder_in_which_each_new_one_is_gone_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(path: Path) -> int:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))

    monkeypatch.setattr(host, "make_folder", gone)
    message = "x: cannot be written: No such file or directory; choose another folder or make room"
    with pytest.raises(BundleError, match=message), new_bundle(tmp_path / "x"):
        pass


def test_a_regular_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    with open_regular(tmp_path / "file") as file:
        assert file.read() == b"content"
    assert read_bytes(tmp_path / "link", most=7) == b"content"


def test_what_is_no_file_is_not_opened(no_file: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    path, kind = no_file
    monkeypatch.setattr(os, "open", lambda *arguments: pytest.fail("a device may do something when it is opened"))
    with pytest.raises(OSError, match=f"it is {kind}, and only files are read; save it to a file first"):
        open_regular(path)


def test_a_pipe_that_took_the_place_of_a_file_does_not_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    looked_at = (tmp_path / "file").stat()
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(Path, "stat", lambda self: looked_at)
    with pytest.raises(OSError, match="it is a pipe, and only files are read"):
        open_regular(tmp_path / "pipe")


def test_a_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_regular(tmp_path)


def test_a_file_is_not_read_beyond_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(1001 * b"x")
    with pytest.raises(OSError, match=r"it has 1,001 bytes, and 1,000 are the most that are read"):
        read_bytes(tmp_path / "file", most=1000)
    monkeypatch.setattr(files, "memory_bytes", lambda: 1000)
    with pytest.raises(OSError, match=r"it has 1,001 bytes, more than this machine's memory"):
        read_bytes(tmp_path / "file")
