"""Rules for layers of other people's: what a user registers where their code cannot be recognised.

A layer that is registered is not run: what its rule says of it is exported, and the layer itself judges that.
"""

import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.search.nn.geometry import Pair, Sizes

Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True)
class BinaryLayer:
    """A binary convolution or dense layer, as a rule gives it.

        y = conv(A, sign(weight) * scale) + bias,   A = high where x >= threshold, else low

    Attributes:
        weight: (O, C/groups, KH, KW), or (O, C) of a dense layer; what counts are the signs, and 0 is +1.
        scale: (O), or one number; None: the mean magnitude of `weight` for each output channel.
        bias: (O); None for none.
        threshold: (C), or one number.
        low, high: the two values of the activations, -1 and +1 or 0 and 1 in most networks.
        pad_value: of the activations at the padding: 0, low, high, or half the way between them.
        stride, padding, dilation: one number or (vertical, horizontal).
        groups: as in `torch.nn.Conv2d`.
    """

    weight: Tensor
    scale: Tensor | float | None = None
    bias: Tensor | None = None
    threshold: Tensor | float = 0.0
    low: float = -1.0
    high: float = 1.0
    pad_value: float = 0.0
    stride: Sizes = 1
    padding: Sizes = 0
    dilation: Sizes = 1
    groups: int = 1


Rule = Callable[[Any], BinaryLayer]

_RULES: dict[type[nn.Module], Rule] = {}


class Registration:
    """A rule that is registered; used in a `with` statement it is taken away at the end of it."""

    def __init__(self, kind: type[nn.Module], before: Rule | None) -> None:
        self._kind, self._before = kind, before

    def __enter__(self) -> "Registration":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """Take the rule away; the one that was there before is back."""
        if self._before is None:
            _RULES.pop(self._kind, None)
        else:
            _RULES[self._kind] = self._before


def register(kind: type[Layer], rule: Callable[[Layer], BinaryLayer]) -> Registration:
    """Say how layers of a class, and of classes made from it, are exported: `rule` gets a layer in evaluation mode.

    Only classes whose code is not recognised need it, such as those that write into their parameters in forward.

    Raises:
        ExportError: `kind` is no class of modules, or `rule` no function.
    """
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise ExportError(f"register: {kind!r} is no class of torch.nn.Module; give the class of the layer")
    if not callable(rule):
        raise ExportError(
            f"register: the rule of {kind.__name__} is {type(rule).__name__}, wanted a function of the layer that "
            "returns a BinaryLayer"
        )
    registration = Registration(kind, _RULES.get(kind))
    _RULES[kind] = rule
    return registration


def rule_of(layer: nn.Module) -> Rule | None:
    """Return the rule of the nearest class of a layer that has one."""
    return next((_RULES[kind] for kind in type(layer).__mro__ if kind in _RULES), None)


def registered(module: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of a module that have a rule, by their paths; not those inside of such a layer."""
    found: dict[str, nn.Module] = {}
    for path, layer in module.named_modules():
        inside = any(path.startswith(f"{outer}.") or outer == "" for outer in found)
        if rule_of(layer) is not None and not inside:
            found[path] = layer
    return found


def binary_layer(path: str, layer: nn.Module) -> BinaryLayer:
    """Ask the rule of a layer, and check what it says; tensors come back in their full shapes, on the CPU.

    Raises:
        ExportError: the rule raises something, or gives what no layer is.
    """
    rule = rule_of(layer)
    assert rule is not None
    place = f"{path or 'the module'} ({type(layer).__name__}): its rule"
    try:
        with torch.no_grad():
            given = rule(layer)
    except (Exception, SystemExit) as error:  # a rule is the user's code
        raise ExportError(f"{place} raises {type(error).__name__}: {' '.join(str(error).split())}") from error
    if not isinstance(given, BinaryLayer):
        raise ExportError(f"{place} returns {type(given).__name__}, wanted a bnas_deploy.export.BinaryLayer")
    return _checked(place, given)


def _checked(place: str, given: BinaryLayer) -> BinaryLayer:
    weight = given.weight
    if not isinstance(weight, Tensor) or weight.ndim not in (2, 4) or 0 in weight.shape:
        got = tuple(weight.shape) if isinstance(weight, Tensor) else type(weight).__name__
        raise ExportError(f"{place} gives weights {got}, wanted (O, C/groups, KH, KW), or (O, C) of a dense layer")
    if weight.is_meta or weight.layout != torch.strided or weight.is_complex():
        kind = "without values" if weight.is_meta else f"of {weight.dtype}, {weight.layout}"
        raise ExportError(
            f"{place} gives weights {kind}, wanted real numbers in a dense tensor; give weight.to_dense()"
        )
    weight = weight.detach().cpu().float()
    groups = _whole(place, "groups", given.groups)
    outputs, channels = len(weight), weight.shape[1] * groups
    if outputs % groups:
        raise ExportError(f"{place} gives {groups} groups, which do not divide {outputs} output channels")
    scale = weight.abs().flatten(1).mean(dim=1) if given.scale is None else given.scale
    checked = BinaryLayer(
        weight=torch.where(weight < 0, -1.0, 1.0),
        scale=_vector(place, "scale", scale, outputs, "output channel"),
        bias=None if given.bias is None else _vector(place, "bias", given.bias, outputs, "output channel"),
        threshold=_vector(place, "threshold", given.threshold, channels, "input channel"),
        low=_number(place, "low", given.low),
        high=_number(place, "high", given.high),
        pad_value=_number(place, "pad_value", given.pad_value),
        stride=_pair(place, "stride", given.stride, 1),
        padding=_pair(place, "padding", given.padding, 0),
        dilation=_pair(place, "dilation", given.dilation, 1),
        groups=groups,
    )
    if not checked.low < checked.high:
        raise ExportError(f"{place} gives activations of {checked.low:g} and {checked.high:g}, wanted low < high")
    values = {"weight": weight, "scale": checked.scale, "bias": checked.bias, "threshold": checked.threshold}
    for name, value in values.items():
        # A threshold of infinity is a channel that is always low, or always high.
        if isinstance(value, Tensor) and bool(value.isnan().any() or (name != "threshold" and value.isinf().any())):
            raise ExportError(f"{place} gives a {name} with values that are NaN or infinite")
    return checked


def _vector(place: str, name: str, value: Any, count: int, what: str) -> Tensor:
    wanted = f"wanted one number for each of {count} {what}s, or one for all"
    try:
        given = torch.as_tensor(value).detach().cpu()
        if given.dtype == torch.bool or given.is_complex():  # True is no scale of 1
            raise TypeError
        given = given.float()
    except (TypeError, ValueError, RuntimeError):  # what torch makes no tensor of
        raise ExportError(f"{place} gives {name}={value!r}, {wanted}") from None
    vector = given.reshape(-1)
    if len(vector) not in (1, count):
        raise ExportError(f"{place} gives a {name} of {tuple(given.shape)}, {wanted}")
    return vector.expand(count).clone()


def _number(place: str, name: str, value: Any) -> float:
    """Return a finite number, Python's, numpy's or a tensor of one."""
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several
        number = math.nan
    if isinstance(value, str | bool) or not math.isfinite(number):
        raise ExportError(f"{place} gives {name}={value!r}, wanted a finite number")
    return number


def _whole(place: str, name: str, value: Any) -> int:
    """Return a number of at least 1; numpy's whole numbers are such as well."""
    if not _is_whole(value, 1):
        raise ExportError(f"{place} gives {name}={value!r}, wanted a whole number of at least 1")
    return int(value)


def _pair(place: str, name: str, value: Any, least: int) -> Pair:
    sizes = (value, value) if _is_whole(value, least) else value
    if not isinstance(sizes, Sequence) or len(sizes) != 2 or not all(_is_whole(size, least) for size in sizes):
        raise ExportError(f"{place} gives {name}={value!r}, wanted a whole number of at least {least}, or two")
    return int(sizes[0]), int(sizes[1])


def _is_whole(value: Any, least: int) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and int(value) >= least
