"""Data flows one way: search -> export -> bundle -> runtime -> report. Only the commands join the stages."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = {"search": set[str](), "export": {"search", "runtime"}, "runtime": set[str]()}
"""Each stage, and the other stages that it may import. Export checks its own work with runtime's verification."""
CONTRACTS = (
    "bits",
    "bundle",
    "cost",
    "errors",
    "files",
    "genotype",
    "json_records",
    "latency",
    "names",
    "npz",
    "partial",
    "search_history",
)
"""The vocabulary that the stages share, modules of bnas_deploy."""
JOINING = {path.stem for path in (ROOT / "bnas_deploy").iterdir()} - {*CONTRACTS, "__init__"}
"""All else in bnas_deploy joins the stages or shows what they return, and so may be imported by none of them."""


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


def _parts_of_the_package(names: set[str]) -> set[str]:
    """Return x for every imported bnas_deploy.x."""
    return {name.split(".")[1] for name in names if name.startswith("bnas_deploy.")}


def _third_party(names: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in names} - {"bnas_deploy"} - sys.stdlib_module_names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_what_it_may(stage: str) -> None:
    for path in (ROOT / stage).rglob("*.py"):
        forbidden = (STAGES.keys() - STAGES[stage] - {stage}) | JOINING
        assert not forbidden & _parts_of_the_package(_imported(path)), path


@pytest.mark.parametrize("module", CONTRACTS)
def test_a_contract_imports_no_stage(module: str) -> None:
    names = _imported(ROOT / "bnas_deploy" / f"{module}.py")
    assert _parts_of_the_package(names) <= set(CONTRACTS)
    assert _third_party(names) <= {"click", "numpy"}


def test_the_package_itself_names_what_an_app_needs_and_no_more() -> None:
    assert _parts_of_the_package(_imported(ROOT / "bnas_deploy/__init__.py")) == {"runtime"}


def test_the_runtime_needs_numpy_and_onnxruntime_only() -> None:
    for path in (ROOT / "runtime").rglob("*.py"):
        # What builds the library runs where the wheel is made, and so do the kernels' generators.
        folder = path.relative_to(ROOT / "runtime").parts[0]
        if folder != "build":
            allowed = {"tvm"} if folder == "kernels" and path.name != "variants.py" else {"numpy", "onnxruntime"}
            assert _third_party(_imported(path)) <= allowed, path


def test_stages_are_imported_by_their_full_name() -> None:
    for folder in ("bnas_deploy", *STAGES, "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            short = {name.partition(".")[0] for name in _imported(path)} & STAGES.keys()
            assert not short, f"{path}: import it as bnas_deploy.{short.pop()}"
