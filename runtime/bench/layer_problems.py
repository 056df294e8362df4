"""Layers to measure, and data for each on which nothing rounds, so that results can be compared exactly."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bits import sign
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.runtime.bench.records import layer_name


def same_convolution(
    size: int, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> LayerCost:
    """Describe a binary convolution on a square image, padded so that stride 1 keeps the size."""
    image, pair = (size, size), (dilation, dilation)
    out = -(-size // stride)
    layer = LayerCost(
        "", (channels_in, *image), (channels_out, out, out), (kernel, kernel), (stride, stride), pair, 1, 1
    )
    return replace(layer, name=layer_name(layer))


def same_padding(layer: LayerCost) -> int:
    """Return the padding of each side of such a layer."""
    return layer.dilation[0] * (layer.kernel[0] - 1) // 2


LAYERS = (
    # ResNet-18's, 116 million MACs each: the ones that others publish.
    same_convolution(56, 64, 64, 3),
    same_convolution(28, 128, 128, 3),
    same_convolution(14, 256, 256, 3),
    same_convolution(7, 512, 512, 3),
    # BNAS-A's at its three sizes of image, and its other kernels.
    same_convolution(32, 36, 36, 3),
    same_convolution(16, 72, 72, 3),
    same_convolution(8, 144, 144, 3),
    same_convolution(32, 36, 36, 5),
    same_convolution(32, 36, 36, 3, dilation=2),
    # Between two stages.
    same_convolution(56, 64, 128, 3, stride=2),
    same_convolution(28, 256, 64, 1),
)
"""What is measured, in the order in which it is shown."""


@dataclass(frozen=True)
class Problem:
    """A layer with data on which nothing rounds, so that results can be compared exactly.

    `x` (N, C, H, W) are odd multiples of 1/16 below 8: 8-bit numbers hold them, and none is 0, where engines disagree
    about the sign. `signs` (O, C, KH, KW) are +1 or -1, `scale` (O) powers of two and `bias` (O) multiples of 1/64. So
    all sums are multiples of 2^-10, below 2^14 in size: float32 holds every one of them, in any order of summation.
    """

    layer: LayerCost
    x: NDArray[np.float32]
    signs: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @cached_property
    def binary_answer(self) -> NDArray[np.float32]:
        """What docs/operators.md says of BinaryConv2dRelu with threshold and offset 0: float32 (N, O, OH, OW)."""
        return self._answer(sign(self.x))

    @cached_property
    def float_answer(self) -> NDArray[np.float32]:
        """The same layer on activations that are not binarised: float32 (N, O, OH, OW)."""
        return self._answer(self.x)

    @cached_property
    def linear_answer(self) -> NDArray[np.float32]:
        """The float answer without ReLU: float32 (N, O, OH, OW)."""
        return self._linear(self.x)

    def _answer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = np.maximum(self._linear(x), np.float32(0))
        return y

    def _linear(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        scale, bias = (values.reshape(-1, 1, 1) for values in (self.scale, self.bias))
        y: NDArray[np.float32] = _convolve(x, self.signs, self.layer) * scale + bias
        return y


def problem(layer: LayerCost, batch: int) -> Problem:
    """Draw data for `layer`, the same every time."""
    rng = np.random.default_rng(0)
    channels_out, channels_in = layer.output[0], layer.input[0]
    return Problem(
        layer,
        x=((2 * rng.integers(-64, 64, (batch, *layer.input)) + 1) / 16).astype(np.float32),
        signs=sign(rng.normal(size=(channels_out, channels_in, *layer.kernel)).astype(np.float32)),
        scale=(0.5 ** rng.integers(4, 7, channels_out)).astype(np.float32),
        bias=(rng.integers(-64, 65, channels_out) / 64).astype(np.float32),
    )


def _convolve(x: NDArray[np.float32], signs: NDArray[np.float32], layer: LayerCost) -> NDArray[np.float32]:
    """Convolve one tap at a time; a padded tap adds 0."""
    (stride, _), (dilation, _), (_, rows, columns) = layer.stride, layer.dilation, layer.output
    padding = same_padding(layer)
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    y = np.zeros((len(x), *layer.output), np.float32)
    for row, column in np.ndindex(layer.kernel):
        tap = padded[:, :, row * dilation :: stride, column * dilation :: stride][:, :, :rows, :columns]
        y += np.tensordot(signs[:, :, row, column], tap, (1, 1)).swapaxes(0, 1)
    return y
