"""`bnas-deploy bench` on a small bundle: every refusal, and one whole run."""

import gc
import json
import re
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from onnx import helper, numpy_helper

from bnas_deploy import report
from bnas_deploy.cli import main
from bnas_deploy.commands.bench import command
from bnas_deploy.core import bundle as files
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.bundle import (
    FLOAT_TWIN,
    IMAGES,
    INT8_TWIN,
    MANIFEST,
    MODEL,
    Corner,
    Manifest,
    PieceCheck,
    Preprocessing,
    Verification,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.operators import DOMAIN, IR_VERSION, ONNX_OPSET, VERSION
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.export.opset import function
from bnas_deploy.export.quantization import FloatFile, quantize
from bnas_deploy.runtime import pieces
from bnas_deploy.runtime.bench import engines, layers, samples
from bnas_deploy.runtime.bench.answers import check_answers
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layer_problems import same_convolution
from bnas_deploy.runtime.bench.openvino import openvino_is_installed
from bnas_deploy.runtime.examples import read_examples
from bnas_deploy.runtime.session import Model, create_session, session_options

CHANNELS, CLASSES, SIZE = 16, 10, 8
TOLERANCE = 1e-5


def layer(name: str, channels_in: int, dilation: int, bits: int) -> LayerCost:
    image = (SIZE, SIZE)
    pair = (dilation, dilation)
    return LayerCost(name, (channels_in, *image), (CHANNELS, *image), (3, 3), (1, 1), pair, 1, bits)


LAYERS = (layer("stem", 3, 1, 32), layer("cells.0.edges.0", CHANNELS, 1, 1), layer("cells.0.edges.1", CHANNELS, 2, 1))


class Network:
    """A stem, two edges that are added, pooling and a classifier; the edges are binary or float."""

    def __init__(self, *, binary: bool, operator: str = "BinaryConv2dRelu") -> None:
        self.rng = np.random.default_rng(0)
        self.binary = binary
        self.operator = operator
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def weight(self, name: str, array: np.ndarray) -> str:
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def node(self, op_type: str, inputs: list[str], name: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op_type, inputs, [f"{name}.y"], name=name, **attributes))
        return f"{name}.y"

    def random(self, *shape: int) -> np.ndarray:
        return self.rng.normal(size=shape).astype(np.float32)

    def edge(self, x: str, name: str, dilation: int) -> str:
        pads, dilations = [dilation] * 4, [dilation] * 2
        weights = self.random(CHANNELS, CHANNELS, 3, 3)
        if not self.binary:
            convolved = self.node("Conv", [x, self.weight(f"{name}.W", weights)], name, pads=pads, dilations=dilations)
            return self.node("Relu", [convolved], f"{name}.relu")
        inputs = {
            "W": pack_signs(np.where(weights >= 0, 1, -1).transpose(0, 2, 3, 1)),
            "threshold": np.full(CHANNELS, 0.5, np.float32),
            "offset": np.zeros((CHANNELS, 1, 1), np.float32),
            "scale": np.full(CHANNELS, 0.01, np.float32),
            "bias": np.zeros(CHANNELS, np.float32),
        }
        names = [self.weight(f"{name}.{key}", value) for key, value in inputs.items()]
        shape = [CHANNELS, 3, 3, CHANNELS]
        return self.node(
            self.operator, [x, *names], name, domain=DOMAIN, weight_shape=shape, pads=pads, dilations=dilations
        )

    def model(self) -> onnx.ModelProto:
        x = self.node("Conv", ["images", self.weight("stem.W", self.random(CHANNELS, 3, 3, 3))], "stem", pads=[1] * 4)
        x = self.node("Relu", [x], "stem.relu")
        x = self.node("Add", [self.edge(x, "cells.0.edges.0", 1), self.edge(x, "cells.0.edges.1", 2)], "cells.0.add")
        x = self.node("Flatten", [self.node("GlobalAveragePool", [x], "pool")], "flat")
        self.nodes.append(
            helper.make_node("Gemm", [x, self.weight("fc.W", self.random(CHANNELS, CLASSES))], ["logits"], name="fc")
        )
        graph = helper.make_graph(
            self.nodes,
            "network",
            [helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["N", 3, SIZE, SIZE])],
            [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["N", CLASSES])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
        functions = [function(self.operator)] if self.binary else []
        return helper.make_model(graph, opset_imports=opsets, functions=functions, ir_version=IR_VERSION)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", Network(binary=True).model())


def write_bundle(path: Path, model: onnx.ModelProto) -> Path:
    with new_bundle(path) as folder:
        onnx.save(model, folder / MODEL)
        images = np.random.default_rng(1).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)
        onnx.save(Network(binary=False).model(), folder / FLOAT_TWIN)
        with temporary_folder() as scratch:
            onnx.save(quantize(FloatFile.of(Network(binary=False).model(), scratch), images), folder / INT8_TWIN)
        logits = create_session(folder / MODEL, session_options(threads=1, library=False)).run(
            None, {"images": images}
        )[0]
        np.savez(folder / IMAGES, images=images, logits=logits)
        np.savez(folder / files.PIECES, **_values(model, images[:1]))
        write_manifest(folder)
    return path


def _values(model: onnx.ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return every value of a model for `images`, as if PyTorch had recorded it."""
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = [node.output[0] for node in model.graph.node]
    del shown.graph.output[:]
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(shown.SerializeToString(), session_options(threads=1))
    values = dict(zip(names, session.run(names, {"images": images}), strict=True))
    # A piece by itself is laid out otherwise than in the whole model, and rounds otherwise.
    tolerances = {pieces.TOLERANCE.format(name): np.full((), TOLERANCE, np.float32) for name in names}
    return {"images": images, **values, **tolerances}


def _pieces(folder: Path) -> tuple[PieceCheck, ...]:
    """Let every node be a piece."""
    with np.load(folder / files.PIECES) as arrays:
        shapes = {name: arrays[name].shape for name in arrays}

    def corner(name: str) -> Corner:
        return Corner(name, name, shapes[name])

    return tuple(
        PieceCheck(
            node.name,
            tuple(corner(name) for name in node.input if name in shapes),
            corner(node.output[0]),
            shapes[node.output[0]],
        )
        for node in onnx.load(folder / MODEL).graph.node
    )


def write_manifest(folder: Path) -> None:
    manifest = Manifest(
        bnas_deploy="0",
        network={},
        opset={"": ONNX_OPSET, DOMAIN: VERSION},
        inputs=(TensorSpec("images", "float32", (None, 3, SIZE, SIZE)),),
        outputs=(TensorSpec("logits", "float32", (None, CLASSES)),),
        labels=tuple(map(str, range(CLASSES))),
        preprocessing=Preprocessing(SIZE, SIZE, (0.0,) * 3, (1.0,) * 3),
        layers=LAYERS,
        verification=Verification({"logits": TOLERANCE}, _pieces(folder)),
        files=describe_files(folder),
    )
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def bench(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


@pytest.fixture
def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail when something is timed."""

    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("timed before everything was checked")

    monkeypatch.setattr("bnas_deploy.runtime.bench.samples.interleave", refuse)


@pytest.fixture(autouse=True)
def _no_preemption(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every run as undisturbed: what other programs do is not what is tested here."""
    monkeypatch.setattr("bnas_deploy.runtime.bench.waiting.HARMLESS_NS", 10**15)


FILES = {"bnas": MODEL, "ort-fp32": FLOAT_TWIN, "ort-int8": INT8_TWIN, "openvino-int8": INT8_TWIN}
"""What is measured, and on which file."""


@pytest.mark.skipif(not openvino_is_installed(), reason="the package openvino is not installed")
def test_openvino_is_measured_where_it_is_installed(bundle: Path, tmp_path: Path) -> None:
    result = bench(bundle, "--threads", 1, "--min-seconds", 0, "--json", tmp_path / "bench.json")

    assert result.exit_code == 0, result.output
    records = report.read_report(tmp_path / "bench.json").records
    assert [each.engine for each in records if each.subject == "network"] == list(FILES)
    assert not [each for each in records if each.engine == "openvino-int8" and each.subject != "network"]
    assert re.search(
        r"openvino-int8 against the float twin: logits differ by at most [\d.e-]+, in the mean", result.output
    )
    assert re.search(r"bnas with 1 thread: \d+\.\d\d times as fast as openvino-int8", result.output)


@pytest.mark.parametrize("engine", engines.ENGINES, ids=lambda engine: engine.name)
def test_an_engine_keeps_the_images_that_it_reads(engine: engines.Engine, bundle: Path) -> None:
    if engine.package == "openvino" and not openvino_is_installed():
        pytest.skip("the package openvino is not installed")
    images = np.zeros((1, 3, SIZE, SIZE), np.float32)
    kept = weakref.ref(images)
    runner = engine.open(bundle / engine.file, images, threads=1)
    del images
    gc.collect()
    assert kept() is not None
    runner.run()


@pytest.fixture
def no_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "openvino_is_installed", lambda: False)


@pytest.mark.usefixtures("no_openvino")
def test_a_bundle_without_int8_twin_is_measured_without_it(bundle: Path, tmp_path: Path) -> None:
    (bundle / INT8_TWIN).unlink()
    write_manifest(bundle)

    result = bench(bundle, "--threads", 1, "--min-seconds", 0, "--json", tmp_path / "bench.json")

    assert result.exit_code == 0, result.output
    read = report.read_report(tmp_path / "bench.json")
    assert [each.engine for each in read.records if each.subject == "network"] == ["bnas", "ort-fp32"]
    reason = (
        "the bundle was exported before bundles had an int8.onnx (bnas-deploy 0); export it again to compare with int8"
    )
    assert read.left_out == (
        LeftOut("ort-int8", None, reason),
        LeftOut("openvino-int8", None, "the package openvino is not installed"),
    )
    assert f"Not measured: ort-int8, because {reason}." in " ".join(result.stdout.split())


@pytest.mark.usefixtures("no_openvino")
def test_an_int8_twin_that_answers_nonsense_is_not_timed(bundle: Path, tmp_path: Path) -> None:
    model = onnx.load(bundle / INT8_TWIN)
    for node in model.graph.node:
        for i, name in enumerate(node.output):
            node.output[i] = "negative" if name == "logits" else name
    model.graph.node.append(helper.make_node("Neg", ["negative"], ["logits"]))
    onnx.save(model, bundle / INT8_TWIN)
    write_manifest(bundle)

    result = bench(bundle, "--threads", 1, "--min-seconds", 0, "--json", tmp_path / "bench.json")

    assert result.exit_code == 0, result.output
    assert "and 0 of 3 images get the same class" in result.output
    read = report.read_report(tmp_path / "bench.json")
    assert [each.engine for each in read.records if each.subject == "network"] == ["bnas", "ort-fp32"]
    assert read.left_out[-1] == LeftOut("ort-int8", None, "it answers otherwise than the float twin")


@pytest.mark.parametrize("command", [(), ("--layers",), ("--ops",)])
def test_more_threads_than_processors_are_refused(bundle: Path, command: tuple[str, ...]) -> None:
    most = usable_cpus()
    result = bench(*(command or (bundle,)), "--threads", most + 1)
    assert result.exit_code == 1, result.output
    assert f"--threads: got {most + 1}, and this process may use {most} processors" in " ".join(result.output.split())


@pytest.mark.usefixtures("no_openvino")
def test_a_whole_run(bundle: Path, tmp_path: Path) -> None:
    json_path, markdown_path, html_path = (tmp_path / f"bench.{kind}" for kind in ("json", "md", "html"))
    options = ["--threads", "1,2", "--batch", "4,1", "--min-seconds", 0]
    options += ["--json", json_path, "--markdown", markdown_path, "--html", html_path]
    result = bench(bundle, *options)
    assert result.exit_code == 0, result.output
    assert "... 2 threads, batch 4: layer by layer" in result.stderr
    assert result.stdout.startswith("Answer checked on 3 images: the operator library agrees in every bit")
    assert re.search(r"bnas with 2 threads, batch 1: \d+\.\d\d times as fast as ort-fp32", result.output)
    assert markdown_path.read_text(encoding="utf-8").startswith("## Measured")

    written = json.loads(json_path.read_text(encoding="utf-8"))
    assert written["network"] == f"{bundle.name}, 8x8"  # the manifest gives it no name
    assert figures_in(html_path.read_text(encoding="utf-8")) == written
    records = written["records"]
    networks = [each for each in records if each["subject"] == "network"]
    assert [(each["engine"], each["threads"], each["batch"]) for each in networks] == [
        (engine, threads, batch)
        for batch in (4, 1)
        for threads in (1, 2)
        for engine in FILES
        if engine != "openvino-int8"
    ]
    for each in networks:
        assert each["runs"] >= 10
        assert each["creation_ms"] > 0
        of_binary = each["engine"] == "bnas"
        assert ("thread_scaling" in each) == (of_binary and each["threads"] == 2)
        assert ("batch_scaling" in each) == (of_binary and each["batch"] == 4)
        assert 0 < each["median_ms"] <= each["p90_ms"] <= each["p99_ms"]
        assert each["file_bytes"] == (bundle / FILES[each["engine"]]).stat().st_size
        assert each["memory"]["peak_bytes"] > each["memory"]["import_bytes"] > 0
        assert ("ratio" in each) == (each["engine"] != "ort-fp32")

    # Both models' convolutions are found under the names they have in the files, whatever onnxruntime made of them.
    kinds = {(each["engine"], each["subject"]): each["kind"] for each in records if "layer" in each}
    assert kinds == {
        ("bnas", "stem"): "float convolution",
        ("bnas", "cells.0.edges.0"): "binary convolution",
        ("bnas", "cells.0.edges.1"): "binary convolution",
        ("ort-fp32", "stem"): "float convolution",
        ("ort-fp32", "cells.0.edges.0"): "float convolution",
        ("ort-fp32", "cells.0.edges.1"): "float convolution",
        ("ort-int8", "stem"): "int8 convolution",
        ("ort-int8", "cells.0.edges.0"): "int8 convolution",
        ("ort-int8", "cells.0.edges.1"): "int8 convolution",
    }
    layers = {each["subject"]: each["layer"] for each in records if "layer" in each}
    assert layers["stem"] == "8x8 3->16 k3 s1 d1"
    assert layers["cells.0.edges.1"] == "8x8 16->16 k3 s1 d2"


def figures_in(page: str) -> Any:
    """Return what the page's block of JSON holds."""
    (text,) = re.findall('<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    return json.loads(text)


@pytest.fixture
def two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure two small layers, and not for long."""
    small = (same_convolution(7, 5, 8, 3), same_convolution(8, 16, 4, 1))
    monkeypatch.setattr("bnas_deploy.runtime.bench.layer_problems.LAYERS", small)
    monkeypatch.setattr(layers, "WARMUP_NS", 0)
    monkeypatch.setattr(samples, "WARMUP_NS", 0)
    monkeypatch.setattr("bnas_deploy.runtime.bench.layer_engines.openvino_is_installed", lambda: False)


@pytest.mark.usefixtures("two_layers")
@pytest.mark.parametrize("spelling", [["bench-layers"], ["bench", "--layers"]], ids=" ".join)
def test_a_whole_run_of_layers(spelling: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "generic")
    json_path, markdown_path = tmp_path / "bench.json", tmp_path / "bench.md"
    options = ["--threads", "1,2", "--min-seconds", 0, "--json", json_path, "--markdown", markdown_path]
    result = CliRunner().invoke(main, [*spelling, *map(str, options)])
    assert result.exit_code == 0, result.output
    assert "... 7x7 5->8 k3 s1 d1\n" in result.stderr
    assert re.search(
        r"bnas with 2 threads: \d+\.\d\d to \d+\.\d\d times as fast as ort-int8 \(2 layers\)", result.stdout
    )
    assert "Kernels: bnas generic," in result.stdout
    said = " ".join(result.stdout.split())
    assert "Not measured: openvino-binary, because the package openvino is not installed." in said
    assert markdown_path.read_text(encoding="utf-8").startswith("## Measured")
    read = report.read_report(json_path)
    assert {(each.subject, each.engine, each.threads) for each in read.records} == {
        (subject, engine, threads)
        for subject in ("7x7 5->8 k3 s1 d1", "8x8 16->4 k1 s1 d1")
        for engine in ("bnas", "ort-fp32", "ort-int8", "ort-int8-inner")
        for threads in (1, 2)
    }
    assert [each.engine for each in read.left_out] == ["openvino-binary"]


@pytest.mark.usefixtures("no_clock")
def test_a_bundle_and_layers_are_one_too_many_and_neither_too_few(tmp_path: Path) -> None:
    for arguments in ([], [tmp_path, "--layers"]):
        result = bench(*arguments)
        assert result.exit_code == 2
        assert "give a BUNDLE, the folder that `bnas-deploy export -o` wrote; bench-layers and" in result.output


@pytest.mark.usefixtures("no_clock")
def test_other_answers_than_pytorchs_are_refused(bundle: Path) -> None:
    with np.load(bundle / IMAGES) as arrays:
        images, logits = arrays["images"], arrays["logits"]
    np.savez(bundle / IMAGES, images=images, logits=logits[:, ::-1])
    write_manifest(bundle)
    result = bench(bundle, "--threads", 1)
    assert result.exit_code == 1
    assert (
        f"{bundle / MODEL}: 3 of 3 images get another class than in PyTorch; nothing was measured, `bnas-deploy verify "
        f"{bundle}` says where it begins" in result.output
    )
    assert "median" not in result.output


@pytest.mark.usefixtures("no_clock")
def test_recorded_answers_of_another_shape_are_refused(bundle: Path) -> None:
    with np.load(bundle / IMAGES) as arrays:
        images, logits = arrays["images"], arrays["logits"]
    np.savez(bundle / IMAGES, images=images, logits=logits[:, :3])
    write_manifest(bundle)
    result = bench(bundle, "--threads", 1)
    assert result.exit_code == 1
    assert f"outputs have the shape (3, {CLASSES}), PyTorch gave (3, 3)" in result.output


@pytest.mark.usefixtures("no_clock")
def test_one_other_bit_of_the_library_is_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Model.run
    answers: list[dict[str, np.ndarray]] = []

    def change_one_bit(self: Model, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The first answer is that of the function bodies, the second the library's."""
        answers.append(run(self, inputs))
        if len(answers) == 2:
            answers[1]["logits"].view(np.uint32)[2, 3] ^= 1
        return answers[-1]

    monkeypatch.setattr(Model, "run", change_one_bit)
    result = bench(bundle, "--threads", 1)
    assert result.exit_code == 1
    assert f"{bundle / MODEL}: with 1 thread the operator library answers otherwise than" in result.output
    assert "and no bit may differ; nothing was measured" in result.output


def test_the_sum_of_k_may_be_taken_in_another_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", Network(binary=True, operator="BinaryConv2dKRelu").model())
    check = check_answers(read_bundle(bundle), [1])
    assert not check.every_bit
    monkeypatch.setattr("bnas_deploy.runtime.bench.answers.largest_difference", lambda a, b: 2 * TOLERANCE)
    with pytest.raises(BundleError, match=r"logits differ by up to 2e-05, and 1e-05 may differ; nothing was measured"):
        check_answers(read_bundle(bundle), [1])


@pytest.mark.usefixtures("no_clock")
def test_missing_test_vectors_are_refused(bundle: Path) -> None:
    np.savez(bundle / IMAGES, images=read_examples(read_bundle(bundle)).inputs["images"])
    write_manifest(bundle)
    result = bench(bundle, "--threads", 1)
    assert result.exit_code == 1
    assert f"{bundle / IMAGES}: no test vector 'logits'; export the model again" in result.output


def test_a_twin_of_another_shape_is_refused(bundle: Path) -> None:
    model = Network(binary=False).model()
    del model.graph.node[-1]  # the classifier
    model.graph.node[-1].output[0] = "logits"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = CHANNELS
    onnx.save(model, bundle / FLOAT_TWIN)
    write_manifest(bundle)
    result = bench(bundle, "--threads", 1, "--min-seconds", 0)
    assert result.exit_code == 1
    assert "its models answer with different shapes: float.onnx (3, 16), int8.onnx (3, 10)" in result.output
    (bundle / INT8_TWIN).unlink()
    write_manifest(bundle)
    result = bench(bundle, "--threads", 1, "--min-seconds", 0)
    assert result.exit_code == 1
    assert "its models answer with different shapes: model.onnx (1, 10), float.onnx (1, 16)" in result.output


@pytest.mark.usefixtures("no_clock")
def test_a_checkpoint_is_to_be_exported_first(tmp_path: Path) -> None:
    checkpoint = tmp_path / "best.safetensors"
    checkpoint.write_bytes(b"weights")
    result = bench(checkpoint)
    assert result.exit_code == 1
    assert f"if it is a checkpoint, export it first: bnas-deploy export {checkpoint} -o BUNDLE" in result.output


@pytest.mark.usefixtures("no_clock")
def test_what_is_no_bundle_is_refused(tmp_path: Path) -> None:
    assert f"{tmp_path}: no manifest.json in it" in bench(tmp_path).output
    missing = bench(tmp_path / "none")
    assert missing.exit_code == 1
    assert "not a folder; expected the folder that `bnas-deploy export -o` wrote" in missing.output


@pytest.mark.parametrize("threads", ["0", "-1", "1,0", "", "1,,2", "two", "1.5", "²"])
def test_bad_numbers_of_threads_are_refused(tmp_path: Path, threads: str) -> None:
    result = bench(tmp_path, "--threads", threads)
    assert result.exit_code == 2
    assert f"{threads!r} is not a list of numbers of threads, each at least 1, such as 1,2" in result.output


@pytest.mark.parametrize("images", ["0", "1,4097", "", "8;1"])
def test_bad_numbers_of_images_are_refused(tmp_path: Path, images: str) -> None:
    result = bench(tmp_path, "--batch", images)
    assert result.exit_code == 2
    assert f"{images!r} is not a list of numbers of images, each from 1 to 4096, such as 1,2" in result.output


@pytest.mark.parametrize(("option", "value"), [("--min-seconds", "-1")])
def test_other_bad_numbers_are_refused(tmp_path: Path, option: str, value: str) -> None:
    result = bench(tmp_path, option, value)
    assert result.exit_code == 2
    assert option in result.output


@pytest.mark.usefixtures("no_clock")
@pytest.mark.parametrize("option", ["--json", "--markdown", "--html"])
def test_a_file_that_cannot_be_written_is_refused_first(bundle: Path, tmp_path: Path, option: str) -> None:
    result = bench(bundle, option, tmp_path / "none" / "file")
    assert result.exit_code == 1
    assert f"{tmp_path / 'none' / 'file'}: cannot be written: No such file or directory" in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--json", "a", "--markdown", "a"), "--json and --markdown name the same file"),
        (("--html", "a", "--markdown", "./a"), "--markdown and --html name the same file"),
        (("--min-seconds", "nan"), "--min-seconds is nan; give a number of seconds"),
        (("--ops", "--min-seconds", "inf"), "--min-seconds is inf; give a number of seconds"),
        (("--ops", "--port", "5"), "--port, --python and --wheel are about the machine that --host names; name it"),
        (("--batch", "1000000"), "'1000000' is not a list of numbers of images, each from 1 to 4096"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_measured(
    options: tuple[str, ...], message: str
) -> None:
    result = CliRunner().invoke(command, ["--layers", *options])
    assert result.exit_code == 2
    assert message in result.output
