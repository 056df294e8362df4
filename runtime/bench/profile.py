"""Where the time of a run goes: onnxruntime's own profile, with every node given back the name that it has in the file.

While it optimises, onnxruntime renames. What it was seen to do (1.31; the other forms are those of older versions):

    conv             -> conv                  Conv and Relu fused into FusedConv keep the name of the Conv
    conv             -> fused conv
    fc               -> fc/MatMulAddFusion    MatMul and Add fused into Gemm
    conv, relu       -> y_nchwc               laid out in blocks of channels: named after the value y that the Conv,
                                              or the last node fused into it, gives in the file
    bn               -> y_bn_nchwc            in that layout a BatchNormalization is a Conv, a group per channel,
    mul              -> y_mul_nchwc           and so is a Mul by a constant per channel
    (none)           -> ReorderOutput         new nodes, from and to that layout
    conv             -> conv_token_3          a quantised Conv with its layout transposed
    conv_quant       -> conv_quant            what onnxruntime's quantisation calls its operators
"""

import json
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.operators import ACTIVATIONS, is_operator, operator
from bnas_deploy.runtime.onnx_file.reader import Node

BINARY, FLOAT, INT8 = "binary convolution", "float convolution", "int8 convolution"
CLASSIFIER, SCALE, OTHER = "fully connected", "scale and shift", "other"

KINDS = {
    **dict.fromkeys(filter(None, ACTIVATIONS), "activation"),
    "Conv": FLOAT,
    "FusedConv": FLOAT,
    "NhwcFusedConv": FLOAT,
    "ConvInteger": INT8,
    "QLinearConv": INT8,
    "DynamicQuantizeMatMul": CLASSIFIER,
    "FusedGemm": CLASSIFIER,
    "FusedMatMul": CLASSIFIER,
    "Gemm": CLASSIFIER,
    "MatMul": CLASSIFIER,
    "MatMulInteger": CLASSIFIER,
    "MatMulIntegerToFloat": CLASSIFIER,
    "QGemm": CLASSIFIER,
    "QLinearMatMul": CLASSIFIER,
    "Add": "add",
    "QLinearAdd": "add",
    "Sum": "add",
    "Concat": "concat",
    "QLinearConcat": "concat",
    "AveragePool": "pool",
    "GlobalAveragePool": "pool",
    "MaxPool": "pool",
    "NhwcMaxPool": "pool",
    "QLinearAveragePool": "pool",
    "QLinearGlobalAveragePool": "pool",
    "QLinearReduceMean": "pool",
    "ReduceMean": "pool",
    "BatchNormalization": SCALE,
    "Mul": SCALE,
    "QLinearMul": SCALE,
    "DequantizeLinear": "quantise",
    "DynamicQuantizeLinear": "quantise",
    "QuantizeLinear": "quantise",
    "LeakyRelu": "activation",
    "QLinearLeakyRelu": "activation",
    "Flatten": "layout",
    "Gather": "layout",
    "ReorderInput": "layout",
    "ReorderOutput": "layout",
    "Reshape": "layout",
    "Slice": "layout",
    "Split": "layout",
    "Transpose": "layout",
}
"""What kind of work an operator is; `OTHER` is what is not here. What has no weights of a layer is glue."""

LAYER_KINDS = (BINARY, FLOAT, INT8, CLASSIFIER)
"""The kinds that are layers with weights, and no glue."""

FUSED_INTO_CONV = {
    "Add",
    "BatchNormalization",
    "Clip",
    "HardSigmoid",
    "LeakyRelu",
    "Mul",
    "Relu",
    "Sigmoid",
    "Sum",
    "Tanh",
}
"""Operators that onnxruntime fuses into the convolution before them."""

SCALED_BY_CONV = {"_bn": "BatchNormalization", "_mul": "Mul"}
"""What onnxruntime puts behind the name of a value that it makes with a Conv of a group per channel, and instead of
which operator."""


@dataclass(frozen=True)
class NodeTime:
    """One node that ran: its name in the profile, its operator, and its time in each run.

    Times are whole microseconds, cut off by the profiler.
    """

    name: str
    op_type: str
    runs_us: tuple[int, ...]


def kind_of(op_type: str) -> str:
    """Return the kind of work that an operator is."""
    if op_type in KINDS or not is_operator(op_type):
        return KINDS.get(op_type, OTHER)
    row = operator(op_type)
    if row.convolves:
        return BINARY
    return "pool" if row.max_pool or row.mean_pool else SCALE


def kind_of_node(time: NodeTime, node: Node | None, layers: Container[str]) -> str:
    """Return the kind of work that a profiled node was, by its operator in the file where it is known.

    An int8 convolution may be a Conv between quantisation in the file: there only the profile knows. Where it is none
    of `layers`, the names of what has weights in the network, it is a batch normalisation: those have no operator in
    8 bits, and are written as a convolution with a group per channel.
    """
    ran = kind_of(time.op_type)
    if ran == INT8 and node and layer_of(node.name) not in layers:
        return SCALE
    return ran if node is None or ran == INT8 else kind_of(node.op_type)


def layer_of(name: str) -> str:
    """Return the name of the layer in the float model that a node of this name in an int8 model is."""
    return name.removesuffix("_quant")


def read_profile(path: Path, *, skip: int) -> list[NodeTime]:
    """Read a profile that onnxruntime wrote, in running order, without the first `skip` runs.

    Raises:
        BnasError: onnxruntime could not write all of it, about which it says nothing.
    """
    try:
        # A node may have any bytes as its name; `read_nodes` shows them in the same way.
        events = json.loads(path.read_text(encoding="utf-8", errors="backslashreplace"))
    except ValueError as error:
        raise BnasError(
            f"{path}: onnxruntime's profile is no JSON ({error}); make room there, or set TMPDIR to another folder"
        ) from None
    return node_times(events, skip=skip)


def node_times(events: Iterable[Mapping[str, Any]], *, skip: int) -> list[NodeTime]:
    """Gather the events of a profile by node, without the first `skip` runs of each."""
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for event in events:
        # Older versions have further events before and after a node, with other suffixes.
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            name = event["name"].removesuffix("_kernel_time")
            # Nodes without a name are told apart by their index.
            found.setdefault((name, event["args"]["node_index"]), []).append(event)
    return [
        NodeTime(
            name=name or f"{runs[0]['args']['op_name']} {index}",
            op_type=runs[0]["args"]["op_name"],
            runs_us=tuple(run["dur"] for run in runs[skip:]),
        )
        for (name, index), runs in found.items()
    ]


def original_nodes(times: Sequence[NodeTime], graph: Sequence[Node]) -> list[Node | None]:
    """Return which node of `graph`, the file's nodes, each profiled node was; None for what onnxruntime added."""
    named = {node.name: node for node in graph}
    makers = {output: node for node in graph for output in node.outputs}
    found = [_by_name(time, named) or _by_value(time, makers) for time in times]
    taken = {node.name for node in found if node}
    # Last, because a walk back from an Add may reach two convolutions, of which one has been found by now.
    return [node or _by_walking_back(time, makers, taken) for time, node in zip(times, found, strict=True)]


def _by_name(time: NodeTime, named: Mapping[str, Node]) -> Node | None:
    names = time.name, time.name.removeprefix("fused "), time.name.rpartition("/")[0], _without_token(time.name)
    for name in names:
        if name in named:
            return named[name]
    return None


def _by_value(time: NodeTime, makers: Mapping[str, Node]) -> Node | None:
    value = _value_in(time.name)
    maker = makers.get(value)
    if maker and maker.op_type == _plain(time.op_type):
        return maker
    for suffix, op_type in SCALED_BY_CONV.items():
        maker = makers.get(value.removesuffix(suffix)) if value.endswith(suffix) else None
        if maker and maker.op_type == op_type:
            return maker
    return None


def _by_walking_back(time: NodeTime, makers: Mapping[str, Node], taken: set[str]) -> Node | None:
    """Find the convolution that the nodes up to the value in the name were fused into."""
    values = [_value_in(time.name)]
    while values:
        node = makers.get(values.pop(0))
        if node is None:
            continue
        if node.op_type == _plain(time.op_type) and node.name not in taken:
            return node
        if node.op_type in FUSED_INTO_CONV:
            values.extend(node.inputs)
    return None


def _value_in(name: str) -> str:
    """Return y of `y_nchwc`, or of `y_nchwc_token_3` where onnxruntime needed another name; else nothing."""
    match = re.fullmatch(r"(.+)_nchwc(?:(?:_token)?_\d+)?", name)
    return match[1] if match else ""


def _without_token(name: str) -> str:
    """Return `conv` of `conv_token_3`, the name of a copy that onnxruntime made."""
    return re.sub(r"_token(_\d+)?$", "", name)


def _plain(op_type: str) -> str:
    """Return the operator of the standard that onnxruntime's own variant stands for."""
    return "Conv" if op_type in {"FusedConv", "NhwcFusedConv"} else op_type
