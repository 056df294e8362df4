"""Whether the bound of what passes have rewritten holds, and has power."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import ArrayLike, NDArray

from bnas_deploy.export.bounds import bound_of
from bnas_deploy.export.graph import constant, constant_array, input_of, set_input
from bnas_deploy.export.pieces import Piece, Recorded, pieces_of
from bnas_deploy.export.rewrite import Rewrite, Sweep, run

Arrays = Mapping[str, NDArray]


@dataclass(frozen=True)
class Rewritten:
    """The piece of a rewritten model that gives y, beside the values that the model had before."""

    model: ir.Model
    piece: Piece
    recorded: Recorded
    before: NDArray
    evaluate: Callable[[], NDArray]

    def is_within_its_bound(self) -> bool:
        """Whether no number of y differs from what it was by more than its bound."""
        bound = bound_of(self.piece, self.recorded)
        assert bound is not None
        return bool((np.abs(self.evaluate().astype(np.float64) - self.before) <= bound).all())

    def multiply(self, node: ir.Node, place: str | int, factor: ArrayLike) -> None:
        """Multiply a constant input of a node: of an operator of the set by name, else by its place."""
        was = input_of(node, place) if isinstance(place, str) else node.inputs[place]
        assert was is not None
        wrong = constant(self.model.graph, "wrong", constant_array(was) * np.float32(factor))
        if isinstance(place, str):
            set_input(node, place, wrong)
        else:
            node.replace_input_with(place, wrong)


@pytest.fixture
def rewritten(evaluate: Callable[..., dict[str, NDArray]]) -> Callable[..., Rewritten]:
    """Have passes rewrite a model: `rewritten(model, feeds, passes)`."""

    def rewrite(model: ir.Model, feeds: Arrays, passes: Sequence[Rewrite | Sweep]) -> Rewritten:
        values = {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, feeds).items()}
        run(passes, model)
        recorded = Recorded(values)
        (piece,) = (piece for piece in pieces_of(model, recorded) if piece.output.name == "y")
        return Rewritten(model, piece, recorded, values["y"].numpy(), lambda: evaluate(model, feeds)["y"])

    return rewrite
