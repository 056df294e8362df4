"""A factor per image and channel or per pixel becomes part of the convolution, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import UNRECORDED, input_of
from bnas_deploy.export.passes import FoldBatchNormAfterBinaryConv, FuseActivation, FuseAddition, FuseGate
from bnas_deploy.export.rewrite import run

CONSTANTS = "W, threshold, offset, scale, bias"
CONV = f"c = bnas.BinaryConv2d (x, {CONSTANTS})"
HEADER = (
    "(float[N,3,2,4] x, float[N,3,1,1] g, float[N,3,2,4] a, float[N,1,2,4] b) => (float[N,3,2,4] y, float[N,3,2,4] z)"
)


def _feeds(rng) -> dict[str, np.ndarray]:
    shapes = {"x": (2, 3, 2, 4), "g": (2, 3, 1, 1), "a": (2, 3, 2, 4), "b": (2, 1, 2, 4)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("product", ["Mul (c, g)", "Mul (g, c)", "Mul (c, a)"])
def test_a_computed_gate(load, listing, evaluate, binary_conv, rng, product: str) -> None:
    model = load(f"{HEADER} {{ {CONV} y = {product} z = Relu (a) }}", **binary_conv(3, 3))
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]
    gate = product.translate(str.maketrans("", "", "Mulc (),"))

    log = run([FuseGate()], model)

    assert log.applied == {"FuseGate": 1}
    assert listing(model)[0] == f"y = BinaryConv2dGate(x, {gate})"
    assert (evaluate(model, feeds)["y"] == answer).all()


@pytest.mark.parametrize("shape", [(3, 2, 4), (1, 3, 2, 4)])
def test_a_constant_map_of_scales(load, listing, evaluate, binary_conv, rng, shape: tuple[int, ...]) -> None:
    model = load(
        f"{HEADER} {{ {CONV} y = Mul (c, map) z = Relu (a) }}",
        map=rng.normal(size=shape).astype(np.float32),
        **binary_conv(3, 3),
    )
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]

    run([FuseGate()], model)

    assert listing(model)[0] == "y = BinaryConv2dGate(x)"
    assert input_of(model.graph[0], "gate").shape == (1, 3, 2, 4)
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_what_follows_the_gate_is_fused_too(load, listing, binary_conv) -> None:
    """The block of Real-to-Binary, with a BN."""
    norm = {name: np.ones(3, np.float32) for name in ("gamma", "beta", "mean", "var")}
    model = load(
        f"{HEADER} {{ {CONV} m = Mul (c, g) n = BatchNormalization (m, gamma, beta, mean, var) r = PRelu (n, gamma2) "
        "y = Add (r, x) z = Relu (a) }",
        gamma2=np.ones((1, 3, 1, 1), np.float32),
        **norm | binary_conv(3, 3),
    )

    run([FuseGate(), FoldBatchNormAfterBinaryConv(), FuseActivation(), FuseAddition()], model)

    assert listing(model)[0] == "y = BinaryConv2dGatePReluAdd(x, g, x)"


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        (f"{CONV} y = Mul (c, c) z = Relu (a)", {}, "c is multiplied by itself"),
        (f"{CONV} y = Mul (c, g) z = Relu (c)", {}, "c is also read without the gate"),
        (
            f"c = bnas.BinaryConv2dRelu (x, {CONSTANTS}) y = Mul (c, g) z = Relu (a)",
            {},
            "no operator does what BinaryConv2dRelu does and has a gate behind it",
        ),
        (
            f"c = bnas.BinaryConv2dK (x, {CONSTANTS}) y = Mul (c, g) z = Relu (a)",
            {},
            "no operator does what BinaryConv2dK does and has a gate behind it",
        ),
        (
            f"{CONV} y = Mul (c, g) z = Relu (a)",
            {"bias": np.float32([0, 1, 0])},
            "c has a bias, which stands before the gate",
        ),
        (
            f"{CONV} y = Mul (c, b) z = Relu (a)",
            {},
            "b [N,1,2,4] has neither one number per image and channel nor one per pixel",
        ),
        (
            f"{CONV} y = Mul (c, map) z = Relu (a)",
            {"map": np.ones((1, 2, 4), np.float32)},
            "map [1,2,4] has neither one number per image and channel nor one per pixel",
        ),
    ],
    ids=["itself", "read by another", "activation", "K", "bias", "of all channels", "a map of all channels"],
)
def test_left_alone_because(load, listing, binary_conv, nodes: str, constants, reason: str) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **binary_conv(3, 3) | constants)
    before = listing(model)

    log = run([FuseGate()], model)

    assert list(map(str, log.refusals)) == [f"FuseGate: y: {reason}"]
    assert listing(model) == before


def test_a_gate_that_pytorch_has_no_value_of_stays(load, binary_conv) -> None:
    model = load(f"{HEADER} {{ {CONV} r = Relu (g) y = Mul (c, r) z = Relu (a) }}", **binary_conv(3, 3))
    next(value for node in model.graph for value in node.outputs if value.name == "r").meta[UNRECORDED] = True

    log = run([FuseGate()], model)

    assert list(map(str, log.refusals)) == ["FuseGate: y: PyTorch's program has no value of its own for the gate"]


@pytest.mark.parametrize("nodes", [f"{CONV} y = Mul (c, scale3) z = Relu (a)", "y = Mul (x, g) z = Relu (a)"])
def test_no_site(load, binary_conv, nodes: str) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **binary_conv(3, 3) | {"scale3": np.ones((3, 1, 1), np.float32)})

    log = run([FuseGate()], model)

    assert (log.applied, log.refusals) == ({"FuseGate": 0}, [])
