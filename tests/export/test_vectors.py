"""What is stored of each binary convolution, and how far it may be off."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from bnas_deploy.export import opset
from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import Origin, constant_array
from bnas_deploy.export.passes import FoldBatchNormAfterBinaryConv, FuseActivation, FuseAddition, PackWeights
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.vectors import CORNER, ROUNDING, layer_vectors, layers_model, output_tolerance
from bnas_deploy.runtime.session import create_session

INPUTS = "W, threshold, offset, scale, bias"

Floats = NDArray[np.float32]


def _values(evaluate, model, x: Floats) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, {"x": x}).items()}


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [7, 20])
def test_a_corner_is_all_that_its_outputs_read(
    load, evaluate, binary_conv, rng, tmp_path, stride: int, dilation: int, pad: int, size: int
) -> None:
    attributes = f"strides = [{stride}, 1], dilations = [{dilation}, 1], pads = [{pad}, {pad}, {pad}, {pad}]"
    model = load(
        f"(float[N,5,{size},{size}] x) => (float[N,3,H,W] y) "
        f"{{ y = bnas.BinaryConv2d <{attributes}, group = 1> (x, {INPUTS}) }}",
        **binary_conv(5, 3, kernel=3),
    )
    values = _values(evaluate, model, rng.normal(size=(2, 5, size, size)).astype(np.float32))
    run([PackWeights()], model)

    (vector,) = layer_vectors(model, values)

    rows, columns = (min(CORNER, side) for side in values["y"].shape[2:])
    assert (vector.check.rows, vector.check.columns, vector.check.tolerance) == (rows, columns, 0)
    assert (vector.y == values["y"][:1, :, :rows, :columns].numpy()).all()
    assert vector.x.shape[2] <= (rows - 1) * stride + 2 * dilation + 1
    (tmp_path / "layers.onnx").write_bytes(layers_model(finish(model)).SerializeToString())
    got = create_session(tmp_path / "layers.onnx").run(["y.y"], {"y.x": vector.x})[0]
    assert (got[:, :, :rows, :columns] == vector.y).all()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 20])
def test_parts_and_what_is_added_are_stored_too(
    load, evaluate, binary_conv, rng, tmp_path, stride: int, size: int
) -> None:
    half = (size - 1) // stride + 1
    attributes = f"strides = [{stride}, {stride}], dilations = [1, 1], pads = [1, 1, 1, 1], group = 1"
    model = load(
        f"(float[N,2,{size},{size}] x, float[N,3,{size},{size}] z, float[N,3,{half},{half}] a) => (float[N,3,H,W] y) "
        f"{{ y = bnas.BinaryConv2dAddConcat2 <{attributes}> (x, z, {INPUTS}, a) }}",
        **binary_conv(5, 3, kernel=3),
    )
    fed = {value.name: rng.normal(size=(2, *value.shape[1:])).astype(np.float32) for value in model.graph.inputs}
    values = {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, fed).items()}
    run([PackWeights()], model)

    (vector,) = layer_vectors(model, values)

    assert vector.check.tolerance == 0
    (tmp_path / "layers.onnx").write_bytes(layers_model(finish(model)).SerializeToString())
    named = {f"y.{name}": data for name, data in vector.arrays.items()}
    want = named.pop("y.y")
    assert named.keys() == {"y.x", "y.added1"}
    got = create_session(tmp_path / "layers.onnx").run(["y.y"], named)[0]
    assert (got[:, :, : want.shape[2], : want.shape[3]] == want).all()


def test_constant_channels_need_no_more_than_the_corner(load, evaluate, binary_conv, rng) -> None:
    constants = binary_conv(5, 3, kernel=3) | {"threshold": np.zeros(2, np.float32)}
    attributes = "pads = [1, 1, 1, 1], constant_channels = [3]"
    model = load(
        f"(float[N,2,10,10] x) => (float[N,3,10,10] y) {{ y = bnas.BinaryConv2d <{attributes}> (x, {INPUTS}) }}",
        **constants,
    )
    values = _values(evaluate, model, rng.normal(size=(2, 2, 10, 10)).astype(np.float32))
    run([PackWeights()], model)

    (vector,) = layer_vectors(model, values)

    rows = vector.y.shape[2]
    assert (vector.x.shape, vector.y.shape) == ((1, 2, rows + 1, rows + 1), (1, 3, rows, rows))
    again = opset.reference(
        "BinaryConv2d",
        [vector.x, *(constant_array(value) for value in model.graph[0].inputs[1:])],
        {name: attribute.value for name, attribute in model.graph[0].attributes.items()},
    )
    assert (again[:, :, :rows, :rows] == vector.y).all()


def test_vectors_are_what_pytorch_had_at_the_origin(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,4,4] y) {{ y = bnas.BinaryConv2d (x, {INPUTS}) }}", **binary_conv(2, 3)
    )
    model.graph.inputs[0].meta["origin"] = Origin("cat", (5, 1))
    cat = torch.from_numpy(rng.normal(size=(2, 8, 4, 4)).astype(np.float32))
    run([PackWeights()], model)

    (vector,) = layer_vectors(model, {"cat": cat, "y": torch.zeros(2, 3, 4, 4)}, corner=None)

    assert (vector.x == cat[:1, [5, 1]].numpy()).all()


def _folded(load, binary_conv, operator: str = "BinaryConv2d", activation: str = "Relu (n)"):
    """Build a binary convolution with a BN behind it whose mean is far from what the convolution gives."""
    return load(
        f"(float[N,64,4,4] x) => (float[N,3,4,4] y) {{ c = bnas.{operator} (x, {INPUTS}) "
        f"n = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var) y = {activation} }}",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 55, -7]),
        mean=np.float32([77.7, -3333.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        slope=np.float32([-30000]).reshape(1, 1, 1),
        **binary_conv(64, 3),
    )


@pytest.mark.parametrize("activation", ["Identity (n)", "Relu (n)", "PRelu (n, slope)"])
@pytest.mark.parametrize("operator", ["BinaryConv2d", "BinaryConv2dK"])
def test_roundings_of_a_fold_are_within_the_tolerance_and_near_it(
    load, evaluate, binary_conv, rng, operator: str, activation: str
) -> None:
    model = _folded(load, binary_conv, operator, activation)
    x = (100 * rng.normal(size=(1, 64, 4, 4))).astype(np.float32)
    values = _values(evaluate, model, x)
    run([FoldBatchNormAfterBinaryConv(), FuseActivation(), PackWeights()], model)

    vectors = layer_vectors(model, values, corner=None)

    difference = np.abs(evaluate(model, {"x": x})["y"] - vectors[0].y).max()
    assert 0 < difference <= vectors[0].check.tolerance
    assert vectors[0].check.tolerance < 1e4 * difference


def test_an_addition_behind_a_fold_adds_its_own_roundings(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,64,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y) {{ c = bnas.BinaryConv2d (x, {INPUTS}) "
        "n = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var) y = Add (n, a) }",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 55, -7]),
        mean=np.float32([7.7, -3.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        **binary_conv(64, 3),
    )
    feeds = {"x": rng.normal(size=(1, 64, 4, 4)), "a": 1e4 * rng.normal(size=(1, 3, 4, 4))}
    feeds = {name: data.astype(np.float32) for name, data in feeds.items()}
    values = {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, feeds).items()}
    run([FoldBatchNormAfterBinaryConv(), FuseAddition(), PackWeights()], model)

    (vector,) = layer_vectors(model, values, corner=None)

    largest = np.abs(vector.y).max() + np.abs(feeds["a"]).max()
    assert 2 * ROUNDING * largest < vector.check.tolerance < 4 * ROUNDING * largest
    assert np.abs(evaluate(model, feeds)["y"] - vector.y).max() <= vector.check.tolerance


def test_k_alone_may_differ_by_the_roundings_of_its_sum(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,5,4,4] x) => (float[N,3,2,2] y) {{ y = bnas.BinaryConv2dK (x, {INPUTS}) }}",
        **binary_conv(5, 3, kernel=3),
    )
    values = _values(evaluate, model, rng.normal(size=(1, 5, 4, 4)).astype(np.float32))
    run([PackWeights()], model)

    (vector,) = layer_vectors(model, values)

    assert vector.check.tolerance == pytest.approx((5 + 9 + 3) * ROUNDING * np.abs(vector.y).max())


def test_the_tolerance_of_outputs_is_what_noise_moves_them(rng) -> None:
    images = torch.ones(3, 1, 2, 2)

    linear = output_tolerance(lambda x: x.sum(dim=(1, 2, 3))[:, None], images)
    steep = output_tolerance(lambda x: 1000 * x.sum(dim=(1, 2, 3))[:, None], images)
    constant = output_tolerance(lambda x: torch.full((len(x), 2), 8.0), images)

    assert 0 < linear < 2 * 4 * 2.0**-13 + 2.0**-14 * 4.1
    assert steep == pytest.approx(1000 * linear, rel=1e-2)  # both are rounded differently, at 2^-24 of sums near 4000
    assert constant == 2.0**10 * ROUNDING * 8
