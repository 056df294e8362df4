"""The float twin and the int8 twin of a network, as they are made and written."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from torch import nn

from bnas_deploy.core import bundle as files
from bnas_deploy.export.capture import CapturedModel, capture
from bnas_deploy.export.compared import answers_of_file, answers_to_feed, refuse
from bnas_deploy.export.finish import finish
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.given import Progress
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.passes import FLOAT_PIPELINE, INT8_PIPELINE
from bnas_deploy.export.quantization import quantize
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.separate_twin import needs_own_capture, with_float_layers
from bnas_deploy.export.twin import FloatTwin, derived_twin
from bnas_deploy.export.vectors import output_tolerances
from bnas_deploy.runtime.verify import largest_difference


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


def write_twins(
    twin: FloatTwin, outputs: Sequence[str], folder: Path, feed: Feed, progress: Progress
) -> tuple[float, float]:
    """Export the float twin and the int8 twin.

    Returns the largest difference of the float twin's outputs to PyTorch, and of the int8 twin's to the float twin's.
    """
    run(FLOAT_PIPELINE, twin.model)
    path = folder / files.FLOAT_TWIN
    onnx.save(finish(twin.model), path)
    answers = answers_of_file(path, outputs, feed, library=False)
    differences = [largest_difference(*pair) for pair in zip(answers, map(np.asarray, twin.network(feed)), strict=True)]
    tolerances = output_tolerances(twin.network, feed)
    refuse(
        [
            f"the float twin{f': {name}' if len(outputs) > 1 else ''} differs from PyTorch by {difference:.3g}, "
            f"rounding explains {tolerance:.3g}"
            for name, answer, difference, tolerance in zip(outputs, answers, differences, tolerances, strict=True)
            if answer.dtype.kind == "f" and not difference <= tolerance
        ]
    )
    progress("quantising its int8 twin")
    run(INT8_PIPELINE, twin.model)
    int8 = folder / files.INT8_TWIN
    onnx.save(quantize(finish(twin.model), feed.arrays()), int8)
    quantized = answers_of_file(int8, outputs, feed, library=False)
    return max(differences), max(map(largest_difference, quantized, answers))
