"""Float ±1 weights -> bits."""

from collections.abc import Iterable

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.export.graph import constant, constant_array, input_of, is_binary_conv, set_input


class PackWeights:
    """(O, C/groups, KH, KW) float ±1 -> (O, KH, KW, ceil(C/groups / 8)) uint8, with the attribute `weight_shape`."""

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every binary convolution."""
        return (node for node in model.graph if is_binary_conv(node))

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the weights are left alone."""
        return "already packed" if "weight_shape" in node.attributes else None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Pack the weights of `node`."""
        signs = np.moveaxis(constant_array(input_of(node, "W")), 1, -1)  # channels last
        assert np.isin(signs, (-1, 1)).all(), f"{node.name}: weights that are not ±1"
        set_input(node, "W", constant(model.graph, f"{node.name}.W", pack_signs(signs)))
        node.attributes["weight_shape"] = ir.AttrInt64s("weight_shape", signs.shape)
