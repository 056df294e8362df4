"""A mean of 2x2 pixels becomes an operator of images, with the PReLU in front of it, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, FuseMeanPool, PReluOfImages
from bnas_deploy.export.pieces import corner_check
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,{0}] x) => (float[N,3,{1}] y, float[N,3,{0}] z)"
POOL = 'y = AveragePool <auto_pad = "NOTSET", ceil_mode = 1, kernel_shape = [2, 2], strides = [2, 2]> ({})'
CONV = "c = bnas.BinaryConv2d (x, W, threshold, offset, scale, bias)"
SLOPES = np.float32([0.25, -1, 3]).reshape(3, 1, 1)
PASSES = [PReluOfImages(), FuseMeanPool(), DropUnused()]


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (f"p = PRelu (x, slope) {POOL.format('p')} z = Abs (x)", ["y = PReluMeanPool(x)", "z = Abs(x)"]),
        (f"{CONV} {POOL.format('c')} z = Abs (c)", ["c = BinaryConv2d(x)", "y = PReluMeanPool(c)", "z = Abs(c)"]),
        (
            f"p = PRelu (x, slope) {POOL.format('p')} z = Abs (p)",
            ["p = PRelu(x)", "y = PReluMeanPool(p)", "z = Abs(p)"],
        ),
    ],
    ids=["PReLU", "behind a convolution", "behind a shared PReLU"],
)
def test_one_pass(load, listing, evaluate, rng, binary_conv, nodes: str, wanted: list[str]) -> None:
    model = load(f"{HEADER.format('4,6', '2,3')} {{ {nodes} }}", slope=SLOPES, **binary_conv(3, 3))
    x = rng.normal(size=(2, 3, 4, 6)).astype(np.float32)
    before = evaluate(model, {"x": x})

    log = run(PASSES, model)

    assert (log.applied["FuseMeanPool"], log.refusals) == (1, [])
    assert listing(model) == wanted
    for name in "yz":  # sums of four, in any order
        np.testing.assert_allclose(evaluate(model, {"x": x})[name], before[name], rtol=1e-6, atol=1e-6)


OTHER = "it is no mean of 2x2 pixels with a stride of 2 and without padding"


@pytest.mark.parametrize(
    ("sizes", "pool", "reason"),
    [
        (("4,6", "3,5"), "kernel_shape = [2, 2]", OTHER),
        (("4,6", "2,3"), "kernel_shape = [1, 1], strides = [2, 2]", OTHER),
        (("4,6", "2,3"), 'kernel_shape = [2, 2], strides = [2, 2], auto_pad = "VALID"', OTHER),
        (("4,6", "3,4"), "kernel_shape = [2, 2], strides = [2, 2], pads = [1, 1, 1, 1]", OTHER),
        (("5,6", "2,3"), "kernel_shape = [2, 2], strides = [2, 2]", "the sides of p are not known to be even"),
    ],
    ids=["stride 1", "one pixel", "automatic padding", "padding", "odd"],
)
def test_it_stays(load, listing, sizes: tuple[str, str], pool: str, reason: str) -> None:
    nodes = f"p = PRelu (x, slope) y = AveragePool <{pool}> (p) z = Abs (x)"
    model = load(f"{HEADER.format(*sizes)} {{ {nodes} }}", slope=SLOPES)

    log = run(PASSES, model)

    assert listing(model) == ["p = PRelu(x)", "y = AveragePool(p)", "z = Abs(x)"]
    assert list(map(str, log.refusals)) == [f"FuseMeanPool: y: {reason}"]


def test_between_float_layers_it_stays(load, listing) -> None:
    model = load(f"{HEADER.format('4,6', '2,3')} {{ p = Relu (x) {POOL.format('p')} z = Abs (x) }}")
    log = run(PASSES, model)
    assert listing(model) == ["p = Relu(x)", "y = AveragePool(p)", "z = Abs(x)"]
    assert log.refusals == []


def test_its_bound_holds_and_one_wrong_slope_is_outside(load, rewritten, rng) -> None:
    nodes = f"p = PRelu (x, slope) {POOL.format('p')} z = Abs (x)"
    model = load(f"{HEADER.format('40,16', '20,8')} {{ {nodes} }}", slope=SLOPES)
    y = rewritten(model, {"x": rng.normal(size=(1, 3, 40, 16)).astype(np.float32)}, PASSES)

    assert y.is_within_its_bound()
    corner = corner_check(y.piece, y.recorded)
    assert ([each.shape for each in corner.inputs], corner.output.shape) == ([(1, 3, 12, 12)], (1, 3, 6, 6))
    y.multiply(y.piece.nodes[-1], "slope", 1.0001)
    assert not y.is_within_its_bound()
