"""Other inference engines, to compare with where they are installed.

None is a dependency of bnas-deploy.
"""

import importlib
import importlib.util
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.layer_cost import LayerCost


class UnsupportedLayerError(Exception):
    """An engine has no code for a layer on this machine; the message is its own."""


class OpenVinoRunner:
    """OpenVINO's BinaryConvolution on the CPU, float32 in and out, with sign and packing before it and ReLU after it.

    Sign and packing are a FakeQuantize of two levels, which OpenVINO fuses into the convolution's input; scale, bias
    and ReLU are fused into its output. What OpenVINO makes of layouts in between is its own choice.
    """

    def __init__(
        self,
        layer: LayerCost,
        x: NDArray[np.float32],
        signs: NDArray[np.float32],
        scale: NDArray[np.float32],
        bias: NDArray[np.float32],
        *,
        padding: int,
        threads: int,
    ) -> None:
        """Compile the layer on `x` (N, C, H, W); `signs` (O, C, KH, KW) are +1 or -1, `scale` and `bias` (O).

        `padding` is that of each side.

        Raises:
            UnsupportedLayerError: OpenVINO cannot run the layer on this machine.
        """
        openvino: Any = importlib.import_module("openvino")
        self.output = np.zeros((len(x), *layer.output), np.float32)
        model = _openvino_model(openvino, layer, [padding] * 2, x.shape, signs, scale, bias)
        try:
            compiled = openvino.Core().compile_model(model, "CPU", _setting(threads))
            self._request = compiled.create_infer_request()
        except RuntimeError as error:
            raise UnsupportedLayerError(str(error)) from None
        self._x = x  # its memory is shared, and nothing else may keep it
        self._request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(self.output, shared_memory=True))
        self.run()

    def run(self) -> None:
        """Run once; `infer` of OpenVINO's Python package would do the same, and some Python more."""
        self._request.start_async()
        self._request.wait()


class OpenVinoNetwork:
    """An ONNX file in OpenVINO on the CPU, with inputs and outputs bound."""

    def __init__(self, model: Path, inputs: Mapping[str, NDArray[Any]], *, threads: int) -> None:
        """Compile `model` for the shapes of its inputs, and run it once."""
        openvino: Any = importlib.import_module("openvino")
        start = time.perf_counter_ns()
        core = openvino.Core()
        network = core.read_model(model)
        # With a batch that is known OpenVINO chooses its layouts and memory once.
        network.reshape({name: list(array.shape) for name, array in inputs.items()})
        compiled = core.compile_model(network, "CPU", _setting(threads))
        self.creation_ns = time.perf_counter_ns() - start
        self.outputs = [np.zeros(tuple(each.shape), each.element_type.to_dtype()) for each in compiled.outputs]
        self.output = self.outputs[0]
        self._request = compiled.create_infer_request()
        self._inputs = inputs  # as above
        for name, array in inputs.items():
            self._request.set_tensor(name, openvino.Tensor(array, shared_memory=True))
        for port, array in zip(compiled.outputs, self.outputs, strict=True):
            self._request.set_tensor(port, openvino.Tensor(array, shared_memory=True))
        self.run()

    def run(self) -> None:
        """Run once, as `OpenVinoRunner` does."""
        self._request.start_async()
        self._request.wait()


def _setting(threads: int) -> dict[str, object]:
    """Return what OpenVINO is told for the shortest time of a single run."""
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # A processor with two threads per core counts as one otherwise, whatever number of threads is asked for.
        "ENABLE_HYPER_THREADING": threads > 1,
    }


def openvino_is_installed() -> bool:
    """Tell whether this module's runners have what they need."""
    return importlib.util.find_spec("openvino") is not None


def _openvino_model(
    openvino: Any,
    layer: LayerCost,
    pads: list[int],
    shape: tuple[int, ...],
    signs: NDArray[np.float32],
    scale: NDArray[np.float32],
    bias: NDArray[np.float32],
) -> Any:
    operators: Any = importlib.import_module("openvino.opset1")
    weights = openvino.Tensor(openvino.Type.u1, openvino.Shape(signs.shape))
    weights.data[...] = np.packbits(signs.ravel() > 0, bitorder="little")
    per_channel = (1, -1, 1, 1)
    zero, one = (operators.constant(np.float32(value)) for value in (0, 1))
    x = operators.parameter(openvino.Shape(shape), openvino.Type.f32)
    bits = operators.fake_quantize(x, zero, zero, zero, one, 2)
    accumulator = operators.binary_convolution(
        bits,
        openvino.op.Constant(weights),
        list(layer.stride),
        pads,
        pads,
        list(layer.dilation),
        "xnor-popcount",
        0.0,  # what a padded tap adds
    )
    scaled = operators.multiply(accumulator, operators.constant(scale.reshape(per_channel)))
    biased = operators.add(scaled, operators.constant(bias.reshape(per_channel)))
    return openvino.Model([operators.relu(biased)], [x])
