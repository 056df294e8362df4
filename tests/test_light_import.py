"""The command line answers --help without loading a framework, and a device needs numpy and onnxruntime only."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import bnas_deploy
import bnas_deploy.commands
import bnas_deploy.core
import bnas_deploy.runtime.session

FRAMEWORKS = {
    *("PIL", "matplotlib", "numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "rich", "safetensors", "sklearn"),
    *("torch", "tvm"),
}
NOT_ON_A_DEVICE = FRAMEWORKS - {"numpy", "onnxruntime", "rich"} | {"bnas_deploy.search", "bnas_deploy.export"}


def _modules_of(package: ModuleType) -> list[str]:
    """Return the package and its modules; not what pkgutil finds, which takes the operator library for a module."""
    files = sorted(Path(package.__path__[0]).glob("*.py"))
    other = "posix" if sys.platform == "win32" else "windows"  # a module of another system
    files = [file for file in files if file.stem != other]
    return [package.__name__, *(f"{package.__name__}.{file.stem}" for file in files if file.stem != "__init__")]


def _loaded_by(*modules: str) -> set[str]:
    """Return the names of all modules that importing these leaves in a fresh Python."""
    code = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    # -P: nothing of the current folder.
    run = subprocess.run([sys.executable, "-P", "-c", code, *modules], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return set(run.stdout.split())


def test_the_package_by_itself_loads_nothing() -> None:
    others = {name for name in _loaded_by("bnas_deploy") - _loaded_by() if name.partition(".")[0] == "bnas_deploy"}
    assert others == {"bnas_deploy"}
    assert not FRAMEWORKS & _loaded_by("bnas_deploy")


def test_open_bundle_is_there_when_it_is_asked_for() -> None:
    assert bnas_deploy.open_bundle is bnas_deploy.runtime.session.open_bundle
    with pytest.raises(AttributeError, match="module 'bnas_deploy' has no attribute 'open_bundel'"):
        bnas_deploy.open_bundel  # type: ignore[attr-defined]  # noqa: B018  # it is not there, and asking is the test


def test_the_command_line_loads_no_framework() -> None:
    assert not FRAMEWORKS & _loaded_by("bnas_deploy.cli", *_modules_of(bnas_deploy.commands))


@pytest.mark.parametrize("module", _modules_of(bnas_deploy.runtime))
def test_the_runtime_loads_nothing_that_a_device_lacks(module: str) -> None:
    assert not NOT_ON_A_DEVICE & _loaded_by(module)


def test_the_contracts_load_no_framework_but_numpy() -> None:
    assert not (FRAMEWORKS - {"numpy"} | {"click"}) & _loaded_by(*_modules_of(bnas_deploy.core))
