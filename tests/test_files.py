"""A file is replaced whole or not at all."""

import os
from pathlib import Path

import pytest

from bnas_deploy import files
from bnas_deploy.errors import BnasError
from bnas_deploy.files import check_writable, write_whole


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
