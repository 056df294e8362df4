"""The float twin of a network: its states, in the twin's names and in the network's own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.scheme_layer import SchemeLayer


class Composite(nn.Module, ABC):
    """What stands in a network where one binary convolution does, and is made of some and of what is around them."""

    @abstractmethod
    def real_weight(self) -> Tensor:
        """Return the weights of the float convolution that it stands for, (O, C/groups, KH, KW)."""

    @abstractmethod
    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return what it begins with in the place of the weights of a float convolution, by the names of its state."""


def float_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as its float twin names it.

    A float convolution stands where a binary layer or a composite does, and has its `real_weight`; what else such a
    module has is there as well, and no twin asks for it.
    """
    state = dict(network.state_dict())
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Composite | SchemeLayer):
                state[f"{name}.weight" if name else "weight"] = module.real_weight().detach()
    return state


def state_from_twin(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a network's float twin as the network names it; other states stay as they are.

    Raises:
        ValueError: a layer makes its weights of fewer, so that those of a float convolution are no beginning for it.
    """
    renamed = dict(state)
    for name, module in network.named_modules():
        key = f"{name}.weight" if name else "weight"
        if key not in renamed:
            continue
        if isinstance(module, Composite):
            latent = module.latent(renamed.pop(key))
            renamed |= {f"{name}.{inner}" if name else inner: value for inner, value in latent.items()}
        elif isinstance(module, SchemeLayer) and renamed[key].shape != module.weight.shape:
            raise ValueError(
                f"{name} makes its weights of {tuple(module.weight.shape)}, and a float layer has "
                f"{tuple(renamed[key].shape)}"
            )
    return renamed
