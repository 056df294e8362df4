"""Zeroise and all that it makes constant goes; what is left computes the same, and knows where it comes from."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
import pytest
from numpy.typing import NDArray

from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import (
    Origin,
    activations_of,
    added_to,
    constant_array,
    input_of,
    is_binary_conv,
    origin_of,
)
from bnas_deploy.export.passes import (
    PIPELINE,
    DropConstantChannels,
    DropUnused,
    FoldIntoThreshold,
    PackWeights,
)
from bnas_deploy.export.passes.constant_channels import _Evaluation
from bnas_deploy.export.rewrite import Rewrite, Sweep, run
from bnas_deploy.export.written_bits import bits_of, float_of

Floats = NDArray[np.float32]

ZERO = "bnas.Zeroise <stride = 1>"
NORM = "BatchNormalization <epsilon = 0.0>"
POOL = "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"
AVERAGE = "AveragePool <kernel_shape = [2, 2], pads = [1, 1, 1, 1], count_include_pad = {}>"
BINARY_INPUTS = "W, threshold, offset, scale, bias"
PADDED = "<pads = [1, 1, 1, 1]>"

CONSTANTS = {
    "gamma": np.float32([1, -1, 2, -2]),
    "beta": np.float32([0, 1, -1, 3]),
    "mean": np.float32([2, 0, -1, 1]),
    "var": np.float32([1, 4, 0.25, 1]),
    "w": np.float32(np.arange(-36, 36).reshape(2, 4, 3, 3)),
    "slopes": np.float32([0.5, 2, -1, 0]).reshape(4, 1, 1),
    "slopes_of_pytorch": np.float32([0.5, 2, -1, 0]).reshape(1, 4, 1, 1),
}
"""For four channels; all results are small dyadic numbers, which float32 holds without rounding."""


# --- one rule at a time ---------------------------------------------------------------------------------------------


HALF_ZERO = f"z = {ZERO} (x) c = Concat <axis = 1> (x, z)"
HALF_ONE = f"{HALF_ZERO} n = {NORM} (c, gamma, beta, mean, var)"
"""Two computed channels before two constant ones; behind the BN the constants are not zero."""

LIVE_NORM = "n.live = BatchNormalization(x)"

RULES = {
    "sum": (f"z = {ZERO} (x) y = Add (x, z) o = Relu (y)", ["o = Relu(x)"]),
    "sum, mirrored": (f"z = {ZERO} (x) y = Add (z, x) o = Relu (y)", ["o = Relu(x)"]),
    "conv": (f"{HALF_ZERO} o = Conv {PADDED} (c, w)", ["o = Conv(x)"]),
    "zeros first": (
        f"z = {ZERO} (x) c = Concat <axis = 1> (z, x) r = Relu (c) o = Conv {PADDED} (r, w)",
        ["r.live = Relu(x)", "o = Conv(r.live)"],
    ),
    "max pool": (f"{HALF_ZERO} p = {POOL} (c) o = Conv (p, w)", ["p.live = MaxPool(x)", "o = Conv(p.live)"]),
    "average pool": (
        f"{HALF_ZERO} p = {AVERAGE.format(1)} (c) o = Conv (p, w)",
        ["p.live = AveragePool(x)", "o = Conv(p.live)"],
    ),
    "prelu": (f"{HALF_ZERO} p = PRelu (c, slopes) o = Conv (p, w)", ["p.live = PRelu(x)", "o = Conv(p.live)"]),
    "prelu of pytorch": (
        f"{HALF_ZERO} p = PRelu (c, slopes_of_pytorch) o = Conv (p, w)",
        ["p.live = PRelu(x)", "o = Conv(p.live)"],
    ),
    "bn": (f"{HALF_ONE} o = Conv (n, w)", [LIVE_NORM, "o = Conv(n.live)"]),
    # A constant that is not zero, behind a border of zeros: the sum varies along it.
    "bn, padded conv": (
        f"{HALF_ONE} o = Conv {PADDED} (n, w)",
        [LIVE_NORM, "o.live_part = Conv(n.live)", "o = Add(o.live_part)"],
    ),
    "constant + computed": (
        f"{HALF_ONE} k = Concat <axis = 1> (x, x) s = Add (k, n) o = Conv (s, w)",
        [
            *(LIVE_NORM, "k = Concat(x, x)", "k.0to2 = Slice(k)", "s.0 = Add(k.0to2, n.live)"),
            *("k.2to4 = Slice(k)", "s.2 = Add(k.2to4)", "s.joined = Concat(s.0, s.2)", "o = Conv(s.joined)"),
        ],
    ),
    # 0 + a constant is one; the output is wanted whole.
    "output": (
        f"{HALF_ONE} s = Add (n, c) o = Relu (s)",
        [
            *(LIVE_NORM, "s.0 = Add(n.live, x)", "o.live = Relu(s.0)"),
            *("o.constant.batch = Shape(x)", "o.constant.shape = Concat(o.constant.batch)"),
            *("o.constant = Expand(o.constant.shape)", "o.joined = Concat(o.live, o.constant)"),
            "o = Identity(o.joined)",
        ],
    ),
}
"""What was captured, and what is left of it."""


@pytest.mark.parametrize(("graph", "after"), RULES.values(), ids=RULES)
def test_only_what_varies_is_computed(load, listing, evaluate, rng, graph: str, after: list[str]) -> None:
    model = load(f"(float[N,2,4,4] x) => (float[N,C,H,W] o) {{ {graph} }}", **CONSTANTS)
    feeds = {"x": rng.integers(-4, 5, (3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["o"]

    run([DropConstantChannels(), DropUnused()], model)

    assert listing(model) == after
    assert (evaluate(model, feeds)["o"] == wanted).all()


@pytest.mark.parametrize("pad", [0, 1])
def test_constant_channels_of_a_binary_convolution_are_not_computed(
    load, listing, evaluate, binary_conv, rng, pad: int
) -> None:
    # The sign of the zeros is +1 in one of the constant channels and -1 in the other.
    constants = binary_conv(4, 3, kernel=3) | {"threshold": np.float32([0, 0, 0, 1])}
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,H,W] y) {{ z = {ZERO} (x) c = Concat <axis = 1> (x, z) "
        f"y = bnas.BinaryConv2d <pads = [{pad}, {pad}, {pad}, {pad}]> (c, {BINARY_INPUTS}) }}",
        **constants,
    )
    feeds = {"x": rng.integers(-1, 2, (3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([DropConstantChannels(), DropUnused()], model)

    assert listing(model) == ["y = BinaryConv2d(x)"]
    node = model.graph[0]
    weights = constants["W"] * np.float32([1, 1, 1, -1]).reshape(-1, 1, 1)
    added = weights[:, 2:].sum(axis=(1, 2, 3))
    assert added.any()
    offset = constant_array(input_of(node, "offset"))
    assert (offset == (0 if pad else added.reshape(3, 1, 1))).all()
    assert node.attributes.get_ints("constant_channels", ()) == ((2,) if pad else ())
    assert (constant_array(input_of(node, "W")) == (weights if pad else constants["W"][:, :2])).all()
    assert constant_array(input_of(node, "threshold")).shape == (2,)
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_a_bn_in_front_of_the_computed_channels_leaves_the_constant_ones(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,4,4] y) {{ z = {ZERO} (x) c = Concat <axis = 1> (z, x) "
        f"n = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var) "
        f"y = bnas.BinaryConv2d {PADDED} (n, {BINARY_INPUTS}) }}",
        gamma=np.float32([1, -1, -2, 3]),
        beta=np.float32([1, -1, 0.5, 0.25]),
        mean=np.zeros(4, np.float32),
        var=np.ones(4, np.float32),
        **binary_conv(4, 3, kernel=3),
    )
    feeds = {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([DropConstantChannels(), DropUnused(), FoldIntoThreshold(), DropUnused(), PackWeights()], model)

    assert [node.op_type for node in model.graph] == ["BinaryConv2d"]
    assert model.graph[0].attributes.get_ints("weight_shape") == (3, 3, 3, 4)
    assert (evaluate(model, feeds)["y"] == wanted).all()


@pytest.mark.parametrize(
    ("signs", "constants"),
    [
        # Live, live, 0 and 0, whose sign is +1 or, with a sign of 0, 0: v - p is 0, 2, 1 or -1 on the image.
        ([-1, 1, 1, 1], 0),
        ([1, -1, 1, -1], 2),
        ([1, 1, -1, -1], 4),
    ],
)
@pytest.mark.parametrize("sign_of_zero", [False, True])
def test_constant_channels_under_a_padding_of_signs(
    load, listing, evaluate, binary_conv, rng, signs: list[int], constants: int, sign_of_zero: bool
) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,4,4] y) {{ {HALF_ZERO} "
        f"y = bnas.BinaryConv2dPad <pads = [1, 1, 1, 1], group = 1> (c, W, threshold, pad, offset, scale, bias) }}",
        pad=np.float32(signs),
        **binary_conv(4, 3, kernel=3),
    )
    feeds = {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]
    node = model.graph[-1]
    if sign_of_zero:  # the channels of zeros are 0 on the image and p at the padding: p times the sum, less inside
        weight, scale = (constant_array(input_of(node, name)) for name in ("W", "scale"))
        image = np.ones((1, 2, 4, 4), np.float32)
        inside = _convolved(image, weight[:, 2:])
        wanted = wanted - inside[None] * scale[:, None, None]
        node.attributes["sign_of_zero"] = ir.AttrInt64("sign_of_zero", 1)

    run([DropConstantChannels(), DropUnused()], model)

    node = model.graph[-1]
    assert listing(model) == ["y = BinaryConv2dPad(x)"]
    assert constant_array(input_of(node, "pad")).tolist() == signs[:2]
    attribute = node.attributes.get_ints("constant_channels", [0])
    assert list(attribute) == [2 if sign_of_zero else constants]
    node.attributes.pop("sign_of_zero", None)
    got = evaluate(model, feeds)["y"]
    if sign_of_zero:  # integers times a scale of another size: one rounding more on the way to `wanted`
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(got, wanted)


def _convolved(image: Floats, weight: Floats) -> Floats:
    padded = np.pad(image[0], ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # (C, H, W, KH, KW)
    return np.einsum("chwij,ocij->ohw", windows, weight).astype(np.float32)


def _file_size(load, constants: dict[str, NDArray], live: int, geometry: str, size: str) -> int:
    model = load(
        f"(float[N,{live},112,112] x) => (float[N,8,{size}] y) {{ z = {ZERO} (x) c = Concat <axis = 1> (x, z) "
        f"y = bnas.BinaryConv2d <{geometry}, group = 1> (c, {BINARY_INPUTS}) }}",
        **constants,
    )
    run(PIPELINE, model)
    return len(finish(model).SerializeToString())


@pytest.mark.parametrize("live", [1, 9])
@pytest.mark.parametrize(
    ("geometry", "size"),
    [
        ("strides = [1, 1], pads = [1, 1, 1, 1], dilations = [1, 1]", "112,112"),
        ("strides = [3, 2], pads = [2, 1, 0, 1], dilations = [2, 1]", "37,56"),
        ("strides = [1, 1], pads = [0, 0, 0, 0], dilations = [1, 1]", "110,110"),
    ],
    ids=["padded", "uneven", "no padding"],
)
def test_a_file_is_never_larger_than_with_the_constant_channels_in_it(
    load, binary_conv, monkeypatch: pytest.MonkeyPatch, live: int, geometry: str, size: str
) -> None:
    constants = binary_conv(2 * live, 8, kernel=3)
    without = _file_size(load, constants, live, geometry, size)
    monkeypatch.setattr(_Evaluation, "binary_convolution", _Evaluation.whole)
    assert without <= _file_size(load, constants, live, geometry, size)


@pytest.mark.parametrize("size", [4, 30])
def test_maps_of_constants_are_stored_as_their_different_rows_and_columns(load, evaluate, rng, size: int) -> None:
    # Ones under a padded convolution: a map that Gather unfolds when a session is made, where it is large.
    model = load(
        f"(float[N,2,{size},{size}] x) => (float[N,3,{size},{size}] y, float[N,3,{size},{size}] o) {{ {HALF_ONE} "
        f"y = Conv {PADDED} (n, half) b = {NORM} (z, twos, ones, ones, ones) o = Conv {PADDED} (b, whole) }}",
        half=rng.integers(-3, 4, (3, 4, 3, 3)).astype(np.float32),
        whole=rng.integers(-3, 4, (3, 2, 3, 3)).astype(np.float32),
        twos=np.full(2, 2, np.float32),
        ones=np.ones(2, np.float32),
        **CONSTANTS,
    )
    feeds = {"x": rng.integers(-4, 5, (2, 2, size, size)).astype(np.float32)}
    wanted = evaluate(model, feeds)

    run([DropConstantChannels(), DropUnused()], model)

    shapes = [tuple(value.shape) for value in model.graph.initializers.values()]
    assert shapes.count((1, 3, size, size)) == (2 if size == 4 else 0)
    assert shapes.count((1, 3, 3, 3)) == (0 if size == 4 else 2)
    values = evaluate(model, feeds)
    assert all((values[name] == wanted[name]).all() for name in ("y", "o"))


def test_a_binary_convolution_of_constants_alone_is_one(load, listing, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,4,4,4] x) => (float[N,3,4,4] y) {{ z = {ZERO} (x) "
        f"c = bnas.BinaryConv2d {PADDED} (z, {BINARY_INPUTS}) y = Add (c, c) }}",
        **binary_conv(4, 3, kernel=3),
    )
    feeds = {"x": rng.integers(-1, 2, (3, 4, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([DropConstantChannels(), DropUnused()], model)

    assert not any(is_binary_conv(node) for node in model.graph)
    assert listing(model)[-1] == "y = Add(c.constant, c.constant)"
    assert (evaluate(model, feeds)["y"] == wanted).all()


@pytest.mark.parametrize(
    ("node", "group"),
    [
        (f"bnas.BinaryConv2dK (c, {BINARY_INPUTS})", 1),  # K is the mean over all channels
        (f"bnas.BinaryConv2d <group = 2> (c, {BINARY_INPUTS})", 2),
        ("Conv <group = 4> (c, grouped)", 1),
        ("PRelu (c, columns)", 1),
        ("Concat <axis = 2> (c, c)", 1),
        (f"{AVERAGE.format(0)} (n)", 1),  # an average of equal numbers is one of them up to rounding only
    ],
    ids=["K", "binary groups", "float groups", "slope per column", "concatenation of rows", "average of ones"],
)
def test_what_has_no_rule_reads_the_constants_again(load, listing, evaluate, binary_conv, rng, node, group) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,C,H,W] y) {{ {HALF_ONE} y = {node} }}",
        grouped=np.float32([1, 2, 3, 4]).reshape(4, 1, 1, 1),
        columns=np.float32([1, 2, 3, 4]),
        **binary_conv(4, 2, group=group),
        **CONSTANTS,
    )
    feeds = {"x": rng.integers(-4, 5, (3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([DropConstantChannels(), DropUnused()], model)

    read = model.graph[-1].inputs[0]
    whole = "n" if "(n)" in node else "c"
    assert read.name == f"{whole}.joined"
    assert origin_of(read) == Origin(whole)
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_equal_constants_of_two_resolutions_are_two_values(load, evaluate, rng) -> None:
    model = load(
        f"(float[N,4,4,4] x) => (float[N,4,4,4] y, float[N,4,2,2] z) "
        f"{{ y = {ZERO} (x) z = bnas.Zeroise <stride = 2> (x) }}"
    )

    run([DropConstantChannels(), DropUnused()], model)

    values = evaluate(model, {"x": rng.normal(size=(3, 4, 4, 4)).astype(np.float32)})
    assert [values[name].shape for name in ("y", "z")] == [(3, 4, 4, 4), (3, 4, 2, 2)]


def test_without_zeroise_nothing_changes(load, listing) -> None:
    model = load(
        f"(float[N,4,4,4] x) => (float[N,8,4,4] y) "
        f"{{ n = {NORM} (x, gamma, beta, mean, var) y = Concat <axis = 1> (n, x) }}",
        **CONSTANTS,
    )
    before = listing(model)

    run([DropConstantChannels()], model)

    assert listing(model) == before


def test_origins_name_the_channels_of_pytorch(load) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,6,4,4] y) {{ z = {ZERO} (x) c = Concat <axis = 1> (x, z, x) "
        f"r = Relu (c) y = Identity (r) }}",
    )

    run([DropConstantChannels()], model)

    origins = {value.name: origin_of(value) for node in model.graph for value in node.outputs}
    assert origins["c.joined"] == Origin("c", (0, 1, 4, 5))
    assert origins["r.live"] == Origin("r", (0, 1, 4, 5))
    assert origins["r.live.0to2"] == Origin("r", (0, 1))
    assert origins["r.live.2to4"] == Origin("r", (4, 5))
    assert origins["r.constant"] == Origin("r", (2, 3))
    assert origins["r.joined"] == Origin("r")


# --- all rules together, on random graphs ---------------------------------------------------------------------------


@dataclass
class RandomGraph:
    """A graph of random nodes in which zeros and constants meet everything; every result is exact in float32."""

    rng: np.random.Generator
    lines: list[str] = field(default_factory=list)
    shapes: dict[str, tuple[int, int, int]] = field(default_factory=lambda: {"x": (4, 4, 4)})
    constants: dict[str, Floats] = field(default_factory=dict)

    def grow(self, nodes: int) -> None:
        """Add nodes until there are so many."""
        self.zeroise("x")
        makers = (self.zeroise, self.add, self.concat, self.concat, self.relu, self.prelu, self.max_pool)
        makers += (self.average_pool, self.batch_norm, self.conv, *[self.binary_conv] * 4)
        while len(self.lines) < nodes:
            recent = list(self.shapes)[-6:]  # so that graphs get deep
            makers[self.rng.integers(len(makers))](recent[self.rng.integers(len(recent))])

    def emit(self, expression: str, shape: tuple[int, int, int]) -> None:
        name = f"v{len(self.lines)}"
        self.lines.append(f"{name} = {expression}")
        self.shapes[name] = shape

    def constant(self, *shape: int, choices: tuple[float, ...] = (-2, -1, 0, 1, 2)) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = self.rng.choice(choices, shape).astype(np.float32)
        return name

    def pick(self, *choices: int) -> int:
        return int(self.rng.choice(choices))

    def zeroise(self, x: str) -> None:
        (channels, height, width), stride = self.shapes[x], self.pick(1, 2)
        self.emit(f"bnas.Zeroise <stride = {stride}> ({x})", (channels, -(-height // stride), -(-width // stride)))

    def add(self, x: str) -> None:
        alike = [name for name, shape in self.shapes.items() if shape == self.shapes[x]]
        self.emit(f"Add ({x}, {self.rng.choice(alike)})", self.shapes[x])

    def concat(self, x: str) -> None:
        alike = [name for name, shape in self.shapes.items() if shape[1:] == self.shapes[x][1:]]
        parts = [x, *self.rng.choice(alike, self.pick(1, 2))]
        self.rng.shuffle(parts)
        channels = sum(self.shapes[part][0] for part in parts)
        if channels <= 24:
            self.emit(f"Concat <axis = 1> ({', '.join(parts)})", (channels, *self.shapes[x][1:]))

    def relu(self, x: str) -> None:
        self.emit(f"Relu ({x})", self.shapes[x])

    def prelu(self, x: str) -> None:
        leading = [1] * self.pick(0, 1)
        self.emit(f"PRelu ({x}, {self.constant(*leading, self.pick(1, self.shapes[x][0]), 1, 1)})", self.shapes[x])

    def max_pool(self, x: str) -> None:
        self.emit(f"{POOL} ({x})", self.shapes[x])

    def average_pool(self, x: str) -> None:
        channels, height, width = self.shapes[x]
        # Windows of 1, 2 or 4 pixels: no rounding.
        self.emit(f"{AVERAGE.format(self.pick(0, 1))} ({x})", (channels, height + 1, width + 1))

    def batch_norm(self, x: str) -> None:
        channels = self.shapes[x][0]
        parameters = [self.constant(channels) for _ in range(3)] + [self.constant(channels, choices=(0.25, 1, 4))]
        self.emit(f"{NORM} ({x}, {', '.join(parameters)})", self.shapes[x])

    def conv(self, x: str) -> None:
        self.convolution(x, "Conv", 1, [self.constant(2)][: self.pick(0, 1)])

    def binary_conv(self, x: str) -> None:
        channels = self.shapes[x][0]
        k = "K" if channels in {1, 2, 4, 8, 16} and self.pick(0, 1, 2, 3) == 0 else ""  # the mean over 2^n is exact
        group = 1 if k or channels % 2 or self.pick(0, 1, 2) else 2
        signs = not k and self.pick(0, 0, 1)
        pad = [self.constant(channels, choices=(-1, 1))] if signs else []
        rest = [self.constant(channels), *pad, self.constant(2, 1, 1), self.constant(2), self.constant(2)]
        self.convolution(x, f"bnas.BinaryConv2d{'Pad' if signs else k}", group, rest)

    def convolution(self, x: str, operator: str, group: int, rest: list[str]) -> None:
        channels, height, width = self.shapes[x]
        kernel = 1 if operator.endswith("K") else self.pick(1, 3)
        stride, dilation, pad = self.pick(1, 2), self.pick(1, 2), self.pick(0, 1, 2) if kernel == 3 else 0
        reach = dilation * (kernel - 1) + 1
        sizes = [(size + 2 * pad - reach) // stride + 1 for size in (height, width)]
        if min(sizes) < 1:
            return
        choices = (-1, 1) if "bnas" in operator else (-1, 0, 1)
        weight = self.constant(2, channels // group, kernel, kernel, choices=choices)
        attributes = f"pads = [{pad}, {pad}, {pad}, {pad}], strides = [{stride}, {stride}]"
        attributes += f", dilations = [{dilation}, {dilation}], group = {group}"
        self.emit(f"{operator} <{attributes}> ({', '.join((x, weight, *rest))})", (2, sizes[0], sizes[1]))

    @property
    def text(self) -> str:
        lines = "\n".join(self.lines)
        return f"(float[N,4,4,4] x) => (float[N,C,H,W] v{len(self.lines) - 1}) {{ {lines} }}"


@pytest.mark.parametrize(
    "pipeline", [(DropConstantChannels(), DropUnused()), PIPELINE], ids=["alone", "whole pipeline"]
)
@pytest.mark.parametrize("seed", range(0, 200, 25), ids=lambda seed: f"from {seed}")
def test_random_graphs(load, evaluate, seed: int, pipeline: tuple[Rewrite | Sweep, ...]) -> None:
    for each in range(seed, seed + 25):
        rng = np.random.default_rng(each)
        graph = RandomGraph(rng)
        graph.grow(nodes=int(rng.integers(4, 16)))
        model = load(graph.text, **graph.constants)
        feeds = {"x": rng.integers(-4, 5, (3, 4, 4, 4)).astype(np.float32)}
        captured, output = evaluate(model, feeds), model.graph.outputs[0].name

        run(pipeline, model)

        values = evaluate(model, feeds)
        assert model.graph.outputs[0].name == output
        assert (values[output] == captured[output]).all(), graph.text
        _assert_tidy(model)
        _assert_origins(model, values, captured)


def _assert_tidy(model: ir.Model) -> None:
    assert not any(node.op_type == "Zeroise" for node in model.graph)
    names = [value.name for node in model.graph for value in node.outputs]
    taken = Counter([*names, *model.graph.initializers, *(value.name for value in model.graph.inputs)])
    assert taken.most_common(1)[0][1] == 1
    read = {value for node in model.graph for value in node.inputs} | set(model.graph.outputs)
    assert all(value in read for node in model.graph for value in node.outputs)


def _assert_origins(model: ir.Model, values: dict[str, Floats], captured: dict[str, Floats]) -> None:
    for node in model.graph:
        for value in (*node.inputs[:1], *node.outputs):
            bits, origin = bits_of(value), origin_of(float_of(value))
            if origin.name in captured:
                whole = captured[origin.name]
                wanted = whole if origin.channels is None else whole[:, list(origin.channels)]
                wanted = wanted if bits is None else bits.of(wanted)
                assert np.array_equal(values[value.name], wanted), f"{value.name} is not {origin}"
                assert tuple(value.shape)[1:] == wanted.shape[1:]
        if is_binary_conv(node):  # of these the test vectors are taken
            used = (*activations_of(node), *added_to(node), node.outputs[0])
            assert all(origin_of(float_of(value)).name in captured for value in used)
