"""FracBNN (Zhang et al., FPGA 2021): activations of two bits where one bit alone says that it matters.

Code: github.com/cornell-zhang/FracBNN at 9944630, utils/quantization.py, and model/fracbnn_cifar10.py.

Activations are q = round(clip(x, -1, 1)) in steps of 2/3. Their first bit is s1 = sign(x), the second s0, so that
q = 2/3 s1 + 1/3 s0. A layer convolves s1, and adds the convolution of s0 only where the first sum is large enough:

    a = 2/3 conv(s1, sign(W));   y = a + [a >= t] / 3 conv(s0, sign(W)),   a threshold t per output channel.

s0 is -1 where 0 <= x <= 2/3 and where x <= -2/3. So it is the negative of the sign of x (2/3 - |x|), and conv(s0, W) is
conv(-s0, W) times -1. That agrees with the code's rounding at 0 and at +-2/3, too.
Faithful: all of it; both convolutions have one weight, without a scale; the gradient of q, that of the gate,
5 sigmoid'(5 (a - t)) where a >= t, and RPReLU behind the BN. t begins at -1 and is drawn to 0 by a loss term.
Other than the code: the gate is 1 for a = t, too; and weights and signs are trained at once, unless the recipe is
`multi-stage`.
Left open by the paper: what t is drawn to. The code has a setting for it with a default of 0.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import gate_above, step_in_window
from bnas_deploy.search.nn.float_twin import Composite, share_parameter
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme
from bnas_deploy.search.nn.schemes.reactnet import RPReLU

_STEP = 2 / 3
_WINDOW = 1.3
_STEEPNESS = 5.0
_FIRST_THRESHOLD = -1.0
_DECAY = 1e-5


class _SecondBit(torch.autograd.Function):
    """x (2/3 - |x|); the gradient, negated, passes where -1 < x < 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * (_STEP - x.abs())

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return torch.where(x.abs() < 1, -grads[0], 0.0)


def second_bit(x: Tensor) -> Tensor:
    """Return what has the sign of -s0, with the gradient that -s0 has: that of -q."""
    other: Tensor = _SecondBit.apply(x)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return other


@dataclass(frozen=True)
class Bit(Scheme):
    """The sign of x convolved with sign(W), times a factor of the bit.

    Attributes:
        factor: what a sign of this bit counts.
    """

    factor: float = 1.0

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W) and the factor; the gradient passes where |W| <= 1.3."""
        window = weight.new_full((1,), _WINDOW)
        signs = step_in_window(weight, -window, window, below=-1.0)
        return Binarised(signs, weight.new_full((len(weight),), self.factor))

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return W and the factor, which is of the activations."""
        return Binarised(weight, weight.new_full((len(weight),), self.factor))


@dataclass(frozen=True)
class FirstBit(Bit):
    """The first bit, whose layer learns the thresholds of the gates, `gate` (O)."""

    factor: float = _STEP

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the thresholds."""
        return {"gate": weight.new_full((len(weight),), _FIRST_THRESHOLD)}

    def regulariser(self, weight: Tensor, learned: Learned) -> Tensor:
        """Return the term that draws the thresholds to 0."""
        return _DECAY / 2 * learned["gate"].square().sum()


class PrecisionGatedConv2d(Composite):
    """a + [a >= t] b, with a and b convolutions of the bits of x: (N, C, H, W) to (N, O, OH, OW).

    Args:
        first: of the first bit.
        second: of the second one; it gets the weight of the first.
        bias: add a parameter (O).
    """

    gate: Tensor

    def __init__(self, first: BinaryConv2d, second: BinaryConv2d, *, bias: bool) -> None:
        super().__init__()
        self.first = first
        self.second = second
        self.bias = nn.Parameter(first.weight.new_zeros(first.out_channels)) if bias else None
        self.share()

    def share(self) -> None:
        """Let the second layer use the weight of the first, and the gate the thresholds that the first one learns."""
        share_parameter(self.second, "weight", self.first)
        share_parameter(self, "gate", self.first)

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        a: Tensor = self.first(x)
        gate = gate_above(a, self.gate[:, None, None], _STEEPNESS)
        y: Tensor = a + self.second(second_bit(x)) * gate
        return y if self.bias is None else y + self.bias[:, None, None]

    def real_weight(self) -> Tensor:
        """Return the weight that both have: q is about x."""
        return self.first.real_weight()

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return it for the layer that has it."""
        return {"first.weight": weight}


@dataclass(frozen=True)
class FracBnn(FirstBit):
    """A convolution of two bits; a single layer, such as a dense one, has the first bit alone."""

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude a K map, which is of one bit, and signs at the padding, where q is 0."""
        if self.k_map:
            return "the K map is of signs, and frac-bnn has activations of two bits"
        if geometry.pad_value:
            return (
                f"its padding holds the sign {geometry.pad_value:+}, and frac-bnn's activations of two bits are 0 there"
            )
        return super().excludes(geometry)

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return a binary convolution for each bit, and the gate."""
        bits = (BinaryConv2d.of(geometry, scheme) for scheme in (FirstBit(), Bit(factor=-_STEP / 2)))
        return PrecisionGatedConv2d(*bits, bias=bias)

    def activation(self, channels: int) -> nn.Module:
        """Return an RPReLU."""
        return RPReLU(channels)


SCHEME = FracBnn()
