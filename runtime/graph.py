"""The nodes of an ONNX file, read without the package `onnx`, which a device does not have.

An ONNX file is a protocol buffer: a sequence of fields, each with a number, a wire type and a payload. The numbers
below are those of onnx.proto, where they are frozen. Everything that is not named here is passed over.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_NAME, VALUE_NAME = 8, 1

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types


@dataclass(frozen=True)
class Node:
    """A node of the main graph, with the names of its values."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def is_binary_convolution(op_type: str) -> bool:
    """Tell whether an operator is one of the domain `bnas`: their names begin alike (docs/operators.md)."""
    return op_type.startswith("BinaryConv2d")


def uses_k(op_type: str) -> bool:
    """Tell whether an operator multiplies by K, whose sum has no defined order of roundings."""
    return op_type.startswith("BinaryConv2dK")


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Read the nodes of the main graph of an ONNX file that onnxruntime accepts; weights are passed over."""
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as view,
    ):
        return tuple(node_of(node) for graph in payloads(view, MODEL_GRAPH) for node in payloads(graph, GRAPH_NODE))


def node_of(data: memoryview) -> Node:
    """Read a node."""
    return Node(
        # Absent strings are empty, as protocol buffers have it.
        name="".join(texts(data, NODE_NAME)),
        op_type="".join(texts(data, NODE_OP_TYPE)),
        inputs=texts(data, NODE_INPUT),
        outputs=texts(data, NODE_OUTPUT),
    )


def texts(data: memoryview, number: int) -> tuple[str, ...]:
    """Read every string `number`; bytes that are no UTF-8 stay what they are when the text is written again."""
    return tuple(str(payload, "utf-8", "surrogateescape") for payload in payloads(data, number))


def payloads(data: memoryview, number: int) -> Iterator[memoryview]:
    """Yield the payload of every field `number`, which is a string or a message."""
    for field in fields(data):
        if field.number == number and field.payload is not None:
            yield field.payload


@dataclass(frozen=True)
class Field:
    """A field of a message: its bytes as they stand in the file, and of a string or message what is in it."""

    number: int
    whole: memoryview
    payload: memoryview | None


def fields(data: memoryview) -> Iterator[Field]:
    """Yield the fields of a message, in order."""
    at = 0
    while at < len(data):
        start = at
        key, at = _varint(data, at)
        number, wire_type = key >> 3, key & 7
        payload = None
        if wire_type == VARINT:
            _, at = _varint(data, at)
        elif wire_type == BYTES:
            length, at = _varint(data, at)
            payload = data[at : at + length]
            at += length
        else:
            at += {FIXED64: 8, FIXED32: 4}[wire_type]
        yield Field(number, data[start:at], payload)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read seven bits a byte, the lowest first, up to a byte below 128; return the value and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
