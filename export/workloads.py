"""What a network spends time on, read from its exported graph: any network, not only those of a search.

    binary convolution   BinaryConv2d, with K and the activation in its name, a FusedAdd for each sum that it takes, and
                         a MaxPool where it pools its bits; the parts of a concatenation are read where they lie, which
                         costs nothing
    Conv                 with the Relu behind it, since onnxruntime runs both at once
    any other node       its operator, as it is

Nodes that do not depend on the images are left out: shapes, which a free batch makes necessary, and what becomes of a
state that is zero. onnxruntime runs them for every batch, but no table has times of them.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import onnx_ir as ir
from torch import nn

from bnas_deploy.core.latency_table import Workload
from bnas_deploy.core.operators import operator
from bnas_deploy.export.capture import capture
from bnas_deploy.export.graph import added_to, is_binary_conv, sole_consumer
from bnas_deploy.export.layer_costs import has_weights, layer_cost, pair_of, shape_of
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import run


def network_workloads(module: nn.Module, image_shape: Sequence[int]) -> Counter[Workload]:
    """Return the workloads of `module`, made of the package's binary layers and torch's own, as export leaves it.

    Nothing is run or compared. `image_shape` is (channels, height, width).

    Raises:
        ExportError: `module` cannot be captured.
    """
    captured = capture(module, image_shape, batch=1)
    run(PIPELINE, captured.model)
    return workloads(captured.model)


def workloads(model: ir.Model) -> Counter[Workload]:
    """Return the workloads of a finished graph, or of a file that `onnx_ir.load` has read, and how many of each."""
    return Counter(chain.from_iterable(node_workloads(model).values()))


def node_workloads(model: ir.Model) -> dict[str, tuple[Workload, ...]]:
    """Return the workloads of each node by its name, in running order; nodes that are left out have no entry."""
    found, of_images = {}, set[ir.Value | None](model.graph.inputs)
    for node in model.graph:
        if node.op_type == "Shape" or of_images.isdisjoint(node.inputs):
            continue
        of_images.update(node.outputs)
        if not _is_run_by_convolution(node):
            found[str(node.name)] = _workloads(node)
    return found


def _is_run_by_convolution(node: ir.Node) -> bool:
    x = node.inputs[0] if node.op_type == "Relu" else None
    maker = x.producer() if x is not None else None
    return x is not None and maker is not None and maker.op_type == "Conv" and sole_consumer(x) is node


def _workloads(node: ir.Node) -> tuple[Workload, ...]:
    output = shape_of(node.outputs[0])
    if has_weights(node):
        added = len(added_to(node)) if is_binary_conv(node) else 0
        return _layer(node), *([Workload("FusedAdd", output, output)] * added), *_pool(node)
    # Add and Mul may read a constant first; a Concat counts as the tensor that it makes.
    x = node.inputs[0]
    source = shape_of(x) if x is not None and x.const_value is None and node.op_type != "Concat" else output
    kernel, stride, dilation = (pair_of(node, name) for name in ("kernel_shape", "strides", "dilations"))
    parts = len(node.inputs) if node.op_type == "Concat" else 1
    return (Workload(node.op_type, source, output, kernel, stride, dilation, parts=parts),)


def _pool(node: ir.Node) -> tuple[Workload, ...]:
    """Return the maximum that a binary convolution takes: of floats, as tables have it. It is faster of bits."""
    if not is_binary_conv(node) or not operator(node.op_type).max_pool:
        return ()
    made = layer_cost(node).output
    return (Workload("MaxPool", made, (made[0], *shape_of(node.outputs[0])[1:]), kernel=(2, 2), stride=(2, 2)),)


def _layer(node: ir.Node) -> Workload:
    kind = node.op_type
    if is_binary_conv(node):
        # What the padding holds takes no time: tables know no operator for that, and none that reads or writes bits. A
        # file does not say what stood in front of bits; in searched cells that is a ReLU.
        row = operator(kind)
        bare = {"of_bits": False, "max_pool": False, "to_bits": False}
        floats = replace(row, **bare, activation="Relu" if row.to_bits else row.activation)
        kind = replace(floats, before=0, added=0, parts=1, pads_signs=False).name
    cost = layer_cost(node)
    return Workload(kind, cost.input, cost.output, cost.kernel, cost.stride, cost.dilation, cost.groups)
