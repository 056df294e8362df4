"""A BN in front of a classifier becomes part of its weights."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import constant, constant_array, sole_consumer
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.folding import BIAS_TERMS, Doubles


class FoldBatchNormBeforeGemm:
    """BN -> Gemm: W (slope x + shift) + b = (W slope) x + (b + W shift)."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the BNs that only one matrix product with known weights reads."""
        norms = (node for node in model.graph if node.op_type == "BatchNormalization" and has_known_parameters(node))
        return (node for node in norms if _gemm_of(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the BN is kept."""
        gemm = _gemm_of(node)
        assert gemm is not None
        if not has_known_parameters(gemm):
            return f"the weights of {gemm.name} are computed from the input"
        is_plain = all(gemm.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))
        is_transposed = bool(gemm.attributes.get_int("transA", 0))
        if not is_plain or is_transposed:
            return f"{gemm.name} is scaled, or reads its input by columns"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Fold the BN and make the matrix product read what the BN reads."""
        gemm = _gemm_of(node)
        assert gemm is not None
        norm = BatchNorm.of(node)
        slope, shift = norm.affine()
        by_rows = bool(gemm.attributes.get_int("transB", 0))
        weight: Doubles = constant_array(gemm.inputs[1]).astype(np.float64)
        weight = weight if by_rows else weight.T  # (classes, features)
        bias = np.zeros(len(weight))
        if len(gemm.inputs) > 2 and gemm.inputs[2] is not None:
            bias = bias + constant_array(gemm.inputs[2]).astype(np.float64)
        terms = gemm.meta.get(BIAS_TERMS, np.abs(bias)) + np.abs(weight) @ norm.bias_terms()
        folded = {"weight": weight * slope, "bias": bias + weight @ shift}
        folded["weight"] = folded["weight"] if by_rows else folded["weight"].T
        gemm.resize_inputs(3)
        gemm.replace_input_with(0, node.inputs[0])
        for position, (name, data) in enumerate(folded.items(), start=1):
            value = constant(model.graph, f"{gemm.name}.{name}", data.astype(np.float32))
            gemm.replace_input_with(position, value)
        gemm.meta[BIAS_TERMS] = terms


def _gemm_of(norm: ir.Node) -> ir.Node | None:
    reader = sole_consumer(norm.outputs[0])
    if reader is None or reader.op_type != "Gemm" or reader.domain != "":
        return None
    return reader if reader.inputs[0] is norm.outputs[0] else None
