"""Data flows one way: search -> export -> bundle -> runtime -> report. Only the commands join the stages."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("search", "export", "runtime")
"""The folders at the top of the repository that are imported as part of bnas_deploy."""

FLOORS = (
    ("core",),  # the contracts: what the stages hand to each other
    ("search", "runtime"),
    # Export reads networks of the search, and checks its own work with the runtime's verification; evaluation runs
    # networks of both on the search's data, and studies train many networks of it.
    ("export", "evaluation", "studies"),
    ("report", "remote", "doctor"),
    ("drawing",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""The rooms of the package, lowest first. A room imports from the floors below it, never from its own floor."""

SEARCH_FLOORS = (("nn",), ("models", "data"), ("training",), ("cells", "widths"))
"""The rooms of the search, lowest first, in the same sense."""


def _by_room(floors: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {room: floor for floor, rooms in enumerate(floors) for room in rooms}


FLOOR, SEARCH_FLOOR = _by_room(FLOORS), _by_room(SEARCH_FLOORS)


def _imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, at its top or inside a function."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _rooms(names: set[str], house: str = "bnas_deploy") -> set[str]:
    """Return x for every imported bnas_deploy.x, or of another house; the package itself holds its version."""
    below = {name.removeprefix(f"{house}.") for name in names if name.startswith(f"{house}.")}
    return {name.partition(".")[0] for name in below} - {"__version__"}


def _third_party(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - {"bnas_deploy"} - sys.stdlib_module_names


def _files_of(room: str) -> list[Path]:
    folder = ROOT / room if room in STAGES else ROOT / "bnas_deploy" / room
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]


def test_every_room_has_a_floor() -> None:
    entries = {path.stem for path in (ROOT / "bnas_deploy").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__init__", "__pycache__"} | {*STAGES} == FLOOR.keys()


@pytest.mark.parametrize("room", FLOOR)
def test_a_room_imports_from_the_floors_below(room: str) -> None:
    for path in _files_of(room):
        above = {other for other in _rooms(_imported(path)) - {room} if FLOOR[other] >= FLOOR[room]}
        assert not above, f"{path} imports {above}"


def test_every_room_of_the_search_has_a_floor() -> None:
    entries = {path.stem for path in (ROOT / "search").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert entries - {"__init__", "__pycache__"} == SEARCH_FLOOR.keys()


@pytest.mark.parametrize("room", SEARCH_FLOOR)
def test_a_room_of_the_search_imports_from_the_floors_below(room: str) -> None:
    for path in (ROOT / "search" / room).rglob("*.py"):
        others = _rooms(_imported(path), "bnas_deploy.search") - {room}
        above = {other for other in others if SEARCH_FLOOR[other] >= SEARCH_FLOOR[room]}
        assert not above, f"{path} imports {above}"


def test_the_contracts_need_numpy_only() -> None:
    for path in _files_of("core"):
        assert _third_party(_imported(path)) <= {"numpy"}, path


def test_the_package_itself_names_what_an_app_needs_and_no_more() -> None:
    assert _rooms(_imported(ROOT / "bnas_deploy/__init__.py")) == {"runtime"}


def test_the_runtime_needs_numpy_and_onnxruntime_only() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        # What builds the library runs where the wheel is made, and so do the kernels' generators.
        folder = path.relative_to(ROOT / "runtime").parts[0]
        if folder != "build":
            generates = folder == "kernels" and path.name != "specs.py"
            allowed = {"tvm", "tvm_ffi"} if generates else {"numpy", "onnxruntime"}
            assert _third_party(_imported(path)) <= allowed, path


def test_stages_are_imported_by_their_full_name() -> None:
    for folder in ("bnas_deploy", *STAGES, "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            short = {name.partition(".")[0] for name in _imported(path)} & {*STAGES}
            assert not short, f"{path}: import it as bnas_deploy.{short.pop()}"
