"""Passes that any ONNX graph can use, from onnxscript and onnx_ir."""

from collections.abc import Iterator
from contextlib import contextmanager

import onnx_ir as ir
from onnx_ir.passes import common
from onnxscript import optimizer

from bnas_deploy.export.graph import UNRECORDED, is_recorded, origin_of


class FoldConstants:
    """Compute what depends on constants alone, such as the zero biases that torch.onnx writes as expressions."""

    def sweep(self, model: ir.Model) -> None:
        """Fold in place; what is left of the constants becomes initializers."""
        with _kept_origins(model.graph):
            optimizer.fold_constants(model, onnx_shape_inference=False)
            common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
            common.IdentityEliminationPass()(model)


class MergeDuplicates:
    """Compute equal expressions once, such as two equal max pools of one state."""

    def sweep(self, model: ir.Model) -> None:
        """Merge in place."""
        with _kept_origins(model.graph):
            common.CommonSubexpressionEliminationPass()(model)


class DropUnused:
    """Remove what no output of the graph depends on, and the weights that nothing reads."""

    def sweep(self, model: ir.Model) -> None:
        """Remove in place."""
        common.RemoveUnusedNodesPass()(model)


@contextmanager
def _kept_origins(graph: ir.Graph) -> Iterator[None]:
    """Note what the values that a foreign pass puts in the place of others are in PyTorch.

    The chunks of a tensor, say, are made by SplitToSequence and SequenceAt; folding makes one Split of them, whose
    results have names of their own. What is put in the place of another has its type and shape, too.
    """
    made = {value for node in graph for value in node.outputs}
    before = _places(graph)
    known = {value: (origin_of(value), is_recorded(value)) for value in before.values()}
    yield
    for fresh in (value for node in graph for value in node.outputs if value not in made):
        fresh.meta[UNRECORDED] = True
    for place, value in _places(graph).items():
        old = before.get(place)
        if old is None or old is value:
            continue
        origin, recorded = known[old]
        if not is_recorded(value) and recorded:
            value.meta["origin"] = origin
        if value.shape is None:
            value.shape, value.type = old.shape, old.type


def _places(graph: ir.Graph) -> dict[tuple[ir.Node | None, int], ir.Value]:
    """Return what each node reads in each place, and what each output of the graph is."""
    places: dict[tuple[ir.Node | None, int], ir.Value] = {(None, i): value for i, value in enumerate(graph.outputs)}
    for node in graph:
        places |= {(node, i): value for i, value in enumerate(node.inputs) if value is not None}
    return places
