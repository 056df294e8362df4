"""Every operator has one meaning: in numpy, as a function in ONNX's own evaluator, and in onnxruntime."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnx.inliner
import onnx.shape_inference
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from bnas_deploy.core import operators
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.operators import CONVOLUTIONS, IMAGES, OPERATORS, Operator
from bnas_deploy.export import opset
from bnas_deploy.runtime.session import session_options

EPSILON = 2.0**-24  # the largest relative error of one float32 rounding
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")

Inputs = dict[str, np.ndarray]
MakeModel = Callable[..., onnx.ModelProto]


@dataclass(frozen=True)
class Geometry:
    """One binary convolution; the sizes of the output are written out, not computed."""

    channels: int
    channels_out: int
    size: tuple[int, int]
    size_out: tuple[int, int]
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    constant_channels: int = 0

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "weight_shape": [self.channels_out, *self.kernel, self.channels // self.group + self.constant_channels],
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
            "group": self.group,
            **({"constant_channels": [self.constant_channels]} if self.constant_channels else {}),
        }

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.channels_out, *self.size_out)


GEOMETRIES = {
    "one of everything": Geometry(1, 1, (1, 1), (1, 1), kernel=(1, 1), pads=(0, 0, 0, 0)),
    "padding around one pixel": Geometry(3, 2, (1, 1), (1, 1)),
    "one bit in the second byte": Geometry(9, 5, (6, 7), (6, 7)),
    "stride 2": Geometry(7, 3, (7, 8), (4, 4), strides=(2, 2)),
    "dilation 2": Geometry(8, 4, (7, 9), (7, 9), pads=(2, 2, 2, 2), dilations=(2, 2)),
    "constant channels": Geometry(6, 5, (6, 7), (6, 7), constant_channels=3),
    "constant channels on every side": Geometry(
        8, 7, (8, 9), (5, 4), kernel=(3, 2), strides=(2, 3), pads=(2, 0, 1, 3), dilations=(1, 2), constant_channels=9
    ),
    "constant channels under a kernel larger than the image": Geometry(
        3, 2, (1, 2), (3, 4), kernel=(3, 3), pads=(2, 2, 2, 2), constant_channels=1
    ),
    "every side differs": Geometry(
        5, 7, (8, 9), (5, 4), kernel=(3, 2), strides=(2, 3), pads=(2, 0, 1, 3), dilations=(1, 2)
    ),
    "no padding": Geometry(13, 6, (5, 5), (1, 1), kernel=(5, 5), pads=(0, 0, 0, 0)),
    # onnxruntime reorders blocks of 8 or 16 channels where the CPU has AVX.
    "channels in blocks": Geometry(16, 32, (5, 6), (5, 6)),
    "two groups": Geometry(18, 4, (5, 6), (5, 6), group=2),
    "depthwise": Geometry(6, 6, (5, 6), (3, 3), strides=(2, 2), group=6),
}
# Those that read one tensor; what the others do is made of these, below.
PLAIN = [row for row in CONVOLUTIONS if row.parts == 1 and not row.computed_inputs]
CASES = [
    pytest.param(operator, geometry, id=f"{operator.name}, {name}")
    for operator in PLAIN
    for name, geometry in GEOMETRIES.items()
    if (geometry.group == 1 and not geometry.constant_channels) or not operator.k_map
    if (geometry.group == 1 or not operator.to_bits) and not (operator.of_bits and operator.activation)
    if min(geometry.size_out) > 1 or not operator.max_pool
]
each_case = pytest.mark.parametrize(("operator", "geometry"), CASES)


def _constants(operator: Operator, geometry: Geometry, rng: np.random.Generator) -> Inputs:
    channels, channels_out = geometry.channels, geometry.channels_out
    constants = {
        "W": pack_signs(rng.standard_normal(geometry.attributes["weight_shape"])),
        "threshold": rng.normal(0, 0.3, channels),
        "offset": rng.integers(-9, 10, (channels_out, 1, 1)),
        "scale": rng.standard_normal(channels_out),
        "bias": rng.standard_normal(channels_out),
        "slope": rng.standard_normal(channels_out),
        "pad": rng.choice([-1, 1], channels),
        "low": rng.standard_normal(channels_out) - 2,
        "high": rng.standard_normal(channels_out) + 2,
        "scale2": rng.standard_normal(channels_out),
        "bias2": rng.standard_normal(channels_out),
        # Bits in any order, of as many bytes as there are and one more; two sets of levels of a few numbers.
        "place": rng.choice(8 * _bytes(channels), channels, replace=False),
        "level": rng.choice([-np.inf, -3, 0, 0.5, 1, 7, np.inf, np.nan], (2 * -(-channels_out // 8), 8)),
    }
    return {
        row.name: constants[row.name] if row.name == "W" else constants[row.name].astype(np.float32)
        for row in operator.constants
    }


def _bytes(channels: int) -> int:
    """Return how many bytes a pixel of X has: more than its channels need."""
    return 1 + -(-channels // 8)


def _output_shape(operator: Operator, geometry: Geometry, constants: Inputs) -> tuple[int, ...]:
    channels = len(constants["level"]) if operator.to_bits else geometry.channels_out
    return (channels, *(length // 2 if operator.max_pool else length for length in geometry.size_out))


def _images(geometry: Geometry, constants: Inputs, rng: np.random.Generator) -> np.ndarray:
    """Three images that hold, among others, values equal to the threshold of their channel; or of bits."""
    if "place" in constants:
        return rng.integers(0, 256, (3, _bytes(geometry.channels), *geometry.size), np.uint8)
    images = rng.standard_normal((3, geometry.channels, *geometry.size)).astype(np.float32)
    images[1, :, 0, 0] = constants["threshold"]
    return images


def _tolerance(operator: Operator, geometry: Geometry, inputs: list[np.ndarray]) -> np.ndarray | float:
    """How far from the reference an operator may be: 0 without K.

    K may differ by C + KH * KW + 3 roundings relative to itself (docs/operators.md). So may p = acc * scale * K, plus
    the rounding of the product with K, here and in the reference. p + bias is rounded once in each, and so is its
    product with the slope; each of these four is at most EPSILON * (|p| + |bias|), times the slope.
    """
    if not operator.k_map:
        return 0.0
    named = dict(zip(operator.inputs, inputs, strict=True))
    plain = {**named, "bias": np.zeros_like(named["bias"])}
    product_operator = operators.operator("BinaryConv2dK")
    product = np.abs(
        opset.reference("BinaryConv2dK", [plain[name] for name in product_operator.inputs], geometry.attributes)
    )
    bias = np.abs(named["bias"]).reshape(-1, 1, 1)
    slope = np.maximum(1, np.abs(named.get("slope", np.ones(1)))).reshape(-1, 1, 1)
    k_roundings = geometry.channels + geometry.kernel[0] * geometry.kernel[1] + 3
    return EPSILON * slope * ((k_roundings + 2) * product + 4 * (product + bias))


def _run_onnxruntime(model: onnx.ModelProto, feeds: Inputs, level: str, *, library: bool = False) -> np.ndarray:
    options = session_options(threads=1, library=library)
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def _run_library(model: onnx.ModelProto, feeds: Inputs, level: str) -> np.ndarray:
    try:
        return _run_onnxruntime(model, feeds, level, library=True)
    except RuntimeLibraryError as error:
        pytest.skip(f"the operator library is not here: {error}")


# Every way to run a model of the operators.
ENGINES: dict[str, Callable[[onnx.ModelProto, Inputs], np.ndarray]] = {
    "evaluator": lambda model, feeds: ReferenceEvaluator(model).run(None, feeds)[0],
    **{
        f"onnxruntime {level}": lambda model, feeds, level=level: _run_onnxruntime(model, feeds, level)
        for level in LEVELS
    },
    "onnxruntime inlined": lambda model, feeds: _run_onnxruntime(
        onnx.inliner.inline_local_functions(model), feeds, "ENABLE_ALL"
    ),
    **{f"library {level}": lambda model, feeds, level=level: _run_library(model, feeds, level) for level in LEVELS},
}
each_engine = pytest.mark.parametrize("engine", ENGINES)


@each_engine
@each_case
def test_every_engine_computes_the_reference(
    operator: Operator, geometry: Geometry, engine: str, operator_model: MakeModel, rng: np.random.Generator
) -> None:
    constants = _constants(operator, geometry, rng)
    images = _images(geometry, constants, rng)
    shape = _output_shape(operator, geometry, constants)
    model = operator_model(operator.name, constants, geometry.attributes, images.shape[1:], shape)
    inputs = [images, *constants.values()]
    want = opset.reference(operator.name, inputs, geometry.attributes)
    assert (want.dtype, want.shape) == (np.uint8 if operator.to_bits else np.float32, (3, *shape))
    tolerance = np.broadcast_to(_tolerance(operator, geometry, inputs), want.shape)
    for batch in (1, 3):
        got = ENGINES[engine](model, {"X": images[:batch]})
        assert got.shape == (batch, *shape)
        assert (np.abs(got - want[:batch]) <= tolerance[:batch]).all()


# The first argument is a folder of models, each with its images beside it; what they answer is put there as well.
RUN_FOLDER = """
import sys, pathlib, numpy, onnxruntime
from bnas_deploy.runtime.session import create_session, session_options
for path in pathlib.Path(sys.argv[1]).glob("*.onnx"):
    for library in False, True:
        for level in "DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL":
            options = session_options(library=library)
            options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, "ORT_" + level)
            answer, = create_session(path, options).run(None, {"X": numpy.load(path.with_suffix(".npy"))})
            numpy.save(path.with_suffix(f".{level}.{library}.npy"), answer)
"""


def test_onnxruntime_1_17_computes_the_reference(
    operator_model: MakeModel,
    rng: np.random.Generator,
    onnxruntime_1_17: Any,
    tmp_path: Path,
) -> None:
    wanted = {}
    for operator in PLAIN:
        geometry = GEOMETRIES["every side differs" if operator.k_map else "constant channels on every side"]
        constants = _constants(operator, geometry, rng)
        images = _images(geometry, constants, rng)
        shape = _output_shape(operator, geometry, constants)
        model = operator_model(operator.name, constants, geometry.attributes, images.shape[1:], shape)
        onnx.save(model, tmp_path / f"{operator.name}.onnx")
        np.save(tmp_path / f"{operator.name}.npy", images)
        inputs = [images, *constants.values()]
        want = opset.reference(operator.name, inputs, geometry.attributes)
        wanted[operator.name] = want, _tolerance(operator, geometry, inputs)
    run = onnxruntime_1_17.run(RUN_FOLDER, tmp_path)
    assert run.returncode == 0, run.stderr
    for name, (want, tolerance) in wanted.items():
        answers = list(tmp_path.glob(f"{name}.*.*.npy"))
        assert len(answers) == 2 * len(LEVELS)
        for answer in answers:
            assert (np.abs(np.load(answer) - want) <= tolerance).all(), answer.name


# K of an input that is not finite is not finite either; test_k_is_exact_where_its_sum_is has the zeros.
@each_engine
@pytest.mark.parametrize("operator", [row for row in PLAIN if not (row.k_map or row.of_bits)], ids=lambda row: row.name)
def test_zeros_infinities_and_nan(
    operator: Operator, engine: str, operator_model: MakeModel, rng: np.random.Generator
) -> None:
    geometry = Geometry(6, 4, (3, 4), (3, 4))
    constants = _constants(operator, geometry, rng)
    constants["threshold"][:4] = 0, -0.0, np.inf, -np.inf
    images = rng.choice(np.float32([0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-45]), (3, 6, 3, 4))
    shape = _output_shape(operator, geometry, constants)
    model = operator_model(operator.name, constants, geometry.attributes, (6, 3, 4), shape)
    want = opset.reference(operator.name, [images, *constants.values()], geometry.attributes)
    np.testing.assert_array_equal(ENGINES[engine](model, {"X": images}), want)


@each_engine
@pytest.mark.parametrize("operator", [row for row in PLAIN if row.k_map], ids=lambda row: row.name)
def test_k_is_exact_where_its_sum_is(
    operator: Operator, engine: str, operator_model: MakeModel, rng: np.random.Generator
) -> None:
    # Sums of integers divided by 8 channels are exact, so K has one rounding, that of the division by 9.
    geometry = Geometry(8, 5, (4, 5), (4, 5))
    constants = _constants(operator, geometry, rng)
    images = rng.integers(-99, 100, (3, 8, 4, 5)).astype(np.float32)
    images[0, 0, 0, :2] = 0, -0.0
    model = operator_model(operator.name, constants, geometry.attributes, (8, 4, 5), geometry.output_shape)
    want = opset.reference(operator.name, [images, *constants.values()], geometry.attributes)
    np.testing.assert_array_equal(ENGINES[engine](model, {"X": images}), want)


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.endswith(("evaluator", "ALL", "inlined"))])
@pytest.mark.parametrize("plain", PLAIN, ids=lambda row: row.name)
def test_parts_are_joined_first_and_additions_come_last(plain: Operator, engine: str, rng: np.random.Generator) -> None:
    geometry = Geometry(8, 5, (4, 5), (4, 5))
    constants = _constants(plain, geometry, rng)
    x = rng.integers(-99, 100, (2, 8, 4, 5)).astype(np.float32)  # integers: K is exact
    if plain.of_bits:
        x = _images(geometry, constants, rng)[:2]
    result = opset.reference(plain.name, [x, *constants.values()], geometry.attributes)
    for row in (row for row in CONVOLUTIONS if row != plain and replace(row, parts=1, added=0) == plain):
        parts = dict(zip(row.activations, np.split(x, sorted(rng.integers(1, 8, row.parts - 1)), axis=1), strict=True))
        added = {name: rng.standard_normal(result.shape).astype(np.float32) for name in row.added_inputs}
        want = sum(added.values(), start=result)  # from left to right
        feeds = parts | added
        model = _computed_inputs_model(row, feeds, constants, geometry)
        onnx.checker.check_model(model, full_check=True)
        inputs = [*parts.values(), *constants.values(), *added.values()]
        np.testing.assert_array_equal(opset.reference(row.name, inputs, geometry.attributes), want)
        np.testing.assert_array_equal(ENGINES[engine](model, feeds), want, row.name)


BEHIND_A_SUM = [row for row in CONVOLUTIONS if row.gate or row.before]
GATES = {"per image and channel": (2, 1, 1), "per channel": (1, 1, 1), "per pixel": (1, 6, 7), "of all": (2, 6, 7)}


@pytest.mark.parametrize("engine", [name for name in ENGINES if name.endswith(("evaluator", "ALL", "inlined"))])
@pytest.mark.parametrize("operator", BEHIND_A_SUM, ids=lambda row: row.name)
def test_gates_and_sums_before_the_activation(operator: Operator, engine: str, rng: np.random.Generator) -> None:
    geometry = GEOMETRIES["one bit in the second byte"]
    constants = _constants(operator, geometry, rng)
    shape = (2, *geometry.output_shape)
    x = rng.standard_normal((2, geometry.channels, *geometry.size)).astype(np.float32)
    terms = [*operator.before_inputs, *operator.added_inputs]
    for images, rows, columns in GATES.values() if operator.gate else [(0, 0, 0)]:
        gate = (images, geometry.channels_out, rows, columns)
        sizes = dict.fromkeys(terms, shape) | dict.fromkeys(operator.gate_inputs, gate)
        computed = {name: rng.standard_normal(sizes[name]).astype(np.float32) for name in operator.computed_inputs}
        for pad in (constants["pad"], 0 * constants["pad"]):
            given = constants | {"pad": pad}
            model = _computed_inputs_model(operator, {"X": x} | computed, given, geometry)
            onnx.checker.check_model(model, full_check=True)
            want = opset.reference(operator.name, [x, *given.values(), *computed.values()], geometry.attributes)
            got = ENGINES[engine](model, {"X": x} | computed)
            np.testing.assert_array_equal(got, want)


IMAGE_SIZES = {"planes of some vectors": (5, 6, 7), "one pixel": (3, 1, 1), "blocks of channels": (16, 3, 4)}


@each_engine
@pytest.mark.parametrize("size", IMAGE_SIZES)
@pytest.mark.parametrize("operator", IMAGES, ids=lambda row: row.name)
def test_operators_of_images(operator: Operator, size: str, engine: str, rng: np.random.Generator) -> None:
    channels, *pixels = IMAGE_SIZES[size]
    if operator.max_pool and min(pixels) < 2:
        pytest.skip("a maximum needs 2x2 pixels")
    shape = (2, channels, *pixels)
    constants = {row.name: rng.standard_normal(channels).astype(np.float32) for row in operator.constants}
    for images, rows, columns in GATES.values() if operator.gate else [(0, 0, 0)]:
        gate = (images, channels, *(pixels if (rows, columns) != (1, 1) else (1, 1)))
        sizes = dict.fromkeys(("X", *operator.before_inputs, *operator.added_inputs), shape)
        sizes |= dict.fromkeys(operator.gate_inputs, gate)
        feeds = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in sizes.items()}
        # The maximum of a NaN is not defined.
        np.put(feeds["X"], range(6), [1 if operator.max_pool else np.nan, np.inf, -np.inf, 0, -0.0, -1e-45])
        feeds |= _in_parts(operator, feeds.pop("X"))
        model = _images_model(operator, feeds, constants)
        onnx.checker.check_model(model, full_check=True)
        want = opset.reference(operator.name, [(feeds | constants)[name] for name in operator.inputs], {})
        np.testing.assert_array_equal(ENGINES[engine](model, feeds), want)


@pytest.mark.parametrize("operator", IMAGES, ids=lambda row: row.name)
def test_files_with_images_are_valid_and_their_shape_is_inferred(operator: Operator) -> None:
    like_x = ("X", *operator.before_inputs, *operator.added_inputs)
    sizes = {"gate": (2, 3, 1, 1)} | dict.fromkeys(like_x, (2, 3, 6, 7))
    feeds = {name: np.ones(sizes[name], np.float32) for name in ("X", *operator.computed_inputs)}
    feeds |= _in_parts(operator, feeds.pop("X"))
    model = _images_model(operator, feeds, {row.name: np.ones(3, np.float32) for row in operator.constants})
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    dimensions = inferred.graph.output[0].type.tensor_type.shape.dim
    size = [3, 3] if operator.max_pool or operator.mean_pool else [6, 7]
    assert [dimension.dim_param or dimension.dim_value for dimension in dimensions] == ["N", 3, *size]


def test_operators_of_images_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1, -2]], [[3, 4]]]])
    scale, bias, gate = np.float32([2, -1]), np.float32([0.5, 0]), np.float32([[[[10]], [[0.5]]]])
    y = opset.reference("GateAffineAdd", [x, scale, bias, gate, 100 * np.ones_like(x)], {})
    assert y.tolist() == [[[[120.5, 60.5]], [[98.5, 98]]]]
    assert opset.reference("PRelu", [x, np.float32([0.25, 7])], {}).tolist() == [[[[1, -0.5]], [[3, 4]]]]
    first, second = np.float32([[[[1, 2, 9], [3, 4, 9]]]]), np.float32([[[[5, 6, 9], [7, 8, 9]]]])
    y = opset.reference("AffineMaxPoolConcat2", [first, second, scale, bias], {})
    assert y.tolist() == [[[[8.5]], [[-5]]]]  # the least is the largest where the slope is negative
    assert opset.reference("SecondBit", [x, np.float32([1.5, 3])], {}).tolist() == [[[[0.5, 1]], [[0, -4]]]]
    pixels = np.float32([[[[1, -2, 9], [3, 4, 9], [9, 9, 9]]]])
    assert opset.reference("PReluMeanPool", [pixels, np.float32([0.5])], {}).tolist() == [[[[1.75]]]]
    before, added = np.float32([[[[2, 1]], [[-1, 0]]]]), np.float32([[[[1, 1]], [[0, 2]]]])
    numbers = [[2, -0.5], [1, -2], [0, 1], [0.5, 0.5], [1, 2], [3, 0], [1, -1], [0, 10]]
    # Behind the reach and the sum 3 1, -1 4; scaled 3 1, 3 -7; activated and shifted 6 4, 6 -7; with the sum 7 5, 6 -5.
    y = opset.reference("ReachAddAffinePReluAffineAddAffine", [x, *map(np.float32, numbers), before, added], {})
    assert y.tolist() == [[[[7, 5]], [[4, 15]]]]


def _in_parts(row: Operator, x: np.ndarray) -> Inputs:
    """Return X in its parts, the first of which is the largest."""
    ends = [x.shape[1] - row.parts + 1 + i for i in range(row.parts - 1)]
    return dict(zip(row.activations, np.split(x, ends, axis=1), strict=True))


def _images_model(row: Operator, feeds: Inputs, constants: Inputs) -> onnx.ModelProto:
    def described(name: str, shape: tuple[int, ...]) -> onnx.ValueInfoProto:
        size = ["N" if shape[0] > 1 else 1, *shape[1:]]
        return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, size)

    batch, _, *size = feeds[row.activations[0]].shape
    channels = sum(feeds[name].shape[1] for name in row.activations)
    pools = row.max_pool or row.mean_pool
    y = (batch, channels, *(length // 2 if pools else length for length in size))
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(row.name, row.inputs, ["Y"], domain=operators.DOMAIN)],
        "graph",
        [described(name, value.shape) for name, value in feeds.items()],
        [described("Y", y)],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _with_body(graph, row)


def _with_body(graph: onnx.GraphProto, row: Operator) -> onnx.ModelProto:
    imports = [
        onnx.helper.make_opsetid("", operators.ONNX_OPSET),
        onnx.helper.make_opsetid(operators.DOMAIN, operators.VERSION),
    ]
    return onnx.helper.make_model(
        graph, opset_imports=imports, functions=[opset.function(row.name)], ir_version=operators.IR_VERSION
    )


def _computed_inputs_model(row: Operator, feeds: Inputs, constants: Inputs, geometry: Geometry) -> onnx.ModelProto:
    node = onnx.helper.make_node(row.name, row.inputs, ["Y"], domain=operators.DOMAIN, **geometry.attributes)
    graph = onnx.helper.make_graph(
        [node],
        "graph",
        [
            onnx.helper.make_tensor_value_info(
                name,
                onnx.helper.np_dtype_to_tensor_dtype(value.dtype),
                ["N" if len(value) > 1 else 1, *value.shape[1:]],
            )
            for name, value in feeds.items()
        ],
        [
            onnx.helper.make_tensor_value_info(
                "Y",
                onnx.TensorProto.UINT8 if row.to_bits else onnx.TensorProto.FLOAT,
                ["N", *_output_shape(row, geometry, constants)],
            )
        ],
        [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return _with_body(graph, row)


def test_a_library_leaves_an_operator_that_it_does_not_know_to_the_function_body(
    operator_model: MakeModel, rng: np.random.Generator
) -> None:
    """So a file with a newer operator is right in an older library: it does not compute something like it instead."""
    operator, geometry = Operator(pads_signs=True), Geometry(9, 5, (6, 7), (6, 7))
    constants = _constants(operator, geometry, rng)
    images = _images(geometry, constants, rng)
    model = operator_model(operator.name, constants, geometry.attributes, (9, 6, 7), geometry.output_shape)
    (node,), (function,) = model.graph.node, model.functions
    node.op_type = function.name = "BinaryConv2dOfTheFuture"
    want = opset.reference(operator.name, [images, *constants.values()], geometry.attributes)
    np.testing.assert_array_equal(_run_library(model, {"X": images}, "ENABLE_ALL"), want)


# ReferenceEvaluator of onnx 1.23 leaves the defaults of a function out, so the exporter writes every attribute.
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "evaluator"])
def test_attributes_have_defaults(engine: str, operator_model: MakeModel, rng: np.random.Generator) -> None:
    operator, geometry = operators.operator("BinaryConv2d"), Geometry(4, 3, (5, 5), (3, 3), pads=(0, 0, 0, 0))
    constants = _constants(operator, geometry, rng)
    images = _images(geometry, constants, rng)
    only_required = {"weight_shape": geometry.attributes["weight_shape"]}
    model = operator_model(operator.name, constants, only_required, (4, 5, 5), geometry.output_shape)
    want = opset.reference(operator.name, [images, *constants.values()], geometry.attributes)
    np.testing.assert_array_equal(ENGINES[engine](model, {"X": images}), want)


def test_the_reference_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([np.nan, -0.0, 0.0, -1e-45, np.inf, -np.inf]).reshape(1, 1, 1, 6)
    one = np.ones(1, np.float32)
    constants = [np.uint8([[[[1]]]]), 0 * one, 10 * one.reshape(1, 1, 1), 2 * one, -20 * one, 0.5 * one]
    y = opset.reference("BinaryConv2dPRelu", [x, *constants], {"weight_shape": [1, 1, 1, 1]})
    # sign -, +, +, -, +, -; accumulator 9 or 11; twice that minus 20 is -2 or 2; the slope halves what is negative.
    assert y.tolist() == [[[[-1, 2, 2, -1, 2, -1]]]]


def test_the_order_of_the_epilogue_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1, 1, -1]]]])
    one = np.ones(1, np.float32)
    constants = [np.uint8([[[[1]]]]), 0 * one, 0 * one, 0 * one.reshape(1, 1, 1), 2 * one, 3 * one]
    shape, before = {"weight_shape": [1, 1, 1, 1]}, np.float32([[[[-6, 1, 0]]]])
    # 1, 1 and -1 times 2, plus 3, plus `before`: -1, 6, 1. Behind the ReLU times 5, plus 7.
    y = opset.reference("BinaryConv2dAddReluAffine", [x, *constants, 5 * one, 7 * one, before], shape)
    assert y.tolist() == [[[[7, 37, 12]]]]
    # 1, 1 and -1 times 2 and 10, plus 3, plus `before`: 17, 24, -17.
    y = opset.reference("BinaryConv2dGateAddRelu", [x, *constants, np.float32([[[[10]]]]), before], shape)
    assert y.tolist() == [[[[17, 24, 0]]]]
    added = np.float32([[[[-7, -7, -7]]]])
    # 5, 5 and 1, behind the ReLU times 5, plus 7: 32, 32, 12.
    y = opset.reference("BinaryConv2dReluAffineAdd", [x, *constants, 5 * one, 7 * one, added], shape)
    assert y.tolist() == [[[[25, 25, 5]]]]


def test_limits_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1]], [[1]], [[-1]]]])
    weights = np.uint8([[[[0b111]]], [[[0b111]]], [[[0b100]]]])  # sums of 1, 1 and -3
    ones = np.ones(3, np.float32)
    constants = [weights, 0 * ones, 0 * ones, 0 * ones.reshape(3, 1, 1), ones, 0 * ones]
    low, high = np.float32([-1, 2, -2]), np.float32([0.5, 3, np.inf])
    y = opset.reference("BinaryConv2dClip", [x, *constants, low, high], {"weight_shape": [3, 1, 1, 3]})
    assert y.ravel().tolist() == [0.5, 2, -2]


def test_bits_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1]], [[-1]], [[1]]]])
    ones = np.ones(3, np.float32)
    weights = np.uint8([[[[0b101]]], [[[0b111]]], [[[0b010]]]] * 3)  # sums of 3, 1 and -3, three times
    nine = np.zeros((9, 1, 1), np.float32)
    level = np.full((4, 8), np.inf, np.float32)
    level[0], level[1, 0] = [3, 3.5, -np.inf, 3, 1, -3, 3, 2], -4
    level[2], level[3] = np.nan, 0
    constants = [weights, 0 * ones, 0 * ones, nine, level]
    y = opset.reference("BinaryConv2dToBits", [x, *constants], {"weight_shape": [9, 1, 1, 3]})
    # Two sets of two bytes, the second of which have one channel: its bits behind that are 0.
    assert y.tolist() == [[[[0b01111101]], [[1]], [[0]], [[0]]]]
    pixels = np.float32([[[[1, 1, 9], [-1, 1, 9], [9, 9, 9]], [[-1, 1, 9], [-1, -1, 9], [9, 9, 9]], [[-1] * 3] * 3]])
    # Sums of -1, 1, -3 and -1 in the first channel, 1, 3, -1 and 1 in the second, in the third 1, -1, 3 and 1.
    three, level = np.uint8([[[[0b111]]], [[[0b011]]], [[[0b000]]]]), np.float32([[1, 3.5, 3, *[np.inf] * 5]])
    constants = [three, 0 * ones, 0 * ones, 0 * ones.reshape(3, 1, 1), level]
    y = opset.reference("BinaryConv2dMaxPoolToBits", [pixels, *constants], {"weight_shape": [3, 1, 1, 3]})
    assert y.tolist() == [[[[0b101]]]]
    # The channels are bits 9, 0 and 11 of a pixel: +1, -1 and +1.
    place = np.float32([9, 0, 11])
    bits = np.uint8([[[[0b11111110]], [[0b00001010]]]])
    constants = [weights, place, 0 * ones, nine, np.ones(9, np.float32), nine.ravel()]
    y = opset.reference("BinaryConv2dOfBits", [bits, *constants], {"weight_shape": [9, 1, 1, 3]})
    assert y.ravel().tolist() == [3, 1, -3] * 3


def test_constant_channels_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1, -1, 1]]]])
    one = np.ones(1, np.float32)
    # A kernel of 1 x 3: its weights are + + + for X, and + - - and - - - for two channels of +1, together 0 -2 -2.
    constants = [np.uint8([[[[0b011], [0b001], [0b001]]]]), 0 * one, 0 * one.reshape(1, 1, 1), one, 0 * one]
    attributes = {"weight_shape": [1, 1, 3, 3], "pads": [0, 1, 0, 1], "constant_channels": [2]}
    y = opset.reference("BinaryConv2d", [x, *constants], attributes)
    # Signs + - +, so 0, 1 and 0 for X; the first tap falls on padding at the left, and the last at the right.
    assert y.tolist() == [[[[0 - 4, 1 - 4, 0 - 2]]]]


def test_signs_at_the_padding_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1, -1]], [[-1, -1]]]])
    one = np.ones(1, np.float32)
    # A kernel of 1 x 3: its weights are + + - for the first channel, + - - for the second.
    constants = [np.uint8([[[[0b11], [0b01], [0b00]]]]), np.zeros(2, np.float32), np.float32([1, -1])]
    constants += [0 * one.reshape(1, 1, 1), one, 0 * one]
    y = opset.reference("BinaryConv2dPad", [x, *constants], {"weight_shape": [1, 1, 3, 2], "pads": [0, 1, 0, 1]})
    # The first channel is + + - + with its padding, and so 1 + 1 + 1 and 1 - 1 - 1; the second is - - - -.
    assert y.tolist() == [[[[3 + 1, -1 + 1]]]]


def test_constant_channels_are_zeros_at_a_padding_of_signs() -> None:
    x = np.float32([[[[1]]]])
    one = np.ones(1, np.float32)
    constants = [np.uint8([[[[0b11], [0b11], [0b11]]]]), 0 * one, one, 0 * one.reshape(1, 1, 1), one, 0 * one]
    attributes = {"weight_shape": [1, 1, 3, 2], "pads": [0, 1, 0, 1], "constant_channels": [1]}
    assert opset.reference("BinaryConv2dPad", [x, *constants], attributes).tolist() == [[[[3 + 1]]]]


def test_the_reference_of_k_on_numbers_worked_out_by_hand() -> None:
    x = np.float32([[[[1, -3]], [[5, 7]]]])  # mean |x| over the two channels: 3 and 5
    one = np.ones(1, np.float32)
    constants = [
        np.uint8([[[[0b11], [0b11], [0b11]]]]),
        np.zeros(2, np.float32),
        0 * one.reshape(1, 1, 1),
        one,
        0 * one,
    ]
    y = opset.reference("BinaryConv2dK", [x, *constants], {"weight_shape": [1, 1, 3, 2], "pads": [0, 1, 0, 1]})
    # Signs + + and - +, so both sums are 2 + 0; K is (0 + 3 + 5) / 3 and (3 + 5 + 0) / 3, rounded to float32.
    assert y.tolist() == [[[[2 * np.float32(8 / 3)] * 2]]]


@each_case
def test_files_are_valid_and_every_shape_is_inferred(
    operator: Operator, geometry: Geometry, operator_model: MakeModel, rng: np.random.Generator
) -> None:
    constants = _constants(operator, geometry, rng)
    channels = _bytes(geometry.channels) if operator.of_bits else geometry.channels
    shape = _output_shape(operator, geometry, constants)
    model = operator_model(operator.name, constants, geometry.attributes, (channels, *geometry.size), shape)
    onnx.checker.check_model(model, full_check=True)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    dimensions = inferred.graph.output[0].type.tensor_type.shape.dim
    assert [dimension.dim_param or dimension.dim_value for dimension in dimensions] == ["N", *shape]


@pytest.mark.parametrize(
    ("name", "epilogue"),
    [
        ("BinaryConv2d", ["Mul", "Add"]),
        ("BinaryConv2dRelu", ["Mul", "Add", "Relu"]),
        ("BinaryConv2dPRelu", ["Mul", "Add", "PRelu"]),
        # What the padding holds costs nothing in a run: no Pad, and no more sums.
        ("BinaryConv2dPadRelu", ["Mul", "Add", "Relu"]),
        ("BinaryConv2dReluAffine", ["Mul", "Add", "Relu", "Mul", "Add"]),
        ("BinaryConv2dClip", ["Mul", "Add", "Max", "Min"]),
    ],
)
def test_onnxruntime_unpacks_the_weights_when_it_loads_the_model(
    name: str, epilogue: list[str], operator_model: MakeModel, rng: np.random.Generator, tmp_path: Path
) -> None:
    operator, geometry = operators.operator(name), Geometry(9, 5, (6, 7), (6, 7))
    constants = _constants(operator, geometry, rng)
    model = operator_model(name, constants, geometry.attributes, (9, 6, 7), geometry.output_shape)
    options = session_options(library=False)
    # At the next level the nodes depend on the CPU.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    left = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert left == ["GreaterOrEqual", "Where", "Conv", "Sum", *epilogue]


def test_the_name_of_an_operator_says_what_it_does() -> None:
    assert len({row.name for row in OPERATORS}) == 153
    for row in OPERATORS:
        assert operators.operator(row.name) == row
    assert Operator().name == "BinaryConv2d"
    assert Operator(pads_signs=True, activation="Relu", parts=2).name == "BinaryConv2dPadReluConcat2"
    assert Operator(gate=True, before=2, activation="PRelu", affine=True).name == "BinaryConv2dGateAddAddPReluAffine"
    assert Operator(of_bits=True, activation="Relu", added=1).name == "BinaryConv2dOfBitsReluAdd"
    assert Operator(of_bits=True, max_pool=True, to_bits=True).name == "BinaryConv2dOfBitsMaxPoolToBits"
    assert Operator(to_bits=True, parts=2).name == "BinaryConv2dToBitsConcat2"
    assert Operator(k_map=True, activation="PRelu", added=2, parts=3).name == "BinaryConv2dKPReluAddAddConcat3"
    assert Operator(convolves=False, gate=True, affine=True, added=1).name == "GateAffineAdd"


def _table(text: str, columns: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    assert all(len(row) == columns for row in rows)
    return rows[2:]


def test_the_documentation_lists_the_same_operators_inputs_and_attributes() -> None:
    document = (Path(__file__).parents[2] / "docs" / "operators.md").read_text(encoding="utf-8")
    introduction, inputs, attributes, _ = re.split(r"^## .*$", document, flags=re.MULTILINE)
    assert f"domain `{operators.DOMAIN}`, version {operators.VERSION}" in introduction
    of_bits = [row for row in CONVOLUTIONS if row.has_bits]
    of_cells, of_blocks = (
        [row for row in CONVOLUTIONS if row.is_of_blocks == kind and row not in of_bits] for kind in (False, True)
    )
    assert f"The domain has {len(OPERATORS)} operators" in introduction
    assert f"* {len(of_cells)} operators *of cells*" in introduction
    assert f"* {len(of_blocks)} operators *of blocks*" in introduction
    assert f"* {len(of_bits)} operators *of bits*" in introduction
    assert f"* {len(IMAGES)} operators *of images*" in introduction
    parts, _, blocks = introduction.partition("| operators of blocks")
    blocks, _, images = blocks.partition("| operators of images")
    (
        of_images,
        bits_in,
        factor,
        pad,
        before,
        first,
        activation,
        affine,
        added,
        last,
        max_pool,
        mean_pool,
        bits_out,
        concat,
    ) = (["", *re.findall(r"`(\w+)`", row[0])] for row in _table(parts, 3)[1:])
    # A part of the name may be left out; of several, one is chosen.
    every = {
        "BinaryConv2d" + "".join(pieces)
        for pieces in product(bits_in, factor, pad, before, activation, affine, added, max_pool, bits_out, concat)
    }
    steps = (of_images, factor, before, first, activation, affine, added, last, max_pool, mean_pool, concat)
    every |= set(map("".join, product(*steps)))
    assert {row.name for row in OPERATORS} <= every
    cells = product(["", "K", "Pad"], activation[:3], added, concat)
    assert {row.name for row in of_cells} == {"BinaryConv2d" + "".join(pieces) for pieces in cells}
    listed = re.findall(r"`(\w+)`", "".join(row[0] for row in _table(f"| {blocks}", 2)))
    assert sorted(f"BinaryConv2d{name}" for name in listed) == sorted(row.name for row in of_blocks)
    listed = re.findall(r"`(\w+)`", "".join(row[0] for row in _table(f"| {images}", 2)))
    assert sorted(listed) == sorted(row.name for row in IMAGES)
    computed = [
        ", ".join(f"`{name}`" for name in max((getattr(row, kind) for row in OPERATORS), key=len))
        for kind in ("gate_inputs", "before_inputs", "added_inputs")
    ]
    assert [row[0] for row in _table(inputs, 4)] == [
        "`X`, or `X1`, `X2`, ...",
        *(f"`{constant.name}`" for constant in operators.CONSTANTS),
        *computed,
    ]
    assert [(row[0], row[2]) for row in _table(attributes, 4)] == [
        (f"`{name}`", "required" if default is None else str(default)) for name, default in operators.defaults().items()
    ]
