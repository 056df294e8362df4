"""The small ONNX reader against the package `onnx`."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.operators import OPERATORS, Operator
from bnas_deploy.runtime.onnx_file.reader import Node, has_k_map, is_binary_convolution, read_nodes


def save(path: Path, nodes: list[onnx.NodeProto]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 9, 9])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        # Longer than one byte, and two, of a length can say.
        [numpy_helper.from_array(np.zeros(size, np.float32), f"w{size}") for size in (1, 100, 10_000)],
    )
    onnx.save(helper.make_model(graph, producer_name="test", model_version=2**40), path)
    return path


def test_reads_what_onnx_wrote(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="cells.0.größe", pads=[1, 0, 1, 0], auto_pad="NOTSET"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Concat", ["b", "", "b"], ["y" * 300], name="cat", axis=-1, alpha=0.5),
        helper.make_node("Split", ["y" * 300], ["y", "z"], name="split", domain="bnas"),
    ]
    assert read_nodes(save(tmp_path / "model.onnx", nodes)) == (
        Node("cells.0.größe", "Conv", ("x", "w"), ("a",)),
        Node("", "Relu", ("a",), ("b",)),
        Node("cat", "Concat", ("b", "", "b"), ("y" * 300,)),
        Node("split", "Split", ("y" * 300,), ("y", "z")),
    )


def test_nodes_of_functions_are_not_of_the_graph(operator_model, tmp_path: Path) -> None:
    constants = {
        "W": np.zeros((5, 3, 3, 1), np.uint8),
        "threshold": np.zeros(3, np.float32),
        "offset": np.zeros((5, 1, 1), np.float32),
        "scale": np.ones(5, np.float32),
        "bias": np.zeros(5, np.float32),
    }
    model = operator_model("BinaryConv2d", constants, {"weight_shape": [5, 3, 3, 3]}, (3, 6, 6), (5, 4, 4))
    onnx.save(model, tmp_path / "model.onnx")
    assert [node.op_type for node in read_nodes(tmp_path / "model.onnx")] == ["BinaryConv2d"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not an ONNX file (cannot mmap an empty file)"),
        (b"\x3a\xff\xff\xff\xff\x0f", "not an ONNX file (a field that ends past the end)"),
        (b"\x3a\x05abc", "not an ONNX file (a field that ends past the end)"),
        (b"\x3a", "not an ONNX file (a number that does not end)"),
        (100 * b"\xff", "not an ONNX file (a number that does not end)"),
        (b"\x3b\x00", "not an ONNX file (a field of the wire type 3)"),
    ],
)
def test_what_is_no_protocol_buffer(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(data)
    with pytest.raises(BundleError) as refusal:
        read_nodes(tmp_path / "model.onnx")
    assert refusal.value.message == f"{tmp_path / 'model.onnx'}: {message}; copy or export the bundle again"


@pytest.mark.parametrize("row", OPERATORS, ids=lambda row: row.name)
def test_operators_are_told_by_their_names(row: Operator) -> None:
    assert is_binary_convolution(row.name) == row.convolves
    assert has_k_map(row.name) == row.k_map
    assert not is_binary_convolution("Conv")
