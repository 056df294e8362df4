"""What is multiplied and added between a mean and the layer that reads it becomes part of the layer."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, FoldMeanIntoGemm, MeanOfTerms
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,4,6] x, float[N,3,4,6] a)"
NORM = "n = BatchNormalization (x, gamma, beta, mean, var)"
MEAN = f"{NORM} m = ReduceMean <keepdims = 1> (n, axes) v = Reshape (m, flat)"
GEMM = "y = Gemm <transB = 1> (v, weight, bias)"


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    layer = {"weight": rng.normal(size=(5, 3)).astype(np.float32), "bias": rng.normal(size=5).astype(np.float32)}
    layer["columns"] = layer["weight"].T.copy()
    places = {"axes": np.array([2, 3]), "flat": np.array([0, 3])}
    return {**named, **layer, **places, "var": rng.uniform(0.5, 2, 3).astype(np.float32)}


def _feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: (3 + rng.normal(size=(2, 3, 4, 6))).astype(np.float32) for name in ("x", "a")}


def _prepared(load, text: str, **constants: np.ndarray):
    """Return a model whose means were taken apart, as they are when this pass runs."""
    model = load(text, **constants)
    run([MeanOfTerms(), DropUnused()], model)
    return model


@pytest.mark.parametrize(
    ("nodes", "bias"),
    [
        (f"{MEAN} {GEMM}", "bias"),
        (f"{MEAN} y = Gemm <transB = 1> (v, weight)", ""),
        (f"{NORM} v = ReduceMean <keepdims = 0> (n, axes) {GEMM}", "bias"),
    ],
    ids=["reshaped", "no bias", "a vector already"],
)
def test_constants_behind_a_mean(load, listing, evaluate, rng, nodes: str, bias: str) -> None:
    model = _prepared(load, f"{HEADER} => (float[N,5] y) {{ {nodes} }}", **_constants(rng))
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]

    log = run([FoldMeanIntoGemm(), DropUnused()], model)

    assert log.applied["FoldMeanIntoGemm"] == 1
    assert [line.split(" = ")[1].split("(")[0] for line in listing(model)] == ["ReduceMean", "Gemm"]
    # Three products of some units, each of a mean of 24 floats: some roundings of 2**-24.
    np.testing.assert_allclose(evaluate(model, feeds)["y"], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "word"),
    [
        (f"{MEAN} y = Gemm <transB = 1, alpha = 2.0> (v, weight, bias)", "is scaled, or has its weights by columns"),
        (f"{MEAN} y = Gemm (v, columns, bias)", "is scaled, or has its weights by columns"),
        (f"{MEAN} c = Relu (bias) y = Gemm <transB = 1> (v, weight, c)", "are computed from the input"),
    ],
    ids=["scaled", "transposed", "computed"],
)
def test_products_of_another_kind_stay(load, rng, nodes: str, word: str) -> None:
    model = _prepared(load, f"{HEADER} => (float[N,5] y) {{ {nodes} }}", **_constants(rng))

    log = run([FoldMeanIntoGemm()], model)

    assert log.applied["FoldMeanIntoGemm"] == 0
    (refusal,) = log.refusals
    assert word in refusal.reason


@pytest.mark.parametrize(
    "nodes",
    [
        f"{MEAN} {GEMM} z = Relu (m)",
        f"{MEAN} {GEMM} z = Relu (v)",
        f"m = ReduceMean <keepdims = 1> (x, axes) v = Reshape (m, flat) {GEMM} z = Relu (m)",
    ],
    ids=["mean read elsewhere", "vector read elsewhere", "nothing to fold"],
)
def test_what_others_read_stays(load, listing, rng, nodes: str) -> None:
    shape = "float[N,3] z" if "Relu (v)" in nodes else "float[N,3,1,1] z"
    model = _prepared(load, f"{HEADER} => (float[N,5] y, {shape}) {{ {nodes} }}", **_constants(rng))
    before = listing(model)

    log = run([FoldMeanIntoGemm()], model)

    assert listing(model) == before
    assert not log.refusals


def test_its_bound_holds_and_one_wrong_weight_is_outside(load, rewritten, rng) -> None:
    """PyTorch averages a BN and multiplies the averages; the file multiplies other averages by other numbers."""
    model = load(f"{HEADER} => (float[N,5] y) {{ {MEAN} {GEMM} }}", **_constants(rng))
    feeds = {name: data[:1] for name, data in _feeds(rng).items()}
    y = rewritten(model, feeds, [MeanOfTerms(), DropUnused(), FoldMeanIntoGemm(), DropUnused()])

    assert y.is_within_its_bound()
    y.multiply(next(node for node in y.model.graph if node.op_type == "Gemm"), 1, 1.0001)
    assert not y.is_within_its_bound()
