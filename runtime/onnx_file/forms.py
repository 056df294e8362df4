"""One network in two files, with float layers and with the same layers in 8 bits, and every mixture of both.

Both files are of `bnas-deploy export`: in the second one a layer reads what a QuantizeLinear and a DequantizeLinear
have rounded, and so is what it gives; all other nodes and their names are those of the first. So the mixture in which
layer L stays float is the second file with the first one's L in the place of its own, and whoever reads L, or read the
same as L and is float, reads the unrounded value. What nobody reads any more is left out.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from bnas_deploy.runtime.onnx_file.cut import Graph, node_with
from bnas_deploy.runtime.onnx_file.reader import (
    GRAPH_INITIALIZER,
    GRAPH_INPUT,
    GRAPH_NODE,
    GRAPH_OUTPUT,
    MODEL_GRAPH,
    TENSOR_NAME,
    VALUE_NAME,
    fields,
    payloads,
    texts,
)
from bnas_deploy.runtime.onnx_file.writer import GRAPH_NAME, Value, write_bytes, write_text, write_value


@dataclass(frozen=True)
class Placed:
    """A node of a mixture: its bytes in one of the files, and what its values are called in the mixture."""

    name: str
    op_type: str
    raw: memoryview = field(repr=False)
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    renamed: Mapping[str, str] = field(repr=False)

    def written(self) -> bytes:
        """Return the field of a graph that the node is."""
        return write_bytes(GRAPH_NODE, node_with(self.raw, lambda value: self.renamed.get(value, value)))


@dataclass(frozen=True)
class Forms:
    """A network with float layers (`floats`) and with `layers`, the names of some nodes, in 8 bits (`int8`)."""

    floats: bytes = field(repr=False)
    int8: bytes = field(repr=False)
    layers: tuple[str, ...]

    @cached_property
    def _float_graph(self) -> Graph:
        return Graph.of(self.floats)

    @cached_property
    def _int8_graph(self) -> Graph:
        return Graph.of(self.int8)

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the network's inputs."""
        return self._int8_graph.inputs

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the network's outputs."""
        return self._int8_graph.outputs

    @cached_property
    def constants(self) -> Mapping[str, memoryview]:
        """The tensors of both files by their names in a mixture; the first file's weights have a name of their own."""
        ours = {_float_name(name): raw for name, raw in _tensors(self.floats)}
        return {**ours, **dict(_tensors(self.int8))}

    @cached_property
    def _read_by_8_bits(self) -> Mapping[str, str]:
        """What a DequantizeLinear gives, to what was rounded before it."""
        makers = {output: node for node in self._int8_graph.nodes for output in node.outputs}
        found = {}
        for node in self._int8_graph.nodes:
            before = makers.get(node.inputs[0]) if node.op_type == "DequantizeLinear" else None
            if before is not None and before.op_type == "QuantizeLinear":
                found[node.outputs[0]] = before.inputs[0]
        return found

    @cached_property
    def _made_by(self) -> Mapping[str, str]:
        """The layer that makes a value of the second file, before it is rounded."""
        return {
            output: node.name
            for node in self._int8_graph.nodes
            if node.name in set(self.layers)
            for output in node.outputs
        }

    def rounded(self, value: str, in_8_bits: Collection[str]) -> str:
        """Return the name of what is read of `value`, of the first file, where its layer may be one in 8 bits."""
        if self._made_by.get(value) not in in_8_bits:
            return value
        return next((after for after, before in self._read_by_8_bits.items() if before == value), value)

    def nodes(self, in_8_bits: Collection[str]) -> list[Placed]:
        """Return the nodes of the mixture in which only the layers `in_8_bits` are so, in running order."""
        unrounded = {
            after: before
            for after, before in self._read_by_8_bits.items()
            if self._made_by.get(before) not in in_8_bits
        }
        placed = [
            self._float_layer(node.name, in_8_bits)
            if node.name in self.layers and node.name not in in_8_bits
            else _placed(self._int8_graph, number, {} if node.name in self.layers else unrounded)
            for number, node in enumerate(self._int8_graph.nodes)
        ]
        # An output of the network keeps its name: it is what comes out of the rounding, and of a float layer the layer.
        made = {output for each in placed if each.name in self.layers for output in each.outputs}
        return _needed(
            [each for each in placed if each.name in self.layers or made.isdisjoint(each.outputs)], self.outputs
        )

    def _float_layer(self, name: str, in_8_bits: Collection[str]) -> Placed:
        graph = self._float_graph
        number = next(number for number, node in enumerate(graph.nodes) if node.name == name)
        names = {name: _float_name(name) for name in graph.initializers}
        names |= {name: self.rounded(name, in_8_bits) for name in graph.read[number] if name not in names}
        return _placed(graph, number, names)

    def model(self, nodes: Sequence[Placed], feeds: Mapping[str, NDArray[Any]], outputs: Iterable[str]) -> bytes:
        """Return the file of those of `nodes` that lie between `feeds`, by name, and `outputs`."""
        makers = {output: each for each in nodes for output in each.outputs if output not in feeds}
        outputs = tuple(outputs)
        inside = _needed([each for each in nodes if any(output in makers for output in each.outputs)], outputs, feeds)
        read = {name for each in inside for name in each.inputs} & self.constants.keys()
        graph = (
            *(each.written() for each in inside),
            write_text(GRAPH_NAME, "network"),
            *(_tensor(name, self.constants[name]) for name in sorted(read)),
            *(
                write_bytes(GRAPH_INPUT, write_value(Value(name, array.dtype.name, array.shape)))
                for name, array in feeds.items()
            ),
            # Without a type: onnxruntime knows what a node makes.
            *(write_bytes(GRAPH_OUTPUT, write_text(VALUE_NAME, name)) for name in outputs),
        )
        rest = [each.whole for each in fields(memoryview(self.int8)) if each.number != MODEL_GRAPH]
        return b"".join((*rest, write_bytes(MODEL_GRAPH, b"".join(graph))))


def _placed(graph: Graph, number: int, renamed: Mapping[str, str]) -> Placed:
    node = graph.nodes[number]
    renamed = {name: renamed[name] for name in graph.read[number] if name in renamed}  # and no value that it makes
    read = tuple(renamed.get(name, name) for name in graph.read[number])
    return Placed(node.name, node.op_type, graph.raw[number], read, node.outputs, renamed)


def _needed(nodes: Sequence[Placed], outputs: Iterable[str], given: Collection[str] = ()) -> list[Placed]:
    """Return the nodes, which are in running order, that `outputs` depend on, back to what is given."""
    wanted, found = set(outputs), []
    for each in reversed(nodes):
        if not wanted.isdisjoint(each.outputs):
            wanted |= {name for name in each.inputs if name not in given}
            found.append(each)
    return found[::-1]


def _float_name(name: str) -> str:
    return f"float/{name}"


def _tensors(data: bytes) -> list[tuple[str, memoryview]]:
    """Return the constants of a file by name."""
    graphs = payloads(memoryview(data), MODEL_GRAPH)
    return [("".join(texts(raw, TENSOR_NAME)), raw) for graph in graphs for raw in payloads(graph, GRAPH_INITIALIZER)]


def _tensor(name: str, raw: memoryview) -> bytes:
    parts = [each.whole for each in fields(raw) if each.number != TENSOR_NAME]
    return write_bytes(GRAPH_INITIALIZER, b"".join((*parts, write_text(TENSOR_NAME, name))))
