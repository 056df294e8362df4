"""The float twin and the int8 twin of a network, as they are made and written."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from torch import nn

from bnas_deploy.core import bundle as files
from bnas_deploy.export.capture import CapturedModel, capture
from bnas_deploy.export.compared import answers_of_file, answers_to_feed, refuse
from bnas_deploy.export.finish import finish
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.passes import FLOAT_PIPELINE, INT8_PIPELINE
from bnas_deploy.export.quantization import FloatFile, quantize
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.separate_twin import needs_own_capture, with_float_layers
from bnas_deploy.export.twin import Answers, FloatTwin, derived_twin
from bnas_deploy.export.vectors import output_tolerances
from bnas_deploy.runtime.verify import largest_difference, spread_of


def float_twin(captured: CapturedModel, translator: Translator, given: nn.Module | None, feed: Feed) -> FloatTwin:
    """Return the float twin that was given, or else that of the module, whose graph `captured` becomes the twin's."""
    if given is not None:
        twin = capture(given, feed, outputs=captured.outputs)
        return FloatTwin(twin.model, lambda feed: answers_to_feed(given, feed))
    module = translator.module
    if not needs_own_capture(module) and not translator.has_sums:
        return derived_twin(captured, module, feed)
    swapped = with_float_layers(module) if needs_own_capture(module) else module
    again = capture(swapped, feed, outputs=captured.outputs, translate=translator.float_layers)
    return derived_twin(again, swapped, feed)


@dataclass(frozen=True)
class TwinAnswers:
    """What the float twin answers, an array for each output, and the largest difference to PyTorch."""

    arrays: tuple[NDArray[Any], ...]
    difference: float

    @property
    def spread(self) -> float:
        """The largest spread of an output."""
        return max(map(spread_of, self.arrays), default=0.0)


def write_twin_files(model: ir.Model, folder: Path, scratch: Path) -> FloatFile:
    """Write the float twin of this graph into `folder`, and what its int8 twin is made of into `scratch`.

    So the graph, with its weights, need not lie in memory while sessions have them as well.
    """
    run(FLOAT_PIPELINE, model)
    onnx.save(finish(model), folder / files.FLOAT_TWIN)
    run(INT8_PIPELINE, model)
    return FloatFile.of(finish(model), scratch)


def compare_float_twin(network: Answers, outputs: Sequence[str], folder: Path, feed: Feed) -> TwinAnswers:
    """Compare the file of the float twin with the same `network` in PyTorch; return what it answers."""
    answers = answers_of_file(folder / files.FLOAT_TWIN, outputs, feed, library=False)
    differences = [largest_difference(*pair) for pair in zip(answers, map(np.asarray, network(feed)), strict=True)]
    tolerances = output_tolerances(network, feed)
    refuse(
        [
            f"the float twin{f': {name}' if len(outputs) > 1 else ''} differs from PyTorch by {difference:.3g}, "
            f"rounding explains {tolerance:.3g}"
            for name, answer, difference, tolerance in zip(outputs, answers, differences, tolerances, strict=True)
            if answer.dtype.kind == "f" and not difference <= tolerance
        ]
    )
    return TwinAnswers(answers, max(differences))


def write_int8_twin(
    source: FloatFile, outputs: Sequence[str], folder: Path, feed: Feed, answers: Sequence[NDArray[Any]]
) -> float:
    """Export the int8 twin; return the largest difference to `answers`, those of the float twin."""
    path = folder / files.INT8_TWIN
    onnx.save(quantize(source, feed.arrays()), path)
    return max(map(largest_difference, answers_of_file(path, outputs, feed, library=False), answers))
