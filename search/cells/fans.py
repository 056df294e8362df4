"""All edges that leave one state of a cell of the supernet, run together; `supernet` says why that changes no value."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.core.genotype import LEARNABLE, ZEROISE
from bnas_deploy.search.cells.config import SupernetConfig
from bnas_deploy.search.models.bnas.operations import OPERATION_BUILDERS, convolution
from bnas_deploy.search.models.bnas.scheme import scheme_of
from bnas_deploy.search.nn.estimators import activation_scale
from bnas_deploy.search.nn.geometry import Geometry
from bnas_deploy.search.nn.layers import BinaryConv2d


@dataclass(frozen=True, eq=False)
class State:
    """A node's value as the operations that read it need it, (N, C, H, W) each.

    `binary` is sign(`normed`), or `normed` itself in float.
    """

    value: Tensor
    normed: Tensor
    binary: Tensor


@dataclass(frozen=True, eq=False)
class Part:
    """What a candidate needs to run on some of the edges that leave a state.

    Attributes:
        edges: which of them, ascending.
        factor: what the results are multiplied by: of convolutions mixing weight times scale, (edges * C); of others
            the mixing weight, (edges).
        kernels: of a convolution, (edges * C, C, KH, KW).
    """

    edges: Sequence[int]
    factor: Tensor
    kernels: Tensor | None = None


Term = tuple[Sequence[int], Tensor, Tensor]
"""(edge indices, operation output per edge or shared, mixing weight)"""


class Convolutions(nn.Module):
    """One candidate, [sign ->] convolution -> ReLU, for all `edges` that leave a state."""

    def __init__(
        self, channels: int, edges: int, stride: int, config: SupernetConfig, *, kernel_size: int, dilation: int
    ) -> None:
        super().__init__()
        self.channels = channels
        self.edges = edges
        padding = dilation * (kernel_size - 1) // 2
        conv = convolution(Geometry.of(channels, edges * channels, kernel_size, stride, padding, dilation), config)
        assert isinstance(conv, nn.Conv2d | BinaryConv2d)  # what the schemes of a search have
        self.conv = conv
        # The first edge whose weights are float: all of them, none, or the deviation "real-last-convolutions".
        self.float_from = 0 if config.precision != "binary" else edges

    def weights_of(self, edges: Sequence[int]) -> Tensor:
        """Return the weights of some edges, (edges * C, C, KH, KW)."""
        if len(edges) == self.edges:
            return self.conv.weight
        return torch.cat([self.conv.weight[edge * self.channels : (edge + 1) * self.channels] for edge in edges])

    def renew_weights(self) -> None:
        """Change the weights that are binary in place, as their scheme does before a step."""
        conv = self.conv
        if isinstance(conv, BinaryConv2d):
            with torch.no_grad():
                binary = conv.weight[: self.float_from * self.channels]
                renewed = conv.scheme.renewed_weight(binary)
                if renewed is not binary:
                    binary.copy_(renewed)

    def forward(self, state: State, part: Part) -> tuple[Tensor, Tensor]:
        """Return relu(conv(x)), (N, edges, C, H', W'), and its factor (edges, C, 1, 1)."""
        assert part.kernels is not None
        conv = self.conv
        y = F.relu(F.conv2d(state.binary, part.kernels, None, conv.stride, conv.padding, conv.dilation))
        if isinstance(conv, BinaryConv2d) and conv.scheme.k_map:
            y = y * activation_scale(state.normed, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        return torch.unflatten(y, 1, (len(part.edges), -1)), part.factor.view(len(part.edges), -1, 1, 1)


class Pooling(nn.Module):
    """A pooling and the BN that follows it in the supernet; the same for all edges that leave a state."""

    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, state: State, part: Part) -> tuple[Tensor, Tensor]:
        """Return pool(x), (N, 1, C, H', W'), and its factor (edges, 1, 1, 1)."""
        y: Tensor = self.norm(self.pool(state.value))
        return y[:, None], part.factor[:, None, None, None]


class Identities(nn.Module):
    """The state itself, for all edges."""

    def forward(self, state: State, part: Part) -> tuple[Tensor, Tensor]:
        """Return x, (N, 1, C, H, W), and its factor (edges, 1, 1, 1)."""
        return state.value[:, None], part.factor[:, None, None, None]


class Separately(nn.Module):
    """A candidate whose edges have nothing in common that is worth sharing: a module for each of them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(modules)

    def forward(self, state: State, part: Part) -> tuple[Tensor, Tensor]:
        """Return op(x) of each edge, (N, edges, C, H', W'), and its factor (edges, 1, 1, 1)."""
        y = torch.stack([self.edges[edge](state.value) for edge in part.edges], dim=1)
        return y, part.factor[:, None, None, None]


class Fan(nn.Module):
    """All edges that leave one state, mixed."""

    def __init__(self, channels: int, edges: int, stride: int, config: SupernetConfig) -> None:
        super().__init__()
        self.channels = channels
        self.edges = edges
        self.stride = stride
        self.scheme = None if config.is_float else scheme_of(config.scheme, config.deviations, k_map=config.k_map)
        names = [name for name in config.space.operations if name != ZEROISE]
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.operations = nn.ModuleDict({name: candidate(name, channels, edges, stride, config) for name in names})

    def forward(self, x: Tensor, parts: Mapping[str, Part], single: bool) -> Tensor:
        """Map a state (N, C, H, W) to what each edge adds, (N, edges, C, H', W'), with what runs of `operations`."""
        normed = self.norm(x)
        binary = normed if self.scheme is None else self.scheme.activations(normed, {})
        state = State(x, normed, binary)
        terms: list[Term] = [(part.edges, *self.operations[name](state, part)) for name, part in parts.items()]
        return self._chosen(x, terms) if single else _weighted_sum(terms)

    def _chosen(self, x: Tensor, terms: Sequence[Term]) -> Tensor:
        """Put the one operation that each edge has, if it is not Zeroise, in the edge's place."""
        outputs = [torch.zeros_like(x[:, :, :: self.stride, :: self.stride])] * self.edges
        for edges, y, factor in terms:
            for edge, output in zip(edges, (y * factor).unbind(1), strict=True):
                outputs[edge] = output
        return torch.stack(outputs, dim=1)


def _weighted_sum(terms: Sequence[Term]) -> Tensor:
    (_, first, factor), *others = terms
    total = first * factor
    for _, y, factor in others:
        total = total + y * factor  # not addcmul, whose gradient takes two operations more
    return total


def candidate(name: str, channels: int, edges: int, stride: int, config: SupernetConfig) -> nn.Module:
    """Return a candidate operation for all edges that leave a state."""
    if name == "skip_connect" and stride == 1:
        return Identities()
    if name in _CONVOLUTIONS:
        kernel_size, dilation = _CONVOLUTIONS[name]
        return Convolutions(channels, edges, stride, config, kernel_size=kernel_size, dilation=dilation)
    if name in LEARNABLE:
        return Separately(OPERATION_BUILDERS[name](channels, stride, config, affine=False) for _ in range(edges))
    return Pooling(OPERATION_BUILDERS[name](channels, stride, config), channels)


_CONVOLUTIONS = {
    "bin_dil_conv_3x3": (3, 2),
    "bin_dil_conv_5x5": (5, 2),
    "bin_conv_3x3": (3, 1),
    "bin_conv_5x5": (5, 1),
    "skip_connect": (3, 1),  # where the stride is 2
}
"""Name -> kernel size and dilation."""
