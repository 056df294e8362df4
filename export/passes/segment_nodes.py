"""Nodes that make a value of segments: slices of computed values, constants at every pixel, and both joined."""

from collections import Counter

import numpy as np
import onnx_ir as ir

from bnas_deploy.export.graph import (
    CHANNEL_AXIS,
    Origin,
    batched_input,
    channels_of,
    constant,
    new_value,
    origin_of,
    spatial_of,
)
from bnas_deploy.export.passes.segments import Computed, Constant, Floats, Segments, merged_segments, positions


class SegmentNodes:
    """Adds nodes to a graph; what was made once is used again by all who ask for the same.

    `node` is where a value is read: the nodes that make it are put before it, or at the end where it is None.
    """

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.batch_source = batched_input(graph)
        self.slices: dict[tuple[ir.Value, int, int], ir.Value] = {}
        self.joined: dict[tuple[Segments, tuple[int, int]], ir.Value] = {}
        self.names = Counter(str(value.name) for node in graph for value in node.outputs)

    def join(self, parts: Segments, node: ir.Node | None, like: ir.Value, origin: Origin) -> ir.Value:
        """Concatenate segments, once for all who ask for the same ones in the same resolution."""
        parts = merged_segments(parts)
        key = (parts, spatial_of(like))
        if key not in self.joined:
            values = [
                self.slice_of(part, node)
                if isinstance(part, Computed)
                else self.column(part, node, like, origin.channel_range(first, first + part.count))
                for first, part in positions(parts)
            ]
            if len(values) == 1:
                self.joined[key] = values[0]
            else:
                count = sum(part.count for part in parts)
                output = new_value(self.unique(f"{like.name}.joined"), like, count, origin)
                axis = [ir.AttrInt64("axis", CHANNEL_AXIS)]
                self.insert(node, ir.Node("", "Concat", values, axis, outputs=[output]))
                self.joined[key] = output
        return self.joined[key]

    def column(self, part: Constant, node: ir.Node | None, like: ir.Value, origin: Origin) -> ir.Value:
        """Return the constants at every pixel of a value (N, count, H, W)."""
        values = part.array.reshape(1, -1, 1, 1)
        return self.expanded(values, node, self.unique(f"{like.name}.constant"), like, origin)

    def slice_of(self, part: Computed, node: ir.Node | None) -> ir.Value:
        """Return the channels of a segment as a value of their own."""
        if part.count == channels_of(part.value):
            return part.value
        key = (part.value, part.first, part.count)
        if key not in self.slices:
            last = part.first + part.count
            origin = origin_of(part.value).channel_range(part.first, last)
            output = new_value(f"{part.value.name}.{part.first}to{last}", part.value, part.count, origin)
            bounds = [
                constant(self.graph, f"{output.name}.{name}", np.array([number], np.int64))
                for name, number in (("start", part.first), ("end", last), ("axis", CHANNEL_AXIS))
            ]
            self.insert(node, ir.Node("", "Slice", [part.value, *bounds], outputs=[output]))
            self.slices[key] = output
        return self.slices[key]

    def expanded(self, image: Floats, node: ir.Node | None, name: str, like: ir.Value, origin: Origin) -> ir.Value:
        """Repeat the constant (1, C, H or 1, W or 1) for every image of the batch."""
        batch = ir.Value(name=f"{name}.batch", shape=ir.Shape([1]), type=ir.TensorType(ir.DataType.INT64))
        shape = ir.Value(name=f"{name}.shape", shape=ir.Shape([4]), type=ir.TensorType(ir.DataType.INT64))
        output = new_value(name, like, image.shape[CHANNEL_AXIS], origin)
        first = [ir.AttrInt64("start", 0), ir.AttrInt64("end", 1)]
        self.insert(node, ir.Node("", "Shape", [self.batch_source], first, outputs=[batch]))
        rest = constant(self.graph, f"{name}.rest", np.array([image.shape[1], *spatial_of(like)], np.int64))
        self.insert(node, ir.Node("", "Concat", [batch, rest], [ir.AttrInt64("axis", 0)], outputs=[shape]))
        data = self.map_of(image, node, f"{name}.image")
        self.insert(node, ir.Node("", "Expand", [data, shape], outputs=[output]))
        return output

    def map_of(self, image: Floats, node: ir.Node | None, name: str) -> ir.Value:
        """Return the constant (1, C, H, W), in the file as its different rows and columns where these are few."""
        rows, row_class = np.unique(image, axis=2, return_inverse=True)
        compact, column_class = np.unique(rows, axis=3, return_inverse=True)
        if 2 * compact.size > image.size:
            return constant(self.graph, name, image)
        value = constant(self.graph, f"{name}.classes", compact)
        for axis, classes in ((2, row_class), (3, column_class)):
            indices = constant(self.graph, f"{name}.{axis}", classes.ravel().astype(np.int64))
            shape = ir.Shape([*image.shape[: axis + 1], *compact.shape[axis + 1 :]])
            output = ir.Value(name=f"{name}.along{axis}", shape=shape, type=ir.TensorType(ir.DataType.FLOAT))
            self.insert(node, ir.Node("", "Gather", [value, indices], [ir.AttrInt64("axis", axis)], outputs=[output]))
            value = output
        return value

    def named(self, value: ir.Value, output: ir.Value) -> ir.Value:
        """Return `value` under the name of `output`, an output of the graph that it stands in for."""
        renamed = ir.Value(name=output.name, shape=output.shape, type=output.type)
        renamed.meta["origin"] = origin_of(output)
        output.name = f"{output.name}.unused"
        self.insert(None, ir.Node("", "Identity", [value], outputs=[renamed]))
        return renamed

    def unique(self, name: str) -> str:
        """Return `name` for a new value; where it is taken a number is appended."""
        self.names[name] += 1
        return name if self.names[name] == 1 else f"{name}#{self.names[name]}"

    def insert(self, node: ir.Node | None, fresh: ir.Node) -> None:
        """Put `fresh` before `node`, or at the end."""
        fresh.name = str(fresh.outputs[0].name)
        if node is None:
            self.graph.append(fresh)
        else:
            self.graph.insert_before(node, fresh)
