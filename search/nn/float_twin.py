"""The float twin of a network: its states, in the twin's names and in the network's own."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.scheme_layer import SchemeLayer


class Composite(nn.Module, ABC):
    """A module in the place of one binary convolution, made of several, or of one with something around it."""

    @abstractmethod
    def real_weight(self) -> Tensor:
        """Return the weights of the float convolution that it stands for, (O, C/groups, KH, KW)."""

    @abstractmethod
    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return its first tensors, by the names of its state, made of the weights of a float convolution."""

    def share(self) -> None:
        """Let its layers use the parameters that they share, with `share_parameter`."""

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        """Share again: on the way to another device PyTorch may make a new parameter of the one that is registered."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        self.share()
        return self


def share_parameter(layer: nn.Module, name: str, owner: nn.Module) -> None:
    """Let a layer use a parameter of another, which it is neither saved nor moved with."""
    if layer is not owner:
        layer._parameters.pop(name, None)
        object.__setattr__(layer, name, getattr(owner, name))


def float_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the state of a network as its float twin names it.

    Each binary layer or composite is a float convolution in the twin, whose weight is its `real_weight`. Its other
    tensors are in the state as well; no twin asks for them.
    """
    state = dict(network.state_dict())
    with torch.no_grad():
        for name, module in network.named_modules():
            if isinstance(module, Composite | SchemeLayer):
                state[f"{name}.weight" if name else "weight"] = module.real_weight().detach()
    return state


def state_from_twin(network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of a network's float twin in the network's own names; other states are unchanged.

    Raises:
        ValueError: a layer makes its weights of fewer numbers, so a float convolution gives no beginning for it.
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
