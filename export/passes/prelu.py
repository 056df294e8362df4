"""PReLUs that are left: operators of other names compute the same to the bit, and onnxruntime has vectors for those."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.export.graph import array_of, channel_slopes, constant


class PReluOfImages:
    """PRelu of images with a slope for each channel becomes an operator, which passes over them once."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every PRelu that has several slopes."""
        prelus = (node for node in model.graph if node.op_type == "PRelu" and node.domain == "")
        return (node for node in prelus if (slope := array_of(node.inputs[1])) is None or slope.size > 1)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays for PReluToMaximum."""
        shape = node.outputs[0].shape
        if array_of(node.inputs[1]) is None:
            return "its slope is computed from the input"
        if shape is None or len(shape) != 4:
            return "what it reads are no images"
        return None if channel_slopes(node) is not None else "its slopes are not one for each channel"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the node."""
        y, slopes, row = node.outputs[0], channel_slopes(node), Operator(convolves=False, activation="PRelu")
        assert slopes is not None
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        given = {"X": node.inputs[0], "slope": constant(model.graph, f"{node.name}.slope", slopes)}
        fused = ir.Node(DOMAIN, row.name, [given[name] for name in row.inputs], outputs=[result], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [fused], [y], [result])


class PReluToMaximum:
    """PRelu(x, slope) becomes Max(x, slope x) where no slope is above 1, and Min(x, slope x) where none is below.

    For x >= 0 that is x, as slope x is on the other side of it, and for x < 0 it is slope x, rounded as PRelu rounds
    it. One slope for all is a LeakyRelu. Slopes on both sides of 1 take two terms, one of which is 0: Relu(x) and
    slope times x - Relu(x). This holds for every x that is finite. onnxruntime's PRelu of 64x112x112 takes 28 ms, and
    Mul and Max 0.5 (1.32, one thread of a busy AMD EPYC).
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every PRelu."""
        return (node for node in model.graph if node.op_type == "PRelu" and node.domain == "")

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays a PRelu."""
        slope = array_of(node.inputs[1])
        if slope is None:
            return "its slope is computed from the input"
        return None if np.isfinite(slope).all() else "a slope is not finite"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the node."""
        x, slope, y = node.inputs[0], node.inputs[1], node.outputs[0]
        assert x is not None
        assert slope is not None
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        nodes = _nodes(x, slope, y, result)
        nodes[-1].name = node.name
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, [y], [result])


def _nodes(x: ir.Value, slope: ir.Value, y: ir.Value, result: ir.Value) -> list[ir.Node]:
    slopes = array_of(slope)
    assert slopes is not None
    if slopes.size == 1:
        return [ir.Node("", "LeakyRelu", [x], [ir.AttrFloat32("alpha", float(slopes.item()))], outputs=[result])]
    if (slopes <= 1).all() or (slopes >= 1).all():
        product = _made("Mul", x, slope, f"{y.name}.sloped", y)
        chosen = "Max" if (slopes <= 1).all() else "Min"
        return [product, ir.Node("", chosen, [x, product.outputs[0]], outputs=[result])]
    above = ir.Node("", "Relu", [x], outputs=[_value(f"{y.name}.above", y)], name=f"{y.name}.above")
    below = _made("Sub", x, above.outputs[0], f"{y.name}.below", y)
    product = _made("Mul", below.outputs[0], slope, f"{y.name}.sloped", y)
    return [above, below, product, ir.Node("", "Add", [above.outputs[0], product.outputs[0]], outputs=[result])]


def _made(operation: str, left: ir.Value, right: ir.Value, name: str, like: ir.Value) -> ir.Node:
    return ir.Node("", operation, [left, right], outputs=[_value(name, like)], name=name)


def _value(name: str, like: ir.Value) -> ir.Value:
    return ir.Value(name=name, shape=like.shape, type=like.type)
