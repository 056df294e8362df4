"""A BN and the maximum behind it become one operator, which reads the parts of what was joined; or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, FuseConcat, PoolOfNorm
from bnas_deploy.export.pieces import CORNER, corner_check
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,14,16] x, float[N,2,14,16] b) => (float[N,C,A,B] y, float[N,D,E,F] z)"
JOINED = "c = Concat <axis = 1> (x, b)"
NORM = "n = BatchNormalization (c, gamma, beta, mean, var)"
MANY = "n = BatchNormalization (c, g, b2, m, v)"
CONV = "a = bnas.BinaryConv2d <group = 1> (x, W, threshold, offset, scale, bias)"
PAIRS = "kernel_shape = [2, 2], strides = [2, 2]"
POOL = f"y = MaxPool <{PAIRS}> (n)"
PASSES = [PoolOfNorm(), FuseConcat(), DropUnused()]


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=5).astype(np.float32) for name in ("gamma", "beta", "mean")}
    named["gamma"][:2] = -1, 2  # falls in one channel, and rises in another
    return {**named, "var": rng.uniform(0.5, 2, 5).astype(np.float32)}


def _feeds(rng: np.random.Generator, images: int = 2) -> dict[str, np.ndarray]:
    sizes = {"x": (images, 3, 14, 16), "b": (images, 2, 14, 16)}
    return {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (f"{JOINED} {NORM} {POOL} z = Abs (x)", ["y = AffineMaxPoolConcat2(x, b)"]),
        (f"{JOINED} {NORM} {POOL} z = Abs (c)", ["c = Concat(x, b)", "y = AffineMaxPoolConcat2(x, b)"]),
        (f"d = Abs (b) c = Concat <axis = 1> (x, x, x, x, d) {MANY} {POOL} z = Abs (x)",
         ["d = Abs(b)", "c = Concat(x, x, x, x, d)", "y = AffineMaxPool(c)"]),
    ],
    ids=["parts", "parts that others read joined", "too many parts"],
)  # fmt: skip
def test_one_pass(load, listing, evaluate, rng, nodes: str, wanted: list[str]) -> None:
    many = {name: np.tile(data, 3)[:14] for name, data in _constants(rng).items()}
    many = dict(zip(("g", "b2", "m", "v"), many.values(), strict=True))
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng), **many)
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]

    run(PASSES, model)

    assert [line for line in listing(model) if not line.startswith("z")] == wanted
    # A product and a sum of some units, where PyTorch has a quotient, too: a few roundings of 2**-24 of each.
    np.testing.assert_allclose(evaluate(model, feeds)["y"], answer, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        (f"{JOINED} {NORM} {POOL} z = Abs (n)", "n is also read without the maximum"),
        (f"{JOINED} {NORM} y = MaxPool <kernel_shape = [3, 3], strides = [2, 2]> (n) z = Abs (x)", "another maximum"),
        (f"{JOINED} {NORM} y = MaxPool <{PAIRS}, pads = [1, 1, 1, 1]> (n) z = Abs (x)", "another maximum"),
        (f"{JOINED} n = Relu (c) {POOL} z = Abs (x)", ""),
        (f"{CONV} r = Relu (a) n = BatchNormalization (r, gamma, beta, mean, var) {POOL} z = Abs (b)", ""),
    ],
    ids=["shared", "3x3", "padded", "no BN", "a convolution takes it in"],
)
def test_both_stay(load, listing, binary_conv, rng, nodes: str, reason: str) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng), **binary_conv(3, 5))
    before = listing(model)

    log = run([PoolOfNorm()], model)

    assert listing(model) == before
    assert len(log.refusals) == bool(reason)
    assert all(reason in str(each) for each in log.refusals)


def test_its_bound_holds_and_one_wrong_slope_is_outside(load, rewritten, rng) -> None:
    model = load(f"{HEADER} {{ {JOINED} {NORM} {POOL} z = Abs (x) }}", **_constants(rng))
    y = rewritten(model, _feeds(rng, 1), PASSES)

    assert y.is_within_its_bound()
    check = corner_check(y.piece, y.recorded)
    assert [each.shape[2:] for each in check.inputs] == [(2 * CORNER, 2 * CORNER)] * 2
    y.multiply(y.piece.nodes[-1], "scale2", [1, 1, 1, 1, 1.0001])
    assert not y.is_within_its_bound()
