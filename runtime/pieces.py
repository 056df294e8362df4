"""A model cut into pieces: what its file computes between two values that PyTorch recorded.

A piece is the smallest part of the graph between recorded values: mostly one node. The cut is made of the bytes of
model.onnx itself, so that what is compared is what is deployed; nodes, weights and function bodies stay as they are in
the file, only the names of values are written anew. The pieces lie side by side in one model: value V of piece I is
called `I/V` there.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import Corner, PieceCheck
from bnas_deploy.core.errors import BundleError
from bnas_deploy.runtime.onnx_file.reader import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_INPUT,
    NODE_NAME,
    NODE_OUTPUT,
    TENSOR_NAME,
    VALUE_NAME,
    Node,
    fields,
    is_binary_convolution,
    node_of,
    payloads,
    texts,
    uses_k,
)
from bnas_deploy.runtime.onnx_file.writer import ELEMENTS, GRAPH_NAME, Value, write_bytes, write_text, write_value
from bnas_deploy.runtime.session import create_session, run_session, session_options

if TYPE_CHECKING:
    import onnxruntime

Vectors = Mapping[str, NDArray[Any]]

TOLERANCE = "{}|tolerance"
"""Name of the array that says how far from array {} a piece may be; without one, its answer has to be the same."""

FEW = 3


@dataclass(frozen=True)
class PieceResult:
    """A piece against PyTorch: on `compared` values, the largest absolute difference.

    `allowed` is the largest that rounding explains; each value has a bound of its own, and `passed` tells whether all
    are within theirs. `binary` tells whether the piece is a binary convolution.
    """

    check: PieceCheck
    binary: bool
    compared: int
    difference: float
    allowed: float
    passed: bool

    @property
    def exact(self) -> bool:
        """Tell whether every value is the same to the bit."""
        return self.difference == 0

    @property
    def in_8_bits(self) -> bool:
        """Tell whether the piece is compared with what it answered when it was exported, and not with PyTorch."""
        return self.check.output.array != self.check.output.value

    @property
    def failure(self) -> str:
        """Say what is wrong with the piece."""
        kind = "layer" if self.binary else "piece"
        reference = "what it gave when it was exported" if self.in_8_bits else "PyTorch"
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


@dataclass(frozen=True)
class Graph:
    """The main graph of an ONNX file, as names; `raw` are the bytes of each node."""

    nodes: tuple[Node, ...]
    raw: tuple[memoryview, ...]
    initializers: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, data: bytes) -> "Graph":
        """Read a file that onnxruntime accepts."""
        graphs = tuple(payloads(memoryview(data), MODEL_GRAPH))

        def names(number: int, name: int) -> tuple[str, ...]:
            return tuple(text for graph in graphs for each in payloads(graph, number) for text in texts(each, name))

        raw = tuple(node for graph in graphs for node in payloads(graph, GRAPH_NODE))
        return cls(
            nodes=tuple(map(node_of, raw)),
            raw=raw,
            initializers=frozenset(names(GRAPH_INITIALIZER, TENSOR_NAME)),
            inputs=names(GRAPH_INPUT, VALUE_NAME),
            outputs=names(GRAPH_OUTPUT, VALUE_NAME),
        )


@dataclass(frozen=True)
class _Cut:
    """A piece as it was found in a file: the numbers of its nodes, in order, or what is wrong with it."""

    check: PieceCheck
    nodes: tuple[int, ...]
    fault: str | None = None


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
    cuts = _cut(graph, checks)
    whole = [cut for cut in cuts if cut.fault is None]
    where = where or model
    feeds = _feeds([cut.check for cut in whole], vectors, where)
    native, plain = (
        run_pieces(data, model, graph, whole, feeds, session_options(library=library)) for library in (True, False)
    )
    results, alike = [], True
    for cut, left, right in zip(whole, native, plain, strict=True):
        operators = [graph.nodes[number].op_type for number in cut.nodes]
        tolerance = vectors.get(TOLERANCE.format(cut.check.output.array), np.zeros((), np.float32))
        binary = any(map(is_binary_convolution, operators))
        wanted = _array(cut.check.output, vectors, where)
        results.append(_result(cut.check, binary, left, wanted, tolerance))
        alike &= _within(left, right, tolerance.max() if any(map(uses_k, operators)) else np.float32(0))
    faults = (*(cut.fault for cut in cuts if cut.fault is not None), *_left_over(graph, cuts))
    return PiecesResult(tuple(results), faults, alike)


def answers_of(model: Path, checks: Sequence[PieceCheck], vectors: Vectors) -> list[NDArray[Any]]:
    """Return what each piece, all of which are in `model`, makes of its arrays, with the library."""
    data = model.read_bytes()
    graph = Graph.of(data)
    cuts = _cut(graph, checks)
    faults = [cut.fault for cut in cuts if cut.fault is not None]
    assert not faults, faults
    return run_pieces(data, model, graph, cuts, _feeds(checks, vectors, model), session_options())


def run_pieces(
    data: bytes,
    model: Path,
    graph: Graph,
    cuts: Sequence[_Cut],
    feeds: Mapping[str, NDArray[Any]],
    options: "onnxruntime.SessionOptions",
) -> list[NDArray[Any]]:
    """Return what each piece makes of `feeds`, by their names in the cut model."""
    if not cuts:
        return []
    session = create_session(model, options, data=_model_of(data, graph, cuts, feeds))
    names = [_named(number, cut.check.output.value) for number, cut in enumerate(cuts)]
    return run_session(session, model, names, dict(feeds))


# --- cutting --------------------------------------------------------------------------------------------------------


def _cut(graph: Graph, checks: Sequence[PieceCheck]) -> list[_Cut]:
    """Find the nodes of each piece: all that its output depends on, back to values that PyTorch recorded."""
    read = {corner.value for check in checks for corner in check.inputs}
    recorded = {check.output.value for check in checks} | read | set(graph.inputs)
    makers = {output: number for number, node in enumerate(graph.nodes) for output in node.outputs if output}
    return [_piece(graph, makers, recorded, check) for check in checks]


def _piece(graph: Graph, makers: Mapping[str, int], recorded: set[str], check: PieceCheck) -> _Cut:
    nodes: set[int] = set()
    read: set[str] = set()
    needed = [check.output.value]
    while needed:
        name = needed.pop()
        if name in graph.initializers or name == "":
            continue
        if name in recorded and name != check.output.value:
            read.add(name)
        elif name not in makers:
            return _Cut(check, (), f"piece {check.name}: no node of the model makes {name!r}")
        elif makers[name] not in nodes:
            nodes.add(makers[name])
            needed += graph.nodes[makers[name]].inputs
    wanted = {corner.value for corner in check.inputs}
    if read != wanted:
        return _Cut(check, (), f"piece {check.name} reads {sorted(read)}, what was exported reads {sorted(wanted)}")
    return _Cut(check, tuple(sorted(nodes)))


def _left_over(graph: Graph, cuts: Iterable[_Cut]) -> list[str]:
    """Say what of the graph lies in no piece."""
    inside = {number for cut in cuts for number in cut.nodes}
    # What a faulty piece would hold is told by its own fault.
    nodes = [] if any(cut.fault for cut in cuts) else [n for i, n in enumerate(graph.nodes) if i not in inside]
    read = {name for node in graph.nodes for name in node.inputs}
    made = {cut.check.output.value for cut in cuts}
    return [
        f"{what} {', '.join(names[:FEW])}{' and others' * (len(names) > FEW)} of the model in no piece"
        for what, names in (
            ("nodes", [node.name or node.op_type for node in nodes]),
            ("constants", sorted(graph.initializers - read)),
            ("outputs", sorted(set(graph.outputs) - made)),
        )
        if names
    ]


def _named(number: int, value: str) -> str:
    return f"{number}/{value}"


def _model_of(data: bytes, graph: Graph, cuts: Sequence[_Cut], feeds: Mapping[str, NDArray[Any]]) -> bytes:
    """Write the file `data` with the pieces instead of its graph; all else is as it was."""
    nodes = [
        write_bytes(GRAPH_NODE, _renamed(graph, node, number)) for number, cut in enumerate(cuts) for node in cut.nodes
    ]
    inputs = [
        write_bytes(GRAPH_INPUT, write_value(Value(name, array.dtype.name, array.shape)))
        for name, array in feeds.items()
    ]
    # Without a type: onnxruntime knows what a node makes.
    outputs = [
        write_bytes(GRAPH_OUTPUT, write_text(VALUE_NAME, _named(number, cut.check.output.value)))
        for number, cut in enumerate(cuts)
    ]
    read = {name for cut in cuts for node in cut.nodes for name in graph.nodes[node].inputs}
    constants = [
        field.whole
        for old in payloads(memoryview(data), MODEL_GRAPH)
        for field in fields(old)
        if field.number == GRAPH_INITIALIZER
        and field.payload is not None
        and not read.isdisjoint(texts(field.payload, TENSOR_NAME))
    ]
    name = write_text(GRAPH_NAME, "pieces")
    rest = [field.whole for field in fields(memoryview(data)) if field.number != MODEL_GRAPH]
    return b"".join((*rest, write_bytes(MODEL_GRAPH, b"".join((*nodes, name, *constants, *inputs, *outputs)))))


def _renamed(graph: Graph, node: int, piece: int) -> bytes:
    """Write a node with the names that it and its values have in the piece; two pieces may share it."""
    written_anew = (NODE_INPUT, NODE_OUTPUT, NODE_NAME)
    kept = [field.whole for field in fields(graph.raw[node]) if field.number not in written_anew]

    def name(value: str) -> str:
        return value if value in graph.initializers or value == "" else _named(piece, value)

    inputs = [write_text(NODE_INPUT, name(value)) for value in graph.nodes[node].inputs]
    outputs = [write_text(NODE_OUTPUT, name(value)) for value in graph.nodes[node].outputs]
    return b"".join((*inputs, *outputs, write_text(NODE_NAME, _named(piece, graph.nodes[node].name)), *kept))


# --- arrays ---------------------------------------------------------------------------------------------------------


def _feeds(checks: Sequence[PieceCheck], vectors: Vectors, where: Path) -> dict[str, NDArray[Any]]:
    return {
        _named(number, corner.value): _array(corner, vectors, where)
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
    return np.ascontiguousarray(vector[tuple(slice(size) for size in corner.shape)])


def _result(
    check: PieceCheck, binary: bool, got: NDArray[Any], wanted: NDArray[Any], tolerance: NDArray[Any]
) -> PieceResult:
    allowed = float(tolerance.max())
    if got.shape != check.made or got.dtype != wanted.dtype:
        return PieceResult(check, binary, wanted.size, float("inf"), allowed, passed=False)
    got = got[tuple(slice(size) for size in check.output.shape)]
    return PieceResult(
        check, binary, wanted.size, _difference(got, wanted), allowed, passed=_within(got, wanted, tolerance)
    )


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
