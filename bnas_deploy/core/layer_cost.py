"""What a layer with weights is and costs, counted the same way from a network in PyTorch and from an exported file."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class LayerCost:
    """A convolution or a matrix product.

    `input` and `output` are (channels, height, width); a matrix product has one pixel. `weight_bits` is 1, 8 or 32.
    One multiply-accumulate is one MAC, whatever its width; biases, scales and batch normalisation are not counted.
    """

    name: str
    input: tuple[int, int, int]
    output: tuple[int, int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    weight_bits: int

    @property
    def weights(self) -> int:
        """Return the number of weights."""
        return self.output[0] * self.input[0] // self.groups * self.kernel[0] * self.kernel[1]

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates for one image."""
        return self.weights * self.output[1] * self.output[2]

    @property
    def is_binary(self) -> bool:
        """Tell whether its weights take one bit."""
        return self.weight_bits == 1


@dataclass(frozen=True)
class Totals:
    """Sums over layers, by the bits of their weights."""

    binary_weights: int
    float_weights: int
    binary_macs: int
    float_macs: int
    int8_weights: int = 0
    int8_macs: int = 0

    @property
    def weight_bytes(self) -> int:
        """Return the bytes of the weights, 1, 8 or 32 bits each."""
        return (self.binary_weights + 7) // 8 + self.int8_weights + 4 * self.float_weights

    @property
    def float_twin_bytes(self) -> int:
        """Return the bytes of the same weights in float32."""
        return 4 * (self.binary_weights + self.int8_weights + self.float_weights)


def total(layers: Iterable[LayerCost]) -> Totals:
    """Add up weights and MACs."""
    layers = tuple(layers)
    binary, int8, floats = ([layer for layer in layers if layer.weight_bits == bits] for bits in (1, 8, 32))
    return Totals(
        binary_weights=sum(layer.weights for layer in binary),
        float_weights=sum(layer.weights for layer in floats),
        binary_macs=sum(layer.macs for layer in binary),
        float_macs=sum(layer.macs for layer in floats),
        int8_weights=sum(layer.weights for layer in int8),
        int8_macs=sum(layer.macs for layer in int8),
    )
