"""Shapes that are computed become constants, copies of constants are left out, and nothing else changes."""

import numpy as np
import pytest

from bnas_deploy.export.graph import constant_array
from bnas_deploy.export.passes import DropExpand, DropUnused, MeanOfOnePixel, OneSlice, StaticReshape
from bnas_deploy.export.rewrite import run

LARGEST = 2**63 - 1
"""What PyTorch writes where a cut goes on to the end."""

BATCH = "n = Shape <start = 0, end = 1> (x)"
SIZES = {
    "rest": np.int64([4, 2, 2]),
    "one": np.int64([4]),
    "bias": np.arange(4, dtype=np.float32).reshape(1, 4, 1, 1),
    "number": np.float32(3),
    "ones": np.int64([1]),
}


def _ints(**arrays: list[int]) -> dict[str, np.ndarray]:
    return {name: np.int64(numbers) for name, numbers in arrays.items()}


# --- copies of constants --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("copied", ["bias", "number"])
@pytest.mark.parametrize("operator", ["Add (x, e)", "Sub (e, x)", "Mul (x, e)", "Div (x, e)", "PRelu (x, e)"])
def test_what_broadcasts_needs_no_copies(load, listing, evaluate, rng, copied: str, operator: str) -> None:
    text = f"{BATCH} s = Concat <axis = 0> (n, rest) e = Expand ({copied}, s) y = {operator}"
    model = load(f"(float[N,4,2,2] x) => (float[N,4,2,2] y) {{ {text} }}", **SIZES)
    feeds = {"x": rng.normal(size=(3, 4, 2, 2)).astype(np.float32)}
    with np.errstate(divide="ignore"):
        wanted = evaluate(model, feeds)["y"]

        run([DropExpand(), DropUnused()], model)

        assert listing(model) == [f"y = {operator.split()[0]}(x)"]
        assert np.array_equal(evaluate(model, feeds)["y"], wanted)


KEPT = "y reads the copies, or nothing beside them has their shape"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        ("y = Concat <axis = 1> (x, e)", "y reads the copies, or nothing beside them has their shape"),
        (
            "m = Slice (x, zero, one_, zero) y = Add (m, e)",
            "y reads the copies, or nothing beside them has their shape",
        ),
        ("y = PRelu (e, bias)", "y reads the copies, or nothing beside them has their shape"),
        ("y = Add (e, e)", "y reads the copies, or nothing beside them has their shape"),
        ("y = Identity (x)", "it is an output of the graph"),
    ],
    ids=["concatenated", "beside a smaller one", "with a slope", "with itself", "output"],
)
def test_copies_are_kept_because(load, listing, graph: str, reason: str) -> None:
    outputs = "float[N,4,2,2] y" + (", float[N,4,2,2] e" if "output" in reason else "")
    model = load(
        f"(float[N,4,2,2] x) => ({outputs}) {{ {BATCH} s = Concat <axis = 0> (n, rest) e = Expand (bias, s) {graph} }}",
        **SIZES,
        **_ints(zero=[0], one_=[1]),
    )
    before = listing(model)

    log = run([DropExpand()], model)

    assert list(map(str, log.refusals)) == [f"DropExpand: e: {reason}"]
    assert listing(model) == before


# --- reshapes -------------------------------------------------------------------------------------------------------

RESHAPED = {
    "view": (f"{BATCH} s = Concat <axis = 0> (n, flat) y = Reshape (x, s)", [0, 16]),
    "minus one": (f"{BATCH} s = Concat <axis = 0> (n, rest) y = Reshape (x, s)", [0, 16]),
    "flatten": ("y = Flatten (x)", [0, 16]),
    "batch elsewhere": (f"{BATCH} s = Concat <axis = 0> (two, n, eight) y = Reshape (x, s)", [2, -1, 8]),
    "two axes": (f"{BATCH} s = Concat <axis = 0> (n, flat) v = Reshape (x, s) y = Unsqueeze (v, axes)", [0, 16, 1, 1]),
    "chain": (
        f"{BATCH} s = Concat <axis = 0> (n, flat) v = Reshape (x, s) u = Unsqueeze (v, axes) y = Squeeze (u, axes)",
        [0, 16],
    ),
}


@pytest.mark.parametrize(("graph", "target"), RESHAPED.values(), ids=RESHAPED)
def test_a_reshape_has_a_constant_shape(load, listing, evaluate, rng, graph: str, target: list[int]) -> None:
    numbers = _ints(flat=[16], rest=[-1], two=[2], eight=[8], axes=[2, 3])
    model = load(f"(float[N,4,2,2] x) => (float[N,A] y) {{ {graph} }}", **numbers)
    feeds = {"x": rng.normal(size=(3, 4, 2, 2)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([StaticReshape(), DropUnused()], model)

    assert listing(model) == ["y = Reshape(x)"]
    assert constant_array(model.graph[0].inputs[1]).tolist() == target
    got = evaluate(model, feeds)["y"]
    assert got.shape == wanted.shape
    assert (got == wanted).all()
    # A batch of none, too, where it is written as the input's: -1 could be anything then.
    assert target[0] != 0 or evaluate(model, {"x": feeds["x"][:0]})["y"].shape == (0, *wanted.shape[1:])


def test_what_is_reshaped_back_is_itself(load, listing) -> None:
    model = load(
        "(float[N,4,2,2] x) => (float[N,4,2,2] y) { f = Flatten (x) v = Reshape (f, image) y = Relu (v) }",
        image=np.int64([-1, 4, 2, 2]),
    )
    run([StaticReshape(), DropUnused()], model)
    assert listing(model) == ["y = Relu(x)"]


def test_a_reshape_is_kept_because_two_sizes_are_unknown(load, listing) -> None:
    model = load("(float[N,4,2,2] x) => (float[N,A] y) { y = Flatten (x) }")
    model.graph[0].outputs[0].shape = type(model.graph[0].outputs[0].shape)(["N", "M"])

    log = run([StaticReshape()], model)

    assert list(map(str, log.refusals)) == ["StaticReshape: y: more than one size of y is unknown"]
    assert listing(model) == ["y = Flatten(x)"]


def test_reshapes_of_sizes_are_left_alone(load, listing) -> None:
    model = load(
        f"(float[N,4,2,2] x) => (float[N,4,2,2] y) "
        f"{{ {BATCH} s = Reshape (n, ones) t = Concat <axis = 0> (s, rest) y = Reshape (x, t) }}",
        **SIZES,
    )
    run([StaticReshape()], model)
    assert "s = Reshape(n)" in listing(model)


@pytest.mark.parametrize(
    "mean", ["ReduceMean <keepdims = 0> (x, axes)", "ReduceMean (x, axes)", "GlobalAveragePool (x)"]
)
def test_a_mean_of_one_pixel_is_the_pixel(load, listing, evaluate, rng, mean: str) -> None:
    model = load(f"(float[N,4,1,1] x) => (float[N,A] y) {{ m = {mean} y = Relu (m) }}", axes=np.int64([-1, 2]))
    feeds = {"x": rng.normal(size=(3, 4, 1, 1)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([MeanOfOnePixel(), StaticReshape(), DropUnused()], model)

    assert listing(model) == (["m = Reshape(x)", "y = Relu(m)"] if "= 0" in mean else ["y = Relu(x)"])
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


def test_a_mean_of_more_pixels_is_computed(load, listing) -> None:
    model = load("(float[N,4,1,2] x) => (float[N,A] y) { y = ReduceMean (x, axes) }", axes=np.int64([-1, 2]))
    run([MeanOfOnePixel()], model)
    assert listing(model) == ["y = ReduceMean(x)"]


def test_a_mean_of_one_pixel_is_computed_because_two_sizes_are_unknown(load, listing) -> None:
    model = load("(float[N,4,1,1] x) => (float[N,A] y) { y = ReduceMean (x, axes) }", axes=np.int64([-1, 2]))
    model.graph[0].outputs[0].shape = type(model.graph[0].outputs[0].shape)(["N", "M", 1, 1])

    log = run([MeanOfOnePixel()], model)

    assert list(map(str, log.refusals)) == ["MeanOfOnePixel: y: more than one size of y is unknown"]


# --- cuts -----------------------------------------------------------------------------------------------------------


def test_a_strided_shortcut_is_one_slice(load, listing, evaluate, rng) -> None:
    """x[:, :, ::2, ::2] as torch.onnx writes it."""
    model = load(
        "(float[N,4,5,6] x) => (float[N,4,3,3] y) "
        "{ a = Slice (x, zero, end, zero, one) b = Slice (a, zero, end, two, two) "
        "y = Slice (b, zero, end, three, two) }",
        **_ints(zero=[0], end=[LARGEST], one=[1], two=[2], three=[3]),
    )
    feeds = {"x": rng.normal(size=(2, 4, 5, 6)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([OneSlice(), DropUnused()], model)

    assert listing(model) == ["y = Slice(x)"]
    assert [constant_array(value).tolist() for value in model.graph[0].inputs[1:]] == [
        [0, 0],
        [LARGEST, LARGEST],
        [2, 3],
        [2, 2],
    ]
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)


@pytest.mark.parametrize(
    ("graph", "after"),
    [
        ("a = Slice (x, zero, end, two) y = Relu (a)", ["y = Relu(x)"]),
        ("a = Slice (x, zero, five, two) y = Relu (a)", ["y = Relu(x)"]),
        ("a = Slice (x, from_end, five, two) y = Relu (a)", ["y = Relu(x)"]),
        ("y = Slice (x, zero, end, two)", ["y = Slice(x)"]),
        # The same axis twice, or a reader between: two cuts.
        ("a = Slice (x, one, five, two) y = Slice (a, one, five, two)", ["a = Slice(x)", "y = Slice(a)"]),
        (
            "a = Slice (x, one, five, two) y = Slice (a, one, five, three) z = Relu (a)",
            ["a = Slice(x)", "y = Slice(a)", "z = Relu(a)"],
        ),
    ],
    ids=["to the end", "to the size", "from the end", "output", "one axis", "read between"],
)
def test_cuts(load, listing, evaluate, rng, graph: str, after: list[str]) -> None:
    numbers = _ints(zero=[0], end=[LARGEST], one=[1], two=[2], three=[3], five=[5], from_end=[-5])
    outputs = "float[N,4,A,B] y" + (", float[N,4,A,B] z" if "z =" in graph else "")
    model = load(f"(float[N,4,5,6] x) => ({outputs}) {{ {graph} }}", **numbers)
    feeds = {"x": rng.normal(size=(2, 4, 5, 6)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    log = run([OneSlice(), DropUnused()], model)

    assert listing(model) == after
    assert np.array_equal(evaluate(model, feeds)["y"], wanted)
    assert [str(refusal) for refusal in log.refusals] == (
        ["OneSlice: y: it is an output of the graph"] if after == ["y = Slice(x)"] else []
    )
