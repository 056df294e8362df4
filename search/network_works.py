"""What a finished network spends time on, from its genotype alone; needs no PyTorch.

It follows what the exporter's passes do to BNAS networks, in their order:

    DropConstantChannels   what Zeroise makes zero is never computed, added or read; tensors are cut where that saves it
    MergeDuplicates        equal pools of one tensor are one pool
    DropUnused             an input of a cell that no edge reads is not preprocessed
    FuseAddition and what follows it: `bnas_deploy.search.fused_works`

tests/export/test_network_works.py compares it with exported files, node by node.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from bnas_deploy.errors import BnasError
from bnas_deploy.genotype import INNER_NODES, INPUT_NODES, OPERATIONS, Cell, Edge
from bnas_deploy.latency import POOLS, RUN, Work
from bnas_deploy.search.config import NetworkConfig
from bnas_deploy.search.fused_works import Node, fused
from bnas_deploy.search.positions import CellPosition, cell_positions, stem_channels
from bnas_deploy.search.space import ZEROISE

Image = tuple[int, int]


@dataclass(frozen=True)
class Part:
    """Channels first .. first + count - 1 of the tensor `tensor`; tensor None stands for zeros."""

    tensor: int | None
    first: int
    count: int

    def part(self, first: int, count: int) -> "Part":
        """Return `count` of these channels from `first` on."""
        return Part(self.tensor, self.first + first, count)


Parts = tuple[Part, ...]
"""A value: what it is made of, along its channels."""


@dataclass
class _Graph:
    """A network while it is built; what would be done twice is done once."""

    nodes: list[Node] = field(default_factory=list)
    channels: list[int] = field(default_factory=list)
    known: dict[object, Part] = field(default_factory=dict)

    def node(self, work: Work, inputs: Sequence[Part], channels: int) -> Part:
        """Add a work, and return the tensor of so many channels that it makes."""
        output = self.tensor(channels)
        self.nodes.append(Node(work, tuple(_number(part) for part in inputs), _number(output)))
        return output

    def tensor(self, channels: int) -> Part:
        """Return a new tensor."""
        self.channels.append(channels)
        return Part(len(self.channels) - 1, 0, channels)

    def whole(self, parts: Sequence[Part], image: Image) -> Part:
        """Return parts that are not zeros as one tensor."""
        merged = _merged([part for part in parts if part.tensor is not None])
        if len(merged) == 1:
            return self.sliced(merged[0], image)
        key = "concat", merged
        if key not in self.known:
            pieces = [self.sliced(part, image) for part in merged]
            total = sum(piece.count for piece in pieces)
            self.known[key] = self.node(Work("concat", len(pieces), total, *image), pieces, total)
        return self.known[key]

    def with_zeros(self, parts: Sequence[Part], image: Image) -> Part:
        """Return parts as one tensor, zeros included, for a reader that is no convolution; zeros are a constant."""
        if all(part.tensor is not None for part in parts):
            return self.whole(parts, image)
        pieces = [
            self.tensor(part.count) if part.tensor is None else self.sliced(part, image) for part in _merged(parts)
        ]
        if len(pieces) == 1:
            return pieces[0]
        total = sum(piece.count for piece in pieces)
        return self.node(Work("concat", len(pieces), total, *image), pieces, total)

    def sliced(self, part: Part, image: Image) -> Part:
        """Return a part as a tensor of its own."""
        channels = self.channels[_number(part)]
        if part.count == channels:
            return part
        if part not in self.known:
            work = Work("slice", channels, part.count, *image)
            self.known[part] = self.node(work, (part,), part.count)
        return self.known[part]

    def add(self, left: Parts, right: Parts, image: Image) -> Parts:
        """Add piece by piece where there are zeros, else in one piece."""
        if all(part.tensor is not None for part in (*left, *right)):
            return (self.sum_of(self.whole(left, image), self.whole(right, image), image),)
        return tuple(self.sum_of(*pair, image) for pair in _aligned(left, right))

    def sum_of(self, left: Part, right: Part, image: Image) -> Part:
        """Add two parts."""
        if left.tensor is None:
            return right
        if right.tensor is None:
            return left
        pair = self.sliced(left, image), self.sliced(right, image)
        return self.node(Work("add", left.count, left.count, *image), pair, left.count)


def _number(part: Part) -> int:
    assert part.tensor is not None
    return part.tensor


def network_works(config: NetworkConfig) -> Counter[Work]:
    """Return the works of the exported network of `config`, and how many of each.

    Raises:
        BnasError: there is an operation that is not one of BNAS's seven, or the network uses K.
    """
    _refuse_unknown(config)
    graph = _Graph()
    previous: Parts = (graph.node(_stem(config), (), stem_channels(config.stem, config.channels)[1]),)
    before_previous = previous  # one tensor behind the CIFAR stem
    if config.stem == "imagenet":
        before_previous = (graph.tensor(config.channels),)
    for position in cell_positions(config):
        cell = config.genotype.reduction if position.reduction else config.genotype.normal
        before_previous, previous = previous, _cell(graph, cell, position, before_previous, previous)
    graph.node(_classifier(config), (graph.with_zeros(previous, position.output_image),), config.classes)
    nodes = fused(graph.nodes, graph.channels)
    return Counter([RUN, *(work for node in nodes for work in node.works)])


def _refuse_unknown(config: NetworkConfig) -> None:
    cells = (config.genotype.normal, config.genotype.reduction)
    unknown = sorted({edge.operation for cell in cells for edge in cell.edges} - set(OPERATIONS))
    if unknown:
        raise BnasError(
            f"{config.name}: no latency is known of {unknown[0]}; it can be predicted for {', '.join(OPERATIONS)}"
        )
    if config.k_map:
        raise BnasError(f"{config.name}: latencies are known of networks without the map K; leave --k-map out")


def _stem(config: NetworkConfig) -> Work:
    return Work(
        f"stem_{config.stem}", config.in_channels, stem_channels(config.stem, config.channels)[1], *config.image_size
    )


def _classifier(config: NetworkConfig) -> Work:
    last = cell_positions(config)[-1]
    return Work("classifier", INNER_NODES * last.channels, config.classes, *last.output_image)


def _cell(graph: _Graph, cell: Cell, position: CellPosition, before_previous: Parts, previous: Parts) -> Parts:
    """Do the works of a cell and return its output."""
    small, channels = position.output_image, position.channels
    zeros = Part(None, 0, channels)
    states = [
        _preprocessed(graph, parts, position, number) if _is_read(cell, number) else zeros
        for number, parts in enumerate((before_previous, previous))
    ]
    for node in range(INPUT_NODES, INPUT_NODES + INNER_NODES):
        left, right = (_operation(graph, edge, states[edge.source], position) for edge in cell.inputs_of(node))
        states.append(graph.sum_of(left, right, small))
    output = tuple(states[INPUT_NODES:])
    if not position.skip:
        return output
    return graph.add(output, _skip(graph, previous, position) if position.reduction else previous, small)


def _is_read(cell: Cell, number: int) -> bool:
    return any(edge.source == number and edge.operation != ZEROISE for edge in cell.edges)


def _preprocessed(graph: _Graph, parts: Parts, position: CellPosition, number: int) -> Part:
    height, width = position.image
    if number == 0 and position.after_reduction:
        kind, image, stride = "preprocess_3x3", (2 * height, 2 * width), 2
    else:
        kind, image, stride = "preprocess_1x1", position.image, 1
    return _convolution(graph, kind, parts, position.channels, image, stride)


def _operation(graph: _Graph, edge: Edge, source: Part, position: CellPosition) -> Part:
    """Do the operation of an edge once, and return what it gives."""
    halves = position.reduction and edge.source < INPUT_NODES
    image, stride = (position.image, 2) if halves else (position.output_image, 1)
    if edge.operation == ZEROISE or (edge.operation in POOLS and source.tensor is None):
        return Part(None, 0, source.count)
    if edge.operation not in POOLS:
        return _convolution(graph, edge.operation, (source,), source.count, image, stride)
    key = edge.operation, source, stride
    if key not in graph.known:
        work = Work(edge.operation, source.count, source.count, *image, stride)
        graph.known[key] = graph.node(work, (source,), source.count)
    return graph.known[key]


def _skip(graph: _Graph, previous: Parts, position: CellPosition) -> Parts:
    return (_convolution(graph, "skip", previous, INNER_NODES * position.channels, position.image, 2),)


def _convolution(graph: _Graph, kind: str, parts: Parts, channels: int, image: Image, stride: int) -> Part:
    """Convolve what is not zero; where all is, the result is known when the network is exported."""
    if all(part.tensor is None for part in parts):
        return graph.tensor(channels)
    source = graph.whole(parts, image)
    return graph.node(Work(kind, source.count, channels, *image, stride), (source,), channels)


def _aligned(left: Parts, right: Parts) -> list[tuple[Part, Part]]:
    """Cut both at the borders of either."""
    borders = sorted({border for parts in (left, right) for border in _borders(parts)})
    return [
        (_cut(left, first, last), _cut(right, first, last)) for first, last in zip((0, *borders), borders, strict=False)
    ]


def _borders(parts: Parts) -> list[int]:
    return list(accumulate(part.count for part in parts))


def _cut(parts: Parts, first: int, last: int) -> Part:
    """Return channels first .. last - 1, which lie within one part."""
    index = next(i for i, border in enumerate(_borders(parts)) if last <= border)
    start = sum(part.count for part in parts[:index])
    return parts[index].part(first - start, last - first)


def _merged(parts: Sequence[Part]) -> Parts:
    """Join neighbours that are zeros, or that follow each other in the same tensor."""
    merged: list[Part] = []
    for part in parts:
        last = merged[-1] if merged else None
        follows = last is not None and (part.tensor is None or last.first + last.count == part.first)
        if last and last.tensor == part.tensor and follows:
            merged[-1] = Part(last.tensor, last.first, last.count + part.count)
        else:
            merged.append(part)
    return tuple(merged)


def all_works(config: NetworkConfig) -> list[Work]:
    """Return every work that a network of the size of `config` can have, whatever its genotype."""
    works = {RUN: None, _stem(config): None}  # a dict, to keep the order
    inputs: list[tuple[int, ...]] = [(channels,) for channels in stem_channels(config.stem, config.channels)]
    full = False
    for position in cell_positions(config):
        found = (*_works_on_inputs(position, *inputs[-2:]), *_works_inside(position))
        works |= dict.fromkeys(found)
        # What is added past a reduction cell has no zeros, and from there on the skips hand it on.
        full = full or (position.reduction and position.skip)
        blocks = (INNER_NODES,) if full else range(1, INNER_NODES + 1)
        inputs.append(tuple(count * position.channels for count in blocks))
    works[_classifier(config)] = None
    return list(works)


def _works_on_inputs(position: CellPosition, before_previous: Sequence[int], previous: Sequence[int]) -> Iterator[Work]:
    """Yield what reads the inputs of a cell, which may have these numbers of channels that are not zero."""
    height, width = position.image
    for channels in before_previous:
        if position.after_reduction:
            yield Work("preprocess_3x3", channels, position.channels, 2 * height, 2 * width, 2)
        else:
            yield Work("preprocess_1x1", channels, position.channels, height, width)
    for channels in previous:
        yield Work("preprocess_1x1", channels, position.channels, height, width)
        if position.reduction and position.skip:
            yield Work("skip", channels, INNER_NODES * position.channels, height, width, 2)


def _works_inside(position: CellPosition) -> Iterator[Work]:
    """Yield operations and glue."""
    channels, image = position.channels, position.output_image
    for operation in OPERATIONS:
        if operation != ZEROISE:
            yield Work(operation, channels, channels, *image)
            if position.reduction:
                yield Work(operation, channels, channels, *position.image, 2)
    yield Work("add", channels, channels, *image)
    yield Work("fused_add", channels, channels, *image)
    if position.skip:
        yield Work("add", INNER_NODES * channels, INNER_NODES * channels, *image)
    for blocks in range(1, INNER_NODES + 1):
        for parts in range(2, blocks + 1):
            yield Work("concat", parts, blocks * channels, *image)
        if position.skip and blocks < INNER_NODES:  # only a sum with the skip makes one tensor of all blocks
            yield Work("slice", INNER_NODES * channels, blocks * channels, *image)
