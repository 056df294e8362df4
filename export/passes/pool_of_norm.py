"""A BN and the maximum behind it are one operator, which passes over the features once and writes a quarter of them.

This stands between the blocks of dense networks (BinaryDenseNet, MeliusNet), behind a concatenation that is the largest
tensor of all. The maximum cannot be taken first where the BN falls in some channel.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.export.graph import constant, is_recorded, node_before, shared_before
from bnas_deploy.export.passes.batch_norm import BatchNorm, has_known_parameters
from bnas_deploy.export.passes.means import is_taken_by_conv
from bnas_deploy.export.passes.write_bits import takes_pairs

POOLED_NORM = "pooled_norm"
"""Key of a node's note for `export.bounds`: what the BN was, an `Affine`."""


class PoolOfNorm:
    """BN -> MaxPool of 2x2 pixels -> AffineMaxPool."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the maxima of a BN with known parameters, but for those that a convolution takes in."""
        pools = (node for node in model.graph if _is_pool(node))
        return (node for node in pools if (norm := _norm_before(node)) is not None and not _is_taken(norm))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why both stay."""
        if not takes_pairs(node):
            return f"{node.name} takes another maximum than that of 2x2 pixels with stride 2, without padding"
        if shared := shared_before(node):
            return f"{shared} is also read without the maximum"
        norm = _norm_before(node)
        x = None if norm is None else norm.inputs[0]
        assert x is not None
        return None if is_recorded(x) else f"PyTorch's program has no value of its own for what {node.name} reads"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace both."""
        norm, y = _norm_before(node), node.outputs[0]
        assert norm is not None
        affine = BatchNorm.of(norm).as_affine()
        row = Operator(convolves=False, affine=True, max_pool=True)
        given = {
            "X": norm.inputs[0],
            "scale2": constant(model.graph, f"{y.name}.scale2", affine.slope.astype(np.float32)),
            "bias2": constant(model.graph, f"{y.name}.bias2", affine.shift.astype(np.float32)),
        }
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        fused = ir.Node(DOMAIN, row.name, [given[name] for name in row.inputs], outputs=[result], name=node.name)
        fused.meta[POOLED_NORM] = affine
        ir.convenience.replace_nodes_and_values(model.graph, node, [node], [fused], [y], [result])


def _is_pool(node: ir.Node) -> bool:
    return node.op_type == "MaxPool" and node.domain == "" and len(node.outputs) == 1


def _is_taken(norm: ir.Node) -> bool:
    x = norm.inputs[0]
    return x is not None and is_taken_by_conv(x)


def _norm_before(pool: ir.Node) -> ir.Node | None:
    norm = node_before(pool)
    is_norm = norm is not None and norm.op_type == "BatchNormalization" and has_known_parameters(norm)
    x = pool.inputs[0]
    return norm if is_norm and x is not None and x.shape is not None and len(x.shape) == 4 else None
