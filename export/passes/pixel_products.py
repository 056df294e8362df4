"""Convolutions of one pixel, as gates have them, become matrix products.

onnxruntime lays out what its convolutions read in blocks of channels. For a gate that is more work than the products.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import UNRECORDED, array_of, constant, sole_consumer
from bnas_deploy.export.passes.folding import BIAS_TERMS, FOLD_ROUNDINGS, conv_parameters

_UNARY = ("HardSigmoid", "LeakyRelu", "Relu", "Sigmoid")


class PixelConvToGemm:
    """Conv of one pixel -> Reshape, Gemm, Reshape, without the second one in front of Relu, Sigmoid and the next."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the convolutions of one pixel to one pixel, in running order."""
        return (node for node in model.graph if _is_of_one_pixel(node))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays a convolution."""
        if any(array_of(value) is None for value in node.inputs[1:] if value is not None):
            return f"the weights of {node.name} are computed from the input"
        if node.attributes.get_int("group", 1) != 1:
            return f"{node.name} is grouped"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace it and what is unary behind it."""
        x, graph = node.inputs[0], model.graph
        assert x is not None
        weight, bias = conv_parameters(node)
        before, nodes = x.producer(), []
        if before is not None and before.op_type == "Reshape" and _is_vector(before.inputs[0]):
            flat = before.inputs[0]
        else:
            first = _vector(f"{node.outputs[0].name}.pixel", x, weight.shape[1])
            target = constant(graph, f"{first.name}.shape", np.array([0, -1], np.int64))
            nodes = [ir.Node("", "Reshape", [x, target], outputs=[first], name=str(first.name))]
            flat = first
        made = _vector(f"{node.outputs[0].name}.vector", x, len(weight))
        data = {"weight": weight.reshape(len(weight), -1), "bias": bias}
        parameters = [constant(graph, f"{node.name}.{name}", each.astype(np.float32)) for name, each in data.items()]
        product = ir.Node(
            "", "Gemm", [flat, *parameters], [ir.AttrInt64("transB", 1)], outputs=[made], name=str(node.name)
        )
        product.meta.update({key: node.meta[key] for key in (BIAS_TERMS, FOLD_ROUNDINGS) if key in node.meta})
        nodes.append(product)
        replaced, last = [node], node
        while (reader := sole_consumer(last.outputs[0])) is not None and _is_unary(reader):
            y = reader.outputs[0]
            made = _vector(f"{y.name}.vector", x, len(weight))
            made_by = ir.Node(
                "", reader.op_type, [nodes[-1].outputs[0]], reader.attributes, outputs=[made], name=str(reader.name)
            )
            nodes.append(made_by)
            replaced.append(reader)
            last = reader
        y = last.outputs[0]
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        shape = constant(graph, f"{y.name}.shape", np.array([0, -1, 1, 1], np.int64))
        nodes.append(ir.Node("", "Reshape", [made, shape], outputs=[result], name=f"{y.name}.image"))
        ir.convenience.replace_nodes_and_values(graph, last, [*reversed(replaced)], nodes, [y], [result])


def _is_of_one_pixel(node: ir.Node) -> bool:
    if node.op_type != "Conv" or node.domain != "" or node.inputs[0] is None:
        return False
    shapes = [value.shape for value in (node.inputs[0], node.outputs[0])]
    if any(shape is None or len(shape) != 4 for shape in shapes):
        return False
    weight = array_of(node.inputs[1])
    pixels = all(size == 1 for shape in shapes if shape is not None for size in shape[2:])
    return pixels and weight is not None and weight.shape[2:] == (1, 1)


def _is_vector(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 2


def _is_unary(node: ir.Node) -> bool:
    return node.domain == "" and node.op_type in _UNARY


def _vector(name: str, like: ir.Value, channels: int) -> ir.Value:
    """Return a value (N, channels) that PyTorch does not have."""
    assert like.shape is not None
    value = ir.Value(name=name, shape=ir.Shape([like.shape[0], channels]), type=like.type)
    value.meta[UNRECORDED] = True
    return value
