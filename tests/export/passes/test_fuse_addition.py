"""Sums become part of the binary convolutions before them, in the order in which they were, or stay and say why."""

import numpy as np
import pytest

from bnas_deploy.export.graph import Origin, origin_of
from bnas_deploy.export.passes import DistributeAddition, DropUnused, FuseAddition, FuseConcat
from bnas_deploy.export.rewrite import run

CONSTANTS = "W, threshold, offset, scale, bias"


def _conv(x: str, operator: str = "BinaryConv2dRelu") -> str:
    return f"bnas.{operator} ({x}, {CONSTANTS})"


def _random(rng, *names: str) -> dict[str, np.ndarray]:
    """Values whose sums round, so that another order of summing shows."""
    return {name: rng.normal(size=(2, 3, 4, 4)).astype(np.float32) for name in names}


@pytest.mark.parametrize("total", ["Add (c, a)", "Add (a, c)"])
@pytest.mark.parametrize("operator", ["BinaryConv2d", "BinaryConv2dRelu", "BinaryConv2dK"])
def test_one_addition(load, listing, evaluate, binary_conv, rng, operator: str, total: str) -> None:
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y) {{ c = {_conv('x', operator)} y = {total} }}",
        **binary_conv(3, 3),
    )
    model.graph[1].outputs[0].meta["origin"] = Origin("sum", (4, 5, 6))
    feeds = _random(rng, "x", "a")
    answer = evaluate(model, feeds)["y"]

    log = run([FuseAddition()], model)

    assert log.applied == {"FuseAddition": 1}
    assert listing(model) == [f"y = {operator}Add(x, a)"]
    assert (evaluate(model, feeds)["y"] == answer).all()
    assert model.graph[0].name == "c"  # the name of the layer, which people know
    assert origin_of(model.graph[0].outputs[0]) == Origin("sum", (4, 5, 6))


def test_two_branches_and_a_skip_keep_their_order(load, listing, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y) {{ c = {_conv('x')} d = {_conv('a')} "
        "s = Add (c, d) y = Add (s, a) }",
        **binary_conv(3, 3),
    )
    feeds = _random(rng, "x", "a")
    answer = evaluate(model, feeds)["y"]

    log = run([FuseAddition()], model)

    assert log.applied == {"FuseAddition": 2}
    assert listing(model) == ["c = BinaryConv2dRelu(x)", "y = BinaryConv2dReluAddAdd(a, c, a)"]
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_of_two_convolutions_the_one_that_adds_less_takes_the_sum(load, listing, binary_conv) -> None:
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y) {{ c = {_conv('x')} "
        f"d = bnas.BinaryConv2dReluAdd (x, {CONSTANTS}, a) y = Add (d, c) }}",
        **binary_conv(3, 3),
    )

    run([FuseAddition()], model)

    assert listing(model) == ["d = BinaryConv2dReluAdd(x, a)", "y = BinaryConv2dReluAdd(x, d)"]


TAKEN = "each convolution that it reads is read elsewhere too, or no operator adds once more than it does"


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (f"c = {_conv('x')} y = Add (c, a) z = Relu (c)", TAKEN),
        (f"c = {_conv('x')} y = Add (c, c) z = Relu (a)", TAKEN),
        (f"c = bnas.BinaryConv2dAddAdd (x, {CONSTANTS}, a, a) y = Add (c, a) z = Relu (a)", TAKEN),
        (
            f"c = {_conv('x')} r = ReduceMax (a, axes) y = Add (c, r) z = Relu (a)",
            "c [N,3,4,4] and r [N,3,1,1] differ in shape",
        ),
    ],
    ids=["read by another", "twice itself", "adds twice", "broadcast"],
)
def test_left_alone_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y, float[N,3,4,4] z) {{ {graph} }}",
        axes=np.int64([2, 3]),
        **binary_conv(3, 3),
    )
    before = listing(model)

    log = run([FuseAddition()], model)

    assert [f"FuseAddition: y: {reason}"] == list(map(str, log.refusals))
    assert listing(model) == before


def test_an_addition_of_something_else_is_no_site(load) -> None:
    model = load("(float[N,2,3,3] x) => (float[N,2,3,3] y) { a = Relu (x) y = Add (a, x) }")

    log = run([FuseAddition(), DistributeAddition()], model)

    assert (log.applied, log.refusals) == ({"FuseAddition": 0, "DistributeAddition": 0}, [])


# Two cells: d is the skip past the first, y the skip past the second, which adds the sum of the first again.
CELLS = (
    f"c = {_conv('x')} d = Concat <axis = 1> (c, a) e = {_conv('a')} f = Concat <axis = 1> (e, x) g = Add (f, d) "
    f"h = {_conv('x')} i = Concat <axis = 1> (h, h) y = Add (i, g)"
)


def test_sums_of_concatenations_become_concatenations_of_sums(load, listing, evaluate, binary_conv, rng) -> None:
    model = load(f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,6,4,4] y) {{ {CELLS} }}", **binary_conv(3, 3))
    values = {value.name: value for node in model.graph for value in node.outputs}
    values["g"].meta["origin"] = Origin("sum", (9, 8, 7, 6, 5, 4))
    feeds = _random(rng, "x", "a")
    answer = evaluate(model, feeds)["y"]

    log = run([DistributeAddition(), FuseAddition(), DropUnused()], model)

    # h is read twice, so that nothing can take the second sum; c is read by the skip alone, but a turn earlier.
    assert log.applied["DistributeAddition"] == 1
    assert "DistributeAddition: y: no binary convolution could take a part of it" in map(str, log.refusals)
    assert listing(model) == [
        "c = BinaryConv2dRelu(x)",
        "g.0 = BinaryConv2dReluAdd(a, c)",
        "g.3 = Add(x, a)",
        "g = Concat(g.0, g.3)",
        "h = BinaryConv2dRelu(x)",
        "i = Concat(h, h)",
        "y = Add(i, g)",
    ]
    assert (evaluate(model, feeds)["y"] == answer).all()
    origins = {value.name: origin_of(value) for node in model.graph for value in node.outputs}
    assert (origins["g.0"], origins["g.3"]) == (Origin("sum", (9, 8, 7)), Origin("sum", (6, 5, 4)))


def test_a_sum_after_a_distributed_one_is_distributed_too(load, listing, evaluate, binary_conv, rng) -> None:
    graph = CELLS.replace("(h, h)", "(h, a)")
    model = load(f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,6,4,4] y) {{ {graph} }}", **binary_conv(3, 3))
    feeds = _random(rng, "x", "a")
    answer = evaluate(model, feeds)["y"]

    log = run([DistributeAddition(), FuseAddition(), DropUnused()], model)

    assert log.applied == {"DistributeAddition": 2, "FuseAddition": 2}
    assert [line for line in listing(model) if "Add(" in line and "Binary" not in line] == [
        "g.3 = Add(x, a)",
        "y.3 = Add(a, g.3)",
    ]
    assert (evaluate(model, feeds)["y"] == answer).all()


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (
            f"c = {_conv('x')} d = Concat <axis = 1> (c, x, a) e = Concat <axis = 1> (a, f) y = Add (d, e)",
            "the concatenations have parts of different sizes",
        ),
        ("d = Concat <axis = 1> (x, a, x) y = Add (d, d)", "no binary convolution could take a part of it"),
        (
            f"c = {_conv('x')} d = Concat <axis = 1> (x, a, x) e = Concat <axis = 1> (a, f) s = Add (d, e) "
            "g = Concat <axis = 1> (c, a, x) y = Add (s, g)",
            "one of its terms was left in one piece",
        ),
    ],
    ids=["sizes", "nothing takes it", "behind a refusal"],
)
def test_not_distributed_because(load, listing, binary_conv, graph: str, reason: str) -> None:
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a, float[N,6,4,4] f) => (float[N,9,4,4] y) {{ {graph} }}",
        **binary_conv(3, 3),
    )
    before = listing(model)

    log = run([DistributeAddition()], model)

    assert f"DistributeAddition: y: {reason}" in map(str, log.refusals)
    assert listing(model) == before


@pytest.mark.parametrize("parts", [2, 3, 4])
def test_a_concatenation_is_read_where_its_parts_lie(load, listing, evaluate, binary_conv, rng, parts: int) -> None:
    names = ", ".join(["x", "a"] * 2)[: 3 * parts - 2]
    model = load(
        f"(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,2,4,4] y) "
        f"{{ c = Concat <axis = 1> ({names}) y = {_conv('c')} }}",
        **binary_conv(3 * parts, 2),
    )
    feeds = _random(rng, "x", "a")
    answer = evaluate(model, feeds)["y"]

    log = run([FuseConcat(), DropUnused()], model)

    assert log.applied["FuseConcat"] == 1
    assert listing(model) == [f"y = BinaryConv2dReluConcat{parts}({names})"]
    assert (evaluate(model, feeds)["y"] == answer).all()


def test_other_readers_keep_the_concatenation(load, listing, binary_conv) -> None:
    model = load(
        "(float[N,3,4,4] x, float[N,3,4,4] a) => (float[N,2,4,4] y, float[N,6,4,4] z) "
        f"{{ c = Concat <axis = 1> (x, a) y = {_conv('c')} z = Relu (c) }}",
        **binary_conv(6, 2),
    )

    run([FuseConcat(), DropUnused()], model)

    assert listing(model) == ["c = Concat(x, a)", "y = BinaryConv2dReluConcat2(x, a)", "z = Relu(c)"]


@pytest.mark.parametrize(
    ("concat", "channels", "reason"),
    [
        ("<axis = 1> (x, x, x, x, x)", 15, "c has 5 parts, more than 4"),
        ("<axis = 2> (x, x)", 3, "c does not concatenate channels"),
    ],
    ids=["parts", "axis"],
)
def test_a_concatenation_stays_because(load, listing, binary_conv, concat: str, channels: int, reason: str) -> None:
    model = load(
        f"(float[N,3,4,4] x) => (float[N,2,H,W] y) {{ c = Concat {concat} y = {_conv('c')} }}",
        **binary_conv(channels, 2),
    )
    before = listing(model)

    log = run([FuseConcat()], model)

    assert list(map(str, log.refusals)) == [f"FuseConcat: y: {reason}"]
    assert listing(model) == before
