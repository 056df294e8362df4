"""A result that signs alone read is written as bits: the same signs for every accumulator that there can be."""

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from bnas_deploy.core.operators import operator
from bnas_deploy.export import opset
from bnas_deploy.export.graph import constant_array, input_of
from bnas_deploy.export.passes import DropUnused, PackWeights, WriteBits
from bnas_deploy.export.passes.write_bits import levels_of
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.written_bits import bits_of, float_of

CONSTANTS = "W, threshold, offset, scale, bias"
READER = "second, level, none, factor, shift"
INF, NAN = np.inf, np.nan


@pytest.fixture
def layers(binary_conv: Callable[..., dict[str, np.ndarray]], rng: np.random.Generator) -> Callable[..., dict]:
    """Return the constants of a layer of some channels, and of one that reads it."""

    def make(channels: int, kernel: int = 1) -> dict[str, np.ndarray]:
        read = binary_conv(channels, 3, kernel=3)
        names = ("second", "level", "none", "factor", "shift")
        first = binary_conv(5, channels, kernel=kernel)
        first["scale"] *= rng.choice(np.float32([-1, 1]), channels)
        first["bias"] = rng.normal(0, 3, channels).astype(np.float32)
        first["offset"] = rng.integers(-2, 3, (channels, 1, 1)).astype(np.float32)
        second = dict(zip(names, read.values(), strict=True))
        return {**first, **second, "level": rng.normal(0, 2, channels).astype(np.float32)}

    return make


def _write(model: ir.Model) -> str:
    log = run([PackWeights(), WriteBits(), DropUnused()], model)
    return "; ".join(map(str, log.refusals))


@pytest.mark.parametrize("channels", [1, 7, 8, 9, 63, 64, 65])
def test_two_layers_answer_as_before(load, listing, evaluate, layers, rng: np.random.Generator, channels: int) -> None:
    model = load(
        f"(float[N,5,6,7] x) => (float[N,3,3,4] y) {{ c = bnas.BinaryConv2dRelu <pads = [1, 1, 1, 1]> (x, {CONSTANTS}) "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1], strides = [2, 2]> (c, {READER}) }}",
        **layers(channels, kernel=3),
    )
    feeds = {"x": rng.normal(size=(2, 5, 6, 7)).astype(np.float32)}
    floats = evaluate(model, feeds)

    assert _write(model) == ""

    assert listing(model) == ["c.bits = BinaryConv2dToBits(x)", "y = BinaryConv2dOfBits(c.bits)"]
    values = evaluate(model, feeds)
    assert (values["y"] == floats["y"]).all()
    assert values["c.bits"].shape == (2, -(-channels // 8), 6, 7)
    note = bits_of(model.graph[0].outputs[0])
    assert note is not None
    assert (note.of(floats["c"]) == values["c.bits"]).all()
    assert float_of(model.graph[0].outputs[0]).name == "c"


POOL = "MaxPool <kernel_shape = [2, 2], strides = [2, 2]>"


@pytest.mark.parametrize(("height", "width"), [(2, 2), (3, 5), (6, 7), (5, 4)])
def test_a_maximum_between_two_layers_is_one_of_bits(
    load, listing, evaluate, layers, rng: np.random.Generator, height: int, width: int
) -> None:
    model = load(
        f"(float[N,5,{height},{width}] x) => (float[N,3,H,W] y) {{ "
        f"c = bnas.BinaryConv2dRelu <pads = [1, 1, 1, 1]> (x, {CONSTANTS}) p = {POOL} (c) "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (p, {READER}) }}",
        **layers(9, kernel=3),
    )
    feeds = {"x": rng.normal(size=(2, 5, height, width)).astype(np.float32)}
    floats = evaluate(model, feeds)

    assert _write(model) == ""

    assert listing(model) == ["p.bits = BinaryConv2dMaxPoolToBits(x)", "y = BinaryConv2dOfBits(p.bits)"]
    values = evaluate(model, feeds)
    assert (values["y"] == floats["y"]).all()
    assert values["p.bits"].shape == (2, 2, height // 2, width // 2)
    assert list(model.graph[0].outputs[0].shape)[1:] == [2, height // 2, width // 2]
    note = bits_of(model.graph[0].outputs[0])
    assert note is not None
    assert (note.of(floats["c"]) == values["p.bits"]).all()
    assert float_of(model.graph[0].outputs[0]).name == "c"


def test_a_chain_of_maxima_and_a_set_for_each_threshold(
    load, listing, evaluate, layers, rng: np.random.Generator
) -> None:
    even = POOL.replace("[2, 2]>", "[2, 2], ceil_mode = 1>")  # as of even sizes, rounding up is rounding down
    model = load(
        f"(float[N,5,8,12] x) => (float[N,3,2,3] y) {{ c = bnas.BinaryConv2d (x, {CONSTANTS}) p = {even} (c) "
        f"d = bnas.BinaryConv2dPRelu <pads = [1, 1, 1, 1]> (p, W2, level, offset, scale, bias, slope) q = {POOL} (d) "
        f"a = bnas.BinaryConv2dRelu <pads = [1, 1, 1, 1]> (q, {READER}) "
        f"y = bnas.BinaryConv2dReluAdd <pads = [1, 1, 1, 1]> (q, {READER.replace('level', 'other')}, a) }}",
        W2=rng.choice(np.float32([-1, 1]), (9, 9, 3, 3)),
        slope=np.abs(rng.normal(size=9)).astype(np.float32),
        other=rng.normal(size=9).astype(np.float32),
        **layers(9),
    )
    feeds = {"x": rng.normal(size=(2, 5, 8, 12)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    assert _write(model) == ""

    assert listing(model) == [
        "p.bits = BinaryConv2dMaxPoolToBits(x)",
        "q.bits = BinaryConv2dOfBitsMaxPoolToBits(p.bits)",
        "a = BinaryConv2dOfBitsRelu(q.bits)",
        "y = BinaryConv2dOfBitsReluAdd(q.bits, a)",
    ]
    values = evaluate(model, feeds)
    assert (values["y"] == wanted).all()
    assert values["q.bits"].shape == (2, 4, 2, 3)


def test_a_maximum_ties_only_where_no_pixel_decides_it(load, layers) -> None:
    model = load(
        f"(float[N,5,2,2] x) => (float[N,3,1,1] y) {{ c = bnas.BinaryConv2d (x, {CONSTANTS}) p = {POOL} (c) "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (p, {READER}) }}",
        **layers(6) | {"level": np.zeros(6, np.float32)},
    )
    _write(model)
    note = bits_of(model.graph[0].outputs[0])
    assert note is not None
    floats = np.float32(
        [
            [0.25, -9, -9, -9],  # may be below 0, as all others are
            [0.25, 9, 0.25, -9],  # 9 is not
            [-0.25, -0.25, -9, -9],  # one of them may be above
            [-2, -9, -9, -9],
            [2, -9, -9, -9],
            [-2, 0.5, -0.5, -3],
        ]
    ).reshape(1, 6, 2, 2)
    assert note.ties(floats, np.full((), 0.5)).ravel().tolist() == [0b100101]
    assert not note.ties(floats, np.zeros(())).any()
    of_pixels = np.full((1, 6, 2, 2), 0.5)
    of_pixels[:, :, 0, 0] = 0  # exact: 0.25 is above
    assert note.ties(floats, of_pixels).ravel().tolist() == [0b100100]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (f"p = {POOL.replace('kernel_shape = [2, 2]', 'kernel_shape = [3, 3]')} (c)", "another maximum"),
        (f"p = {POOL.replace('strides = [2, 2]', 'strides = [1, 1]')} (c)", "another maximum"),
        (f"p = {POOL.replace('>', ', pads = [1, 1, 1, 1]>')} (c)", "another maximum"),
        (f"p = {POOL.replace('>', ', ceil_mode = 1>')} (c)", "another maximum"),
        (f"q = {POOL} (c) r = Relu (c) s = {POOL} (r) p = Add (q, s)", ""),
        (f"q = {POOL} (c) p = Relu (q)", ""),
    ],
    ids=["3x3", "stride 1", "padding", "rounded up", "others read the pixels", "others read the maximum"],
)
def test_a_maximum_is_left_alone_because(load, listing, layers, between: str, reason: str) -> None:
    model = load(
        f"(float[N,5,6,7] x) => (float[N,3,H,W] y) {{ c = bnas.BinaryConv2d (x, {CONSTANTS}) {between} "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (p, {READER}) }}",
        **layers(9),
    )
    before = listing(model)

    refusals = _write(model)

    wanted = "WriteBits: c: p takes another maximum than that of 2x2 pixels with stride 2, without padding"
    assert refusals == (wanted if reason else "")
    assert listing(model) == before


def test_a_maximum_of_several_parts_is_left_alone(load, listing, layers) -> None:
    model = load(
        f"(float[N,2,6,6] x, float[N,3,6,6] z) => (float[N,3,3,3] y) {{ "
        f"c = bnas.BinaryConv2dConcat2 (x, z, {CONSTANTS}) p = {POOL} (c) "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (p, {READER}) }}",
        **layers(9),
    )
    before = listing(model)
    reason = "WriteBits: c: no operator does what BinaryConv2dConcat2 does, pools and writes bits"
    assert _write(model) == reason
    assert listing(model) == before


def test_what_may_tie_is_noted_for_each_bit(load, layers) -> None:
    model = load(
        f"(float[N,5,1,1] x) => (float[N,3,1,1] y) {{ c = bnas.BinaryConv2d (x, {CONSTANTS}) "
        f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (c, {READER}) }}",
        **layers(9) | {"level": np.float32([0, 1, 2, 0, 0, 0, 0, 0, 3])},
    )
    _write(model)
    note = bits_of(model.graph[0].outputs[0])
    assert note is not None
    floats = np.float32([0.5, 1.5, 2.75, 9, 9, 9, 9, 9, 3]).reshape(1, 9, 1, 1)
    assert note.ties(floats, np.full((), 0.5)).ravel().tolist() == [0b00000011, 0b1]
    assert not note.ties(floats, np.zeros(())).any()


def test_a_chain(load, listing, evaluate, layers, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,5,4,4] x) => (float[N,3,4,4] y) {{ c = bnas.BinaryConv2dRelu (x, {CONSTANTS}) "
        f"d = bnas.BinaryConv2dPad <pads = [1, 1, 1, 1]> (c, W2, level, pad, offset, scale, bias) "
        f"a = bnas.BinaryConv2dRelu <pads = [1, 1, 1, 1]> (d, {READER}) "
        f"y = bnas.BinaryConv2dReluAdd <pads = [1, 1, 1, 1]> (d, {READER}, a) }}",
        W2=rng.choice(np.float32([-1, 1]), (9, 9, 3, 3)),
        pad=rng.choice(np.float32([-1, 1]), 9),
        **layers(9),
    )
    feeds = {"x": rng.normal(size=(2, 5, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    assert _write(model) == ""

    assert listing(model) == [
        "c.bits = BinaryConv2dToBits(x)",
        "d.bits = BinaryConv2dOfBitsToBits(c.bits)",
        "a = BinaryConv2dOfBitsRelu(d.bits)",
        "y = BinaryConv2dOfBitsReluAdd(d.bits, a)",
    ]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_a_set_of_bits_for_each_threshold(load, evaluate, layers, rng: np.random.Generator) -> None:
    model = load(
        f"(float[N,5,4,4] x) => (float[N,3,4,4] y) {{ c = bnas.BinaryConv2dRelu (x, {CONSTANTS}) "
        f"p = bnas.BinaryConv2d <pads = [1, 1, 1, 1]> (c, {READER}) "
        f"q = bnas.BinaryConv2dAdd <pads = [1, 1, 1, 1]> (c, {READER.replace('level', 'other')}, p) "
        f"y = bnas.BinaryConv2dAdd <pads = [1, 1, 1, 1]> (c, {READER}, q) }}",
        other=rng.normal(size=9).astype(np.float32),
        **layers(9),
    )
    feeds = {"x": rng.normal(size=(2, 5, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    assert _write(model) == ""

    values = evaluate(model, feeds)
    assert (values["y"] == wanted).all()
    assert values["c.bits"].shape == (2, 4, 4, 4)
    places = [constant_array(input_of(node, "place"))[0] for node in list(model.graph)[1:]]
    assert places == [0, 16, 0]


OPERATORS = ("", "Relu", "PRelu", "Clip", "PReluAffine")


@pytest.mark.parametrize("name", OPERATORS)
def test_levels_are_right_for_every_accumulator(load, layers, rng: np.random.Generator, name: str) -> None:
    """The operator's own formula for one accumulator after the other, whether it can be or not."""
    row, channels = operator(f"BinaryConv2d{name}"), 24
    first = layers(channels, kernel=3)
    first |= {
        "slope": np.abs(rng.normal(size=channels)),
        "low": np.full(channels, -2.0),
        "high": rng.uniform(-1, 9, channels),
        "scale2": rng.normal(size=channels),
        "bias2": rng.normal(size=channels),
        "pad": np.zeros(5),
    }
    first["scale"][:3] = 0, INF, 1e-45
    first["level"][3:6] = INF, -INF, NAN
    first = {key: value.astype(np.float32) for key, value in first.items()}
    names = ", ".join(row.inputs[1:])
    model = load(
        f"(float[N,5,4,4] x) => (float[N,{channels},2,2] y) {{ y = bnas.{row.name} (x, {names}) }}",
        **{key: first[key] for key in row.inputs[1:]},
    )
    run([PackWeights()], model)
    thresholds = np.stack([first["level"], first["level"] + 1])

    levels = levels_of(model.graph[0], thresholds)

    assert levels is not None
    for total in range(-45, 46):
        accumulator = total + first["offset"].reshape(1, -1, 1, 1)
        y = opset.epilogue(row, accumulator, first).ravel()
        compared = np.where(levels.negated, -accumulator.ravel(), accumulator.ravel())
        assert ((compared >= levels.level) == (y >= thresholds)).all(), total


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("c = bnas.BinaryConv2dPRelu (x, C, slope) y = R", "neither rises nor falls in some channel"),
        ("c = bnas.BinaryConv2dK (x, C) y = R", "BinaryConv2dK computes more than its accumulator says"),
        ("c = bnas.BinaryConv2dReluAdd (x, C, z) y = R", "BinaryConv2dReluAdd computes more than its accumulator says"),
        ("c = bnas.BinaryConv2dRelu <group = 5> (x, G) y = R", "no operator of groups writes bits"),
        ("c = bnas.BinaryConv2dRelu (x, C) y = S", "no operator does what BinaryConv2dClip does"),
        ("c = bnas.BinaryConv2dRelu (x, C) d = R y = Add (d, c)", ""),
        ("c = bnas.BinaryConv2dRelu (x, C) y = T", ""),
    ],
    ids=["slope", "K", "sum", "groups", "limits", "a sum reads it", "K reads it"],
)  # fmt: skip
def test_left_alone_because(load, listing, layers, rng: np.random.Generator, graph: str, reason: str) -> None:
    pads = "<pads = [1, 1, 1, 1]>"
    read = {
        "R": f"bnas.BinaryConv2d {pads} (c, {READER})",
        "S": f"bnas.BinaryConv2dClip {pads} (c, second, level, zeros, none, factor, shift, low, high)",
        "T": f"bnas.BinaryConv2dK {pads} (c, {READER})",
    }
    text = graph.replace("(x, C", f"(x, {CONSTANTS}").replace("(x, G", f"(x, wide{CONSTANTS[1:]}")
    for name, call in read.items():
        text = text.replace(f"= {name}", f"= {call}")
    channels = 3 if "Add (d, c)" in text else 5
    constants = layers(channels) | {
        "slope": -np.ones(channels, np.float32),
        "z": rng.normal(size=(1, channels, 4, 4)).astype(np.float32),
        "wide": rng.choice(np.float32([-1, 1]), (5, 1, 1, 1)),
        "zeros": np.zeros(channels, np.float32),
        "low": np.zeros(3, np.float32),
        "high": np.ones(3, np.float32),
    }
    model = load(f"(float[N,5,4,4] x) => (float[N,3,4,4] y) {{ {text} }}", **constants)
    before = listing(model)

    refusals = _write(model)

    assert reason in refusals
    assert bool(refusals) == bool(reason)
    assert listing(model) == before
