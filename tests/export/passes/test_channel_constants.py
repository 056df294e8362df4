"""Constants per channel behind a convolution: what is folded, what that may round, and what is left alone."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnas_deploy.export.bounds import ROUNDING
from bnas_deploy.export.graph import constant_array, input_of, origin_of
from bnas_deploy.export.passes import (
    DropUnused,
    FoldBatchNormAfterBinaryConv,
    FoldBatchNormAfterConv,
    FoldConstantsAfterBinaryConv,
    FoldConstantsAfterConv,
    FuseAddition,
    FuseShift,
)
from bnas_deploy.export.passes.folding import BIAS_TERMS, FOLD, FOLD_ROUNDINGS
from bnas_deploy.export.rewrite import run

Floats = NDArray[np.float32]

INPUTS = "W, threshold, offset, scale, bias"
NORM = "BatchNormalization <epsilon = 0.0> ({}, gamma, beta, mean, var)"
CONV = "c = Conv <group = 1> (x, w, b)"

CONSTANTS = {
    "number": np.float32(2),
    "rank3": np.float32([1, -2, 4]).reshape(3, 1, 1),
    "rank4": np.float32([1, -2, 4]).reshape(1, 3, 1, 1),
    "gamma": np.float32([1, -1, 2]),
    "beta": np.float32([0, 1, -1]),
    "mean": np.float32([2, 0, -1]),
    "var": np.float32([1, 4, 0.25]),
}
"""Small dyadic numbers, so that folding them rounds nothing."""


def _binary(name: str = "BinaryConv2d") -> str:
    return f"c = bnas.{name} <group = 1> (x, {INPUTS})"


def _constants(binary_conv, rng) -> dict[str, NDArray]:
    dyadic = {"scale": np.float32([0.5, 1, 2]), "bias": np.float32([1, 0, -3])}
    floats = {"w": rng.integers(-3, 4, (3, 4, 1, 1)).astype(np.float32), "b": np.float32([1, -1, 0.5])}
    return binary_conv(4, 3) | dyadic | floats | CONSTANTS


def _images(rng: np.random.Generator) -> dict[str, Floats]:
    return {"x": rng.integers(-8, 9, (2, 4, 5, 5)).astype(np.float32)}


CHAINS = {
    "add": "y = Add (c, rank3)",
    "add a number": "y = Add (number, c)",
    "subtract": "y = Sub (c, rank4)",
    "subtract from": "y = Sub (rank4, c)",
    "multiply": "y = Mul (rank3, c)",
    "divide": "y = Div (c, rank4)",
    "scale and bias": "m = Mul (c, rank3) y = Add (m, rank4)",
    "many": "m = Mul (c, rank3) a = Add (m, rank4) d = Div (a, number) y = Sub (number, d)",
}


@pytest.mark.parametrize("text", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("kind", ["BinaryConv2d", "BinaryConv2dK", "Conv"])
def test_fold(load, listing, evaluate, binary_conv, rng, text: str, kind: str) -> None:
    convolution, step = (CONV, FoldConstantsAfterConv()) if kind == "Conv" else (_binary(kind), _AFTER_BINARY)
    model = load(f"(float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {convolution} {text} }}", **_constants(binary_conv, rng))
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    log = run([step], model)

    assert log.applied == {type(step).__name__: text.count("=")}
    assert listing(model) == [f"y = {kind}(x)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)
    assert origin_of(model.graph[0].outputs[0]).name == "y"


_AFTER_BINARY = FoldConstantsAfterBinaryConv()


@pytest.mark.parametrize("kind", ["BinaryConv2d", "Conv"])
def test_a_bn_behind_a_learned_bias_is_folded_too(load, listing, evaluate, binary_conv, rng, kind: str) -> None:
    """VGG in the style of XNOR-Net: convolution, bias, BN, and here a constant behind."""
    convolution = CONV if kind == "Conv" else _binary()
    passes = (
        [FoldConstantsAfterConv(), FoldBatchNormAfterConv(), FoldConstantsAfterConv()]
        if kind == "Conv"
        else [FoldConstantsAfterBinaryConv(), FoldBatchNormAfterBinaryConv(), FoldConstantsAfterBinaryConv()]
    )
    text = f"a = Add (c, rank3) n = {NORM.format('a')} y = Mul (n, rank4)"
    model = load(f"(float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {convolution} {text} }}", **_constants(binary_conv, rng))
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run(passes, model)

    assert listing(model) == [f"y = {kind}(x)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)
    # All that was summed: the own bias, the constant, beta, and mean times slope; 4 roundings for each constant.
    (node,) = model.graph
    own = np.abs(_constants(binary_conv, rng)["b" if kind == "Conv" else "bias"]).astype(np.float64)
    slope = np.abs(CONSTANTS["gamma"] / np.sqrt(CONSTANTS["var"]))
    terms = (
        (own + np.abs(CONSTANTS["rank3"].ravel())) * slope
        + slope * np.abs(CONSTANTS["mean"])
        + np.abs(CONSTANTS["beta"])
    )
    assert node.meta[BIAS_TERMS].tolist() == (terms * np.abs(CONSTANTS["rank4"].ravel())).tolist()
    assert node.meta[FOLD_ROUNDINGS] == FOLD + 2 * 4


def test_a_sum_with_a_bias_of_zero_is_what_pytorch_computes(load, evaluate, binary_conv, rng) -> None:
    """Then the layer has to be the same to the bit, and nothing is noted that would allow more."""
    odd = {"c0": rng.normal(size=(3, 1, 1)).astype(np.float32)}
    model = load(
        f"(float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {_binary()} y = Sub (c, c0) }}", **binary_conv(4, 3), **odd
    )
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run([FoldConstantsAfterBinaryConv()], model)

    assert np.array_equal(evaluate(model, feeds)["y"], wanted)
    assert BIAS_TERMS not in model.graph[0].meta


def test_so_is_a_product_with_a_scale_of_one(load, evaluate, binary_conv, rng) -> None:
    odd = {"c0": rng.normal(size=(3, 1, 1)).astype(np.float32), "c1": rng.normal(size=(3, 1, 1)).astype(np.float32)}
    constants = binary_conv(4, 3) | {"scale": np.ones(3, np.float32)} | odd
    text = f"{_binary()} m = Mul (c, c0) y = Add (m, c1)"
    model = load(f"(float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {text} }}", **constants)
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run([FoldConstantsAfterBinaryConv()], model)

    assert np.array_equal(evaluate(model, feeds)["y"], wanted)
    assert BIAS_TERMS not in model.graph[0].meta


any_number = st.floats(-8, 8, width=32).filter(lambda number: abs(number) > 1e-3)
vector = st.lists(any_number, min_size=3, max_size=3).map(lambda numbers: np.float32(numbers).reshape(3, 1, 1))
steps = st.lists(
    st.tuples(st.sampled_from(["Add (V, C)", "Sub (V, C)", "Sub (C, V)", "Mul (V, C)", "Div (V, C)"]), vector),
    max_size=4,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(before=steps, behind=steps, has_norm=st.booleans(), with_sum=st.booleans(), seed=st.integers(0, 99))
def test_what_folds_round_is_within_their_bound(
    load, evaluate, binary_conv, before, behind, has_norm: bool, with_sum: bool, seed: int
) -> None:
    """Against the unrewritten graph: |difference| <= roundings u (|scale| n + the terms), and what a sum rounds."""
    rng = np.random.default_rng(seed)
    lines, value, data = [_binary()], "c", {}
    sequence = [*before, *([NORM] if has_norm else []), *behind, *(["Add (V, s)"] if with_sum else [])]
    sequence += [("Add (V, C)", rng.normal(size=(3, 1, 1)).astype(np.float32))] if with_sum else []
    for place, step in enumerate(sequence):
        text = step if isinstance(step, str) else step[0]
        if not isinstance(step, str):
            data[f"k{place}"] = step[1]
        result = "y" if place == len(sequence) - 1 else f"v{place}"
        lines.append(f"{result} = {text.format(value).replace('V', value).replace('C', f'k{place}')}")
        value = result
    if value == "c":
        return
    norm = {name: (0.5 + rng.random(3)).astype(np.float32) for name in ("gamma", "beta", "mean", "var")}
    graph = f"(float[N,4,5,5] x, float[N,3,5,5] s) => (float[N,3,5,5] y) {{ {' '.join(lines)} }}"
    model = load(graph, **(binary_conv(4, 3) | {"bias": rng.normal(size=3).astype(np.float32)}), **norm, **data)
    feeds = _images(rng) | {"s": rng.normal(size=(2, 3, 5, 5)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    constants = FoldConstantsAfterBinaryConv()
    norms = (constants, FoldBatchNormAfterBinaryConv(), constants)
    run([*norms, FuseAddition(), FuseShift(), DropUnused()], model)

    (node,) = model.graph
    difference = np.abs(evaluate(model, feeds)["y"].astype(np.float64) - wanted)
    allowed = np.zeros(3)
    if BIAS_TERMS in node.meta:
        products = np.abs(constant_array(input_of(node, "scale")).astype(np.float64)) * 4
        allowed = node.meta.get(FOLD_ROUNDINGS, FOLD) * ROUNDING * (products + node.meta[BIAS_TERMS])
    summed = 4 * ROUNDING * (np.abs(wanted) + np.abs(feeds["s"])) if with_sum else 0  # the sum, and the constant behind
    assert (difference <= allowed.reshape(3, 1, 1) + summed).all()


# --- left alone -----------------------------------------------------------------------------------------------------

KEPT = "its constant is neither one number nor one per channel, or it is 0 or not finite where that divides"
BINARY = _binary()
REFUSED = {
    "read by another": (f"{BINARY} y = Add (c, rank3) z = Relu (c)", "c is also read without the constant"),
    "rows": (f"{BINARY} y = Add (c, rows) z = Relu (y)", KEPT),
    "by zero": (f"{BINARY} y = Div (c, zero) z = Relu (y)", KEPT),
    "divided by it": (f"{BINARY} y = Div (rank3, c) z = Relu (y)", KEPT),
    "infinite": (f"{BINARY} y = Mul (c, infinite) z = Relu (y)", KEPT),
    "activation": (
        f"{_binary('BinaryConv2dRelu')} y = Add (c, rank3) z = Relu (y)",
        "an activation or an addition stands between c and the constant",
    ),
    "behind a refused one": (
        f"{BINARY} m = Mul (c, rows) y = Add (m, rank3) z = Relu (y)",
        "the node with a constant in front of it was kept",
    ),
    "sum": (
        f"c = bnas.BinaryConv2dAdd <group = 1> (x, {INPUTS}, s) y = Mul (c, rank3) z = Relu (y)",
        "an activation or an addition stands between c and the constant",
    ),
}
ODD = {
    "rows": np.ones((3, 5, 1), np.float32),
    "zero": np.zeros(3, np.float32).reshape(3, 1, 1),
    "infinite": np.float32(np.inf),
}
GRAPH = "(float[N,4,5,5] x, float[N,3,5,5] s) => (float[N,3,5,5] y, float[N,3,5,5] z)"


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(("graph", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_constant_is_kept_because(load, listing, binary_conv, rng, graph: str, reason: str) -> None:
    model = load(f"{GRAPH} {{ {graph} }}", **_constants(binary_conv, rng), **ODD)
    before = listing(model)

    log = run([FoldConstantsAfterBinaryConv()], model)

    assert f"FoldConstantsAfterBinaryConv: y: {reason}" in map(str, log.refusals)
    assert listing(model) == before


def test_a_lost_constant_is_outside_of_the_bound(load, evaluate, binary_conv, rng) -> None:
    graph = f"(float[N,4,5,5] x) => (float[N,3,5,5] y) {{ {_binary()} a = Mul (c, k) y = Add (a, rank3) }}"
    model = load(graph, **_constants(binary_conv, rng), k=np.float32(1.1))
    run([FoldConstantsAfterBinaryConv()], model)
    (node,) = model.graph
    products = np.abs(constant_array(input_of(node, "scale")).astype(np.float64)) * 4
    assert (node.meta[FOLD_ROUNDINGS] * ROUNDING * (products + node.meta[BIAS_TERMS])).max() < 1e-5


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (f"{CONV} y = Add (c, rank3) z = Relu (c)", "c is also read without the constant"),
        (f"{CONV} y = Add (c, rows) z = Relu (y)", KEPT),
        (
            f"{CONV} m = Mul (c, rows) y = Add (m, rank3) z = Relu (y)",
            "the node with a constant in front of it was kept",
        ),
        (
            "v = Abs (w) u = Mul (v, s0) c = Conv <group = 1> (x, u) y = Add (c, rank3) z = Relu (y)",
            COMPUTED := "the weights of c are computed from the input",
        ),
    ],
    ids=["read by another", "rows", "behind a refused one", "computed weights"],
)
def test_a_constant_behind_a_float_convolution_is_kept_because(
    load, listing, binary_conv, rng, graph: str, reason: str
) -> None:
    text = graph.replace("s0", "t") if "s0" in graph else graph
    text = f"m0 = ReduceMax (x, axes) t = Slice (m0, zero_, one_, zero_) {text}" if "s0" in graph else text
    data = {"axes": np.int64([1, 2, 3]), "zero_": np.int64([0]), "one_": np.int64([1])}
    model = load(f"{GRAPH} {{ {text} }}", **_constants(binary_conv, rng), **ODD, **data)
    before = listing(model)

    log = run([FoldConstantsAfterConv()], model)

    assert f"FoldConstantsAfterConv: y: {reason}" in map(str, log.refusals)
    assert listing(model) == before
