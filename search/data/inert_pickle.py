"""Pickles of plain values and byte arrays, read without executing anything.

A pickle is a program for a machine with a stack. Python's own machine imports whatever the program names and calls it.
The one here knows strings, bytes, numbers, lists, tuples and dicts, and what numpy writes for an array of unsigned
bytes. That is taken apart by hand: no name is ever imported, and no function that the pickle names is called.

Python 2 had one type for text and bytes; its strings arrive as str, a character for each byte.
"""

import math
import pickletools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.errors import DataError
from bnas_deploy.core.files import read_bytes

_MOST_OPERATIONS = 4_000_000
"""Far above what 50,000 images take; a program can be long, and what it builds is larger than itself."""

_RECONSTRUCT, _FROM_BUFFER = "numpy.core.multiarray._reconstruct", "numpy.core.numeric._frombuffer"
_ARRAY, _TYPE, _ENCODE = "numpy.ndarray", "numpy.dtype", "_codecs.encode"
_KNOWN = {_RECONSTRUCT, _FROM_BUFFER, _ARRAY, _TYPE, _ENCODE}
"""The names that arrays of bytes are pickled with; numpy 2 has moved its core to `numpy._core`."""


class _Mark:
    """The start of a list, tuple or dict on the stack."""


@dataclass(frozen=True)
class _Name:
    """A name that the pickle wants, which stays a name."""

    text: str


class _ByteType:
    """Numpy's type of unsigned bytes; the state that follows it says nothing about one byte."""


@dataclass
class _Array:
    """An array, empty until its state has come."""

    values: NDArray[np.uint8] | None = None


class _ForeignError(Exception):
    """The pickle wants what is not known here."""


def read_pickle(path: Path, most: int) -> Any:
    """Return what a pickle of at most `most` bytes holds; an array is uint8.

    Raises:
        DataError: it is damaged, or wants anything but plain values and byte arrays; the message names it.
        OSError: it cannot be read or is larger.
    """
    data = read_bytes(path, most)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of pickletools, at odd escapes in a damaged text
            return _plain(_Machine().run(data))
    except _ForeignError as error:
        raise DataError(
            f"{path}: a pickle that wants {error}, and only numbers, texts, lists and arrays of bytes are read; "
            "nothing in it was executed; do not load it with anything else, and get the file again from its authors"
        ) from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: no pickle, or a damaged one ({error}); unpack the archive again") from None


class _Machine:
    """A stack and a memory of plain values."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}

    def run(self, data: bytes) -> Any:
        """Return what is on top of the stack at the end of the program."""
        for number, (operation, argument, _) in enumerate(pickletools.genops(data)):
            if number >= _MOST_OPERATIONS:
                raise ValueError(f"more than {_MOST_OPERATIONS:,} operations")
            if operation.name == "STOP":
                return self.stack.pop()
            self.take(operation.name, argument)
        raise ValueError("it has no end")

    def take(self, name: str, argument: Any) -> None:
        """Do one operation."""
        if name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name]())
        elif name in _VALUES:
            self.stack.append(argument)
        elif name in _TUPLES:
            count = _TUPLES[name]
            items = [self.stack.pop() for _ in range(count)]
            self.stack.append(tuple(reversed(items)))
        elif name in _OPERATIONS:
            _OPERATIONS[name](self, argument)
        elif name not in {"PROTO", "FRAME"}:
            raise _ForeignError(repr(_dotted(argument)) if name == "INST" else f"the operation {name}")

    def to_mark(self) -> list[Any]:
        """Return what lies above the last mark, and remove both."""
        items: list[Any] = []
        while not isinstance(top := self.stack.pop(), _Mark):
            items.append(top)
        return items[::-1]

    def put(self, number: int | None) -> None:
        """Keep the top of the stack under a number, by default the next one."""
        self.memory[len(self.memory) if number is None else number] = self.stack[-1]

    def append(self, items: list[Any]) -> None:
        """Put items behind those of the list on the stack."""
        target = self.stack[-1]
        if type(target) is not list:
            raise TypeError("items for what is no list")
        target += items

    def set_items(self, items: list[Any]) -> None:
        """Put pairs of key and value into the dict on the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise TypeError("keys for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | bytes | int):
                raise TypeError("a key that is no text")
            target[key] = value

    def name(self, text: str) -> None:
        """Put a name on the stack, if it is known."""
        known = _dotted(text).replace("numpy._core.", "numpy.core.", 1)
        if known not in _KNOWN:
            raise _ForeignError(repr(_dotted(text)))
        self.stack.append(_Name(known))

    def name_from_stack(self) -> None:
        """Do the same with a module and a name on the stack."""
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise TypeError("a name that is no text")
        self.name(f"{module} {name}")

    def reduce(self) -> None:
        """Make what numpy would, from a known name and its arguments."""
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise TypeError("a call of what is no name")
        self.stack.append(_MAKERS[name.text](*arguments))

    def build(self) -> None:
        """Give an array its state: (version, shape, type, whether columns come first, bytes)."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _ByteType):
            return
        if not isinstance(target, _Array):
            raise TypeError("a state for what is no array")
        _, shape, kind, columns_first, data = state
        target.values = _values(data, kind, shape, columns_first)


def _dotted(name: str) -> str:
    """Return MODULE.NAME, of which pickletools makes one text with a space in between."""
    return name.replace(" ", ".")


def _values(data: Any, kind: Any, shape: Any, columns_first: Any) -> NDArray[np.uint8]:
    if isinstance(data, str):
        data = data.encode("latin-1")
    if not isinstance(kind, _ByteType) or not isinstance(data, bytes | bytearray):
        raise TypeError("an array of other things than bytes")
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise TypeError("an array without a shape")
    if math.prod(shape) != len(data):
        raise ValueError(f"an array of {len(data)} bytes, its shape is {shape}")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if columns_first else "C")


def _reconstruct(array: Any, shape: Any, kind: Any) -> _Array:
    return _Array()


def _byte_type(code: Any, *_: Any) -> _ByteType:
    if code not in ("u1", b"u1"):
        raise TypeError(f"an array of {str(code)[:20]!r}, wanted bytes ('u1')")
    return _ByteType()


def _from_buffer(data: Any, kind: Any, shape: Any, order: Any, *_: Any) -> _Array:
    return _Array(_values(data, kind, shape, order == "F"))


def _encode(text: Any, encoding: Any) -> bytes:
    """Return the bytes that Python 3 writes for older machines as text."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise TypeError("bytes in an unknown code")
    return text.encode("latin-1")


_MAKERS: dict[str, Callable[..., Any]] = {
    _RECONSTRUCT: _reconstruct,
    _FROM_BUFFER: _from_buffer,
    _TYPE: _byte_type,
    _ENCODE: _encode,
}

_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "MARK": _Mark,
}

_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}

_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}

_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "LIST": lambda machine, _: machine.stack.append(machine.to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.to_mark())),
    "DICT": lambda machine, _: _put_dict(machine),
    "APPEND": lambda machine, _: machine.append([machine.stack.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.stack.pop(), machine.stack.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.to_mark()),
    "PUT": lambda machine, number: machine.put(number),
    "BINPUT": lambda machine, number: machine.put(number),
    "LONG_BINPUT": lambda machine, number: machine.put(number),
    "MEMOIZE": lambda machine, _: machine.put(None),
    "GET": lambda machine, number: machine.stack.append(machine.memory[number]),
    "BINGET": lambda machine, number: machine.stack.append(machine.memory[number]),
    "LONG_BINGET": lambda machine, number: machine.stack.append(machine.memory[number]),
    "GLOBAL": lambda machine, text: machine.name(text),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


def _put_dict(machine: _Machine) -> None:
    items = machine.to_mark()
    machine.stack.append({})
    machine.set_items(items)


def _plain(value: Any) -> Any:
    """Return a dict with texts as keys and arrays as values, as the files of CIFAR are; anything else as it is."""
    if not isinstance(value, dict):
        return value
    return {
        key.decode("latin-1") if isinstance(key, bytes) else key: each.values if isinstance(each, _Array) else each
        for key, each in value.items()
    }
