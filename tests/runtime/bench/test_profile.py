"""Reading onnxruntime's profile, and finding the file's nodes behind the names that onnxruntime gave them."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnas_deploy.runtime.bench.profile import (
    BINARY,
    CLASSIFIER,
    FLOAT,
    INT8,
    OTHER,
    SCALE,
    NodeTime,
    kind_of,
    kind_of_node,
    layer_of,
    node_times,
    original_nodes,
    read_profile,
)
from bnas_deploy.runtime.onnx_file.reader import Node, read_nodes

LEVELS = onnxruntime.GraphOptimizationLevel


def model(path: Path) -> Path:
    """Two convolutions with Relu that are added, one with an Add and a Relu behind it, a pool and a classifier."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(32, channels, 3, 3)).astype(np.float32) for channels in (3, 32, 32)]
    weights += [rng.normal(size=shape).astype(np.float32) for shape in ((32, 5), (5,))]
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["a"], name="stem", pads=[1] * 4),
        helper.make_node("Relu", ["a"], ["ar"], name="stem.relu"),
        helper.make_node("Conv", ["ar", "w1"], ["b"], name="cells.0.edges.0", pads=[1] * 4),
        helper.make_node("Relu", ["b"], ["br"], name="cells.0.edges.0.relu"),
        helper.make_node("Conv", ["br", "w2"], ["c"], name="cells.0.edges.1", pads=[1] * 4),
        helper.make_node("Add", ["c", "br"], ["d"], name="cells.0.add"),
        helper.make_node("Relu", ["d"], ["dr"], name="cells.0.relu"),
        helper.make_node("GlobalAveragePool", ["dr"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("MatMul", ["f", "w3"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "w4"], ["y"], name="fc.bias"),
    ]
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(weight, f"w{i}") for i, weight in enumerate(weights)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), path)
    return path


@pytest.mark.parametrize("level", [LEVELS.ORT_DISABLE_ALL, LEVELS.ORT_ENABLE_EXTENDED, LEVELS.ORT_ENABLE_ALL], ids=str)
def test_every_convolution_is_found_at_every_optimisation_level(tmp_path: Path, level: Any) -> None:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    path = model(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    for _ in range(4):
        session.run(None, {"x": np.zeros((2, 3, 8, 8), np.float32)})

    times = read_profile(Path(session.end_profiling()), skip=1)
    nodes = original_nodes(times, read_nodes(path))

    assert all(len(time.runs_us) == 3 for time in times)
    found = {node.name: time for node, time in zip(nodes, times, strict=True) if node}
    convolutions = [name for name, time in found.items() if kind_of(time.op_type) == FLOAT]
    assert convolutions == ["stem", "cells.0.edges.0", "cells.0.edges.1"]
    assert {"pool", "flat", "fc"} <= found.keys()


def event(name: str, op_type: str, duration: int, index: str = "0", **more: Any) -> dict[str, Any]:
    arguments = {"op_name": op_type, "node_index": index}
    return {"cat": "Node", "name": f"{name}_kernel_time", "dur": duration, "args": arguments, **more}


def test_events_are_gathered_by_node() -> None:
    events = [
        {"cat": "Session", "name": "model_run", "dur": 9, "args": {}},
        event("a", "Conv", 50),
        {"cat": "Node", "name": "a_fence_before", "dur": 1, "args": {"op_name": "Conv"}},
        event("", "Add", 1, "3"),
        event("", "Add", 2, "4"),
        event("a", "Conv", 7),
        event("", "Add", 3, "3"),
        event("", "Add", 4, "4"),
    ]
    assert node_times(events, skip=0) == [
        NodeTime("a", "Conv", (50, 7)),
        NodeTime("Add 3", "Add", (1, 3)),
        NodeTime("Add 4", "Add", (2, 4)),
    ]
    assert [time.runs_us for time in node_times(events, skip=1)] == [(7,), (3,), (4,)]


def node(name: str, op_type: str, inputs: str, output: str) -> Node:
    return Node(name, op_type, tuple(inputs.split()), (output,))


GRAPH = (
    node("left", "Conv", "x w0", "l"),
    node("right", "Conv", "x w1", "r"),
    node("sum", "Add", "l r", "s"),
    node("relu", "Relu", "s", "sr"),
    node("pool", "MaxPool", "sr", "p"),
    node("concat", "Concat", "p sr", "c"),
    node("fc", "MatMul", "c w2", "m"),
    node("bn", "BatchNormalization", "c s b m v", "n"),
    node("left.bn", "BatchNormalization", "l s b m v", "ln"),
    node("scale", "Mul", "c slope", "scaled"),
)


@pytest.mark.parametrize(
    ("profiled", "wanted"),
    [
        ([("left", "Conv")], ["left"]),
        ([("left", "FusedConv")], ["left"]),
        ([("fused left", "FusedConv")], ["left"]),
        ([("fc/MatMulAddFusion", "Gemm")], ["fc"]),
        ([("l_nchwc", "Conv")], ["left"]),
        ([("l_nchwc_token_12", "Conv")], ["left"]),
        ([("p_nchwc", "MaxPool")], ["pool"]),
        ([("sr_nchwc", "Conv"), ("l_nchwc", "Conv")], ["right", "left"]),
        ([("sr_nchwc", "Conv"), ("r_nchwc", "Conv")], ["left", "right"]),
        ([("c_nchwc", "Conv")], [None]),  # a Concat is never fused into a convolution
        ([("ReorderOutput", "ReorderOutput")], [None]),
        ([("x_nchwc", "Conv")], [None]),
        ([("n_bn_nchwc", "Conv")], ["bn"]),
        ([("l_bn_nchwc", "Conv")], [None]),
        ([("ln_nchwc", "Conv")], ["left"]),
        ([("scaled_mul_nchwc", "Conv")], ["scale"]),
        ([("n_mul_nchwc", "Conv")], [None]),
        ([("left_token_28", "QLinearConv")], ["left"]),
        ([("pool_token", "NhwcMaxPool")], ["pool"]),
    ],
)
def test_names_are_traced_back(profiled: list[tuple[str, str]], wanted: list[str | None]) -> None:
    times = [NodeTime(name, op_type, ()) for name, op_type in profiled]
    assert [found.name if found else None for found in original_nodes(times, GRAPH)] == wanted


def test_kinds_of_work() -> None:
    assert kind_of("BinaryConv2dKPRelu") == BINARY
    assert kind_of("FusedConv") == FLOAT
    assert kind_of("MaxPool") == "pool"
    assert kind_of("QLinearAdd") == "add"
    assert kind_of("AffineMaxPoolConcat4") == kind_of("PReluMeanPool") == "pool"
    assert kind_of("GateAffineAdd") == kind_of("SecondBit") == kind_of("BatchNormalization")
    assert kind_of("PRelu") == "activation"
    assert kind_of("SomethingNew") == OTHER


@pytest.mark.parametrize(
    ("ran", "written", "wanted"),
    [
        ("Conv", "BatchNormalization", "scale and shift"),
        ("QLinearConv", "Conv", INT8),
        ("QGemm", "Gemm", CLASSIFIER),
        ("ReorderInput", None, "layout"),
        ("QLinearConv", None, INT8),
    ],
)
def test_the_kind_is_that_of_the_file_unless_the_profile_knows_better(
    ran: str, written: str | None, wanted: str
) -> None:
    in_file = None if written is None else node("n", written, "x", "y")
    assert kind_of_node(NodeTime("n", ran, ()), in_file, {"n"}) == wanted


@pytest.mark.parametrize(("name", "wanted"), [("stem.conv", INT8), ("stem.conv_quant", INT8), ("norm", SCALE)])
def test_an_int8_convolution_that_is_no_layer_is_a_batch_normalisation(name: str, wanted: str) -> None:
    time = NodeTime(f"{name}_token_3", "QLinearConv", ())
    assert kind_of_node(time, node(name, "Conv", "x", "y"), {"stem.conv"}) == wanted


def test_layers_of_an_int8_model_have_the_name_of_the_float_one() -> None:
    assert [layer_of(name) for name in ("stem.conv_quant", "stem.conv")] == ["stem.conv"] * 2
