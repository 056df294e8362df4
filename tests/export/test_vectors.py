"""What is stored of each piece, and how far it may be off."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bnas_deploy.export.bounds import ROUNDING, bound_of, roundings
from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.graph import Origin, constant, constant_array, input_of, set_input
from bnas_deploy.export.inputs import Feed
from bnas_deploy.export.passes import (
    PIPELINE,
    BatchNormToConstants,
    DropUnused,
    FoldBatchNormAfterBinaryConv,
    FoldBatchNormAfterConv,
    FoldBatchNormBeforeConv,
    FuseActivation,
    FuseAddition,
    FuseAffine,
    FuseGate,
    FuseShift,
    PackWeights,
    WriteBits,
)
from bnas_deploy.export.pieces import CORNER, Piece, Recorded, corner_check, pieces_of
from bnas_deploy.export.rewrite import run
from bnas_deploy.export.vectors import Vectors, output_tolerances
from bnas_deploy.runtime.pieces import compare_pieces
from bnas_deploy.search.nn.layers import BinaryConv2d

INPUTS = "W, threshold, offset, scale, bias"

Floats = NDArray[np.float32]


def _values(evaluate, model, feeds: Floats | Mapping[str, Floats]) -> dict[str, torch.Tensor]:
    fed = feeds if isinstance(feeds, Mapping) else {"x": feeds}
    return {name: torch.from_numpy(np.array(data)) for name, data in evaluate(model, fed).items()}


def _only(model: ir.Model, values: Mapping[str, torch.Tensor]) -> tuple[Piece, Recorded]:
    recorded = Recorded(values)
    (piece,) = pieces_of(model, recorded)
    return piece, recorded


def _vectors(model: ir.Model, values: Mapping[str, torch.Tensor], folder: Path) -> tuple[Vectors, Path]:
    path = folder / "model.onnx"
    onnx.save(finish(model), path)
    return Vectors.of(model, values, path), path


# --- corners --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("binary", [True, False])
def test_a_corner_is_all_that_its_outputs_read(
    load, evaluate, binary_conv, rng, tmp_path, stride: int, dilation: int, pad: int, size: int, binary: bool
) -> None:
    attributes = f"strides = [{stride}, 1], dilations = [{dilation}, 1], pads = [{pad}, {pad}, {pad}, {pad}], group = 1"
    operator = f"bnas.BinaryConv2d <{attributes}> (x, {INPUTS})" if binary else f"Conv <{attributes}> (x, W)"
    model = load(
        f"(float[N,5,{size},{size}] x) => (float[N,3,H,W] y) {{ y = {operator} }}", **binary_conv(5, 3, kernel=3)
    )
    values = _values(evaluate, model, rng.normal(size=(1, 5, size, size)).astype(np.float32))
    run([PackWeights(), DropUnused()], model)

    vectors, path = _vectors(model, values, tmp_path)
    (check,) = vectors.corner_checks(path)
    kept = vectors.kept([check])

    rows, columns = (min(CORNER, side) for side in values["y"].shape[2:])
    assert check.output.shape == (1, 3, rows, columns)
    assert (kept["y"] == values["y"][:1, :, :rows, :columns].numpy()).all()
    assert kept["x"].shape[2] <= (rows - 1) * stride + 2 * dilation + 1
    found = compare_pieces(path, [check], kept)
    assert (found.failures, found.alike) == ([], True)
    assert found.pieces[0].exact or not binary


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("pad", [0, 1, 2])
@pytest.mark.parametrize("size", [9, 33])
def test_a_corner_of_pooled_bits_is_all_that_its_outputs_read(
    load, evaluate, binary_conv, rng, tmp_path, stride: int, dilation: int, pad: int, size: int
) -> None:
    around = f"dilations = [{dilation}, 1], pads = [{pad}, {pad}, {pad}, {pad}], group = 1"
    model = load(
        f"(float[N,5,{size},{size}] x) => (float[N,3,H,W] y) {{ "
        f"c = bnas.BinaryConv2d <strides = [{stride}, 1], {around}> (x, {INPUTS}) "
        "p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) "
        f"y = bnas.BinaryConv2d (p, second, none, offset, scale, bias) }}",
        second=rng.choice(np.float32([-1, 1]), (3, 3, 1, 1)),
        none=np.zeros(3, np.float32),
        **binary_conv(5, 3, kernel=3),
    )
    values = _values(evaluate, model, rng.normal(size=(1, 5, size, size)).astype(np.float32))
    del values["p"]  # as where PyTorch has a BN before the maximum
    run([PackWeights(), WriteBits(), DropUnused()], model)
    assert [node.op_type for node in model.graph] == ["BinaryConv2dMaxPoolToBits", "BinaryConv2dOfBits"]

    vectors, path = _vectors(model, values, tmp_path)
    checks = vectors.corner_checks(path)
    kept = vectors.kept(checks)

    rows, columns = (min(CORNER, side // 2) for side in values["c"].shape[2:])
    assert checks[0].output.shape == (1, 1, rows, columns)
    assert kept["x"].shape[2] <= (2 * rows - 1) * stride + 2 * dilation + 1
    found = compare_pieces(path, checks, kept)
    assert (found.failures, found.alike) == ([], True)
    assert all(piece.exact for piece in found.pieces)
    assert (vectors.own, vectors.bits_that_differ()) == ({}, [])


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [7, 20])
def test_parts_and_what_is_added_are_stored_too(
    load, evaluate, binary_conv, rng, tmp_path, stride: int, size: int
) -> None:
    half = (size - 1) // stride + 1
    attributes = f"strides = [{stride}, {stride}], dilations = [1, 1], pads = [1, 1, 1, 1], group = 1"
    model = load(
        f"(float[N,2,{size},{size}] x, float[N,3,{size},{size}] z, float[N,3,{half},{half}] a) => (float[N,3,H,W] y) "
        f"{{ y = bnas.BinaryConv2dAddConcat2 <{attributes}> (x, z, {INPUTS}, a) }}",
        **binary_conv(5, 3, kernel=3),
    )
    fed = {value.name: rng.normal(size=(1, *value.shape[1:])).astype(np.float32) for value in model.graph.inputs}
    values = _values(evaluate, model, fed)
    run([PackWeights()], model)

    vectors, path = _vectors(model, values, tmp_path)
    checks = vectors.corner_checks(path)
    kept = vectors.kept(checks)

    assert kept.keys() == {"x", "z", "a", "y"}
    assert compare_pieces(path, checks, kept).pieces[0].exact


@pytest.mark.parametrize(
    ("nodes", "rows"),
    [
        ("y = Relu (x)", 6),
        ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]> (x)", 12),
        ("y = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)", 12),
        ("y = Slice (x, zero, end, axis, two)", 11),
        ("y = Pad (x, around)", 5),
        ("y = Pad (x, behind)", 20),
        ("y = MaxPool <kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1> (x)", 20),
        ("y = AveragePool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)", 20),
        ("y = Add (x, x)", 6),
        ("y = Add (x, map)", 20),
        ("y = Transpose <perm = [0, 1, 3, 2]> (x)", 20),
        ("y = Slice (x, zero, minus, axis, two)", 20),
        ("y = Concat <axis = 1> (x, x)", 6),
        ("y = Concat <axis = 2> (x, x)", 20),
    ],
)
def test_how_many_rows_are_fed(nodes: str, rows: int) -> None:
    constants = {"zero": [0], "end": [99], "minus": [-1], "axis": [2], "two": [2], "around": [0, 0, 1, 1, 0, 0, 1, 1]}
    constants |= {"behind": [0, 0, 0, 0, 0, 0, 1, 1]}
    text = f'<ir_version: 9, opset_import: ["": 18]> graph (float[1,4,20,20] x) => (float[N,C,H,W] y) {{ {nodes} }}'
    proto = onnx.parser.parse_model(text)
    for name, data in constants.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.array(data, np.int64), name))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.ones((1, 1, 20, 20), np.float32), "map"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    shape = tuple(size if isinstance(size, int) else 20 for size in model.graph.outputs[0].shape)
    piece, recorded = _only(model, {"x": torch.zeros(1, 4, 20, 20), "y": torch.zeros(shape)})

    check = corner_check(piece, recorded)

    assert [corner.shape[2] for corner in check.inputs] == [rows]


@pytest.mark.parametrize(("pads", "rows"), [([1, 1, 1, 1], 7), ([0, 1, 2, 1], 10), ([2, 0, 0, 0], 6)])
def test_signs_at_the_padding_are_in_what_is_fed(
    load, evaluate, binary_conv, rng, tmp_path, pads: list[int], rows: int
) -> None:
    model = load(
        f"(float[N,5,10,10] x) => (float[N,3,H,W] y) {{ y = bnas.BinaryConv2dPad <pads = {pads}, group = 1> "
        f"(x, W, threshold, pad, offset, scale, bias) }}",
        pad=rng.choice(np.float32([-1, 1]), 5),
        **binary_conv(5, 3, kernel=3),
    )
    values = _values(evaluate, model, rng.normal(size=(1, 5, 10, 10)).astype(np.float32))
    run([PackWeights()], model)

    check = corner_check(*_only(model, values))

    assert [corner.shape[2] for corner in check.inputs] == [rows]
    vectors, path = _vectors(model, values, tmp_path)
    checks = vectors.corner_checks(path)
    assert compare_pieces(path, checks, vectors.kept(checks)).pieces[0].exact


def test_constant_channels_need_no_more_than_the_corner(load, evaluate, binary_conv, rng, tmp_path) -> None:
    constants = binary_conv(5, 3, kernel=3) | {"threshold": np.zeros(2, np.float32)}
    attributes = "pads = [1, 1, 1, 1], constant_channels = [3]"
    model = load(
        f"(float[N,2,10,10] x) => (float[N,3,10,10] y) {{ y = bnas.BinaryConv2d <{attributes}> (x, {INPUTS}) }}",
        **constants,
    )
    values = _values(evaluate, model, rng.normal(size=(1, 2, 10, 10)).astype(np.float32))
    run([PackWeights()], model)

    check = corner_check(*_only(model, values))

    (corner,) = check.inputs
    assert (corner.shape, check.output.shape) == ((1, 2, CORNER + 1, CORNER + 1), (1, 3, CORNER, CORNER))
    vectors, path = _vectors(model, values, tmp_path)
    checks = vectors.corner_checks(path)
    assert compare_pieces(path, checks, vectors.kept(checks)).pieces[0].exact


def test_vectors_are_what_pytorch_had_at_the_origin(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,2,4,4] x) => (float[N,3,4,4] y) {{ y = bnas.BinaryConv2d (x, {INPUTS}) }}", **binary_conv(2, 3)
    )
    model.graph.inputs[0].meta["origin"] = Origin("cat", (5, 1))
    cat = torch.from_numpy(rng.normal(size=(1, 8, 4, 4)).astype(np.float32))

    piece, recorded = _only(model, {"cat": cat, "y": torch.zeros(1, 3, 4, 4)})

    assert (recorded[piece.inputs[0]] == cat[:, [5, 1]].numpy()).all()


def test_what_pytorch_did_not_record_lies_inside_a_piece(load, evaluate, rng) -> None:
    model = load("(float[N,2,4,4] x) => (float[N,2,4,4] y) { a = Relu (x) b = Add (a, x) y = Relu (b) }")
    values = _values(evaluate, model, rng.normal(size=(1, 2, 4, 4)).astype(np.float32))

    pieces = pieces_of(model, Recorded({name: values[name] for name in ("x", "b", "y")}))

    assert [[node.op_type for node in piece.nodes] for piece in pieces] == [["Relu", "Add"], ["Relu"]]


# --- bounds ---------------------------------------------------------------------------------------------------------


def _folded(load, binary_conv, operator: str = "BinaryConv2d", activation: str = "Relu (n)"):
    """Build a binary convolution with a BN behind it whose mean is far from what the convolution gives."""
    return load(
        f"(float[N,64,4,4] x) => (float[N,3,4,4] y) {{ c = bnas.{operator} (x, {INPUTS}) "
        f"n = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var) y = {activation} }}",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 55, -7]),
        mean=np.float32([77.7, -3333.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        slope=np.float32([-30000]).reshape(1, 1, 1),
        **binary_conv(64, 3),
    )


@pytest.mark.parametrize("activation", ["Identity (n)", "Relu (n)", "PRelu (n, slope)"])
@pytest.mark.parametrize("operator", ["BinaryConv2d", "BinaryConv2dK"])
def test_roundings_of_a_fold_are_within_the_bound_and_near_it(
    load, evaluate, binary_conv, rng, operator: str, activation: str
) -> None:
    model = _folded(load, binary_conv, operator, activation)
    x = (100 * rng.normal(size=(1, 64, 4, 4))).astype(np.float32)
    values = {name: value for name, value in _values(evaluate, model, x).items() if name not in ("c", "n")}
    run([FoldBatchNormAfterBinaryConv(), FuseActivation(), PackWeights()], model)

    pieces = pieces_of(model, recorded := Recorded(values))

    bound = bound_of(pieces[0], recorded)
    difference = np.abs(evaluate(model, {"x": x})["y"] - values["y"].numpy())
    assert difference.max() > 0
    assert (difference <= bound).all()
    assert bound.max() < 1e4 * difference.max()


def test_an_addition_behind_a_fold_adds_its_own_roundings(load, evaluate, binary_conv, rng) -> None:
    model = load(
        f"(float[N,64,4,4] x, float[N,3,4,4] a) => (float[N,3,4,4] y) {{ c = bnas.BinaryConv2d (x, {INPUTS}) "
        "n = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var) y = Add (n, a) }",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 55, -7]),
        mean=np.float32([7.7, -3.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        **binary_conv(64, 3),
    )
    feeds = {"x": rng.normal(size=(1, 64, 4, 4)), "a": 1e4 * rng.normal(size=(1, 3, 4, 4))}
    feeds = {name: data.astype(np.float32) for name, data in feeds.items()}
    values = _values(evaluate, model, feeds)
    run([FoldBatchNormAfterBinaryConv(), FuseAddition(), PackWeights()], model)

    bound = bound_of(*_only(model, values))

    largest = np.abs(values["y"].numpy()) + np.abs(feeds["a"])
    assert (2 * ROUNDING * largest < bound).all()
    assert bound.max() < 4 * ROUNDING * largest.max()
    assert (np.abs(evaluate(model, feeds)["y"] - values["y"].numpy()) <= bound).all()


CONV = f"c = bnas.BinaryConv2d (x, {INPUTS})"
NORM_OF = "BatchNormalization <epsilon = 1e-5> ({}, gamma, beta, mean, var)"
BLOCKS = {
    # The names of the layers are of the networks that have such blocks.
    "ReActNet": (
        f"{CONV} n = {NORM_OF.format('c')} s = Add (n, a) t = Sub (s, one) p = PRelu (t, slope) y = Add (p, two)"
    ),
    "a shift alone": f"{CONV} s = Add (a, c) y = Add (s, one)",
    "IR-Net": f"{CONV} n = {NORM_OF.format('c')} s = Add (a, n) y = Clip (s, low, high)",
    "QuickNet": f"{CONV} r = Relu (c) n = {NORM_OF.format('r')} y = Add (n, a)",
    "both BNs": f"{CONV} m = {NORM_OF.format('c')} r = PRelu (m, slope) y = {NORM_OF.format('r')}",
    "a BN behind a gate": f"{CONV} g = Mul (c, gate) n = {NORM_OF.format('g')} p = PRelu (n, slope) y = Add (p, a)",
}


def _block(load, binary_conv, nodes: str):
    return load(
        f"(float[N,64,4,4] x, float[N,3,4,4] a, float[N,3,1,1] gate) => (float[N,3,4,4] y) {{ {nodes} }}",
        gamma=np.float32([1.1, -0.7, 2.3]),
        beta=np.float32([0.3, 5, -7]),
        mean=np.float32([7.7, -3.3, 0.1]),
        var=np.float32([0.3, 1.7, 3]),
        slope=np.float32([0.25, -1.5, 3]).reshape(1, 3, 1, 1),
        one=np.float32([0.1, 30, -1]).reshape(3, 1, 1),
        two=np.float32([0.7, 3, -100]).reshape(3, 1, 1),
        low=np.float32(-100),
        high=np.float32(100),
        **binary_conv(64, 3),
    )


def _fed(rng) -> dict[str, np.ndarray]:
    shapes = {"x": (1, 64, 4, 4), "a": (1, 3, 4, 4), "gate": (1, 3, 1, 1)}
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


FUSING = [
    FuseGate(),
    FoldBatchNormAfterBinaryConv(),
    BatchNormToConstants(),
    FuseActivation(),
    FuseAffine(),
    FuseAddition(),
    FuseShift(),
    FuseActivation(),
    FuseAffine(),
]


@pytest.mark.parametrize("nodes", BLOCKS.values(), ids=BLOCKS)
def test_roundings_of_a_block_are_within_the_bound_and_one_wrong_sign_is_not(
    load, evaluate, binary_conv, rng, nodes: str
) -> None:
    model = _block(load, binary_conv, nodes)
    feeds = _fed(rng)
    values = _values(evaluate, model, feeds)
    run(FUSING, model)
    assert len(model.graph) == 1
    signs = constant_array(input_of(model.graph[0], "W")).copy()
    run([PackWeights()], model)

    bound = np.broadcast_to(bound_of(*_only(model, values)), values["y"].shape)

    difference = np.abs(evaluate(model, feeds)["y"] - values["y"].numpy())
    assert difference.max() > 0
    assert (difference <= bound).all()
    assert bound.max() < 2000 * difference.max()
    signs[:, 5] *= -1
    model.graph[0].attributes.pop("weight_shape")
    set_input(model.graph[0], "W", constant(model.graph, "wrong", signs))
    run([PackWeights()], model)
    wrong = np.abs(evaluate(model, feeds)["y"] - values["y"].numpy())
    assert (wrong[wrong > 2 * difference.max()] > 10 * bound[wrong > 2 * difference.max()]).all()
    assert (wrong > bound).mean() > 0.3  # a ReLU makes some outputs 0, and limits make some equal


@pytest.mark.parametrize(
    "nodes",
    [
        f"{CONV} s = Add (c, a) y = PRelu (s, slope)",
        f"{CONV} g = Mul (c, gate) p = PRelu (g, slope) y = Add (p, a)",
        f"{CONV} p = PRelu (c, slope) m = Mul (p, one) n = Add (m, two) y = Add (n, a)",
        f"{CONV} s = Add (c, a) y = Clip (s, low, high)",
    ],
    ids=["a sum before", "a gate", "a second scale", "limits"],
)
def test_what_keeps_the_order_of_pytorch_is_exact(load, evaluate, binary_conv, rng, nodes: str) -> None:
    model = _block(load, binary_conv, nodes)
    feeds = _fed(rng)
    values = _values(evaluate, model, feeds)
    run([*FUSING, PackWeights()], model)
    assert len(model.graph) == 1

    assert bound_of(*_only(model, values)) == 0
    assert (evaluate(model, feeds)["y"] == values["y"].numpy()).all()


@pytest.mark.parametrize("size", [7, 20])
@pytest.mark.parametrize("gate", ["a number", "a map", "a constant map"])
def test_gates_and_sums_before_the_activation_are_stored_too(
    load, evaluate, binary_conv, rng, tmp_path, size: int, gate: str
) -> None:
    side = size if gate == "a map" else 1
    constants = {"map": rng.normal(size=(1, 3, size, size)).astype(np.float32)} if gate == "a constant map" else {}
    model = load(
        f"(float[N,5,{size},{size}] x, float[N,3,{side},{side}] g, float[N,3,{size},{size}] a) => (float[N,3,H,W] y) "
        f"{{ y = bnas.BinaryConv2dGateAddRelu <pads = [1, 1, 1, 1], group = 1> (x, W, threshold, pad, offset, scale, "
        f"bias, {'map' if constants else 'g'}, a) }}",
        pad=np.zeros(5, np.float32),
        **constants,
        **binary_conv(5, 3, kernel=3),
    )
    fed = {value.name: rng.normal(size=(1, *value.shape[1:])).astype(np.float32) for value in model.graph.inputs}
    values = _values(evaluate, model, fed)
    run([PackWeights()], model)

    vectors, path = _vectors(model, values, tmp_path)
    checks = vectors.corner_checks(path)
    kept = vectors.kept(checks)

    assert kept.keys() == {"x", "a", "y"} | (set() if constants else {"g"})
    assert kept["y"].shape[2:] == ((size, size) if constants else (CORNER, CORNER))
    assert compare_pieces(path, checks, kept).pieces[0].exact


def test_k_may_differ_by_the_roundings_of_its_sum_and_of_the_bias(load, evaluate, binary_conv, rng) -> None:
    bias = np.float32([0, 0.7, -1e3])
    model = load(
        f"(float[N,5,4,4] x) => (float[N,3,2,2] y) {{ y = bnas.BinaryConv2dK (x, {INPUTS}) }}",
        **{**binary_conv(5, 3, kernel=3), "bias": bias},
    )
    values = _values(evaluate, model, rng.normal(size=(1, 5, 4, 4)).astype(np.float32))
    run([PackWeights()], model)

    bound = bound_of(*_only(model, values))

    # The bias may cancel the product, whose roundings stay: they are relative to |y| + |bias|, and its addition rounds
    # once on either side.
    largest = np.abs(values["y"].numpy()) + np.abs(bias).reshape(-1, 1, 1)
    assert bound == pytest.approx((5 + 9 + 3 + 2) * ROUNDING * largest)


BATCH_NORM = "BatchNormalization <epsilon = 1e-5>"
NORM = {
    "gamma": np.float32([1.1, -0.7, 2.3]),
    "beta": np.float32([0.3, 55, -7]),
    "mean": np.float32([77.7, -3333.3, 0.1]),
    "var": np.float32([0.3, 1.7, 3]),
}


@pytest.mark.parametrize(
    ("nodes", "rewrite"),
    [
        ("c = Conv (x, W) y = BatchNormalization <epsilon = 1e-5> (c, gamma, beta, mean, var)", FoldBatchNormAfterConv),
        (
            "c = BatchNormalization <epsilon = 1e-5> (x, gamma, beta, mean, var) y = Conv (c, W)",
            FoldBatchNormBeforeConv,
        ),
        ("y = BatchNormalization <epsilon = 1e-5> (x, gamma, beta, mean, var)", BatchNormToConstants),
    ],
    ids=["behind", "before", "alone"],
)
def test_the_roundings_of_a_float_fold(load, evaluate, rng, nodes: str, rewrite: type) -> None:
    weights = rng.normal(size=(3, 3, 3, 3)).astype(np.float32)
    model = load(f"(float[N,3,8,8] x) => (float[N,3,H,W] y) {{ {nodes} }}", W=weights, **NORM)
    x = (100 * rng.normal(size=(1, 3, 8, 8))).astype(np.float32)
    values = {name: value for name, value in _values(evaluate, model, x).items() if name in ("x", "y")}
    run([rewrite()], model)

    bound = bound_of(*_only(model, values))

    difference = np.abs(evaluate(model, {"x": x})["y"] - values["y"].numpy())
    assert difference.max() > 0
    assert (difference <= bound).all()
    assert bound.max() < 1e3 * difference.max()


@pytest.mark.parametrize("terms", [9, 144, 1152])
@pytest.mark.parametrize("signs", ["random", "positive"])
def test_two_orders_of_a_sum_are_within_the_bound(rng, terms: int, signs: str) -> None:
    # The orders of most different roundings: one after another, and from the exact sum.
    products = rng.normal(size=(500, terms)).astype(np.float32)
    products = np.abs(products) if signs == "positive" else products
    one_by_one = np.zeros(500, np.float32)
    for column in products.T:
        one_by_one += column
    exact = products.astype(np.float64).sum(axis=1)

    difference = np.abs(one_by_one - exact).max() / (ROUNDING * np.abs(products.astype(np.float64)).sum(axis=1).max())

    assert difference < roundings(terms, worst=False) / 2
    assert roundings(terms, worst=False) <= roundings(terms, worst=True)


def test_sums_that_round_one_way_have_the_larger_bound(load, rng, tmp_path) -> None:
    model = load(
        "(float[N,2304,1,1] x) => (float[N,1,1,1] y) { y = Conv (x, W) }", W=np.ones((1, 2304, 1, 1), np.float32)
    )
    x = np.full((1, 2304, 1, 1), 0.1, np.float32)
    exact, off = 2304 * np.float64(np.float32(0.1)), 1000 * ROUNDING * 230.4
    values = {"x": torch.from_numpy(x), "y": torch.full((1, 1, 1, 1), float(exact + off))}
    vectors, path = _vectors(model, values, tmp_path)
    assert not compare_pieces(path, vectors.whole_checks(), vectors.arrays()).pieces[0].passed

    vectors = vectors.with_worst({"y"})

    assert compare_pieces(path, vectors.whole_checks(), vectors.arrays()).pieces[0].passed


@pytest.mark.parametrize(
    "nodes", ["y = Relu (x)", "y = MaxPool <kernel_shape = [2, 2]> (x)", "y = Concat <axis = 1> (x, x)"]
)
def test_moves_and_choices_round_nothing(load, evaluate, rng, nodes: str) -> None:
    model = load(f"(float[N,2,4,4] x) => (float[N,C,H,W] y) {{ {nodes} }}")
    values = _values(evaluate, model, rng.normal(size=(1, 2, 4, 4)).astype(np.float32))

    assert bound_of(*_only(model, values)) == 0


def test_what_is_unknown_is_measured(load, tmp_path, rng) -> None:
    proto = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["": 18]> graph (float[N,8] x) => (float[N,8] y) { y = Softmax <axis = 1> (x) }'
    )
    path = tmp_path / "model.onnx"
    onnx.save(proto, path)
    x = torch.from_numpy(rng.normal(size=(1, 8)).astype(np.float32))
    values = {"x": x, "y": torch.softmax(x, 1)}

    vectors = Vectors.of(ir.from_proto(proto), values, path)

    assert compare_pieces(path, vectors.whole_checks(), vectors.arrays()).failures == []
    assert ROUNDING < vectors.bounds[0].max() < 2**8 * ROUNDING


# --- ties -----------------------------------------------------------------------------------------------------------


def test_ties_are_counted(load, evaluate, binary_conv, tmp_path) -> None:
    constants = binary_conv(1, 3) | {"threshold": np.float32([0.5])}
    nodes = "p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)"
    model = load(
        f"(float[N,1,8,8] x) => (float[N,3,4,4] y) {{ {nodes} y = bnas.BinaryConv2d (p, {INPUTS}) }}", **constants
    )
    x = np.zeros((1, 1, 8, 8), np.float32)
    x[:, :, 0, :] = 1  # the first row of means is 0.5, as is the threshold
    values = _values(evaluate, model, x)
    run([PackWeights()], model)

    vectors, _ = _vectors(model, values, tmp_path)

    assert vectors.ties() == {"y": 4}


def test_ties_of_what_is_pooled_are_counted(load, evaluate, binary_conv, tmp_path) -> None:
    """A BN in front of the maximum is folded, and may round otherwise; of each window one pixel decides."""
    constants = binary_conv(1, 1) | {"ones": np.ones(1, np.float32), "none": np.zeros(1, np.float32)}
    constants |= {"scale": np.float32([0.3]), "mean": np.float32([0.1]), "level": np.float32([0])}
    model = load(
        f"(float[N,1,4,4] x) => (float[N,1,2,2] y) {{ b = bnas.BinaryConv2d (x, {INPUTS}) "
        "c = BatchNormalization (b, ones, none, mean, ones) p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (c) "
        "y = bnas.BinaryConv2d (p, W, level, offset, scale, bias) }",
        **constants,
    )
    x = -np.sign(constants["W"].ravel())[0] * np.ones((1, 1, 4, 4), np.float32)
    x[:, :, 0, 0] *= -1  # the first window has one pixel above, three below
    values = _values(evaluate, model, x)
    (above, below) = (values["c"].max(), values["c"].min())
    counts = []
    for level in (float(above), float(below), 0.0):
        changed = model.clone()
        set_input(changed.graph[3], "threshold", constant(changed.graph, "moved", np.float32([level])))
        run([FoldBatchNormAfterBinaryConv(), PackWeights(), WriteBits(), DropUnused()], changed)
        assert changed.graph[0].op_type == "BinaryConv2dMaxPoolToBits"
        vectors, _ = _vectors(changed, values, tmp_path)
        counts.append(vectors.ties())
    # At the upper value the first window ties; at the lower one the others do, since its upper pixel decides the first.
    assert counts == [{"y": 1}, {"y": 3}, {}]


def test_values_that_nothing_rounded_are_no_ties(load, evaluate, binary_conv, tmp_path) -> None:
    model = load(
        f"(float[N,1,4,4] x) => (float[N,3,4,4] y) {{ r = Relu (x) y = bnas.BinaryConv2d (r, {INPUTS}) }}",
        **binary_conv(1, 3),
    )
    values = _values(evaluate, model, np.full((1, 1, 4, 4), -1, np.float32))
    run([PackWeights()], model)

    vectors, _ = _vectors(model, values, tmp_path)

    assert vectors.ties() == {}


# --- outputs --------------------------------------------------------------------------------------------------------


def output_tolerance(network, images: torch.Tensor, noisy=None) -> float:
    """Return the tolerance of a network with one input and one output."""
    functions = [
        function and (lambda feed, function=function: (function(*feed.tensors),)) for function in (network, noisy)
    ]
    (tolerance,) = output_tolerances(functions[0], Feed.of_images(images), functions[1])
    return tolerance


def test_noise_inside_moves_what_noise_of_the_input_does_not() -> None:
    images = torch.zeros(3, 1, 2, 2)

    quiet = output_tolerance(lambda x: torch.zeros(len(x), 2), images)
    noisy = output_tolerance(lambda x: torch.zeros(len(x), 2), images, lambda x: torch.ones(len(x), 2))

    assert (quiet, noisy) == (0, 2)


def test_the_tolerance_of_outputs_is_what_noise_moves_them(rng) -> None:
    images = torch.ones(3, 1, 2, 2)

    linear = output_tolerance(lambda x: x.sum(dim=(1, 2, 3))[:, None], images)
    steep = output_tolerance(lambda x: 1000 * x.sum(dim=(1, 2, 3))[:, None], images)
    constant = output_tolerance(lambda x: torch.full((len(x), 2), 8.0), images)

    assert 0 < linear < 2 * 4 * 2.0**-13 + 2.0**-14 * 4.1
    assert steep == pytest.approx(1000 * linear, rel=1e-2)  # both are rounded differently, at 2^-24 of sums near 4000
    assert constant == 2.0**10 * ROUNDING * 8


class Branches(nn.Module):
    """A network with a branch, and values without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = BinaryConv2d(3, 4, 3)
        self.twice = nn.Parameter(torch.tensor([2.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv(x).mean((2, 3))
        return torch.cond(y.sum() > 0, lambda z: z * self.twice, lambda z: z + 1.0, (y,))


def test_branches_read_what_is_around_them(tmp_path) -> None:
    network = Branches().eval()
    captured = capture(network, (3, 8, 8))
    values = captured.values_of(torch.randn(1, 3, 8, 8))
    run(PIPELINE, captured.model)

    vectors, path = _vectors(captured.model, values, tmp_path)

    checks = vectors.corner_checks(path)
    assert "If" in {node.op_type for piece in vectors.pieces for node in piece.nodes}
    found = compare_pieces(path, checks, vectors.kept(checks))
    assert (found.failures, found.alike) == ([], True)
