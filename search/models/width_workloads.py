"""The layers of a network at a grid of widths, as workloads to measure.

From their times a search for widths interpolates in the channels that a layer reads and writes. A layer is measured
with the channels of every pair of grid points, since its two sides have widths of their own.
"""

from dataclasses import dataclass

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.latency_table import BINARY_CONVOLUTION, RUN, Workload
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.search.models.backbone import BackboneConfig
from bnas_deploy.search.models.width_layout import Layer, layout_of

GRID = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0)
"""Ratios to the base: those that searches reach from the ones that they begin with, 1.5 and 2.5."""


@dataclass(frozen=True)
class LayerGrid:
    """The channels at which a layer is measured, ascending."""

    layer: Layer
    read: tuple[int, ...]
    out: tuple[int, ...]

    def workload(self, read: int, out: int) -> Workload:
        """Return the workload with so many channels."""
        return _workload(self.layer.cost, read, out)


def layer_grids(config: BackboneConfig) -> list[LayerGrid]:
    """Return every layer of a network with its grid.

    Raises:
        BnasError: its widths cannot be found in its layers, or a layer has groups or the map K, which no table has.
    """
    if config.k_map:
        raise BnasError(f"{config.name}: no table has times of convolutions with K; leave --k-map out")
    layout = layout_of(config)
    widths = [layout.channels([ratio] * len(layout.multiples)) for ratio in GRID]
    grids = []
    for layer in layout.layers:
        if layer.cost.groups > 1:
            raise BnasError(
                f"{config.name}: {layer.cost.name} has {layer.cost.groups} groups, of whose times no table is made for "
                "widths; aim at --memory-target"
            )
        read, out = (tuple(sorted({round(side.at(each)) for each in widths})) for side in (layer.read, layer.out))
        grids.append(LayerGrid(layer, read, out))
    return grids


def width_workloads(config: BackboneConfig) -> list[Workload]:
    """Return every workload that a search for the widths of a network needs the time of, each once.

    Raises:
        BnasError: as `layer_grids`.
    """
    workloads = dict.fromkeys([RUN])  # a dict, to keep the order
    for grid in layer_grids(config):
        workloads |= dict.fromkeys(grid.workload(read, out) for read in grid.read for out in grid.out)
    return list(workloads)


def _workload(cost: LayerCost, read: int, out: int) -> Workload:
    operator = BINARY_CONVOLUTION if cost.is_binary else "Conv" if _is_convolution(cost) else "Gemm"
    (_, *image), (_, *result) = cost.input, cost.output
    shapes = (read, image[0], image[1]), (out, result[0], result[1])
    return Workload(operator, *shapes, cost.kernel, cost.stride, cost.dilation)


def _is_convolution(cost: LayerCost) -> bool:
    """Tell a convolution from the classifier, a matrix product of one pixel."""
    return cost.input[1:] != (1, 1) or cost.kernel != (1, 1)
