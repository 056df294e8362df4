"""A second scale and shift behind the activation become part of the convolution, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import constant_array, input_of
from bnas_deploy.export.passes import BatchNormToConstants, FuseActivation, FuseAddition, FuseAffine
from bnas_deploy.export.rewrite import run

CONSTANTS = "W, threshold, offset, scale, bias"
RELU = f"c = bnas.BinaryConv2dRelu (x, {CONSTANTS})"
VECTORS = {"s": np.float32([[[1.1]], [[-0.7]], [[3]]]), "t": np.float32([[[[0.3]], [[5]], [[-7]]]])}


def _binary(binary_conv) -> dict[str, np.ndarray]:
    return binary_conv(3, 3) | VECTORS


@pytest.mark.parametrize(
    ("nodes", "fused", "scale2", "bias2"),
    [
        ("m = Mul (c, s) y = Add (m, t)", 2, [1.1, -0.7, 3], [0.3, 5, -7]),
        ("m = Mul (s, c) y = Sub (m, t)", 2, [1.1, -0.7, 3], [-0.3, -5, 7]),
        ("y = Mul (c, s)", 1, [1.1, -0.7, 3], [0, 0, 0]),
        ("y = Add (t, c)", 1, [1, 1, 1], [0.3, 5, -7]),
    ],
    ids=["both", "subtracted", "scale", "shift"],
)
def test_a_second_scale_and_shift(
    load, listing, evaluate, binary_conv, rng, nodes: str, fused: int, scale2, bias2
) -> None:
    model = load(f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {RELU} {nodes} }}", **_binary(binary_conv))
    feeds = {"x": rng.normal(size=(2, 3, 2, 2)).astype(np.float32)}
    answer = evaluate(model, feeds)["y"]

    log = run([FuseAffine()], model)

    assert log.applied == {"FuseAffine": fused}
    assert listing(model) == ["y = BinaryConv2dReluAffine(x)"]
    assert constant_array(input_of(model.graph[0], "scale2")).tolist() == np.float32(scale2).tolist()
    assert constant_array(input_of(model.graph[0], "bias2")).tolist() == np.float32(bias2).tolist()
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_a_batch_norm_between_the_activation_and_a_sum(load, listing, evaluate, binary_conv, rng) -> None:
    """The block of QuickNet."""
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ c = bnas.BinaryConv2d (x, {CONSTANTS}) r = Relu (c) "
        "n = BatchNormalization <epsilon = 1e-5> (r, gamma, beta, mean, var) y = Add (n, x) }",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 55, -7]),
        mean=np.float32([7.7, -3.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        **binary_conv(3, 3),
    )
    feeds = {"x": rng.normal(size=(2, 3, 2, 2)).astype(np.float32)}
    pipeline = [BatchNormToConstants(), FuseActivation(), FuseAffine(), FuseAddition()]
    run(pipeline[:1], model)
    answer = evaluate(model, feeds)["y"]

    run(pipeline[1:], model)

    assert listing(model) == ["y = BinaryConv2dReluAffineAdd(x, x)"]
    assert (evaluate(model, feeds)["y"] == answer).all()


@pytest.mark.parametrize(
    ("graph", "reasons"),
    [
        (f"{RELU} y = Mul (c, s) z = Relu (c)", {"y": "c is also read without the constant"}),
        (
            f"{RELU} m = Mul (c, column) y = Add (m, t) z = Relu (y)",
            {
                "m": "the constant is neither one number nor one per channel",
                "y": "the product that it reads was left in another node",
            },
        ),
        (f"{RELU} y = Sub (t, c) z = Relu (y)", {"y": "the constant is neither one number nor one per channel"}),
        (
            f"c = bnas.BinaryConv2dReluAdd (x, {CONSTANTS}, x) y = Mul (c, s) z = Relu (y)",
            {"y": "no operator does what BinaryConv2dReluAdd does and has a second scale"},
        ),
        (
            f"c = bnas.BinaryConv2dKRelu (x, {CONSTANTS}) y = Mul (c, s) z = Relu (y)",
            {"y": "no operator does what BinaryConv2dKRelu does and has a second scale"},
        ),
    ],
    ids=["read by another", "per column", "subtracted from it", "behind a sum", "K"],
)
def test_left_alone_because(load, listing, binary_conv, graph: str, reasons: dict[str, str]) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y, float[N,3,2,2] z) {{ {graph} }}",
        column=np.float32([1, 2]),
        **_binary(binary_conv),
    )
    before = listing(model)

    log = run([FuseAffine()], model)

    assert list(map(str, log.refusals)) == [f"FuseAffine: {node}: {reason}" for node, reason in reasons.items()]
    assert listing(model) == before


@pytest.mark.parametrize("second", ["y = Mul (m, s)", "n = Add (m, t) y = Add (n, t)", "n = Add (m, t) y = Mul (n, s)"])
def test_there_is_one_second_scale_and_one_bias(load, listing, binary_conv, second: str) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {RELU} m = Mul (c, s) {second} }}", **_binary(binary_conv)
    )

    log = run([FuseAffine()], model)

    assert list(map(str, log.refusals)) == ["FuseAffine: y: c has a second scale or bias already"]
    fused, left = listing(model)
    assert "BinaryConv2dReluAffine" in fused
    assert left.startswith("y = ")


@pytest.mark.parametrize(
    "nodes", [f"c = bnas.BinaryConv2d (x, {CONSTANTS}) y = Mul (c, s)", f"{RELU} y = Mul (c, x)", "y = Mul (x, s)"]
)
def test_no_site(load, binary_conv, nodes: str) -> None:
    model = load(f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {nodes} }}", **_binary(binary_conv))

    log = run([FuseAffine()], model)

    assert (log.applied, log.refusals) == ({"FuseAffine": 0}, [])
