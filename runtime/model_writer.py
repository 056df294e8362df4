"""Writes the ONNX file of a small graph without the package `onnx`, which a device does not have.

The counterpart of `bnas_deploy.runtime.graph`: see there for what such a file is. The numbers of the fields are those
of onnx.proto, where they are frozen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.runtime.graph import (
    BYTES,
    GRAPH_NODE,
    MODEL_GRAPH,
    NODE_INPUT,
    NODE_NAME,
    NODE_OP_TYPE,
    NODE_OUTPUT,
    VARINT,
)

MODEL_IR_VERSION, MODEL_OPSET_IMPORT = 1, 8
OPSET_DOMAIN, OPSET_VERSION = 1, 2
GRAPH_NAME, GRAPH_INITIALIZER, GRAPH_INPUT, GRAPH_OUTPUT = 2, 5, 11, 12
NODE_ATTRIBUTE, NODE_DOMAIN = 5, 7
ATTRIBUTE_NAME, ATTRIBUTE_INT, ATTRIBUTE_INTS, ATTRIBUTE_TYPE = 1, 3, 8, 20
TENSOR_DIMS, TENSOR_DATA_TYPE, TENSOR_NAME, TENSOR_RAW_DATA = 1, 2, 8, 9
VALUE_NAME, VALUE_TYPE = 1, 2
TYPE_TENSOR, TENSOR_ELEMENT, TENSOR_SHAPE, SHAPE_DIM, DIM_VALUE = 1, 1, 2, 1, 1

INT, INTS = 2, 7  # types of an attribute
ELEMENTS = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}

IR_VERSION = 9
"""The newest of onnxruntime 1.17, the oldest that the operator library serves."""

OPSETS = {"": 18, "bnas": 1}


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
            *(_bytes(GRAPH_NODE, _node(node)) for node in nodes),
            _text(GRAPH_NAME, "graph"),
            *(_bytes(GRAPH_INITIALIZER, _tensor(name, array)) for name, array in constants.items()),
            *(_bytes(GRAPH_INPUT, _value(value)) for value in inputs),
            *(_bytes(GRAPH_OUTPUT, _value(value)) for value in outputs),
        )
    )
    opsets = (_text(OPSET_DOMAIN, domain) + _int(OPSET_VERSION, version) for domain, version in OPSETS.items())
    return b"".join(
        (
            _int(MODEL_IR_VERSION, IR_VERSION),
            _bytes(MODEL_GRAPH, graph),
            *(_bytes(MODEL_OPSET_IMPORT, opset) for opset in opsets),
        )
    )


def _node(node: NewNode) -> bytes:
    return b"".join(
        (
            *(_text(NODE_INPUT, name) for name in node.inputs),
            _text(NODE_OUTPUT, node.output),
            _text(NODE_NAME, node.output),
            _text(NODE_OP_TYPE, node.op_type),
            *(_bytes(NODE_ATTRIBUTE, _attribute(*item)) for item in node.attributes.items()),
            _text(NODE_DOMAIN, node.domain),
        )
    )


def _attribute(name: str, value: int | Sequence[int]) -> bytes:
    if isinstance(value, int):
        return _text(ATTRIBUTE_NAME, name) + _int(ATTRIBUTE_INT, value) + _int(ATTRIBUTE_TYPE, INT)
    numbers = b"".join(_int(ATTRIBUTE_INTS, number) for number in value)
    return _text(ATTRIBUTE_NAME, name) + numbers + _int(ATTRIBUTE_TYPE, INTS)


def _tensor(name: str, array: NDArray[Any]) -> bytes:
    return b"".join(
        (
            *(_int(TENSOR_DIMS, size) for size in array.shape),
            _int(TENSOR_DATA_TYPE, ELEMENTS[array.dtype.name]),
            _text(TENSOR_NAME, name),
            # Little-endian by the standard, as is every machine that bnas-deploy supports.
            _bytes(TENSOR_RAW_DATA, np.ascontiguousarray(array).tobytes()),
        )
    )


def _value(value: Value) -> bytes:
    shape = b"".join(_bytes(SHAPE_DIM, _int(DIM_VALUE, size)) for size in value.shape)
    tensor = _int(TENSOR_ELEMENT, ELEMENTS[value.dtype]) + _bytes(TENSOR_SHAPE, shape)
    return _text(VALUE_NAME, value.name) + _bytes(VALUE_TYPE, _bytes(TYPE_TENSOR, tensor))


def _text(number: int, text: str) -> bytes:
    return _bytes(number, text.encode())


def _bytes(number: int, payload: bytes) -> bytes:
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
