"""Constants behind a sum move into the bias of the convolution before it, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import constant_array, input_of
from bnas_deploy.export.passes import FuseActivation, FuseShift
from bnas_deploy.export.rewrite import run

SUM = "c = bnas.BinaryConv2dAdd (x, W, threshold, offset, scale, bias, x)"
BIAS = np.float32([1, 2, 3])
PER_CHANNEL = np.float32([[[4]], [[0.5]], [[-8]]])


@pytest.mark.parametrize(
    ("node", "shift", "wanted"),
    [
        ("Add (c, shift)", PER_CHANNEL, [5, 2.5, -5]),
        ("Add (shift, c)", PER_CHANNEL[None], [5, 2.5, -5]),
        ("Sub (c, shift)", PER_CHANNEL, [-3, 1.5, 11]),
        ("Sub (c, shift)", np.float32(2), [-1, 0, 1]),
    ],
    ids=["added", "first", "subtracted", "one number"],
)
def test_a_shift_becomes_part_of_the_bias(load, listing, evaluate, binary_conv, rng, node: str, shift, wanted) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {SUM} s = {node} y = Relu (s) }}",
        **binary_conv(3, 3) | {"bias": BIAS, "scale": np.ones(3, np.float32), "shift": shift},
    )
    feeds = {"x": rng.integers(-9, 9, (2, 3, 2, 2)).astype(np.float32)}  # integers and halves: nothing is rounded
    answer = evaluate(model, feeds)["y"]

    log = run([FuseShift(), FuseActivation()], model)

    assert log.applied == {"FuseShift": 1, "FuseActivation": 1}
    assert listing(model) == ["y = BinaryConv2dAddRelu(x, x)"]
    assert constant_array(input_of(model.graph[0], "bias")).tolist() == wanted
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_two_shifts_are_both_taken(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {SUM} s = Add (c, shift) y = Add (s, shift) }}",
        **binary_conv(3, 3) | {"shift": PER_CHANNEL},
    )

    assert run([FuseShift()], model).applied == {"FuseShift": 2}
    assert listing(model) == ["y = BinaryConv2dAdd(x, x)"]


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (f"{SUM} y = Add (c, shift) z = Relu (c)", "c is also read without the constant"),
        (f"{SUM} y = Sub (shift, c) z = Relu (y)", "the constant is neither one number nor one per channel"),
        (f"{SUM} y = Add (c, column) z = Relu (y)", "the constant is neither one number nor one per channel"),
    ],
    ids=["read by another", "subtracted from it", "per column"],
)
def test_left_alone_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y, float[N,3,2,2] z) {{ {graph} }}",
        **binary_conv(3, 3) | {"shift": PER_CHANNEL, "column": np.float32([1, 2])},
    )
    before = listing(model)

    log = run([FuseShift()], model)

    assert list(map(str, log.refusals)) == [f"FuseShift: y: {reason}"]
    assert listing(model) == before


def test_a_shift_behind_one_that_was_left_stays(load, binary_conv) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {SUM} s = Add (c, column) y = Add (s, shift) }}",
        **binary_conv(3, 3) | {"shift": PER_CHANNEL, "column": np.float32([1, 2])},
    )

    log = run([FuseShift()], model)

    assert str(log.refusals[1]) == "FuseShift: y: the sum that it reads was left in another node"


@pytest.mark.parametrize(
    "nodes",
    [
        "c = bnas.BinaryConv2d (x, W, threshold, offset, scale, bias) y = Add (c, shift)",
        "c = bnas.BinaryConv2dReluAdd (x, W, threshold, offset, scale, bias, x) y = Add (c, shift)",
        f"{SUM} y = Add (c, x)",
        "c = Add (x, x) y = Add (c, shift)",
    ],
    ids=["no sum", "behind an activation", "no constant", "no convolution"],
)
def test_no_site(load, binary_conv, nodes: str) -> None:
    model = load(
        f"(float[N,3,2,2] x) => (float[N,3,2,2] y) {{ {nodes} }}", **binary_conv(3, 3) | {"shift": PER_CHANNEL}
    )

    log = run([FuseShift()], model)

    assert (log.applied, log.refusals) == ({"FuseShift": 0}, [])
