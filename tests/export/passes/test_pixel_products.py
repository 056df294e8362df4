"""Convolutions of one pixel become matrix products, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, PixelConvToGemm
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,4,1,1] x, float[N,3,1,1] w) => (float[N,3,1,1] y)"


def _constants(rng: np.random.Generator, groups: int = 1) -> dict[str, np.ndarray]:
    shapes = {"V": (2, 4 // groups, 1, 1), "b": (2,), "W": (3, 2, 1, 1)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_gate(load, listing, evaluate, rng) -> None:
    model = load(
        f"{HEADER} {{ h = Conv (x, V, b) r = Relu (h) s = Conv (r, W) g = Sigmoid (s) y = Mul (g, w) }}",
        **_constants(rng),
    )
    feeds = {name: rng.normal(size=(3, n, 1, 1)).astype(np.float32) for name, n in (("x", 4), ("w", 3))}
    answer = evaluate(model, feeds)["y"]

    log = run([PixelConvToGemm(), DropUnused()], model)

    assert log.applied["PixelConvToGemm"] == 2
    assert listing(model) == [
        "h.pixel = Reshape(x)",
        "h.vector = Gemm(h.pixel)",
        "r.vector = Relu(h.vector)",
        "s.vector = Gemm(r.vector)",
        "g.vector = Sigmoid(s.vector)",
        "g = Reshape(g.vector)",
        "y = Mul(g, w)",
    ]
    # Sums of four products in another order.
    np.testing.assert_allclose(evaluate(model, feeds)["y"], answer, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("nodes", "groups", "reason"),
    [
        ("h = Conv <group = 2> (x, V) y = Conv (h, W)", 2, "h is grouped"),
        ("c = Relu (b) h = Conv (x, V, c) y = Conv (h, W)", 1, "the weights of h are computed from the input"),
    ],
)
def test_it_stays(load, rng, nodes: str, groups: int, reason: str) -> None:
    log = run([PixelConvToGemm()], load(f"{HEADER} {{ {nodes} }}", **_constants(rng, groups)))
    assert [refusal.reason for refusal in log.refusals] == [reason]


def test_a_convolution_of_several_pixels_is_no_site(load, rng) -> None:
    model = load("(float[N,4,2,1] x) => (float[N,2,2,1] y) { y = Conv (x, V, b) }", **_constants(rng))
    log = run([PixelConvToGemm()], model)
    assert (log.applied["PixelConvToGemm"], log.refusals) == (0, [])
