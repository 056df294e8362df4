"""What every run that can be resumed is made of: settings to compare, values from a file to check, optimiser states."""

import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


def never() -> bool:
    """Return False: nobody asks to stop."""
    return False


class Stopped(Exception):  # noqa: N818  # not an error: somebody asked to stop
    """Raised where work is left off because somebody asked to stop."""


@contextmanager
def stop_on_signals(*, patient: bool = False) -> Iterator[Callable[[], bool]]:
    """Give a `stop` that answers True after Ctrl-C or SIGTERM; a second one acts as usual, unless this is `patient`.

    torchrun passes Ctrl-C on to processes that the terminal has sent it to already, and ends those that do not stop.

    Only for the main thread: Python allows no other to handle signals.
    """
    asked = threading.Event()
    usual = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def put_back() -> None:
        for number, handler in usual.items():
            signal.signal(number, handler)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        if not patient:
            put_back()

    try:
        for number in usual:
            signal.signal(number, ask)
        yield asked.is_set
    finally:
        put_back()


def optimizer_tensors(state: Mapping[int, Mapping[str, Any]], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of an optimiser's state by PREFIX.PARAMETER.STATE."""
    return {
        f"{prefix}.{index}.{name}": value
        for index, values in state.items()
        for name, value in values.items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(state: Mapping[int, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Return what is no tensor in an optimiser's state, by parameter and state; what has no value yet is left out."""
    return {
        str(index): {
            name: value for name, value in values.items() if value is not None and not isinstance(value, Tensor)
        }
        for index, values in state.items()
    }


def optimizer_state(
    tensors: Mapping[str, Tensor], numbers: Mapping[str, Mapping[str, float]], groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the state dict of an optimiser from tensors named PARAMETER.STATE and from `optimizer_numbers`.

    Raises:
        TypeError: the numbers are not what that gives.
    """
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in _are_by_state(numbers).items()}
    for key, tensor in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": groups}


def _are_by_state(numbers: object) -> Mapping[str, Mapping[str, float]]:
    if not isinstance(numbers, dict) or not all(isinstance(values, dict) for values in numbers.values()):
        raise TypeError("the numbers of an optimiser are not by parameter and state")
    for index, values in numbers.items():
        for name, value in values.items():
            if type(value) not in (int, float, bool):
                raise TypeError(f"{name} of parameter {index} of an optimiser is {type(value).__name__}, no number")
    return numbers


def lay_out_as_parameters(optimizer: Optimizer) -> None:
    """Give each tensor of an optimiser's state the layout in memory of its parameter, which no file keeps.

    With another one a step would go other ways through the same numbers, and might round them differently.
    """
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter).copy_(value)


def check_kind(got: object, wanted: object, where: str) -> None:
    """Raise TypeError unless two values have the same keys, lengths and types, all the way down."""
    if isinstance(wanted, dict) and isinstance(got, dict) and wanted.keys() == got.keys():
        for key in wanted:
            check_kind(got[key], wanted[key], f"{where}.{key}")
    elif isinstance(wanted, list | tuple) and isinstance(got, list | tuple) and len(wanted) == len(got):
        for index, (left, right) in enumerate(zip(got, wanted, strict=True)):
            check_kind(left, right, f"{where}.{index}")
    elif isinstance(wanted, dict | list | tuple) or (type(got) is not type(wanted) and not _are_numbers(got, wanted)):
        raise TypeError(f"{where} is of another kind")


def _are_numbers(got: object, wanted: object) -> bool:
    """Say whether an integer stands for a float: a rate that is whole may be one in the recipe."""
    return {type(got), type(wanted)} == {int, float}


def differences(before: object, now: object, where: str = "") -> list[str]:
    """Compare two values from JSON; a phrase per difference, long values left out."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [
            difference
            for key in dict.fromkeys((*before, *now))
            for difference in differences(before.get(key), now.get(key), f"{where}.{key}" if where else key)
        ]
    if before == now:
        return []
    values = " ".join(f"{before} before, {now} now".split())  # a file may have any text, lines included
    return [f"{where} ({values})" if len(values) <= 60 else where]
