"""ABC-Net (Lin et al., NIPS 2017): several binary bases of the weights, times several of the activations.

Faithful: with u from -1 to 1, the bases of weights are B_m = sign(W - mean + u_m std). Least squares give their factors
alpha, which are constants of the gradient. The gradient passes the signs unchanged. A basis of activations is +1 where
clip(x + v_n, 0, 1) >= 1/2, else -1, with a gradient where 0 <= x + v_n <= 1. The factors beta_n and the v_n are
learned. A layer is the sum of all pairs.
Chosen here: mean, std and alpha are of an output channel, not of a layer, since an operator has a scale for each. The u
are fixed, and the default is 3 bases of each. Left open by the paper, as far as we know: how beta and v begin. Here
beta is 1/N, and the thresholds 1/2 - v divide 0 to 1 evenly.
Each pair is a binary convolution of its own in PyTorch and in the exported network. All use one latent weight.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from bnas_deploy.search.nn.estimators import sign_passing_all, step_in_window
from bnas_deploy.search.nn.float_twin import Composite, share_parameter
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import Binarised, Exported, Learned, Scheme

_RIDGE = 1e-6  # two bases that are equal would have no least squares without it: they share a factor


@dataclass(frozen=True)
class AbcBasis(Scheme):
    """One pair of bases.

    Attributes:
        shifts: u of all bases of the weights.
        weight_basis: which of them this is.
        threshold: of the activations at first.
        factor: beta at first.
    """

    shifts: tuple[float, ...] = (0.0,)
    weight_basis: int = 0
    threshold: float = 0.5
    factor: float = 1.0

    def parameters(self, weight: Tensor, channels_in: int) -> dict[str, Tensor]:
        """Return the threshold and beta, a number each."""
        return {"level": weight.new_full((1,), self.threshold), "factor": weight.new_full((1,), self.factor)}

    def activations(self, x: Tensor, learned: Learned) -> Tensor:
        """Return +1 where x >= level, else -1."""
        half = x.new_full((1,), 0.5)
        return step_in_window(x - learned["level"], -half, half, below=-1.0)

    def weights(self, weight: Tensor, learned: Learned, *, renewed: bool = False) -> Binarised:
        """Return B_m, and alpha_m times beta_n."""
        latent = weight.detach()
        bases = [sign_passing_all(_shifted(latent, shift)) for shift in self.shifts]
        alpha = least_squares(torch.stack(bases, dim=1).flatten(2), latent.flatten(1))[:, self.weight_basis]
        signs = sign_passing_all(_shifted(weight, self.shifts[self.weight_basis]))
        return Binarised(signs, alpha * learned["factor"])

    def real_weights(self, weight: Tensor, learned: Learned) -> Binarised:
        """Return the share of W that all bases of the weights sum up to, and beta_n."""
        return Binarised(weight / len(self.shifts), learned["factor"].expand(len(weight)))

    def exported(self, weight: Tensor, learned: Learned, channels_in: int) -> Exported:
        """Return the same threshold for all channels; x minus it is 0 only where they are equal."""
        threshold = learned["level"].detach().float().expand(channels_in).clone()
        return replace(super().exported(weight, learned, channels_in), threshold=threshold)


def _shifted(weight: Tensor, shift: float) -> Tensor:
    """Return W - mean + shift std, each of an output channel; the gradient passes as it is."""
    variance, mean = torch.var_mean(weight.detach(), dim=(1, 2, 3), correction=0, keepdim=True)
    return weight - (mean - shift * variance.sqrt())


def least_squares(bases: Tensor, weight: Tensor) -> Tensor:
    """Return the factors of bases (O, M, n) of +1 and -1 whose sum comes nearest to weights (O, n): (O, M).

    With G = B B^T / n, whose diagonal is 1, they are G^-1 B w / n. Both products are written as means, since mixed
    precision would round a product of matrices.
    """
    gram = (bases[:, :, None] * bases[:, None]).mean(dim=-1)
    ridge = _RIDGE * torch.eye(bases.shape[1], dtype=bases.dtype, device=bases.device)
    solved: Tensor = torch.linalg.solve(gram + ridge, (bases * weight[:, None]).mean(dim=-1, keepdim=True))
    return solved[:, :, 0]


class SumOfBases(Composite):
    """The sum of binary convolutions that use one weight: (N, C, H, W) to (N, O, OH, OW).

    Args:
        rows: a row for each basis of the activations, a layer in it for each of the weights.
        bias: add a parameter (O).
    """

    def __init__(self, rows: list[list[BinaryConv2d]], *, bias: bool) -> None:
        super().__init__()
        self.rows = nn.ModuleList(nn.ModuleList(row) for row in rows)
        first = rows[0][0]
        self.bias = nn.Parameter(first.weight.new_zeros(first.out_channels)) if bias else None
        self.share()

    def _layers(self) -> list[list[BinaryConv2d]]:
        return [list(cast(Iterable[BinaryConv2d], row)) for row in self.rows]

    def share(self) -> None:
        """Let all layers use the weight of the first, and those of a row its level and factor."""
        layers = self._layers()
        for row in layers:
            for layer in row:
                share_parameter(layer, "weight", layers[0][0])
                for name in layer.learned:
                    share_parameter(layer, name, row[0])

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        y: Tensor | None = None
        for layer in (layer for row in self._layers() for layer in row):
            term = layer(x)
            y = term if y is None else y + term
        assert y is not None
        return y if self.bias is None else y + self.bias[:, None, None]

    def real_weight(self) -> Tensor:
        """Return the latent weight."""
        weight: Tensor = self._layers()[0][0].weight
        return weight

    def latent(self, weight: Tensor) -> dict[str, Tensor]:
        """Return it for the layer that has the weight."""
        return {"rows.0.0.weight": weight}


@dataclass(frozen=True)
class AbcNet(AbcBasis):
    """The sum of all pairs of bases; in a single layer, such as a dense one, a single pair.

    Attributes:
        weight_bases: how many there are; the paper's tables have 1 to 5.
        activation_bases: how many there are.
    """

    weight_bases: int = 3
    activation_bases: int = 3

    def excludes(self, geometry: Geometry) -> str | None:
        """Exclude a K map, which is of one basis of activations."""
        if self.k_map:
            return "the K map is of one basis of activations, and abc-net has several"
        return super().excludes(geometry)

    def build(self, geometry: Geometry, *, bias: bool) -> nn.Module:
        """Return a binary convolution for each pair."""
        shifts = _spread(self.weight_bases)
        count = self.activation_bases
        rows = [
            [
                BinaryConv2d.of(
                    geometry,
                    AbcBasis(shifts=shifts, weight_basis=basis, threshold=(row + 0.5) / count, factor=1 / count),
                )
                for basis in range(self.weight_bases)
            ]
            for row in range(count)
        ]
        return SumOfBases(rows, bias=bias)


def _spread(count: int) -> tuple[float, ...]:
    """Return u of each of so many bases: -1 to 1, a single one 0."""
    return tuple(-1 + 2 * index / (count - 1) for index in range(count)) if count > 1 else (0.0,)


SCHEME = AbcNet()
