"""Layers that hold a scheme, and the functions that training calls for all of them in a network."""

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.scheme import Binarised, Learned, Scheme


class SchemeLayer(nn.Module):
    """A layer with weights and a scheme; the learned values of the scheme are parameters of the layer.

    Attributes:
        progress: the share of the epochs that are done, while the layer is trained; see `set_progress`.
    """

    weight: Tensor
    in_channels: int
    progress = 0.0

    def set_scheme(self, scheme: Scheme) -> None:
        """Give the layer a scheme; parameters that an earlier one learned are kept where this one has them, too."""
        named = scheme.parameters(self.weight.detach(), self.in_channels)
        for name in set(getattr(self, "_learned", ())) - set(named):
            delattr(self, name)
        for name, value in named.items():
            if not hasattr(self, name):
                setattr(self, name, nn.Parameter(value))
        self.scheme = scheme
        self._learned = tuple(named)

    @property
    def learned(self) -> Learned:
        """Return the learned values of the scheme in this layer, by name."""
        return {name: getattr(self, name) for name in self._learned}

    def renew_weight(self) -> None:
        """Change the weights in place as the scheme does before a step of training."""
        with torch.no_grad():
            renewed = self.scheme.renewed_weight(self.weight)
            if renewed is not self.weight:
                self.weight.copy_(renewed)

    @property
    def scheme_now(self) -> Scheme:
        """Return the scheme with the gradients that it has at this point of a training; of itself in evaluation."""
        return self.scheme.at(self.progress) if self.training else self.scheme

    def binarised(self) -> Binarised:
        """Return the weights as the scheme has them in a run; in training mode they are renewed first."""
        if self.training:
            self.renew_weight()
        return self.scheme_now.weights(self.weight, self.learned, renewed=self.training)

    def effective_weight(self) -> Tensor:
        """Return `binarised` as one tensor, the weights times the scale: (O, C/groups, KH, KW)."""
        if self.training:
            self.renew_weight()
        return self.scheme_now.effective_weight(self.weight, self.learned, renewed=self.training)

    def real_weight(self) -> Tensor:
        """Return the float weights that stand behind the signs, (O, C/groups, KH, KW), as a float twin has them."""
        return self.scheme.real_weights(self.weight, self.learned).weight

    def regulariser(self) -> Tensor | None:
        """Return the scheme's term of the loss for this layer."""
        return self.scheme.regulariser(self.weight, self.learned)


def set_progress(network: nn.Module, progress: float) -> None:
    """Tell the layers of a network that the share `progress` of the epochs is done, which gradients may depend on."""
    for module in network.modules():
        if isinstance(module, SchemeLayer):
            module.progress = progress


def binary_weights(network: nn.Module) -> list[nn.Parameter]:
    """Return the weights that the layers of a network take the signs of, each once."""
    layers = [module for module in network.modules() if isinstance(module, SchemeLayer)]
    weights = [layer.weight for layer in layers if layer.scheme.weight_bits == 1]
    return list({id(weight): weight for weight in weights if isinstance(weight, nn.Parameter)}.values())


def regularisers(network: nn.Module) -> Tensor | None:
    """Return the sum of the loss terms of a network's schemes; None where none has a term."""
    layers = (module for module in network.modules() if isinstance(module, SchemeLayer))
    terms = [term for term in (layer.regulariser() for layer in layers) if term is not None]
    return torch.stack(terms).sum() if terms else None
