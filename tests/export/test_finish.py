"""The finished file stands alone, and tells nothing of the machine that wrote it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import bnas_deploy
from bnas_deploy.core import operators
from bnas_deploy.export import opset
from bnas_deploy.export.finish import finish
from bnas_deploy.export.passes import PackWeights
from bnas_deploy.export.rewrite import run

INPUTS = "(x, W, threshold, offset, scale, bias)"


@pytest.fixture
def finished(load, binary_conv) -> onnx.ModelProto:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,4,4] y) {{ c = bnas.BinaryConv2d <strides = [1, 1], pads = [0, 0, 0, 0], "
        f"dilations = [1, 1], group = 1> {INPUTS} y = Relu (c) }}",
        **binary_conv(2, 3),
    )
    run([PackWeights()], model)
    unused = ir.from_proto(opset.function("BinaryConv2dK"))
    model.functions[unused.identifier()] = unused
    model.graph.doc_string = "made in /home/somebody"
    model.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/somebody/net.py"
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.stack_trace"] = "/home/somebody/net.py"
        node.doc_string = "/home/somebody/net.py"
        node.outputs[0].metadata_props["where"] = "/home/somebody/net.py"
    for value in model.graph.initializers.values():
        value.const_value.metadata_props["where"] = "/home/somebody/net.py"
    return finish(model)


def test_versions_are_the_oldest_that_hold_the_model(finished: onnx.ModelProto) -> None:
    assert finished.ir_version == operators.IR_VERSION
    assert {entry.domain: entry.version for entry in finished.opset_import} == {
        "": operators.ONNX_OPSET,
        operators.DOMAIN: 1,
    }
    assert (finished.producer_name, finished.producer_version) == ("bnas-deploy", bnas_deploy.__version__)


def test_only_the_operators_in_use_have_a_body(finished: onnx.ModelProto) -> None:
    assert [function.name for function in finished.functions] == ["BinaryConv2d"]


def test_a_float_model_imports_nothing_of_ours(load) -> None:
    finished = finish(load("(float[N,2] x) => (float[N,2] y) { y = Relu (x) }"))

    assert [entry.domain for entry in finished.opset_import] == [""]
    assert not finished.functions


def test_nothing_of_the_machine_is_left(finished: onnx.ModelProto) -> None:
    assert b"somebody" not in finished.SerializeToString()


def test_the_batch_is_called_n(load) -> None:
    model = load("(float[s77,2,4,4] x) => (float[s77,2,4,4] y) { r = Relu (x) y = Add (r, r) }")
    model.graph[0].outputs[0].shape = model.graph.inputs[0].shape

    finished = finish(model)

    for value in (*finished.graph.input, *finished.graph.value_info):
        sizes = value.type.tensor_type.shape.dim
        assert (sizes[0].dim_param, [size.dim_value for size in sizes[1:]]) == ("N", [2, 4, 4])


def test_the_checker_has_the_last_word(load, binary_conv) -> None:
    model = load("(float[N,2,4,4] x) => (float[N,2,4,4] y) { y = Add (x, w) }", w=np.ones((2, 1, 1), np.float32))
    model.graph[0].op_type = "NoSuchOperator"

    with pytest.raises(onnx.checker.ValidationError, match="NoSuchOperator"):
        finish(model)


def test_the_checker_sees_the_shapes_of_weights(load) -> None:
    weight = np.ones((32, 64, 1, 1), np.float32)  # more numbers than the checker is given
    model = load("(float[N,64,4,4] x) => (float[N,32,4,4] y) { y = Conv (x, w) }", w=weight)

    assert onnx.numpy_helper.to_array(finish(model).graph.initializer[0]).shape == weight.shape
    model.graph.outputs[0].shape = ir.Shape(["N", 31, 4, 4])
    with pytest.raises(onnx.shape_inference.InferenceError, match=r"dimension 1: \(32\) vs \(31\)"):
        finish(model)
