"""Channel shuffles: one node each, or none where a convolution can have the order; the values stay the same."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bnas_deploy.export.graph import constant_array
from bnas_deploy.export.passes import (
    DropUnused,
    FoldOrderIntoProducer,
    FoldOrderIntoReader,
    GatherParts,
    ShuffleToGather,
    StridedSliceToPool,
)
from bnas_deploy.export.passes.folding import BIAS_TERMS
from bnas_deploy.export.rewrite import run

INPUTS = "W, threshold, offset, scale, bias"
SHUFFLE = "a = Reshape (x, apart) t = Transpose <perm = [0, 2, 1, 3, 4]> (a) {} = Reshape (t, together)"
SHAPES = {"apart": np.int64([0, 2, 3, 4, 4]), "together": np.int64([0, 6, 4, 4])}
ORDER = {"order": np.int64([0, 3, 1, 4, 2, 5])}


def _images(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {"x": rng.integers(-8, 9, (2, 6, 4, 4)).astype(np.float32)}


def test_a_shuffle_is_one_node(load, listing, evaluate, rng) -> None:
    model = load(f"(float[N,6,4,4] x) => (float[N,6,4,4] y) {{ {SHUFFLE.format('y')} }}", **SHAPES)
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run([ShuffleToGather(), DropUnused()], model)

    assert listing(model) == ["y = Gather(x)"]
    assert constant_array(model.graph[0].inputs[1]).tolist() == ORDER["order"].tolist()
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


OTHERS = {
    "pixels move": ([0, 2, 1, 4, 3], [0, 2, 3, 4, 4]),
    "the batch moves": ([1, 0, 2, 3, 4], [0, 2, 3, 4, 4]),
    "pixels are cut": ([0, 2, 1, 3, 4], [0, 6, 2, 2, 4]),
}


@pytest.mark.parametrize(("perm", "apart"), OTHERS.values(), ids=OTHERS)
def test_other_transposes_are_left_alone(load, listing, perm: list[int], apart: list[int]) -> None:
    text = SHUFFLE.replace("[0, 2, 1, 3, 4]", str(perm)).format("y")
    together = {"together": np.int64([-1, 6, 4, 4])}
    model = load(f"(float[N,6,4,4] x) => (float[N,6,4,4] y) {{ {text} }}", apart=np.int64(apart), **together)
    before = listing(model)

    log = run([ShuffleToGather()], model)

    assert (log.refusals, listing(model)) == ([], before)


def test_a_shuffle_stays_because_it_is_read_in_between(load, listing) -> None:
    outputs = "float[N,6,4,4] y, float[N,3,2,4,4] z"
    model = load(f"(float[N,6,4,4] x) => ({outputs}) {{ {SHUFFLE.format('y')} z = Relu (t) }}", **SHAPES)

    log = run([ShuffleToGather()], model)

    assert list(map(str, log.refusals)) == ["ShuffleToGather: t: t is also read by others"]
    assert "y = Reshape(t)" in listing(model)


# --- into the weights -----------------------------------------------------------------------------------------------

orders = st.permutations(range(6)).map(np.int64)
KINDS = ["Conv", "BinaryConv2d", "BinaryConv2dPad", "BinaryConv2dPRelu"]


def _convolution(kind: str, x: str, groups: int = 1) -> str:
    attributes = f"<pads = [1, 1, 1, 1], group = {groups}>"
    if kind == "Conv":
        return f"Conv {attributes} ({x}, w, b)"
    inputs = INPUTS.replace("offset", "pad, offset") if "Pad" in kind else INPUTS
    return f"bnas.{kind} {attributes} ({x}, {inputs}{', slope' if 'PRelu' in kind else ''})"


def _constants(binary_conv, rng: np.random.Generator, groups: int = 1) -> dict[str, np.ndarray]:
    """Return numbers of their own for each channel: another order of any of them shows."""
    binary = binary_conv(6, 6, kernel=3, group=groups)
    odd = {"threshold": np.arange(6) - 2.5, "offset": np.arange(6).reshape(6, 1, 1), "bias": np.arange(6) / 2}
    more = {"pad": np.float32([1, -1, 1, 1, -1, -1]), "slope": np.arange(6) / 4, "b": np.arange(6)}
    more["w"] = rng.integers(-3, 4, (6, 6 // groups, 3, 3))
    return (
        binary
        | {"scale": np.float32([0.5, 1, 2, 4, 0.25, 8])}
        | {name: np.float32(data) for name, data in (odd | more).items()}
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=orders, kind=st.sampled_from(KINDS), groups=st.sampled_from([1, 2, 6]), seed=st.integers(0, 9))
@pytest.mark.parametrize("before", [True, False], ids=["before", "behind"])
def test_a_convolution_has_the_order(
    load, listing, evaluate, binary_conv, before: bool, order, kind, groups, seed
) -> None:
    """Where it has groups, only an order within them; and against the graph as it was."""
    rng = np.random.default_rng(seed)
    if groups == 2 and seed % 2:
        order = np.concatenate([np.argsort(order[:3]), 3 + np.argsort(order[3:])])
    if before:
        text = f"g = Gather <axis = 1> (x, order) y = {_convolution(kind, 'g', groups)}"
    else:
        text = f"c = {_convolution(kind, 'x', groups)} y = Gather <axis = 1> (c, order)"
    constants = _constants(binary_conv, rng, groups)
    model = load(f"(float[N,6,4,4] x) => (float[N,6,4,4] y) {{ {text} }}", **constants, order=order)
    feeds = _images(rng)
    wanted, was = evaluate(model, feeds)["y"], listing(model)

    log = run([FoldOrderIntoReader() if before else FoldOrderIntoProducer(), DropUnused()], model)

    stays = (order // (6 // groups) == np.arange(6) // (6 // groups)).all()
    assert listing(model) == ([f"y = {kind}(x)"] if stays else was)
    reason = "y: y has groups, and the order mixes them" if before else "y: c has groups, whose outputs stay together"
    assert [str(refusal).partition(": ")[2] for refusal in log.refusals] == ([] if stays else [reason])
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


def test_constant_channels_stay_behind(load, listing, evaluate, binary_conv, rng) -> None:
    constants = binary_conv(6, 3, kernel=3) | {"W": rng.choice([-1, 1], (3, 8, 3, 3)).astype(np.float32)}
    text = f"y = bnas.BinaryConv2d <pads = [1, 1, 1, 1], constant_channels = [2]> (g, {INPUTS})"
    model = load(
        f"(float[N,6,4,4] x) => (float[N,3,4,4] y) {{ g = Gather <axis = 1> (x, order) {text} }}", **constants, **ORDER
    )
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run([FoldOrderIntoReader(), DropUnused()], model)

    assert listing(model) == ["y = BinaryConv2d(x)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


def test_what_bounds_are_made_of_has_the_order_too(load, binary_conv, rng) -> None:
    text = f"c = {_convolution('BinaryConv2d', 'x')} y = Gather <axis = 1> (c, order)"
    model = load(f"(float[N,6,4,4] x) => (float[N,6,4,4] y) {{ {text} }}", **_constants(binary_conv, rng), **ORDER)
    model.graph[0].meta[BIAS_TERMS] = np.arange(6.0)

    run([FoldOrderIntoProducer()], model)

    assert model.graph[0].meta[BIAS_TERMS].tolist() == ORDER["order"].tolist()


BINARY = f"c = {_convolution('BinaryConv2d', 'x')}"
COMPUTED = "p = ReduceMax (x, axes) v = Mul (w, p) c = Conv <pads = [1, 1, 1, 1]> ({}, v)"
REFUSED = {
    "read": (
        f"{BINARY} y = Gather <axis = 1> (c, order) z = Relu (c)",
        "FoldOrderIntoProducer: y: c is also read in its own order",
    ),
    "sum": (
        f"c = bnas.BinaryConv2dAdd <pads = [1, 1, 1, 1]> (x, {INPUTS}, x) y = Gather <axis = 1> (c, order) "
        "z = Relu (y)",
        "FoldOrderIntoProducer: y: what c adds or multiplies has the order of its channels",
    ),
    "computed weights": (
        f"{COMPUTED.format('x')} y = Gather <axis = 1> (c, order) z = Relu (y)",
        "FoldOrderIntoProducer: y: the weights of c are computed from the input",
    ),
    "computed weights behind": (
        f"y = Gather <axis = 1> (x, order) {COMPUTED.format('y')} z = Relu (c)",
        "FoldOrderIntoReader: c: the weights of c are computed from the input",
    ),
}


@pytest.mark.parametrize(("graph", "refusal"), REFUSED.values(), ids=REFUSED)
def test_an_order_is_kept_because(load, listing, binary_conv, rng, graph: str, refusal: str) -> None:
    constants = _constants(binary_conv, rng) | ORDER | {"axes": np.int64([0, 1, 2, 3])}
    model = load(f"(float[N,6,4,4] x) => (float[N,6,4,4] y, float[N,6,4,4] z) {{ {graph} }}", **constants)
    before = listing(model)

    log = run([FoldOrderIntoProducer(), FoldOrderIntoReader()], model)

    assert list(map(str, log.refusals)) == [refusal]
    assert listing(model) == before


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 0, 1, 2, 3, 4], [5, 4, 3, 2, 1, 0, 0]], ids=["some", "twice", "more"])
def test_a_choice_of_channels_is_no_order(load, listing, binary_conv, order: list[int]) -> None:
    constants = binary_conv(len(order), 3)
    text = f"g = Gather <axis = 1> (x, order) y = bnas.BinaryConv2d <group = 1> (g, {INPUTS})"
    model = load(f"(float[N,6,4,4] x) => (float[N,3,4,4] y) {{ {text} }}", **constants, order=np.int64(order))
    run([FoldOrderIntoReader()], model)
    assert listing(model) == ["g = Gather(x)", "y = BinaryConv2d(g)"]


# --- parts ----------------------------------------------------------------------------------------------------------

PARTS = "g = Gather <axis = 1> (x, order) a, b = Split <axis = 1, num_outputs = 2> (g)"


def test_parts_are_gathered_each(load, listing, evaluate, rng) -> None:
    model = load(f"(float[N,6,4,4] x) => (float[N,3,4,4] y) {{ {PARTS} r = Relu (b) y = Add (a, r) }}", **ORDER)
    feeds = _images(rng)
    wanted = evaluate(model, feeds)["y"]

    run([GatherParts(), DropUnused()], model)

    assert listing(model) == ["a = Gather(x)", "b = Gather(x)", "r = Relu(b)", "y = Add(a, r)"]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


@pytest.mark.parametrize(
    ("text", "outputs", "reason"),
    [
        ("y = Add (a, b) z = Relu (g)", "float[N,3,4,4] y, float[N,6,4,4] z", "g is also read whole"),
        ("y = Relu (b)", "float[N,3,4,4] y, float[N,3,4,4] a", "a part of it is an output of the graph"),
    ],
    ids=["read whole", "output"],
)
def test_parts_are_split_because(load, listing, text: str, outputs: str, reason: str) -> None:
    model = load(f"(float[N,6,4,4] x) => ({outputs}) {{ {PARTS} {text} }}", **ORDER)

    log = run([GatherParts()], model)

    assert list(map(str, log.refusals)) == [f"GatherParts: a: {reason}"]


def test_parts_are_split_because_their_sizes_are_unknown(load) -> None:
    model = load(f"(float[N,6,4,4] x) => (float[N,3,4,4] y) {{ {PARTS} y = Add (a, b) }}", **ORDER)
    part = model.graph[1].outputs[0]
    part.shape = type(part.shape)(["N", "M", 4, 4])
    log = run([GatherParts()], model)
    assert list(map(str, log.refusals)) == ["GatherParts: a: how many channels its parts have is not known"]


# --- strides --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 5, 7])
@pytest.mark.parametrize(("axes", "steps"), [([2, 3], [2, 2]), ([2, 3], [2, 3]), ([3], [2]), ([2], [4])])
def test_a_strided_slice_is_a_pool(load, listing, evaluate, rng, size: int, axes: list[int], steps: list[int]) -> None:
    places = {"starts": [0] * len(axes), "ends": [2**63 - 1] * len(axes), "axes": axes, "steps": steps}
    model = load(
        f"(float[N,3,{size},{size}] x) => (float[N,3,A,B] y) {{ y = Slice (x, starts, ends, axes, steps) }}",
        **{name: np.int64(numbers) for name, numbers in places.items()},
    )
    x = rng.normal(size=(2, 3, size, size)).astype(np.float32)
    x[0, 0] = np.nan
    x[0, 1] = -np.inf
    wanted = evaluate(model, {"x": x})["y"]

    run([StridedSliceToPool()], model)

    assert listing(model) == ["y = AveragePool(x)"]
    assert np.array_equal(evaluate(model, {"x": x})["y"], wanted, equal_nan=True)


@pytest.mark.parametrize(
    "places",
    [
        {"starts": [1], "ends": [9], "axes": [2], "steps": [2]},
        {"starts": [0], "ends": [3], "axes": [2], "steps": [2]},
        {"starts": [0, 0], "ends": [9, 9], "axes": [1, 2], "steps": [2, 2]},
        {"starts": [4], "ends": [-9], "axes": [2], "steps": [-1]},
    ],
    ids=["later start", "earlier end", "channels", "backwards"],
)
def test_other_slices_are_left_alone(load, listing, places: dict[str, list[int]]) -> None:
    backwards = places["steps"] == [-1]
    model = load(
        "(float[N,4,4,4] x) => (float[N,A,B,C] y) { y = Slice (x, starts, ends, axes, steps) }",
        **{name: np.int64([2] if backwards and name == "steps" else numbers) for name, numbers in places.items()},
    )
    if backwards:
        model.graph.initializers["steps"].const_value = ir.tensor(np.int64([-1]))  # PyTorch cannot
    run([StridedSliceToPool()], model)
    assert listing(model) == ["y = Slice(x)"]
