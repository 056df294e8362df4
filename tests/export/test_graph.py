"""Origins and constants: what the passes rely on to know what a value is."""

import numpy as np
import onnx_ir as ir
import pytest

from bnas_deploy.export.graph import Origin, constant, new_value, origin_of


def _value(name: str, channels: int) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(["N", channels, 4, 4]), type=ir.TensorType(ir.DataType.FLOAT))


def test_a_captured_value_is_its_own_origin() -> None:
    assert origin_of(_value("relu", 8)) == Origin("relu")


def test_the_origin_of_a_new_value_is_what_it_is_told() -> None:
    value = new_value("cat.joined", _value("cat", 8), 3, Origin("cat", (0, 1, 7)))

    assert origin_of(value) == Origin("cat", (0, 1, 7))
    assert (value.shape[1], value.shape[2:], value.type) == (3, (4, 4), ir.TensorType(ir.DataType.FLOAT))


@pytest.mark.parametrize(
    ("origin", "first", "last", "channels"),
    [
        (Origin("cat"), 2, 5, (2, 3, 4)),
        (Origin("cat", (1, 3, 5, 7)), 1, 3, (3, 5)),
        (Origin("cat", (1, 3, 5, 7)), 0, 4, (1, 3, 5, 7)),
    ],
    ids=["of the whole", "of a part", "all of a part"],
)
def test_a_range_of_channels_comes_from_the_same_value(
    origin: Origin, first: int, last: int, channels: tuple[int, ...]
) -> None:
    assert origin.channel_range(first, last) == Origin("cat", channels)


def test_a_constant_gets_a_number_where_its_name_is_taken() -> None:
    graph = ir.Graph([], [], nodes=[])

    names = [constant(graph, "scale", np.float32([number])).name for number in range(3)]

    assert names == ["scale", "scale#2", "scale#3"]
    assert [value.const_value.numpy().item() for value in graph.initializers.values()] == [0, 1, 2]
