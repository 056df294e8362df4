"""The mean of a gate becomes one number per channel that its first layer reads: constants in between go into weights.

A BN in front of a mean has become a product and a sum per channel behind it (`MeanOfTerms`). The layer that reads them
multiplies and adds, too.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bnas_deploy.export.graph import UNRECORDED, array_of, channels_of, constant, sole_consumer
from bnas_deploy.export.passes.channelwise import affine_of, constant_operand
from bnas_deploy.export.passes.folding import BIAS_TERMS, Doubles, conv_parameters
from bnas_deploy.export.passes.means import MEAN_OF_TERMS, MeanNote, averages_pixels
from bnas_deploy.export.passes.shapes import is_reshape, known_sizes

MEAN_IN_GEMM = "mean_in_gemm"
"""Key of a Gemm's note for `export.bounds`, a `MeanInGemm`."""


@dataclass(frozen=True)
class MeanInGemm:
    """What a Gemm computed before it took in the constants of the mean that it reads.

    Attributes:
        weight: magnitudes of the weights (O, C).
        bias_terms: (O), the magnitudes that the bias was summed from.
        slope: magnitudes (C) of what the mean was multiplied by.
        mean: what PyTorch does in front of the mean.
    """

    weight: Doubles
    bias_terms: Doubles
    slope: Doubles
    mean: MeanNote


class FoldMeanIntoGemm:
    """ReduceMean -> s m + c -> Reshape -> Gemm: W (s m + c) + b = (W s) m + (b + W c).

    The mean gives a vector then, which needs no Reshape. It saves three small nodes for each gate of Real-to-Binary.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the matrix products that read a mean and constants behind it."""
        return (node for node in model.graph if _site_of(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the constants stay."""
        if any(array_of(value) is None for value in node.inputs[1:] if value is not None):
            return f"the weights of {node.name} are computed from the input"
        is_plain = all(node.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
        if not is_plain or not node.attributes.get_int("transB", 0):
            return f"{node.name} is scaled, or has its weights by columns"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold the constants, and let the product read the mean itself."""
        site = _site_of(node)
        assert site is not None
        weight, bias = conv_parameters(node)  # (O, C) and (O)
        terms = node.meta.get(BIAS_TERMS, np.abs(bias))
        node.meta[MEAN_IN_GEMM] = MeanInGemm(np.abs(weight), terms, np.abs(site.slope), site.note)
        node.resize_inputs(3)
        node.replace_input_with(0, _vector(model.graph, site.mean, node))
        for position, (name, data) in enumerate(
            {"weight": weight * site.slope, "bias": bias + weight @ site.shift}.items(), start=1
        ):
            node.replace_input_with(position, constant(model.graph, f"{node.name}.{name}", data.astype(np.float32)))


@dataclass(frozen=True)
class _Site:
    """A mean, and slope and shift (C) behind it."""

    mean: ir.Node
    slope: NDArray[np.float64]
    shift: NDArray[np.float64]
    note: MeanNote


def _site_of(gemm: ir.Node) -> _Site | None:
    """Return what `gemm` reads, if that is a mean of pixels with constants behind it, all of which it alone reads."""
    if gemm.op_type != "Gemm" or gemm.domain != "" or gemm.attributes.get_int("transA", 0) == 1:
        return None
    node = _before(gemm)
    if node is not None and is_reshape(node):
        node = _before(node) if _flattens_pixel(node) else None
    note = None if node is None else node.meta.get(MEAN_OF_TERMS)
    if node is None or note is None:
        return None
    slope, shift = np.ones(channels_of(node.outputs[0])), np.zeros(channels_of(node.outputs[0]))
    while node is not None and not _is_mean(node):
        affine, found = affine_of(node), constant_operand(node)
        if affine is None or found is None:
            return None
        slope, shift = slope * affine.slope, shift + slope * affine.shift
        node = _before(node)
    return None if node is None else _Site(node, slope, shift, note)


def _is_mean(node: ir.Node) -> bool:
    """Tell whether `node` averages pixels in a layout of its own choice; a GlobalAveragePool has that of its input."""
    return node.op_type == "ReduceMean" and averages_pixels(node)


def _before(reader: ir.Node) -> ir.Node | None:
    """Return what makes the first input of `reader` that is no constant, if nobody else reads it."""
    value = next((each for each in reader.inputs if each is not None and array_of(each) is None), None)
    if value is None or value.is_graph_output() or sole_consumer(value) is not reader:
        return None
    return value.producer()


def _flattens_pixel(node: ir.Node) -> bool:
    """Tell whether `node` makes (N, C) of (N, C, 1, 1)."""
    before, behind = known_sizes(node.inputs[0]), known_sizes(node.outputs[0])
    return before is not None and behind is not None and [*behind, 1, 1] == [*before] and len(behind) == 2


def _vector(graph: ir.Graph, mean: ir.Node, reader: ir.Node) -> ir.Value:
    """Put a mean (N, C) of the same pixels in front of `reader`."""
    x = mean.inputs[0]
    assert x is not None
    assert x.shape is not None
    name = f"{reader.name}.mean"
    value = ir.Value(name=name, shape=ir.Shape(x.shape[:2]), type=x.type)
    value.meta[UNRECORDED] = True
    axes = constant(graph, f"{name}.axes", np.array([2, 3], np.int64))
    graph.insert_before(
        reader, ir.Node("", "ReduceMean", [x, axes], [ir.AttrInt64("keepdims", 0)], outputs=[value], name=name)
    )
    return value
