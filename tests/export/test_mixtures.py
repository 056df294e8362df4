"""Mixtures of float layers and layers in 8 bits, made of two files, and the parts of a network that are measured."""

from collections.abc import Iterable
from itertools import chain, combinations
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from bnas_deploy.core import operators
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.float_layers import FormTime, InNetwork, PartTimes
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.export.finish import finish_proto
from bnas_deploy.export.quantization import FEWEST_CHANNELS, quantize_layers
from bnas_deploy.runtime.bench import float_layers
from bnas_deploy.runtime.bench.float_layers import Part, measure_float_layers, measure_in_network, parts_of
from bnas_deploy.runtime.bench.samples import Column
from bnas_deploy.runtime.onnx_file.forms import Forms
from bnas_deploy.runtime.session import create_session, session_options

CHANNELS, SIZE = FEWEST_CHANNELS, 4
LAYERS = ("first", "second", "left", "right", "classifier")
"""Two behind one another; two that read one value, which is an output of the network as what one gives; one alone."""


def _float_model() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    make, floats = onnx.helper.make_node, onnx.TensorProto.FLOAT
    square = (CHANNELS, CHANNELS, 3, 3)
    arrays = {
        **{f"{name}.weight": rng.normal(size=square) / 12 for name in ("first", "second", "left")},
        "right.weight": rng.normal(size=(CHANNELS, CHANNELS, 1, 1)) / 4,
        "classifier.weight": rng.normal(size=(CHANNELS, 3)),
        **{f"{name}.bias": rng.normal(size=CHANNELS) for name in ("first", "second")},
        "threshold": np.full(CHANNELS, 0.1),
        "offset": np.zeros((CHANNELS, 1, 1)),
        "scale": np.full(CHANNELS, 0.01),
        "none": np.zeros(CHANNELS),
    }
    constants = {name: array.astype(np.float32) for name, array in arrays.items()}
    constants["signs"] = pack_signs(rng.choice([-1, 1], (CHANNELS, 3, 3, CHANNELS)))
    weights = ["signs", "threshold", "offset", "scale", "none"]
    binary = {"domain": operators.DOMAIN, "weight_shape": [CHANNELS, 3, 3, CHANNELS], "pads": [1] * 4}
    nodes = [
        make("Conv", ["x", "first.weight", "first.bias"], ["f"], "first", pads=[1] * 4),
        make("Relu", ["f"], ["r"], "relu"),
        make("Conv", ["r", "second.weight", "second.bias"], ["s"], "second", pads=[1] * 4),
        make("BinaryConv2d", ["s", *weights], ["bits"], "binary", **binary),
        make("Add", ["s", "bits"], ["sum"], "add"),
        make("Conv", ["sum", "left.weight"], ["a"], "left", pads=[1] * 4),
        make("Conv", ["sum", "right.weight"], ["b"], "right"),
        make("BinaryConv2d", ["a", *weights], ["again"], "last", **binary),
        make("ReduceMean", ["again", "axes"], ["mean"], "mean", keepdims=0),
        make("Gemm", ["mean", "classifier.weight"], ["y"], "classifier"),
    ]
    shape = ["N", CHANNELS, SIZE, SIZE]
    graph = onnx.helper.make_graph(
        nodes,
        "network",
        [onnx.helper.make_tensor_value_info("x", floats, shape)],
        [
            onnx.helper.make_tensor_value_info(name, floats, size)
            for name, size in (("b", shape), ("sum", shape), ("y", ["N", 3]))
        ],
        [onnx.numpy_helper.from_array(data, name) for name, data in constants.items()]
        + [onnx.numpy_helper.from_array(np.int64([2, 3]), "axes")],
    )
    model = onnx.helper.make_model(graph)
    finish_proto(model)
    return onnx.shape_inference.infer_shapes(model)


IMAGES = np.random.default_rng(1).normal(size=(4, CHANNELS, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def forms() -> Forms:
    floats = _float_model()
    int8 = quantize_layers(_float_model(), IMAGES, LAYERS)
    return Forms(floats.SerializeToString(), int8.SerializeToString(), LAYERS)


def _answers(data: bytes, path: Path) -> list[NDArray[np.float32]]:
    path.write_bytes(data)
    answers: list[NDArray[np.float32]] = create_session(path, session_options()).run(None, {"x": IMAGES})
    return answers


SOME = [("first",), ("second",), ("right",), ("first", "right"), ("left", "classifier"), ("first", "second", "left")]


@pytest.mark.parametrize("in_8_bits", [(), *SOME, LAYERS], ids=lambda names: " ".join(names) or "none")
def test_a_mixture_answers_as_if_only_its_layers_were_quantised(
    forms: Forms, in_8_bits: tuple[str, ...], tmp_path: Path
) -> None:
    model = _float_model()
    wanted = quantize_layers(model, IMAGES, in_8_bits) if in_8_bits else model

    mixed = forms.model(forms.nodes(in_8_bits), {"x": IMAGES}, forms.outputs)

    for got, want in zip(
        _answers(mixed, tmp_path / "mixed.onnx"),
        _answers(wanted.SerializeToString(), tmp_path / "wanted.onnx"),
        strict=True,
    ):
        assert (got == want).all()


def test_parts_end_at_binary_convolutions_and_sums(forms: Forms) -> None:
    assert parts_of(forms) == [
        Part(("first", "second"), ("Relu",), ("x",), ("s",)),
        Part(("left", "right"), (), ("sum",), ("a", "b")),
        Part(("classifier",), ("ReduceMean",), ("again",), ("y",)),
    ]


def test_every_choice_of_a_few_layers_is_measured_and_of_more_each_alone_and_all() -> None:
    few, more = (Part(tuple("abcd"[:count]), (), (), ()) for count in (3, 4))
    assert few.choices() == list(chain.from_iterable(combinations("abc", count) for count in range(4)))
    assert more.choices() == [(), ("a",), ("b",), ("c",), ("d",), tuple("abcd")]


COSTS = tuple(
    LayerCost(name, (CHANNELS, SIZE, SIZE), (CHANNELS, SIZE, SIZE), (3, 3), (1, 1), (1, 1), 1, 32) for name in LAYERS
)


def _measured(forms: Forms) -> float_layers.FloatLayerTable:
    return measure_float_layers(forms, "net", COSTS, {"x": IMAGES[:1]}, threads=1, batch=1, min_seconds=0)


def test_a_table_has_a_time_of_every_form(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_layers.PartTimes, "chosen", property(lambda part: part.forms[-1]))
    table = _measured(forms)
    assert [part.layers for part in table.parts] == [("first", "second"), ("left", "right"), ("classifier",)]
    assert [len(part.forms) for part in table.parts] == [3, 3, 1]
    assert all(part.float_us > 0 and form.median_us > 0 for part in table.parts for form in part.forms)
    assert table.chosen == LAYERS
    assert table.network_us is not None
    assert min(table.network_us) > 0
    assert all(part.in_network is not None and part.in_network.times_as_fast > 0 for part in table.parts)


def _column(*us: float) -> Column:
    return Column(np.array(us) * 1000, np.zeros(len(us), np.bool_), told=True)


def test_the_parts_that_gain_least_are_measured_in_the_network(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    def part(layer: str, times_as_fast: float) -> PartTimes:
        return PartTimes((layer,), (), 10, (FormTime((layer,), 10 / times_as_fast, times_as_fast, times_as_fast),))

    asked = []

    def samples(forms: Forms, feeds: object, choices: Iterable[set[str]], *effort: float) -> list[Column]:
        asked.extend(map(sorted, choices))
        every = _column(100, 100, 100, 100)
        slower, faster, either = _column(98, 99, 97, 101), _column(104, 103, 105, 99), _column(98, 99, 102, 103)
        return [every, slower, faster, either]

    monkeypatch.setattr(float_layers, "_network_samples", samples)
    parts = [part("first", 1.5), part("second", 1.2), part("left", 0.9), part("right", 1.4), part("classifier", 3)]
    found = measure_in_network(forms, {}, parts, threads=1, min_seconds=0)

    every = ["classifier", "first", "right", "second"]
    without = [[name for name in every if name != least] for least in ("second", "right", "first")]
    assert asked == [every, *without]
    assert [each.in_network for each in found] == [
        InNetwork(1.005, pytest.approx(1.0225)),
        InNetwork(pytest.approx(0.985), pytest.approx(0.995)),
        None,
        InNetwork(pytest.approx(1.035), pytest.approx(1.0425)),
        None,
    ]
    assert [each.chosen is not None for each in found] == [True, False, False, True, True]


def test_where_nothing_is_faster_no_network_is_measured(forms: Forms, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(float_layers.PartTimes, "chosen", None)
    table = _measured(forms)
    assert (table.chosen, table.network_us) == ((), None)


def test_a_network_without_such_layers_has_an_empty_table() -> None:
    model = _float_model().SerializeToString()
    table = measure_float_layers(
        Forms(model, model, ()), "net", (), {"x": IMAGES[:1]}, threads=1, batch=1, min_seconds=0
    )
    assert (table.layers, table.parts, table.chosen) == ((), (), ())
