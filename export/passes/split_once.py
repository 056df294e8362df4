"""Slices that share out what a float convolution gives, as one node."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import CHANNEL_AXIS, channels_of, constant
from bnas_deploy.export.passes.shapes import channel_cut


class SlicesToSplit:
    """Slices of all channels of a float convolution, one range behind the other -> one Split, which copies the same.

    For layers in 8 bits: onnxruntime moves the DequantizeLinear behind such a layer past the Slices, and then repeats
    it for each of their readers. In BNAS-A 27 nodes dequantised what two convolutions gave. A Split is one reader, and
    nothing is moved past it; docs/design.md has what it gains.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the float convolutions whose result several Slices read."""
        return (node for node in model.graph if node.op_type == "Conv" and node.domain == "" and len(_slices(node)) > 1)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the Slices stay as they are."""
        value = node.outputs[0]
        if len(_slices(node)) < len(value.uses()) or value.is_graph_output():
            return f"{value.name} is also read whole"
        cuts = [channel_cut(each) for each in _slices(node)]
        found = [cut for cut in cuts if cut is not None]
        if len(found) < len(cuts):
            return f"a Slice of {value.name} cuts along other axes than the channels"
        if any(each.outputs[0].is_graph_output() for each in _slices(node)):
            return f"a part of {value.name} is an output of the graph"
        ends = [0, *(last for _, last in found)]
        if [first for first, _ in found] != ends[:-1] or ends[-1] != channels_of(value):
            return f"its parts overlap, or are not all channels of {value.name}"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Put the Split in the place of the first Slice."""
        value, slices = node.outputs[0], _slices(node)
        counts = [last - first for first, last in filter(None, map(channel_cut, slices))]
        sizes = constant(model.graph, f"{value.name}.parts", np.array(counts, np.int64))
        parts = [each.outputs[0] for each in slices]
        values = [ir.Value(name=part.name, shape=part.shape, type=part.type) for part in parts]
        for part, fresh in zip(parts, values, strict=True):
            fresh.meta.update(part.meta)
        axis = [ir.AttrInt64("axis", CHANNEL_AXIS)]
        split = ir.Node("", "Split", [value, sizes], axis, outputs=values, name=f"{value.name}.split")
        ir.convenience.replace_nodes_and_values(model.graph, node, slices, [split], parts, values)


def _slices(conv: ir.Node) -> list[ir.Node]:
    """Return the Slices that read what a convolution gives, by their first channel."""
    found = [use.node for use in conv.outputs[0].uses() if use.node.op_type == "Slice" and use.idx == 0]
    return sorted(found, key=lambda each: channel_cut(each) or (0, 0))
