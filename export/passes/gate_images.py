"""A gate that reads what it scales, and what follows: one operator, which passes over the image once.

The gate needs the whole output of a convolution, so no convolution can take it in (BNext, SENet).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.export.graph import UNRECORDED, channels_of, constant, is_recorded, same_shape, sole_consumer
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.folding import Doubles

GATED_NORM = "gated_norm"
"""Key of a node's note for `export.bounds`, a `GatedNorm`."""


@dataclass(frozen=True)
class GatedNorm:
    """The slope of a BN and the magnitudes that its shift is the sum of, each (C)."""

    slope: Doubles
    terms: Doubles


class GateImages:
    """BN(x * gate) -> GateAffine(x), and x * gate, too, where that is added to something: FuseAddition goes on.

    A gate is a number for each image and channel. A second factor, a whole image, is multiplied first.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs behind products, and products that are added to something."""
        for node in model.graph:
            is_norm = node.op_type == "BatchNormalization" and has_known_parameters(node)
            if (is_norm and _is_product(_maker(node.inputs[0]))) or (_is_product(node) and _is_added(node.outputs[0])):
                yield node

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays."""
        factors = _factors_of(node)
        gates = [factor for factor in factors if _is_gate(factor)]
        if len(gates) != 1 or not 2 <= len(factors) <= 3:
            return "" if _is_product(node) else "it is no product of images and one gate, which nobody else reads"
        if not all(same_shape(factor, node.outputs[0]) for factor in factors if factor not in gates):
            return "a factor has not all pixels"
        return None if all(map(is_recorded, factors)) else "PyTorch's program has no value of its own for a factor"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace it; the products of a BN are left to DropUnused."""
        y, graph = node.outputs[0], model.graph
        factors = _factors_of(node)
        (gate,) = (factor for factor in factors if _is_gate(factor))
        image, *others = (factor for factor in factors if factor is not gate)
        nodes = []
        for number, other in enumerate(others):
            product = ir.Value(name=f"{y.name}.images{number}", shape=y.shape, type=y.type)
            product.meta[UNRECORDED] = True
            nodes.append(ir.Node("", "Mul", [image, other], outputs=[product], name=product.name))
            image = product
        note, slope, shift = None, np.ones(channels_of(y)), np.zeros(channels_of(y))
        if not _is_product(node):
            norm = BatchNorm.of(node)
            slope, shift = norm.affine()
            note = GatedNorm(slope, norm.bias_terms())
        given = {
            "X": image,
            "gate": gate,
            "scale2": constant(graph, f"{y.name}.scale2", slope.astype(np.float32)),
            "bias2": constant(graph, f"{y.name}.bias2", shift.astype(np.float32)),
        }
        row = Operator(convolves=False, gate=True, affine=True)
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        fused = ir.Node(DOMAIN, row.name, [given[name] for name in row.inputs], outputs=[result], name=node.name)
        if note is not None:
            fused.meta[GATED_NORM] = note
        ir.convenience.replace_nodes_and_values(graph, node, [node], [*nodes, fused], [y], [result])


def _maker(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _is_product(node: ir.Node | None) -> bool:
    return node is not None and node.op_type == "Mul" and node.domain == ""


def _is_added(value: ir.Value) -> bool:
    """Tell whether `value` is read once, by a sum with another of its shape."""
    reader = sole_consumer(value)
    if reader is None or reader.op_type != "Add" or reader.domain != "":
        return False
    return all(each is not None and same_shape(each, value) for each in reader.inputs)


def _factors_of(node: ir.Node) -> list[ir.Value]:
    """Return the factors of a product, or of what a BN normalises."""
    values = node.inputs if _is_product(node) else node.inputs[:1]
    return [factor for value in values for factor in _factors(value)]


def _factors(value: ir.Value | None) -> list[ir.Value]:
    """Return the factors of a product that only one node reads, and of products in it; else `value` itself."""
    assert value is not None
    maker = value.producer()
    if maker is None or not _is_product(maker) or sole_consumer(value) is None:
        return [value]
    return [factor for each in maker.inputs for factor in _factors(each)]


def _is_gate(value: ir.Value) -> bool:
    """Tell whether `value` is a number for each image and channel, which is computed."""
    shape = value.shape
    return value.const_value is None and shape is not None and len(shape) == 4 and tuple(shape[2:]) == (1, 1)
