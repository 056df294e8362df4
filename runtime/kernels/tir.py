"""What the algorithms share in writing TIR with TVM's IRBuilder."""

from collections.abc import Callable
from typing import Any

from tvm import tirx
from tvm.script.ir_builder import tirx as T

from bnas_deploy.runtime.kernels.specs import KernelSpec, function_name

ANY_SIZE = 1 << 30
"""The length that buffers are declared with: they come as pointers, and nothing checks against it."""


WIDTHS = (16, 8, 4)
"""Floats at once: 16 are a whole vector of AVX-512, and a few of the others."""


def integer(value: int) -> Any:
    """Return a constant int."""
    return tirx.const(value, "int32")


def begin(spec: KernelSpec, function: str) -> None:
    """Give the function that is being built its symbol. Its buffers do not overlap."""
    name = function_name(spec, function)
    T.func_name(name)
    T.func_attr({"tirx.noalias": True, "global_symbol": name})


def parameters(*names: str) -> tuple[Any, ...]:
    """Declare int parameters."""
    return tuple(T.arg(name, T.int32()) for name in names)


def in_vectors(
    count: Any, widths: tuple[int, ...], body: Callable[[Any, int], None], *, fills_one: bool = False
) -> None:
    """Call body(first, lanes) until all of `count` elements are done, in the widest vectors that they fill.

    The last vector overlaps the one before it when `count` is no multiple: nothing past the end is touched, and the
    body, which must not read what it writes, finds the same values again. Where not even the last of `widths` is
    filled, the elements are done one by one; `fills_one` promises that it always is.
    """
    if not widths:
        with T.serial(0, count) as i:
            body(i, 1)
        return
    lanes, *narrower = widths
    if fills_one and not narrower:
        _in_vectors_of(lanes, count, body)
        return
    with T.If(count >= lanes):
        with T.Then():
            _in_vectors_of(lanes, count, body)
        with T.Else():
            in_vectors(count, tuple(narrower), body, fills_one=fills_one)


def _in_vectors_of(lanes: int, count: Any, body: Callable[[Any, int], None]) -> None:
    with T.serial(0, tirx.floordiv(count + (lanes - 1), integer(lanes))) as i:
        body(T.Bind(T.min(i * lanes, count - lanes)), lanes)


def spread(value: Any, lanes: int) -> Any:
    """Return `value` in all lanes."""
    return T.broadcast(value, lanes) if lanes > 1 else value


def load(buffer: Any, index: Any, lanes: int) -> Any:
    """Return `lanes` consecutive elements."""
    dtype = str(buffer.dtype)
    return buffer.vload([index], f"{dtype}x{lanes}") if lanes > 1 else buffer[index]


def store(buffer: Any, index: Any, value: Any, lanes: int) -> None:
    """Set `lanes` consecutive elements."""
    T.buffer_store(buffer, value, [T.ramp(index, 1, lanes)] if lanes > 1 else [index])


def cast(dtype: str, value: Any, lanes: int) -> Any:
    """Convert all lanes."""
    return T.Cast(f"{dtype}x{lanes}" if lanes > 1 else dtype, value)
