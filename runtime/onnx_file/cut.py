"""Cuts the bytes of an ONNX file into pieces that can be run by themselves.

Nodes, weights and function bodies stay as they are in the file; only names are written anew. The pieces lie side by
side in one model: value V of piece I is called `I/V` there, and so are nodes. What the branches of a node read from
the graph around them counts as its input.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from bnas_deploy.core.bundle import PieceCheck
from bnas_deploy.runtime.onnx_file.reader import (
    ATTRIBUTE_GRAPH,
    ATTRIBUTE_GRAPHS,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_NAME,
    NODE_OUTPUT,
    TENSOR_NAME,
    VALUE_NAME,
    Node,
    fields,
    node_of,
    payloads,
    texts,
)
from bnas_deploy.runtime.onnx_file.writer import GRAPH_NAME, Value, write_bytes, write_text, write_value

FEW = 3


@dataclass(frozen=True)
class Graph:
    """The main graph of an ONNX file, as names.

    `raw` are the bytes of each node, and `read` what it reads, its branches included.
    """

    nodes: tuple[Node, ...]
    raw: tuple[memoryview, ...]
    read: tuple[tuple[str, ...], ...]
    initializers: frozenset[str]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @classmethod
    def of(cls, data: bytes) -> "Graph":
        """Read a file that onnxruntime accepts."""
        graphs = tuple(payloads(memoryview(data), MODEL_GRAPH))

        def names(number: int, name: int) -> tuple[str, ...]:
            return tuple(text for graph in graphs for text in _names(graph, number, name))

        raw = tuple(node for graph in graphs for node in payloads(graph, GRAPH_NODE))
        return cls(
            nodes=tuple(map(node_of, raw)),
            raw=raw,
            read=tuple(tuple(_read(node)) for node in raw),
            initializers=frozenset(names(GRAPH_INITIALIZER, TENSOR_NAME)),
            inputs=names(GRAPH_INPUT, VALUE_NAME),
            outputs=names(GRAPH_OUTPUT, VALUE_NAME),
        )


@dataclass(frozen=True)
class Cut:
    """A piece as it was found in a file: the numbers of its nodes, in order, or what is wrong with it."""

    check: PieceCheck
    nodes: tuple[int, ...]
    fault: str | None = None


def cut_graph(graph: Graph, checks: Sequence[PieceCheck]) -> list[Cut]:
    """Find the nodes of each piece: all that its output depends on, back to values that PyTorch recorded."""
    read = {corner.value for check in checks for corner in check.inputs}
    recorded = {check.output.value for check in checks} | read | set(graph.inputs)
    makers = {output: number for number, node in enumerate(graph.nodes) for output in node.outputs if output}
    return [_piece(graph, makers, recorded, check) for check in checks]


def _piece(graph: Graph, makers: Mapping[str, int], recorded: set[str], check: PieceCheck) -> Cut:
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
            return Cut(check, (), f"piece {check.name}: no node of the model makes {name!r}")
        elif makers[name] not in nodes:
            nodes.add(makers[name])
            needed += graph.read[makers[name]]
    wanted = {corner.value for corner in check.inputs}
    if read != wanted:
        return Cut(check, (), f"piece {check.name} reads {sorted(read)}, what was exported reads {sorted(wanted)}")
    return Cut(check, tuple(sorted(nodes)))


def left_over(graph: Graph, cuts: Iterable[Cut]) -> list[str]:
    """Say what of the graph lies in no piece."""
    inside = {number for cut in cuts for number in cut.nodes}
    # What a faulty piece would hold is told by its own fault.
    nodes = [] if any(cut.fault for cut in cuts) else [n for i, n in enumerate(graph.nodes) if i not in inside]
    read = {name for names in graph.read for name in names}
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


def named(number: int, value: str) -> str:
    """Return what a value, or a node, of a piece is called in the cut model."""
    return f"{number}/{value}"


def model_of(data: bytes, graph: Graph, cuts: Sequence[Cut], feeds: Mapping[str, NDArray[Any]]) -> bytes:
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
        write_bytes(GRAPH_OUTPUT, write_text(VALUE_NAME, named(number, cut.check.output.value)))
        for number, cut in enumerate(cuts)
    ]
    read = {name for cut in cuts for node in cut.nodes for name in graph.read[node]}
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
    kept = graph.initializers | {""}
    name = write_text(NODE_NAME, named(piece, graph.nodes[node].name))
    return name + node_with(
        graph.raw[node], lambda value: value if value in kept else named(piece, value), (NODE_NAME,)
    )


Rename = Callable[[str], str]


def node_with(raw: memoryview, rename: Rename, without: tuple[int, ...] = ()) -> bytes:
    """Write a node with other names of values, and without some fields."""
    parts: list[bytes | memoryview] = []
    for field in fields(raw):
        if field.number in (NODE_INPUT, NODE_OUTPUT) and field.payload is not None:
            parts.append(write_text(field.number, rename(str(field.payload, "utf-8", "surrogateescape"))))
        elif field.number == NODE_ATTRIBUTE and field.payload is not None and any(_branches(field.payload)):
            parts.append(write_bytes(NODE_ATTRIBUTE, _attribute_with(field.payload, rename)))
        elif field.number not in without:
            parts.append(field.whole)
    return b"".join(parts)


def _attribute_with(raw: memoryview, rename: Rename) -> bytes:
    """Write an attribute whose branches read values by other names."""
    parts: list[bytes | memoryview] = []
    for field in fields(raw):
        if field.number not in (ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS) or field.payload is None:
            parts.append(field.whole)
            continue
        own = _own_names(field.payload)

        def outer(value: str, own: frozenset[str] = own) -> str:
            return value if value in own else rename(value)

        nodes = [
            write_bytes(GRAPH_NODE, node_with(each.payload, outer))
            if each.number == GRAPH_NODE and each.payload is not None
            else each.whole
            for each in fields(field.payload)
        ]
        parts.append(write_bytes(field.number, b"".join(nodes)))
    return b"".join(parts)


def _branches(attribute: memoryview) -> Iterator[memoryview]:
    yield from payloads(attribute, ATTRIBUTE_GRAPH)
    yield from payloads(attribute, ATTRIBUTE_GRAPHS)


def _names(graph: memoryview, number: int, name: int) -> Iterator[str]:
    return (text for each in payloads(graph, number) for text in texts(each, name))


def _own_names(graph: memoryview) -> frozenset[str]:
    """Return the values that a branch makes or holds itself."""
    made = _names(graph, GRAPH_NODE, NODE_OUTPUT)
    return frozenset(
        ("", *made, *_names(graph, GRAPH_INPUT, VALUE_NAME), *_names(graph, GRAPH_INITIALIZER, TENSOR_NAME))
    )


def _read(node: memoryview) -> Iterator[str]:
    """Yield what a node and its branches read from the graph that the node is in."""
    yield from texts(node, NODE_INPUT)
    for attribute in payloads(node, NODE_ATTRIBUTE):
        for graph in _branches(attribute):
            own = _own_names(graph)
            yield from (name for inner in payloads(graph, GRAPH_NODE) for name in _read(inner) if name not in own)
