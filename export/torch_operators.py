"""What torch.onnx writes for the operators of a frozen module: nodes of the domain `bnas`, as they are captured."""

from collections.abc import Callable, Sequence
from typing import Any

import onnx
import onnxscript
import torch

from bnas_deploy.core import operators
from bnas_deploy.export import freeze  # noqa: F401  # it registers the operators
from bnas_deploy.export.graph import SIGN_OF_ZERO


def _captured_operator(name: str, inputs: Sequence[str], attributes: dict[str, onnx.defs.OpSchema.AttrType]) -> Any:
    """Return the onnxscript operator of a captured node; the finished operators are in opset.py."""
    schema = onnx.defs.OpSchema
    return onnxscript.values.Op(
        onnxscript.values.Opset(operators.DOMAIN, operators.VERSION),
        name,
        schema(
            name,
            operators.DOMAIN,
            operators.VERSION,
            inputs=[schema.FormalParameter(name, "T") for name in inputs],
            outputs=[schema.FormalParameter("Y", "T")],
            type_constraints=[("T", ["tensor(float)"], "")],
            attributes=[schema.Attribute(name, kind) for name, kind in attributes.items()],
        ),
    )


_INT, _INTS = onnx.defs.OpSchema.AttrType.INT, onnx.defs.OpSchema.AttrType.INTS
_GEOMETRY = {"strides": _INTS, "pads": _INTS, "dilations": _INTS, "group": _INT}
_BINARY_CONV = {
    row: _captured_operator(row.name, row.inputs, {**_GEOMETRY, SIGN_OF_ZERO: _INT})
    for row in (operators.Operator(), operators.Operator(k_map=True), operators.Operator(pads_signs=True))
}
_ZEROISE = _captured_operator("Zeroise", ("X",), {"stride": _INT})


def _translate_binary_conv2d(
    x: Any,
    signs: Any,
    threshold: Any,
    pad: Any,
    offset: Any,
    scale: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    extra_padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    k_map: bool,
    sign_of_zero: bool,
) -> Any:
    # PyTorch pads both sides alike, but for the odd zero of "same"; ONNX writes top, left, bottom, right.
    pads = [*padding, *(zeros + more for zeros, more in zip(padding, extra_padding, strict=True))]
    row = operators.Operator(k_map=k_map, pads_signs=pad is not None)
    return _BINARY_CONV[row](
        x,
        signs,
        threshold,
        *(() if pad is None else (pad,)),
        offset,
        scale,
        bias,
        strides=list(stride),
        pads=pads,
        dilations=list(dilation),
        group=groups,
        **({SIGN_OF_ZERO: 1} if sign_of_zero else {}),
    )


def _translate_zeroise(x: Any, stride: int) -> Any:
    return _ZEROISE(x, stride=stride)


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.ops.bnas.binary_conv2d.default: _translate_binary_conv2d,
    torch.ops.bnas.zeroise.default: _translate_zeroise,
}
