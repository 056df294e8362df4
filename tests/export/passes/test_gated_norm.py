"""A BN behind a gate becomes one pass over the images, or stays and says why."""

import numpy as np
import pytest
import torch

from bnas_deploy.export.bounds import bound_of
from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import constant, constant_array
from bnas_deploy.export.passes import DropUnused, GatedNormToOnePass
from bnas_deploy.export.pieces import Recorded, corner_check, pieces_of
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.session import create_session, session_options

HEADER = "(float[N,3,4,5] x, float[N,3,1,1] h, float[N,3,4,5] r) => (float[N,3,4,5] y, float[N,3,4,5] z)"
NORM = "n = BatchNormalization ({}, gamma, beta, mean, var) y = Relu (n)"
GATE = "g = Sigmoid (h)"


def _constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    named = {name: rng.normal(size=3).astype(np.float32) for name in ("gamma", "beta", "mean")}
    return {**named, "var": np.float32([0.5, 1, 2])}


@pytest.mark.parametrize(
    ("product", "wanted"),
    [
        ("p = Mul (g, x)", ["n.Reshape7 = Reshape(x)"]),
        ("q = Mul (x, g) p = Mul (q, r)", ["n.Mul7 = Mul(x, r)", "n.Reshape8 = Reshape(n.Mul7)"]),
    ],
    ids=["a gate", "a gate and an image"],
)
@pytest.mark.parametrize("images", [1, 3])
def test_one_pass(load, listing, rng, tmp_path, product: str, wanted: list[str], images: int) -> None:
    """It is computed by onnxruntime, for one image and for several."""
    model = load(f"{HEADER} {{ {GATE} {product} {NORM.format('p')} z = Relu (r) }}", **_constants(rng))
    shapes = {"x": (images, 3, 4, 5), "h": (images, 3, 1, 1), "r": (images, 3, 4, 5)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    answers = []
    for number in range(2):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(finish(model).SerializeToString())
        answers.append(create_session(path, session_options(library=False)).run(["y"], feeds)[0])
        run([GatedNormToOnePass(), DropUnused()], model)

    lines = listing(model)
    assert lines[0] == "g = Sigmoid(h)"
    assert set(wanted) <= set(lines), lines
    assert sum(" = BatchNormalization(" in line for line in lines) == 1
    # A product of three numbers of some units, and a sum: a few roundings of each.
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "nodes",
    [
        f"{GATE} p = Mul (g, x) {NORM.format('p')} z = Relu (p)",  # the product is read elsewhere
        f"g = Relu (h) p = Mul (g, x) {NORM.format('p')} z = Relu (r)",  # may be infinite
        f"p = Mul (r, x) {NORM.format('p')} z = Relu (r)",
    ],
    ids=["shared", "no sigmoid", "no gate"],
)
def test_it_stays(load, listing, rng, nodes: str) -> None:
    model = load(f"{HEADER} {{ {nodes} }}", **_constants(rng))
    before = listing(model)

    log = run([GatedNormToOnePass()], model)

    assert listing(model) == before
    assert [each.reason for each in log.refusals] == [
        "it is no product of images and one gate, which nobody else reads"
    ]


def test_its_bound_holds_and_one_wrong_slope_is_outside(load, evaluate, rng) -> None:
    text = f"{HEADER} {{ {GATE} q = Mul (g, x) p = Mul (q, r) {NORM.format('p')} z = Relu (r) }}"
    model = load(text, **_constants(rng))
    shapes = {"x": (1, 3, 4, 5), "h": (1, 3, 1, 1), "r": (1, 3, 4, 5)}
    feeds = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    values = {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, feeds).items()}
    run([GatedNormToOnePass(), DropUnused()], model)
    recorded = Recorded(values)
    piece = next(piece for piece in pieces_of(model, recorded) if piece.output.name == "n")
    bound = bound_of(piece, recorded)

    def error() -> np.ndarray:
        return np.abs(evaluate(model, feeds)["n"].astype(np.float64) - values["n"].numpy())

    assert bound is not None
    assert (error() <= bound).all()
    corner = corner_check(piece, recorded)
    assert [each.shape[2:] for each in corner.inputs].count((1, 1)) == 1  # the gate; images are fed in part
    product = next(node for node in model.graph if node.op_type == "Mul" and "g" in [each.name for each in node.inputs])
    slope = constant_array(product.inputs[1]) * np.float32([1, 1.0001, 1]).reshape(1, 3, 1, 1)
    product.replace_input_with(1, constant(model.graph, "wrong", slope))
    assert (error() > bound).any()
