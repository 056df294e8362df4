"""Batch normalisation: into thresholds, into scales, into weights, into constants, into convolutions."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    array_of,
    channels_of,
    constant,
    constant_array,
    input_of,
    is_binary_conv,
    node_before,
    set_input,
    shared_before,
    sole_consumer,
)
from bnas_deploy.export.passes.threshold import Floats, threshold_of


@dataclass(frozen=True)
class BatchNorm:
    """y = gamma (x - mean) / sqrt(var + eps) + beta, all (C) float32: what a BatchNormalization node computes."""

    gamma: Floats
    beta: Floats
    mean: Floats
    var: Floats
    eps: float

    @classmethod
    def of(cls, node: ir.Node) -> "BatchNorm":
        """Read the parameters of a BatchNormalization node."""
        gamma, beta, mean, var = (constant_array(value) for value in node.inputs[1:])
        return cls(gamma, beta, mean, var, node.attributes.get_float("epsilon", 1e-5))

    def __call__(self, x: Floats) -> Floats:
        """Apply to x, (C) or (C, n), as PyTorch does, to the bit.

        Each value is repeated along a row of pixels, so that the vector code runs that runs on images.
        """
        columns = torch.from_numpy(np.ascontiguousarray(x, np.float32)).reshape(1, len(self.gamma), -1, 1)
        rows = columns.expand(-1, -1, -1, _VECTOR_PIXELS).contiguous()
        mean, var, gamma, beta = (
            torch.from_numpy(np.array(part)) for part in (self.mean, self.var, self.gamma, self.beta)
        )
        y = torch.nn.functional.batch_norm(rows, mean, var, gamma, beta, training=False, eps=self.eps)
        result: Floats = y[..., 0].reshape(x.shape).numpy()
        return result

    def affine(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return slope and shift with y = slope x + shift, in float64, to be rounded once where they are used."""
        slope = self.gamma.astype(np.float64) / np.sqrt(self.var.astype(np.float64) + self.eps)
        return slope, self.beta - slope * self.mean

    def bias_terms(self) -> NDArray[np.float64]:
        """Return the magnitudes that the shift (C) is the sum of."""
        slope, _ = self.affine()
        terms: NDArray[np.float64] = np.abs(slope * self.mean) + np.abs(self.beta)
        return terms


_VECTOR_PIXELS = 64


def _all_batch_norms(model: ir.Model) -> Iterable[ir.Node]:
    return (node for node in model.graph if node.op_type == "BatchNormalization")


def _batch_norms(model: ir.Model) -> Iterable[ir.Node]:
    """Return the BNs whose parameters are known; BatchNormToConstants and BatchNormToConv tell of the others."""
    return (node for node in _all_batch_norms(model) if has_known_parameters(node))


def has_known_parameters(node: ir.Node) -> bool:
    """Tell whether all inputs of `node` but the first are constants."""
    return all(value is None or array_of(value) is not None for value in node.inputs[1:])


_COMPUTED = "its parameters are computed from the input"


class FoldBatchNormIntoThreshold:
    """BN -> binary convolution: the sign of the BN is a comparison of what the BN reads.

    Where the comparison is flipped, the weights of that input channel are negated: sign(BN(x)) * w = -sign(x) * w.
    So is what padded taps hold in that channel, (-p) * (-w) = p * w; a 0 there is 0 either way.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the binary convolutions that read a BN."""
        return (node for node in model.graph if is_binary_conv(node) and _norm_before(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        if operator(node.op_type).k_map:
            return "the K map needs the normalised activations, not only their signs"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Make the convolution read what the BN reads."""
        before = _norm_before(node)
        assert before is not None
        threshold = threshold_of(BatchNorm.of(before), constant_array(input_of(node, "threshold")))
        signs = constant_array(input_of(node, "W")).copy()
        group = node.attributes.get_int("group", 1)
        by_group = signs.reshape(group, -1, *signs.shape[1:])  # (G, O/G, C/G, KH, KW)
        channels = len(threshold.flip) // group  # those of X; constant channels are behind them
        by_group[:, :, :channels] *= np.where(threshold.flip, -1, 1).astype(np.float32).reshape(group, 1, -1, 1, 1)
        if operator(node.op_type).pads_signs:
            pad = np.where(threshold.flip, -1, 1).astype(np.float32) * constant_array(input_of(node, "pad"))
            set_input(node, "pad", constant(model.graph, f"{node.name}.pad", pad))
        set_input(node, "threshold", constant(model.graph, f"{node.name}.threshold", threshold.level))
        set_input(node, "W", constant(model.graph, f"{node.name}.signs", signs))
        x = before.inputs[0]
        assert x is not None
        set_input(node, "X", x)


def _norm_before(node: ir.Node) -> ir.Node | None:
    producer = input_of(node, "X").producer()
    is_norm = producer is not None and producer.op_type == "BatchNormalization" and has_known_parameters(producer)
    return producer if is_norm else None


BIAS_TERMS = "bias_terms"
"""Key of a node's note for `export.bounds`: the magnitudes that a folded bias (O) is the sum of."""


class FoldBatchNormAfterBinaryConv:
    """Binary convolution -> BN: the BN becomes part of its scale and bias.

    slope (scale acc + bias) + shift = (slope scale) acc + (slope bias + shift)
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs that read a binary convolution."""
        return (node for node in _batch_norms(model) if is_binary_conv(node_before(node)))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        convolution = node_before(node)
        assert convolution is not None
        row = operator(convolution.op_type)
        if row.activation or row.added:
            return f"an activation or an addition stands between {convolution.name} and the BN"
        shared = shared_before(node)
        return f"{shared} is also read without the BN" if shared else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold and remove the BN."""
        convolution = node_before(node)
        assert convolution is not None
        norm = BatchNorm.of(node)
        slope, shift = norm.affine()
        bias = slope * constant_array(input_of(convolution, "bias"))
        folded = {"scale": slope * constant_array(input_of(convolution, "scale")), "bias": bias + shift}
        for name, data in folded.items():
            rounded = constant(model.graph, f"{convolution.name}.{name}", data.astype(np.float32))
            set_input(convolution, name, rounded)
        convolution.meta[BIAS_TERMS] = np.abs(bias) + norm.bias_terms()
        _take_over_output(model.graph, convolution, node)


class FoldBatchNormAfterConv:
    """Float convolution -> BN: slope (W x + b) + shift = (slope W) x + (slope b + shift)."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs that read a float convolution."""
        return (node for node in _batch_norms(model) if _is_conv(node_before(node)))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        convolution = node_before(node)
        assert convolution is not None
        if not has_known_parameters(convolution):
            return f"the weights of {convolution.name} are computed from the input"
        shared = shared_before(node)
        return f"{shared} is also read without the BN" if shared else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold and remove the BN."""
        convolution = node_before(node)
        assert convolution is not None
        norm = BatchNorm.of(node)
        slope, shift = norm.affine()
        weight, bias = _conv_parameters(convolution)
        terms = np.abs(slope) * _bias_terms(convolution, bias) + norm.bias_terms()
        per_output = slope.reshape(-1, *(1,) * (weight.ndim - 1))
        _set_conv_parameters(model.graph, convolution, per_output * weight, slope * bias + shift)
        convolution.meta[BIAS_TERMS] = terms
        _take_over_output(model.graph, convolution, node)


class FoldBatchNormBeforeConv:
    """BN -> float convolution without padding: W (slope x + shift) + b = (W slope) x + (b + W shift)."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs that only one float convolution reads, as its input."""
        return (node for node in _batch_norms(model) if _convolution_of(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        convolution = _convolution_of(node)
        assert convolution is not None
        if not has_known_parameters(convolution):
            return f"the weights of {convolution.name} are computed from the input"
        if any(convolution.attributes.get_ints("pads", ())):
            return f"{convolution.name} pads with zeros behind the BN, so the shift is missing at the border"
        if convolution.attributes.get_int("group", 1) != 1:
            return f"{convolution.name} is grouped"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold the BN and make the convolution read what the BN reads."""
        convolution = _convolution_of(node)
        assert convolution is not None
        norm = BatchNorm.of(node)
        weight, bias = _conv_parameters(convolution)
        # An axis for each of the kernel's, so that all stand along the input channels, whatever the rank.
        along = (-1, *(1,) * (weight.ndim - 2))
        slope, shift = (part.reshape(along) for part in norm.affine())
        moved, terms = (
            (part * weights).reshape(len(weight), -1).sum(axis=1)
            for part, weights in ((shift, weight), (norm.bias_terms().reshape(along), np.abs(weight)))
        )
        convolution.meta[BIAS_TERMS] = _bias_terms(convolution, bias) + terms
        _set_conv_parameters(model.graph, convolution, weight * slope, bias + moved)
        convolution.replace_input_with(0, node.inputs[0])


class BatchNormToConstants:
    """Any BN that is left: x * slope + shift."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every BN."""
        return _all_batch_norms(model)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        return None if has_known_parameters(node) else _COMPUTED

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the BN by a product and a sum with constants."""
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        assert y.shape is not None
        norm = BatchNorm.of(node)
        slope, shift = (part.astype(np.float32) for part in norm.affine())
        shape = (channels_of(y), *(1,) * (len(y.shape) - 2))
        scaled = ir.Value(name=f"{y.name}.scaled", shape=y.shape, type=y.type)
        shifted = ir.Value(name=y.name, shape=y.shape, type=y.type)
        shifted.meta.update(y.meta)
        product = ir.Node(
            "", "Mul", [x, constant(model.graph, f"{y.name}.slope", slope.reshape(shape))], outputs=[scaled]
        )
        total = ir.Node(
            "", "Add", [scaled, constant(model.graph, f"{y.name}.shift", shift.reshape(shape))], outputs=[shifted]
        )
        product.name, total.name = f"{y.name}.scale", f"{y.name}.shift"
        total.meta[BIAS_TERMS] = norm.bias_terms()
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [product, total], [y], [shifted])


class BatchNormToConv:
    """Any BN of images that is left: a 1x1 convolution with a group per channel.

    For the int8 twin: onnxruntime computes no BN in 8 bits, but such a convolution it does, without leaving the layout
    of the convolutions around it.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every BN."""
        return _all_batch_norms(model)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        if not has_known_parameters(node):
            return _COMPUTED
        shape = node.outputs[0].shape
        assert shape is not None
        return None if len(shape) == 4 else "what it normalises are no images"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace the BN by a convolution of the same name."""
        x, y = node.inputs[0], node.outputs[0]
        slope, shift = (part.astype(np.float32) for part in BatchNorm.of(node).affine())
        constants = {"weight": slope.reshape(-1, 1, 1, 1), "bias": shift}
        convolution = ir.Node(
            "",
            "Conv",
            [x, *(constant(model.graph, f"{node.name}.{name}", data) for name, data in constants.items())],
            [ir.AttrInt64("group", len(slope)), ir.AttrInt64s("kernel_shape", [1, 1])],
            outputs=[ir.Value(name=y.name, shape=y.shape, type=y.type)],
            name=node.name,
        )
        convolution.outputs[0].meta.update(y.meta)
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [convolution], [y], convolution.outputs)


def _is_conv(node: ir.Node | None) -> bool:
    return node is not None and node.domain == "" and node.op_type == "Conv"


def _convolution_of(norm: ir.Node) -> ir.Node | None:
    """Return the float convolution that alone reads `norm`, as its input rather than its weights."""
    reader = sole_consumer(norm.outputs[0])
    return reader if reader is not None and _is_conv(reader) and reader.inputs[0] is norm.outputs[0] else None


def _conv_parameters(node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return weight (O, C/groups, and one to three axes of the kernel) and bias (O) in float64."""
    weight = constant_array(node.inputs[1]).astype(np.float64)
    bias = array_of(node.inputs[2]) if len(node.inputs) > 2 else None
    return weight, np.zeros(len(weight)) if bias is None else bias.astype(np.float64)


def _bias_terms(node: ir.Node, bias: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the magnitudes that the bias (O) of a convolution was summed from so far."""
    terms: NDArray[np.float64] = node.meta.get(BIAS_TERMS, np.abs(bias))
    return terms


def _set_conv_parameters(graph: ir.Graph, node: ir.Node, weight: NDArray[Any], bias: NDArray[Any]) -> None:
    node.resize_inputs(3)
    for position, name, data in ((1, "weight", weight), (2, "bias", bias)):
        node.replace_input_with(position, constant(graph, f"{node.name}.{name}", data.astype(np.float32)))


def _take_over_output(graph: ir.Graph, convolution: ir.Node, norm: ir.Node) -> None:
    """Let the convolution's output stand where the BN's stood, under the BN's name, and remove the BN."""
    mine, theirs = convolution.outputs[0], norm.outputs[0]
    name, meta = theirs.name, dict(theirs.meta)
    theirs.replace_all_uses_with(mine, replace_graph_outputs=True)
    graph.remove(norm, safe=True)
    mine.name = name
    mine.meta.clear()
    mine.meta.update(meta)
