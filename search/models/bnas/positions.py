"""Where the cells of a network stand, and what they see there; needs no PyTorch."""

from dataclasses import dataclass
from typing import Protocol

from bnas_deploy.core.genotype import INNER_NODES
from bnas_deploy.search.models.bnas.config import STEM_STRIDES, reduction_cells


@dataclass(frozen=True)
class CellPosition:
    """One cell of the stack.

    `before_previous` and `previous` are the channels of its inputs c_{k-2} and c_{k-1}, `channels` is C: the output
    has 4 C. `image` is (height, width) of c_{k-1}; a reduction cell halves it. `after_reduction` is whether c_{k-2}
    has twice the resolution of c_{k-1}, `skip` whether c_{k-1} is added to the output.
    """

    index: int
    reduction: bool
    after_reduction: bool
    skip: bool
    before_previous: int
    previous: int
    channels: int
    image: tuple[int, int]

    @property
    def output_image(self) -> tuple[int, int]:
        """Return (height, width) of the output."""
        height, width = self.image
        return (height // 2, width // 2) if self.reduction else self.image


class Stack(Protocol):
    """What the configuration of a stack of cells says, of a network or of a supernet."""

    @property
    def cells(self) -> int: ...  # noqa: D102  # as in `NetworkConfig`, here and below
    @property
    def channels(self) -> int: ...  # noqa: D102
    @property
    def stem(self) -> str: ...  # noqa: D102
    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def inter_cell_skip(self) -> bool: ...  # noqa: D102


def stem_channels(stem: str, channels: int) -> tuple[int, int]:
    """Return the channels of c_{-2} and c_{-1}, what a stem gives to a network of `channels` channels."""
    return (3 * channels,) * 2 if stem == "cifar" else (channels,) * 2


def cell_positions(config: Stack) -> list[CellPosition]:
    """Return every cell of the stack: C doubles at the reduction cells, the first cell never has a skip."""
    before_previous, previous = stem_channels(config.stem, config.channels)
    channels = config.channels
    height, width = (side // STEM_STRIDES[config.stem] for side in config.image_size)
    after_reduction = config.stem == "imagenet"  # its stem halves the resolution between c_{-2} and c_{-1}
    positions = []
    for index in range(config.cells):
        reduction = index in reduction_cells(config.cells)
        channels *= 2 if reduction else 1
        position = CellPosition(
            index,
            reduction,
            after_reduction,
            skip=config.inter_cell_skip and index > 0,
            before_previous=before_previous,
            previous=previous,
            channels=channels,
            image=(height, width),
        )
        positions.append(position)
        before_previous, previous = previous, INNER_NODES * channels
        height, width = position.output_image
        after_reduction = reduction
    return positions
