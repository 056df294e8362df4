"""One layer in each engine: how it is opened there, and what its answer must be.

Every engine gets the same float32 activations and does the same work: convolve, multiply by a scale per channel, add a
bias, ReLU.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.runtime.bench.engines import BASELINE, LeftOut, OrtRunner
from bnas_deploy.runtime.bench.layer_problems import Problem, same_padding
from bnas_deploy.runtime.bench.machine import cpu_flags, native_isa, vector_isa
from bnas_deploy.runtime.bench.openvino import OpenVinoRunner, openvino_is_installed
from bnas_deploy.runtime.onnx_file.writer import NewNode, Value, model_bytes


class LayerRunner(Protocol):
    """A layer that is loaded and has run once, with its input and output in place."""

    output: NDArray[Any]

    def run(self) -> None:
        """Run once."""


@dataclass(frozen=True)
class EngineVariant:
    """One way in which an engine can run a layer; where an engine has several, its fastest is the one that counts.

    `open` takes a problem, the name of a file that it may write, and the number of threads; `is_right` takes the
    problem and the output. `open` raises UnsupportedLayerError where the engine cannot run the layer.
    """

    engine: str
    format: str | None
    isa: Callable[[], str]
    open: Callable[[Problem, Path, int], LayerRunner]
    is_right: Callable[[Problem, NDArray[Any]], bool]


def _float_isa() -> str:
    return vector_isa(cpu_flags())


def binary_convolution(
    given: Problem, x: str = "x", y: str = "y", prefix: str = "", added: Sequence[str] = ()
) -> tuple[NewNode, dict[str, NDArray[Any]]]:
    """Return the operator that computes the layer of a problem from `x` to `y`, and its constants.

    `prefix` goes before the names of the constants; `added` are tensors that it adds to the result.
    """
    channels_in, channels_out = given.layer.input[0], given.layer.output[0]
    row = Operator(activation="Relu", added=len(added))
    of_the_layer: dict[str, NDArray[Any]] = {
        "W": pack_signs(given.signs.transpose(0, 2, 3, 1)),
        "scale": given.scale,
        "bias": given.bias,
    }
    neutral: dict[str, NDArray[Any]] = {
        constant.name: np.full(constant.dimensions({"C": channels_in, "O": channels_out}), constant.neutral, np.float32)
        for constant in row.constants
        if constant.name not in of_the_layer
    }
    constants = {f"{prefix}{name}": value for name, value in (of_the_layer | neutral).items()}
    shape = [channels_out, *given.layer.kernel, channels_in]
    attributes = {"weight_shape": shape, **conv_attributes(given.layer)}
    inputs = (x, *(f"{prefix}{constant.name}" for constant in row.constants), *added)
    return NewNode(row.name, inputs, y, attributes, domain=DOMAIN), constants


def open_bnas(given: Problem, path: Path, threads: int) -> LayerRunner:
    """Run the layer as one operator of the library; the model is written to `path`."""
    node, constants = binary_convolution(given)
    return _open_in_onnxruntime(path, [node], constants, given.x, "float32", given.layer, threads, library=True)


def open_standard(given: Problem, path: Path, threads: int) -> LayerRunner:
    """Run the same layer as standard operators, without the library: what the function body of an export comes to."""
    constants: dict[str, NDArray[Any]] = {
        "threshold": np.zeros((), np.float32),
        "plus": np.ones((), np.float32),
        "minus": -np.ones((), np.float32),
        "W": given.signs,
        "scale": given.scale.reshape(-1, 1, 1),
        "bias": given.bias.reshape(-1, 1, 1),
    }
    nodes = [
        NewNode("GreaterOrEqual", ("x", "threshold"), "positive"),
        NewNode("Where", ("positive", "plus", "minus"), "signs"),
        NewNode("Conv", ("signs", "W"), "products", conv_attributes(given.layer)),
        NewNode("Mul", ("products", "scale"), "scaled"),
        NewNode("Add", ("scaled", "bias"), "sum"),
        NewNode("Relu", ("sum",), "y"),
    ]
    return _open_in_onnxruntime(path, nodes, constants, given.x, "float32", given.layer, threads)


def _open_fp32(given: Problem, path: Path, threads: int) -> LayerRunner:
    constants = {"W": given.signs * given.scale.reshape(-1, 1, 1, 1), "bias": given.bias}
    nodes = [
        NewNode("Conv", ("x", *constants), "sum", conv_attributes(given.layer)),
        NewNode("Relu", ("sum",), "y"),
    ]
    return _open_in_onnxruntime(path, nodes, constants, given.x, "float32", given.layer, threads)


@dataclass(frozen=True)
class Int8Format:
    """Types of the activations and weights of a QLinearConv."""

    activations: str
    weights: str

    @property
    def name(self) -> str:
        """Return the usual short name, such as U8S8."""
        return "".join(f"{'U' if dtype == 'uint8' else 'S'}8" for dtype in (self.activations, self.weights))


INT8_FORMATS = (Int8Format("uint8", "int8"), Int8Format("uint8", "uint8"), Int8Format("int8", "int8"))
"""The static formats of onnxruntime."""

ZERO_POINT = {"uint8": 128, "int8": 0}
LOWEST = {"uint8": 0, "int8": -128}

X_SCALE = np.float32(1 / 16)
"""What makes 8-bit integers of a problem's activations, exactly."""

WEIGHT_STEPS = 64
"""A weight is 64 steps: 7 bits, because two products of 8 bits by 8 overflow where AVX2 adds them up in 16."""


def _open_int8(form: Int8Format, floats: bool, given: Problem, path: Path, threads: int) -> LayerRunner:
    """Quantise, QLinearConv, dequantise; without `floats` only the QLinearConv, on activations that are 8-bit."""
    weight_scale = given.scale / np.float32(WEIGHT_STEPS)
    weights_zero = ZERO_POINT[form.weights]
    constants: dict[str, NDArray[Any]] = {
        "x_scale": np.array(X_SCALE),
        "x_zero": np.array(ZERO_POINT[form.activations], form.activations),
        "W": (given.signs * WEIGHT_STEPS + weights_zero).astype(form.weights),
        "W_scale": weight_scale,
        "W_zero": np.full(len(weight_scale), weights_zero, form.weights),
        "y_scale": np.array(_y_scale(given)),
        # The lowest number stands for 0, so that clipping to 8 bits is the ReLU.
        "y_zero": np.array(LOWEST[form.activations], form.activations),
        "bias": (given.bias / (X_SCALE * weight_scale)).astype(np.int32),
    }
    x, y = ("x_q", "y_q") if floats else ("x", "y")
    quantised = (x, *(name for name in constants if name != "bias"), "bias")
    nodes = [NewNode("QLinearConv", quantised, y, conv_attributes(given.layer))]
    activations: NDArray[Any] = given.x
    dtype = "float32"
    if floats:
        nodes.insert(0, NewNode("QuantizeLinear", ("x", "x_scale", "x_zero"), x))
        nodes.append(NewNode("DequantizeLinear", (y, "y_scale", "y_zero"), "y"))
    else:
        dtype = form.activations
        activations = (given.x / X_SCALE + ZERO_POINT[dtype]).astype(dtype)
    return _open_in_onnxruntime(path, nodes, constants, activations, dtype, given.layer, threads)


def _y_scale(given: Problem) -> np.float32:
    return np.float32(given.float_answer.max() / 255)


def _open_in_onnxruntime(
    path: Path,
    nodes: Sequence[NewNode],
    constants: Mapping[str, NDArray[Any]],
    x: NDArray[Any],
    output: str,
    layer: LayerCost,
    threads: int,
    *,
    library: bool = False,
) -> LayerRunner:
    y = Value("y", output, (len(x), *layer.output))
    path.write_bytes(model_bytes(nodes, constants, [Value("x", x.dtype.name, x.shape)], [y]))
    return OrtRunner(path, x, threads=threads, library=library)


def conv_attributes(layer: LayerCost) -> dict[str, int | Sequence[int]]:
    """Return the attributes of a convolution that has the geometry of `layer`."""
    return {
        "strides": layer.stride,
        "pads": (same_padding(layer),) * 4,
        "dilations": layer.dilation,
        "group": layer.groups,
    }


def _open_openvino(given: Problem, path: Path, threads: int) -> LayerRunner:
    return OpenVinoRunner(
        given.layer, given.x, given.signs, given.scale, given.bias, padding=same_padding(given.layer), threads=threads
    )


def _is_binary_answer(given: Problem, output: NDArray[Any]) -> bool:
    return np.array_equal(output, given.binary_answer)


def _is_float_answer(given: Problem, output: NDArray[Any]) -> bool:
    return np.array_equal(output, given.float_answer)


def _is_within_a_step(given: Problem, output: NDArray[Any]) -> bool:
    """Only the rounding to 8 bits is between an int8 layer and the float answer; versions differ in how they round."""
    levels = output.astype(np.float32)
    if output.dtype.name in LOWEST:
        levels = (levels - LOWEST[output.dtype.name]) * _y_scale(given)
    return output.shape == given.float_answer.shape and bool(
        (np.abs(levels - given.float_answer) <= _y_scale(given)).all()
    )


ENGINE_VARIANTS = (
    EngineVariant("bnas", None, native_isa, open_bnas, _is_binary_answer),
    EngineVariant(BASELINE, None, _float_isa, _open_fp32, _is_float_answer),
    *(
        EngineVariant(engine, form.name, _float_isa, partial(_open_int8, form, floats), _is_within_a_step)
        for engine, floats in (("ort-int8", True), ("ort-int8-inner", False))
        for form in INT8_FORMATS
    ),
    EngineVariant("openvino-binary", None, _float_isa, _open_openvino, _is_binary_answer),
)


def missing_engines() -> list[LeftOut]:
    """Return the engines that are not installed."""
    if openvino_is_installed():
        return []
    return [LeftOut("openvino-binary", None, "the package openvino is not installed")]
