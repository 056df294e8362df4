"""Binary convolutions of other inference engines, for `bnas-deploy bench --layers` where they are installed.

None is a dependency of bnas-deploy.
"""

import importlib
import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.cost import LayerCost


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
        # A processor with two threads per core counts as one otherwise, whatever number of threads is asked for.
        setting = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "ENABLE_HYPER_THREADING": threads > 1,
        }
        model = _openvino_model(openvino, layer, [padding] * 2, x.shape, signs, scale, bias)
        try:
            self._request = openvino.Core().compile_model(model, "CPU", setting).create_infer_request()
        except RuntimeError as error:
            raise UnsupportedLayerError(str(error)) from None
        self._request.set_input_tensor(openvino.Tensor(x, shared_memory=True))
        self._request.set_output_tensor(openvino.Tensor(self.output, shared_memory=True))
        self.run()

    def run(self) -> None:
        """Run once; `infer` of OpenVINO's Python package would do the same, and some Python more."""
        self._request.start_async()
        self._request.wait()


def openvino_is_installed() -> bool:
    """Tell whether `OpenVinoRunner` has what it needs."""
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
