"""Nested values and the tensors in them: forward may take and return lists, tuples, dicts and dataclasses."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError

RESERVED = "|"
"""Separates names from what is noted of them in a bundle."""


def leaves_of(whole: str, value: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors in a value with their names: keys and fields, and numbers in a list, joined by dots.

    None is passed over.

    Args:
        whole: what the value is, for messages.
        value: a tensor, or lists, tuples, dicts and dataclasses of them.
        name: of the value; "" for that of its parts alone.

    Raises:
        ExportError: something in it is no tensor.
    """
    if value is None:
        return
    if isinstance(value, Tensor):
        yield name, value
        return
    parts = _parts(value)
    if parts is None:
        place = f"{name} is" if name else "are"
        raise ExportError(
            f"{whole}: {place} {type(value).__name__}, wanted a tensor, or a list, tuple, dict or dataclass of "
            "tensors; make a tensor of it, or leave it out"
        )
    for key, part in parts:
        yield from leaves_of(whole, part, f"{name}.{key}" if name else key)


def _parts(value: object) -> list[tuple[str, object]] | None:
    """Return what a value consists of, by name; None if it consists of nothing."""
    if isinstance(value, Mapping):
        return [(str(key), part) for key, part in value.items()]
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return list(zip(value._fields, value, strict=True))
    if isinstance(value, list | tuple):
        return [(str(number), part) for number, part in enumerate(value)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def outputs_of(role: str, answer: object, single: str) -> list[tuple[str, Tensor]]:
    """Return what a network answers by name; one tensor is called `single`, numbered ones output.0, output.1.

    Raises:
        ExportError: something in it is no tensor, or there is none.
    """
    numbered = isinstance(answer, list | tuple) and not hasattr(answer, "_fields")
    first = single if isinstance(answer, Tensor) else "output" if numbered else ""
    named = list(leaves_of(f"{role}: its answers", answer, first))
    if not named:
        raise ExportError(f"{role}: answers nothing; return at least one tensor from its forward")
    checked_names(f"{role}: its answers", [name for name, _ in named])
    return named


def checked_names(whole: str, names: Sequence[str]) -> tuple[str, ...]:
    """Refuse names that no graph or bundle can have together.

    Raises:
        ExportError: two are the same, or one has a character that is reserved or cannot be shown.
    """
    for name in names:
        if not name or RESERVED in name or not name.isprintable():
            raise ExportError(f"{whole}: the name {name!r}; give one of printable characters without {RESERVED!r}")
        if names.count(name) > 1:
            raise ExportError(f"{whole}: two have the name {name!r}; give each another one")
    return tuple(names)


@dataclass(frozen=True)
class Structure:
    """How forward is called: its arguments, with a tensor in each place where one goes."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @property
    def is_flat(self) -> bool:
        """Tell whether forward takes one tensor and nothing else."""
        return len(self.args) == 1 and not self.kwargs and isinstance(self.args[0], Tensor)

    def filled(self, tensors: Sequence[Tensor]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with other tensors, in the order of `leaves_of`."""
        left = iter(tensors)
        args: tuple[Any, ...] = _filled(self.args, left)
        kwargs: dict[str, Any] = _filled(self.kwargs, left)
        return args, kwargs


def _filled(value: Any, left: Iterator[Tensor]) -> Any:
    if isinstance(value, Tensor):
        return next(left)
    if isinstance(value, Mapping):
        return {key: _filled(part, left) for key, part in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_filled(part, left) for part in value))
    if isinstance(value, list | tuple):
        return type(value)(_filled(part, left) for part in value)
    return value  # None


def flatten(module: nn.Module, structure: Structure, role: str) -> None:
    """Let `module` itself take tensors one after the other, and answer a tuple of them.

    It keeps its layers and their paths, which a module around it would change: it gets a class made from its own.
    """
    base, own = type(module), vars(module).pop("forward", None)
    if own is not None:
        vars(module)[_OWN] = own

    def forward(self: nn.Module, *tensors: Tensor) -> tuple[Tensor, ...]:
        args, kwargs = structure.filled(tensors)
        inner = vars(self).get(_OWN) or functools.partial(base.forward, self)
        return tuple(tensor for _, tensor in leaves_of(role, inner(*args, **kwargs)))

    module.__class__ = type(base.__name__, (base,), {"forward": forward, "__module__": base.__module__})


def tensors_in(answer: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return what a module answers that was flattened where it needs to be."""
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


_OWN = "_forward_of_its_own"
"""Where a forward is kept that was put into the module itself, and is not that of its class."""
