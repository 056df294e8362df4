"""A PRelu that is left becomes operators that are computed in vectors, with the same bits."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import Origin, origin_of
from bnas_deploy.export.passes import PReluOfImages, PReluToMaximum
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.session import create_session, session_options

VALUES = np.float32([0, -0.0, 1e-45, -1e-45, 3, -3, 1e37, -1e37, 0.1, -0.1, 7.7, -7.7])


@pytest.mark.parametrize(
    ("slope", "wanted"),
    [
        ([0.25, -1.5, 1], ["y.sloped = Mul(x)", "y = Max(x, y.sloped)"]),
        ([1, 1.5, 30], ["y.sloped = Mul(x)", "y = Min(x, y.sloped)"]),
        (
            [0.3, 1.5, -2],
            ["y.above = Relu(x)", "y.below = Sub(x, y.above)", "y.sloped = Mul(y.below)", "y = Add(y.above, y.sloped)"],
        ),
        ([0.3], ["y = LeakyRelu(x)"]),
    ],
    ids=["up to 1", "from 1 on", "both", "one"],
)
def test_the_bits_stay(load, listing, evaluate, rng, tmp_path, slope: list[float], wanted: list[str]) -> None:
    model = load(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = PRelu (x, slope) }",
        slope=np.float32(slope).reshape(1, -1, 1, 1),
    )
    model.graph[0].outputs[0].meta["origin"] = Origin("prelu", (2, 3, 4))
    x = np.concatenate([np.resize(VALUES, (1, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4)).astype(np.float32)])
    answer = evaluate(model, {"x": x})["y"]

    log = run([PReluToMaximum()], model)

    assert log.applied == {"PReluToMaximum": 1}
    assert listing(model) == wanted
    assert origin_of(model.graph[-1].outputs[0]) == Origin("prelu", (2, 3, 4))
    path = tmp_path / "model.onnx"
    onnx.save(finish(model), path)
    (found,) = ReferenceEvaluator(onnx.load(path)).run(None, {"x": x})
    np.testing.assert_array_equal(found, answer)
    (found,) = create_session(path, session_options(threads=1, library=False)).run(None, {"x": x})
    np.testing.assert_array_equal(found, answer)


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ("s = Abs (x) y = PRelu (x, s)", "its slope is computed from the input"),
        ("y = PRelu (x, slope)", "a slope is not finite"),
    ],
)
def test_left_alone_because(load, listing, nodes: str, reason: str) -> None:
    model = load(
        f"(float[N,3,4,4] x) => (float[N,3,4,4] y) {{ {nodes} }}", slope=np.float32([1, np.inf, 2]).reshape(3, 1, 1)
    )
    before = listing(model)

    log = run([PReluToMaximum()], model)

    assert list(map(str, log.refusals)) == [f"PReluToMaximum: y: {reason}"]
    assert listing(model) == before


@pytest.mark.parametrize("library", [False, True])
@pytest.mark.parametrize("shape", [(1, 3, 1, 1), (3, 1, 1)])
def test_images_are_passed_over_once(load, listing, evaluate, rng, tmp_path, shape, library: bool) -> None:
    model = load(
        "(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = PRelu (x, slope) }",
        slope=np.float32([0.3, 1.5, -2]).reshape(shape),
    )
    model.graph[0].outputs[0].meta["origin"] = Origin("prelu", (2, 3, 4))
    x = np.concatenate([np.resize(VALUES, (1, 3, 4, 4)), rng.normal(size=(2, 3, 4, 4)).astype(np.float32)])
    answer = evaluate(model, {"x": x})["y"]

    log = run([PReluOfImages(), PReluToMaximum()], model)

    assert log.applied == {"PReluOfImages": 1, "PReluToMaximum": 0}
    assert [(node.domain, node.op_type) for node in model.graph] == [("bnas", "PRelu")]
    assert origin_of(model.graph[-1].outputs[0]) == Origin("prelu", (2, 3, 4))
    np.testing.assert_array_equal(evaluate(model, {"x": x})["y"], answer)
    path = tmp_path / "model.onnx"
    onnx.save(finish(model), path)
    (found,) = create_session(path, session_options(threads=1, library=library)).run(None, {"x": x})
    np.testing.assert_array_equal(found, answer)


@pytest.mark.parametrize(
    ("shape", "nodes", "reason"),
    [
        ("N,3,4,4", "s = Abs (x) y = PRelu (x, s)", "its slope is computed from the input"),
        ("N,3,4", "y = PRelu (x, slope)", "what it reads are no images"),
        ("N,3,4,3", "y = PRelu (x, of_columns)", "its slopes are not one for each channel"),
    ],
)
def test_images_are_left_to_the_next_pass_because(load, listing, shape: str, nodes: str, reason: str) -> None:
    slopes = {"slope": np.float32([1, 2, 3]).reshape(3, 1), "of_columns": np.float32([1, 2, 3])}
    model = load(f"(float[{shape}] x) => (float[{shape}] y) {{ {nodes} }}", **slopes)
    before = listing(model)

    log = run([PReluOfImages()], model)

    assert list(map(str, log.refusals)) == [f"PReluOfImages: y: {reason}"]
    assert listing(model) == before


def test_one_slope_is_left_to_the_next_pass(load) -> None:
    model = load("(float[N,3,4,4] x) => (float[N,3,4,4] y) { y = PRelu (x, slope) }", slope=np.float32([0.3]))
    log = run([PReluOfImages()], model)
    assert (log.applied, log.refusals) == ({"PReluOfImages": 0}, [])
