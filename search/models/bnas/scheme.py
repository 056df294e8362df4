"""The schemes of BNAS: the paper's, and that of the official code where its deviations are asked for."""

from collections.abc import Container
from dataclasses import dataclass, replace

from torch import Tensor

from bnas_deploy.search.nn.estimators import (
    centred_and_clamped,
    scale_gradient,
    scaled_sign,
    sign_activation,
    sign_weight,
    weight_scale,
)
from bnas_deploy.search.nn.scheme import Binarised, Exported, Learned, Scheme
from bnas_deploy.search.nn.schemes import named_scheme
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet


@dataclass(frozen=True)
class OfficialBnas(XnorNet):
    """sign and beta as the official BNAS code has them; each attribute is the deviation of that name in `config`.

    The code centres and clamps the weights in place before each step, so that no gradient goes through either.
    """

    centre_weights: bool = False
    clamp_weights: bool = False
    fan_in_gradient: bool = False
    sign_of_zero: bool = False

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x); 0 where x is 0 with `sign_of_zero`."""
        return sign_activation(x, sign_of_zero=self.sign_of_zero)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return signs and beta of the weights as the code has them."""
        latent = self._latent(weight, renewed=renewed)
        return Binarised(sign_weight(latent, sign_of_zero=self.sign_of_zero), weight_scale(latent))

    def effective_weight(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Tensor:
        """Return beta times the signs, made at once where a zero has a sign."""
        if self.sign_of_zero:
            return Scheme.effective_weight(self, weight, learned, renewed=renewed)
        return scaled_sign(self._latent(weight, renewed=renewed))

    def _latent(self, weight: Tensor, *, renewed: bool) -> Tensor:
        """Return weights to take signs of; renewed ones are not centred and clamped again, which would round again."""
        if self.fan_in_gradient:
            fan_in, channels = weight[0].numel(), weight.shape[1]
            weight = scale_gradient(weight, fan_in * (1 - 1 / channels))
        return weight if renewed else self.renewed_weight(weight)

    def renewed_weight(self, weight: Tensor) -> Tensor:
        """Return the weight centred and clamped, as far as it is asked for."""
        return centred_and_clamped(weight, centre=self.centre_weights, clamp=self.clamp_weights)

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return signs and beta, and whether a zero has the sign 0."""
        return replace(super().exported(weight, learned, channels_in), sign_of_zero=self.sign_of_zero)


def scheme_of(name: str, deviations: Container[str], *, k_map: bool) -> Scheme:
    """Return the scheme of a network's binary convolutions; `deviations` are of `config.DEVIATIONS`."""
    attributes = {key: key.replace("_", "-") in deviations for key in _IN_PLACE}
    if any(attributes.values()):
        return OfficialBnas(k_map=k_map, **attributes)
    return replace(named_scheme(name), k_map=k_map)


_IN_PLACE = ("centre_weights", "clamp_weights", "fan_in_gradient", "sign_of_zero")
