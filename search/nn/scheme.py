"""What a binarisation scheme is: how a layer makes signs of its input and its weights, and what is exported for that.

The layers of `bnas_deploy.search.nn.layers` hold one `Scheme` each, and `bnas_deploy.export.capture` asks it for what
an operator holds. Neither asks for a scheme by name; a layer without one has XNOR-Net's.
`bnas_deploy.search.nn.schemes` has those that can be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bnas_deploy.core.errors import ExportError
from bnas_deploy.search.nn.estimators import sign_activation, sign_weight

Learned = Mapping[str, Tensor]
"""What a layer learns besides its weights, by the names of `Scheme.parameters`."""


@dataclass(frozen=True)
class Binarised:
    """Weights of a layer, to be convolved with its binarised input and multiplied by a scale.

    Attributes:
        weight: (O, C/groups, KH, KW); ±1 where the scheme has 1-bit weights.
        scale: (O).
    """

    weight: Tensor
    scale: Tensor


@dataclass(frozen=True)
class Exported:
    """A layer as an operator holds it: y = conv(S, weight) * scale [* K], S = +1 where x >= threshold, else -1.

    Attributes:
        weight: (O, C/groups, KH, KW) float32; ±1 in a layer of 1-bit weights.
        scale: (O) float32.
        threshold: (C) float32.
        sign_of_zero: S is 0 where x is 0, and a weight may be 0; the threshold is 0 then. No operator can do that: the
            exporter refuses networks in which such a zero occurs.

    Raises:
        ValueError: a scheme whose forms do not fit each other.
    """

    weight: Tensor
    scale: Tensor
    threshold: Tensor
    sign_of_zero: bool = False

    def __post_init__(self) -> None:
        if self.scale.shape != self.weight.shape[:1]:
            raise ValueError(
                f"a scale of {tuple(self.scale.shape)} for weights of {tuple(self.weight.shape)}: "
                "wanted one number per output channel"
            )
        if self.threshold.ndim != 1 or len(self.threshold) % self.weight.shape[1]:
            raise ValueError(
                f"a threshold of {tuple(self.threshold.shape)} for weights of {tuple(self.weight.shape)}: "
                "wanted one number per input channel"
            )
        if self.sign_of_zero and bool(self.threshold.any()):
            raise ValueError("sign_of_zero with a threshold other than 0: wanted one of the two")


@dataclass(frozen=True)
class Scheme:
    """sign(x) convolved with sign(W): BinaryNet, and the defaults of every other scheme.

    A scheme has no state. What it learns are parameters of the layer, which it gets with each call. It is a value:
    two layers may share it, and `dataclasses.replace` makes another one of it.

    Attributes:
        weight_bits: 1, or 32 where the weights stay float.
        k_map: multiply by the activation scale K of XNOR-Net (BNAS v2, Eq. 3).
    """

    weight_bits: ClassVar[int] = 1

    k_map: bool = False

    def parameters(self, weight: Tensor) -> dict[str, Tensor]:
        """Return the first values of what a layer with this weight learns besides it, by the name of the parameter."""
        return {}

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return S, ±1 (N, C, H, W), for x of the same shape, with the gradient that the scheme gives it."""
        return sign_activation(x)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Binarise weights (O, C/groups, KH, KW), with the gradient that the scheme gives them.

        `renewed` says that `renewed_weight` was applied already.
        """
        return Binarised(sign_weight(weight), weight.new_ones(len(weight)))

    def effective_weight(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Tensor:
        """Return what `weights` gives, the weight times the scale, (O, C/groups, KH, KW)."""
        binarised = self.weights(weight, learned, renewed=renewed)
        return binarised.weight * binarised.scale[:, None, None, None]

    def renewed_weight(self, weight: Tensor) -> Tensor:
        """Return what stands in the place of `weight` before a step of training; `weight` itself for no change."""
        return weight

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return what an operator holds for a layer of `channels_in` channels; PyTorch computes the same of it."""
        binarised = self.weights(weight, learned)
        threshold = torch.zeros(channels_in)
        return Exported(binarised.weight.detach().float(), binarised.scale.detach().float(), threshold)


@dataclass(frozen=True)
class FloatWeights(Scheme):
    """The activations of another scheme with weights as they are, and no scale."""

    weight_bits: ClassVar[int] = 32

    of: Scheme = Scheme()

    def parameters(self, weight: Tensor) -> dict[str, Tensor]:
        """Return those of the other scheme: its activations may need them."""
        return self.of.parameters(weight)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return those of the other scheme."""
        return self.of.activations(x, learned)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return the weights."""
        return Binarised(weight, weight.new_ones(len(weight)))

    def effective_weight(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Tensor:
        """Return the weights."""
        return weight

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the threshold of the other scheme and the weights."""
        activations = self.of.exported(weight, learned, channels_in)
        binarised = self.weights(weight.detach().float(), learned)
        return Exported(binarised.weight, binarised.scale, activations.threshold, activations.sign_of_zero)


@dataclass(frozen=True)
class FloatTanh(FloatWeights):
    """tanh in the place of the sign of activations, and weights as they are: what is trained before signs are."""

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return tanh(x)."""
        return torch.tanh(x)

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Refuse it: no operator has tanh in front of a convolution.

        Raises:
            ExportError: always.
        """
        raise ExportError(
            "the network has tanh in the place of signs, which only a stage of training has; export best.safetensors "
            "of the whole run"
        )
