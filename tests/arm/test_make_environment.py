"""Where an ARM machine cannot be made, the message says why, and nothing is left behind."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def making() -> ModuleType:
    path = Path(__file__).with_name("make_environment.py")
    spec = importlib.util.spec_from_file_location("make_environment", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def give_tools(monkeypatch: pytest.MonkeyPatch, folder: Path, **scripts: str) -> None:
    """Make a PATH of these shell scripts only."""
    folder.mkdir()
    for name, script in scripts.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))


@pytest.mark.parametrize(
    ("scripts", "message"),
    [
        ({}, "needs dpkg"),
        ({"dpkg": "echo amd64"}, "needs apt-get"),
        (
            {"dpkg": "echo amd64", "apt_get": "echo 'E: no route to deb.debian.org' >&2; exit 100"},
            "apt-get -qq update ... ended with 100: E: no route to deb.debian.org",
        ),
    ],
    ids=["no Debian", "no apt", "no network"],
)
def test_what_is_missing_is_said(
    making: ModuleType, scripts: dict[str, str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_tools(monkeypatch, tmp_path / "bin", **scripts)
    (tmp_path / "made").mkdir()
    with pytest.raises(making.UnavailableError) as error:
        making.make(tmp_path / "made" / "environment")
    assert str(error.value) == message
    assert not list((tmp_path / "made").iterdir())


def test_an_environment_that_is_there_is_kept(
    making: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_tools(monkeypatch, tmp_path / "bin")
    python = tmp_path / "environment" / "python"
    python.parent.mkdir()
    python.touch()
    assert making.make(tmp_path / "environment") == python
