"""Every fold of a batch normalisation, what it leaves alone, and the exactness of the fold into a threshold."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnas_deploy.export.graph import constant_array, input_of, origin_of
from bnas_deploy.export.passes import DropUnused
from bnas_deploy.export.passes.batch_norm import (
    BatchNorm,
    BatchNormToConstants,
    BatchNormToConv,
    FoldBatchNormAfterBinaryConv,
    FoldBatchNormAfterConv,
    FoldBatchNormBeforeConv,
)
from bnas_deploy.export.passes.fold_threshold import FoldIntoThreshold
from bnas_deploy.export.passes.threshold import threshold_of
from bnas_deploy.export.rewrite import run

Floats = NDArray[np.float32]

BINARY_INPUTS = "W, threshold, offset, scale, bias"
LARGEST = np.finfo(np.float32).max
SMALLEST = np.float32(1e-45)  # the smallest subnormal


def _norm(x: str) -> str:
    return f"BatchNormalization <epsilon = 0.0> ({x}, gamma, beta, mean, var)"


def _parameters(rng: np.random.Generator, channels: int) -> dict[str, Floats]:
    """Return parameters whose slopes and shifts are small dyadic numbers, so that folding them rounds nothing."""
    return {
        "gamma": rng.choice([-2, -1, 0, 1, 2], channels).astype(np.float32),
        "beta": rng.integers(-4, 5, channels).astype(np.float32),
        "mean": rng.integers(-4, 5, channels).astype(np.float32),
        "var": rng.choice([0.25, 1, 4], channels).astype(np.float32),
    }


def _images(rng: np.random.Generator, *shape: int) -> dict[str, Floats]:
    return {"x": rng.integers(-8, 9, (3, *shape)).astype(np.float32)}


# --- the threshold --------------------------------------------------------------------------------------------------

ODD_FLOATS = [0.0, -0.0, 1e-45, -1e-45, 1e-38, -1e-38, 1e-20, -1e-20, 1.0, -1.0, 1e20, -1e20, 3e38, -3e38]
any_float = st.sampled_from(ODD_FLOATS) | st.floats(-4, 4, width=32)
any_variance = st.sampled_from([0.0, 1e-45, 1e-12, 1.0, 1e12, 3e38]) | st.floats(0, 4, width=32)
channels = st.lists(st.tuples(any_float, any_float, any_float, any_variance, any_float), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(channels=channels, others=st.lists(any_float, max_size=3), eps=st.sampled_from([0.0, 1e-5, 1e-3]))
@example(channels=[(0.0, beta, 1.0, 1.0, 0.0) for beta in (0.0, -0.0, -1.0)], others=[], eps=1e-5)
def test_the_threshold_decides_as_pytorch_does(
    channels: list[tuple[float, ...]], others: list[float], eps: float
) -> None:
    gamma, beta, mean, var, before = np.array(channels, np.float32).T.copy()
    norm = BatchNorm(gamma, beta, mean, var, eps)

    threshold = threshold_of(norm, before)

    x = _around(threshold.level, mean, others)
    y = torch.nn.functional.batch_norm(
        torch.from_numpy(x)[None, :, :, None], *map(torch.from_numpy, (mean, var, gamma, beta)), eps=eps
    )
    wanted = y[0, :, :, 0].numpy() >= before[:, None]
    got = (x >= threshold.level[:, None]) != threshold.flip[:, None]
    assert (got == wanted).all()


def _around(level: Floats, mean: Floats, others: list[float]) -> Floats:
    """Return (C, n) finite inputs: the level and the mean with their neighbours, zeros, the smallest, the largest."""
    up, down = np.float32(np.inf), np.float32(-np.inf)
    with np.errstate(over="ignore"):  # the neighbour of the largest float is infinity
        near = [step for value in (level, mean) for step in (value, np.nextafter(value, up), np.nextafter(value, down))]
    fixed = [0.0, -0.0, SMALLEST, -SMALLEST, LARGEST, -LARGEST, *others]
    x = np.stack([*near, *(np.full_like(level, value) for value in fixed)], axis=1)
    return np.clip(x, -LARGEST, LARGEST)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 3), (7, 7), (5, 13)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["rows", "channels last"])
def test_the_judge_rounds_as_pytorch_does_on_images(size: tuple[int, int], layout: torch.memory_format) -> None:
    gamma, beta, mean = torch.randn(3, 67)
    var = torch.rand(67) + 0.1
    x = torch.randn(2, 67, *size).contiguous(memory_format=layout)
    norm = BatchNorm(*(part.numpy() for part in (gamma, beta, mean, var)), eps=1e-5)

    got = norm(x.permute(1, 0, 2, 3).reshape(67, -1).numpy()).reshape(67, 2, *size)

    wanted = torch.nn.functional.batch_norm(x, mean, var, gamma, beta, eps=1e-5)
    assert (got.swapaxes(0, 1) == wanted.numpy()).all()


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("signs", [None, -1, 1], ids=["zeros", "minus", "plus"])
def test_fold_into_threshold_is_exact(
    load, listing, evaluate, binary_conv, group: int, pad: int, signs: int | None
) -> None:
    name, inputs = "BinaryConv2d", BINARY_INPUTS
    if signs is not None:
        name, inputs = "BinaryConv2dPad", BINARY_INPUTS.replace("offset", "pad, offset")
    rng = np.random.default_rng(0)
    parameters = {name: rng.normal(size=6).astype(np.float32) for name in ("gamma", "beta", "mean")}
    parameters |= {"var": rng.random(6, np.float32)}
    parameters["gamma"] = np.float32([0, -1.3, -0.7, 1.1, -0.1, 0.9])  # other signs in the second group
    convolution = f"bnas.{name} <pads = [{pad}, {pad}, {pad}, {pad}], group = {group}>"
    model = load(
        f"(float[N,6,5,5] x) => (float[N,4,H,W] y) {{ n = {_norm('x')} y = {convolution} (n, {inputs}) }}",
        **binary_conv(6, 4, kernel=3, group=group),
        **({} if signs is None else {"pad": np.full(6, signs, np.float32)}),
        **parameters,
    )
    levels = threshold_of(BatchNorm.of(model.graph[0]), np.zeros(6, np.float32)).level
    x = rng.choice([-1, 0, 1], (3, 6, 5, 5)) * np.spacing(np.abs(levels))[:, None, None] + levels[:, None, None]
    feeds = {"x": np.clip(x, -LARGEST, LARGEST).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    log = run([FoldIntoThreshold(), DropUnused()], model)

    assert log.applied == {"FoldIntoThreshold": 1}
    assert listing(model) == [f"y = {name}(x)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()
    if signs is not None:  # a BN with slopes of both signs: the padding is another one in each channel
        assert constant_array(input_of(model.graph[0], "pad")).tolist() == [signs, -signs, -signs, signs, -signs, signs]


def test_fold_into_threshold_keeps_a_bn_that_others_read(load, listing, binary_conv, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,2,1,1] x) => (float[N,2,1,1] y, float[N,2,1,1] z) "
        f"{{ n = {_norm('x')} y = bnas.BinaryConv2d (n, {BINARY_INPUTS}) z = Relu(n) }}",
        **binary_conv(2, 2),
        **_parameters(rng, 2),
    )

    run([FoldIntoThreshold(), DropUnused()], model)

    assert listing(model) == ["n = BatchNormalization(x)", "y = BinaryConv2d(x)", "z = Relu(n)"]


def test_fold_into_threshold_goes_on_from_a_threshold(load, evaluate, binary_conv, rng: np.random.Generator) -> None:
    constants = binary_conv(4, 2) | {"threshold": np.array([-2, 0, 1, 3], np.float32)}
    model = load(
        f"(float[N,4,3,3] x) => (float[N,2,3,3] y) {{ n = {_norm('x')} y = bnas.BinaryConv2d (n, {BINARY_INPUTS}) }}",
        **constants,
        **_parameters(rng, 4),
    )
    feeds = _images(rng, 4, 3, 3)
    wanted = evaluate(model, feeds)["y"]

    run([FoldIntoThreshold()], model)

    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_fold_into_threshold_left_alone_because_of_k(load, listing, binary_conv, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,2,1,1] x) => (float[N,2,1,1] y) {{ n = {_norm('x')} y = bnas.BinaryConv2dK (n, {BINARY_INPUTS}) }}",
        **binary_conv(2, 2),
        **_parameters(rng, 2),
    )

    log = run([FoldIntoThreshold()], model)

    assert list(map(str, log.refusals)) == [
        "FoldIntoThreshold: y: the K map needs the normalised activations, not only their signs"
    ]
    assert listing(model) == ["n = BatchNormalization(x)", "y = BinaryConv2dK(n)"]


# --- behind a binary convolution ------------------------------------------------------------------------------------


@pytest.mark.parametrize("operator", ["BinaryConv2d", "BinaryConv2dK"])
def test_fold_after_binary_conv(load, listing, evaluate, binary_conv, rng: np.random.Generator, operator: str) -> None:
    constants = binary_conv(4, 3) | {
        "scale": np.array([0.5, 1, 2], np.float32),
        "bias": np.array([1, 0, -3], np.float32),
    }
    model = load(
        f"(float[N,4,3,3] x) => (float[N,3,3,3] y) {{ c = bnas.{operator} (x, {BINARY_INPUTS}) y = {_norm('c')} }}",
        **constants,
        **_parameters(rng, 3),
    )
    feeds = _images(rng, 4, 3, 3)
    wanted = evaluate(model, feeds)["y"]

    log = run([FoldBatchNormAfterBinaryConv()], model)

    assert log.applied == {"FoldBatchNormAfterBinaryConv": 1}
    assert listing(model) == [f"y = {operator}(x)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()
    assert origin_of(model.graph[0].outputs[0]).name == "y"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (f"c = bnas.BinaryConv2d (x, {BINARY_INPUTS}) y = NORM z = Relu(c)", "c is also read without the BN"),
        (f"c = bnas.BinaryConv2d (x, {BINARY_INPUTS}) y = NORM z = NORM", "c is also read without the BN"),
        (
            f"c = bnas.BinaryConv2dRelu (x, {BINARY_INPUTS}) y = NORM z = Relu(y)",
            "an activation or an addition stands between c and the BN",
        ),
    ],
    ids=["read by another", "two BNs", "activation"],
)
def test_fold_after_binary_conv_left_alone_because(
    load, listing, binary_conv, rng: np.random.Generator, graph: str, reason: str
) -> None:
    model = load(
        f"(float[N,2,1,1] x) => (float[N,2,1,1] y, float[N,2,1,1] z) {{ {graph.replace('NORM', _norm('c'))} }}",
        **binary_conv(2, 2),
        **_parameters(rng, 2),
    )
    before = listing(model)

    log = run([FoldBatchNormAfterBinaryConv()], model)

    assert f"FoldBatchNormAfterBinaryConv: y: {reason}" in map(str, log.refusals)
    assert listing(model) == before


# --- beside a float convolution -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", ["", ", b"], ids=["no bias", "bias"])
@pytest.mark.parametrize("group", [1, 2])
def test_fold_after_conv(load, listing, evaluate, rng: np.random.Generator, bias: str, group: int) -> None:
    convolution = f"Conv <pads = [1, 1, 1, 1], group = {group}> (x, w{bias})"
    model = load(
        f"(float[N,4,4,4] x) => (float[N,6,4,4] y) {{ c = {convolution} y = {_norm('c')} }}",
        w=rng.integers(-3, 4, (6, 4 // group, 3, 3)).astype(np.float32),
        b=rng.integers(-3, 4, 6).astype(np.float32),
        **_parameters(rng, 6),
    )
    feeds = _images(rng, 4, 4, 4)
    wanted = evaluate(model, feeds)["y"]

    log = run([FoldBatchNormAfterConv()], model)

    assert log.applied == {"FoldBatchNormAfterConv": 1}
    assert listing(model) == ["y = Conv(x)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_fold_after_conv_left_alone_because_the_conv_is_read(load, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] c) {{ c = Conv (x, w) y = {_norm('c')} }}",
        w=np.ones((2, 2, 1, 1), np.float32),
        **_parameters(rng, 2),
    )

    log = run([FoldBatchNormAfterConv()], model)

    assert list(map(str, log.refusals)) == ["FoldBatchNormAfterConv: y: c is also read without the BN"]


def test_fold_after_conv_leaves_a_shared_weight_alone(load, evaluate, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,2,4,4] y) {{ c = Conv (x, w) n = {_norm('c')} y = Conv (n, w) }}",
        w=rng.integers(-3, 4, (2, 2, 1, 1)).astype(np.float32),
        **_parameters(rng, 2),
    )
    feeds = _images(rng, 2, 4, 4)
    wanted = evaluate(model, feeds)["y"]

    run([FoldBatchNormAfterConv()], model)

    assert (evaluate(model, feeds)["y"] == wanted).all()


@pytest.mark.parametrize("bias", ["", ", b"], ids=["no bias", "bias"])
def test_fold_before_conv(load, listing, evaluate, rng: np.random.Generator, bias: str) -> None:
    model = load(
        f"(float[N,4,4,4] x) => (float[N,3,2,2] y) {{ n = {_norm('x')} y = Conv <strides = [2, 2]> (n, w{bias}) }}",
        w=rng.integers(-3, 4, (3, 4, 2, 2)).astype(np.float32),
        b=rng.integers(-3, 4, 3).astype(np.float32),
        **_parameters(rng, 4),
    )
    feeds = _images(rng, 4, 4, 4)
    wanted = evaluate(model, feeds)["y"]

    log = run([FoldBatchNormBeforeConv(), DropUnused()], model)

    assert log.applied == {"FoldBatchNormBeforeConv": 1}
    assert listing(model) == ["y = Conv(x)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


@pytest.mark.parametrize(
    ("attributes", "group_channels", "reason"),
    [
        ("pads = [0, 0, 1, 1]", 2, "y pads with zeros behind the BN, so the shift is missing at the border"),
        ("group = 2", 1, "y is grouped"),
    ],
    ids=["padding", "groups"],
)
def test_fold_before_conv_left_alone_because(
    load, listing, rng: np.random.Generator, attributes: str, group_channels: int, reason: str
) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,2,H,W] y) {{ n = {_norm('x')} y = Conv <{attributes}> (n, w) }}",
        w=np.ones((2, group_channels, 1, 1), np.float32),
        **_parameters(rng, 2),
    )

    log = run([FoldBatchNormBeforeConv(), DropUnused()], model)

    assert list(map(str, log.refusals)) == [f"FoldBatchNormBeforeConv: n: {reason}"]
    assert listing(model) == ["n = BatchNormalization(x)", "y = Conv(n)"]


def test_fold_before_conv_passes_over_a_bn_that_two_read(load, listing, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z) "
        f"{{ n = {_norm('x')} y = Conv (n, w) z = Relu(n) }}",
        w=np.ones((2, 2, 1, 1), np.float32),
        **_parameters(rng, 2),
    )

    log = run([FoldBatchNormBeforeConv()], model)

    assert (log.applied, list(map(str, log.refusals))) == ({"FoldBatchNormBeforeConv": 0}, [])
    assert listing(model) == ["n = BatchNormalization(x)", "y = Conv(n)", "z = Relu(n)"]


# --- any other ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 3, 3), (4,)], ids=["image", "vector"])
def test_to_constants(load, listing, evaluate, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    sizes = ",".join(map(str, ("N", *shape)))
    model = load(
        f"(float[{sizes}] x) => (float[{sizes}] y, float[{sizes}] z) {{ y = {_norm('x')} z = Relu(y) }}",
        **_parameters(rng, 4),
    )
    feeds = _images(rng, *shape)
    wanted = evaluate(model, feeds)

    log = run([BatchNormToConstants()], model)

    assert log.applied == {"BatchNormToConstants": 1}
    assert listing(model) == ["y.scaled = Mul(x)", "y = Add(y.scaled)", "z = Relu(y)"]
    got = evaluate(model, feeds)
    assert (got["y"] == wanted["y"]).all()
    assert (got["z"] == wanted["z"]).all()


def test_to_conv(load, listing, evaluate, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,3,4,4] x) => (float[N,3,4,4] y, float[N,3,4,4] z) {{ y = {_norm('x')} z = Relu(y) }}",
        **_parameters(rng, 3),
    )
    feeds = _images(rng, 3, 4, 4)
    wanted = evaluate(model, feeds)

    log = run([BatchNormToConv()], model)

    assert log.applied == {"BatchNormToConv": 1}
    assert listing(model) == ["y = Conv(x)", "z = Relu(y)"]
    assert model.graph[0].name == "y"
    got = evaluate(model, feeds)
    assert (got["y"] == wanted["y"]).all()
    assert (got["z"] == wanted["z"]).all()


def test_to_conv_left_alone_because(load, listing, rng: np.random.Generator) -> None:
    model = load(f"(float[N,3] x) => (float[N,3] y) {{ y = {_norm('x')} }}", **_parameters(rng, 3))

    log = run([BatchNormToConv()], model)

    assert list(map(str, log.refusals)) == ["BatchNormToConv: y: what it normalises are no images"]
    assert listing(model) == ["y = BatchNormalization(x)"]


def test_a_flipped_channel_negates_its_weights_only(load, binary_conv) -> None:
    model: ir.Model = load(
        f"(float[N,2,1,1] x) => (float[N,2,1,1] y) {{ n = {_norm('x')} y = bnas.BinaryConv2d (n, {BINARY_INPUTS}) }}",
        **binary_conv(2, 2),
        gamma=np.array([1, -1], np.float32),
        beta=np.array([0, 0], np.float32),
        mean=np.array([3, 5], np.float32),
        var=np.array([1, 1], np.float32),
    )
    signs = binary_conv(2, 2)["W"][:, :, 0, 0]

    run([FoldIntoThreshold()], model)

    convolution = model.graph[1]
    assert constant_array(input_of(convolution, "threshold")).tolist() == [
        3,
        np.nextafter(np.float32(5), np.float32(6)),
    ]
    assert (constant_array(input_of(convolution, "W"))[:, :, 0, 0] == signs * [1, -1]).all()
