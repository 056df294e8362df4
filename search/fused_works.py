"""What the exporter fuses into binary convolutions: sums behind them, concatenations before them.

The counterpart of the exporter's passes FuseAddition, DistributeAddition and FuseConcat, for the list of works that
`bnas_deploy.search.network_works` makes of a genotype.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bnas_deploy.latency import CONVOLUTIONS, Work

MOST_ADDED = 2
MOST_PARTS = 4
"""As in `bnas_deploy.export.opset`, which cannot be imported without the package onnx; a test holds them equal."""


@dataclass(frozen=True)
class Node:
    """A work, the tensors that it reads and the one that it makes; `added` are sums that it does on the way."""

    work: Work
    inputs: tuple[int, ...]
    output: int
    added: tuple[int, ...] = ()

    @property
    def reads(self) -> tuple[int, ...]:
        """Return every tensor that it reads."""
        return self.inputs + self.added

    @property
    def works(self) -> tuple[Work, ...]:
        """Return its work, and a `fused_add` for each sum."""
        image = _output_image(self.work)
        channels = self.work.channels_out
        return (self.work, *(Work("fused_add", channels, channels, *image) for _ in self.added))

    @property
    def is_binary(self) -> bool:
        """Tell whether it is a binary convolution."""
        return self.work.kind in CONVOLUTIONS


def _output_image(work: Work) -> tuple[int, int]:
    return math.ceil(work.height / work.stride), math.ceil(work.width / work.stride)


def fused(nodes: Sequence[Node], channels: Sequence[int]) -> list[Node]:
    """Return the nodes of the finished file; `channels` are those of every tensor."""
    found = _fuse_additions(nodes)
    found = _distribute_additions(found, list(channels))
    found = _fuse_additions(found)
    return _drop_unread(_fuse_concats(found), last=nodes[-1].output)


def _fuse_additions(nodes: Sequence[Node]) -> list[Node]:
    """Let a convolution add: of two that could, the one that adds less so far, and else the later one."""
    found = list(nodes)
    for site in _additions(nodes):
        takers = {value: maker for value in site.inputs if (maker := _taker(found, value))}
        if not takers:
            continue
        value, maker = min(takers.items(), key=lambda taker: (len(taker[1].added), -found.index(taker[1])))
        other = site.inputs[1 - site.inputs.index(value)]
        found[found.index(site)] = replace(maker, output=site.output, added=(*maker.added, other))
        found.remove(maker)
    return found


def _distribute_additions(nodes: Sequence[Node], channels: list[int]) -> list[Node]:
    """Turn the sum of two concatenations into the concatenation of sums, if a convolution can take one of these."""
    found = list(nodes)
    for site in _additions(nodes):
        makers = {node.output: node for node in found}
        concats = [makers[value] for value in site.inputs if value in makers and makers[value].work.kind == "concat"]
        if len(concats) < len(site.inputs):
            continue
        left, right = (concat.inputs for concat in concats)
        alike = [channels[value] for value in left] == [channels[value] for value in right]
        if not alike or not any(_taker(found, value) for value in (*left, *right)):
            continue
        sums = []
        for pair in zip(left, right, strict=True):
            channels.append(channels[pair[0]])
            work = replace(site.work, channels_in=channels[-1], channels_out=channels[-1])
            sums.append(Node(work, pair, len(channels) - 1))
        joined = Node(concats[0].work, tuple(node.output for node in sums), site.output)
        place = found.index(site)
        found[place : place + 1] = [*sums, joined]
        found = _drop_unread(found, last=nodes[-1].output)  # or they would look like second readers
    return found


def _additions(nodes: Sequence[Node]) -> list[Node]:
    return [node for node in nodes if node.work.kind == "add"]


def _taker(nodes: Sequence[Node], value: int) -> Node | None:
    """Return the binary convolution that makes `value` for one reader alone and can add once more, or None."""
    if sum(node.reads.count(value) for node in nodes) != 1:
        return None
    maker = next((node for node in nodes if node.output == value), None)
    return maker if maker and maker.is_binary and len(maker.added) < MOST_ADDED else None


def _fuse_concats(nodes: Sequence[Node]) -> list[Node]:
    """Let binary convolutions read the parts of a concatenation where they lie."""
    concats = {node.output: node.inputs for node in nodes if node.work.kind == "concat"}
    return [
        replace(node, inputs=concats[node.inputs[0]])
        if node.is_binary and len(concats.get(node.inputs[0], ())) in range(2, MOST_PARTS + 1)
        else node
        for node in nodes
    ]


def _drop_unread(nodes: Sequence[Node], last: int) -> list[Node]:
    """Drop what nobody reads."""
    found = list(nodes)
    while True:
        read = {tensor for node in found for tensor in node.reads} | {last}
        kept = [node for node in found if node.output in read]
        if len(kept) == len(found):
            return kept
        found = kept
