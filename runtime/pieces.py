"""A model cut into pieces: what its file computes between two values that PyTorch recorded.

A piece is the smallest part of the graph between recorded values: mostly one node. The cut is made of the bytes of
model.onnx itself (`runtime.onnx_file.cut`), so that what is compared is what is deployed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import Corner, PieceCheck
from bnas_deploy.core.errors import BundleError
from bnas_deploy.runtime.onnx_file.cut import Cut, Graph, cut_graph, left_over, model_of, named
from bnas_deploy.runtime.onnx_file.reader import has_k_map, is_binary_convolution, writes_bits
from bnas_deploy.runtime.onnx_file.writer import ELEMENTS
from bnas_deploy.runtime.session import create_session, run_session, session_options

if TYPE_CHECKING:
    import onnxruntime

Vectors = Mapping[str, NDArray[Any]]

TOLERANCE = "{}|tolerance"
"""Name of the array that says how far from array {} a piece may be; without one, its answer has to be the same."""


@dataclass(frozen=True)
class PieceResult:
    """A piece against PyTorch: on `compared` values, the largest absolute difference.

    `allowed` is the largest that rounding explains; each value has a bound of its own, and `passed` tells whether all
    are within theirs. `binary` tells whether the piece is a binary convolution, and `bits` whether it writes bits. Of
    its `channels`, `silent` have 0 in all compared values, behind a ReLU mostly: what scales or shifts them is not
    seen. Bits have no such channels.
    """

    check: PieceCheck
    binary: bool
    compared: int
    difference: float
    allowed: float
    passed: bool
    channels: int = 0
    silent: int = 0
    bits: bool = False

    @property
    def exact(self) -> bool:
        """Tell whether every value is the same to the bit."""
        return self.difference == 0

    @property
    def repeats(self) -> bool:
        """Tell whether the piece is compared with what it answered when it was exported, and not with PyTorch."""
        return self.check.output.array != self.check.output.value

    @property
    def in_8_bits(self) -> bool:
        """Tell whether it is so because it computes in 8 bits."""
        return self.repeats and not self.bits

    @property
    def failure(self) -> str:
        """Say what is wrong with the piece."""
        kind = "layer" if self.binary else "piece"
        reference = "what it gave when it was exported" if self.repeats else "PyTorch"
        return (
            f"{kind} {self.check.name} differs from {reference} by {self.difference:.3g}, "
            f"rounding explains {self.allowed:.3g}"
        )


@dataclass(frozen=True)
class PiecesResult:
    """What a comparison of all pieces found.

    `faults` are sentences on what lies in no piece, or in another than when the model was exported. `alike` tells
    whether the library and plain onnxruntime give the same: to the bit, but where K enters, within the tolerance.
    """

    pieces: tuple[PieceResult, ...]
    faults: tuple[str, ...]
    alike: bool

    @property
    def failures(self) -> list[str]:
        """Return a sentence for each thing that does not hold."""
        return [*self.faults, *(piece.failure for piece in self.pieces if not piece.passed)]


def compare_pieces(
    model: Path, checks: Sequence[PieceCheck], vectors: Vectors, where: Path | None = None
) -> PiecesResult:
    """Run every piece of `model` on PyTorch's own values, with the library and without it.

    Args:
        model: an ONNX file that onnxruntime accepts.
        checks: the pieces, which should make up the whole model.
        vectors: the arrays that the pieces read and make, and their tolerances.
        where: the file that they were read from.

    Raises:
        BundleError: an array is missing or does not fit, or onnxruntime cannot run a piece.
    """
    data = model.read_bytes()
    graph = Graph.of(data)
    cuts = cut_graph(graph, checks)
    whole = [each for each in cuts if each.fault is None]
    where = where or model
    feeds = _feeds([each.check for each in whole], vectors, where)
    native, plain = (
        run_pieces(data, model, graph, whole, feeds, session_options(library=library, once=True))
        for library in (True, False)
    )
    results, alike = [], True
    for cut, left, right in zip(whole, native, plain, strict=True):
        operators = [graph.nodes[number].op_type for number in cut.nodes]
        tolerance = vectors.get(TOLERANCE.format(cut.check.output.array), np.zeros((), np.float32))
        binary, bits = (any(map(each, operators)) for each in (is_binary_convolution, writes_bits))
        wanted = _array(cut.check.output, vectors, where)
        results.append(_result(cut.check, left, wanted, tolerance, binary=binary, bits=bits))
        alike &= _within(left, right, tolerance.max() if any(map(has_k_map, operators)) else np.float32(0))
    faults = (*(each.fault for each in cuts if each.fault is not None), *left_over(graph, cuts))
    return PiecesResult(tuple(results), faults, alike)


def answers_of(model: Path, checks: Sequence[PieceCheck], vectors: Vectors) -> list[NDArray[Any]]:
    """Return what each piece, all of which are in `model`, makes of its arrays, with the library."""
    data = model.read_bytes()
    graph = Graph.of(data)
    cuts = cut_graph(graph, checks)
    faults = [each.fault for each in cuts if each.fault is not None]
    assert not faults, faults
    return run_pieces(data, model, graph, cuts, _feeds(checks, vectors, model), session_options(once=True))


def run_pieces(
    data: bytes,
    model: Path,
    graph: Graph,
    cuts: Sequence[Cut],
    feeds: Mapping[str, NDArray[Any]],
    options: "onnxruntime.SessionOptions",
) -> list[NDArray[Any]]:
    """Return what each piece makes of `feeds`, by their names in the cut model."""
    if not cuts:
        return []
    session = create_session(model, options, data=model_of(data, graph, cuts, feeds))
    names = [named(number, cut.check.output.value) for number, cut in enumerate(cuts)]
    # onnxruntime gives a tensor without axes as a number.
    return [np.asarray(answer) for answer in run_session(session, model, names, dict(feeds))]


# --- arrays ---------------------------------------------------------------------------------------------------------


def _feeds(checks: Sequence[PieceCheck], vectors: Vectors, where: Path) -> dict[str, NDArray[Any]]:
    return {
        named(number, corner.value): _array(corner, vectors, where)
        for number, check in enumerate(checks)
        for corner in check.inputs
    }


def _array(corner: Corner, vectors: Vectors, where: Path) -> NDArray[Any]:
    """Return the corner of the array that it names."""
    if corner.array not in vectors:
        raise BundleError(f"{where}: no test vector {corner.array!r}; export the model again")
    vector = vectors[corner.array]
    fits = vector.ndim == len(corner.shape) and all(map(int.__ge__, vector.shape, corner.shape))
    if not fits or vector.dtype.name not in ELEMENTS:
        raise BundleError(
            f"{where}: the test vector {corner.array!r} is {vector.dtype} {vector.shape}, wanted numbers of at least "
            f"{corner.shape}; export the model again"
        )
    return np.array(vector[tuple(slice(size) for size in corner.shape)], order="C")


def _result(
    check: PieceCheck,
    got: NDArray[Any],
    wanted: NDArray[Any],
    tolerance: NDArray[Any],
    *,
    binary: bool,
    bits: bool,
) -> PieceResult:
    allowed = float(tolerance.max())
    channels = silent = 0
    if binary and not bits:
        seen = wanted.any(axis=tuple(axis for axis in range(wanted.ndim) if axis != 1))
        channels, silent = seen.size, int((~seen).sum())
    if got.shape != check.made or got.dtype != wanted.dtype:
        return PieceResult(check, binary, wanted.size, float("inf"), allowed, False, channels, silent, bits)
    got = got[tuple(slice(size) for size in check.output.shape)]
    passed = _within(got, wanted, tolerance)
    return PieceResult(check, binary, wanted.size, _difference(got, wanted), allowed, passed, channels, silent, bits)


def _within(left: NDArray[Any], right: NDArray[Any], tolerance: NDArray[Any] | np.float32) -> bool:
    """Tell whether the values are equal or within the tolerance of each other; NaN is equal to NaN alone."""
    if left.shape != right.shape:
        return False
    with np.errstate(invalid="ignore"):  # inf - inf; two infinities are equal
        near = np.abs(np.subtract(left, right, dtype=np.float64)) <= tolerance
    return bool((near | (left == right) | ((left != left) & (right != right))).all())


def _difference(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Return the largest absolute difference: NaN where only one of two values is NaN."""
    differ = (left != right) & ~((left != left) & (right != right))
    if not differ.any():
        return 0.0
    return float(np.abs(np.subtract(left[differ], right[differ], dtype=np.float64)).max())
