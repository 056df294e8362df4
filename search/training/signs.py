"""Which binary weights change their sign: how much a network still moves, which a falling loss does not tell."""

import numpy as np
import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d


class SignMemory(nn.Module):
    """The signs of all binary weights at the start of an epoch, a bit each, on the CPU.

    It is a module so that a run saves and restores it as it does its network.

    Attributes:
        bits: uint8, the packed signs of every layer after the other; 1 is negative.
        known: False where a run was resumed from a file without the signs of its epoch.
    """

    bits: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        # A tuple: the layers are the network's, and are saved with that.
        self.layers = tuple(
            module
            for module in network.modules()
            if isinstance(module, BinaryConv2d | BinaryWeightConv2d) and module.scheme.weight_bits == 1
        )
        self.weights = sum(layer.weight.numel() for layer in self.layers)
        self.known = True
        self.register_buffer("bits", self._now())

    def changed_share(self) -> float | None:
        """Return the share of the binary weights that have another sign now; None where there are none, or unknown."""
        if not self.weights or not self.known:
            return None
        changed = np.unpackbits((self.bits ^ self._now()).numpy())
        return float(changed.sum()) / self.weights

    def remember(self) -> None:
        """Keep the signs as they are now."""
        self.bits.copy_(self._now())
        self.known = True

    def _now(self) -> Tensor:
        with torch.no_grad():
            signs = [layer.scheme.weights(layer.weight, layer.learned).weight < 0 for layer in self.layers]
        flat = [each.flatten().cpu().numpy() for each in signs]
        return torch.from_numpy(np.packbits(np.concatenate([*flat, np.zeros(0, bool)])))
