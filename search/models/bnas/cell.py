"""The cell of a finished network (BNAS v2, section 4.2)."""

import torch
from torch import Tensor, nn

from bnas_deploy.core.genotype import EDGES_PER_NODE, INNER_NODES, INPUT_NODES, Cell
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.operations import OPERATION_BUILDERS, ConvBlock, LayerConfig
from bnas_deploy.search.models.bnas.scheme import OfficialBnas
from bnas_deploy.search.nn.drop_path import DropPath
from bnas_deploy.search.nn.layers import BinaryWeightConv2d


class ReductionSkip(nn.Module):
    """The inter-cell skip of a reduction cell: BN -> float 2x2 convolution, stride 2, with bias."""

    def __init__(self, in_channels: int, out_channels: int, config: LayerConfig) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.conv: nn.Conv2d
        if "binary-weight-skip" in config.deviations and not config.is_float:
            self.conv = BinaryWeightConv2d(
                in_channels,
                out_channels,
                kernel_size=2,
                stride=2,
                # Centred and clamped whatever the other deviations are.
                scheme=OfficialBnas(
                    centre_weights=True,
                    clamp_weights=True,
                    fan_in_gradient="fan-in-gradient" in config.deviations,
                    sign_of_zero="sign-of-zero" in config.deviations,
                ),
            )
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, O, H/2, W/2)."""
        y: Tensor = self.conv(self.norm(x))
        return y


class SearchedCell(nn.Module):
    """Two edges into each of four nodes, concatenation, and the inter-cell skip from the previous cell.

    Args:
        cell: the edges.
        before_previous, previous: channels of the two inputs, c_{k-2} and c_{k-1}.
        channels: C; the output has 4 C channels.
        reduction: halve the resolution (edges from the two inputs have stride 2).
        after_reduction: c_{k-2} has twice the resolution of c_{k-1}.
        skip: add c_{k-1} to the output; a reduction cell adds a convolution of it. The first cell has no skip,
            because its input has another number of channels.
        config: settings of the layers.
    """

    def __init__(
        self,
        cell: Cell,
        *,
        before_previous: int,
        previous: int,
        channels: int,
        reduction: bool,
        after_reduction: bool,
        skip: bool,
        config: NetworkConfig,
    ) -> None:
        super().__init__()
        self.cell = cell
        if after_reduction:
            # The published CIFAR networks have a BN without gamma and beta here, the ImageNet ones do not.
            affine = config.stem == "imagenet"
            self.preprocess0 = ConvBlock(before_previous, channels, config, kernel_size=3, stride=2, affine=affine)
        else:
            self.preprocess0 = ConvBlock(before_previous, channels, config, kernel_size=1)
        self.preprocess1 = ConvBlock(previous, channels, config, kernel_size=1)
        self.edges = nn.ModuleList(
            OPERATION_BUILDERS[edge.operation](channels, 2 if reduction and edge.source < INPUT_NODES else 1, config)
            for edge in cell.edges
        )
        self.drop_path = DropPath()
        self.skip: nn.Module | None = None
        if skip:
            self.skip = ReductionSkip(previous, INNER_NODES * channels, config) if reduction else nn.Identity()

    def forward(self, before_previous: Tensor, previous: Tensor) -> Tensor:
        """Map c_{k-2} and c_{k-1} to c_k, (N, 4 C, H, W) or half the resolution."""
        states = [self.preprocess0(before_previous), self.preprocess1(previous)]
        for node in range(INPUT_NODES, INPUT_NODES + INNER_NODES):
            first = EDGES_PER_NODE * (node - INPUT_NODES)
            edges = enumerate(self.cell.inputs_of(node), start=first)
            left, right = (self._branch(i, states[edge.source]) for i, edge in edges)
            states.append(left + right)
        y = torch.cat(states[INPUT_NODES:], dim=1)
        return y if self.skip is None else y + self.skip(previous)

    def _branch(self, index: int, x: Tensor) -> Tensor:
        """Return what an edge adds to its node; while training it is left out at random, but for an identity."""
        y: Tensor = self.edges[index](x)
        return y if isinstance(self.edges[index], nn.Identity) else self.drop_path(y)
