"""Names that people type: case and dashes do not matter, and a slip gets the nearest name."""

import difflib
from collections.abc import Iterable


def known_name(given: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `given` is, whatever its case and dashes; None if it is none of them."""
    return next((name for name in names if _plain(name) == _plain(given)), None)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the name that `given` is nearest to, nothing if none is near."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
