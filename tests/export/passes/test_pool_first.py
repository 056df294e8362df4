"""A maximum moves in front of what rises, with the same bits, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.passes.pool_first import PoolBeforeRising
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,5,4] x) => (float[N,3,3,2] y, float[N,3,5,4] z)"
POOL = "y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>"


def _slopes(*values: float) -> dict[str, np.ndarray]:
    return {"slope": np.float32(values).reshape(3, 1, 1)}


@pytest.mark.parametrize(
    ("function", "name"),
    [("f = PRelu (x, slope)", "PRelu"), ("f = Add (slope, x)", "Add"), ("f = Mul (x, slope)", "Mul")],
)
def test_what_rises(load, listing, evaluate, rng, function: str, name: str) -> None:
    model = load(f"{HEADER} {{ {function} {POOL} (f) z = Relu (x) }}", **_slopes(0.25, 0, 3))
    x = {"x": rng.normal(size=(2, 3, 5, 4)).astype(np.float32)}
    answer = evaluate(model, x)["y"]

    log = run([PoolBeforeRising()], model)

    assert log.applied == {"PoolBeforeRising": 1}
    assert listing(model)[:2] == ["y.first = MaxPool(x)", f"y = {name}(y.first)"]
    assert (evaluate(model, x)["y"] == answer).all()


@pytest.mark.parametrize(
    ("nodes", "slope", "reason"),
    [
        (f"f = PRelu (x, slope) {POOL} (f) z = Relu (x)", -0.1, "PRelu falls in some channel"),
        (f"f = PRelu (x, slope) {POOL} (f) z = Relu (f)", 0.5, "f is also read without the maximum"),
    ],
)
def test_it_stays(load, nodes: str, slope: float, reason: str) -> None:
    log = run([PoolBeforeRising()], load(f"{HEADER} {{ {nodes} }}", **_slopes(0.25, slope, 3)))
    assert [refusal.reason for refusal in log.refusals] == [reason]


def test_what_a_convolution_takes_in_is_no_site(load) -> None:
    log = run(
        [PoolBeforeRising()], load(f"{HEADER} {{ f = Relu (x) {POOL} (f) z = Relu (x) }}", **_slopes(0.25, 0.5, 3))
    )
    assert log.applied == {"PoolBeforeRising": 0}
    assert not log.refusals
