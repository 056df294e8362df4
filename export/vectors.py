"""Test vectors: what PyTorch computed between the pieces of a model, and how far from it each piece may be.

A whole network cannot be compared bit for bit: onnxruntime and PyTorch round the float layers differently, and a value
that lies on a threshold then falls on the other side. So each piece is compared by itself, on PyTorch's own values,
within the roundings of its own arithmetic (`export.bounds`); a binary convolution has to be the same to the bit. What
rounding makes of the whole network's outputs is measured beside that (`output_tolerance`), and says how much a
comparison of them is worth.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from bnas_deploy.core.bundle import PieceCheck
from bnas_deploy.export.bounds import ROUNDING, Bound, bound_of, is_quantized
from bnas_deploy.export.graph import origin_of
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.measured_bounds import measured_bounds
from bnas_deploy.export.pieces import Array, Piece, Recorded, corner_check, pieces_of, whole_check
from bnas_deploy.export.ties import ties_within_rounding
from bnas_deploy.export.written_bits import bits_of, float_of
from bnas_deploy.runtime.pieces import TOLERANCE, answers_of

OWN = "{}|answer"
"""Name of what a piece in 8 bits made of PyTorch's values when the model was exported; {} is the value."""

NOISE = 2.0**-13
"""Relative change of every pixel when the network's response to rounding is measured.

Rounding inside the float convolutions changes their outputs by about 2^-22 of the sum of the magnitudes, and each of
them does; this is well above that and still 32 times finer than one step of an 8-bit pixel.
"""

NOISE_RUNS = 2
NOISE_IMAGES = 16


@dataclass(frozen=True)
class Vectors:
    """The pieces of a model, and for each the bound of every value that it makes of whole values.

    What a piece in 8 bits makes is not PyTorch's: `own` are its answers, by the names of the values. The bound of bits
    is that of the floats that they stand for. Bits are the same everywhere, so where rounding made some that are not
    PyTorch's, they are `own`, too; `bits_that_differ` tells whether it was rounding.
    """

    pieces: tuple[Piece, ...]
    recorded: Recorded
    bounds: tuple[Bound, ...]
    own: Mapping[str, Array]

    @classmethod
    def of(cls, graph: ir.Model, values: Mapping[str, Tensor], model: Path) -> "Vectors":
        """Cut `graph`, whose file is `model`, at `values`, those of the captured program for one image."""
        recorded = Recorded(values)
        pieces = tuple(pieces_of(graph, recorded))
        bounds = {piece.output: bound_of(piece, recorded) for piece in pieces}
        if unknown := [piece for piece in pieces if bounds[piece.output] is None]:
            checks = [whole_check(piece, recorded) for piece in unknown]
            measured = measured_bounds(unknown, recorded, lambda arrays: answers_of(model, checks, arrays))
            bounds |= {piece.output: bound for piece, bound in zip(unknown, measured, strict=True)}
        found = [piece for piece in pieces if is_quantized(piece) or bits_of(piece.output) is not None]
        checks = [whole_check(piece, recorded) for piece in found]
        answers = zip(found, answers_of(model, checks, recorded.of_pieces(found)), strict=True)
        own = {
            str(piece.output.name): answer
            for piece, answer in answers
            if is_quantized(piece) or not np.array_equal(answer, recorded[piece.output])
        }
        return cls(pieces, recorded, tuple(bound for bound in bounds.values() if bound is not None), own)

    def with_worst(self, failed: set[str]) -> "Vectors":
        """Let pieces, by the names of their outputs, have the bound of roundings that all go one way."""
        bounds = list(self.bounds)
        for number, piece in enumerate(self.pieces):
            worst = bound_of(piece, self.recorded, worst=True) if piece.output.name in failed else None
            bounds[number] = bounds[number] if worst is None else worst
        return replace(self, bounds=tuple(bounds))

    def bits_that_differ(self) -> list[str]:
        """Say which pieces make other bits of PyTorch's values than its floats are, where no rounding explains it."""
        failures = []
        for piece, bound in zip(self.pieces, self.bounds, strict=True):
            bits = bits_of(piece.output)
            if bits is not None and piece.output.name in self.own:
                wanted, got = (
                    np.asarray(each, np.uint8)
                    for each in (self.recorded[piece.output], self.own[str(piece.output.name)])
                )
                ties = bits.ties(np.asarray(self.recorded[bits.value], np.float32), bound)
                wrong = (got ^ wanted) & ~ties
                if wrong.any():
                    count = int(np.unpackbits(wrong).sum())
                    failures.append(f"layer {piece.name} differs from PyTorch in {count} bits, none by rounding")
        return failures

    def whole_checks(self) -> list[PieceCheck]:
        """Return how the pieces are compared on whole values."""
        return [self._with_own(whole_check(piece, self.recorded)) for piece in self.pieces]

    def corner_checks(self, model: Path) -> list[PieceCheck]:
        """Return how they are compared on what a bundle keeps; `model` is the file."""
        checks = [self._with_own(corner_check(piece, self.recorded)) for piece in self.pieces]
        made = answers_of(model, checks, self.arrays())
        return [replace(check, made=answer.shape) for check, answer in zip(checks, made, strict=True)]

    def _with_own(self, check: PieceCheck) -> PieceCheck:
        if check.output.value not in self.own:
            return check
        return replace(check, output=replace(check.output, array=OWN.format(check.output.value)))

    def arrays(self) -> dict[str, Array]:
        """Return whole values and bounds, by name."""
        own = {OWN.format(name): answer for name, answer in self.own.items()}
        bounds = {}
        for piece, bound in zip(self.pieces, self.bounds, strict=True):
            name = str(piece.output.name)
            if bound.any() and bits_of(piece.output) is None:
                bounds[TOLERANCE.format(OWN.format(name) if name in self.own else name)] = _rounded_up(bound)
        return {**self.recorded.of_pieces(self.pieces), **own, **bounds}

    def kept(self, checks: Sequence[PieceCheck]) -> dict[str, Array]:
        """Return what a bundle keeps: of each value what some piece reads or makes, and a bound for each channel."""
        arrays = self.arrays()
        sizes: dict[str, tuple[int, ...]] = {}
        for corner in (corner for check in checks for corner in (*check.inputs, check.output)):
            sizes[corner.array] = tuple(map(max, corner.shape, sizes.get(corner.array, corner.shape)))
        bounds = {
            TOLERANCE.format(name): _by_channel(arrays[TOLERANCE.format(name)], check.output.shape)
            for check in checks
            if TOLERANCE.format(name := check.output.array) in arrays
        }
        return {name: _first(arrays[name], size) for name, size in sizes.items()} | bounds

    def slack(self) -> dict[str, Array]:
        """Return the largest bound of each channel of PyTorch's own values, by their names."""
        slack = {}
        for piece, bound in zip(self.pieces, self.bounds, strict=True):
            value = float_of(piece.output)
            origin, shape = origin_of(value), self.recorded[value].shape
            if origin.channels is None and bound.any():
                largest = _by_channel(bound, shape)
                slack[origin.name] = largest.reshape(largest.shape[: self.recorded.rank(piece.output)])
        return slack

    def ties(self) -> dict[str, int]:
        """Return how many activations of each binary convolution lie within rounding of its threshold."""
        return ties_within_rounding(self.pieces, self.recorded, self.bounds)


def _first(array: Array, size: tuple[int, ...]) -> Array:
    return np.array(array[tuple(slice(each) for each in size)], order="C")


def _by_channel(bound: Array, shape: tuple[int, ...]) -> Array:
    """Return the largest bound of each channel in the first `shape` values, of their rank."""
    padded = bound.reshape((1,) * (len(shape) - bound.ndim) + bound.shape)
    corner = padded[tuple(slice(size) for size in shape)]
    largest: Array = corner.max(axis=tuple(axis for axis in range(len(shape)) if axis != 1), keepdims=True)
    return largest


def _rounded_up(bound: Bound) -> Array:
    return np.nextafter(bound.astype(np.float32), np.float32(np.inf))


def output_tolerances(
    network: Callable[[Feed], tuple[Tensor, ...]],
    feed: Feed,
    noisy: Callable[[Feed], tuple[Tensor, ...]] | None = None,
) -> tuple[float, ...]:
    """Measure how far each of a network's own outputs moves when its inputs carry rounding noise.

    `noisy` is the network with noise inside, too. Where it is given, so is what ties in front of a sign make of the
    outputs: noise of the inputs alone never moves them. A result is twice the largest change, and the rounding of the
    output itself, if it has one: whole numbers have none.
    """
    generator = torch.Generator().manual_seed(0)
    feed = feed[:NOISE_IMAGES]
    with torch.no_grad():
        answers = network(feed)
        moved = [(noisy or network)(_with_noise(feed, generator)) for _ in range(NOISE_RUNS)]
    return tuple(
        2 * max(largest_of(other[place].double() - answer.double()) for other in moved) + _rounding(answer)
        for place, answer in enumerate(answers)
    )


def _with_noise(feed: Feed, generator: torch.Generator) -> Feed:
    return feed.with_tensors(
        [
            tensor * (1 + NOISE * (2 * torch.rand(tensor.shape, generator=generator) - 1))
            if tensor.is_floating_point()
            else tensor
            for tensor in feed.tensors
        ]
    )


def largest_of(values: Tensor) -> float:
    """Return the largest magnitude in a tensor."""
    return float(values.abs().max())


def _rounding(answer: Tensor) -> float:
    return 2**10 * ROUNDING * largest_of(answer) if answer.is_floating_point() else 0.0
