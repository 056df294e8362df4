"""Search, train, export, run and measure binary neural networks on plain CPUs."""

import importlib
import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bnas_deploy.runtime.session import open_bundle

__version__ = "0.2.0.dev0"

__all__ = ["__version__", "open_bundle"]


def __getattr__(name: str) -> Any:
    """Import what an app needs when it is asked for, so that the command line loads no framework."""
    if name == "open_bundle":
        return importlib.import_module("bnas_deploy.runtime.session").open_bundle
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _become_the_installed_package() -> None:
    """Have the installed package take the place of this one, which is in a clone and may be half of one.

    In a clone search/, export/ and runtime/ lie beside bnas_deploy/, and only an installation puts them inside. Python
    looks into the current folder first, so that in the root of a clone it finds this half and not the whole.

    Raises:
        ImportError: nothing is installed.
    """
    folder = os.path.dirname(os.path.realpath(__file__))
    runtime = importlib.util.find_spec("bnas_deploy.runtime")
    wanted = os.path.join(os.path.dirname(folder), "runtime")
    if runtime and runtime.origin and os.path.dirname(os.path.realpath(runtime.origin)) == wanted:
        return  # installed in place, with `pip install -e .`
    spec = _installed_elsewhere(folder)
    if spec is None or spec.loader is None:
        raise ImportError(
            f"bnas-deploy is not installed, and {os.path.dirname(folder)} is a clone of its sources; "
            "run there: pip install '.[train]', or pip install . on a device",
            name=__name__,
        )
    installed = importlib.util.module_from_spec(spec)
    sys.modules[__name__] = installed  # which `import` returns then
    spec.loader.exec_module(installed)


def _installed_elsewhere(folder: str) -> ModuleSpec | None:
    """Find this package where Python would find it without the folder that holds `folder`."""
    root = os.path.dirname(folder)
    others = [entry for entry in sys.path if os.path.realpath(entry) != root]
    # A package that is installed in place is on no path: setuptools has a finder of its own for it.
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    specs = (PathFinder.find_spec(__name__, others), *(finder.find_spec(__name__, None) for finder in finders))
    return next((spec for spec in specs if spec and spec.origin and _folder_of(spec.origin) != folder), None)


def _folder_of(file: str) -> str:
    return os.path.dirname(os.path.realpath(file))


if not os.path.isdir(os.path.join(os.path.dirname(__file__), "runtime")):
    _become_the_installed_package()
