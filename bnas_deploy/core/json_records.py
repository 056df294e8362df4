"""From JSON, which anybody may have written, to the dataclasses of this package: one reader with one policy.

`parse` takes what every program can write: UTF-8, no key twice, no half of a surrogate pair, a sane depth. `from_json`
then goes by the annotations of a dataclass, and says which value is wrong. Integers have 64 bits and other numbers fit
float32, since they become arrays, sizes and times.
"""

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import read_bytes

LARGEST_FILE = 100_000_000
"""Bytes of a JSON file; a history of a thousand epochs has a fifth of that."""

DEEPEST = 100
"""Lists and objects inside one another; ours have less than ten. Python's own limit depends on who calls."""

MOST_DIGITS = 4300
"""Of an integer: what Python reads unless it is told otherwise."""

LARGEST_FLOAT32 = (2 - 2**-23) * 2.0**127


def read_json(path: Path, expected: str, error: type[BnasError] = BnasError) -> Any:
    """Return what is in the JSON file `path`; `expected` names what it should be, for the message.

    Raises:
        error: it cannot be read, is no regular file, or is not JSON.
    """
    try:
        return parse(read_bytes(path, LARGEST_FILE))
    except OSError as problem:
        raise error(f"{path}: cannot be read: {problem.strerror}; expected {expected}") from None
    except ValueError as problem:
        raise error(f"{path}: not {expected} ({problem})") from None


def parse(data: bytes | str) -> Any:
    """Return what a JSON text holds; a byte-order mark before it is passed over.

    Raises:
        ValueError: it is not UTF-8 or not JSON; an object has a key twice; text has half of a surrogate pair; an
            integer has thousands of digits; or nesting is too deep. It is never another exception.
    """
    text = data if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_int=_integer)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    _check_whole(value)
    return value


def from_json(kind: Any, data: Any, name: str = "", *, passing_over: bool = False) -> Any:
    """Build the dataclass `kind` of what `dataclasses.asdict` and JSON made of it.

    A field whose own class has `from_json(data, where)` is read by that.

    Args:
        kind: a dataclass; its fields are scalars, `X | None`, tuples, mappings with text as keys, dataclasses, or Any.
        data: parsed JSON.
        name: of `data` in messages; "" where that is the whole file.
        passing_over: take a file of another version: unknown fields are passed over, and one that is missing has the
            default of the dataclass, if there is one. Otherwise all fields must be there and no others.

    Raises:
        ValueError: a field is missing, unknown or of another kind; the message names it, its value and what is wanted.
    """
    wanted(isinstance(data, Mapping), data, name or "the file", "an object")
    hints = get_type_hints(kind)
    if not passing_over and (unknown := sorted(data.keys() - hints.keys())):
        raise ValueError(_in(name, f"the field {unknown[0]!r} is unknown"))
    needed = [each.name for each in fields(kind) if not passing_over or _has_no_default(each)]
    if missing := [key for key in needed if key not in data]:
        raise ValueError(_in(name, f"the field {missing[0]!r} is missing"))
    return kind(**{
        key: value_of(hint, data[key], f"{name}.{key}" if name else key, passing_over=passing_over)
        for key, hint in hints.items()
        if key in data
    })  # fmt: skip


def value_of(kind: Any, data: Any, name: str, *, passing_over: bool = False) -> Any:
    """Build a value of the annotation `kind`; the arguments are those of `from_json`.

    Raises:
        ValueError: as for `from_json`.
    """
    if hasattr(kind, "from_json"):
        try:
            return kind.from_json(data, name)
        except BnasError as error:
            raise ValueError(error.message) from None
    if is_dataclass(kind):
        return from_json(kind, data, name, passing_over=passing_over)
    arguments = get_args(kind)
    origin = get_origin(kind)
    if origin is UnionType:  # of a kind and None
        return None if data is None else value_of(arguments[0], data, name, passing_over=passing_over)
    if origin is tuple:
        each = _kinds_of_elements(arguments, data, name)
        pairs = enumerate(zip(each, data, strict=True))
        return tuple(value_of(one, item, f"{name}[{i}]", passing_over=passing_over) for i, (one, item) in pairs)
    if origin in (dict, Mapping):
        wanted(isinstance(data, Mapping), data, name, "an object")
        of_values = arguments[1]
        return {key: value_of(of_values, item, f"{name}[{key!r}]") for key, item in data.items()}
    return _scalar(kind, data, name)


def wanted(right: bool, data: Any, name: str, what: str) -> Any:
    """Return `data` if it is right.

    Raises:
        ValueError: it is not.
    """
    if not right:
        raise ValueError(f"{name}: got {shown(data)}, wanted {what}")
    return data


def shown(data: Any) -> str:
    """Return a value as JSON for a message, cut where it is long."""
    try:
        text = json.dumps(data)
    except RecursionError:  # it was made in Python: `parse` lets nothing of that kind through
        return "lists nested too deeply to show"
    return text if len(text) < 80 else text[:77] + "..."


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:  # Python's own refusal of thousands tells how to have them read
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"an object has the key {shown(twice)} twice")
    return value


def _check_whole(value: Any) -> None:
    """Refuse what cannot be shown or walked through later. Not recursive: that is the point."""
    level = [value]
    for _ in range(DEEPEST):
        below: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                below += each
                below += each.values()
            elif isinstance(each, list):
                below += each
            elif isinstance(each, str) and not _is_unicode(each):
                raise ValueError(f"half of a surrogate pair in {shown(each)}")
        if not below:
            return
        level = below
    raise ValueError("nested too deeply")


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _kinds_of_elements(arguments: tuple[Any, ...], data: Any, name: str) -> tuple[Any, ...]:
    """Return the kind of each element of a tuple: tuple[X, ...] has any number of them."""
    is_list = isinstance(data, list | tuple)  # a tuple: what `dataclasses.asdict` gives, not yet JSON
    if arguments[-1] is ...:
        wanted(is_list, data, name, "a list")
        return (arguments[0],) * len(data)
    wanted(is_list and len(data) == len(arguments), data, name, f"a list of {len(arguments)}")
    return arguments


def _scalar(kind: Any, data: Any, name: str) -> Any:
    if kind is Any:
        return data
    if kind is float:
        # Compared as they are, since an integer may be too large for any float. NaN is in no range.
        right = type(data) in (int, float) and -LARGEST_FLOAT32 <= data <= LARGEST_FLOAT32
        return float(wanted(right, data, name, "a number that float32 can hold"))
    if kind is int:
        return wanted(type(data) is int and abs(data) < 2**63, data, name, "an integer of 64 bits")
    return wanted(type(data) is kind, data, name, {str: "text", bool: "true or false", dict: "an object"}[kind])


def _has_no_default(field: "Field[Any]") -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _in(name: str, what: str) -> str:
    return f"{name}: {what}" if name else what
