"""The int8 twin: the float twin in 8 bits, by onnxruntime's static quantisation.

Activations are unsigned with one scale a tensor, weights signed with one scale an output channel (U8S8): of the static
formats the only one that is fast in whole networks (docs/benchmarks.md). Ranges are the least and the greatest value
that a tensor takes on the images, which exist whatever the weights are. Weights have 7 bits (`reduce_range`): two
products of 8 bits by 8 overflow where a CPU without VNNI adds them up in 16, and the twin's answers are then wrong
there.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from bnas_deploy.export.finish import finish_proto

CALIBRATION_BATCH = 8
"""Images that are run at once: enough to keep the threads busy, few enough for all activations to lie in memory."""

SMALLEST_RANGE = 1e-6
"""Where a tensor varies less, 8 bits are spread over this much: the scale of a bias is that of the activations times
that of the weights, and a product of two tiny ones is 0 in float32."""


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no type information
    """Hands images to onnxruntime's calibration, some at a time."""

    def __init__(self, name: str, images: NDArray[np.float32]) -> None:
        batches = np.split(images, range(CALIBRATION_BATCH, len(images), CALIBRATION_BATCH))
        self._feeds: Iterator[dict[str, NDArray[np.float32]]] = iter([{name: batch} for batch in batches])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """Return the next batch by input name, and None after the last."""
        return next(self._feeds, None)


def quantize(model: onnx.ModelProto, images: NDArray[np.float32]) -> onnx.ModelProto:
    """Return `model` with everything in 8 bits that onnxruntime has in 8 bits, calibrated on `images` (N, C, H, W).

    Each quantised tensor passes a QuantizeLinear and a DequantizeLinear, which onnxruntime and other engines merge
    with the operators around them into operators on integers when they load the file. Inputs and outputs stay float32.
    """
    # Otherwise onnxruntime advises to fold BNs and to infer shapes first: the passes and the capture did.
    add_pre_process_metadata(model)
    with tempfile.TemporaryDirectory() as folder:
        source, target = (Path(folder) / name for name in ("float.onnx", "int8.onnx"))
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            _Images(model.graph.input[0].name, images),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            extra_options={"MinimumRealRange": SMALLEST_RANGE},
        )
        quantized = onnx.load(target)
    finish_proto(quantized)
    return quantized
