"""The nodes of an ONNX file, read without the package `onnx`, which a device does not have.

An ONNX file is a protocol buffer: a sequence of fields, each with a number, a wire type and a payload. The numbers
below are those of onnx.proto, where they are frozen. Everything that is not named here is passed over.
"""

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import open_regular
from bnas_deploy.core.operators import is_operator, operator

MODEL_GRAPH = 7
GRAPH_NODE, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 1, 5, 11, 12
NODE_INPUT, NODE_OUTPUT, NODE_NAME, NODE_OP_TYPE, NODE_ATTRIBUTE = 1, 2, 3, 4, 5
ATTRIBUTE_GRAPH, ATTRIBUTE_GRAPHS = 6, 11
TENSOR_NAME, VALUE_NAME = 8, 1

VARINT, BYTES = 0, 2  # wire types
FIXED_BYTES = {1: 8, 5: 4}  # wire types, and how many bytes their values have
MOST_VARINT_BYTES = 10  # 64 bits, seven a byte


@dataclass(frozen=True)
class Node:
    """A node of the main graph, with the names of its values."""

    name: str
    op_type: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def is_binary_convolution(op_type: str) -> bool:
    """Tell whether an operator is one of the domain `bnas` that convolves; no other domain has one of such a name."""
    return is_operator(op_type) and operator(op_type).convolves


def writes_bits(op_type: str) -> bool:
    """Tell whether an operator writes bits instead of floats."""
    return is_operator(op_type) and operator(op_type).to_bits


def has_k_map(op_type: str) -> bool:
    """Tell whether an operator multiplies by K, whose sum has no defined order of roundings."""
    return is_operator(op_type) and operator(op_type).k_map


def read_nodes(path: Path) -> tuple[Node, ...]:
    """Read the nodes of the main graph of an ONNX file; weights are passed over.

    Raises:
        BundleError: the file cannot be read, or is no protocol buffer.
    """
    try:
        with open_regular(path) as file:
            # Closed with the last view of it, one of which an exception may hold.
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        return tuple(node_of(node) for graph in payloads(data, MODEL_GRAPH) for node in payloads(graph, GRAPH_NODE))
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; copy or export the bundle again") from None
    except ValueError as error:
        raise BundleError(f"{path}: not an ONNX file ({error}); copy or export the bundle again") from None


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
    """Yield the payload of every field `number`, which is a string or a message.

    Raises:
        ValueError: the data is no message.
    """
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
    """Yield the fields of a message, in order.

    Raises:
        ValueError: the data is no message.
    """
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
            if length > len(data) - at:
                raise ValueError("a field that ends past the end")
            payload = data[at : at + length]
            at += length
        elif wire_type in FIXED_BYTES:
            if FIXED_BYTES[wire_type] > len(data) - at:
                raise ValueError("a field that ends past the end")
            at += FIXED_BYTES[wire_type]
        else:
            raise ValueError(f"a field of the wire type {wire_type}")
        yield Field(number, data[start:at], payload)


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read seven bits a byte, the lowest first, up to a byte below 128; return the value and where it ends."""
    value = 0
    for i, byte in enumerate(data[at : at + MOST_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a number that does not end")
