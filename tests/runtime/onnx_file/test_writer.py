"""The small ONNX writer, read back by the package `onnx`."""

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from bnas_deploy.runtime.onnx_file.writer import NewNode, Value, model_bytes

# Longer than one byte, and two, of a length can say.
SIZES = (1, 100, 40_000)


def test_onnx_reads_what_was_written() -> None:
    arrays = {f"w{size}": np.arange(size).astype(np.float32) for size in SIZES} | {"scalar": np.array(3, np.uint8)}
    nodes = [
        NewNode("Conv", ("x", "w"), "a", {"strides": (2, 300), "group": 1, "pads": (0, 0, 0, 0)}),
        NewNode("BinaryConv2dRelu", ("a", "größe"), "y", domain="bnas"),
    ]
    written = model_bytes(
        nodes, arrays, [Value("x", "float32", (1, 4, 9, 200)), Value("z", "int64", (1,))], [Value("y", "uint8", (1, 5))]
    )
    model = onnx.load_from_string(written)
    assert {opset.domain: opset.version for opset in model.opset_import} == {"": 18, "bnas": 1}
    assert model.ir_version == 9
    conv, binary = model.graph.node
    assert (conv.op_type, list(conv.input), list(conv.output), conv.domain) == ("Conv", ["x", "w"], ["a"], "")
    found = {attribute.name: helper.get_attribute_value(attribute) for attribute in conv.attribute}
    assert found == {"strides": [2, 300], "group": 1, "pads": [0, 0, 0, 0]}
    assert (binary.name, binary.domain, list(binary.input)) == ("y", "bnas", ["a", "größe"])
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        assert array.dtype == arrays[tensor.name].dtype
        assert array.shape == arrays[tensor.name].shape
        assert (array == arrays[tensor.name]).all()
    x, z, y = *model.graph.input, *model.graph.output
    assert z == helper.make_tensor_value_info("z", onnx.TensorProto.INT64, (1,))
    assert x == helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 4, 9, 200))
    assert y == helper.make_tensor_value_info("y", onnx.TensorProto.UINT8, (1, 5))


@pytest.mark.parametrize("dtype", ["float32", "uint8", "int8", "int32"])
def test_a_model_of_standard_operators_passes_onnxs_checker(dtype: str) -> None:
    x, y = (Value(name, dtype, (1, 2, 3, 4)) for name in "xy")
    written = model_bytes([NewNode("Identity", ("x",), "y")], {}, [x], [y])
    onnx.checker.check_model(onnx.load_from_string(written), full_check=True)
