"""Batch normalisation: into scales, into weights, into constants, into convolutions."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import (
    array_of,
    channels_of,
    constant,
    constant_array,
    is_binary_conv,
    node_before,
    shared_before,
    sole_consumer,
)
from bnas_deploy.export.passes.folding import (
    BIAS_TERMS,
    FOLD,
    Affine,
    Doubles,
    bias_terms,
    conv_parameters,
    fold_into_binary_conv,
    fold_into_conv,
    set_conv_parameters,
    take_over_output,
)
from bnas_deploy.export.passes.threshold import Floats, as_on_images


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
        """Apply to x, (C) or (C, n), as PyTorch does, to the bit."""
        return as_on_images(self.on_images, x)

    def on_images(self, images: torch.Tensor) -> torch.Tensor:
        """Apply to images (N, C, H, W) as PyTorch does."""
        mean, var, gamma, beta = (
            torch.from_numpy(np.array(part)) for part in (self.mean, self.var, self.gamma, self.beta)
        )
        return torch.nn.functional.batch_norm(images, mean, var, gamma, beta, training=False, eps=self.eps)

    def affine(self) -> tuple[Doubles, Doubles]:
        """Return slope and shift with y = slope x + shift, in float64, to be rounded once where they are used."""
        slope = self.gamma.astype(np.float64) / np.sqrt(self.var.astype(np.float64) + self.eps)
        return slope, self.beta - slope * self.mean

    def bias_terms(self) -> Doubles:
        """Return the magnitudes that the shift (C) is the sum of."""
        slope, _ = self.affine()
        terms: Doubles = np.abs(slope * self.mean) + np.abs(self.beta)
        return terms

    def as_affine(self) -> Affine:
        """Return slope and shift, and what PyTorch's roundings are relative to."""
        slope, shift = self.affine()
        return Affine(slope, shift, self.bias_terms(), FOLD)


def _all_batch_norms(model: ir.Model) -> Iterable[ir.Node]:
    return (node for node in model.graph if node.op_type == "BatchNormalization")


def _batch_norms(model: ir.Model) -> Iterable[ir.Node]:
    """Return the BNs whose parameters are known; BatchNormToConstants and BatchNormToConv tell of the others."""
    return (node for node in _all_batch_norms(model) if has_known_parameters(node))


def has_known_parameters(node: ir.Node) -> bool:
    """Tell whether all inputs of `node` but the first are constants."""
    return all(value is None or array_of(value) is not None for value in node.inputs[1:])


_COMPUTED = "its parameters are computed from the input"


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
        fold_into_binary_conv(model.graph, convolution, BatchNorm.of(node).as_affine())
        take_over_output(model.graph, convolution, node)


class FoldBatchNormAfterConv:
    """Float convolution -> BN: slope (W x + b) + shift = (slope W) x + (slope b + shift)."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs that read a float convolution."""
        return (node for node in _batch_norms(model) if is_conv(node_before(node)))

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
        fold_into_conv(model.graph, convolution, BatchNorm.of(node).as_affine())
        take_over_output(model.graph, convolution, node)


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
        weight, bias = conv_parameters(convolution)
        # An axis for each of the kernel's, so that all stand along the input channels, whatever the rank.
        along = (-1, *(1,) * (weight.ndim - 2))
        slope, shift = (part.reshape(along) for part in norm.affine())
        moved, terms = (
            (part * weights).reshape(len(weight), -1).sum(axis=1)
            for part, weights in ((shift, weight), (norm.bias_terms().reshape(along), np.abs(weight)))
        )
        convolution.meta[BIAS_TERMS] = bias_terms(convolution, bias) + terms
        set_conv_parameters(model.graph, convolution, weight * slope, bias + moved)
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


def is_conv(node: ir.Node | None) -> bool:
    """Tell whether `node` is a float convolution."""
    return node is not None and node.domain == "" and node.op_type == "Conv"


def _convolution_of(norm: ir.Node) -> ir.Node | None:
    """Return the float convolution that alone reads `norm`, as its input rather than its weights."""
    reader = sole_consumer(norm.outputs[0])
    return reader if reader is not None and is_conv(reader) and reader.inputs[0] is norm.outputs[0] else None
