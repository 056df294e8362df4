"""Cuts of concatenations and concatenations of them are read part by part, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, FlattenConcat, SliceOfConcat
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,2,3,3] a, float[N,3,3,3] b, float[N,4,3,3] c)"
JOINED = "j = Concat <axis = 1> (a, b, c)"


def _feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {name: rng.normal(size=(2, n, 3, 3)).astype(np.float32) for name, n in (("a", 2), ("b", 3), ("c", 4))}


def _cut(begin: int, end: int) -> dict[str, np.ndarray]:
    return {name: np.array([number]) for name, number in (("begin", begin), ("end", end), ("axis", 1))}


@pytest.mark.parametrize(
    ("begin", "end", "wanted"),
    [
        (0, 2, ["y = Relu(a)"]),
        (2, 5, ["y = Relu(b)"]),
        (-4, 2**31, ["y = Relu(c)"]),
        (2, 9, ["s = Concat(b, c)", "y = Relu(s)"]),
    ],
)
def test_whole_parts(load, listing, evaluate, rng, begin: int, end: int, wanted: list[str]) -> None:
    channels = len(range(9)[begin:end])
    text = f"{HEADER} => (float[N,{channels},3,3] y) {{ {JOINED} s = Slice (j, begin, end, axis) y = Relu (s) }}"
    model = load(text, **_cut(begin, end))
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]

    log = run([SliceOfConcat(), DropUnused()], model)

    assert log.applied["SliceOfConcat"] == 1
    assert listing(model) == wanted
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_a_cut_through_a_part_stays(load, listing) -> None:
    model = load(
        f"{HEADER} => (float[N,3,3,3] y) {{ {JOINED} s = Slice (j, begin, end, axis) y = Relu (s) }}", **_cut(1, 4)
    )
    before = listing(model)

    log = run([SliceOfConcat()], model)

    assert listing(model) == before
    assert "it cuts through a part" in str(log.refusals[0])


def test_an_output_of_the_graph_stays(load) -> None:
    model = load(f"{HEADER} => (float[N,2,3,3] y) {{ {JOINED} y = Slice (j, begin, end, axis) }}", **_cut(0, 2))
    assert "it is an output of the graph" in str(run([SliceOfConcat()], model).refusals[0])


def test_up_to_four_parts_are_joined_at_once(load, listing, evaluate, rng) -> None:
    text = (
        f"{HEADER} => (float[N,13,3,3] y, float[N,15,3,3] z) {{ "
        "i = Concat <axis = 1> (a, b) j = Concat <axis = 1> (i, c) y = Concat <axis = 1> (j, c) "
        "z = Concat <axis = 1> (y, a) }"
    )
    model = load(text)
    feeds = _feeds(rng)
    answers = evaluate(model, feeds)

    log = run([FlattenConcat(), DropUnused()], model)

    assert listing(model) == ["y = Concat(a, b, c, c)", "z = Concat(y, a)"]
    assert "5 parts are more than 4" in str(log.refusals[0])
    assert all((evaluate(model, feeds)[name] == answers[name]).all() for name in "yz")
