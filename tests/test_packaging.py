"""The wheel holds one top-level package with the operator library; the sdist holds what it is built from."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).parents[1]
MAPPED = ("search", "export", "runtime")
LIBRARY = "bnas_deploy/runtime/libbnas_ort.so"
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())


def package_of(folder: Path) -> str:
    parts = folder.relative_to(ROOT).parts
    return ".".join(("bnas_deploy", *parts) if parts[0] in MAPPED else parts)


def packages() -> dict[str, Path]:
    inits = [init for part in ("bnas_deploy", *MAPPED) for init in (ROOT / part).rglob("__init__.py")]
    return {package_of(init.parent): init.parent for init in inits}


def test_no_module_shadows_a_mapped_folder() -> None:
    shadows = {f"{part}{suffix}" for part in MAPPED for suffix in ("", ".py")}
    assert not [path for path in (ROOT / "bnas_deploy").iterdir() if path.name in shadows]


def test_every_package_is_declared() -> None:
    assert sorted(SETTINGS["tool"]["setuptools"]["packages"]) == sorted(packages())


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory, generated_kernels: None) -> Path:
    """A copy of what the package is built from, without anything that was built before."""
    copy = tmp_path_factory.mktemp("clone")
    for part in ("bnas_deploy", *MAPPED):
        shutil.copytree(ROOT / part, copy / part, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    return copy


def call_hook(folder: Path, hook: str, output: Path) -> Path:
    """Call a hook of the build backend as pip does, with the setuptools that is installed."""
    code = "import sys; sys.path.insert(0, 'runtime/build'); import backend; getattr(backend, sys.argv[1])(sys.argv[2])"
    output.mkdir()
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, hook, str(output)],
        cwd=folder,
        env={**os.environ, "BNAS_KERNELS": str(ROOT / "build/kernels")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    (built,) = output.iterdir()
    return built


@pytest.fixture(scope="session")
def sdist(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return call_hook(clone, "build_sdist", tmp_path_factory.mktemp("sdist") / "dist")


@pytest.fixture(scope="session")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the sdist, so that whatever the sdist lacks is missed."""
    work = tmp_path_factory.mktemp("wheel")
    with tarfile.open(sdist) as archive:
        archive.extractall(work, filter="data")
    (source,) = work.iterdir()
    return call_hook(source, "build_wheel", work / "dist")


def test_the_sdist_holds_the_sources_of_the_library(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    sources = [path for path in (ROOT / "runtime/ort").iterdir() if path.suffix in {".c", ".h", ".map"}]
    sources += [*(ROOT / "runtime/build").glob("*.py"), *(ROOT / "runtime/kernels").glob("*.py")]
    assert {path.relative_to(ROOT).as_posix() for path in sources} <= names
    assert not [name for name in names if name.endswith(".so")]


def test_the_wheel_is_one_package_with_every_module_that_runs_and_the_library(wheel: Path) -> None:
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    modules = {
        f"{package.replace('.', '/')}/{module.name}"
        for package, folder in packages().items()
        for module in folder.glob("*.py")
        # What generates the kernels needs TVM, and is of no use where they were generated.
        if package != "bnas_deploy.runtime.kernels" or module.name in ("__init__.py", "specs.py")
    }
    recipes = {
        f"bnas_deploy/{path.relative_to(ROOT).as_posix()}" for path in ROOT.glob("search/training/recipes/*.toml")
    }
    assert len(recipes) > 5
    assert sorted(names) == sorted({*modules, *recipes, LIBRARY, "bnas_deploy/py.typed"})


def test_the_wheel_fits_every_python_on_one_platform(wheel: Path) -> None:
    python, abi, platform = wheel.stem.split("-")[2:]
    assert (python, abi) == ("py3", "none")
    assert platform.endswith(os.uname().machine)
    (info,) = [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".dist-info/WHEEL")]
    lines = zipfile.ZipFile(wheel).read(info).decode().splitlines()
    assert "Root-Is-Purelib: false" in lines
    assert f"Tag: py3-none-{platform}" in lines


WHERE = "import bnas_deploy; from bnas_deploy.runtime.library import library_path; print(library_path())"


def python_in(
    folder: Path, *arguments: str, path: Path | None = None, site: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run Python in a folder, which it looks into first; without `site` it knows of nothing that is installed."""
    command = [sys.executable, *([] if site else ["-S"]), *arguments]
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONSAFEPATH")}
    if path:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Path:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    return tmp_path


def test_the_installed_wheel_works(installed: Path) -> None:
    code = f"import onnxruntime; {WHERE}; onnxruntime.SessionOptions().register_custom_ops_library(str(library_path()))"
    run = python_in(installed, "-P", "-c", code, path=installed)
    assert run.stdout.strip() == str(installed / LIBRARY), run.stderr


def test_in_the_root_of_a_clone_python_finds_what_was_installed(installed: Path, clone: Path) -> None:
    code = f"{WHERE}; print(bnas_deploy.__file__, bnas_deploy.core.bundle.__file__, bnas_deploy.open_bundle.__module__)"
    run = python_in(clone, "-c", f"import bnas_deploy.core.bundle; {code}", path=installed)
    package = installed / "bnas_deploy"
    wanted = [installed / LIBRARY, package / "__init__.py", package / "core/bundle.py", "bnas_deploy.runtime.session"]
    assert run.stdout.split() == list(map(str, wanted)), run.stderr
    run = python_in(clone, "-m", "bnas_deploy", "inspect", "nothing", path=installed)
    assert run.stderr.startswith("Error: nothing: no such file"), run.stderr


@pytest.mark.parametrize("arguments", [("-c", "import bnas_deploy"), ("-m", "bnas_deploy", "--help")])
def test_in_the_root_of_a_clone_with_nothing_installed_python_says_what_to_run(
    arguments: tuple[str, ...], clone: Path
) -> None:
    run = python_in(clone, *arguments, site=False)
    message = (
        f"bnas-deploy is not installed, and {clone} is a clone of its sources; run there: pip install '.[train]', or "
        "pip install . on a device"
    )
    assert run.returncode == 1
    assert message in run.stderr.splitlines()[-1]
    assert ("Traceback" in run.stderr) == ("-c" in arguments)


def test_an_editable_install_puts_the_library_beside_the_code(clone: Path, tmp_path: Path) -> None:
    built = call_hook(clone, "build_editable", tmp_path / "dist")
    assert "-py3-none-" in built.name
    library = clone / "runtime/libbnas_ort.so"
    assert library.is_file()
    assert not (clone / "build").exists()
    zipfile.ZipFile(built).extractall(tmp_path)
    # The finder of this installation, with the packages that it depends on, and not the installation that is tested.
    packages = tmp_path / "packages"
    packages.mkdir()
    for package in Path(click.__file__).parents[1].iterdir():
        if package.suffix != ".pth" and "bnas_deploy" not in package.name:
            (packages / package.name).symlink_to(package)
    code = f"import site, sys; site.addsitedir({str(tmp_path)!r}); sys.path.append({str(packages)!r})"
    for folder in (clone, tmp_path):
        run = python_in(folder, "-c", f"{code}; {WHERE}; print(bnas_deploy.__file__)", site=False)
        assert run.stdout.split() == [str(library), str(clone / "bnas_deploy/__init__.py")], run.stderr
