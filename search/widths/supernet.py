"""The network that a search trains: as wide as the widest candidates, with one convolution for all of them.

Candidate i of a layer has the first c_i filters of one weight W. Weights are binary filter by filter, so W_i^b is the
first c_i filters of W^b. With pi of Gumbel-softmax, the sum of the weights that zeros pad to the widest (DMS, A.2) is

    sum_i pi_i pad(W_i^b) = m W^b        m_j = sum of the pi_i with c_i > j

one number for each filter j. Convolution is linear, so m is multiplied to its result: that stays a sum of signs, which
any scheme makes as it always does, and one convolution is run.

**What the next layer reads** is as wide as the widest candidate, which m makes fainter towards its end. **BN** in
training divides by the deviation over the batch, in which m is a factor: m drops out, and with it all that a loss knows
of pi. While weights are trained that is right, for every channel is trained as strongly. While mu is trained, BN uses
its running statistics, in which m has its mean over the steps before: there a fainter channel stays a fainter one, up
to a constant where m is 0, which is what the channel's absence is to the next layer.
"""

from functools import partial

import torch
from torch import Tensor, nn

from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.models.width_layout import Channels, Layout
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.acceleration import LAYOUT


class WidthSupernet(nn.Module):
    """The network of the widest candidates, whose convolutions are mixtures of all.

    Args:
        layout: of the base network.
        candidates: channels of each width, ascending: (widths, 3) integers.
    """

    def __init__(self, layout: Layout, candidates: Tensor) -> None:
        super().__init__()
        widest = tuple(candidates[:, -1].tolist())
        self.network = build_network(layout.base.with_widths(widest)).to(memory_format=LAYOUT)  # type: ignore[call-overload]  # torch's annotation lacks this
        self._pi: Tensor | None = None
        modules = dict(self.network.named_modules())
        for layer in layout.layers:
            convolution = modules[layer.cost.name]
            if isinstance(convolution, BinaryConv2d | nn.Conv2d) and len(layer.out.of_widths) == 1:
                convolution.register_forward_hook(partial(self._mix, *_presence(layer.out, candidates)))

    def forward(self, images: Tensor, pi: Tensor) -> Tensor:
        """Map images (N, C, H, W) and the share of each candidate (widths, 3) to logits (N, classes)."""
        self._pi = pi.to(images.dtype)
        try:
            logits: Tensor = self.network(images)
        finally:
            self._pi = None
        return logits

    def _mix(
        self, width: int, presence: Tensor, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
    ) -> Tensor:
        """Multiply the filters of a convolution by m."""
        assert self._pi is not None, "a layer was run outside of the supernet"
        m = self._pi[width] @ presence.to(output.device)
        return output * m[:, None, None]


def _presence(out: Channels, candidates: Tensor) -> tuple[int, Tensor]:
    """Return the number of the width, and for each candidate which filters it has: float32 (3, O) of 0 and 1."""
    (width,) = out.of_widths
    counts = [round(out.constant + out.shares[width] * float(channels)) for channels in candidates[width]]
    filters = torch.arange(counts[-1])
    return width, torch.stack([(filters < count).float() for count in counts])


def best_effort(network: nn.Module, before: nn.Module) -> None:
    """Take over the leading part of every tensor of another width (DMS, Eqs. 9 and 10); the rest stays as it is.

    Statistics of BN and what schemes learn are taken over like weights.
    """
    old = before.state_dict()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            part = tuple(slice(min(sizes)) for sizes in zip(tensor.shape, old[name].shape, strict=True))
            tensor[part] = old[name][part]
