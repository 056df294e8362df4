"""The network being searched: every edge of a cell is a mixture of all candidate operations.

    y_j = sum over edges (i, j) of sum over operations o of w_ijo * o(x_i)          (DARTS, Eq. 2)

The alphas, from which a strategy makes the weights w, are shared by all normal cells and by all reduction cells.

A cell has 14 edges and 7 operations, and running them one by one is mostly overhead. Work that the edges from one state
share is done once for all of them, which changes no value:

* Their inputs are the same, and the BN of a candidate has no gamma and beta. So one BN and one sign serve them all, and
  each pooling is done once.
* Convolutions with the same geometry are one convolution, with the output channels of all the edges.
* relu(beta * acc) * w = relu(acc) * (beta * w), since beta >= 0: scale and mixing weight are multiplied once.
* Zeroise adds nothing.

`Supernet.prepare` does the work that does not depend on the images, once for all cells. It picks mixing weights out of
the tables together. It binarises the weights of a cell's convolutions of one kernel size together, because centring,
beta and sign treat every output channel by itself.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bnas_deploy.core.genotype import INNER_NODES, INPUT_NODES
from bnas_deploy.search.cells.config import SupernetConfig
from bnas_deploy.search.cells.fans import Convolutions, Fan, Part
from bnas_deploy.search.cells.space import EDGES
from bnas_deploy.search.models.bnas.cell import ReductionSkip
from bnas_deploy.search.models.bnas.network import CifarStem
from bnas_deploy.search.models.bnas.operations import ConvBlock
from bnas_deploy.search.models.bnas.positions import cell_positions
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.scheme import FloatWeights

_FANS = INPUT_NODES + INNER_NODES - 1  # of a cell: the last node is read by none
_ALPHA_STD = 1e-3  # of the initial alphas, as in DARTS's code


@dataclass(frozen=True, eq=False)
class Mixture:
    """The mixing weights of both cells, (edges, operations) each.

    `single`: each edge has exactly one weight other than 0, and only that operation runs.
    """

    normal: Tensor
    reduction: Tensor
    single: bool = False


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
        unbinarised = replace(config, precision="float")
        kernel, stride = (3, 2) if after_reduction else (1, 1)
        geometry = {"kernel_size": kernel, "stride": stride}
        self.preprocess0 = ConvBlock(before_previous, channels, unbinarised, **geometry, affine=False)
        self.preprocess1 = ConvBlock(previous, channels, unbinarised, kernel_size=1, affine=False)
        self.fans = nn.ModuleList(
            Fan(channels, len(rows_from(source)), 2 if reduction and source < INPUT_NODES else 1, config)
            for source in range(_FANS)
        )
        self.skip: nn.Module | None = None
        if skip:
            self.skip = ReductionSkip(previous, INNER_NODES * channels, unbinarised) if reduction else nn.Identity()

    def forward(
        self, before_previous: Tensor, previous: Tensor, parts: Sequence[Mapping[str, Part]], single: bool
    ) -> Tensor:
        """Map c_{k-2}, c_{k-1} and what each fan needs to c_k, (N, 4 C, H, W) or half the resolution."""
        first, second, *others = zip(self.fans, parts, strict=True)
        # What the states so far add to the nodes that are not ready yet, (N, C, H', W') each.
        added = first[0](self.preprocess0(before_previous), first[1], single)
        added = added + second[0](self.preprocess1(previous), second[1], single)
        node, *pending = added.unbind(1)
        nodes = [node]
        for fan, fan_parts in others:
            added = fan(node, fan_parts, single).unbind(1)
            node, *pending = (before + now for before, now in zip(pending, added, strict=True))
            nodes.append(node)
        y = torch.cat(nodes, dim=1)
        return y if self.skip is None else y + self.skip(previous)


@dataclass(frozen=True, eq=False)
class Slot:
    """A candidate of a fan, and where the mixing weights of its edges are.

    `fan` counts the fans of all cells; `positions` count in the normal table, row by row, then in the reduction table.
    """

    operation: nn.Module
    fan: int
    name: str
    positions: tuple[int, ...]


Running = Sequence[tuple[Slot, Sequence[int]]]
"""Candidates, and which of their edges run."""


def _running(slot: Slot, table: Sequence[float]) -> list[int]:
    return [edge for edge, position in enumerate(slot.positions) if table[position]]


def _parts(group: Running, weights: Tensor) -> Iterator[Part]:
    """Yield a `Part` for each of a group of candidates; `weights` are the mixing weights of all that runs of them."""
    convolutions = [(slot.operation, edges) for slot, edges in group if isinstance(slot.operation, Convolutions)]
    if convolutions:
        yield from _convolution_parts(convolutions, weights)
        return
    for (_, edges), factor in zip(group, torch.split(weights, [len(edges) for _, edges in group]), strict=True):
        yield Part(edges, factor)


def _convolution_parts(convolutions: Sequence[tuple[Convolutions, Sequence[int]]], weights: Tensor) -> Iterator[Part]:
    """Yield them for convolutions whose kernels have the same shape."""
    first, channels = convolutions[0][0].conv, convolutions[0][0].channels
    lengths = [channels * len(edges) for _, edges in convolutions]
    stays_float = [edge >= each.float_from for each, edges in convolutions for edge in edges]
    kernels: Sequence[Tensor] = [each.weights_of(edges) for each, edges in convolutions]
    scale = weights.new_ones(channels)
    if not all(stays_float):
        assert isinstance(first, BinaryConv2d)
        latent = torch.cat(list(kernels))
        binarised = first.scheme.weights(latent, {})
        signs, scale = binarised.weight, binarised.scale
        if any(stays_float):
            stays = torch.tensor(stays_float, device=latent.device).repeat_interleave(channels)
            signs = torch.where(stays[:, None, None, None], latent, signs)
            scale = torch.where(stays, 1.0, scale)
        kernels = torch.split(signs, lengths)
    factors = torch.split((weights[:, None] * scale.view(-1, channels)).flatten(), lengths)
    for (_, edges), factor, kernel in zip(convolutions, factors, kernels, strict=True):
        yield Part(edges, factor, kernel)


class Supernet(nn.Module):
    """A stack of mixed cells between the stem and the classifier of a CIFAR network."""

    every_position: Tensor

    def __init__(self, config: SupernetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = CifarStem(config.in_channels, config.channels)
        positions = cell_positions(config)
        self.cells = nn.ModuleList(
            MixedCell(
                before_previous=position.before_previous,
                previous=position.previous,
                channels=position.channels,
                reduction=position.reduction,
                after_reduction=position.after_reduction,
                skip=position.skip,
                config=config,
            )
            for position in positions
        )
        self.classifier = nn.Linear(INNER_NODES * positions[-1].channels, config.classes)
        shape = (len(EDGES), len(config.space.operations))
        self.alphas = nn.ParameterDict(
            {name: _ALPHA_STD * torch.randn(shape) for name in ("normal", "reduction")}  # made parameters by the dict
        )
        if config.precision == "binary-activations":
            for module in self.modules():
                if isinstance(module, BinaryConv2d):
                    module.set_scheme(FloatWeights(of=module.scheme, k_map=module.scheme.k_map))
        if "real-last-convolutions" in config.deviations:
            _leave_last_float(self)
        slots: dict[object, list[Slot]] = {}
        for slot in self._all_slots():
            # Not across cells: tensors of tens of megabytes miss a CPU's caches, and save a GPU few operations more.
            weight = slot.operation.conv.weight if isinstance(slot.operation, Convolutions) else None
            slots.setdefault(None if weight is None else (slot.fan // _FANS, weight.shape[1:]), []).append(slot)
        # Convolutions first: the sum of what an edge's operations give takes over the memory layout of its first term.
        self._groups = sorted(slots.values(), key=lambda group: not isinstance(group[0].operation, Convolutions))
        every_position = [position for group in self._groups for slot in group for position in slot.positions]
        self.register_buffer("every_position", torch.tensor(every_position), persistent=False)

    def _all_slots(self) -> Iterator[Slot]:
        operations = self.config.space.operations
        for fan, (cell, source) in enumerate((cell, source) for cell in self.cells for source in range(_FANS)):
            first = len(EDGES) * len(operations) if cell.reduction else 0
            for name, operation in cell.get_submodule(f"fans.{source}.operations").named_children():
                column = operations.index(name)
                positions = (first + row * len(operations) + column for row in rows_from(source))
                yield Slot(operation, fan, name, tuple(positions))

    def weight_parameters(self) -> list[nn.Parameter]:
        """Return all parameters but the alphas."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("alphas.")]

    def renew_weights(self) -> None:
        """Do to the weights in place what deviations do before each step; see `BinaryConv2d`, which does so itself."""
        for module in self.modules():
            if isinstance(module, Convolutions):
                module.renew_weights()

    def alpha_parameters(self) -> list[nn.Parameter]:
        """Return the alphas of both cells."""
        return list(self.alphas.values())

    def forward(self, x: Tensor, mixture: Mixture) -> Tensor:
        """Map images (N, in_channels, H, W), normalised, to logits (N, classes)."""
        parts = self.prepare(mixture)
        before_previous, previous = self.stem(x)
        for index, cell in enumerate(self.cells):
            y = cell(before_previous, previous, parts[index * _FANS : (index + 1) * _FANS], mixture.single)
            before_previous, previous = previous, y
        logits: Tensor = self.classifier(previous.mean(dim=(2, 3)))
        return logits

    def prepare(self, mixture: Mixture) -> list[dict[str, Part]]:
        """Return what the operations that run need besides their input, by name, for each fan of each cell."""
        table = torch.cat([mixture.normal.flatten(), mixture.reduction.flatten()])
        positions = self.every_position
        groups: list[Running] = [[(slot, range(len(slot.positions))) for slot in group] for group in self._groups]
        if mixture.single:
            positions = positions[table[positions] != 0]
            runs: list[float] = table.tolist()
            groups = [[(slot, _running(slot, runs)) for slot in group] for group in self._groups]
            groups = [[pair for pair in group if pair[1]] for group in groups]
        picked = torch.split(table[positions], [sum(len(edges) for _, edges in group) for group in groups])
        parts: list[dict[str, Part]] = [{} for _ in range(_FANS * len(self.cells))]
        for group, weights in zip(groups, picked, strict=True):
            for (slot, _), part in zip(group, _parts(group, weights), strict=True):
                parts[slot.fan][slot.name] = part
        return parts


def rows_from(source: int) -> list[int]:
    """Return which of `EDGES` leave a state, in the order of the nodes that they enter."""
    return [row for row, (start, _) in enumerate(EDGES) if start == source]


def _leave_last_float(network: Supernet) -> None:
    """Leave the weights of the last 2 L + 2 candidate convolutions float, in the order of edges, then operations.

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
        operation.float_from = min(operation.float_from, edge)
