"""What a user's module raised: in which layer and line, what it says, and where a rule can stand for the layer."""

from typing import Any

from torch import nn

from bnas_deploy.export.foreign.left_float import REGISTER
from bnas_deploy.export.foreign.operations import last_line


def failure(module: nn.Module, error: BaseException) -> str:
    """Say which layer of `module` raised `error`, in which line of the user's code, and what the error says."""
    return f"{place_of_error(module, error)}{type(error).__name__}: {' '.join(str(error).split()).rstrip('.')}"


def place_of_error(module: nn.Module, error: BaseException) -> str:
    """Return the layer of `module` and the line that raised `error`: "in 3.conv (Conv), net.py:12, "; or ""."""
    name, layer, line = _where_raised(module, error)
    place = f"in {name} ({type(layer).__name__}), " if name else ""
    return f"{place}{line}, " if line else place


def or_a_rule(module: nn.Module, error: BaseException) -> str:
    """Say that a rule can stand for the layer that raised `error`, if that is of a class of the user's."""
    name, layer, _ = _where_raised(module, error)
    if not name or type(layer).__module__.partition(".")[0] in {"torch", "bnas_deploy"}:
        return ""
    return f"; or, if {name} is a binary layer, {REGISTER.replace('TheirConv', type(layer).__name__)}"


def _where_raised(module: nn.Module, error: BaseException) -> tuple[str, nn.Module, str]:
    """Return the name of the innermost layer of `module` that raised an error, the layer, and the line."""
    names = {layer: name for name, layer in module.named_modules()}
    found, trace = module, error.__traceback__
    frames: list[tuple[str, int]] = []
    while trace is not None:
        layer: Any = trace.tb_frame.f_locals.get("self")
        inside = isinstance(layer, nn.Module) and layer in names
        if inside and names[layer]:
            found = layer
        if inside or frames:
            frames.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return names[found], found, last_line(frames)
