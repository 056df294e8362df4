"""Opening a bundle, answering, and every way in which that is refused."""

import importlib
import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnxruntime
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from bnas_deploy.core import operators
from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.bundle import FILES, MANIFEST, MODEL, Manifest, Preprocessing, Verification, describe_files
from bnas_deploy.core.errors import BnasError, BundleError, RuntimeLibraryError
from bnas_deploy.core.operators import Operator
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.export import opset
from bnas_deploy.runtime import session
from bnas_deploy.runtime.bench.machine import native_isa
from bnas_deploy.runtime.library import kernel_rows, library_path
from bnas_deploy.runtime.session import create_session, open_bundle, run_session, session_options
from bnas_deploy.search.data.digits import open_digits

SIZE, CHANNELS, CLASSES = 4, 9, 3
ATTRIBUTES = {**operators.defaults(), "weight_shape": [CLASSES, SIZE, SIZE, CHANNELS]}
LABELS = ("cat", "dog", "frog")


@pytest.fixture
def constants(rng: np.random.Generator) -> dict[str, np.ndarray]:
    return {
        "W": pack_signs(rng.standard_normal(ATTRIBUTES["weight_shape"])),
        "threshold": rng.standard_normal(CHANNELS).astype(np.float32),
        "offset": np.zeros((CLASSES, 1, 1), np.float32),
        "scale": rng.standard_normal(CLASSES).astype(np.float32),
        "bias": rng.standard_normal(CLASSES).astype(np.float32),
    }


@pytest.fixture
def model(operator_model: Callable[..., onnx.ModelProto], constants: dict[str, np.ndarray]) -> onnx.ModelProto:
    """One binary convolution over the whole image."""
    return operator_model("BinaryConv2d", constants, ATTRIBUTES, (CHANNELS, SIZE, SIZE), (CLASSES, 1, 1))


@pytest.fixture
def write_bundle(tmp_path: Path) -> Callable[..., Path]:
    def write(model: onnx.ModelProto, channels: int = CHANNELS, input_name: str = "X") -> Path:
        folder = tmp_path / "bundle"
        (folder / "test_vectors").mkdir(parents=True)
        for name in FILES:  # only the model is looked into
            (folder / name).touch()
        onnx.save(model, folder / MODEL)
        manifest = Manifest(
            bnas_deploy="0",
            network={},
            opset={operators.DOMAIN: operators.VERSION},
            inputs=(TensorSpec(input_name, "float32", (None, channels, SIZE, SIZE)),),
            outputs=(TensorSpec("Y", "float32", (None, len(LABELS))),),
            labels=LABELS,
            preprocessing=Preprocessing(SIZE, SIZE, mean=(0.25,) * channels, std=(0.3,) * channels),
            layers=(),
            verification=Verification({"Y": 0.0}, ()),
            files=describe_files(folder),
        )
        (folder / MANIFEST).write_text(manifest.to_json())
        return folder

    return write


@pytest.fixture
def images(rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (3, SIZE, SIZE, CHANNELS), dtype=np.uint8)


def _skip_without_library() -> Path:
    try:
        return session.library_path()
    except RuntimeLibraryError as error:
        pytest.skip(f"the operator library is not here: {error}")


@pytest.mark.parametrize("library", [False, True])
def test_three_lines_from_images_to_answers(
    library: bool,
    model: onnx.ModelProto,
    constants: dict[str, np.ndarray],
    images: np.ndarray,
    write_bundle: Callable[..., Path],
) -> None:
    if library:
        _skip_without_library()
    opened = open_bundle(write_bundle(model), threads=1, library=library)
    logits = opened.predict(opened.preprocess(images))
    assert opened.labels == LABELS

    pixels = ((images / np.float32(255) - np.float32(0.25)) / np.float32(0.3)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(logits, opset.reference("BinaryConv2d", [pixels, *constants.values()], ATTRIBUTES))


def test_it_says_what_it_is_in_a_line(model: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    path = write_bundle(model)
    opened = open_bundle(path)
    size = "x".join(map(str, opened.bundle.manifest.image_size))
    said = f"{path}, a network, N x {size} to {len(opened.labels)} classes"
    assert repr(opened) == f"<Model: {said}>"
    assert repr(opened.bundle) == f"<Bundle: {said}>"


def test_grey_images_need_no_channel_axis(
    model: onnx.ModelProto, images: np.ndarray, write_bundle: Callable[..., Path]
) -> None:
    opened = open_bundle(write_bundle(model, channels=1), library=False)
    grey = images[..., 0]
    got = opened.preprocess(grey)
    assert (got.dtype, got.shape, got.flags.c_contiguous) == (np.float32, (3, 1, SIZE, SIZE), True)
    np.testing.assert_array_equal(got, opened.preprocess(grey[..., None]))


def test_preprocess_gives_what_a_network_was_trained_on(
    model: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    digits = open_digits()
    pixels, _ = next(digits.raw_test_batches(16))
    trained_on, _ = next(digits.test_batches(16))
    opened = open_bundle(write_bundle(model), library=False)
    manifest = replace(opened.bundle.manifest, preprocessing=digits.description.preprocessing)
    of_digits = replace(opened, bundle=replace(opened.bundle, manifest=manifest))
    np.testing.assert_array_equal(of_digits.preprocess(pixels[:, 0].numpy()), trained_on.numpy())


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 5, 4, 9), np.uint8),
            r"images: got uint8 (2, 5, 4, 9), wanted uint8 (N, 4, 4, 9); pixels are 0..255 and of this size; "
            "a single image is image[None]",
        ),
        (np.zeros((4, 4, 9), np.uint8), "got uint8 (4, 4, 9), wanted uint8 (N, 4, 4, 9)"),
        (np.zeros((2, 4, 4, 9), np.float32), "got float32 (2, 4, 4, 9), wanted uint8 (N, 4, 4, 9)"),
    ],
    ids=["size", "one image", "dtype"],
)
def test_preprocess_refuses(
    images: np.ndarray, message: str, model: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    opened = open_bundle(write_bundle(model), library=False)
    with pytest.raises(BnasError) as refusal:
        opened.preprocess(images)
    assert message in refusal.value.message


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (
            np.zeros((2, 4, 4, 9), np.float32),
            "images: got float32 (2, 4, 4, 9), wanted float32 (N, 9, 4, 4); Model.preprocess makes that from uint8 "
            "images",
        ),
        (np.zeros((9, 4, 4), np.float32), "got float32 (9, 4, 4), wanted float32 (N, 9, 4, 4)"),
        (np.zeros((2, 9, 4, 4)), "got float64 (2, 9, 4, 4), wanted float32 (N, 9, 4, 4)"),
    ],
    ids=["layout", "one image", "dtype"],
)
def test_predict_refuses(
    images: np.ndarray, message: str, model: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    opened = open_bundle(write_bundle(model), library=False)
    with pytest.raises(BnasError) as refusal:
        opened.predict(images)
    assert message in refusal.value.message


def test_lists_of_images(model: onnx.ModelProto, images: np.ndarray, write_bundle: Callable[..., Path]) -> None:
    opened = open_bundle(write_bundle(model), library=False)
    inputs = opened.preprocess(list(images))
    np.testing.assert_array_equal(inputs, opened.preprocess(images))
    np.testing.assert_array_equal(opened.predict(list(inputs)), opened.predict(inputs))
    with pytest.raises(BnasError, match=r"^images: got int64 \(1, 2\), wanted uint8 \(N, 4, 4, 9\)"):
        opened.preprocess([[1, 2]])
    uneven = [np.zeros((4, 4)), np.zeros((5, 4))]
    for use in (opened.preprocess, opened.predict):
        with pytest.raises(BnasError, match=r"^images: no array: .*; give one array, or a list of images of one size$"):
            use(uneven)


def test_a_manifest_with_another_input_name(model: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    opened = open_bundle(write_bundle(model, input_name="pixels"), library=False)
    with pytest.raises(BundleError) as refusal:
        opened.predict(np.zeros((1, CHANNELS, SIZE, SIZE), np.float32))
    assert refusal.value.message == (
        f"{opened.bundle.file(MODEL)}: has the inputs ['X'] and outputs ['Y']; the bundle wants the inputs ['pixels'] "
        "and outputs ['Y']; export the model again"
    )


def test_threads_are_those_of_one_operator() -> None:
    options = session_options(threads=2, library=False)
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (2, 1)
    assert session_options(library=False).intra_op_num_threads == 0  # onnxruntime's choice


_ONCE = """
import sys
from bnas_deploy.core.memory import resident_bytes
from bnas_deploy.runtime.session import create_session, session_options

before = resident_bytes()
session = create_session(sys.argv[1], session_options(threads=1, library=False, once=sys.argv[2] == "once"))
print(resident_bytes() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory in use is Linux's")
def test_function_bodies_that_run_once_do_not_unpack_the_weights_before(operator_model: Any, tmp_path: Path) -> None:
    """2,048 x 2,048 x 9 weights are 4.7 MB of bits, and 151 MB of floats, of which a session has several copies."""
    channels = 2048
    constants = {row.name: np.zeros(channels, np.float32) for row in Operator().constants}
    constants["W"] = np.zeros((channels, 3, 3, channels // 8), np.uint8)
    constants |= {"offset": np.zeros((channels, 1, 1), np.float32), "scale": np.ones(channels, np.float32)}
    attributes = {"weight_shape": [channels, 3, 3, channels], "pads": [1, 1, 1, 1]}
    model = operator_model("BinaryConv2d", constants, attributes, (channels, 3, 3), (channels, 3, 3))
    onnx.save(model, tmp_path / "model.onnx")
    command = [sys.executable, "-P", "-c", _ONCE, str(tmp_path / "model.onnx")]
    once, usual = (
        int(subprocess.run([*command, how], capture_output=True, text=True, check=True).stdout)
        for how in ("once", "usual")
    )
    assert once < 50e6 < 151e6 < usual
    x = np.random.default_rng(0).normal(size=(1, channels, 3, 3)).astype(np.float32)
    answers = [
        create_session(tmp_path / "model.onnx", session_options(library=False, once=once)).run(None, {"X": x})[0]
        for once in (False, True)
    ]
    assert answers[0].tobytes() == answers[1].tobytes()


@pytest.mark.parametrize("threads", [-1, 0, 1025, 2**40])
def test_a_number_of_threads_that_no_machine_has(threads: int) -> None:
    with pytest.raises(BnasError, match=rf"^{threads} threads; give 1 to 1024, or nothing for one per core$"):
        session_options(threads=threads, library=False)
    with pytest.raises(BnasError, match=rf"^{threads} threads; give 1 to 1024"):
        open_bundle("nowhere", threads=threads)


def test_the_library_is_registered_already() -> None:
    library = _skip_without_library()
    options = session_options()
    # The call is one of onnxruntime, so the exception is too; the sentence is the library's.
    with pytest.raises(Fail, match="the bnas library is already registered on these session options; register it once"):
        options.register_custom_ops_library(str(library))


# Unknown to all, and unknown to this architecture.
@pytest.mark.parametrize("isa", ["z80", "neon" if platform.machine() == "x86_64" else "avx2"])
@pytest.mark.parametrize("ask", [session_options, native_isa])
def test_a_forced_isa_that_is_not_here(isa: str, ask: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    runnable = ", ".join(row.isa for row in kernel_rows(library_path()) if row.runs_here)
    monkeypatch.setenv("BNAS_ISA", isa)
    with pytest.raises(RuntimeLibraryError) as refusal:
        ask()
    assert refusal.value.message == (
        f"BNAS_ISA is {isa!r}, and the kernels that run on this machine are {runnable}; name one of these, or unset it "
        "to have the best"
    )


def test_a_library_that_cannot_be_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = tmp_path / "libbnas_ort.so"
    library.write_text("no library")
    monkeypatch.setattr(session, "library_path", lambda: library)
    monkeypatch.delenv("BNAS_ISA", raising=False)  # which is looked up in the library, and that is refused otherwise
    with pytest.raises(RuntimeLibraryError) as refusal:
        session_options()
    message = refusal.value.message
    assert message.startswith(f"{library}: onnxruntime {onnxruntime.__version__} cannot load the operator library: ")
    assert "Failed to load library" in message  # what onnxruntime says
    assert "library=False" in message


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(
        BundleError,
        match=r"absent\.onnx: cannot be read: No such file or directory; expected an ONNX file such as model\.onnx",
    ):
        create_session(tmp_path / "absent.onnx", session_options(library=False))


def test_a_pipe_instead_of_a_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx: cannot be read: it is a pipe, and only files are read; save"):
        create_session(tmp_path / "model.onnx", session_options(library=False))


@pytest.mark.parametrize("op_type", ["Relu", "Nothing"], ids=["when it runs", "when it is loaded"])
def test_a_name_that_is_no_utf_8(op_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its message has the name too, of which onnxruntime's own Python makes a UnicodeDecodeError."""
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(op_type, ["x"], ["XXXX"], name="XXXX")],
        "graph",
        [value("x", onnx.TensorProto.FLOAT, [1])],
        [value("XXXX", onnx.TensorProto.FLOAT, [1])],
    )
    opsets = [onnx.helper.make_opsetid("", operators.ONNX_OPSET)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=operators.IR_VERSION)
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"XXXX", b"\xffXX\xfe"))
    with pytest.raises(BundleError) as refusal:
        run_session(create_session(path, session_options(library=False)), path, ["y"], {"x": np.zeros(1, np.float32)})
    assert refusal.value.message.startswith(f"{path}: ")
    assert r"\xffXX\xfe" in refusal.value.message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [(b"PK\x03\x04 no ONNX file", "Protobuf parsing failed"), (b"", "No graph was found in the protobuf")],
    ids=["another format", "empty"],
)
def test_a_file_that_is_no_model(content: bytes, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(BundleError) as refusal:
        create_session(path, session_options(library=False))
    message = refusal.value.message
    assert message.startswith(f"{path}: onnxruntime {onnxruntime.__version__} cannot use it: ")
    assert sentence in message
    assert message.endswith("; copy or export the bundle again")


def test_what_onnxruntime_says_is_one_line() -> None:
    assert session._said(RuntimeError("of one node\n(and of another)\n")) == "of one node (and of another)"


@pytest.mark.parametrize("library", [False, True])
def test_weights_with_fewer_bytes_than_their_shape(
    library: bool, model: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    if library:
        _skip_without_library()
    weights = model.graph.initializer[0]
    weights.raw_data = weights.raw_data[:-1]
    with pytest.raises(BundleError, match=r"model\.onnx: onnxruntime .* cannot use it: .*\bW\b"):
        open_bundle(write_bundle(model), library=library)


def _with_half_the_channels(model: onnx.ModelProto) -> onnx.ModelProto:
    """Leave one byte of each two, in a tensor that is valid in itself."""
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights[..., :1].copy(), "W"))
    return model


def test_weights_of_the_wrong_shape_in_the_library(model: onnx.ModelProto, write_bundle: Callable[..., Path]) -> None:
    _skip_without_library()
    with pytest.raises(BundleError, match=r"model\.onnx: onnxruntime .* cannot use it: .*W"):
        open_bundle(write_bundle(_with_half_the_channels(model)))


def _with_half_the_rows(model: onnx.ModelProto) -> onnx.ModelProto:
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(weights[:, : SIZE // 2].copy(), "W"))
    return model


@pytest.mark.parametrize("cut", [_with_half_the_channels, _with_half_the_rows])
def test_weights_of_the_wrong_shape_without_the_library(
    cut: Callable[[onnx.ModelProto], onnx.ModelProto], model: onnx.ModelProto, write_bundle: Callable[..., Path]
) -> None:
    bundle = write_bundle(cut(model))

    def answer() -> None:
        open_bundle(bundle, library=False).predict(np.zeros((1, CHANNELS, SIZE, SIZE), np.float32))

    # onnxruntime may find it when it computes what is constant, or when it runs.
    with pytest.raises(BundleError, match=r"(?s)model\.onnx: onnxruntime .*cannot (use|run) it: .*Reshape.*again$"):
        answer()


def test_a_version_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    message = r"^onnxruntime 1\.16\.3 is too old: bnas-deploy needs 1\.17 or newer; pip install --upgrade onnxruntime$"
    with monkeypatch.context() as patch:
        patch.setattr(importlib.metadata, "version", lambda name: "1.16.3")
        patch.delitem(sys.modules, "onnxruntime")  # as before the first import, which has to be prevented
        with pytest.raises(RuntimeLibraryError, match=message):
            open_bundle("nowhere")

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    # A build under another name, such as onnxruntime-gpu.
    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.delitem(sys.modules, "onnxruntime")
    monkeypatch.setattr(importlib, "import_module", lambda name: onnxruntime)
    monkeypatch.setattr(onnxruntime, "__version__", "1.16.3")
    with pytest.raises(RuntimeLibraryError, match=message):
        open_bundle("nowhere")


def test_an_onnxruntime_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(RuntimeLibraryError, match=r"^onnxruntime is not installed; run: pip install onnxruntime$"):
        session_options()


def test_an_onnxruntime_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError("built for another numpy")

    monkeypatch.setattr(importlib, "import_module", refuse)
    with pytest.raises(RuntimeLibraryError, match=r"^onnxruntime cannot be imported beside numpy \d.*pip install"):
        open_bundle("nowhere")


def test_onnxruntime_1_16_is_refused_before_it_is_imported(onnxruntime_1_16: Any) -> None:
    run = onnxruntime_1_16.run("from bnas_deploy.runtime.session import open_bundle; open_bundle('nowhere')")
    assert run.stderr.splitlines()[-1] == (
        "bnas_deploy.core.errors.RuntimeLibraryError: onnxruntime 1.16.3 is too old: bnas-deploy needs 1.17 or newer; "
        "pip install --upgrade onnxruntime"
    )


# The first argument is the bundle; then come the images and the logits, as .npy files.
ANSWER = """
import sys, numpy, onnxruntime
from bnas_deploy.runtime.session import open_bundle
model = open_bundle(sys.argv[1])
numpy.save(sys.argv[3], model.predict(model.preprocess(numpy.load(sys.argv[2]))))
print(onnxruntime.__version__, numpy.__version__)
"""


def test_onnxruntime_1_17_gives_the_same_answers(
    model: onnx.ModelProto,
    images: np.ndarray,
    write_bundle: Callable[..., Path],
    onnxruntime_1_17: Any,
    tmp_path: Path,
) -> None:
    _skip_without_library()
    bundle = write_bundle(model)
    np.save(tmp_path / "images.npy", images)
    run = onnxruntime_1_17.run(ANSWER, bundle, tmp_path / "images.npy", tmp_path / "logits.npy")
    assert (run.returncode, run.stdout) == (0, "1.17.3 1.26.4\n"), run.stderr
    opened = open_bundle(bundle)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), opened.predict(opened.preprocess(images)))
