"""Passes that any ONNX graph can use, from onnxscript and onnx_ir."""

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer


class FoldConstants:
    """Compute what depends on constants alone, such as the zero biases that torch.onnx writes as expressions."""

    def sweep(self, model: ir.Model) -> None:
        """Fold in place; what is left of the constants becomes initializers."""
        optimizer.fold_constants(model, onnx_shape_inference=False)
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
        common.IdentityEliminationPass()(model)


class MergeDuplicates:
    """Compute equal expressions once, such as two equal max pools of one state."""

    def sweep(self, model: ir.Model) -> None:
        """Merge in place."""
        common.CommonSubexpressionEliminationPass()(model)


class DropUnused:
    """Remove what no output of the graph depends on, and the weights that nothing reads."""

    def sweep(self, model: ir.Model) -> None:
        """Remove in place."""
        common.RemoveUnusedNodesPass()(model)
