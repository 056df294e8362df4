"""The finished network: stem, cells, classifier."""

from torch import Tensor, nn

from bnas_deploy.core.genotype import INNER_NODES
from bnas_deploy.search.models.bnas.cell import SearchedCell
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.positions import cell_positions, stem_channels
from bnas_deploy.search.models.relaxation import relax_layers
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryWeightConv2d
from bnas_deploy.search.nn.scheme import FloatWeights


class CifarStem(nn.Module):
    """BN on the image -> 3x3 convolution to 3 C channels -> ReLU; all float. Both cell inputs are its output."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(in_channels)
        self.out_channels = stem_channels("cifar", channels)
        self.conv = nn.Conv2d(in_channels, self.out_channels[0], 3, padding=1, bias=False)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, in_channels, H, W) to c_{-2} = c_{-1}, (N, 3 C, H, W)."""
        y: Tensor = self.relu(self.conv(self.norm(x)))
        return y, y


class ImageNetStem(nn.Module):
    """Three float 3x3 convolutions of stride 2; c_{-2} is taken after two of them, c_{-1} after three.

    The second and the third have `groups`. BNAS v2 (section 5.2.1) has group convolutions in the stem of its dagger
    models and does not say in which of them, nor how many groups. The second and third are those that BATS groups, to
    which it refers; the first has as many channels in as an image, which few numbers of groups divide.
    """

    def __init__(self, in_channels: int, channels: int, groups: int = 1) -> None:
        super().__init__()
        half = channels // 2
        self.conv0 = nn.Conv2d(in_channels, half, 3, stride=2, padding=1, bias=False)
        self.norm0 = nn.BatchNorm2d(half)
        self.conv1 = nn.Conv2d(half, channels, 3, stride=2, padding=1, groups=groups, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=groups, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()
        self.out_channels = stem_channels("imagenet", channels)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, in_channels, H, W) to c_{-2}, (N, C, H/4, W/4), and c_{-1}, (N, C, H/8, W/8)."""
        y = self.relu(self.norm0(self.conv0(x)))
        before_previous: Tensor = self.norm1(self.conv1(y))
        previous: Tensor = self.norm2(self.conv2(self.relu(before_previous)))
        return before_previous, previous


def _stem(config: NetworkConfig) -> CifarStem | ImageNetStem:
    if config.stem == "cifar":
        return CifarStem(config.in_channels, config.channels)
    return ImageNetStem(config.in_channels, config.channels, config.stem_groups)


class Network(nn.Module):
    """A stack of cells; C doubles at the reduction cells."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.stem = _stem(config)
        positions = cell_positions(config)
        self.cells = nn.ModuleList(
            SearchedCell(
                config.genotype.reduction if position.reduction else config.genotype.normal,
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

    @property
    def blocks(self) -> nn.ModuleList:
        """Return the parts whose outputs a student may be taught: the cells."""
        return self.cells

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, in_channels, H, W), normalised, to logits (N, classes)."""
        before_previous, previous = self.stem(x)
        for cell in self.cells:
            before_previous, previous = previous, cell(before_previous, previous)
        logits: Tensor = self.classifier(previous.mean(dim=(2, 3)))
        return logits


def build_network(config: NetworkConfig) -> Network:
    """Return the network of `config` with torch's default initialisation."""
    network = Network(config)
    if "real-last-two" in config.deviations and not config.is_float:
        _leave_last_two_real(network)
    relax_layers(network, config.relaxed)
    return network


def _leave_last_two_real(network: Network) -> None:
    """Leave the weights of the last two convolutions float, in the order that the official code has them in.

    There a cell's skip stands before its edges. Only where the last cell reduces, in a network of 3 cells, can the skip
    be one of the two.
    """
    convolutions: list[nn.Module] = []
    for cell in network.cells:
        assert isinstance(cell, SearchedCell)
        parts = [part for part in (cell.preprocess0, cell.preprocess1, cell.skip, cell.edges) if part is not None]
        modules = (module for part in parts for module in part.modules())
        convolutions += (module for module in modules if isinstance(module, BinaryConv2d | nn.Conv2d))
    for convolution in convolutions[-2:]:
        if isinstance(convolution, BinaryConv2d | BinaryWeightConv2d):
            convolution.set_scheme(FloatWeights(of=convolution.scheme))
