"""Writes the ONNX file of a small graph without the package `onnx`, which a device does not have.

The counterpart of `bnas_deploy.runtime.onnx_file.reader`: see there for what such a file is. The numbers of the fields
are those of onnx.proto, where they are frozen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.operators import DOMAIN, IR_VERSION, ONNX_OPSET, VERSION
from bnas_deploy.runtime.onnx_file.reader import (
    BYTES,
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    NODE_ATTRIBUTE,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    TENSOR_NAME,
    VALUE_NAME,
    VARINT,
)

MODEL_IR_VERSION, MODEL_OPSET_IMPORT = 1, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NAME = 2
NODE_DOMAIN = 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_TYPE = 1, 3, 8, 20
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_RAW_DATA = 1, 2, 9
VALUE_TYPE = 2
TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 1, 2, 1, 1

INT, INTS = 2, 7  # types of an attribute
ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float64": 11}

OPSETS = {"": ONNX_OPSET, DOMAIN: VERSION}


@dataclass(frozen=True)
class NewNode:
    """A node with one output, and what it needs to be written."""

    op_type: str
    inputs: Sequence[str]
    output: str
    attributes: Mapping[str, int | Sequence[int]] = field(default_factory=dict)
    domain: str = ""


@dataclass(frozen=True)
class Value:
    """An input or output of the graph."""

    name: str
    dtype: str
    shape: Sequence[int]


def model_bytes(
    nodes: Iterable[NewNode],
    constants: Mapping[str, NDArray[Any]],
    inputs: Iterable[Value],
    outputs: Iterable[Value],
) -> bytes:
    """Return the file of a model; a node is named after what it gives."""
    graph = b"".join(
        (
            *(write_bytes(GRAPH_NODE, _node(node)) for node in nodes),
            write_text(GRAPH_NAME, "graph"),
            *(write_bytes(GRAPH_INITIALIZER, _tensor(name, array)) for name, array in constants.items()),
            *(write_bytes(GRAPH_INPUT, write_value(value)) for value in inputs),
            *(write_bytes(GRAPH_OUTPUT, write_value(value)) for value in outputs),
        )
    )
    opsets = (write_text(OPSET_DOMAIN, domain) + _int(OPSET_VERSION, version) for domain, version in OPSETS.items())
    return b"".join(
        (
            _int(MODEL_IR_VERSION, IR_VERSION),
            write_bytes(MODEL_GRAPH, graph),
            *(write_bytes(MODEL_OPSET_IMPORT, opset) for opset in opsets),
        )
    )


def _node(node: NewNode) -> bytes:
    return b"".join(
        (
            *(write_text(NODE_INPUT, name) for name in node.inputs),
            write_text(NODE_OUTPUT, node.output),
            write_text(NODE_NAME, node.output),
            write_text(NODE_OP_TYPE, node.op_type),
            *(write_bytes(NODE_ATTRIBUTE, _attribute(*item)) for item in node.attributes.items()),
            write_text(NODE_DOMAIN, node.domain),
        )
    )


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return write_text(ATTRIBUTE_NAME, name) + _int(ATTRIBUTE_INT, value) + _int(ATTRIBUTE_TYPE, INT)
    numbers = b"".join(_int(ATTRIBUTE_INTS, number) for number in value)
    return write_text(ATTRIBUTE_NAME, name) + numbers + _int(ATTRIBUTE_TYPE, INTS)


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    return b"".join(
        (
            *(_int(TENSOR_DIMS, size) for size in array.shape),
            _int(TENSOR_DATA_TYPE, ELEMENTS[array.dtype.name]),
            write_text(TENSOR_NAME, name),
            # Little-endian by the standard, as is every machine that bnas-deploy supports.
            write_bytes(TENSOR_RAW_DATA, np.ascontiguousarray(array).tobytes()),
        )
    )


def write_value(value: Value) -> bytes:
    """Write what the graph says about an input or output of it."""
    shape = b"".join(write_bytes(SHAPE_DIM, _int(DIM_VALUE, size)) for size in value.shape)
    tensor = _int(TENSOR_ELEMENT, ELEMENTS[value.dtype]) + write_bytes(TENSOR_SHAPE, shape)
    return write_text(VALUE_NAME, value.name) + write_bytes(VALUE_TYPE, write_bytes(TYPE_TENSOR, tensor))


def write_text(number: int, text: str) -> bytes:
    """Write a string as field `number`."""
    return write_bytes(number, text.encode("utf-8", "surrogateescape"))


def write_bytes(number: int, payload: bytes) -> bytes:
    """Write a message as field `number`."""
    return _varint(number << 3 | BYTES) + _varint(len(payload)) + payload


def _int(number: int, value: int) -> bytes:
    return _varint(number << 3 | VARINT) + _varint(value)


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; all but the last byte have their top bit set. No negative numbers."""
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)
