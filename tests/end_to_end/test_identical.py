"""One file, one answer: with the library, without it, and in ONNX's own evaluator; BNAS-Mini and BNAS-A, whole."""

import platform
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv as ReferenceConv

from bnas_deploy.export.capture import capture
from bnas_deploy.export.finish import finish
from bnas_deploy.export.inputs import INPUT
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.rewrite import run
from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import specs_of
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.search.models.bnas.config import published_config
from bnas_deploy.search.models.bnas.network import Network, build_network
from bnas_deploy.search.training.untrained import untrained_checkpoint

LEVELS = [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL]

PORTABLE_ISAS = ("popcnt", "generic") if platform.machine() == "x86_64" else ("generic",)
ISAS = [
    *(
        pytest.param(
            row.isa, marks=pytest.mark.skipif(not row.cpu_flags <= cpu_flags(), reason=f"needs {row.cpu_check}")
        )
        for row in specs_of(platform.machine())
    ),
    *PORTABLE_ISAS,
]

Floats = NDArray[np.float32]


@pytest.fixture(scope="module", params=["BNAS-Mini", "BNAS-A"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Network, Path]:
    """A network with random weights and BN statistics, a third of its gammas negative, and its model file."""
    config = published_config(request.param)
    network = build_network(config)
    network.load_state_dict(dict(untrained_checkpoint(config, seed=3).state))
    captured = capture(network.eval(), (3, 32, 32))
    run(PIPELINE, captured.model)
    path = tmp_path_factory.mktemp("identical") / f"{request.param}.onnx"
    onnx.save(finish(captured.model), path)
    return network, path


def answer(path: Path, images: Floats, *, library: bool, level: Any) -> Floats:
    options = session_options(library=library)
    options.graph_optimization_level = level
    logits: Floats = create_session(path, options).run(None, {INPUT: images})[0]
    return logits


def some_images(count: int) -> Floats:
    return np.random.default_rng(count).standard_normal((count, 3, 32, 32)).astype(np.float32)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_library_and_function_bodies_agree_to_the_bit(exported: tuple[Network, Path], count: int, level: Any) -> None:
    images = some_images(count)
    native, plain = (answer(exported[1], images, library=library, level=level) for library in (True, False))
    np.testing.assert_array_equal(native, plain)


@pytest.fixture(scope="module")
def portable_answer(exported: tuple[Network, Path]) -> Floats:
    """What portable C says in one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BNAS_ISA", "generic")
        return answer_in_threads(exported[1], 1)


def answer_in_threads(path: Path, threads: int) -> Floats:
    logits: Floats = create_session(path, session_options(threads=threads)).run(None, {INPUT: some_images(2)})[0]
    return logits


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("isa", ISAS)
def test_every_isa_and_thread_count_agrees_with_portable_c_to_the_bit(
    exported: tuple[Network, Path], portable_answer: Floats, isa: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BNAS_ISA", isa)
    np.testing.assert_array_equal(answer_in_threads(exported[1], threads), portable_answer)


def one_node(node_type: str, inputs: tuple[Floats, ...], **attributes: Any) -> Floats:
    """Run one standard operator in onnxruntime; all inputs but the first are weights, as they are in the network."""
    names = [f"x{i}" for i in range(len(inputs))]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(node_type, names, ["y"], **attributes)],
        "one",
        [onnx.helper.make_tensor_value_info(names[0], onnx.TensorProto.FLOAT, None)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(x, name) for name, x in zip(names[1:], inputs[1:], strict=True)],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    y: Floats = session.run(None, {names[0]: inputs[0]})[0]
    return y


def rounded_like_onnxruntime(node_type: str) -> type[OpRun]:
    """Return an operator for ReferenceEvaluator whose float sums are those of onnxruntime.

    ONNX leaves the order of a float sum open, so the float convolutions, the pooling and the classifier are taken from
    onnxruntime. Convolutions with ±1 weights, the binary ones, stay the evaluator's own: their sums are exact.
    """

    def compute(self: OpRun, *inputs: Floats, **attributes: Any) -> tuple[Floats]:
        if node_type == "Conv" and np.isin(inputs[1], (-1, 1)).all():
            own: tuple[Floats] = ReferenceConv(self.onnx_node, self.run_params).run(*inputs)
            return own
        present = {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in self.onnx_node.attribute}
        return (one_node(node_type, inputs, **present),)

    return type(node_type, (OpRun,), {"op_domain": "", "_run": compute})


@pytest.mark.parametrize("count", [1, 3])
def test_reference_evaluator_agrees_to_the_bit(exported: tuple[Network, Path], count: int) -> None:
    model = onnx.load(exported[1])
    images = some_images(count)
    operators = [rounded_like_onnxruntime(name) for name in ("Conv", "Gemm", "ReduceMean")]
    evaluator = onnx.reference.ReferenceEvaluator(model, new_ops=operators)
    want = answer(exported[1], images, library=True, level=onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    np.testing.assert_array_equal(evaluator.run(None, {INPUT: images})[0], want)


def test_the_evaluator_alone_agrees_within_the_rounding_of_the_float_layers(exported: tuple[Network, Path]) -> None:
    from bnas_deploy.export.inputs import Feed
    from bnas_deploy.export.vectors import output_tolerances

    network, path = exported
    images = some_images(3)
    got = onnx.reference.ReferenceEvaluator(onnx.load(path)).run(None, {INPUT: images})[0]
    want = answer(path, images, library=True, level=onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    feed = Feed.of_images(torch.from_numpy(images))
    (tolerance,) = output_tolerances(lambda feed: (network(*feed.tensors),), feed)
    assert np.abs(got - want).max() <= tolerance


def test_the_file_is_valid_and_holds_no_float_copy_of_a_binary_weight(exported: tuple[Network, Path]) -> None:
    model = onnx.load(exported[1])
    onnx.checker.check_model(model, full_check=True)
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"BatchNormalization", "Zeroise"}
    floats = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    read = {name: node for node in model.graph.node for name in node.input}
    assert floats <= set(read)
    big = {name for name in floats if len(next(t for t in model.graph.initializer if t.name == name).dims) == 4}
    assert all(read[name].op_type == "Conv" for name in big)
