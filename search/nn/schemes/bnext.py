"""BNext (Guo et al. 2022): signs around learned thresholds, weights without a scale, PReLU behind the BN.

Code: github.com/hpi-xnor/BNext at 18bec91, src/bnext.py.

Faithful: sign(x - a) with the gradient of clip(x - a, -1.5, 1.5); weights sign(W), through whose sign the gradient
passes as it is, and which are kept within -1.5 to 1.5. The threshold is the code's bias with the other sign.
Left out: the code hardens weights slowly, clip(W / temperature, -1, 1) with a temperature that falls. A scheme's values
do not depend on where training is, so they are signs from the start; `multi-stage` recipes begin with float weights.
What the gates of the network do is the network's business: `search/models/bnext.py`.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import sign_passing_all, step_in_window
from bnas_deploy.search.nn.scheme import Binarised, Exported, Learned, Scheme

_WINDOW = 1.5


@dataclass(frozen=True)
class BNext(Scheme):
    """sign(x - a), a parameter `level` (C) that starts as zeros, convolved with sign(W)."""

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the thresholds."""
        return {"level": weight.new_zeros(channels_in)}

    def activation(self, channels: int) -> nn.Module:
        """Return a PReLU with a slope per channel."""
        return nn.PReLU(channels)

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return sign(x - a)."""
        window = x.new_full((1,), _WINDOW)
        return step_in_window(x - learned["level"][:, None, None], -window, window, below=-1.0)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return sign(W)."""
        return Binarised(sign_passing_all(weight), weight.new_ones(len(weight)))

    def renewed_weight(self, weight: Tensor) -> Tensor:
        """Return weights from -1.5 to 1.5."""
        return weight.clamp(-_WINDOW, _WINDOW)

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the thresholds too; x minus one of them is 0 only where they are equal."""
        return replace(super().exported(weight, learned, channels_in), threshold=learned["level"].detach().float())


SCHEME = BNext()
