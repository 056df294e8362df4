"""The passes that any graph can use keep what the graph computes, and the names of its values."""

import numpy as np

from bnas_deploy.export.graph import UNRECORDED, is_recorded, origin_of
from bnas_deploy.export.passes import DropUnused, FoldConstants, MergeDuplicates
from bnas_deploy.export.rewrite import run

POOL = "MaxPool <kernel_shape = [3, 3], pads = [1, 1, 1, 1]>"


def test_fold_constants(load, listing, evaluate, rng: np.random.Generator) -> None:
    model = load(
        "(float[N,2,4,4] x) => (float[N,2,4,4] y) { b = Add (v, w) i = Identity (x) y = Add (i, b) }",
        v=np.full((2, 1, 1), 1, np.float32),
        w=np.full((2, 1, 1), 10, np.float32),
    )
    feeds = {"x": rng.normal(size=(2, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([FoldConstants()], model)

    assert listing(model) == ["y = Add(x)"]
    assert model.graph.initializers["b"].const_value.numpy().ravel().tolist() == [11, 11]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_fold_constants_leaves_a_zeroise_layer_to_its_own_pass(load, listing) -> None:
    model = load("(float[N,2,4,4] x) => (float[N,2,4,4] y) { z = bnas.Zeroise <stride = 1> (x) y = Add (x, z) }")

    run([FoldConstants()], model)

    assert listing(model) == ["z = Zeroise(x)", "y = Add(x, z)"]


def test_merge_duplicates(load, listing, evaluate, rng: np.random.Generator) -> None:
    model = load(f"(float[N,2,4,4] x) => (float[N,2,4,4] y) {{ a = {POOL} (x) b = {POOL} (x) y = Add (a, b) }}")
    feeds = {"x": rng.normal(size=(2, 2, 4, 4)).astype(np.float32)}
    wanted = evaluate(model, feeds)["y"]

    run([MergeDuplicates()], model)

    assert listing(model) == ["a = MaxPool(x)", "y = Add(a, a)"]
    assert (evaluate(model, feeds)["y"] == wanted).all()


def test_merge_duplicates_keeps_shapes_that_one_of_them_has(load, listing) -> None:
    split = "Split <axis = 1, num_outputs = 2> (x)"
    model = load(f"(float[N,2,4,4] x) => (float[N,1,4,4] y) {{ a, b = {split} c, d = {split} y = Add (a, d) }}")
    first, second, _ = model.graph
    for value in (first.outputs[1], second.outputs[0]):  # which nobody read
        value.shape = value.type = None

    run([MergeDuplicates()], model)

    assert listing(model) == ["a = Split(x)", "y = Add(a, b)"]
    assert [str(value.shape) for value in first.outputs] == ["[N,1,4,4]", "[N,1,4,4]"]


def test_merge_duplicates_keeps_what_outputs_of_the_graph_are_in_pytorch(load, listing) -> None:
    # As `x.topk(2).values` and `x.topk(2).indices`: the first one's numbers are no value of PyTorch's program.
    split = "Split <axis = 1, num_outputs = 2> (x)"
    model = load(
        f"(float[N,2,4,4] x) => (float[N,1,4,4] v, float[N,1,4,4] i) {{ v, other = {split} another, i = {split} }}"
    )
    first, second = model.graph
    for value in (first.outputs[1], second.outputs[0]):
        value.meta[UNRECORDED] = True

    run([MergeDuplicates()], model)

    assert listing(model) == ["v = Split(x)"]
    assert [str(value.name) for value in model.graph.outputs] == ["v", "i"]
    assert all(is_recorded(value) for value in model.graph.outputs)
    assert origin_of(model.graph.outputs[1]).name == "i"


def test_merge_duplicates_keeps_the_names_of_outputs(load, listing) -> None:
    model = load(f"(float[N,2,4,4] x) => (float[N,2,4,4] y, float[N,2,4,4] z) {{ y = {POOL} (x) z = {POOL} (x) }}")

    run([MergeDuplicates()], model)

    assert listing(model) == ["y = MaxPool(x)", "z = Identity(y)"]


def test_merge_duplicates_leaves_other_attributes_alone(load, listing) -> None:
    other = POOL.replace(">", ", ceil_mode = 1>")
    model = load(f"(float[N,2,4,4] x) => (float[N,2,4,4] y) {{ a = {POOL} (x) b = {other} (x) y = Add (a, b) }}")
    before = listing(model)

    run([MergeDuplicates()], model)

    assert listing(model) == before


def test_drop_unused(load, listing) -> None:
    model = load(
        "(float[N,2,4,4] x) => (float[N,2,4,4] y) { a = Relu (x) b = Add (a, w) y = Relu (x) }",
        w=np.ones((2, 1, 1), np.float32),
    )

    run([DropUnused()], model)

    assert listing(model) == ["y = Relu(x)"]
    assert not model.graph.initializers
