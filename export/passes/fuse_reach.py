"""Activations of two bits (FracBNN): what stands around their convolutions becomes operators of images.

The second bit counts only where the sum of the first is large enough. No convolution takes that in: it would have to
wait for the other one.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.export.graph import (
    array_of,
    channel_numbers,
    channel_slopes,
    channels_of,
    constant,
    constant_beside,
    is_recorded,
    same_shape,
    sole_consumer,
)
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import Affine, Doubles
from bnas_deploy.export.passes.threshold import Floats

REACHED = "reached"
"""Key of a node's note for `export.bounds`, a `Reached`."""

REACH = Operator(
    convolves=False, reaches=True, before=1, scaled=True, activation="PRelu", affine=True, added=1, scaled_last=True
)
"""a + [a >= reach] b, a BN, a PReLU, a BN, a sum and a BN; those that a network has not are neutral."""

SECOND_BIT = Operator(convolves=False, second_bit=True)


@dataclass(frozen=True)
class Reached:
    """Scale and bias in front of the activation, behind it, and behind the sum."""

    first: Affine
    second: Affine
    last: Affine


@dataclass(frozen=True)
class _Chain:
    """What follows a sum a + [a >= reach] b, up to `end`."""

    a: ir.Value
    b: ir.Value
    reach: Floats
    slopes: Floats
    added: ir.Value
    note: Reached
    end: ir.Node


class FuseReach:
    """a + [a >= t] b -> BN -> PRelu -> Add -> BN becomes one operator of images, with t for each channel.

    Numbers may be added to each channel between any of these, or multiplied with it. A BN may be missing.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the sums."""
        return (node for node in model.graph if _gated_sum(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays."""
        chain = _chain(node)
        if chain is None:
            return "no PReLU and no sum of images follow that nobody else reads"
        read = (chain.a, chain.b, chain.added)
        if not all(map(is_recorded, read)):
            return "PyTorch's program has no value of its own for what it reads"
        return None if all(same_shape(value, node.outputs[0]) for value in read) else "what it reads differs in shape"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the end of the chain; the rest is left to DropUnused."""
        chain = _chain(node)
        assert chain is not None
        note, y = chain.note, chain.end.outputs[0]
        numbers: dict[str, Doubles | Floats] = {
            "reach": chain.reach,
            "scale": note.first.slope,
            "bias": note.first.shift,
            "slope": chain.slopes,
            "scale2": note.second.slope,
            "bias2": note.second.shift,
            "scale3": note.last.slope,
            "bias3": note.last.shift,
        }
        given = {
            name: constant(model.graph, f"{y.name}.{name}", data.astype(np.float32)) for name, data in numbers.items()
        }
        given |= {"X": chain.b, "before1": chain.a, "added1": chain.added}
        _replace(chain.end, REACH, given).meta[REACHED] = note


class FuseSecondBit:
    """x * (t - |x|) becomes one operator of images: its sign is the second bit of an activation."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the products."""
        return (node for node in model.graph if _second_bit(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays."""
        shape = node.outputs[0].shape
        return None if shape is not None and len(shape) == 4 else "what it reads are no images"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the product."""
        found = _second_bit(node)
        assert found is not None
        x, step = found
        _replace(node, SECOND_BIT, {"X": x, "step": constant(model.graph, f"{node.name}.step", step)})


def _replace(node: ir.Node, row: Operator, given: dict[str, ir.Value]) -> ir.Node:
    y = node.outputs[0]
    result = ir.Value(name=y.name, shape=y.shape, type=y.type)
    result.meta.update(y.meta)
    fused = ir.Node(DOMAIN, row.name, [given[name] for name in row.inputs], outputs=[result], name=node.name)
    assert isinstance(node.graph, ir.Graph)
    ir.convenience.replace_nodes_and_values(node.graph, node, [node], [fused], [y], [result])
    return fused


def _is(node: ir.Node | None, operation: str) -> bool:
    return node is not None and node.domain == "" and node.op_type == operation


def _made_by(value: ir.Value | None, operation: str) -> ir.Node | None:
    """Return the node of this operator that makes `value` for one reader alone."""
    node = None if value is None else value.producer()
    return node if value is not None and _is(node, operation) and sole_consumer(value) is not None else None


def _gated_sum(node: ir.Node) -> tuple[ir.Value, ir.Value, Floats] | None:
    """Return a, b and t (C) of a + [a >= t] b; None if `node` adds something else."""
    for product_value in node.inputs if _is(node, "Add") else ():
        product = _made_by(product_value, "Mul")
        for gate in product.inputs if product is not None else ():
            cast = _made_by(gate, "Cast")
            compared = None if cast is None else _made_by(cast.inputs[0], "GreaterOrEqual")
            if product is None or product_value is None or gate is None or compared is None:
                continue
            a, b = constant_beside(node, product_value), constant_beside(product, gate)
            reach = channel_numbers(compared.inputs[1], compared.outputs[0])
            if a is not None and b is not None and a is compared.inputs[0] and reach is not None:
                return a, b, reach
    return None


def _chain(node: ir.Node) -> _Chain | None:
    found = _gated_sum(node)
    if found is None:
        return None
    first, value, _ = _numbers_behind(node)
    prelu = sole_consumer(value)
    slopes = channel_slopes(prelu) if prelu is not None and _is(prelu, "PRelu") and prelu.inputs[0] is value else None
    if prelu is None or slopes is None:
        return None
    second, value, _ = _numbers_behind(prelu)
    total = sole_consumer(value)
    added = constant_beside(total, value) if total is not None and _is(total, "Add") else None
    if total is None or added is None or array_of(added) is not None:
        return None
    last, _, end = _numbers_behind(total)
    return _Chain(*found, slopes, added, Reached(first, second, last), end)


def _numbers_behind(node: ir.Node) -> tuple[Affine, ir.Value, ir.Node]:
    """Return what BNs and numbers per channel behind `node` make of its result, what they make, and the last of them.

    Each is the only reader of what it reads.
    """
    channels = channels_of(node.outputs[0])
    total = Affine(np.ones(channels), np.zeros(channels), np.zeros(channels), 0)
    while True:
        value = node.outputs[0]
        reader = sole_consumer(value)
        affine = None if reader is None else _affine(reader)
        if reader is None or affine is None:
            return total, value, node
        total = Affine(
            affine.slope * total.slope,
            affine.slope * total.shift + affine.shift,
            np.abs(affine.slope) * total.terms + affine.terms,
            total.roundings + affine.roundings,
        )
        node = reader


def _affine(node: ir.Node) -> Affine | None:
    if _is(node, "BatchNormalization"):
        return BatchNorm.of(node).as_affine() if has_known_parameters(node) else None
    return affine_of(node)


def _second_bit(node: ir.Node) -> tuple[ir.Value, Floats] | None:
    """Return x and t (C) of x * (t - |x|); None if `node` is another product."""
    for rest in node.inputs if _is(node, "Mul") else ():
        difference = _made_by(rest, "Sub")
        found = None if difference is None else constant_operand(difference)
        if rest is None or found is None:
            continue
        absolute, step, is_first = found
        x, magnitude = constant_beside(node, rest), _made_by(absolute, "Abs")
        if step is not None and is_first and x is not None and magnitude is not None and magnitude.inputs[0] is x:
            return x, step
    return None
