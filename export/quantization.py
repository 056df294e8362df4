"""Float layers in 8 bits, by onnxruntime's static quantisation: the int8 twin, and what a binary network has of them.

Activations are unsigned with one scale a tensor, weights signed with one scale an output channel (U8S8): of the static
formats the only one that is fast in whole networks (docs/benchmarks.md). Ranges are the least and the greatest value
that a tensor takes on the images, which exist whatever the weights are. Weights have 7 bits (`reduce_range`): two
products of 8 bits by 8 overflow where a CPU without VNNI adds them up in 16, and the twin's answers are then wrong
there.
"""

import contextlib
import logging
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnxruntime import quantization
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from bnas_deploy.core.files import temporary_folder
from bnas_deploy.export.finish import BATCH, finish_proto
from bnas_deploy.export.graph import Origin, node_before, origin_of

Examples = NDArray[Any] | Mapping[str, NDArray[Any]]
"""Those of the only input, or of each by name."""

CALIBRATION_BATCH = 2
"""Examples that are run at once: of BNAS-H six have 0.3 GB more activations, at the peak of an export, than two."""

SMALLEST_RANGE = 1e-6
"""Where a tensor varies less, 8 bits are spread over this much: the scale of a bias is that of the activations times
that of the weights, and a product of two tiny ones is 0 in float32."""


class _Examples(quantization.CalibrationDataReader):  # type: ignore[misc] # onnxruntime carries no type information
    """Hands examples to onnxruntime's calibration, some at a time."""

    def __init__(self, batched: Mapping[str, NDArray[Any]], fixed: Mapping[str, NDArray[Any]]) -> None:
        count = len(next(iter(batched.values())))
        self._feeds: Iterator[dict[str, NDArray[Any]]] = iter(
            [
                {name: array[first : first + CALIBRATION_BATCH] for name, array in batched.items()} | dict(fixed)
                for first in range(0, count, CALIBRATION_BATCH)
            ]
        )

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch by input name, and None after the last."""
        return next(self._feeds, None)


FEWEST_CHANNELS = 16
FEWEST_PRODUCTS = 9 * FEWEST_CHANNELS
"""Convolutions of fewer channels, such as those of images, stay in float32, unless an output is a sum of so many
products: onnxruntime's int8 convolution of 3x3 and 3 channels takes 1.7 times as long as its float one, at 224x224, and
changes the answer for nothing. With 7x7 it takes 0.6 of the time with AVX-VNNI."""


def quantize(model: "FloatFile", images: Examples) -> onnx.ModelProto:
    """Return a model with everything in 8 bits that onnxruntime has in 8 bits, calibrated on `images` (N, C, H, W).

    The int8 file lies beside the float one for the while: onnxruntime has several copies of the weights at once, so
    that nobody should have another one.

    Each quantised tensor passes a QuantizeLinear and a DequantizeLinear, which onnxruntime and other engines merge
    with the operators around them into operators on integers when they load the file. Inputs and outputs stay as they
    are.

    Args:
        model: of a float network.
        images: or an array for each input by name, where it takes something else.
    """
    return _quantize_static(model, images)


def layers_worth_8_bits(model: onnx.ModelProto) -> tuple[str, ...]:
    """Return the names of the float convolutions and classifiers that can gain from 8 bits."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    return tuple(node.name for node in model.graph.node if _is_worth_8_bits(node, weights))


def quantize_layers(model: onnx.ModelProto, images: Examples, names: Sequence[str]) -> onnx.ModelProto:
    """Return `model` with the float convolutions and classifiers `names`, at least one, in 8 bits.

    They become islands: what each reads is quantised for it alone, so that a binary convolution that reads the same
    compares the unrounded values; and what each gives is float32 again. The classifier's logits are not rounded.
    """
    settings = {"nodes_to_quantize": list(names), "op_types_to_quantize": list(_LAYERS)}
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with temporary_folder() as folder:
        quantized = _quantize_static(FloatFile.of(copy, folder), images, **settings)
    _give_unrounded(quantized.graph, names)
    _read_unrounded(quantized.graph, names)
    return quantized


def _give_unrounded(graph: onnx.GraphProto, layers: Container[str]) -> None:
    """Let the network answer unrounded what others than `layers` give, where a layer reads an output of the network.

    onnxruntime's quantisation leaves the name of such an output to what is rounded for the layer.
    """
    makers = {output: node for node in graph.node for output in node.output}
    renamed: dict[str, str] = {}
    for output in graph.output:
        quantize = makers[maker.input[0]] if (maker := makers[output.name]).op_type == "DequantizeLinear" else None
        if quantize is not None and makers[raw := quantize.input[0]].name not in layers:
            renamed |= {raw: output.name, output.name: f"{output.name}_DequantizeLinear_Output"}
    for node in graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = renamed.get(name, name)


def _read_unrounded(graph: onnx.GraphProto, layers: Container[str]) -> None:
    """Let all but `layers` read what was quantised for a layer as it was before; onnxruntime has all read the result.

    What a layer gives is rounded for everybody: its convolution on integers has nothing else to give.
    """
    makers = {output: node for node in graph.node for output in node.output}
    unrounded = {}
    for node in graph.node:
        quantize = makers.get(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantize is not None and (maker := makers.get(quantize.input[0])) and maker.name not in layers:
            unrounded[node.output[0]] = quantize.input[0]
    for node in graph.node:
        if node.name not in layers:
            for i, name in enumerate(node.input):
                node.input[i] = unrounded.get(name, name)


def with_origins(quantized: ir.Model, model: ir.Model, layers: Container[str]) -> ir.Model:
    """Note in `quantized` where its values come from, as `model` does, and what the passes noted of its nodes.

    What a layer in 8 bits gives is what comes out of its rounding.
    """
    origins = {value.name: origin_of(value) for node in model.graph for value in node.outputs}
    notes = {node.name: node.meta for node in model.graph}
    for node in quantized.graph:
        node.meta.update(notes.get(node.name, {}))
        for value in node.outputs:
            if value.name in origins:
                value.meta["origin"] = origins[value.name]
    for node in quantized.graph:
        quantize = node_before(node) if node.op_type == "DequantizeLinear" else None
        maker = None if quantize is None else node_before(quantize)
        if maker is not None and maker.name in layers:
            rounded, raw = node.outputs[0], maker.outputs[0]
            # An output of the graph keeps its name, and what comes before its rounding gets another.
            if "origin" in raw.meta:
                rounded.meta["origin"] = raw.meta["origin"]
            raw.meta["origin"] = Origin(f"{raw.name} before it is rounded")  # which PyTorch does not know
    return quantized


_LAYERS = ("Conv", "Gemm", "MatMul")
MATRIX = 2  # axes of it


def _is_worth_8_bits(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    if node.op_type not in _LAYERS or node.input[1] not in weights:
        return False
    if node.op_type != "Conv":
        return len(weights[node.input[1]].dims) <= MATRIX
    channels, *kernel = weights[node.input[1]].dims[1:]
    return bool(channels >= FEWEST_CHANNELS or channels * math.prod(kernel) >= FEWEST_PRODUCTS)


def _stays_float(node: onnx.NodeProto, graph: onnx.GraphProto) -> bool:
    """Tell whether onnxruntime's quantisation (1.32) ends in an error at this node.

    It takes the scales of a grouped transposed convolution along the wrong axis, and a layer normalisation's weight for
    one with a single axis. Of a product with several matrices it makes scales that its own operator refuses.
    """
    if node.op_type == "ConvTranspose":
        return any(attribute.name == "group" and attribute.i > 1 for attribute in node.attribute)
    ranks = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    if node.op_type == "MatMul":
        return ranks.get(node.input[1], MATRIX) > MATRIX
    return node.op_type == "LayerNormalization" and ranks.get(node.input[1], 1) > 1


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep onnxruntime from telling that it quantises a vector, such as a BN's, as a whole: it has no other axis."""
    root = logging.getLogger()
    root.addFilter(_is_news)
    try:
        yield
    finally:
        root.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return "is out-of-range for weight" not in record.getMessage()


@dataclass(frozen=True)
class FloatFile:
    """The file of a float model: the names of its inputs, of those with an axis N, and of nodes that stay float."""

    path: Path
    inputs: tuple[str, ...]
    batched: frozenset[str]
    excluded: tuple[str, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto, folder: Path) -> "FloatFile":
        """Write the file into `folder`, its weights beside it; `model` is left without them.

        onnxruntime infers shapes in a copy of the file, which needs no weights, and does not parse them for a session.
        """
        # Otherwise onnxruntime advises to fold BNs and to infer shapes first: the passes and the capture did.
        add_pre_process_metadata(model)
        path = folder / "float.onnx"
        excluded = tuple(node.name for node in model.graph.node if _stays_float(node, model.graph))
        batched = frozenset(value.name for value in model.graph.input if _is_batched(value))
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}.weights")
        return cls(path, tuple(value.name for value in model.graph.input), batched, excluded)

    def examples(self, images: Examples) -> _Examples:
        """Return examples for calibration."""
        given = images if isinstance(images, Mapping) else {self.inputs[0]: images}
        parts: tuple[dict[str, NDArray[Any]], ...] = ({}, {})
        for name, array in given.items():
            parts[name not in self.batched][name] = array
        return _Examples(*parts)


def _is_batched(value: onnx.ValueInfoProto) -> bool:
    sizes = value.type.tensor_type.shape.dim
    return len(sizes) > 0 and sizes[0].dim_param == BATCH


def _quantize_static(source: FloatFile, images: Examples, **settings: object) -> onnx.ModelProto:
    target = source.path.with_name("int8.onnx")
    with _quiet():
        quantization.quantize_static(
            source.path,
            target,
            source.examples(images),
            use_external_data_format=True,
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
            nodes_to_exclude=list(source.excluded),
            extra_options={
                "MinimumRealRange": SMALLEST_RANGE,
                # Logits go to people, not to another layer in 8 bits.
                "OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"],
            },
            **settings,
        )
        quantized = onnx.load(target)
    finish_proto(quantized)
    return quantized
