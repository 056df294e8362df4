"""How a run is stopped, and how its settings and values from its file are compared when it is resumed."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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


def of_json(got: Any, like: Any) -> Any:
    """Return a value from JSON as `like` is, which `check_kind` compared it with as JSON has it.

    JSON has text for the keys of a dict, such as the milestones of MultiStepLR, and lists for tuples.
    """
    if isinstance(like, dict):
        made = {key: of_json(got[str(key)], value) for key, value in like.items()}
        return Counter(made) if isinstance(like, Counter) else made
    if isinstance(like, tuple):
        return tuple(of_json(left, right) for left, right in zip(got, like, strict=True))
    return got


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
