"""Names that people type: case and dashes do not matter, and a slip gets the nearest name."""

import difflib
import re
from collections.abc import Iterable


def known_name(given: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `given` is, whatever its case and dashes; None if it is none of them."""
    return next((name for name in names if _plain(name) == _plain(given)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def in_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts names as people do, by the numbers in them: cells.2 before cells.10."""
    parts = re.findall(r"[0-9]+|[^0-9]+", name)
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the name that `given` is nearest to, nothing if none is near."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""


def python_name(given: str) -> tuple[str, str] | None:
    """Return the file and the name of FILE.py:NAME, "" for no name; None for what names no Python file.

    The name is what was typed, which need not be one that a file can have.
    """
    found = re.fullmatch(r"(.+\.py)(?::(.*))?", given)
    return (found[1], found[2] or "") if found else None
