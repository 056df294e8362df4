"""A module in a user's own file: `mymodel.py:build` names the file, and the function or class that makes the module."""

import importlib.util
import os.path
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, TracebackType

from torch import nn

from bnas_deploy.core.errors import CheckpointError, ExportError
from bnas_deploy.core.files import read_bytes
from bnas_deploy.core.names import did_you_mean
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


def is_user_module(given: str) -> bool:
    """Tell whether `given` names something in a Python file, such as mymodel.py:build."""
    return _parted(given) is not None


def build_user_module(given: str) -> nn.Module:
    """Import the file and make the module; the file's folder is on the path meanwhile, as when Python runs the file.

    Raises:
        UserCodeError: the file cannot be imported, or the call raises something.
        ExportError: there is no such file or name, or it makes no module.
    """
    parts = _parted(given)
    assert parts is not None
    path, name = Path(parts[0]), parts[1]
    if not path.is_file():
        raise ExportError(
            f"{path}: no such file; give the Python file that makes the network, such as mymodel.py:build"
        )
    with _folder_on_path(path):
        return _made(path, _imported(path), name)


def _made(path: Path, file: ModuleType, name: str) -> nn.Module:
    """Return the module that a name of a user's file is or makes."""
    if not hasattr(file, name):
        known = [each for each in vars(file) if not each.startswith("_")]
        raise ExportError(
            f"{path}: has no {name}{did_you_mean(name, known)}; give a function or class without arguments"
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
            raise UserCodeError(f"{path}: {name}() raises this:", _trace(error, path)) from None
    if not isinstance(made, nn.Module):
        raise ExportError(f"{path}: {name}() returns {type(made).__name__}, wanted a torch.nn.Module")
    return made


def load_weights(module: nn.Module, path: Path) -> None:
    """Give a module the weights in a file of safetensors or `torch.save`; nothing in it is executed.

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
    for name in wanted.keys() - state.keys():
        if name.endswith(".num_batches_tracked"):  # old versions of PyTorch have no such count, and no answer needs it
            state[name] = wanted[name]
    if misfits := find_misfits(state, wanted):
        raise CheckpointError(f"{path}: its tensors are not those of {type(module).__name__}: {'; '.join(misfits)}")
    module.load_state_dict(state)


def _parted(given: str) -> tuple[str, str] | None:
    found = re.fullmatch(r"(.+\.py):([^\W\d]\w*)", given)
    return (found[1], found[2]) if found else None


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    file = importlib.util.module_from_spec(spec)
    # Classes that are made in the file look themselves up by its name.
    hidden, sys.modules[path.stem] = sys.modules.get(path.stem), file
    try:
        spec.loader.exec_module(file)
    except (Exception, SystemExit) as error:  # it is the user's code
        raise UserCodeError(f"{path} cannot be imported; this is its own traceback:", _trace(error, path)) from None
    finally:
        if hidden is not None:
            sys.modules[path.stem] = hidden
    return file


@contextmanager
def _folder_on_path(path: Path) -> Iterator[None]:
    """Let the file import what lies beside it, when it is read and when it makes the network."""
    before = list(sys.path)
    sys.path.insert(0, os.path.dirname(os.path.abspath(path)))
    try:
        yield
    finally:
        sys.path[:] = before


def _trace(error: BaseException, path: Path) -> str:
    """Return the traceback of an error from the user's file on."""
    trace: TracebackType | None = error.__traceback__
    while trace is not None and os.path.abspath(trace.tb_frame.f_code.co_filename) != os.path.abspath(path):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()
