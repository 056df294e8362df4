"""Activations on a tie in front of a sign: exactly 0, or within rounding of the threshold.

Three questions are answered here, and nowhere else: what a person should look at (`zeros_before_signs`), what an
operator with sign(0) = +1 must not meet (`count_zeros`), and where rounding decides a bit (`ties_within_rounding`).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from bnas_deploy.export.capture import CapturedModel
from bnas_deploy.export.graph import (
    RECOGNISED,
    Origin,
    activations_of,
    constant_array,
    input_of,
    is_binary_conv,
    origin_of,
)
from bnas_deploy.export.inputs import Feed, feed_of
from bnas_deploy.export.pieces import Piece, Recorded
from bnas_deploy.export.written_bits import bits_of, may_tie

BATCH = 8
"""Images that are run at once while zeros are counted."""


@dataclass(frozen=True)
class ZeroActivations:
    """A binary layer that took the sign of `zeros` activations of exactly 0, of `activations` on the user's images."""

    name: str
    zeros: int
    activations: int


def zeros_before_signs(captured: CapturedModel, images: Tensor | Feed) -> tuple[ZeroActivations, ...]:
    """Return the binary layers of a graph before any rewriting that meet a 0 on images, or on what else it takes.

    Layers that were recognised in a user's code do with a 0 what that code does, and are left out.
    """
    convolutions = [
        node
        for node in captured.model.graph
        if is_binary_conv(node) and not str(input_of(node, "W").name).startswith(RECOGNISED)
    ]
    reads = {str(node.name): origin_of(input_of(node, "X")) for node in convolutions}
    return tuple(each for each in count_zeros(captured, reads, images) if each.zeros)


def count_zeros(captured: CapturedModel, reads: Mapping[str, Origin], images: Tensor | Feed) -> list[ZeroActivations]:
    """Count the zeros that layers meet on images, or on what else the network takes.

    Args:
        captured: what is run, in batches.
        reads: the value of PyTorch's program that each layer takes the sign of, by the name of the layer.
        images: what it is run on.
    """
    counter, feed = _ZeroCounter(captured.network, set(reads.values())), feed_of(images)
    with torch.no_grad():
        for first in range(0, len(feed), BATCH):
            batch = feed[first : first + BATCH]
            for name, tensor in zip(captured.input_values, batch.tensors, strict=True):
                counter.look(name, tensor)
            counter.run(*batch.tensors)
    return [ZeroActivations(layer, counter.zeros[origin], counter.seen[origin]) for layer, origin in reads.items()]


class _ZeroCounter(torch.fx.Interpreter):
    """Runs an FX program and counts zeros and elements of some of its values."""

    def __init__(self, program: torch.fx.GraphModule, origins: set[Origin]) -> None:
        super().__init__(program)
        self.zeros = dict.fromkeys(origins, 0)
        self.seen = dict.fromkeys(origins, 0)

    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if isinstance(result, Tensor) and n.op != "placeholder":  # the input goes by another name in the graph
            self.look(n.name, result)
        return result

    def look(self, name: str, value: Tensor) -> None:
        """Count in the value `name` of the program."""
        for origin in self.zeros:
            if origin.name == name:
                x = value if origin.channels is None else value[:, list(origin.channels)]
                self.zeros[origin] += x.numel() - int(torch.count_nonzero(x))
                self.seen[origin] += x.numel()


def ties_within_rounding(
    pieces: Iterable[Piece], recorded: Recorded, bounds: Iterable[NDArray[np.float64]]
) -> dict[str, int]:
    """Return how many activations of each binary convolution lie within rounding of its threshold, where any does.

    Args:
        pieces: of the rewritten graph.
        recorded: what PyTorch computed.
        bounds: of the roundings in what each piece makes.
    """
    pieces = tuple(pieces)
    bound_of: Mapping[ir.Value, NDArray[np.float64]] = {
        p.output: bound for p, bound in zip(pieces, bounds, strict=True)
    }
    counts = {}
    for node in (piece.nodes[-1] for piece in pieces if is_binary_conv(piece.nodes[-1])):
        threshold, first, count = _threshold_of(node), 0, 0
        for part in activations_of(node):
            if part in recorded:
                least, most = _range_of(part, recorded, bound_of.get(part, np.zeros(())))
                channels = threshold[first : first + least.shape[1]].reshape(-1, 1, 1)
                count += int(may_tie(least, most, channels).sum())
                first += least.shape[1]
        if count:
            counts[str(node.name)] = count
    return counts


def _range_of(
    value: ir.Value, recorded: Recorded, bound: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the least and the most that is compared, of floats or of those that bits stand for."""
    bits = bits_of(value)
    if bits is not None:
        return bits.range_of(np.asarray(recorded[bits.value], np.float32), bound)
    x = np.asarray(recorded[value], np.float64)
    return x - bound, x + bound


def _threshold_of(node: ir.Node) -> NDArray[np.float32]:
    """Return what a binary convolution compares its channels with, or what its bits were compared with."""
    bits = bits_of(activations_of(node)[0])
    if bits is None:
        return constant_array(input_of(node, "threshold"))
    return bits.thresholds_of(constant_array(input_of(node, "place")))
