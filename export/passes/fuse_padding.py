"""A Pad in front of a binary convolution becomes padding of its own, with a sign for each channel."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from bnas_deploy.core.bits import sign
from bnas_deploy.core.operators import operator
from bnas_deploy.export.graph import array_of, constant, constant_array, input_of, is_binary_conv, replace_operator


class FusePadding:
    """Pad(v) -> BinaryConv2d becomes BinaryConv2dPad: a channel's padding is +1 where v >= threshold, else -1.

    Other readers keep the Pad.
    """

    def sites(self, model: ir.Model) -> Iterable[ir.Node]:
        """Return every binary convolution that reads a Pad."""
        return (node for node in model.graph if is_binary_conv(node) and _padding_before(node) is not None)

    def refusal(self, model: ir.Model, node: ir.Node) -> str | None:
        """Return why the convolution goes on reading what was padded."""
        padding = _padding_before(node)
        assert padding is not None
        if operator(node.op_type).k_map:
            return "the K map needs what is padded with, not only its sign"
        if padding.attributes.get_string("mode", "constant") != "constant":
            return f"{padding.name} does not pad with one number"
        if _pads(padding) is None or _number(padding) is None:
            return f"how {padding.name} pads is computed, or it pads other axes than rows and columns"
        if any(node.attributes.get_ints("pads", (0, 0, 0, 0))):
            return "it pads what was padded"
        return None

    def apply(self, model: ir.Model, node: ir.Node) -> None:
        """Read what is padded, and pad."""
        padding = _padding_before(node)
        assert padding is not None
        pads, number, x = _pads(padding), _number(padding), padding.inputs[0]
        assert pads is not None
        assert number is not None
        assert x is not None
        assert "constant_channels" not in node.attributes  # no rule takes those past a Pad
        threshold = constant_array(input_of(node, "threshold"))
        pad = constant(model.graph, f"{node.name}.pad", sign(np.full_like(threshold, number), threshold))
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        replace_operator(node, replace(operator(node.op_type), pads_signs=True), {"X": x, "pad": pad}, node)


def _padding_before(node: ir.Node) -> ir.Node | None:
    row = operator(node.op_type)
    before = input_of(node, "X").producer() if row.parts == 1 else None
    return before if before is not None and before.domain == "" and before.op_type == "Pad" else None


def _pads(padding: ir.Node) -> list[int] | None:
    """Return top, left, bottom and right of a Pad of images; None where it does something else, or is computed."""
    given = array_of(padding.inputs[1])
    if given is None or len(given) != 8 or any(value is not None for value in padding.inputs[3:]):
        return None
    pads = given.reshape(2, 4)
    return [int(size) for size in pads[:, 2:].ravel()] if (pads >= 0).all() and not pads[:, :2].any() else None


def _number(padding: ir.Node) -> np.float32 | None:
    """Return what a Pad pads with; None if it is computed."""
    if len(padding.inputs) < 3 or padding.inputs[2] is None:
        return np.float32(0)
    value = array_of(padding.inputs[2])
    return None if value is None else np.float32(value.item())
