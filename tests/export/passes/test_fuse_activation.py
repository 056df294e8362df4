"""An activation becomes part of the binary convolution before it, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import Origin, constant_array, input_of, origin_of
from bnas_deploy.export.passes import FuseActivation, FuseAddition
from bnas_deploy.export.rewrite import run

INPUTS = "(x, W, threshold, offset, scale, bias)"


@pytest.mark.parametrize(
    ("activation", "slope", "wanted"),
    [
        ("Relu (c)", None, "y = BinaryConv2dRelu(x)"),
        ("PRelu (c, slope)", np.float32([0.25]), "y = BinaryConv2dPRelu(x)"),
        ("PRelu (c, slope)", np.float32([[[0.5]], [[-0.25]], [[2]]]), "y = BinaryConv2dPRelu(x)"),
        ("PRelu (c, slope)", np.float32([[[[0.5]], [[-0.25]], [[2]]]]), "y = BinaryConv2dPRelu(x)"),
    ],
    ids=["Relu", "one slope", "slope per channel", "slope per channel as PyTorch writes it"],
)
@pytest.mark.parametrize("k", ["", "K"])
def test_fuse(load, listing, evaluate, binary_conv, rng, activation: str, slope, wanted: str, k: str) -> None:
    constants = binary_conv(2, 3) | ({} if slope is None else {"slope": slope})
    model = load(
        f"(float[N,2,3,3] x) => (float[N,3,3,3] y) {{ c = bnas.BinaryConv2d{k} {INPUTS} y = {activation} }}",
        **constants,
    )
    feeds = {"x": rng.integers(-3, 4, (2, 2, 3, 3)).astype(np.float32)}
    answer = evaluate(model, feeds)["y"]

    log = run([FuseActivation()], model)

    assert log.applied == {"FuseActivation": 1}
    assert listing(model) == [wanted.replace("2d", f"2d{k}")]
    assert (evaluate(model, feeds)["y"] == answer).all()
    assert model.graph[0].name == "c"  # the name of the layer, which people know


def test_fused_node_keeps_the_notes(load, binary_conv) -> None:
    model = load(
        f"(float[N,2,3,3] x) => (float[N,3,3,3] y) {{ c = bnas.BinaryConv2d {INPUTS} y = Relu (c) }}",
        **binary_conv(2, 3),
    )
    convolution, activation = model.graph
    convolution.meta["note"] = "of a fold"
    activation.outputs[0].meta["origin"] = Origin("relu", (4, 5, 6))

    run([FuseActivation()], model)

    assert model.graph[0].meta["note"] == "of a fold"
    assert origin_of(model.graph[0].outputs[0]) == Origin("relu", (4, 5, 6))
    assert model.graph.outputs[0] is model.graph[0].outputs[0]


def test_one_slope_serves_every_channel(load, binary_conv) -> None:
    model = load(
        f"(float[N,2,1,1] x) => (float[N,3,1,1] y) {{ c = bnas.BinaryConv2d {INPUTS} y = PRelu (c, slope) }}",
        slope=np.float32(0.25),
        **binary_conv(2, 3),
    )

    run([FuseActivation()], model)

    assert constant_array(input_of(model.graph[0], "slope")).tolist() == [0.25, 0.25, 0.25]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (f"c = bnas.BinaryConv2d {INPUTS} y = Relu (c) z = Relu (c)", "c is also read without the activation"),
        (f"c = bnas.BinaryConv2d {INPUTS} y = Relu (c) z = Add (c, c)", "c is also read without the activation"),
        (f"c = bnas.BinaryConv2dRelu {INPUTS} y = Relu (c) z = Relu (y)", "c has an activation already"),
        (
            f"c = bnas.BinaryConv2d {INPUTS} y = PRelu (c, slope) z = Relu (y)",
            "its slope is computed from the input, or neither one number nor one per channel",
        ),
        (
            f"c = bnas.BinaryConv2d {INPUTS} low = ReduceMax <keepdims = 0> (x, axes) y = Clip (c, low) z = Relu (y)",
            "its limits are computed from the input",
        ),
        (
            f"a = bnas.BinaryConv2d {INPUTS} c = bnas.BinaryConv2dKAdd {INPUTS[:-1]}, a) y = Relu (c) z = Relu (y)",
            "no operator does what BinaryConv2dKAdd does and Relu behind it",
        ),
        (
            f"a = bnas.BinaryConv2d {INPUTS} c = bnas.BinaryConv2dAddAdd {INPUTS[:-1]}, a, a) y = Relu (c) "
            "z = Relu (y)",
            "no operator does what BinaryConv2dAddAdd does and Relu behind it",
        ),
    ],
    ids=["two activations", "read by another", "activated", "slope per column", "limits", "K", "two sums"],
)
def test_left_alone_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = load(
        f"(float[N,2,3,3] x) => (float[N,3,3,3] y, float[N,3,3,3] z) {{ {graph} }}",
        axes=np.arange(4),
        slope=np.float32([1, 2, 3]),  # by ONNX's rules of broadcasting: one per column
        **binary_conv(2, 3),
    )
    before = listing(model)

    log = run([FuseActivation()], model)

    assert f"FuseActivation: y: {reason}" in map(str, log.refusals)
    assert listing(model) == before


SUMS = {
    "one": "s = Add (c, a)",
    "the other way round": "s = Add (a, c)",
}
ACTIVATIONS = {
    "Relu": ("Relu (s)", "Relu"),
    "PRelu": ("PRelu (s, slope)", "PRelu"),
    "Hardtanh": ("Clip (s, low, high)", "Clip"),
    "Clip without a limit": ("Clip (s, , high)", "Clip"),
}


@pytest.mark.parametrize("sums", SUMS.values(), ids=SUMS)
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_sums_stay_before_the_activation(load, listing, evaluate, binary_conv, rng, activation, sums) -> None:
    last, name = activation
    model = load(
        "(float[N,2,3,3] x, float[N,3,3,3] a) => (float[N,3,3,3] y) "
        f"{{ c = bnas.BinaryConv2d {INPUTS} {sums} y = {last} }}",
        slope=np.float32([[[0.5]], [[-0.25]], [[2]]]),
        low=np.float32(-1),
        high=np.float32(0.75),
        **binary_conv(2, 3),
    )
    feeds = {name: rng.normal(size=(2, size, 3, 3)).astype(np.float32) for name, size in (("x", 2), ("a", 3))}
    answer = evaluate(model, feeds)["y"]

    log = run([FuseAddition(), FuseActivation()], model)

    assert log.applied == {"FuseAddition": 1, "FuseActivation": 1}
    assert listing(model) == [f"y = BinaryConv2dAdd{name}(x, a)"]
    assert (evaluate(model, feeds)["y"] == answer).all()
    assert not constant_array(input_of(model.graph[0], "pad")).any()  # which is neutral


def test_signs_at_the_padding_stay(load, evaluate, binary_conv, rng) -> None:
    model = load(
        "(float[N,2,3,3] x) => (float[N,3,5,5] y) "
        "{ c = bnas.BinaryConv2dPad <pads = [1, 1, 1, 1]> (x, W, threshold, pad, offset, scale, bias) "
        "y = Clip (c, low, high) }",
        **binary_conv(2, 3) | {"pad": np.float32([1, -1]), "low": np.float32(-1), "high": np.float32(1)},
    )
    feeds = {"x": rng.normal(size=(2, 2, 3, 3)).astype(np.float32)}
    answer = evaluate(model, feeds)["y"]

    run([FuseActivation()], model)

    assert model.graph[0].op_type == "BinaryConv2dClip"
    assert constant_array(input_of(model.graph[0], "pad")).tolist() == [1, -1]
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_an_activation_of_something_else_is_no_site(load) -> None:
    model = load("(float[N,2,3,3] x) => (float[N,2,3,3] y) { a = Relu (x) y = Relu (a) }")

    log = run([FuseActivation()], model)

    assert (log.applied, list(map(str, log.refusals))) == ({"FuseActivation": 0}, [])
