"""A gate that reads what it scales becomes one operator with the BN and the sum behind it, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.finish import finish
from bnas_deploy.export.passes import DropUnused, FuseAddition, GateImages
from bnas_deploy.export.pieces import corner_check
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.session import create_session, session_options

HEADER = "(float[N,3,4,5] x, float[N,3,1,1] h, float[N,3,4,5] r) => (float[N,3,4,5] y, float[N,3,4,5] z)"
NORM = "BatchNormalization ({}, gamma, beta, mean, var)"
GATE = "g = Sigmoid (h)"
PASSES = [GateImages(), FuseAddition(), DropUnused()]


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    return {**named, "var": np.float32([0.5, 1, 2])}


def _feeds(rng: np.random.Generator, images: int) -> dict[str, np.ndarray]:
    shapes = {"x": (images, 3, 4, 5), "h": (images, 3, 1, 1), "r": (images, 3, 4, 5)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (f"p = Mul (g, x) y = {NORM.format('p')}", ["y = GateAffine(x, g)"]),
        (f"p = Mul (g, x) n = {NORM.format('p')} y = Add (n, r)", ["y = GateAffineAdd(x, g, r)"]),
        (f"p = Mul (x, g) n = {NORM.format('p')} y = Add (r, n)", ["y = GateAffineAdd(x, g, r)"]),
        ("p = Mul (x, g) y = Add (p, r)", ["y = GateAffineAdd(x, g, r)"]),
        (
            f"q = Mul (x, g) p = Mul (q, r) n = {NORM.format('p')} y = Add (n, r)",
            ["n.images0 = Mul(x, r)", "y = GateAffineAdd(n.images0, g, r)"],
        ),
    ],
    ids=["a BN", "a BN and a sum", "the other way round", "a sum", "two images"],
)
@pytest.mark.parametrize("images", [1, 3])
def test_one_pass(load, listing, rng, tmp_path, nodes: str, wanted: list[str], images: int) -> None:
    """It is computed by onnxruntime, for one image and for several."""
    model = load(f"{HEADER} {{ {GATE} {nodes} z = Relu (r) }}", **_constants(rng))
    feeds, answers = _feeds(rng, images), []
    for number in range(2):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(finish(model).SerializeToString())
        answers.append(create_session(path, session_options(library=False)).run(["y"], feeds)[0])
        run(PASSES, model)

    assert listing(model) == ["g = Sigmoid(h)", *wanted, "z = Relu(r)"]
    # A product of three numbers of some units, and two sums: a few roundings of each.
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


NO_GATE = "it is no product of images and one gate, which nobody else reads"


@pytest.mark.parametrize(
    ("nodes", "reasons"),
    [
        (f"{GATE} p = Mul (g, x) y = {NORM.format('p')} z = Relu (p)", [NO_GATE]),
        (f"p = Mul (r, x) y = {NORM.format('p')} z = Relu (r)", [NO_GATE]),
        (f"{GATE} p = Mul (g, x) y = Relu (p) z = Relu (r)", []),
        ("p = Mul (r, x) y = Add (p, r) z = Relu (r)", []),
        (f"{GATE} w = ReduceMax <keepdims = 1> (x, rows) p = Mul (g, w) q = Mul (p, r) n = {NORM.format('q')} "
         "y = Add (n, r) z = Relu (r)", ["a factor has not all pixels"]),
    ],
    ids=["shared", "no gate", "nothing behind", "a sum of no gate", "a row"],
)  # fmt: skip
def test_it_stays(load, listing, rng, nodes: str, reasons: list[str]) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng), rows=np.int64([2]))
    before = listing(model)

    log = run([GateImages()], model)

    assert listing(model) == before
    assert [each.reason for each in log.refusals] == reasons


def test_a_sum_alone_is_exact(load, evaluate, rng) -> None:
    model = load(f"{HEADER} {{ {GATE} p = Mul (g, x) y = Add (p, r) z = Relu (r) }}")
    feeds = _feeds(rng, 2)
    before = evaluate(model, feeds)["y"]
    run(PASSES, model)
    np.testing.assert_array_equal(evaluate(model, feeds)["y"], before)


def test_its_bound_holds_and_one_wrong_slope_is_outside(load, rewritten, rng) -> None:
    nodes = f"{GATE} q = Mul (g, x) p = Mul (q, r) n = {NORM.format('p')} y = Add (n, r) z = Relu (r)"
    y = rewritten(load(f"{HEADER} {{ {nodes} }}", **_constants(rng)), _feeds(rng, 1), PASSES)

    assert y.is_within_its_bound()
    corner = corner_check(y.piece, y.recorded)
    assert [each.shape[2:] for each in corner.inputs].count((1, 1)) == 1  # the gate; images are fed in part
    y.multiply(y.piece.nodes[-1], "scale2", [1, 1.0001, 1])
    assert not y.is_within_its_bound()
