"""The mean of a sum becomes the sum of the means, or stays and says why."""

import numpy as np
import pytest

from bnas_deploy.export.passes import DropUnused, MeanOfTerms
from bnas_deploy.export.rewrite import run

HEADER = "(float[N,3,4,6] x, float[N,3,4,6] a, float[N,3,2,3] b)"
NORM = "n = BatchNormalization (x, gamma, beta, mean, var)"
CONV = "c = bnas.BinaryConv2d (n, W, threshold, offset, scale, bias)"


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    factors = {name: rng.normal(size=(3, 1, 1)).astype(np.float32) for name in ("s", "t")}
    return {**named, **factors, "var": rng.uniform(0.5, 2, 3).astype(np.float32), "axes": np.array([2, -1])}


def _feeds(rng: np.random.Generator) -> dict[str, np.ndarray]:
    shapes = {"x": (2, 3, 4, 6), "a": (2, 3, 4, 6), "b": (2, 3, 2, 3)}
    return {name: (3 + rng.normal(size=shape)).astype(np.float32) for name, shape in shapes.items()}


MIXTURE = "p = Mul (s, x) q = Mul (t, a) m = Add (p, q)"


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        (
            f"{MIXTURE} y = ReduceMean <keepdims = KEEP> (m, axes)",
            ["y.0 = ReduceMean(x)", "y.1 = Mul(y.0)", "y.2 = ReduceMean(a)", "y.3 = Mul(y.2)", "y = Add(y.1, y.3)"],
        ),
        (
            "p = Sub (a, x) y = ReduceMean <keepdims = KEEP> (p, axes)",
            ["y.0 = ReduceMean(a)", "y.1 = ReduceMean(x)", "y.2 = Mul(y.1)", "y = Add(y.0, y.2)"],
        ),
        (
            "p = AveragePool <kernel_shape = [2, 3], strides = [2, 3]> (x) y = ReduceMean <keepdims = KEEP> (p, axes)",
            ["y = ReduceMean(x)"],
        ),
        (
            f"{NORM} y = ReduceMean <keepdims = KEEP> (n, axes)",
            ["y.0 = ReduceMean(x)", "y.1 = Mul(y.0)", "y = Add(y.1)"],
        ),
    ],
    ids=["mixture", "difference", "pool", "norm"],
)
@pytest.mark.parametrize("keep", [0, 1])
def test_a_mean_of_a_sum(load, listing, evaluate, rng, nodes: str, wanted: list[str], keep: int) -> None:
    shape = "N,3,1,1" if keep else "N,3"
    text = f"{HEADER} => (float[{shape}] y) {{ {nodes.replace('KEEP', str(keep))} }}"
    model = load(text, **_constants(rng))
    feeds = _feeds(rng)
    answer = evaluate(model, feeds)["y"]

    log = run([MeanOfTerms(), DropUnused()], model)

    assert log.applied["MeanOfTerms"] == 1
    assert listing(model) == wanted
    # Means of 24 floats of some units, each of a few roundings.
    np.testing.assert_allclose(evaluate(model, feeds)["y"], answer, rtol=1e-4, atol=1e-4)


def test_branches_side_by_side_share_the_mean_of_what_they_read(load, listing, evaluate, rng) -> None:
    """As those of BNext do. The axes are constants of their own, so that nobody else would merge the means."""
    nodes = f"{MIXTURE} y = ReduceMean (m, axes) v = Abs (a) "
    nodes += "o = Mul (s, x) r = Mul (t, v) l = Add (o, r) z = ReduceMean (l, same)"
    model = load(
        f"{HEADER} => (float[N,3,1,1] y, float[N,3,1,1] z) {{ {nodes} }}", same=np.array([2, -1]), **_constants(rng)
    )
    feeds = _feeds(rng)
    answers = evaluate(model, feeds)

    run([MeanOfTerms(), DropUnused()], model)

    means = [line for line in listing(model) if "ReduceMean" in line]
    assert means == ["y.0 = ReduceMean(x)", "y.2 = ReduceMean(a)", "z.1 = ReduceMean(v)"]
    for name in "yz":  # as above
        np.testing.assert_allclose(evaluate(model, feeds)[name], answers[name], rtol=1e-4, atol=1e-4)


def test_what_a_sign_reads_besides_is_taken_apart(load, listing, binary_conv, rng) -> None:
    """The BN of Real-to-Binary's block, which becomes a threshold afterwards."""
    text = f"{HEADER} => (float[N,3,1,1] y, float[N,3,4,6] c) {{ {NORM} {CONV} y = ReduceMean (n, axes) }}"
    model = load(text, **_constants(rng), **binary_conv(3, 3))

    run([MeanOfTerms()], model)

    assert listing(model)[-3:] == ["y.0 = ReduceMean(x)", "y.1 = Mul(y.0)", "y = Add(y.1)"]


@pytest.mark.parametrize(
    "nodes",
    [
        f"{MIXTURE} y = ReduceMean (m, axes) z = Relu (m)",  # others need the sum
        f"{NORM} y = ReduceMean (n, axes) z = Relu (n)",
        "p = Relu (x) y = ReduceMean (p, axes) z = Relu (a)",
        "c = bnas.BinaryConv2d (x, W, threshold, offset, scale, bias) r = Relu (c) p = Add (r, a) "
        "y = ReduceMean (p, axes) z = Relu (a)",  # the convolution adds at no cost
        "c = bnas.BinaryConv2d (x, W, threshold, offset, scale, bias) "
        "n = BatchNormalization (c, gamma, beta, mean, var) y = ReduceMean (n, axes) z = Relu (a)",
    ],
    ids=["shared sum", "shared norm", "no sum", "a sum of a convolution", "behind a convolution"],
)
def test_what_is_needed_as_it_is_stays(load, listing, binary_conv, rng, nodes: str) -> None:
    text = f"{HEADER} => (float[N,3,1,1] y, float[N,3,4,6] z) {{ {nodes} }}"
    model = load(text, **_constants(rng), **binary_conv(3, 3))
    before = listing(model)

    log = run([MeanOfTerms()], model)

    assert listing(model) == before
    assert not log.refusals


@pytest.mark.parametrize("pool", ["kernel_shape = [2, 2], strides = [1, 1]", "kernel_shape = [3, 3], strides = [3, 3]"])
def test_pools_whose_windows_overlap_or_leave_pixels_out_stay(load, listing, rng, pool: str) -> None:
    text = f"{HEADER} => (float[N,3,1,1] y) {{ p = AveragePool <{pool}> (x) y = ReduceMean (p, axes) }}"
    model = load(text, **_constants(rng))

    run([MeanOfTerms()], model)

    assert listing(model)[-1] == "y = ReduceMean(p)"


def test_its_bound_holds_and_one_wrong_share_is_outside(load, rewritten, rng) -> None:
    """PyTorch averages the mixture, the file mixes the averages."""
    text = f"{HEADER} => (float[N,3,1,1] y) {{ {MIXTURE} v = Add (m, mean3) y = ReduceMean (v, axes) }}"
    model = load(text, mean3=rng.normal(size=(3, 1, 1)).astype(np.float32), **_constants(rng))
    y = rewritten(model, {name: data[:1] for name, data in _feeds(rng).items()}, [MeanOfTerms(), DropUnused()])

    assert y.is_within_its_bound()
    y.multiply(next(node for node in y.model.graph if node.op_type == "Mul"), 1, 1.0001)
    assert not y.is_within_its_bound()
