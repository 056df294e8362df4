"""What another program has open is waited for on Windows, whose calls are faked here; on_windows.py has real ones."""

import ctypes
import errno
import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import bnas_deploy.core
from bnas_deploy.core import host
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.partial import partial_folder, put_folder


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """core/windows.py, loaded where no Windows is; host replaces files and folders with it."""
    path = Path(bnas_deploy.core.__file__).with_name("windows.py")
    spec = importlib.util.spec_from_file_location("faked", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "platform", "win32")
        patch.setitem(sys.modules, "msvcrt", ModuleType("msvcrt"))
        library = SimpleNamespace(CreateFileW=SimpleNamespace())
        patch.setattr(ctypes, "WinDLL", lambda *_, **__: library, raising=False)
        spec.loader.exec_module(module)
    monkeypatch.setattr(host, "replace", module.replace)
    monkeypatch.setattr(host, "exchange", module.exchange)
    return module


class Holder:
    """Another program, which has a file open until a time; meanwhile Windows renames neither it nor its folder."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.until = 0.0
        self.held = Path()
        self._replace = Path.replace
        patch.setattr(Path, "replace", lambda path, target: self._asked(path, Path(target)))
        patch.setattr(time, "monotonic", lambda: self.now)
        patch.setattr(time, "sleep", self._sleep)

    def hold(self, path: Path, seconds: float) -> None:
        self.held, self.until = path, self.now + seconds

    def _asked(self, path: Path, target: Path) -> Path:
        if self.now < self.until and any(each in (self.held, *self.held.parents) for each in (path, target)):
            raise PermissionError(errno.EACCES, "Access is denied", str(path))
        return self._replace(path, target)

    def _sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def holder(system: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Holder:
    return Holder(monkeypatch)


def test_a_file_that_is_open_for_a_moment_is_replaced(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    holder.hold(path, seconds=1.5)
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert 1.5 <= holder.now < 1.6


def test_a_file_that_stays_open_is_told_after_two_seconds(holder: Holder, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    holder.hold(path, seconds=60)
    with pytest.raises(BnasError, match="file: cannot be written: another program has it open; close that"):
        write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert 2 <= holder.now < 2.1
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def folder_of(path: Path, text: str) -> Path:
    path.mkdir(parents=True)
    (path / "file").write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("held", ["bundle/file", "fresh"])
def test_a_folder_with_a_file_that_is_open_for_a_moment_is_replaced(held: str, holder: Holder, tmp_path: Path) -> None:
    target = folder_of(tmp_path / "bundle", "old")
    with partial_folder(tmp_path) as work:
        fresh = folder_of(work / "fresh", "new")
        holder.hold(fresh / "file" if held == "fresh" else tmp_path / held, seconds=1.5)
        put_folder(fresh, target, work)
    assert (target / "file").read_text(encoding="utf-8") == "new"
    assert 1.5 <= holder.now < 1.6


def test_a_new_folder_with_a_file_that_is_open_for_a_moment_is_put_there(holder: Holder, tmp_path: Path) -> None:
    with partial_folder(tmp_path) as work:
        fresh = folder_of(work / "fresh", "new")
        holder.hold(fresh / "file", seconds=1.5)
        put_folder(fresh, tmp_path / "bundle", work)
    assert (tmp_path / "bundle/file").read_text(encoding="utf-8") == "new"


def test_a_folder_with_a_file_that_stays_open_is_told_and_stays(holder: Holder, tmp_path: Path) -> None:
    target = folder_of(tmp_path / "bundle", "old")
    holder.hold(target / "file", seconds=60)
    with pytest.raises(PermissionError) as error, partial_folder(tmp_path) as work:
        put_folder(folder_of(work / "fresh", "new"), target, work)
    assert error.value.strerror == "another program has a file in it open; close that"
    assert (target / "file").read_text(encoding="utf-8") == "old"
    assert 2 <= holder.now < 2.1
    assert [each.name for each in tmp_path.iterdir()] == ["bundle"]


def test_a_bundle_that_cannot_be_put_there_is_told(holder: Holder, tmp_path: Path) -> None:
    target = tmp_path / "bundle"
    holder.hold(target, seconds=60)
    reason = "bundle: cannot be written: another program has a file in it open; close that"
    with pytest.raises(BnasError, match=reason), new_bundle(target) as fresh:
        (fresh / "model.onnx").touch()
    assert list(tmp_path.iterdir()) == []
