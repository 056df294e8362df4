"""Chains of monotone functions in front of a sign: exact on every float, and where they are kept."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bnas_deploy.export.graph import constant_array, input_of, is_binary_conv
from bnas_deploy.export.passes import DropUnused, FoldIntoThreshold, FuseConcat, FusePadding
from bnas_deploy.export.passes.channelwise import channel_function
from bnas_deploy.export.rewrite import run

Floats = NDArray[np.float32]

INPUTS = "W, threshold, offset, scale, bias"
CHANNELS = 3
LARGEST = np.finfo(np.float32).max
POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"

# --- exact, whatever the chain --------------------------------------------------------------------------------------

ODD_FLOATS = [0.0, -0.0, 1e-45, -1e-45, 1e-38, 1e-20, -1e-20, 0.5, 1.0, -1.0, 3.0, 1e20, -1e20, 3e38, -3e38]
any_float = st.sampled_from(ODD_FLOATS) | st.floats(-4, 4, width=32)
positive = any_float.map(abs)
not_zero = any_float.filter(lambda number: number != 0)


def _each(numbers: st.SearchStrategy[float]) -> st.SearchStrategy[Floats]:
    """Make one number per channel, or one for all."""
    several = st.lists(numbers, min_size=CHANNELS, max_size=CHANNELS)
    return several.map(lambda values: np.float32(values).reshape(1, -1, 1, 1)) | numbers.map(np.float32)


STEPS: dict[str, Callable[[str, str], str]] = {
    "add": lambda x, c: f"Add ({x}, {c})",
    "subtract": lambda x, c: f"Sub ({x}, {c})",
    "subtract from": lambda x, c: f"Sub ({c}, {x})",
    "multiply": lambda x, c: f"Mul ({c}, {x})",
    "divide": lambda x, c: f"Div ({x}, {c})",
    "prelu": lambda x, c: f"PRelu ({x}, {c})",
    "clip": lambda x, c: f"Clip ({x}, {c}_low, {c}_high)",
    "batch norm": lambda x, c: f"BatchNormalization <epsilon = 1e-5> ({x}, {c}_gamma, {c}_beta, {c}_mean, {c}_var)",
    "relu": lambda x, c: f"Relu ({x})",
    "leaky": lambda x, c: f"LeakyRelu <alpha = 0.1> ({x})",
    "negate": lambda x, c: f"Neg ({x})",
    "pool": lambda x, c: f"{POOL} ({x})",
}

vector = st.lists(any_float, min_size=CHANNELS, max_size=CHANNELS).map(np.float32)
constants = {
    "add": _each(any_float),
    "subtract": _each(any_float),
    "subtract from": _each(any_float),
    "multiply": _each(any_float),
    "divide": _each(not_zero),
    "prelu": _each(positive),
    "clip": st.tuples(any_float, any_float).map(lambda pair: {"_low": min(pair), "_high": max(pair)}),
    "batch norm": st.tuples(vector, vector, vector, vector.map(np.abs)).map(
        lambda parts: dict(zip(("_gamma", "_beta", "_mean", "_var"), parts, strict=True))
    ),
}
step = st.sampled_from(sorted(STEPS)).flatmap(lambda name: st.tuples(st.just(name), constants.get(name, st.none())))
chains = st.lists(step, min_size=1, max_size=5).filter(lambda steps: [name for name, _ in steps].count("pool") <= 1)


def _text(steps: list[tuple[str, object]]) -> tuple[str, str, dict[str, NDArray]]:
    """Return a chain as text, the name of its result, and its constants."""
    lines, data, x = [], {}, "x"
    for place, (name, given_) in enumerate(steps):
        lines.append(f"v{place} = {STEPS[name](x, f'c{place}')}")
        x = f"v{place}"
        parts = given_ if isinstance(given_, dict) else {"": given_}
        data |= {f"c{place}{part}": np.float32(number) for part, number in parts.items() if number is not None}
    return " ".join(lines), x, data


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=chains, thresholds=vector, others=st.lists(any_float, min_size=4, max_size=4), seed=st.integers(0, 99))
@example(  # overflows, and infinity times 0 is NaN: at both ends of the floats, but not between
    steps=[("multiply", np.float32(1e20)), ("multiply", np.float32(0)), ("add", np.float32(1))],
    thresholds=np.float32([0, 1, 2]),
    others=[0.0, 1.0, -1.0, 1e18],
    seed=0,
)
@example(  # one channel falls in front of the maximum, and the others rise
    steps=[("multiply", np.float32([1, -1, 2]).reshape(1, 3, 1, 1)), ("pool", None), ("add", np.float32(1))],
    thresholds=np.float32([0, 1, 2]),
    others=[0.0, 1.0, -1.0, 2.0],
    seed=1,
)
@example(  # what stands in front of the chain overflows, and nothing finite reaches the threshold
    steps=[
        ("multiply", np.float32([0, -1, 3]).reshape(1, 3, 1, 1)),
        ("subtract", np.float32([0, 0, 3e38]).reshape(1, 3, 1, 1)),
        ("pool", None),
    ],
    thresholds=np.float32([0, 0, 3e38]),
    others=[0.0, 0.0, 0.0, 0.0],
    seed=0,
)
def test_a_chain_decides_as_pytorch_does(
    load, evaluate, steps: list[tuple[str, object]], thresholds: Floats, others: list[float], seed: int
) -> None:
    text, last, data = _text(steps)
    signs = np.random.default_rng(seed).choice([-1, 1], (CHANNELS, 1, 1, 1)).astype(np.float32)
    constants_of_conv = {
        "W": signs,
        "threshold": thresholds,
        "offset": np.zeros((CHANNELS, 1, 1), np.float32),
        "scale": np.ones(CHANNELS, np.float32),
        "bias": np.zeros(CHANNELS, np.float32),
    }
    # One channel in each group: every output shows the sign of one activation.
    convolution = f"y = bnas.BinaryConv2d <group = {CHANNELS}> ({last}, {INPUTS})"
    with np.errstate(all="ignore"):
        model, unchanged = (
            load(f"(float[N,3,4,64] x) => (float[N,3,A,B] y) {{ {text} {convolution} }}", **constants_of_conv, **data)
            for _ in range(2)
        )
        run([FoldIntoThreshold(), DropUnused()], model)
        level = constant_array(input_of(next(node for node in model.graph if is_binary_conv(node)), "threshold"))
        feeds = {"x": _around(level, others, seed)}
        before, after = evaluate(unchanged, feeds), evaluate(model, feeds)

    is_number = ~np.isnan(before[last])
    assert is_number.any()
    assert (before["y"] == after["y"])[is_number].all()


def _around(level: Floats, others: list[float], seed: int) -> Floats:
    """Return images (2, C, 4, 64) of the levels, their neighbours, the smallest and largest floats, and others."""
    up, down = np.float32(np.inf), np.float32(-np.inf)
    near = [level, np.nextafter(level, up), np.nextafter(level, down), -level]
    fixed = [np.full_like(level, value) for value in (0.0, -0.0, 1e-45, -1e-45, LARGEST, -LARGEST, *others)]
    candidates = np.clip(np.stack([*near, *fixed], axis=1), -LARGEST, LARGEST)
    chosen = np.random.default_rng(seed).integers(candidates.shape[1], size=(2, CHANNELS, 4 * 64))
    return np.take_along_axis(candidates[None], chosen, axis=2).reshape(2, CHANNELS, 4, 64).astype(np.float32)


@pytest.mark.parametrize("size", [(), (1, 1), (3, 3), (5, 13)])
@pytest.mark.parametrize("name", sorted(set(STEPS) - {"pool"}))
def test_the_judge_rounds_as_pytorch_does_on_images(load, evaluate, rng, name: str, size: tuple[int, ...]) -> None:
    channels = 67
    data = {
        "c": (0.1 + rng.random((channels, *(1,) * len(size)))).astype(np.float32),
        "c_low": np.float32(-0.3),
        "c_high": np.float32(0.7),
        **{f"c_{part}": rng.random(channels, np.float32) for part in ("gamma", "beta", "mean", "var")},
    }
    shape = ",".join(map(str, ("N", channels, *size)))
    model = load(f"(float[{shape}] x) => (float[{shape}] y) {{ y = {STEPS[name]('x', 'c')} }}", **data)
    x = rng.normal(size=(2, channels, *size)).astype(np.float32)

    function = channel_function(model.graph[0])
    assert function is not None
    got = function(np.moveaxis(x, 1, 0).reshape(channels, -1)).reshape(channels, 2, *size)

    assert (np.moveaxis(got, 0, 1) == evaluate(model, {"x": x})["y"]).all()


# --- what is left of the graph --------------------------------------------------------------------------------------

DATA = {
    "a": np.float32([1, -1, 2, -2]).reshape(1, 4, 1, 1),
    "b": np.float32([0.5, 1, 2, 4]).reshape(4, 1, 1),
    "negative": np.float32([0.5, 0.5, -0.5, 0.5]).reshape(4, 1, 1),
    "low": np.float32(-1),
    "high": np.float32(1),
    "gamma": np.float32([1, -1, 2, -2]),
    "beta": np.float32([0, 1, -1, 3]),
    "mean": np.float32([2, 0, -1, 1]),
    "var": np.float32([1, 4, 0.25, 1]),
}
NORM = "BatchNormalization <epsilon = 0.0> ({}, gamma, beta, mean, var)"


def _conv(x: str, name: str = "y") -> str:
    return f"{name} = bnas.BinaryConv2d <group = 1> ({x}, {INPUTS})"


def _four(load, binary_conv, graph: str, outputs: str = "float[N,3,A,B] y") -> ir.Model:
    return load(f"(float[N,4,4,4] x) => ({outputs}) {{ {graph} }}", **binary_conv(4, 3), **DATA)


LEFT = {
    "sum": (f"m = Add (x, a) {_conv('m')}", ["y = BinaryConv2d(x)"]),
    "residual with hardtanh": (
        f"s = Add (x, x) c = Clip (s, low, high) m = Add (c, a) {_conv('m')}",
        ["s = Add(x, x)", "y = BinaryConv2d(s)"],
    ),
    "pool, BN, hardtanh": (
        f"p = {POOL} (x) n = {NORM.format('p')} c = Clip (n, low, high) {_conv('c')}",
        ["p = MaxPool(x)", "y = BinaryConv2d(p)"],
    ),
    "hardtanh, pool, BN": (
        f"c = Clip (x, low, high) p = {POOL} (c) n = {NORM.format('p')} {_conv('n')}",
        ["p.before_y = MaxPool(x)", "y = BinaryConv2d(p.before_y)"],
    ),
    "a falling channel stays before the maximum": (
        f"n = {NORM.format('x')} r = Relu (n) p = {POOL} (r) {_conv('p')}",
        ["n = BatchNormalization(x)", "p.before_y = MaxPool(n)", "y = BinaryConv2d(p.before_y)"],
    ),
    "two convolutions read one": (
        f"m = Add (x, a) {_conv('m', 'c')} {_conv('m', 'd')} y = Add (c, d)",
        ["c = BinaryConv2d(x)", "d = BinaryConv2d(x)", "y = Add(c, d)"],
    ),
}


@pytest.mark.parametrize(("text", "after"), LEFT.values(), ids=LEFT)
def test_a_chain_goes(load, listing, evaluate, binary_conv, rng, text: str, after: list[str]) -> None:
    model = _four(load, binary_conv, text)
    feeds = {"x": rng.integers(-8, 9, (3, 4, 4, 4)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)["y"]

    run([FoldIntoThreshold(), DropUnused()], model)

    assert listing(model) == after
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_a_bn_of_vectors_goes(load, listing, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,4] x) => (float[N,3,1,1] y) {{ n = {NORM.format('x')} u = Unsqueeze (n, axes) {_conv('u')} }}",
        **binary_conv(4, 3),
        **DATA,
        axes=np.int64([2, 3]),
    )
    feeds = {"x": rng.integers(-8, 9, (30, 4)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)["y"]

    run([FoldIntoThreshold(), DropUnused()], model)

    assert listing(model) == ["u.before_y = Unsqueeze(x)", "y = BinaryConv2d(u.before_y)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_a_chain_in_front_of_a_dense_layer_goes(load, listing, evaluate, binary_conv, rng) -> None:
    """Each of its inputs is one pixel of a channel, and has that channel's functions."""
    text = f"n = {NORM.format('x')} c = Clip (n, low, high) f = Reshape (c, flat) m = Add (f, each) {_conv('m')}"
    each = {"each": rng.integers(-2, 3, (24, 1, 1)).astype(np.float32) / 4}
    model = load(
        f"(float[N,4,2,3] x) => (float[N,3,1,1] y) {{ {text} }}",
        **binary_conv(24, 3),
        **DATA,
        **each,
        flat=np.int64([0, 24, 1, 1]),
    )
    feeds = {"x": rng.integers(-8, 9, (30, 4, 2, 3)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)["y"]

    run([FoldIntoThreshold(), DropUnused()], model)

    assert listing(model) == ["f.before_y = Reshape(x)", "y = BinaryConv2d(f.before_y)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_a_chain_in_front_of_another_reshape_is_kept(load, listing, binary_conv) -> None:
    text = f"c = Clip (x, low, high) f = Reshape (c, square) {_conv('f')}"
    square = {"square": np.int64([0, 8, 2, 2])}
    model = load(f"(float[N,4,2,4] x) => (float[N,3,2,2] y) {{ {text} }}", **binary_conv(8, 3), **DATA, **square)
    before = listing(model)

    log = run([FoldIntoThreshold(), DropUnused()], model)

    assert (log.refusals, listing(model)) == ([], before)


@pytest.mark.parametrize("pad", [None, 1])
def test_a_concatenation_of_chains_goes(load, listing, evaluate, binary_conv, rng, pad: int | None) -> None:
    inputs, name = (
        (INPUTS, "BinaryConv2d") if pad is None else (INPUTS.replace("offset", "pad, offset"), "BinaryConv2dPad")
    )
    attributes = "<pads = [1, 1, 1, 1], group = 1>"
    model = load(
        f"(float[N,4,4,4] x) => (float[N,3,4,4] y) {{ r = Abs (x) n = {NORM.format('x')} m = Mul (r, a) "
        f"q = Abs (r) c = Concat <axis = 1> (n, m, q) d = Sub (high, c) y = bnas.{name} {attributes} (d, {inputs}) }}",
        **binary_conv(12, 3, kernel=3),
        **({} if pad is None else {"pad": np.ones(12, np.float32)}),
        **DATA,
    )
    feeds = {"x": rng.integers(-8, 9, (3, 4, 4, 4)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)["y"]

    run([FoldIntoThreshold(), DropUnused()], model)

    raw = "c.before_y"
    assert listing(model) == ["r = Abs(x)", "q = Abs(r)", f"{raw} = Concat(x, r, q)", f"y = {name}({raw})"]
    assert (evaluate(model, feeds)["y"] == wanted).all()
    run([FuseConcat(), DropUnused()], model)
    assert listing(model)[-1] == f"y = {name}Concat3(x, r, q)"


def test_padding_with_signs_goes_with_the_chain(load, listing, evaluate, binary_conv, rng) -> None:
    """QuickNet: what is padded with +1 is the chain's result, and a falling channel pads with -1 then."""
    model = load(
        f"(float[N,4,4,4] x) => (float[N,3,4,4] y) {{ n = {NORM.format('x')} p = Pad (n, pads, high) {_conv('p')} }}",
        **binary_conv(4, 3, kernel=3),
        **DATA,
        pads=np.int64([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    feeds = {"x": rng.integers(-8, 9, (3, 4, 4, 4)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)["y"]

    run([FusePadding(), FoldIntoThreshold(), DropUnused()], model)

    assert listing(model) == ["y = BinaryConv2dPad(x)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


# --- what others read -----------------------------------------------------------------------------------------------

OTHERS = {
    # x is kept anyway, since another reads it, or the graph gives it.
    "input": (f"n = {NORM.format('x')} {_conv('n')} z = Abs (n)", ["n = BatchNormalization(x)", "y = BinaryConv2d(x)"]),
    # The BN, which a shortcut reads, can become part of the convolution only if nobody reads that without it.
    "convolution": (
        f"c = Conv (x, w) n = {NORM.format('c')} {_conv('n')} z = Abs (n)",
        ["c = Conv(x)", "n = BatchNormalization(c)", "y = BinaryConv2d(n)"],
    ),
    "a sum of its own behind that": (
        f"c = Conv (x, w) n = {NORM.format('c')} m = Add (n, a) {_conv('m')} z = Abs (n)",
        ["c = Conv(x)", "n = BatchNormalization(c)", "y = BinaryConv2d(n)"],
    ),
    "a convolution that is read": (
        f"c = Conv (x, w) n = {NORM.format('c')} {_conv('n')} m = Abs (n) z = Add (m, c)",
        ["c = Conv(x)", "n = BatchNormalization(c)", "y = BinaryConv2d(c)"],
    ),
    "a maximum that is read": (
        f"c = Clip (x, low, high) p = {POOL} (c) m = Add (p, a) {_conv('m')} z = Abs (p)",
        ["c = Clip(x)", "p = MaxPool(c)", "y = BinaryConv2d(p)"],
    ),
    "an output": (
        f"m = Add (x, a) z = Clip (m, low, high) {_conv('z')}",
        ["m = Add(x)", "z = Clip(m)", "y = BinaryConv2d(z)"],
    ),
}


@pytest.mark.parametrize(("graph", "after"), OTHERS.values(), ids=OTHERS)
def test_other_readers_keep_the_chain(load, listing, evaluate, binary_conv, rng, graph: str, after: list[str]) -> None:
    weight = {"w": rng.integers(-3, 4, (4, 4, 1, 1)).astype(np.float32)}
    outputs = "(float[N,3,A,B] y, float[N,4,A,B] z)"
    model = load(f"(float[N,4,4,4] x) => {outputs} {{ {graph} }}", **binary_conv(4, 3), **DATA, **weight)
    feeds = {"x": rng.integers(-8, 9, (3, 4, 4, 4)).astype(np.float32) / 4}
    wanted = evaluate(model, feeds)

    run([FoldIntoThreshold(), DropUnused()], model)

    assert [line for line in listing(model) if "Abs" not in line and "z = Add" not in line] == after
    got = evaluate(model, feeds)
    assert all((got[name] == wanted[name]).all() for name in ("y", "z"))


# --- refusals -------------------------------------------------------------------------------------------------------

REFUSED = {
    "a slope below 0": (f"p = PRelu (x, negative) {_conv('p')}", "p neither rises nor falls in some channel"),
    "LeakyRelu": (f"p = LeakyRelu <alpha = -0.5> (x) {_conv('p')}", "p neither rises nor falls in some channel"),
    "a maximum": (
        f"m = Mul (x, a) p = {POOL} (m) {_conv('p')}",
        "m falls in some channel, and a maximum stands behind it",
    ),
}


@pytest.mark.parametrize(("graph", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_chain_is_kept_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = _four(load, binary_conv, graph)
    before = listing(model)

    log = run([FoldIntoThreshold(), DropUnused()], model)

    assert list(map(str, log.refusals)) == [f"FoldIntoThreshold: y: {reason}"]
    assert listing(model) == before


@pytest.mark.parametrize(
    "text",
    [
        "Add (x, x)",
        "Add (x, rows)",
        "Mul (x, infinite)",
        "Div (x, zero)",
        "Div (a, x)",
        "Clip (x, high, low)",
        "Abs (x)",
    ],
)
def test_what_is_no_function_of_channels_is_kept(load, listing, binary_conv, text: str) -> None:
    odd = {"rows": np.ones((4, 1), np.float32), "infinite": np.float32(np.inf), "zero": np.float32(0)}
    graph = f"m = {text} {_conv('m')}"
    model = load(f"(float[N,4,4,4] x) => (float[N,3,4,4] y) {{ {graph} }}", **binary_conv(4, 3), **DATA, **odd)
    before = listing(model)

    log = run([FoldIntoThreshold(), DropUnused()], model)

    assert log.refusals == []
    assert listing(model) == before
