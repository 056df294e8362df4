"""Means of 2x2 pixels behind operators of the domain, as shortcuts have them, become operators of images.

onnxruntime copies what it averages into blocks of channels and back. A PReLU in front (BNext) goes with it.
"""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.export.graph import channels_of, constant, input_of, is_fused, sole_consumer
from bnas_deploy.export.passes.write_bits import takes_pairs

PRELU = Operator(convolves=False, activation="PRelu")
MEAN = Operator(convolves=False, activation="PRelu", mean_pool=True)


class FuseMeanPool:
    """PRelu -> AveragePool becomes PReluMeanPool, and AveragePool alone, too, with slopes of 1."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return the means that read an operator of the domain; between float layers onnxruntime copies nothing."""
        means = (node for node in model.graph if node.op_type == "AveragePool" and node.domain == "")
        return (node for node in means if (x := node.inputs[0]) is not None and is_fused(x.producer()))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why it stays."""
        if not takes_pairs(node):
            return "it is no mean of 2x2 pixels with a stride of 2 and without padding"
        x = node.inputs[0]
        assert x is not None
        assert x.shape is not None
        even = all(isinstance(size, int) and size % 2 == 0 for size in x.shape[2:])
        return None if even else f"the sides of {x.name} are not known to be even"

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Replace it, and a PReLU in front that nobody else reads."""
        x, y = node.inputs[0], node.outputs[0]
        assert x is not None
        prelu, replaced = x.producer(), [node]
        slope = None
        if prelu is not None and is_fused(prelu) and prelu.op_type == PRELU.name and sole_consumer(x) is not None:
            slope, x = input_of(prelu, "slope"), input_of(prelu, "X")
            replaced.append(prelu)
        if slope is None:
            slope = constant(model.graph, f"{node.name}.slope", np.ones(channels_of(y), np.float32))
        result = ir.Value(name=y.name, shape=y.shape, type=y.type)
        result.meta.update(y.meta)
        given = {"X": x, "slope": slope}
        fused = ir.Node(DOMAIN, MEAN.name, [given[name] for name in MEAN.inputs], outputs=[result], name=node.name)
        ir.convenience.replace_nodes_and_values(model.graph, node, replaced, [fused], [y], [result])
