"""Names that people type: a letter's case does not matter, and a slip gets the nearest name."""

import difflib
from collections.abc import Iterable


def known_name(given: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that `given` is, whatever its case; None if it is none of them."""
    return next((name for name in names if name.lower() == given.lower()), None)


def did_you_mean(given: str, names: Iterable[str]) -> str:
    """Return `; did you mean NAME?` for the name that `given` is nearest to, nothing if none is near."""
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(given.lower(), by_lower, 1)
    return f"; did you mean {by_lower[near[0]]}?" if near else ""
