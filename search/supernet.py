"""The network being searched: every edge of a cell is a mixture of all candidate operations.

    y_j = sum over edges (i, j) of sum over operations o of w_ijo * o(x_i)          (DARTS, Eq. 2)

The alphas, from which a strategy makes the weights w, are shared by all normal cells and by all reduction cells.

A cell has 14 edges and 7 operations, and running them one by one is mostly overhead. What the edges that leave one
state have in common is done once for all of them, which changes no value:

* Their inputs are the same, and the BN of a candidate has no gamma and beta, so one BN and one sign serve them all,
  and each pooling is done once.
* Convolutions with the same geometry are one convolution whose output channels are those of all the edges; their
  weights are binarised together, because centring, beta and sign treat every output channel by itself.
* relu(beta * acc) * w = relu(acc) * (beta * w), since beta >= 0: scale and mixing weight are multiplied once.
* Zeroise adds nothing.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bnas_deploy.genotype import INNER_NODES, INPUT_NODES, LEARNABLE
from bnas_deploy.search.binarize import activation_scale, sign_activation
from bnas_deploy.search.cell import ReductionSkip
from bnas_deploy.search.layers import BinaryConv2d
from bnas_deploy.search.network import CifarStem
from bnas_deploy.search.operations import OPERATION_BUILDERS, ConvBlock, binary_conv
from bnas_deploy.search.search_config import SupernetConfig
from bnas_deploy.search.space import EDGES, ZEROISE

_ALPHA_STD = 1e-3  # of the initial alphas, as in DARTS's code


@dataclass(frozen=True, eq=False)
class Mixture:
    """The mixing weights of both cells, (edges, operations) each.

    `single`: each edge has exactly one weight other than 0, and only that operation runs.
    """

    normal: Tensor
    reduction: Tensor
    single: bool = False


@dataclass(frozen=True, eq=False)
class State:
    """A node's value as the operations that read it need it, (N, C, H, W) each.

    `binary` is sign(`normed`), or `normed` itself in float.
    """

    value: Tensor
    normed: Tensor
    binary: Tensor


class Convolutions(nn.Module):
    """One candidate, [sign ->] convolution -> ReLU, for all `edges` that leave a state."""

    def __init__(
        self, channels: int, edges: int, stride: int, config: SupernetConfig, *, kernel_size: int, dilation: int
    ) -> None:
        super().__init__()
        self.channels = channels
        padding = dilation * (kernel_size - 1) // 2
        geometry = (channels, edges * channels, kernel_size, stride, padding, dilation)
        self.conv: BinaryConv2d | nn.Conv2d
        if config.real:
            self.conv = nn.Conv2d(*geometry, bias=False)
        else:
            self.conv = binary_conv(*geometry, config=config)
        # Output channels whose weights stay real, the departure "real-last-convolutions".
        self.real_from = edges * channels

    def forward(self, state: State, weights: Tensor, chosen: Sequence[int]) -> Tensor:
        """Return w * relu(conv(x)) of the `chosen` edges side by side, (N, chosen * C, H', W').

        Args:
            state: what the edges read.
            weights: of the chosen edges, (chosen).
            chosen: which of the edges.
        """
        kernels, scale = self._kernels()
        factor = weights.repeat_interleave(self.channels)
        if len(chosen) * self.channels < len(kernels):
            kernels = self._of(kernels, chosen)
            scale = self._of(scale, chosen) if scale is not None else None
        if scale is not None:
            factor = factor * scale
        conv = self.conv
        y = F.conv2d(state.binary, kernels, None, conv.stride, conv.padding, conv.dilation)
        y = F.relu(y) * factor[:, None, None]
        if isinstance(conv, BinaryConv2d) and conv.k_map:
            y = y * activation_scale(state.normed, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        return y

    def _kernels(self) -> tuple[Tensor, Tensor | None]:
        """Return the kernels (edges * C, C, KH, KW) and what their results are scaled by, if anything."""
        conv = self.conv
        if not isinstance(conv, BinaryConv2d) or conv.real_weights:
            return conv.weight, None
        signs, scale = conv.binary_weight()
        real = self.real_from
        if real < len(signs):
            signs = torch.cat([signs[:real], conv.weight[real:]])
            scale = torch.cat([scale[:real], torch.ones_like(scale[real:])])
        return signs, scale

    def _of(self, x: Tensor, chosen: Sequence[int]) -> Tensor:
        return torch.cat([x[edge * self.channels : (edge + 1) * self.channels] for edge in chosen])


class Pooling(nn.Module):
    """A pooling and the BN that follows it in the supernet; the same for all edges that leave a state."""

    def __init__(self, pool: nn.Module, channels: int) -> None:
        super().__init__()
        self.pool = pool
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, state: State, weights: Tensor, chosen: Sequence[int]) -> Tensor:
        """Return w * pool(x) of the chosen edges side by side, (N, chosen * C, H', W')."""
        y: Tensor = self.norm(self.pool(state.value))
        return (y[:, None] * weights[:, None, None, None]).flatten(1, 2)


class Identities(nn.Module):
    """The state itself, for all edges."""

    def forward(self, state: State, weights: Tensor, chosen: Sequence[int]) -> Tensor:
        """Return w * x of the chosen edges side by side, (N, chosen * C, H, W)."""
        return (state.value[:, None] * weights[:, None, None, None]).flatten(1, 2)


class Separately(nn.Module):
    """A candidate whose edges have nothing in common that is worth sharing: a module for each of them."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.edges = nn.ModuleList(modules)

    def forward(self, state: State, weights: Tensor, chosen: Sequence[int]) -> Tensor:
        """Return w * op(x) of the chosen edges side by side, (N, chosen * C, H', W')."""
        return torch.cat([self.edges[edge](state.value) * weights[i] for i, edge in enumerate(chosen)], dim=1)


class Fan(nn.Module):
    """All edges that leave one state, mixed."""

    def __init__(self, channels: int, edges: int, stride: int, config: SupernetConfig) -> None:
        super().__init__()
        self.channels = channels
        self.edges = edges
        self.stride = stride
        self.real = config.real
        self.columns = [i for i, name in enumerate(config.space.operations) if name != ZEROISE]
        names = [config.space.operations[column] for column in self.columns]
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.operations = nn.ModuleDict({name: candidate(name, channels, edges, stride, config) for name in names})

    def forward(self, x: Tensor, weights: Tensor, single: bool) -> Tensor:
        """Map a state (N, C, H, W) and weights (edges, operations) to what each edge adds, (N, edges, C, H', W')."""
        normed = self.norm(x)
        state = State(x, normed, normed if self.real else sign_activation(normed))
        run = self._run_chosen if single else self._run_all
        return run(state, weights)

    def _run_all(self, state: State, weights: Tensor) -> Tensor:
        everyone = range(self.edges)
        operations = zip(self.columns, self.operations.values(), strict=True)
        parts = [operation(state, weights[:, column], everyone) for column, operation in operations]
        return self._by_edge(sum(parts[1:], start=parts[0]))

    def _run_chosen(self, state: State, weights: Tensor) -> Tensor:
        zero = torch.zeros_like(state.value[:, :, :: self.stride, :: self.stride])
        outputs = [zero] * self.edges
        used = (weights.detach() != 0).tolist()
        for column, operation in zip(self.columns, self.operations.values(), strict=True):
            chosen = [edge for edge in range(self.edges) if used[edge][column]]
            if chosen:
                y = operation(state, weights[chosen, column], chosen)
                for edge, part in zip(chosen, self._by_edge(y).unbind(1), strict=True):
                    outputs[edge] = outputs[edge] + part
        return torch.stack(outputs, dim=1)

    def _by_edge(self, y: Tensor) -> Tensor:
        """Map (N, edges * C, H', W') to (N, edges, C, H', W')."""
        images, _, height, width = y.shape
        return y.view(images, -1, self.channels, height, width)


class MixedCell(nn.Module):
    """A cell of the supernet; inputs, output and skip as in `cell.SearchedCell`."""

    def __init__(
        self,
        *,
        before_previous: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
        skip: bool,
        config: SupernetConfig,
    ) -> None:
        super().__init__()
        self.reduction = reduction
        real = replace(config, precision="float")
        kernel, stride = (3, 2) if after_reduction else (1, 1)
        self.preprocess0 = ConvBlock(before_previous, channels, real, kernel_size=kernel, stride=stride, affine=False)
        self.preprocess1 = ConvBlock(previous, channels, real, kernel_size=1, affine=False)
        self.fans = nn.ModuleList(
            Fan(channels, len(rows_from(source)), 2 if reduction and source < INPUT_NODES else 1, config)
            for source in range(INPUT_NODES + INNER_NODES - 1)
        )
        self.skip: nn.Module | None = None
        if skip:
            self.skip = ReductionSkip(previous, INNER_NODES * channels, real) if reduction else nn.Identity()

    def forward(self, before_previous: Tensor, previous: Tensor, weights: Tensor, single: bool) -> Tensor:
        """Map c_{k-2}, c_{k-1} and mixing weights (14, operations) to c_k, (N, 4 C, H, W) or half the resolution."""
        by_source = [weights[rows_from(source)] for source in range(len(self.fans))]
        first, second, *rest = zip(self.fans, by_source, strict=True)
        # What the states so far add to the nodes that are not ready yet, (N, nodes, C, H', W').
        pending = first[0](self.preprocess0(before_previous), first[1], single)
        pending = pending + second[0](self.preprocess1(previous), second[1], single)
        nodes = [pending[:, 0]]
        for fan, rows in rest:
            pending = pending[:, 1:] + fan(nodes[-1], rows, single)
            nodes.append(pending[:, 0])
        y = torch.cat(nodes, dim=1)
        return y if self.skip is None else y + self.skip(previous)


class Supernet(nn.Module):
    """A stack of mixed cells between the stem and the classifier of a CIFAR network."""

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = CifarStem(config.in_channels, config.channels)
        before_previous, previous = self.stem.out_channels
        channels = config.channels
        after_reduction = False
        self.cells = nn.ModuleList()
        for index in range(config.cells):
            reduction = index in config.reduction_cells
            channels *= 2 if reduction else 1
            cell = MixedCell(
                before_previous=before_previous,
                previous=previous,
                channels=channels,
                reduction=reduction,
                after_reduction=after_reduction,
                skip=config.inter_cell_skip and index > 0,
                config=config,
            )
            self.cells.append(cell)
            before_previous, previous = previous, INNER_NODES * channels
            after_reduction = reduction
        self.classifier = nn.Linear(previous, config.classes)
        shape = (len(EDGES), len(config.space.operations))
        self.alphas = nn.ParameterDict(
            {name: _ALPHA_STD * torch.randn(shape) for name in ("normal", "reduction")}  # made parameters by the dict
        )
        if config.precision == "binary-activations":
            for module in self.modules():
                if isinstance(module, BinaryConv2d):
                    module.real_weights = True
        if "real-last-convolutions" in config.departures:
            _leave_last_real(self)

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but the alphas."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Return the alphas of both cells."""
        return list(self.alphas.values())

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Map images (N, in_channels, H, W), normalised, to logits (N, classes)."""
        before_previous, previous = self.stem(x)
        for cell in self.cells:
            weights = mixture.reduction if cell.reduction else mixture.normal
            before_previous, previous = previous, cell(before_previous, previous, weights, mixture.single)
        logits: Tensor = self.classifier(previous.mean(dim=(2, 3)))
        return logits


def rows_from(source: int) -> list[int]:
    """Return which of `EDGES` leave a state, in the order of the nodes that they enter."""
    return [row for row, (start, _) in enumerate(EDGES) if start == source]


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


def _leave_last_real(network: Supernet) -> None:
    """Leave the weights of the last 2 L + 2 candidate convolutions real, in the order of edges, then operations.

    The official code counts all convolutions, but skips stem, preprocessing and skips when it numbers those to
    binarise: 1 + 2 L + 2 of them, of which it allows for the stem.
    """
    left = 2 * network.config.cells + 2
    numbered = [
        (operation, rows_from(source).index(row))
        for cell in network.cells
        for row, (source, _) in enumerate(EDGES)
        for operation in cell.get_submodule(f"fans.{source}.operations").children()
        if isinstance(operation, Convolutions)
    ]
    for operation, edge in numbered[-left:]:
        operation.real_from = min(operation.real_from, edge * operation.channels)
