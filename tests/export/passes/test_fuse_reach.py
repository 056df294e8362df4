"""Activations of two bits become operators of images, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import constant_array
from bnas_deploy.export.passes import DropUnused, FuseReach, FuseSecondBit
from bnas_deploy.export.pieces import corner_check
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,4,5] a, float[N,3,4,5] b, float[N,3,4,5] r) => (float[N,3,4,5] y, float[N,3,4,5] z)"
SUM = "c = GreaterOrEqual (a, t) g = Cast <to = 1> (c) p = Mul (b, g) s = Add (a, p)"
NORM = "{} = BatchNormalization ({}, gamma, beta, mean, var)"
ACTIVATION = "i = Sub ({}, shift) l = PRelu (i, slope) o = Add (l, shift)"
REACHED = "y = ReachAddAffinePReluAffineAddAffine(b, a, r)"


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    named |= {name: rng.normal(size=(3, 1, 1)).astype(np.float32) for name in ("shift", "slope", "t")}
    return {**named, "var": np.float32([0.5, 1, 2])}


def _feeds(rng: np.random.Generator, images: int) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=(images, 3, 4, 5)).astype(np.float32) for name in "abr"}


WHOLE = f"{SUM} {NORM.format('m', 's')} {ACTIVATION.format('m')} q = Add (o, r) {NORM.format('y', 'q')}"


@pytest.mark.parametrize(
    "nodes",
    [
        WHOLE,
        WHOLE.replace("Mul (b, g)", "Mul (g, b)").replace("Add (a, p)", "Add (p, a)").replace("(o, r)", "(r, o)"),
        f"{SUM} l = PRelu (s, slope) y = Add (l, r)",
    ],
    ids=["all", "the other way round", "the least"],
)
@pytest.mark.parametrize("images", [1, 3])
def test_one_pass(load, listing, evaluate, rng, nodes: str, images: int) -> None:
    model = load(f"{HEADER} {{ {nodes} z = Relu (r) }}", **_constants(rng))
    feeds = _feeds(rng, images)
    feeds["a"][:, :, 0, 0] = constant_array(model.graph.initializers["t"]).reshape(1, 3)  # on the border
    before = evaluate(model, feeds)["y"]

    log = run([FuseReach(), DropUnused()], model)

    assert log.applied["FuseReach"] == 1
    assert listing(model) == [REACHED, "z = Relu(r)"]
    # Sums of some units and two BNs: a few roundings of each.
    np.testing.assert_allclose(evaluate(model, feeds)["y"], before, rtol=1e-5, atol=1e-5)


ALONE = "no PReLU and no sum of images follow that nobody else reads"


@pytest.mark.parametrize(
    ("nodes", "reasons"),
    [
        (f"{SUM} y = Relu (s) z = Relu (r)", [ALONE]),
        (f"{SUM} l = PRelu (s, slope) y = Add (l, r) z = Relu (s)", [ALONE]),
        (f"{SUM} l = PRelu (s, slope) y = Relu (l) z = Relu (r)", [ALONE]),
        (f"{SUM} l = PRelu (s, slope) y = Add (l, r) z = Relu (g)", []),  # no gate that one sum alone reads
        (f"{SUM.replace('Add (a, p)', 'Add (r, p)')} l = PRelu (s, slope) y = Add (l, r) z = Relu (r)", []),
    ],
    ids=["no PReLU", "shared", "no sum", "shared gate", "another sum"],
)
def test_it_stays(load, listing, rng, nodes: str, reasons: list[str]) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng))
    before = listing(model)

    log = run([FuseReach()], model)

    assert listing(model) == before
    assert [each.reason for each in log.refusals] == reasons


@pytest.mark.parametrize("name", ["scale3", "slope", "bias2"])
def test_its_bound_holds_and_one_wrong_number_is_outside(load, rewritten, rng, name: str) -> None:
    model = load(f"{HEADER} {{ {WHOLE} z = Relu (r) }}", **_constants(rng))
    y = rewritten(model, _feeds(rng, 1), [FuseReach(), DropUnused()])

    assert y.is_within_its_bound()
    assert {each.shape[2:] for each in corner_check(y.piece, y.recorded).inputs} == {(4, 5)}
    y.multiply(y.piece.nodes[-1], name, 1.0001)
    assert not y.is_within_its_bound()


BIT = "m = Abs (a) d = Sub (t, m) y = Mul (a, d)"


@pytest.mark.parametrize("nodes", [BIT, BIT.replace("(a, d)", "(d, a)")], ids=["as it is", "the other way round"])
def test_a_second_bit_is_exact(load, listing, evaluate, rng, nodes: str) -> None:
    model = load(f"{HEADER} {{ {nodes} z = Add (b, r) }}", **_constants(rng))
    feeds = _feeds(rng, 2)
    before = evaluate(model, feeds)["y"]

    run([FuseSecondBit(), DropUnused()], model)

    assert listing(model) == ["y = SecondBit(a)", "z = Add(b, r)"]
    np.testing.assert_array_equal(evaluate(model, feeds)["y"], before)


@pytest.mark.parametrize(
    "nodes",
    [
        f"{BIT} z = Relu (d)",
        BIT.replace("Sub (t, m)", "Sub (m, t)") + " z = Relu (b)",
        BIT.replace("Mul (a, d)", "Mul (b, d)") + " z = Relu (b)",
    ],
    ids=["shared", "the other difference", "another factor"],
)
def test_other_products_stay(load, listing, rng, nodes: str) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng))
    before = listing(model)

    log = run([FuseSecondBit()], model)

    assert (listing(model), log.refusals) == (before, [])


def test_the_second_bit_of_vectors_stays(load, rng) -> None:
    model = load(f"(float[N,3] a) => (float[N,3] y) {{ {BIT} }}", t=np.float32([1, 2, 3]))
    log = run([FuseSecondBit()], model)
    assert list(map(str, log.refusals)) == ["FuseSecondBit: y: what it reads are no images"]
