"""A module in a user's own file: `mymodel.py:build` names the file, and the function or class that makes the module."""

import ast
import importlib
import importlib.util
import os.path
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import ModuleType, TracebackType

from torch import Tensor, nn

from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import CheckpointError, ExportError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.names import did_you_mean, python_name
from bnas_deploy.search.training.checkpoint import find_misfits
from bnas_deploy.search.training.import_weights import state_in


class UserCodeError(ExportError):
    """The user's own code raised something.

    Attributes:
        trace: its traceback, from the user's file on, as Python prints it.
    """

    def __init__(self, message: str, trace: str) -> None:
        super().__init__(message)
        self.trace = trace


def build_user_module(given: str) -> nn.Module:
    """Import the file of FILE.py:NAME and make the module; what lies beside the file is found within `importable`.

    A file that imports relatively (`from .parts import x`) is imported as a member of its package.

    Raises:
        UserCodeError: the file cannot be imported, or the call raises something.
        ExportError: there is no such file or name, or it makes no module.
    """
    parts = python_name(given)
    assert parts is not None
    path, name = Path(parts[0]), parts[1]
    if not path.is_file():
        raise ExportError(
            f"{path}: no such file; give the Python file that makes the network, such as mymodel.py:build"
        )
    if not name:
        raise ExportError(
            f"{path}: a Python file; say what makes the network in it: bnas-deploy export {path}:NAME --weights FILE"
        )
    if not name.isidentifier():
        bare = re.match(r"[^\W\d]\w*(?=\(\)$)", name)
        advice = f"write it without parentheses: {path}:{bare[0]}" if bare else f"such as {path}:build"
        raise ExportError(f"{path}: {name!r} is no name; give that of a function or class of the file, {advice}")
    return _made(path, _imported(path), name)


@contextmanager
def importable(given: str) -> Iterator[None]:
    """Let the file of FILE.py:NAME import what lies beside it, as when Python runs the file, and its own package.

    It may do so when it is read, when it makes the network, and when that runs.
    """
    parts, before = python_name(given), list(sys.path)
    assert parts is not None
    path = Path(os.path.abspath(parts[0]))
    sys.path[:0] = list(dict.fromkeys((str(path.parent), str(_Package.of(path).root))))
    try:
        yield
    finally:
        sys.path[:] = before


def _made(path: Path, file: ModuleType, name: str) -> nn.Module:
    """Return the module that a name of a user's file is or makes."""
    if not hasattr(file, name):
        known = [each for each in vars(file) if not each.startswith("_")]
        raise ExportError(
            f"{path}: has no {name}; give a function or class without arguments{did_you_mean(name, known)}"
        )
    made = getattr(file, name)
    if not isinstance(made, nn.Module):
        if not callable(made):
            raise ExportError(
                f"{path}: {name} is {type(made).__name__}, wanted a function or class that makes a module"
            )
        try:
            made = made()
        except (Exception, SystemExit) as error:  # it is the user's code
            raise UserCodeError(f"{path}: {name}() raises this:", _trace(error)) from None
    if not isinstance(made, nn.Module):
        raise ExportError(f"{path}: {name}() returns {type(made).__name__}, wanted a torch.nn.Module")
    return made


def load_weights(module: nn.Module, path: Path) -> str | None:
    """Give a module the weights in a file of safetensors or `torch.save`; nothing in it is executed.

    Where all names begin otherwise in the file, such as with "backbone.", and that alone differs, it is passed over;
    floats of another size become those of the module. What is returned says so.

    Raises:
        CheckpointError: the file cannot be read, or its tensors are not those of the module.
    """
    try:
        data = read_bytes(path)
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read: {error.strerror}; give safetensors or a file of torch.save"
        ) from None
    state, wanted = state_in(path, data), module.state_dict()
    renamed, note = _with_other_beginnings(state, wanted)
    state, converted = _of_its_types(state if renamed is None else renamed, wanted)
    for name in wanted.keys() - state.keys():
        if name.endswith(_COUNT):
            state[name] = wanted[name]
    if misfits := find_misfits(state, wanted):
        raise CheckpointError(f"{path}: its tensors are not those of {type(module).__name__}: {'; '.join(misfits)}")
    module.load_state_dict(state)
    notes = [each for each in (note, converted) if each]
    return f"{path}: {'; '.join(notes)}" if notes else None


def _of_its_types(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], str]:
    """Return a state whose floats have the types of `wanted`, as PyTorch itself would load them, and what was done."""
    other = {
        name: value
        for name, value in state.items()
        if name in wanted and value.dtype != wanted[name].dtype
        if value.is_floating_point() and wanted[name].is_floating_point()
    }
    changed = {(str(value.dtype), str(wanted[name].dtype)) for name, value in other.items()}
    kinds = ", ".join(" to ".join(each.removeprefix("torch.") for each in pair) for pair in sorted(changed))
    note = f"{counted(len(other), 'tensor')} converted, {kinds}" if other else ""
    return {**state, **{name: value.to(wanted[name].dtype) for name, value in other.items()}}, note


_COUNT = ".num_batches_tracked"
"""Old versions of PyTorch have no such count of batches, and no answer needs it."""


def _with_other_beginnings(
    state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor] | None, str]:
    """Return a state by the names of `wanted`, and what was done, if its own differ by how all of them begin."""
    theirs, ours = _beginning(state), _beginning(wanted)
    renamed = {ours + name.removeprefix(theirs): value for name, value in state.items()}
    names, needed = ({name for name in each if not name.endswith(_COUNT)} for each in (renamed, wanted))
    if theirs == ours or names != needed:
        return None, ""
    return renamed, f"its names begin with {theirs!r}, those of the module with {ours!r}; all else is the same"


def _beginning(names: Iterable[str]) -> str:
    """Return the modules that all names begin with, such as "backbone.body."; "" if there are none."""
    modules = zip(*(name.split(".")[:-1] for name in names), strict=False)
    return "".join(f"{each[0]}." for each in takewhile(lambda each: len(set(each)) == 1, modules))


@dataclass(frozen=True)
class _Package:
    """The package that a file is a member of, by the folders above it; `root` is what has to be on the path for it."""

    root: Path
    names: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, least: int = 0) -> "_Package":
        """Return that of an absolute path: of folders with __init__.py, and of as many as relative imports need."""
        root, names = path.parent, list[str]()
        while ((root / "__init__.py").is_file() or len(names) < least) and root != root.parent:
            names.insert(0, root.name)
            root = root.parent
        return cls(root, tuple(names))


def _imported(path: Path) -> ModuleType:
    """Import a user's file; what is known by its name stays what it is for others, but for the file's own package."""
    levels = _relative_levels(path)
    package = _Package.of(Path(os.path.abspath(path)), levels)
    name = ".".join((*package.names, path.stem)) if levels else path.stem
    before = sys.modules.get(path.stem)
    try:
        if levels:
            with _hidden(package):
                return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        file = importlib.util.module_from_spec(spec)
        sys.modules[name] = file  # classes that are made in the file look themselves up by its name
        spec.loader.exec_module(file)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise UserCodeError(f"{path} cannot be imported; this is its own traceback:", _trace(error)) from None
    finally:
        if not levels and before is not None:
            sys.modules[name] = before
    return file


def _relative_levels(path: Path) -> int:
    """Return how many folders up a file imports from: 1 for `from .parts import x`, 0 for none."""
    try:
        program = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):  # importing it says so
        return 0
    return max((node.level for node in ast.walk(program) if isinstance(node, ast.ImportFrom)), default=0)


@contextmanager
def _hidden(package: _Package) -> Iterator[None]:
    """Let a package be imported though another one of its name is there, and have its root on the path."""
    top = package.names[0]
    known = {name: file for name, file in sys.modules.items() if name == top or name.startswith(f"{top}.")}
    places = list(getattr(known.get(top), "__path__", ()))
    if str(package.root / top) in places:
        known = {}
    for name in known:
        del sys.modules[name]
    before = list(sys.path)
    sys.path.insert(0, str(package.root))
    try:
        yield
    finally:
        sys.path[:] = before
        sys.modules.update(known)


def _trace(error: BaseException) -> str:
    """Return the traceback of an error from the user's code on."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(("<", __file__, importlib.__file__)):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
