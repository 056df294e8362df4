"""Binarisation schemes: how a layer makes signs of its input and its weights, and the values that are exported.

The layers of `bnas_deploy.search.nn.layers` hold one `Scheme` each, and `bnas_deploy.export.capture` asks it for what
an operator holds. Neither asks for a scheme by name; a layer without one has XNOR-Net's.
`bnas_deploy.search.nn.schemes` has those that can be named.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import ExportError
from bnas_deploy.search.nn.estimators import sign_activation, sign_weight
from bnas_deploy.search.nn.geometry import PAD_VALUES, Geometry

Learned = Mapping[str, Tensor]
"""What a layer learns besides its weights, by the names of `Scheme.parameters`."""


class ExcludedError(ValueError):
    """A convolution cannot have a scheme; the message is what `Scheme.excludes` says.

    Attributes:
        geometry: of the convolution.
        is_of_k_map: it could have the same scheme without the map K.
    """

    def __init__(self, reason: str, geometry: Geometry, *, is_of_k_map: bool) -> None:
        super().__init__(reason)
        self.geometry = geometry
        self.is_of_k_map = is_of_k_map


def needs_signs(scheme: "Scheme", geometry: Geometry) -> str | None:
    """Say why a scheme of activations 0 and 1 cannot be had, a K map or a sign at the padding; None where it can."""
    if scheme.k_map:
        return "the K map is the mean of |x|, which scales signs and not activations of 0 and 1"
    if geometry.pad_value:
        return f"its padding holds the sign {geometry.pad_value:+}, and the scheme's activations are 0 and 1, not signs"
    return None


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
    """A layer as an operator holds it: y = (conv(S, weight) + offset) * scale [* K].

    S is +1 where x >= threshold, else -1.
    Activations A of 0 and 1 are such signs, A = (S + 1) / 2. A zero at the padding is S = -1 there. So conv(A, weight)
    = (conv(S, weight), padded with -1, + the sum of weight) / 2, and half a scale is exact. The form has
    `pad_value=-1`, that sum for each output channel as `offset`, and half the scale.

    Attributes:
        weight: (O, C/groups, KH, KW) float32; ±1 in a layer of 1-bit weights.
        scale: (O) float32.
        threshold: (C) float32.
        sign_of_zero: S is 0 where x is 0, and a weight may be 0; the threshold is 0 then. No operator can do that: the
            exporter refuses networks in which such a zero occurs.
        pad_value: what S is at padded taps: -1, 0 or +1.
        offset: (O) float32, integers that are added to the sum; None for none.

    Raises:
        ValueError: a scheme whose forms do not fit each other.
    """

    weight: Tensor
    scale: Tensor
    threshold: Tensor
    sign_of_zero: bool = False
    pad_value: int = 0
    offset: Tensor | None = None

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
        if self.pad_value not in PAD_VALUES:
            raise ValueError(f"pad_value={self.pad_value!r}: a padded tap holds a sign, wanted -1, 0 or 1")
        if self.offset is not None and self.offset.shape != self.scale.shape:
            raise ValueError(
                f"an offset of {tuple(self.offset.shape)} for weights of {tuple(self.weight.shape)}: "
                "wanted one number per output channel"
            )
        if self.offset is not None and bool((self.offset != self.offset.round()).any()):
            raise ValueError("an offset that is not of integers: wanted some, since sums of signs have to stay exact")


def zero_one_exported(binarised: Binarised, threshold: Tensor) -> Exported:
    """Return what an operator holds where activations are 1 at thresholds (C) and above, else 0, and so at the padding.

    `Exported` derives it. The sum of weights is an integer, and half a scale is exact.
    """
    weight = binarised.weight.detach().float()
    scale = binarised.scale.detach().float() / 2
    offset = weight.sum(dim=(1, 2, 3))
    return Exported(weight, scale, threshold.detach().float(), pad_value=-1, offset=offset)


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

    def excludes(self, geometry: Geometry) -> str | None:
        """Say why no convolution of this geometry can have the scheme; None where one can."""
        if self.k_map and geometry.groups > 1:
            return "the K map is a mean over all channels, so it needs groups=1"
        return None

    @property
    def output_multiple(self) -> int:
        """Return what the output channels of a convolution have to be a multiple of; a search for widths keeps it."""
        return 1

    @final
    def check(self, geometry: Geometry) -> None:
        """Refuse a convolution of a geometry that the scheme excludes.

        Raises:
            ExcludedError: it does.
        """
        if reason := self.excludes(geometry):
            is_of_k_map = self.k_map and replace(self, k_map=False).excludes(geometry) is None
            raise ExcludedError(reason, geometry, is_of_k_map=is_of_k_map)

    @final
    def convolution(self, geometry: Geometry, *, bias: bool = False) -> nn.Module:
        """Return what stands in a network where a binary convolution of this geometry does.

        Args:
            geometry: of the convolution.
            bias: add a parameter (O).

        Raises:
            ExcludedError: the scheme excludes the geometry.
            ValueError: as `BinaryConv2d`.
        """
        # Here and not in `build`: convolutions that a scheme is composed of may have another scheme, such as one
        # without the map K, which excludes less.
        self.check(geometry)
        return self.build(geometry, bias=bias)

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return the module for `convolution`: a `BinaryConv2d`.

        A scheme of several convolutions, or of one with something around it, returns another module, a `Composite` of
        `bnas_deploy.search.nn.float_twin`.
        """
        # Imported here: a layer holds a scheme, so its module imports this one.
        from bnas_deploy.search.nn.layers import BinaryConv2d

        return BinaryConv2d.of(geometry, self, bias=bias)

    def activation(self, channels: int) -> nn.Module | None:
        """Return the scheme's module behind a binary convolution and its BN; None for the network's own."""
        return None

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the parameter that weights of `shape`, (O, C/groups, KH, KW), are made of: the same."""
        return shape

    def at(self, progress: float) -> Self:
        """Return the scheme as it trains when the share `progress` of the epochs is done, from 0 to below 1.

        Only gradients may differ: evaluation and export ask the scheme itself.
        """
        return self

    def regulariser(self, weight: Tensor, learned: Learned) -> Tensor | None:
        """Return the term of the loss for a layer, already multiplied by its weight; None for no term."""
        return None

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the initial values of a layer's learned parameters besides this weight, by name.

        `channels_in` is C, of all groups; for a layer of float activations as well.
        """
        return {}

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return float weights instead of signs, for stages of training that do not binarise: `weight` itself."""
        return Binarised(weight, weight.new_ones(len(weight)))

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
    """The activations of another scheme with float weights, and a scale only where the other's activations have one."""

    weight_bits: ClassVar[int] = 32

    of: Scheme = Scheme()

    def excludes(self, geometry: Geometry) -> str | None:
        """Return what the other scheme says, or what it would say for a K map of this one."""
        return self.of.excludes(geometry) or super().excludes(geometry)

    @property
    def output_multiple(self) -> int:
        """Return that of the other scheme."""
        return self.of.output_multiple

    def activation(self, channels: int) -> nn.Module | None:
        """Return that of the other scheme."""
        return self.of.activation(channels)

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return that of the other scheme."""
        return self.of.latent_shape(shape)

    def at(self, progress: float) -> Self:
        """Return the activations of the other scheme as they train then."""
        return replace(self, of=self.of.at(progress))

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return those of the other scheme: its activations may need them."""
        return self.of.parameters(weight, channels_in)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return those of the other scheme."""
        return self.of.activations(x, learned)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return the weights that the other scheme would take signs of."""
        return self.of.real_weights(weight, learned)

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return those of the other scheme."""
        return self.of.real_weights(weight, learned)

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the threshold of the other scheme and the weights.

        Raises:
            ExportError: the activations of the other scheme are other numbers than +1 and -1.
        """
        activations = self.of.exported(weight, learned, channels_in)
        if activations.pad_value or activations.offset is not None:
            raise ExportError(
                f"{self.of}: float weights of activations that are not +1 and -1 cannot be exported; export "
                "best.safetensors of the whole run"
            )
        binarised = self.weights(weight.detach().float(), learned)
        return replace(activations, weight=binarised.weight.detach(), scale=binarised.scale.detach().float())


@dataclass(frozen=True)
class FloatTanh(FloatWeights):
    """tanh in the place of the sign of activations, and float weights, for a stage of training before signs."""

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
