"""The PEP 517 build backend: setuptools, plus the operator library and wheels that fit every Python.

setuptools reads the commands below from pyproject.toml.
"""

import atexit
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import native
from setuptools import Command, build_meta
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build
from setuptools.command.build_py import build_py
from setuptools.command.install import install
from setuptools.errors import CompileError

# The rest of the hooks are those of setuptools.
from setuptools.build_meta import (  # isort: skip
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

SOURCE_SUFFIXES = {".c", ".h", ".map", ".py"}

GENERATOR_PACKAGE = "bnas_deploy.runtime.kernels"
INSTALLED_OF_GENERATOR = {"__init__", "specs"}
"""Its modules that the installed package reads."""

Settings = Mapping[str, str | list[str] | None] | None


def get_requires_for_build_wheel(config_settings: Settings = None) -> list[str]:
    """Return what pip installs before it builds a wheel."""
    return build_meta.get_requires_for_build_wheel(config_settings) + _requirements()


def get_requires_for_build_editable(config_settings: Settings = None) -> list[str]:
    """Return what pip installs before it installs the repository in place."""
    return build_meta.get_requires_for_build_editable(config_settings) + _requirements()


def _requirements() -> list[str]:
    try:
        zig = [native.ZIG_REQUIREMENT] if native.needs_zig() else []
    except native.BuildError as error:
        raise SystemExit(f"bnas-deploy: {error}") from None
    return zig + (list(native.TVM_REQUIREMENTS) if native.missing_kernels() else [])


class BuildNative(Command):
    """Builds the operator library: into the wheel, or into runtime/ for an installation in place."""

    description = "build the onnxruntime operator library"
    user_options: ClassVar[list[tuple[str, str, str]]] = []

    # Part of setuptools' protocol for steps of a build: it sets both, and asks for the files below.
    editable_mode: bool
    build_lib: str | None

    def initialize_options(self) -> None:
        """Set the defaults."""
        self.editable_mode = False
        self.build_lib = None

    def finalize_options(self) -> None:
        """Take the folder that the wheel is made from."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Compile."""
        self.announce(f"building {self._output()}", level=2)
        try:
            native.build_library(self._output())
        except native.BuildError as error:
            raise CompileError(str(error)) from None

    def get_source_files(self) -> list[str]:
        """Return what the sdist needs to build the library, relative to the repository."""
        folders = (native.SOURCES, native.GENERATOR, Path(native.__file__).parent)
        files = (file for folder in folders for file in folder.iterdir() if file.suffix in SOURCE_SUFFIXES)
        return sorted(file.relative_to(self._root()).as_posix() for file in files)

    def get_outputs(self) -> list[str]:
        """Return what `run` writes."""
        return [str(self._output())]

    def get_output_mapping(self) -> dict[str, str]:
        """Return the outputs that are copies of a source: none."""
        return {}

    def _output(self) -> Path:
        if self.editable_mode:
            return self._root() / "runtime" / native.library_name()
        assert self.build_lib is not None
        return Path(self.build_lib) / "bnas_deploy" / "runtime" / native.library_name()

    def _root(self) -> Path:
        return native.SOURCES.parents[1]


class BuildPy(build_py):
    """Leaves out of the wheel what generates the kernels: it needs TVM, and there is nothing to link them with."""

    def find_package_modules(self, package: str, package_dir: str) -> list[tuple[str, str, str]]:
        """Return the modules of a package, with its name and their files."""
        modules = super().find_package_modules(package, package_dir)
        return [each for each in modules if package != GENERATOR_PACKAGE or each[1] in INSTALLED_OF_GENERATOR]


class Build(build):
    """Adds the library, and builds in a fresh folder: an old one may hold modules that no longer exist."""

    sub_commands: ClassVar = [*build.sub_commands, ("build_native", None)]

    def initialize_options(self) -> None:
        """Set the defaults."""
        super().initialize_options()
        self.build_base = tempfile.mkdtemp(prefix="bnas-build-")
        atexit.register(shutil.rmtree, self.build_base, ignore_errors=True)


class Install(install):
    """Puts the package where those go that fit one platform only; setuptools would, were there an extension module."""

    def finalize_options(self) -> None:
        """Choose the folder."""
        super().finalize_options()
        self.install_lib = self.install_platlib


class BdistWheel(bdist_wheel):
    """Tags the wheel: any Python 3, one platform, since the library knows nothing of Python."""

    def finalize_options(self) -> None:
        """Refuse a target without a tag before anything is compiled."""
        super().finalize_options()
        self.root_is_pure = False
        try:
            self._platform = native.platform_tag()
        except native.BuildError as error:
            raise CompileError(str(error)) from None

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags for Python, ABI and platform."""
        return "py3", "none", self._platform or super().get_tag()[2]
