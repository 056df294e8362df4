"""Segments along the channels of a value: slices of values that are computed, and constants."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Computed:
    """Channels first .. first + count - 1 of a value of the graph."""

    value: ir.Value
    first: int
    count: int

    def part(self, first: int, count: int) -> "Computed":
        """Return `count` of these channels from `first` on."""
        return Computed(self.value, self.first + first, count)


@dataclass(frozen=True)
class Constant:
    """Channels that have the same known value in every image and at every pixel."""

    values: tuple[float, ...]

    @property
    def count(self) -> int:
        """Return the number of channels."""
        return len(self.values)

    @property
    def array(self) -> Floats:
        """Return the values, (count) float32."""
        return np.array(self.values, np.float32)

    def part(self, first: int, count: int) -> "Constant":
        """Return `count` of these channels from `first` on."""
        return Constant(self.values[first : first + count])


Segment = Computed | Constant
Segments = tuple[Segment, ...]


def positions(parts: Segments) -> list[tuple[int, Segment]]:
    """Return (first channel, segment) for each segment."""
    first, result = 0, []
    for part in parts:
        result.append((first, part))
        first += part.count
    return result


def live_channels(parts: Segments) -> list[int]:
    """Return the indices of the channels that are computed."""
    return [
        channel
        for first, part in positions(parts)
        if isinstance(part, Computed)
        for channel in range(first, first + part.count)
    ]


def aligned(left: Segments, right: Segments) -> list[tuple[int, Segment, Segment]]:
    """Cut both lists at the borders of either: (first channel, left, right), of equal length."""
    borders = sorted({first + part.count for parts in (left, right) for first, part in positions(parts)})
    pieces, first = [], 0
    for last in borders:
        pieces.append((first, _cut(left, first, last), _cut(right, first, last)))
        first = last
    return pieces


def _cut(parts: Segments, first: int, last: int) -> Segment:
    """Return channels first .. last - 1, which lie within one segment."""
    for start, part in positions(parts):
        if start <= first and last <= start + part.count:
            return part.part(first - start, last - first)
    raise AssertionError("a border inside the piece")


def merged_segments(parts: Sequence[Segment]) -> Segments:
    """Join neighbours that are constants, or that follow each other in the same value."""
    merged: list[Segment] = []
    for part in parts:
        match merged[-1] if merged else None, part:
            case Constant() as last, Constant():
                merged[-1] = Constant(last.values + part.values)
            case Computed() as last, Computed() if last.value is part.value and last.first + last.count == part.first:
                merged[-1] = Computed(last.value, last.first, last.count + part.count)
            case _:
                merged.append(part)
    return tuple(merged)
