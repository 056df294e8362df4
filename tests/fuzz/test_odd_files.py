"""Odd files in place of each file that a command reads: the whole table, and a few of the changed values of each."""

import importlib.util
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

MOST = 2
"""Changed values of a file; all of them take minutes."""


def _net() -> ModuleType:
    spec = importlib.util.spec_from_file_location("odd_files", Path(__file__).with_name("odd_files.py"))
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["odd_files"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


NET = _net()


@pytest.fixture(scope="module")
def world() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:  # short: a socket's path may have 100 characters
        NET.make_world(Path(folder))
        yield Path(folder)


@pytest.mark.parametrize("place", NET.PLACES, ids=str)
def test_an_odd_file_is_a_sentence(place, world: Path) -> None:
    codes, failures = NET.try_place(place, world, random.Random(0), MOST)
    assert not failures, "\n".join(failures)
    assert codes[1] > 5


@pytest.mark.parametrize("command", NET.WRITERS)
def test_a_full_disk_is_a_sentence(command: str, world: Path) -> None:
    codes, failures = NET.try_full_disk(command, world)
    assert not failures, "\n".join(failures)
    assert codes[1] >= 1
