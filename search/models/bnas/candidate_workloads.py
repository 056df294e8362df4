"""The workloads that networks of one size can have, whatever their cells; needs no PyTorch.

A device measures these once (`bnas-deploy bench-ops`). `bnas_deploy.export.workloads` reads the workloads of one
network from its exported graph. A device has no exporter, and no single graph has all cells: so this list is made from
the sizes alone. It says what the exporter may leave of a cell, and is allowed to name more than any network has.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import INNER_NODES, OPERATIONS, ZEROISE
from bnas_deploy.core.latency_table import BINARY_CONVOLUTION, RUN, Shape, Workload
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.positions import CellPosition, cell_positions, stem_channels

Image = tuple[int, int]

CONVOLUTIONS = {
    "bin_conv_3x3": (3, 1),
    "bin_conv_5x5": (5, 1),
    "bin_dil_conv_3x3": (3, 2),
    "bin_dil_conv_5x5": (5, 2),
}
"""Kernel and dilation of the operations that are a binary convolution."""

POOLS = {"max_pool_3x3": "MaxPool", "avg_pool_3x3": "AveragePool"}
"""ONNX operator of the operations that are a pool."""


def operation_workload(operation: str, channels: int, image: Image, stride: int) -> Workload:
    """Return the workload of an operation of BNAS's space on an edge; Zeroise has none.

    Raises:
        KeyError: Zeroise, or an operation of another space.
    """
    if operation in CONVOLUTIONS:
        kernel, dilation = CONVOLUTIONS[operation]
        return _binary(channels, channels, image, kernel, stride, dilation)
    return _workload(POOLS[operation], (channels, *image), channels, kernel=3, stride=stride)


def candidate_workloads(config: NetworkConfig) -> list[Workload]:
    """Return every workload that a network of the size of `config` can have, each once."""
    workloads = dict.fromkeys((RUN, *_stem(config)))  # a dict, to keep the order
    inputs: list[tuple[int, ...]] = [(channels,) for channels in stem_channels(config.stem, config.channels)]
    full = False
    for position in cell_positions(config):
        workloads |= dict.fromkeys((*_preprocessing(position, *inputs[-2:]), *_operations(position), *_glue(position)))
        # The convolution on the skip of a reduction cell makes all channels, and the skips behind it add to all. If its
        # input is zero, so were the first cell and, without a skip there, the second: then nothing behind the second
        # depends on the images.
        full = full or (position.reduction and position.skip and position.index > 1)
        blocks = (INNER_NODES,) if full else range(1, INNER_NODES + 1)
        inputs.append(tuple(count * position.channels for count in blocks))
    channels, image = INNER_NODES * position.channels, position.output_image
    mean = Workload("ReduceMean", (channels, *image), (channels, 1, 1))
    # A sum in front of the mean becomes one of means behind it.
    add = Workload("Add", mean.output, mean.output)
    return [*workloads, mean, add, Workload("Gemm", mean.output, (config.classes, 1, 1))]


def refuse_other_operations(config: NetworkConfig) -> None:
    """Refuse a network with operations whose workloads are not among the candidates.

    Raises:
        BnasError: there is an operation that is not one of BNAS's seven, or the network uses K.
    """
    cells = (config.genotype.normal, config.genotype.reduction)
    unknown = sorted({edge.operation for cell in cells for edge in cell.edges} - set(OPERATIONS))
    if unknown:
        raise BnasError(
            f"{config.name}: no latency is known of {unknown[0]}; it can be predicted for {', '.join(OPERATIONS)}"
        )
    if config.k_map:
        raise BnasError(f"{config.name}: latencies are known of networks without the map K; leave --k-map out")


def _stem(config: NetworkConfig) -> Iterator[Workload]:
    shape = config.in_channels, *config.image_size
    before_previous, previous = stem_channels(config.stem, config.channels)
    if config.stem == "cifar":
        # The BN stays a product and a sum: what it adds would reach into the padding of the convolution behind it.
        yield _workload("Mul", shape, config.in_channels)
        yield _workload("Add", shape, config.in_channels)
        yield _workload("Conv", shape, previous, kernel=3)
        return
    groups = config.stem_groups
    for channels, count in ((config.channels // 2, 1), (before_previous, groups), (previous, groups)):
        convolution = replace(_workload("Conv", shape, channels, kernel=3, stride=2), groups=count)
        yield convolution
        before, shape = shape, convolution.output
    yield _workload("Relu", before, before_previous)  # of what the first cell reads without a Relu


def _preprocessing(
    position: CellPosition, before_previous: Sequence[int], previous: Sequence[int]
) -> Iterator[Workload]:
    """Yield what reads the inputs of a cell, which may have these numbers of channels that are not zero."""
    height, width = position.image
    for channels in before_previous:
        if position.after_reduction:
            yield _binary(channels, position.channels, (2 * height, 2 * width), kernel=3, stride=2)
        else:
            yield _binary(channels, position.channels, position.image, kernel=1)
    for channels in previous:
        yield _binary(channels, position.channels, position.image, kernel=1)
        if position.reduction and position.skip:
            whole = INNER_NODES * position.channels
            yield _workload("Conv", (channels, *position.image), whole, kernel=2, stride=2)


def _operations(position: CellPosition) -> Iterator[Workload]:
    for operation in OPERATIONS:
        if operation != ZEROISE:
            yield operation_workload(operation, position.channels, position.output_image, 1)
            if position.reduction:
                yield operation_workload(operation, position.channels, position.image, 2)


def _glue(position: CellPosition) -> Iterator[Workload]:
    """Yield what joins and cuts tensors; a tensor has from one to four blocks, one for each node that is not zero."""
    channels, image = position.channels, position.output_image
    whole = (INNER_NODES * channels, *image)
    yield _workload("Add", (channels, *image), channels)
    yield _workload("FusedAdd", (channels, *image), channels)
    if position.skip:
        yield _workload("Add", whole, whole[0])
    for blocks in range(1, INNER_NODES + 1):
        for parts in range(2, blocks + 1):
            yield _workload("Concat", (blocks * channels, *image), blocks * channels, parts=parts)
        if position.skip and blocks < INNER_NODES:  # only a sum with the skip makes one tensor of all blocks
            yield _workload("Slice", whole, blocks * channels)


def _binary(
    channels_in: int, channels_out: int, image: Image, kernel: int, stride: int = 1, dilation: int = 1
) -> Workload:
    return _workload(BINARY_CONVOLUTION, (channels_in, *image), channels_out, kernel, stride, dilation)


def _workload(
    operator: str,
    shape: Shape,
    channels_out: int,
    kernel: int = 1,
    stride: int = 1,
    dilation: int = 1,
    parts: int = 1,
) -> Workload:
    """Return a workload that is square; its padding keeps the image at stride 1."""
    _, height, width = shape
    output = channels_out, -(-height // stride), -(-width // stride)
    return Workload(operator, shape, output, (kernel, kernel), (stride, stride), (dilation, dilation), parts=parts)
