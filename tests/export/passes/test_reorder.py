"""Functions of channels move to the convolutions beside them; the values stay, and know where they come from."""

import numpy as np
import pytest

from bnas_deploy.export.graph import Origin, origin_of
from bnas_deploy.export.passes import DistributeOverConcat, DropUnused, MoveReshapeBehind
from bnas_deploy.export.rewrite import run

INPUTS = "W, threshold, offset, scale, bias"
DATA = {
    "flat": np.int64([0, 3]),
    "axes": np.int64([2, 3]),
    "gamma": np.float32([1, -1, 2]),
    "beta": np.float32([0, 1, -1]),
    "mean": np.float32([2, 0, -1]),
    "var": np.float32([1, 4, 0.25]),
    "vector": np.float32([1, -2, 0.5]),
    "row": np.float32([[1, -2, 0.5]]),
    "number": np.float32(0.5),
}
PIXEL = f"c = bnas.BinaryConv2d <group = 1> (x, {INPUTS})"

MOVED = {
    "BN": ("n = BatchNormalization <epsilon = 0.0> (f, gamma, beta, mean, var) y = Abs (n)", ["n"]),
    "BN and ReLU": (
        "n = BatchNormalization <epsilon = 0.0> (f, gamma, beta, mean, var) r = Relu (n) y = Abs (r)",
        ["n", "r"],
    ),
    "bias": ("a = Add (f, vector) y = Abs (a)", ["a"]),
    "difference": ("a = Sub (row, f) y = Abs (a)", ["a"]),
    "PReLU": ("a = PRelu (f, vector) y = Abs (a)", ["a"]),
    "number": ("a = Mul (number, f) y = Abs (a)", ["a"]),
}


@pytest.mark.parametrize("reshape", ["Reshape (c, flat)", "Flatten (c)", "Squeeze (c, axes)"])
@pytest.mark.parametrize(("text", "moved"), MOVED.values(), ids=MOVED)
def test_a_reshape_goes_behind(
    load, listing, evaluate, binary_conv, rng, reshape: str, text: str, moved: list[str]
) -> None:
    model = load(
        f"(float[N,4,1,1] x) => (float[N,3] y) {{ {PIXEL} f = {reshape} {text} }}", **binary_conv(4, 3), **DATA
    )
    feeds = {"x": rng.normal(size=(5, 4, 1, 1)).astype(np.float32)}
    wanted = evaluate(model, feeds)

    run([MoveReshapeBehind(), DropUnused()], model)

    lines = listing(model)
    assert [line.split(" = ")[0] for line in lines] == ["c", *(f"{name}.pixel" for name in moved), moved[-1], "y"]
    got = evaluate(model, feeds)
    assert np.array_equal(got["y"], wanted["y"])
    for name in moved:
        assert np.array_equal(got[f"{name}.pixel"].reshape(5, 3), wanted[name])
    pixels = [value for node in model.graph for value in node.outputs if str(value.name).endswith(".pixel")]
    assert [origin_of(value) for value in pixels] == [Origin(name) for name in moved]


def test_a_reshape_stays_because_it_is_read(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,4,1,1] x) => (float[N,3] y, float[N,3] z) "
        f"{{ {PIXEL} f = Reshape (c, flat) y = Relu (f) z = Abs (f) }}",
        **binary_conv(4, 3),
        **DATA,
    )
    before = listing(model)

    log = run([MoveReshapeBehind()], model)

    assert list(map(str, log.refusals)) == ["MoveReshapeBehind: f: f is also read without it"]
    assert listing(model) == before


def test_a_reshape_of_more_pixels_stays(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,4,1,2] x) => (float[N,6] y) {{ {PIXEL} f = Flatten (c) y = Relu (f) }}", **binary_conv(4, 3)
    )
    before = listing(model)
    log = run([MoveReshapeBehind()], model)
    assert log.refusals == []
    assert listing(model) == before


# --- past a concatenation -------------------------------------------------------------------------------------------

SIX = {
    "slopes": np.float32([0.5, 1, 2, 0.25, 4, 0]).reshape(1, 6, 1, 1),
    "shift": np.float32([1, 2, 3, 4, 5, 6]).reshape(6, 1, 1),
    "gamma": np.float32([1, -1, 2, 1, -1, 2]),
    "beta": np.float32([0, 1, -1, 2, 3, 4]),
    "mean": np.float32([2, 0, -1, 1, 1, 1]),
    "var": np.float32([1, 4, 0.25, 1, 4, 0.25]),
    "low": np.float32(-1),
}
TWO = f"{PIXEL} s = Add (c, t) d = bnas.BinaryConv2d <group = 1> (x, {INPUTS}) j = Concat <axis = 1> (s, d)"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("y = PRelu (j, slopes)", ["y"]),
        ("a = Add (j, shift) p = PRelu (a, slopes) y = Add (p, low)", ["a", "p", "y"]),
        ("n = BatchNormalization <epsilon = 0.0> (j, gamma, beta, mean, var) y = Clip (n, low)", ["n", "y"]),
    ],
    ids=["PReLU", "RPReLU", "BN"],
)
def test_functions_of_joined_convolutions_go_to_each(
    load, listing, evaluate, binary_conv, rng, text: str, names: list[str]
) -> None:
    graph = f"(float[N,4,2,2] x, float[N,3,2,2] t) => (float[N,6,2,2] y) {{ {TWO} {text} }}"
    model = load(graph, **binary_conv(4, 3), **SIX)
    feeds = {
        "x": rng.normal(size=(3, 4, 2, 2)).astype(np.float32),
        "t": rng.normal(size=(3, 3, 2, 2)).astype(np.float32),
    }
    wanted = evaluate(model, feeds)

    run([DistributeOverConcat(), DropUnused()], model)

    lines = listing(model)
    assert lines[-1] == "y = Concat(y.0, y.3)"
    assert "Concat" not in "".join(lines[:-1])
    got = evaluate(model, feeds)
    assert np.array_equal(got["y"], wanted["y"])
    made = {str(value.name): value for node in model.graph for value in node.outputs}
    for name in names:
        assert np.array_equal(got[f"{name}.3"], wanted[name][:, 3:])
        assert origin_of(made[f"{name}.3"]) == Origin(name, (3, 4, 5))


REFUSED = {
    "no convolution": (f"{PIXEL} j = Concat <axis = 1> (c, t) y = PRelu (j, slopes) z = Abs (y)", ""),
    "part of another": (
        f"{PIXEL} d = bnas.BinaryConv2d <group = 1> (x, {INPUTS}) j = Concat <axis = 1> (c, d) y = PRelu (j, slopes) "
        "a = Abs (c) z = Concat <axis = 1> (a, a)",
        "a part of j is also read elsewhere",
    ),
    "behind a refused one": (
        f"{PIXEL} j = Concat <axis = 1> (c, t) a = PRelu (j, slopes) y = Add (a, low) z = Abs (y)",
        "",
    ),
}


def test_a_concatenation_that_others_read_is_no_place_for_it(load, listing, binary_conv) -> None:
    graph = f"{TWO} y = PRelu (j, slopes) z = Abs (j)"
    model = load(
        f"(float[N,4,2,2] x, float[N,3,2,2] t) => (float[N,6,2,2] y, float[N,6,2,2] z) {{ {graph} }}",
        **binary_conv(4, 3),
        **SIX,
    )
    before = listing(model)

    log = run([DistributeOverConcat()], model)

    assert log.refusals == []
    assert listing(model) == before


@pytest.mark.parametrize(("graph", "reason"), REFUSED.values(), ids=REFUSED)
def test_functions_of_a_concatenation_stay_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = load(
        f"(float[N,4,2,2] x, float[N,3,2,2] t) => (float[N,6,2,2] y, float[N,6,2,2] z) {{ {graph} }}",
        **binary_conv(4, 3),
        **SIX,
    )
    before = listing(model)

    log = run([DistributeOverConcat()], model)

    # Where nobody would expect that it applies, nothing is said.
    assert [str(refusal) for refusal in log.refusals] == [f"DistributeOverConcat: y: {reason}"] * bool(reason)
    assert listing(model) == before
