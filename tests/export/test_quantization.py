"""The int8 twin, what it keeps in float32 and how near it is; and float layers of a binary network in 8 bits."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from bnas_deploy.core import operators
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.export.capture import OUTPUT, capture
from bnas_deploy.export.finish import finish, finish_proto
from bnas_deploy.export.inputs import INPUT
from bnas_deploy.export.passes import FLOAT_PIPELINE, INT8_PIPELINE
from bnas_deploy.export.quantization import (
    CALIBRATION_BATCH,
    FEWEST_CHANNELS,
    FloatFile,
    layers_worth_8_bits,
    quantize,
    quantize_layers,
)
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import build_network
from bnas_deploy.search.training.untrained import untrained_checkpoint

IMAGE = (3, 32, 32)
IMAGES = CALIBRATION_BATCH + 1  # more than one batch, the last of them not whole


def _images() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(IMAGES, *IMAGE)).astype(np.float32)


def _float_twin(stem: str) -> nn.Module:
    """A small network of the published cells, as `export` makes its twin."""
    config = NetworkConfig("tiny", 3, 8, stem, GENOTYPES[stem], 3, 3, IMAGE[1:])
    state = untrained_checkpoint(config, seed=0).state
    twin = build_network(config.float_twin())
    twin.load_state_dict({name: state[name] for name in twin.state_dict()})
    return twin.eval()


def _quantized(twin: nn.Module) -> onnx.ModelProto:
    captured = capture(twin, IMAGE)
    run([*FLOAT_PIPELINE, *INT8_PIPELINE], captured.model)
    with temporary_folder() as folder:
        return quantize(FloatFile.of(finish(captured.model), folder), _images())


def _answers(model: onnx.ModelProto, folder: Path) -> NDArray[np.float32]:
    onnx.save(model, folder / "int8.onnx")
    session = create_session(folder / "int8.onnx", session_options(library=False))
    answers: NDArray[np.float32] = session.run([OUTPUT], {INPUT: _images()})[0]
    return answers


def _operators_that_run(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """Return the operators that onnxruntime makes of a model."""
    options = session_options(library=False)
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    options.log_severity_level = 3  # it warns that such a file is for this machine only
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimised.onnx").graph.node)


@dataclass(frozen=True)
class Quantized:
    """A float twin and its int8 twin."""

    twin: nn.Module
    model: onnx.ModelProto


@pytest.fixture(scope="module", params=["cifar", "imagenet"])
def quantized(request: pytest.FixtureRequest) -> Quantized:
    twin = _float_twin(request.param)
    return Quantized(twin, _quantized(twin))


def test_a_searched_network_runs_in_8_bits_throughout(quantized: Quantized, tmp_path: Path) -> None:
    floats = Counter(node.op_type for node in quantized.model.graph.node)

    ran = _operators_that_run(quantized.model, tmp_path)

    # What has no operator in 8 bits: the mean before the classifier (of one pixel a Reshape), and the way in and out.
    in_float = {"ReduceMean", "QuantizeLinear", "DequantizeLinear", "Transpose"}
    moves_only = {"NhwcMaxPool", "MaxPool", "Split", "Slice", "Reshape"}
    assert ran.keys() <= in_float | moves_only | {"QLinearConv", "QLinearAdd", "QLinearConcat", "QGemm"}
    assert ran["QLinearConv"] == floats["Conv"] > 0
    assert ran["QLinearAdd"] == floats["Add"] > 0
    assert ran["QLinearConcat"] == floats["Concat"] > 0
    assert ran["QGemm"] == 1
    assert (ran["ReduceMean"], ran["Reshape"]) == (floats["ReduceMean"], floats["Reshape"])
    assert ran["ReduceMean"] + ran["Reshape"] == 1
    # Into and out of each of: the network, the mean, the classifier. Slices carry their scale along.
    assert ran["QuantizeLinear"] <= 3
    assert ran["DequantizeLinear"] <= 3
    assert ran["Transpose"] <= 3  # and before a Split of channels


def test_it_answers_like_the_float_twin(quantized: Quantized, tmp_path: Path) -> None:
    with torch.no_grad():
        wanted = quantized.twin(torch.from_numpy(_images())).numpy()

    got = _answers(quantized.model, tmp_path)

    # 1 % is the step of 7-bit weights, which some errors of many cancel out; a layer gone wrong costs far more.
    assert np.abs(got - wanted).max() < 0.05 * np.abs(wanted).max()


def test_the_file_is_for_every_onnxruntime_and_tells_nothing_of_the_machine(quantized: Quantized) -> None:
    model = quantized.model
    assert model.ir_version == operators.IR_VERSION
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": operators.ONNX_OPSET}
    assert [value.name for value in (*model.graph.input, *model.graph.output)] == [INPUT, OUTPUT]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"
    assert not model.metadata_props
    assert model.producer_name == "bnas-deploy"


class Odd(nn.Module):
    """Weights as no training leaves them, whose ranges are nothing, or nothing but 0."""

    def __init__(self, weight: float, bias: float) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.conv1 = nn.Conv2d(4, 4, 3, padding=1)
        self.classifier = nn.Linear(4, 2)
        for module in (self.conv, self.conv1, self.classifier):
            nn.init.constant_(module.weight, weight)
            nn.init.constant_(module.bias, bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = torch.relu(self.conv1(self.norm(torch.relu(self.conv(x)))))
        return self.classifier(y.mean(dim=(2, 3)))


@pytest.mark.parametrize(("weight", "bias"), [(0, 0), (0, 1), (0, -1), (1e-30, 1), (1e-30, 0)])
def test_degenerate_ranges_do_not_matter(weight: float, bias: float, tmp_path: Path) -> None:
    twin = Odd(weight, bias).eval()
    with torch.no_grad():
        wanted = twin(torch.from_numpy(_images())).numpy()

    got = _answers(_quantized(twin), tmp_path)

    assert np.abs(got - wanted).max() <= 0.01 * np.abs(wanted).max() + 1e-6


def _network() -> onnx.ModelProto:
    """Images -> Conv of 3 channels -> a state, which a binary and a float convolution read -> mean -> classifier."""
    channels = FEWEST_CHANNELS
    rng = np.random.default_rng(0)
    constants = {
        "stem.weight": rng.normal(size=(channels, 3, 3, 3)),
        "skip.weight": rng.normal(size=(channels, channels, 2, 2)),
        "classifier.weight": rng.normal(size=(channels, 3)),
        "threshold": np.full(channels, 0.1),
        "offset": np.zeros((channels, 1, 1)),
        "scale": np.full(channels, 0.01),
        "bias": np.zeros(channels),
    }
    weights = {name: data.astype(np.float32) for name, data in constants.items()}
    weights["signs"] = pack_signs(rng.choice([-1, 1], (channels, 2, 2, channels)))
    floats = onnx.TensorProto.FLOAT
    make = onnx.helper.make_node
    binary = ["state", "signs", "threshold", "offset", "scale", "bias"]
    graph = onnx.helper.make_graph(
        [
            make("Conv", [INPUT, "stem.weight"], ["state"], name="stem", pads=[1] * 4),
            make("Conv", ["state", "skip.weight"], ["skipped"], name="skip", strides=[2, 2]),
            make(
                *("BinaryConv2d", binary, ["convolved"], "binary"),
                domain=operators.DOMAIN,
                weight_shape=[channels, 2, 2, channels],
                strides=[2, 2],
            ),
            make("Add", ["skipped", "convolved"], ["sum"], name="add"),
            make("GlobalAveragePool", ["sum"], ["pooled"], name="pool"),
            make("Flatten", ["pooled"], ["mean"], name="flatten"),
            make("Gemm", ["mean", "classifier.weight"], [OUTPUT], name="classifier"),
        ],
        "network",
        [onnx.helper.make_tensor_value_info(INPUT, floats, ["N", *IMAGE])],
        [onnx.helper.make_tensor_value_info(OUTPUT, floats, ["N", 3])],
        [onnx.numpy_helper.from_array(data, name) for name, data in weights.items()],
    )
    model = onnx.helper.make_model(graph)
    finish_proto(model)
    return onnx.shape_inference.infer_shapes(model)


def test_float_layers_become_islands(tmp_path: Path) -> None:
    before = _network()
    wanted = _answers(before, tmp_path)

    names = layers_worth_8_bits(before)
    assert names == ("skip", "classifier")  # the stem has too few channels

    after = quantize_layers(before, _images(), names)

    makers = {output: node for node in after.graph.node for output in node.output}
    (binary,) = (node for node in after.graph.node if node.domain == operators.DOMAIN)
    assert makers[binary.input[0]].name == "stem"  # what it compares is not rounded to 8 bits
    ran = _operators_that_run(after, tmp_path)
    assert (ran["QLinearConv"], ran["QGemm"], ran["Gemm"]) == (1, 1, 0)
    assert makers[OUTPUT].op_type == "Gemm"  # and so are the logits
    # Each rounding costs about 1 % of what the layers give, and the means of it are smaller; a layer gone wrong costs
    # far more.
    assert np.square(_answers(after, tmp_path) - wanted).mean() < 0.05**2 * np.square(wanted).mean()


@pytest.mark.parametrize(
    ("weight", "is_worth_it"),
    [
        ((4, 16, 1, 1), True),
        ((4, 15, 3, 3), False),
        ((64, 3, 7, 7), True),  # a stem: as many products as 3x3 of 16 channels
        ((64, 3, 6, 8), True),
        ((64, 3, 5, 5), False),
        ((64, 1, 11, 11), False),
    ],
)
def test_a_convolution_needs_channels_or_a_large_kernel(weight: tuple[int, ...], is_worth_it: bool) -> None:
    conv = onnx.helper.make_node("Conv", ["x", "w"], ["y"], "stem")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    weights = onnx.numpy_helper.from_array(np.zeros(weight, np.float32), "w")
    graph = onnx.helper.make_graph([conv], "network", values[:1], values[1:], [weights])
    assert layers_worth_8_bits(onnx.helper.make_model(graph)) == (("stem",) if is_worth_it else ())


def test_a_product_with_a_vector_is_worth_8_bits() -> None:
    product = onnx.helper.make_node("MatMul", ["x", "w"], ["y"], "head")
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in "xy"]
    weights = onnx.numpy_helper.from_array(np.zeros(8, np.float32), "w")
    graph = onnx.helper.make_graph([product], "network", values[:1], values[1:], [weights])
    assert layers_worth_8_bits(onnx.helper.make_model(graph)) == ("head",)


def test_other_operators_and_computed_weights_are_not_worth_8_bits() -> None:
    before = _network()
    for node in before.graph.node:
        node.op_type = "ConvTranspose" if node.name == "skip" else node.op_type
    before.graph.node[-1].input[1] = "mean"  # computed, and no weights

    assert layers_worth_8_bits(before) == ()
