"""Comparisons of what is written with PyTorch: pieces of a model, and its outputs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import PieceCheck
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.npz import write_arrays
from bnas_deploy.export.capture import CapturedModel
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.leaves import tensors_in
from bnas_deploy.export.vectors import Vectors, largest_of, output_tolerances
from bnas_deploy.runtime.pieces import compare_pieces
from bnas_deploy.runtime.session import create_session, run_session, session_options


def answers_to_feed(module: nn.Module, feed: Feed) -> tuple[Tensor, ...]:
    """Return what a flattened module answers, a tensor for each output."""
    with torch.no_grad():
        return tensors_in(module(*feed.tensors))


def answers_of_file(path: Path, outputs: Sequence[str], feed: Feed, *, library: bool) -> tuple[NDArray[Any], ...]:
    """Return what the model in a file answers, an array for each output."""
    session = create_session(path, session_options(library=library))
    # onnxruntime gives a tensor without axes as a number.
    return tuple(map(np.asarray, run_session(session, path, outputs, feed.arrays())))


def write_vectors(
    graph: ir.Model, values: Mapping[str, Tensor], folder: Path
) -> tuple[Vectors, tuple[PieceCheck, ...]]:
    """Compare the pieces of the model, whose graph is `graph`, on whole values, and write corners of them."""
    path = folder / files.MODEL
    vectors = _compared(path, Vectors.of(graph, values, path))
    checks = vectors.corner_checks(path)
    write_arrays(folder / files.PIECES, vectors.kept(checks))
    return vectors, tuple(checks)


def _compared(model: Path, vectors: Vectors) -> Vectors:
    """Compare every piece with PyTorch on whole values; return the vectors with the bounds that hold."""
    found = compare_pieces(model, vectors.whole_checks(), vectors.arrays())
    failed = {piece.check.output.value for piece in found.pieces if not piece.passed}
    if failed:
        vectors = vectors.with_worst(failed)
        found = compare_pieces(model, vectors.whole_checks(), vectors.arrays())
    refuse(found.failures)
    refuse(vectors.bits_that_differ())
    if not found.alike:
        refuse(["the library and plain onnxruntime answer differently"])
    return vectors


def refuse(failures: Sequence[str]) -> None:
    """Raise ExportError if something differs."""
    if failures:
        raise ExportError(f"nothing was written, since the export does not agree with PyTorch: {'; '.join(failures)}")


def refuse_another_program(
    captured: CapturedModel, values: Mapping[str, Tensor], module: nn.Module, feed: Feed
) -> None:
    """Refuse a program that was traced of another module than this, or decomposed into another.

    A decomposition may round otherwise. How far rounding may move the answers is measured on the module itself.
    """
    answers, decomposed = answers_to_feed(module, feed[:1]), captured.answers_in(values)
    if all(map(torch.equal, decomposed, answers)):
        return
    with torch.no_grad():
        traced = tensors_in(captured.traced.module()(*feed[:1].tensors))
    if not all(map(torch.equal, traced, answers)):
        refuse(
            [
                f"the captured program answers differently from {type(module).__name__}; its forward may use something "
                "outside of the module: keep that in parameters and buffers"
            ]
        )
    tolerances = output_tolerances(lambda feed: answers_to_feed(module, feed), feed)
    for name, got, wanted, tolerance in zip(captured.outputs, decomposed, answers, tolerances, strict=True):
        difference = largest_of(got.double() - wanted.double())
        if not difference <= tolerance:
            refuse(
                [
                    f"{name}: PyTorch's decomposition of the program differs from its trace by {difference:.3g}, where "
                    f"rounding explains {tolerance:.3g}; write the forward with other operations"
                ]
            )
