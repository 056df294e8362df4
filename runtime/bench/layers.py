"""Single binary convolutions, engine against engine, on a fixed list of layers: what `bnas-deploy bench --layers` runs.

Every engine gets the same float32 activations and does the same work on the same layer: convolve, multiply by a scale
per channel, add a bias, ReLU. Its result is checked before it is timed. docs/benchmarks.md says what is in each time.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bits import pack_signs, sign
from bnas_deploy.core.errors import RuntimeLibraryError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.operators import DOMAIN, Operator
from bnas_deploy.runtime.bench.engine_process import EngineProcesses, OpenedModel
from bnas_deploy.runtime.bench.engines import BASELINE, LeftOut, OrtRunner
from bnas_deploy.runtime.bench.machine import cpu_flags, native_isa, vector_isa
from bnas_deploy.runtime.bench.networks import Record, Setting, layer_name, ratio, record
from bnas_deploy.runtime.bench.openvino import OpenVinoRunner, UnsupportedLayerError, openvino_is_installed
from bnas_deploy.runtime.bench.samples import MIN_RUNS, WARMUP_NS, Samples, interleave, measure_in_turns
from bnas_deploy.runtime.onnx_file.writer import NewNode, Value, model_bytes


def same_convolution(
    size: int, channels_in: int, channels_out: int, kernel: int, *, stride: int = 1, dilation: int = 1
) -> LayerCost:
    """Describe a binary convolution on a square image, padded so that stride 1 keeps the size."""
    image, pair = (size, size), (dilation, dilation)
    out = -(-size // stride)
    layer = LayerCost(
        "", (channels_in, *image), (channels_out, out, out), (kernel, kernel), (stride, stride), pair, 1, 1
    )
    return replace(layer, name=layer_name(layer))


def same_padding(layer: LayerCost) -> int:
    """Return the padding of each side of such a layer."""
    return layer.dilation[0] * (layer.kernel[0] - 1) // 2


LAYERS = (
    # ResNet-18's, 116 million MACs each: the ones that others publish.
    same_convolution(56, 64, 64, 3),
    same_convolution(28, 128, 128, 3),
    same_convolution(14, 256, 256, 3),
    same_convolution(7, 512, 512, 3),
    # BNAS-A's at its three sizes of image, and its other kernels.
    same_convolution(32, 36, 36, 3),
    same_convolution(16, 72, 72, 3),
    same_convolution(8, 144, 144, 3),
    same_convolution(32, 36, 36, 5),
    same_convolution(32, 36, 36, 3, dilation=2),
    # Between two stages.
    same_convolution(56, 64, 128, 3, stride=2),
    same_convolution(28, 256, 64, 1),
)
"""What is measured, in the order in which it is shown."""


WRONG_RESULT = "wrong result"
NOT_SUPPORTED = "not supported"


@dataclass(frozen=True)
class Problem:
    """A layer with data on which nothing rounds, so that results can be compared exactly.

    `x` (N, C, H, W) are odd multiples of 1/16 below 8: 8-bit numbers hold them, and none is 0, where engines disagree
    about the sign. `signs` (O, C, KH, KW) are +1 or -1, `scale` (O) powers of two and `bias` (O) multiples of 1/64. So
    all sums are multiples of 2^-10, below 2^14 in size: float32 holds every one of them, in any order of summation.
    """

    layer: LayerCost
    x: NDArray[np.float32]
    signs: NDArray[np.float32]
    scale: NDArray[np.float32]
    bias: NDArray[np.float32]

    @cached_property
    def binary_answer(self) -> NDArray[np.float32]:
        """What docs/operators.md says of BinaryConv2dRelu with threshold and offset 0: float32 (N, O, OH, OW)."""
        return self._answer(sign(self.x))

    @cached_property
    def float_answer(self) -> NDArray[np.float32]:
        """The same layer on activations that are not binarised: float32 (N, O, OH, OW)."""
        return self._answer(self.x)

    @cached_property
    def linear_answer(self) -> NDArray[np.float32]:
        """The float answer without ReLU: float32 (N, O, OH, OW)."""
        return self._linear(self.x)

    def _answer(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        y: NDArray[np.float32] = np.maximum(self._linear(x), np.float32(0))
        return y

    def _linear(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        scale, bias = (values.reshape(-1, 1, 1) for values in (self.scale, self.bias))
        y: NDArray[np.float32] = _convolve(x, self.signs, self.layer) * scale + bias
        return y


def problem(layer: LayerCost, batch: int) -> Problem:
    """Draw data for `layer`, the same every time."""
    rng = np.random.default_rng(0)
    channels_out, channels_in = layer.output[0], layer.input[0]
    return Problem(
        layer,
        x=((2 * rng.integers(-64, 64, (batch, *layer.input)) + 1) / 16).astype(np.float32),
        signs=sign(rng.normal(size=(channels_out, channels_in, *layer.kernel)).astype(np.float32)),
        scale=(0.5 ** rng.integers(4, 7, channels_out)).astype(np.float32),
        bias=(rng.integers(-64, 65, channels_out) / 64).astype(np.float32),
    )


def _convolve(x: NDArray[np.float32], signs: NDArray[np.float32], layer: LayerCost) -> NDArray[np.float32]:
    """Convolve one tap at a time; a padded tap adds 0."""
    (stride, _), (dilation, _), (_, rows, columns) = layer.stride, layer.dilation, layer.output
    padding = same_padding(layer)
    padded = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    y = np.zeros((len(x), *layer.output), np.float32)
    for row, column in np.ndindex(layer.kernel):
        tap = padded[:, :, row * dilation :: stride, column * dilation :: stride][:, :, :rows, :columns]
        y += np.tensordot(signs[:, :, row, column], tap, (1, 1)).swapaxes(0, 1)
    return y


# --------------------------------------------------------------------------------------------------------------------
# Engines


class LayerRunner(Protocol):
    """A layer that is loaded and has run once, with its input and output in place."""

    output: NDArray[Any]

    def run(self) -> None:
        """Run once."""


@dataclass(frozen=True)
class Variant:
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
    constants: dict[str, NDArray[Any]] = {
        f"{prefix}W": pack_signs(given.signs.transpose(0, 2, 3, 1)),
        f"{prefix}threshold": np.zeros(channels_in, np.float32),
        f"{prefix}offset": np.zeros((channels_out, 1, 1), np.float32),
        f"{prefix}scale": given.scale,
        f"{prefix}bias": given.bias,
    }
    shape = [channels_out, *given.layer.kernel, channels_in]
    attributes = {"weight_shape": shape, **conv_attributes(given.layer)}
    row = Operator(activation="Relu", added=len(added))
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


VARIANTS = (
    Variant("bnas", None, native_isa, open_bnas, _is_binary_answer),
    Variant(BASELINE, None, _float_isa, _open_fp32, _is_float_answer),
    *(
        Variant(engine, form.name, _float_isa, partial(_open_int8, form, floats), _is_within_a_step)
        for engine, floats in (("ort-int8", True), ("ort-int8-inner", False))
        for form in INT8_FORMATS
    ),
    Variant("openvino-binary", None, _float_isa, _open_openvino, _is_binary_answer),
)


def missing_engines() -> list[LeftOut]:
    """Return the engines that are not installed."""
    if openvino_is_installed():
        return []
    return [LeftOut("openvino-binary", None, "the package openvino is not installed")]


# --------------------------------------------------------------------------------------------------------------------
# Measuring


@lru_cache(maxsize=1)
def _drawn(layer: LayerCost, batch: int) -> Problem:
    return problem(layer, batch)


def open_variant(
    engine: str, format: str | None, layer: Mapping[str, Any], batch: int, path: str, threads: int
) -> LayerRunner:
    """Open a layer, given as the fields of its LayerCost, in a variant: what an `EngineProcess` calls."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in layer.items()}
    cost = LayerCost(**fields)
    (variant,) = (each for each in VARIANTS if (each.engine, each.format) == (engine, format))
    return variant.open(_drawn(cost, batch), Path(path), threads)


@dataclass(frozen=True)
class Entry:
    """A variant that is loaded, right, and ready to be timed with `threads`."""

    variant: Variant
    threads: int
    model: OpenedModel


def measure_layers(
    layers: Sequence[LayerCost],
    *,
    threads: Sequence[int],
    batch: int,
    min_seconds: float,
    on_step: Callable[[str], object] = lambda step: None,
) -> tuple[list[Record], list[LeftOut]]:
    """Measure every engine that is installed on every layer.

    Args:
        layers: what to measure.
        threads: numbers of threads; all of them, and all engines, take turns in one run.
        batch: images per run.
        min_seconds: how long to measure each layer, at least; engines and numbers of threads share it.
        on_step: is told what is being done, for people who wait.

    Returns:
        Records by number of threads, then layer, then engine; and what was not measured.

    Raises:
        RuntimeLibraryError: the operator library cannot be used, or gives a wrong result.
    """
    left_out = missing_engines()
    missing = {each.engine for each in left_out}
    variants = [variant for variant in VARIANTS if variant.engine not in missing]
    records: list[Record] = []
    with EngineProcesses() as processes:
        for layer in layers:
            on_step(layer.name)
            measured, wrong = _measure_layer(processes, problem(layer, batch), variants, threads, min_seconds)
            records += measured
            left_out += wrong
            processes.forget()
    return sorted(records, key=lambda each: threads.index(each.threads)), left_out


def _measure_layer(
    processes: EngineProcesses,
    given: Problem,
    variants: Sequence[Variant],
    threads: Sequence[int],
    min_seconds: float,
) -> tuple[list[Record], list[LeftOut]]:
    with temporary_folder() as folder:
        entries, left_out = _open_all(processes, given, variants, threads, folder)
        calls = [entry.model.run for entry in entries]
        entries = _fastest(entries, interleave(calls, min_rounds=MIN_RUNS, min_ns=WARMUP_NS).ns)
        samples = measure_in_turns([entry.model.run for entry in entries], min_seconds)
    return list(_records(given, entries, samples)), left_out


def _open_all(
    processes: EngineProcesses, given: Problem, variants: Sequence[Variant], threads: Sequence[int], folder: Path
) -> tuple[list[Entry], list[LeftOut]]:
    """Load every variant with every number of threads; engines that cannot, or give a wrong result, are left out."""
    entries: list[Entry] = []
    left_out: dict[str, LeftOut] = {}
    for variant, count in product(variants, threads):
        try:
            model = processes.of(variant.engine, count).open(
                open_variant,
                engine=variant.engine,
                format=variant.format,
                layer=asdict(given.layer),
                batch=len(given.x),
                path=str(folder / f"{variant.engine}.onnx"),
                threads=count,
            )
        except UnsupportedLayerError:
            left_out[variant.engine] = LeftOut(variant.engine, given.layer.name, NOT_SUPPORTED)
            continue
        if variant.is_right(given, model.output):
            entries.append(Entry(variant, count, model))
        elif variant.engine == "bnas":
            raise RuntimeLibraryError(
                f"{given.layer.name}: the operator library ({variant.isa()}, threads: {count}) gives a wrong result; "
                "nothing more was measured, please report this with your CPU's name"
            )
        else:
            left_out[variant.engine] = LeftOut(variant.engine, given.layer.name, WRONG_RESULT)
    return [entry for entry in entries if entry.variant.engine not in left_out], list(left_out.values())


def _fastest(entries: Sequence[Entry], samples_ns: NDArray[np.int64]) -> list[Entry]:
    """Keep, for each engine and number of threads, the variant that had the shortest run.

    Not the smallest median: these are few runs, and other work on the machine only ever makes them longer.
    """
    best: dict[tuple[str, int], tuple[int, Entry]] = {}
    for entry, shortest in zip(entries, samples_ns.min(axis=0).tolist(), strict=True):
        key = entry.variant.engine, entry.threads
        if key not in best or shortest < best[key][0]:
            best[key] = shortest, entry
    return [entry for _, entry in best.values()]


def _records(given: Problem, entries: Sequence[Entry], samples: Samples) -> Iterator[Record]:
    columns = {(entry.variant.engine, entry.threads): samples.of(i) for i, entry in enumerate(entries)}
    for entry in entries:
        engine, threads, batch = entry.variant.engine, entry.threads, len(given.x)
        baseline = columns.get((BASELINE, threads))
        own = columns[engine, threads]
        yield replace(
            record(given.layer.name, Setting(engine, entry.variant.isa(), threads, batch), own),
            macs=given.layer.macs * batch,
            format=entry.variant.format,
            ratio=None if engine == BASELINE or baseline is None else ratio(BASELINE, baseline, own),
        )
