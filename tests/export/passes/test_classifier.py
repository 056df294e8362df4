"""A BN in front of a matrix product becomes part of it, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused
from bnas_deploy.export.passes.classifier import FoldBatchNormBeforeGemm
from bnas_deploy.export.rewrite import run

NORM = "n = BatchNormalization (x, gamma, beta, mean, var)"


def _constants(rng: np.random.Generator, *, by_rows: bool = True) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    weight = rng.normal(size=(5, 3) if by_rows else (3, 5)).astype(np.float32)
    return {**named, "var": np.float32([0.5, 1, 2]), "W": weight, "b": rng.normal(size=5).astype(np.float32)}


@pytest.mark.parametrize("bias", ["", ", b"])
@pytest.mark.parametrize("by_rows", [False, True])
def test_it_is_folded(load, listing, evaluate, rng, by_rows: bool, bias: str) -> None:
    text = f"(float[N,3] x) => (float[N,5] y) {{ {NORM} y = Gemm <transB = {int(by_rows)}> (n, W{bias}) }}"
    model = load(text, **_constants(rng, by_rows=by_rows))
    x = {"x": rng.normal(size=(4, 3)).astype(np.float32)}
    answer = evaluate(model, x)["y"]

    log = run([FoldBatchNormBeforeGemm(), DropUnused()], model)

    assert log.applied == {"FoldBatchNormBeforeGemm": 1}
    assert listing(model) == ["y = Gemm(x)"]
    # Sums of three products of some units, folded in float64 and rounded once.
    np.testing.assert_allclose(evaluate(model, x)["y"], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("gemm", "reason"),
    [
        ("y = Gemm <transB = 1, alpha = 0.5> (n, W, b)", "y is scaled, or reads its input by columns"),
        ("v = Relu (W) y = Gemm <transB = 1> (n, v, b)", "the weights of y are computed from the input"),
    ],
)
def test_it_stays(load, rng, gemm: str, reason: str) -> None:
    model = load(f"(float[N,3] x) => (float[N,5] y) {{ {NORM} {gemm} }}", **_constants(rng))
    for node in model.graph:
        node.name = node.outputs[0].name

    log = run([FoldBatchNormBeforeGemm()], model)

    assert [refusal.reason for refusal in log.refusals] == [reason]
