"""What tests of several folders share."""

import contextlib
import copy
import functools
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from bnas_deploy.runtime.targets import TARGETS

if TYPE_CHECKING:
    import onnx


ROOT = Path(__file__).parents[1]

# `python -m pytest` puts the repository's root first on the path, from where `import search` works, too, and makes a
# second module of each file. What is tested is what was installed.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != ROOT]

# pytest-xdist runs a process of tests per processor. Libraries that start a thread per processor in each of them would
# have them wait for one another; torch and its kind read this when they are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_configure() -> None:
    """Take Ctrl-C where pytest was started in the background, which a shell has ignore it: some tests send it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep the tests of a file in one process, which makes what they share once, and those that need the wheels."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            words = re.split(r"[\W_]+", nodeid)
            return "wheels" if {"arm", "windows", "macos", "android"} & {*words} else super()._split_scope(nodeid)

    return Scheduler(config, log)


@pytest.fixture(autouse=True, scope="session")
def _plain_terminal() -> Iterator[None]:
    """Have no setting of this terminal change what commands print; a test that is about one sets it itself."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def _seeds() -> None:
    """Start every test from the same state, whatever ran before it."""
    if torch := sys.modules.get("torch"):
        # torch.manual_seed also notes a seed for each kind of device that is not there, with where it was called from.
        (torch.manual_seed if torch.cuda.is_initialized() else torch.default_generator.manual_seed)(0)


@pytest.fixture(autouse=True, scope="session")
def _translations_are_read_once() -> Iterator[None]:
    """Keep torch.onnx's list of translations, which it makes anew for each export: a third of the time of a small one.

    That is for speed alone. Where no chosen test imports PyTorch, or PyTorch has moved its function, nothing is kept.
    """
    if not sys.modules.get("torch"):
        yield
        return
    try:
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        made = functools.cache(ONNXRegistry.from_torchlib)
    except (ImportError, AttributeError):
        yield
        return

    def copied(*arguments: Any, **keywords: Any) -> Any:
        whole = made(*arguments, **keywords)
        own = copy.copy(whole)
        own.functions = {target: list(translations) for target, translations in whole.functions.items()}
        return own

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ONNXRegistry, "from_torchlib", staticmethod(copied))
        yield


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.fixture
def package_tree(tmp_path: Path) -> Path:
    """The package as a wheel has it: mypy does not follow the mapping of the folders in pyproject.toml."""
    package = shutil.copytree(ROOT / "bnas_deploy", tmp_path / "bnas_deploy")
    for stage in ("search", "export", "runtime"):
        # runtime/build makes the wheel and is not in it; setuptools, which it is written for, has no types.
        shutil.copytree(ROOT / stage, package / stage, ignore=shutil.ignore_patterns("build"))
    return package


@pytest.fixture(scope="session")
def native() -> ModuleType:
    """runtime/build/native.py, which is no part of the package."""
    return _module_of(ROOT / "runtime/build/native.py")


def _module_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def native_kernels() -> ModuleType:
    """tests/bench/native_kernels.py, which benchmarks import from their own folder."""
    return _module_of(ROOT / "tests/bench/native_kernels.py")


@pytest.fixture(scope="session")
def generated_kernels(native: ModuleType) -> None:
    """The objects of the kernels in build/kernels, so that a test can link the library."""
    if native.missing_kernels() and importlib.util.find_spec("tvm") is None:
        pytest.skip("the kernels were not generated in this repository: run `pip install .` in it, or install TVM")
    native.build_kernels()


@pytest.fixture(scope="session")
def kernels(native_kernels: ModuleType, generated_kernels: None, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The kernels, linked so that they can be called without onnxruntime: a NativeKernels."""
    return native_kernels.build(tmp_path_factory.mktemp("kernels"))


OFFLINE = ("NewConnectionError", "Temporary failure in name resolution", "No matching distribution found")


@pytest.fixture(scope="session")
def build_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where wheels.py keeps zig and TVM, once it has run."""
    return tmp_path_factory.mktemp("tools") / "tools"


@pytest.fixture(scope="session")
def wheels(build_tools: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a release has, made as its makers make it, by target: wheels, and for Android the library."""
    folder = tmp_path_factory.mktemp("wheels")
    command = [sys.executable, str(ROOT / "runtime/build/wheels.py"), str(folder), "--tools", str(build_tools)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode and any(sign in run.stderr for sign in OFFLINE):
        pytest.skip("zig and TVM cannot be had from PyPI here")
    assert run.returncode == 0, run.stderr[-4000:]
    paths = map(Path, run.stdout.splitlines())
    return dict(zip(TARGETS, paths, strict=True))


@pytest.fixture(scope="session")
def zig(wheels: dict[str, Path], build_tools: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the zig that the wheels were built with."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ziglang", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(build_tools)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done

    return run


@pytest.fixture(scope="session")
def arm_python(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an emulated ARM machine, whose environment is kept from one run of the tests to the next."""
    if platform.machine() == "aarch64":
        pytest.skip("this machine is aarch64: all the other tests run natively")
    script = ROOT / "tests/arm/make_environment.py"
    making, version = _module_of(script), hashlib.sha256(script.read_bytes()).hexdigest()[:8]
    folder = (
        pytestconfig.cache.mkdir("aarch64")
        if getattr(pytestconfig, "cache", None)
        else tmp_path_factory.mktemp("aarch64")
    )
    try:
        python: Path = making.make(folder / version)
    except making.UnavailableError as error:
        pytest.skip(f"no emulated ARM machine: {error}")
    return python


@dataclass(frozen=True)
class OldOnnxruntime:
    """An old onnxruntime, with a numpy of its time and what runs with that, in a folder for PYTHONPATH."""

    folder: Path

    def run(self, code: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run code with it."""
        # -P: nothing of the current folder.
        command = [sys.executable, "-P", "-c", code, *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def onnxruntime_1_16(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> OldOnnxruntime:
    """The newest onnxruntime that is refused."""
    return _old_onnxruntime("1.16.3", pytestconfig, tmp_path_factory)


@pytest.fixture(scope="session")
def onnxruntime_1_17(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> OldOnnxruntime:
    """The oldest onnxruntime that is supported."""
    return _old_onnxruntime("1.17.3", pytestconfig, tmp_path_factory)


def _old_onnxruntime(version: str, config: pytest.Config, temporary: pytest.TempPathFactory) -> OldOnnxruntime:
    """Install it, to be kept from one run of the tests to the next, or skip: newer Pythons and offline machines."""
    cache = getattr(config, "cache", None)
    folder = cache.mkdir("onnxruntimes") if cache else temporary.mktemp("onnxruntimes")
    # onnx needs ml_dtypes, whose version 0.7 runs with numpy 2 alone.
    packages = f"onnxruntime=={version}", "numpy==1.26.4", "ml_dtypes==0.6.0"
    place: Path = folder / f"{'-'.join(packages)}-python{sys.version_info.major}.{sys.version_info.minor}"
    if not place.is_dir():
        fresh = Path(tempfile.mkdtemp(dir=folder, prefix=f".{version}-"))
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:"]
        pip += ["--retries", "1", "--timeout", "15", "--target", str(fresh)]
        installed = subprocess.run([*pip, *packages], capture_output=True, text=True, check=False)
        if installed.returncode:
            shutil.rmtree(fresh)
            reason = " ".join(installed.stderr.strip().splitlines()[-1:])
            pytest.skip(f"onnxruntime {version} cannot be installed here: {reason}")
        with contextlib.suppress(OSError):  # another process was faster
            fresh.rename(place)
        shutil.rmtree(fresh, ignore_errors=True)
    return OldOnnxruntime(place)


WINE_PLACES = ("wine64", "/usr/lib/wine/wine64", "wine")


@dataclass(frozen=True)
class Wine:
    """A Windows of its own: `words` start a program there."""

    words: tuple[str, ...]
    environment: dict[str, str]

    def run(self, *command: object, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.words, *map(str, command)],
            env={**os.environ, **self.environment, **variables},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            stdin=subprocess.DEVNULL,
        )

    @staticmethod
    def path(path: Path) -> str:
        """Return a path as that Windows has it: the root of this system's files is Z:."""
        return "Z:" + str(path).replace("/", "\\")


@pytest.fixture(scope="session")
def wine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wine]:
    program = next(filter(None, map(shutil.which, WINE_PLACES)), None)
    if program is None:
        pytest.skip("needs Wine: apt-get install --no-install-recommends wine wine64")
    prefix = tmp_path_factory.mktemp("wine") / "prefix"
    # Neither Mono nor Gecko: Wine would ask in a window whether to install them.
    environment = {"WINEPREFIX": str(prefix), "WINEDEBUG": "-all", "WINEDLLOVERRIDES": "mscoree,mshtml="}
    wine = Wine((program,), environment)
    started = wine.run("wineboot.exe", "--init")
    if not (prefix / "drive_c/windows/system32/kernel32.dll").is_file():
        pytest.skip(f"Wine does not start here: {started.stderr[-500:]}")
    yield wine
    if server := shutil.which("wineserver"):
        subprocess.run([server, "-k"], env={**os.environ, **environment}, check=False)
    shutil.rmtree(prefix, ignore_errors=True)  # it has hundreds of megabytes


@pytest.fixture
def operator_model() -> "Callable[..., onnx.ModelProto]":
    """Make a model of one operator of the domain `bnas`; see `_operator_model`."""
    return _operator_model


def _operator_model(
    name: str,
    constants: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    x_shape: tuple[int, ...],
    y_shape: tuple[int, ...],
) -> "onnx.ModelProto":
    """X (N, *x_shape) to Y (N, *y_shape) with symbolic N; `constants` are the other inputs by name, in order."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from bnas_deploy.core import operators
    from bnas_deploy.export import opset

    row = operators.operator(name)
    graph = helper.make_graph(
        [helper.make_node(name, ["X", *constants], ["Y"], domain=operators.DOMAIN, name="layer", **attributes)],
        "graph",
        [helper.make_tensor_value_info("X", TensorProto.UINT8 if row.of_bits else TensorProto.FLOAT, ["N", *x_shape])],
        [helper.make_tensor_value_info("Y", TensorProto.UINT8 if row.to_bits else TensorProto.FLOAT, ["N", *y_shape])],
        [numpy_helper.from_array(value, key) for key, value in constants.items()],
    )
    imports = [
        onnx.helper.make_opsetid("", operators.ONNX_OPSET),
        onnx.helper.make_opsetid(operators.DOMAIN, operators.VERSION),
    ]
    function = opset.function(name, constant_channels="constant_channels" in attributes)
    return helper.make_model(graph, opset_imports=imports, functions=[function], ir_version=operators.IR_VERSION)
