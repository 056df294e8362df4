"""A BN behind a gate that reads what it scales: gate, scale and shift in one pass over the image.

The gate needs the whole output of a convolution, so no convolution can take it in (BNext, SENet).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import (
    UNRECORDED,
    channels_of,
    constant,
    is_recorded,
    node_before,
    same_size,
    sole_consumer,
)
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.folding import Doubles
from bnas_deploy.export.passes.shapes import is_reshape

GATED_NORM = "gated_norm"
"""Key of a node's note for `export.bounds`, a `GatedNorm`."""

_FINITE_GATES = ("HardSigmoid", "Sigmoid")
"""A gate minus itself is 0 for these."""


@dataclass(frozen=True)
class GatedNorm:
    """The slope of a BN and the magnitudes that its shift is the sum of, each (C)."""

    slope: Doubles
    terms: Doubles


class GatedNormToOnePass:
    """BN(x * gate) -> BatchNormalization(x), whose scale is the gate times that of the BN.

    Its scale has a number for each channel and none for each image, so the images become channels of one image. That
    copies nothing. onnxruntime takes 79 us for it and the sum behind it, and 100 us for a product and two sums
    (64x56x56; 39 and 64 us for 1024x7x7; least of 60 runs in turns, one thread of a busy AMD EPYC). A second factor, a
    whole image, is multiplied first.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs behind products."""
        norms = (node for node in model.graph if node.op_type == "BatchNormalization" and has_known_parameters(node))
        return (node for node in norms if _is_product(_maker(node.inputs[0])))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN stays behind the product."""
        factors = _factors(node.inputs[0])
        gates = [factor for factor in factors if _is_gate(factor)]
        if len(gates) != 1 or not 2 <= len(factors) <= 3:
            return "it is no product of images and one gate, which nobody else reads"
        return None if all(map(is_recorded, factors)) else "PyTorch's program has no value of its own for a factor"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the BN; the products are left to DropUnused."""
        y, norm, graph = node.outputs[0], BatchNorm.of(node), model.graph
        factors = _factors(node.inputs[0])
        (gate,) = (factor for factor in factors if _is_gate(factor))
        images = [factor for factor in factors if factor is not gate]
        slope, shift = norm.affine()
        nodes: list[ir.Node] = []

        def add(
            operation: str, *inputs: ir.Value, like: ir.Value | None = None, epsilon: float | None = None
        ) -> ir.Value:
            attributes = () if epsilon is None else [ir.AttrFloat32("epsilon", epsilon)]
            name = f"{y.name}.{operation}{len(nodes)}"
            value = ir.Value(name=name, shape=None if like is None else like.shape, type=y.type)
            value.meta[UNRECORDED] = True
            nodes.append(ir.Node("", operation, inputs, attributes, outputs=[value], name=name))
            return value

        def number(name: str, data: Doubles) -> ir.Value:
            return constant(graph, f"{y.name}.{name}", data.astype(np.float32).reshape(1, -1, 1, 1))

        flat = constant(graph, f"{y.name}.flat", np.array([-1], np.int64))
        scale = add("Reshape", add("Mul", gate, number("slope", slope), like=gate), flat)
        zero = add("Sub", gate, gate, like=gate)
        bias = add("Reshape", add("Add", zero, number("shift", shift), like=gate), flat)
        mean = add("Reshape", zero, flat)
        var = add("Add", mean, constant(graph, f"{y.name}.one", np.array(1, np.float32)))
        image = images[0] if len(images) == 1 else add("Mul", *images, like=y)
        whole = add("Reshape", image, constant(graph, f"{y.name}.one_image", np.array([1, -1, 0, 0], np.int64)))
        normed = add("BatchNormalization", whole, scale, bias, mean, var, epsilon=0.0)
        nodes[-1].meta[GATED_NORM] = GatedNorm(slope, norm.bias_terms())
        nodes[-1].name = node.name
        channels = np.array([-1, channels_of(y), 0, 0], np.int64)
        result = add("Reshape", normed, constant(graph, f"{y.name}.channels", channels), like=y)
        result.name = y.name
        result.meta.clear()
        result.meta.update(y.meta)
        ir.convenience.replace_nodes_and_values(graph, node, [node], nodes, [y], [result])


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_product(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Mul" and node.domain == ""


def _factors(value: ir.Value | None) -> list[ir.Value]:
    """Return the factors of a product that only one node reads, and of products in it; else `value` itself."""
    assert value is not None
    maker = value.producer()
    if maker is None or not _is_product(maker) or sole_consumer(value) is None:
        return [value]
    return [factor for each in maker.inputs for factor in _factors(each)]


def _is_gate(value: ir.Value) -> bool:
    """Tell whether `value` is a finite number for each image and channel."""
    maker, shape = value.producer(), value.shape
    maker = node_before(maker) if maker is not None and is_reshape(maker) else maker
    if maker is None or maker.op_type not in _FINITE_GATES or shape is None or len(shape) != 4:
        return False
    return all(same_size(size, 1) for size in shape[2:])
