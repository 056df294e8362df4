"""Slices that share out a float convolution's channels are one Split, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, SlicesToSplit
from bnas_deploy.export.rewrite import run

CONSTANTS = {
    "w": np.arange(12, dtype=np.float32).reshape(6, 2, 1, 1),
    **{f"n{number}": np.int64([number]) for number in range(7)},
    "rest": np.int64([-4]),
    "end": np.int64([2**62]),
    "along": np.int64([1]),
}
HEADER = "(float[N,2,4,4] x)"
CONV = "y = Conv (x, w)"


def test_slices_of_all_channels(load, listing, evaluate, rng) -> None:
    text = f"""{HEADER} => (float[N,2,4,4] p, float[N,4,4,4] q, float[N,4,4,4] r)
    {{ {CONV} b = Slice (y, rest, end, along) a = Slice (y, n0, n2, along) p = Relu (a) q = Relu (b) r = Abs (b) }}"""
    model = load(text, **CONSTANTS)
    feeds = {"x": rng.normal(size=(3, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)

    log = run([SlicesToSplit(), DropUnused()], model)

    assert log.applied["SlicesToSplit"] == 1
    assert listing(model) == ["y = Conv(x)", "a = Split(y)", "p = Relu(a)", "q = Relu(b)", "r = Abs(b)"]
    assert [value.name for value in model.graph.node(1).outputs] == ["a", "b"]
    assert sorted(model.graph.initializers) == ["w", "y.parts"]
    got = evaluate(model, feeds)
    assert all((got[name] == wanted[name]).all() for name in "pqr")


@pytest.mark.parametrize(
    ("slices", "reason"),
    [
        ("a = Slice (y, n0, n2, along) b = Slice (y, n2, n6, along) r = Abs (y)", "y is also read whole"),
        (
            "a = Slice (y, n0, n3, along) b = Slice (y, n2, n6, along) r = Abs (b)",
            "its parts overlap, or are not all channels of y",
        ),
        (
            "a = Slice (y, n0, n2, along) b = Slice (y, n2, n5, along) r = Abs (b)",
            "its parts overlap, or are not all channels of y",
        ),
        (
            "a = Slice (y, n1, n2, along) b = Slice (y, n2, n6, along) r = Abs (b)",
            "its parts overlap, or are not all channels of y",
        ),
        (
            "a = Slice (y, n0, n2, n2) b = Slice (y, n2, n6, along) r = Abs (b)",
            "a Slice of y cuts along other axes than the channels",
        ),
        ("a = Slice (y, n0, n2, along) r = Slice (y, n2, n6, along)", "a part of y is an output of the graph"),
    ],
    ids=["whole", "overlap", "last missing", "first missing", "rows", "output"],
)
def test_other_slices_stay(load, listing, slices: str, reason: str) -> None:
    model = load(f"{HEADER} => (float[N,2,4,4] r) {{ {CONV} {slices} }}", **CONSTANTS)
    before = listing(model)

    log = run([SlicesToSplit()], model)

    assert listing(model) == before
    assert [refusal.reason for refusal in log.refusals] == [reason]
