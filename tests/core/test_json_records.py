"""JSON is read by one reader: what it refuses is refused everywhere."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.errors import BnasError, DeviceError
from bnas_deploy.core.json_records import DEEPEST, LARGEST_FILE, from_json, parse, read_json, value_of


@dataclass(frozen=True)
class Inner:
    name: str
    flag: bool = False


@dataclass(frozen=True)
class Own:
    """A class that reads itself."""

    length: int

    @classmethod
    def from_json(cls, data: object, where: str) -> "Own":
        if not isinstance(data, str):
            raise BnasError(f"{where}: wanted letters")
        return cls(len(data))


@dataclass(frozen=True)
class Outer:
    count: int
    share: float
    inner: Inner
    own: Own
    sizes: tuple[int, int]
    names: tuple[str, ...]
    shares: Mapping[str, float]
    nothing: Inner | None = None
    anything: Any = None


DATA: dict[str, Any] = {
    "count": 3,
    "share": 2,
    "inner": {"name": "x", "flag": True},
    "own": "abc",
    "sizes": [1, 2],
    "names": ["a"],
    "shares": {"a": 0.5},
    "nothing": None,
    "anything": [{}],
}
OUTER = Outer(3, 2.0, Inner("x", True), Own(3), (1, 2), ("a",), {"a": 0.5}, None, [{}])


def test_a_record_is_built_by_its_annotations() -> None:
    assert from_json(Outer, DATA) == OUTER
    assert type(from_json(Outer, DATA).share) is float


def test_what_asdict_gives_is_read_before_it_is_json() -> None:
    assert from_json(Inner, asdict(Inner("x"))) == Inner("x")
    assert value_of(tuple[int, ...], (1, 2), "here") == (1, 2)


def test_a_file_of_another_version_is_read_where_that_is_asked_for() -> None:
    assert from_json(Inner, {"name": "x", "newer": 1}, passing_over=True) == Inner("x")
    for data in ({"name": "x"}, {"name": "x", "flag": True, "newer": 1}):
        with pytest.raises(ValueError, match=r"the field '(flag' is missing|newer' is unknown)"):
            from_json(Inner, data)
    with pytest.raises(ValueError, match=r"^the field 'name' is missing$"):
        from_json(Inner, {}, passing_over=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": True}, "count: got true, wanted an integer of 64 bits"),
        ({"count": 2**63}, "count: got 9223372036854775808, wanted an integer of 64 bits"),
        ({"count": 3.0}, "count: got 3.0, wanted an integer of 64 bits"),
        ({"share": 10**400}, f"share: got 1{76 * '0'}..., wanted a number that float32 can hold"),
        ({"share": float("nan")}, "share: got NaN, wanted a number that float32 can hold"),
        ({"share": float("-inf")}, "share: got -Infinity, wanted a number that float32 can hold"),
        ({"share": "2"}, 'share: got "2", wanted a number that float32 can hold'),
        ({"inner": []}, "inner: got [], wanted an object"),
        ({"inner": {"name": 1, "flag": True}}, "inner.name: got 1, wanted text"),
        ({"inner": {"name": "", "flag": 1}}, "inner.flag: got 1, wanted true or false"),
        ({"inner": {}}, "inner: the field 'name' is missing"),
        ({"own": 1}, "own: wanted letters"),
        ({"sizes": [1]}, "sizes: got [1], wanted a list of 2"),
        ({"sizes": [1, "\u00e9"]}, 'sizes[1]: got "\\u00e9", wanted an integer of 64 bits'),
        ({"names": "abc"}, 'names: got "abc", wanted a list'),
        ({"names": {}}, "names: got {}, wanted a list"),
        ({"shares": [1]}, "shares: got [1], wanted an object"),
        ({"shares": {"a": None}}, "shares['a']: got null, wanted a number that float32 can hold"),
        ({"nothing": 1}, "nothing: got 1, wanted an object"),
    ],
)
def test_a_value_of_another_kind_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        from_json(Outer, DATA | change)


def test_what_is_no_object_at_all() -> None:
    with pytest.raises(ValueError, match=r"^the file: got null, wanted an object$"):
        from_json(Inner, None)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "Expecting value"),
        (b"\xff", "can't decode byte 0xff"),
        ("{'a': 1}", "Expecting property name"),
        ("9" * 5000, "an integer of 5000 digits"),
        ('{"a": 1, "b": 2, "a": 1}', 'an object has the key "a" twice'),
        ('["\\ud800"]', r'half of a surrogate pair in "\\ud800"'),
        ('{"\\udc00": 1}', r'half of a surrogate pair in "\\udc00"'),
        (100_000 * "[", "nested too deeply"),
        (100_000 * '{"a":', "nested too deeply"),
        ((DEEPEST + 1) * "[" + (DEEPEST + 1) * "]", "nested too deeply"),
    ],
    ids=["empty", "no UTF-8", "quotes", "digits", "twice", "half a pair", "half a key", "lists", "objects", "a little"],
)
def test_what_no_program_writes_is_refused(data: bytes | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(data)


def test_what_programs_write_is_read() -> None:
    assert parse("\ufeff[1]".encode()) == [1]
    assert parse('["\\ud83d\\ude00"]') == ["\U0001f600"]
    assert parse("[NaN, 1e999]")[1] == float("inf")
    deep = (DEEPEST - 1) * "[" + (DEEPEST - 1) * "]"
    assert json.dumps(parse(deep)) == deep


def test_a_file_says_where_and_what(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    with pytest.raises(DeviceError, match=r"file\.json: cannot be read: No such file or directory; expected a thing$"):
        read_json(path, "a thing", DeviceError)
    path.write_text("{")
    with pytest.raises(BnasError, match=r"file\.json: not a thing \(Expecting property name .*\)$"):
        read_json(path, "a thing")
    with path.open("ab") as file:
        file.truncate(LARGEST_FILE + 1)  # sparse
    with pytest.raises(BnasError, match=r"cannot be read: it has 100,000,001 bytes, and 100,000,000 are the most"):
        read_json(path, "a thing")
