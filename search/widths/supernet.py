"""The network that a search trains: as wide as the widest candidates, with one convolution for all of them.

Candidate i of a width is the first c_i of the channels between two layers, so all candidates share one weight: what
Eqs. 9 and 10 of DMS say from round to round holds within a round too. To a layer that reads the width, W_i is the part
of its weight W for the first c_i input channels. With pi of Gumbel-softmax, the sum of the weights that zeros pad to
the widest (A.2) is

    sum_i pi_i pad(W_i) = W diag(m)        m_j = sum of the pi_i with c_i > j

and one convolution with it gives the mixture of all candidates. Scale and standardisation of a scheme are those of all
of W: the candidates of a round share them. So m makes the last channels fainter for whoever reads
them, whatever the scheme; a layer that reads a concatenation has the m of every part.

**Why not where the channels are written.** There zeros pad filters, and by linearity that is the same mixture up to the
next BN or sign. But BN divides by the deviation over the batch, in which m_j is a factor, and sign(m_j x) = sign(x). So
neither BN nor sign lets pi reach the loss. Here, BN of the writing layer has the statistics of the widest candidate,
without m; BN of the reading layer has the mixture's. Both use statistics of the batch, in passes that train mu as well
(as in DARTS), since the running ones belong to other samples of pi.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.models.width_layout import Channels, Layer, Layout
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.acceleration import memory_format_of

Part = tuple[int, Tensor]
"""The number of a width, and which of its channels each candidate has: float32 (3, channels) of 0 and 1."""


class WidthSupernet(nn.Module):
    """The network of the widest candidates, whose layers read mixtures of all.

    Args:
        layout: of the base network.
        candidates: channels of each width, ascending: (widths, 3) integers.
    """

    def __init__(self, layout: Layout, candidates: Tensor) -> None:
        super().__init__()
        widest = tuple(candidates[:, -1].tolist())
        self.network = build_network(layout.base.with_widths(widest))
        self.network.to(memory_format=memory_format_of(self.network, torch.device("cpu")))  # type: ignore[call-overload]  # torch's annotation lacks this
        self._pi: Tensor | None = None
        modules = dict(self.network.named_modules())
        for layer in layout.layers:
            if parts := _parts(layer, candidates):
                self._mix(modules[layer.cost.name], parts)

    def forward(self, images: Tensor, pi: Tensor) -> Tensor:
        """Map images (N, C, H, W) and the share of each candidate, (widths, 3), to logits (N, classes)."""
        self._pi = pi.to(images.dtype)
        try:
            logits: Tensor = self.network(images)
        finally:
            self._pi = None
        return logits

    def _mix(self, module: nn.Module, parts: list[Part]) -> None:
        """Make a layer read the mixture."""
        if isinstance(module, BinaryConv2d):
            # Behind the signs, which m in front of them could not change.
            module.convolve = partial(self._convolve, module.convolve, module.groups, parts)  # type: ignore[method-assign]  # of this object alone
        else:
            module.register_forward_pre_hook(partial(self._fade, parts))

    def _convolve(self, convolve: Any, groups: int, parts: list[Part], x: Tensor, weight: Tensor) -> Tensor:
        m = self._m(parts)
        if groups > 1:  # a filter reads the channels of its group only
            y: Tensor = convolve(x * m[:, None, None], weight)
        else:
            y = convolve(x, weight * m[:, None, None])
        return y

    def _fade(self, parts: list[Part], module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
        (x,) = inputs
        return (x * self._m(parts).reshape(-1, *(1,) * (x.ndim - 2)),)

    def _m(self, parts: list[Part]) -> Tensor:
        """Return m of the channels that a layer reads, (C)."""
        pi = self._pi
        assert pi is not None, "a layer was run outside of the supernet"
        return torch.cat([pi[width] @ presence.to(pi) for width, presence in parts])


def _parts(layer: Layer, candidates: Tensor) -> list[Part]:
    """Return the widths that a layer reads: one, or several in the order of their names, as in a concatenation.

    None where it reads channels that are worked out from a width, as between the two layers of a gate. No candidate
    owns these, and they are as many as the widest needs.
    """
    read, numbers = layer.read, layer.read.of_widths
    if read.constant or any(read.shares[number] != round(read.shares[number]) for number in numbers):
        return []
    return [(number, _presence(read, number, candidates[number])) for number in numbers]


def _presence(read: Channels, number: int, candidates: Tensor) -> Tensor:
    counts = [round(read.shares[number]) * int(channels) for channels in candidates]
    channels = torch.arange(counts[-1])
    return torch.stack([(channels < count).float() for count in counts])


def best_effort(network: nn.Module, before: nn.Module) -> None:
    """Take over the leading part of every tensor of another width (DMS, Eqs. 9 and 10); the rest stays as it is.

    Statistics of BN and what schemes learn are taken over like weights.
    """
    old = before.state_dict()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            part = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, old[name].shape, strict=True))
            tensor[part] = old[name][part]
