"""`verify` finds what was changed in a bundle, says it, and does not exit with 0."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from onnx import numpy_helper

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import (
    IMAGES,
    MANIFEST,
    MODEL,
    PIECES,
    Corner,
    PieceCheck,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.operators import operator
from bnas_deploy.runtime import pieces
from bnas_deploy.runtime.verify import verify_bundle

Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export three binary convolutions, `0` and `3` of one shape; no layer of groups writes bits."""
    return _export(tmp_path_factory.mktemp("exported") / "bundle", groups=2)


def _export(path: Path, groups: int, *, pools: bool = False) -> Path:
    import torch
    from torch import nn

    from bnas_deploy.core.bundle import Preprocessing
    from bnas_deploy.export import Description, Images, export_module
    from bnas_deploy.search.nn.layers import BinaryConv2d

    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4)
    nn.init.constant_(norm.bias, -0.5)
    first, second = (BinaryConv2d(4, 4, 3, padding=1, groups=groups) for _ in range(2))
    binary = (first, nn.ReLU(), norm, second, nn.PReLU(4))
    if pools:
        binary = (first, nn.ReLU(), norm, nn.MaxPool2d(2), second, nn.PReLU(4), nn.MaxPool2d(2))
    module = nn.Sequential(*binary, BinaryConv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    twin = nn.Sequential(nn.Conv2d(4, 6, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))
    images = Images(torch.randn(5, 4, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
    description = Description({"name": "tiny"}, ("a", "b", "c"), Preprocessing(8, 8, (0.0,) * 4, (1.0,) * 4), {})
    export_module(module, twin, path, images, description)
    return path


@pytest.fixture
def bundle(exported: Path, tmp_path: Path) -> Path:
    return shutil.copytree(exported, tmp_path / "bundle")


def _accept(bundle: Path) -> None:
    """Write the hashes of the changed files into the manifest."""
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest["files"] = {name: asdict(record) for name, record in describe_files(bundle).items()}
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def _change_manifest(bundle: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    change(manifest)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def _change_constant(path: Path, layer: str, position: int, change: Callable[[NDArray], None]) -> None:
    """Change input `position` of the node `layer` in an ONNX file."""
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.name == layer)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[position])
    data = numpy_helper.to_array(tensor).copy()
    change(data)
    tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    onnx.save(model, path)


def _change_arrays(path: Path, change: Callable[[Arrays], None]) -> None:
    with np.load(path) as stored:
        arrays = dict(stored)
    change(arrays)
    np.savez_compressed(path, allow_pickle=False, **arrays)


def _verify(bundle: Path) -> Result:
    return CliRunner().invoke(main, ["verify", str(bundle), "--layers"])


def _assert_refused(bundle: Path, *messages: str) -> None:
    result = _verify(bundle)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # a message, not a traceback
    for message in messages:
        assert message in result.output, result.output


def _flip_bit(data: NDArray) -> None:
    data[0, 0, 0, 0] ^= 1


def test_an_untouched_bundle_passes(bundle: Path) -> None:
    result = _verify(bundle)

    assert result.exit_code == 0, result.output
    assert "binary convolutions      3 of 3 agree with PyTorch, bit-exact" in result.output
    assert "everything else          " in result.output
    assert "0: bit-exact on 144 values" in result.output
    assert "5 of 5 images" in result.output


def test_bits_are_compared_with_those_of_pytorch(tmp_path: Path) -> None:
    bundle = _export(tmp_path / "bundle", groups=1)
    result = _verify(bundle)
    assert result.exit_code == 0, result.output
    assert "binary convolutions      3 of 3 agree with PyTorch, bit-exact" in result.output
    assert "0: bit-exact on 36 bytes of bits" in result.output
    assert "3: bit-exact on 36 bytes of bits" in result.output
    assert "5: bit-exact on 216 values" in result.output

    _change_constant(bundle / MODEL, "3", 1, lambda data: np.bitwise_not(data, out=data))
    _accept(bundle)
    _assert_refused(bundle, "does not agree with PyTorch", "layer 3 differs from PyTorch by", "rounding explains 0")


def test_pooled_bits_are_compared_with_those_of_pytorch(tmp_path: Path) -> None:
    bundle = _export(tmp_path / "bundle", groups=1, pools=True)
    kinds = [node.op_type for node in onnx.load(bundle / MODEL).graph.node]
    wanted = ["BinaryConv2dMaxPoolToBits", "BinaryConv2dOfBitsMaxPoolToBits", "BinaryConv2dOfBits"]
    assert kinds[:3] == wanted
    result = _verify(bundle)
    assert result.exit_code == 0, result.output
    assert "binary convolutions      3 of 3 agree with PyTorch, bit-exact" in result.output
    assert "0: bit-exact on 16 bytes of bits" in result.output
    assert "4: bit-exact on 4 bytes of bits" in result.output

    level = operator(wanted[0]).inputs.index("level")
    _change_constant(bundle / MODEL, "0", level, lambda data: np.subtract(data, 4, out=data))
    _accept(bundle)
    _assert_refused(bundle, "does not agree with PyTorch", "layer 0 differs from PyTorch by", "rounding explains 0")


def test_what_verification_returns(bundle: Path) -> None:
    result = verify_bundle(read_bundle(bundle))

    assert result.failures == []
    assert result.pieces is not None
    binary = [piece for piece in result.pieces.pieces if piece.binary]
    assert [piece.check.name for piece in binary] == ["0", "3", "5"]
    assert all(piece.exact and piece.allowed == 0 for piece in binary)
    assert (result.pieces.faults, result.pieces.alike) == ((), True)
    assert (result.identical, result.images, result.agreement, result.faults) == (True, 5, 5, ())
    (logits,) = result.outputs
    assert (logits.name, logits.difference <= logits.tolerance < logits.spread) == ("logits", True)
    assert result.correct is not None


def test_labels_may_be_unknown(bundle: Path) -> None:
    _change_arrays(bundle / IMAGES, lambda arrays: arrays.pop("labels"))
    _accept(bundle)

    assert verify_bundle(read_bundle(bundle)).correct is None


# --- the model ------------------------------------------------------------------------------------------------------


def test_a_flipped_bit_in_a_weight(bundle: Path) -> None:
    _change_constant(bundle / MODEL, "3", 1, _flip_bit)
    _accept(bundle)

    _assert_refused(bundle, "does not agree with PyTorch", "layer 3 differs from PyTorch by", "rounding explains 0")


def test_a_changed_scale(bundle: Path) -> None:
    def change(scale: NDArray) -> None:
        scale[3] = np.nextafter(scale[3], np.float32(2))

    _change_constant(bundle / MODEL, "0", 4, change)
    _accept(bundle)

    _assert_refused(bundle, "layer 0 differs from PyTorch by", "2 of 3 agree with PyTorch, bit-exact; 1 WRONG")


def test_a_changed_bias_of_the_classifier(bundle: Path) -> None:
    def change(bias: NDArray) -> None:
        bias += [1e-4, 0, 0]

    _change_constant(bundle / MODEL, _head(bundle), 2, change)
    _accept(bundle)

    _assert_refused(bundle, f"piece {_head(bundle)} differs from PyTorch by 0.0001, rounding explains")


def _head(bundle: Path) -> str:
    return next(node.name for node in onnx.load(bundle / MODEL).graph.node if node.op_type == "Gemm")


def test_a_wire_that_leads_elsewhere(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL)
    first, second = (node for node in model.graph.node if node.name in ("0", "3"))
    (value,) = second.input[:1]
    second.input[0] = first.input[0]
    onnx.save(model, bundle / MODEL)
    _accept(bundle)

    _assert_refused(bundle, f"piece 3 reads ['images'], what was exported reads ['{value}']")


def test_a_value_that_is_made_no_more(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL)
    head = next(node for node in model.graph.node if node.op_type == "Gemm")
    (before,) = (node for node in model.graph.node if head.input[0] in node.output)
    value, head.input[0] = head.input[0], before.output[0] + "?"
    before.output[0] += "?"
    onnx.save(model, bundle / MODEL)
    _accept(bundle)

    _assert_refused(bundle, f": no node of the model makes '{value}'")


def test_what_lies_in_no_piece(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL)
    extra = numpy_helper.from_array(np.zeros(3, np.float32), "extra")
    model.graph.initializer.append(extra)
    model.graph.node.append(onnx.helper.make_node("Relu", ["images"], ["extra.relu"], name="extra.relu"))
    model.graph.output.append(onnx.helper.make_tensor_value_info("extra.relu", 1, None))
    onnx.save(model, bundle / MODEL)
    _accept(bundle)

    found = verify_bundle(read_bundle(bundle)).failures

    assert found == [
        "nodes extra.relu of the model in no piece",
        "constants extra of the model in no piece",
        "outputs extra.relu of the model in no piece",
    ]


def test_a_changed_file_is_told_by_its_hash(bundle: Path) -> None:
    data = bytearray((bundle / MODEL).read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / MODEL).write_bytes(data)

    _assert_refused(bundle, f"{bundle / MODEL}: its SHA-256 is not the one in the manifest")


def test_a_packed_weight_of_the_wrong_length(bundle: Path) -> None:
    model = onnx.load(bundle / MODEL)
    node = next(node for node in model.graph.node if node.name == "0")
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
    data = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.concatenate((data, data), axis=3), tensor.name))
    onnx.save(model, bundle / MODEL)
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / MODEL}: onnxruntime", "cannot use it")


def test_a_truncated_model(bundle: Path) -> None:
    data = (bundle / MODEL).read_bytes()
    (bundle / MODEL).write_bytes(data[: len(data) // 2])
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / MODEL}: onnxruntime", "cannot use it")


# --- the test vectors -----------------------------------------------------------------------------------------------


def test_the_vector_of_another_value(bundle: Path) -> None:
    made = {check.name: check.output.array for check in read_bundle(bundle).manifest.verification.pieces}

    def change(arrays: Arrays) -> None:
        arrays[made["0"]] = arrays[made["0"]][:, ::-1].copy()

    _change_arrays(bundle / PIECES, change)
    _accept(bundle)

    _assert_refused(bundle, "layer 0 differs from PyTorch by")


def test_a_vector_of_another_shape(bundle: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["images"] = arrays["images"][:, :, :5]

    _change_arrays(bundle / PIECES, change)
    _accept(bundle)

    _assert_refused(
        bundle,
        f"{bundle / PIECES}: the test vector 'images' is float32 (1, 4, 5, 7), wanted numbers of at least (1, 4, 7, 7)",
    )


def test_a_missing_vector(bundle: Path) -> None:
    _change_arrays(bundle / PIECES, lambda arrays: arrays.pop("images"))
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / PIECES}: no test vector 'images'; export the model again")


def test_other_answers_than_pytorchs(bundle: Path) -> None:
    _change_arrays(bundle / IMAGES, lambda arrays: arrays.update(logits=-arrays["logits"]))
    _accept(bundle)

    _assert_refused(bundle, "5 of 5 images get another class than in PyTorch")


def test_how_far_the_outputs_are_is_information(bundle: Path) -> None:
    _change_arrays(bundle / IMAGES, lambda arrays: arrays.update(logits=arrays["logits"] + np.float32(1)))
    _accept(bundle)

    result = _verify(bundle)

    assert result.exit_code == 0, result.output
    assert "outputs, for information differ from PyTorch by at most 1; rounding explains" in result.output
    assert "WARNING, more than that, and no ties were found that could make it" in result.output


def test_images_of_another_size(bundle: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["images"] = arrays["images"][:, :, :4]

    _change_arrays(bundle / IMAGES, change)
    _accept(bundle)

    _assert_refused(bundle, "images: got float32 (5, 4, 4, 8), wanted float32 (N, 4, 8, 8)")


def test_logits_of_another_shape(bundle: Path) -> None:
    def change(arrays: Arrays) -> None:
        arrays["logits"] = arrays["logits"][:, :2]

    _change_arrays(bundle / IMAGES, change)
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / IMAGES}: logits of shape (5, 2), the model answers (5, 3)")


@pytest.mark.parametrize(("file", "name"), [(IMAGES, "images"), (IMAGES, "logits")])
def test_vectors_that_are_no_numbers_or_none(bundle: Path, file: str, name: str) -> None:
    def leave_none(arrays: Arrays) -> None:
        arrays[name] = arrays[name][:0]

    for change, message in (
        (leave_none, f"{name} is float32 (0"),
        (
            lambda arrays: arrays.update({name: np.array([[1]])}),
            f"{name} is int64 (1, 1), wanted float32 and something",
        ),
        (
            lambda arrays: arrays.update({name: np.array([["a"]])}),
            f"cannot be read: {name}.npy is no array of numbers in version 1.0 of numpy's format; export the model",
        ),
    ):
        _change_arrays(bundle / file, change)
        _accept(bundle)

        _assert_refused(bundle, f"{bundle / file}: {message}")


def test_labels_of_other_images(bundle: Path) -> None:
    _change_arrays(bundle / IMAGES, lambda arrays: arrays.update(labels=arrays["labels"][:2]))
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / IMAGES}: labels of shape (2,) for 5 images; export the model again")


@pytest.mark.parametrize("file", [IMAGES, PIECES])
@pytest.mark.parametrize("bytes_left", [0, 100, -200], ids=["empty", "head", "without its end"])
def test_a_truncated_archive(bundle: Path, file: str, bytes_left: int) -> None:
    data = (bundle / file).read_bytes()
    (bundle / file).write_bytes(data[:bytes_left])

    _assert_refused(bundle, f"{bundle / file}: {len(data[:bytes_left])} bytes, the manifest says {len(data)}")
    _accept(bundle)
    _assert_refused(bundle, f"{bundle / file}: cannot be read:")


def test_a_damaged_archive(bundle: Path) -> None:
    data = bytearray((bundle / PIECES).read_bytes())
    data[len(data) // 3 : len(data) // 3 + 40] = bytes(40)
    (bundle / PIECES).write_bytes(data)
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / PIECES}: cannot be read:")


# --- the manifest ---------------------------------------------------------------------------------------------------


def test_layers_without_a_check(bundle: Path) -> None:
    def change(manifest: dict) -> None:
        pieces = manifest["verification"]["pieces"]
        pieces[:] = [piece for piece in pieces if piece["name"] != "3"]

    _change_manifest(bundle, change)

    _assert_refused(bundle, f"{bundle / MANIFEST}: verification.pieces: got [", 'wanted ["3"] among them; export')


def test_a_piece_without_a_check(bundle: Path) -> None:
    def change(manifest: dict) -> None:
        pieces = manifest["verification"]["pieces"]
        pieces[:] = [piece for piece in pieces if piece["name"] != _head(bundle)]

    _change_manifest(bundle, change)

    _assert_refused(bundle, f"nodes {_head(bundle)} of the model in no piece; outputs logits of the model in no piece")


def test_a_bundle_of_an_older_format_is_compared_as_a_whole(bundle: Path) -> None:
    def change(manifest: dict) -> None:
        (image,), (logits,) = manifest.pop("inputs"), manifest.pop("outputs")
        tolerance = manifest["verification"]["output_tolerances"]["logits"]
        manifest.update(format=2, verification={"output_tolerance": tolerance, "layers": []})
        manifest.update(input_name=image["name"], input_shape=image["shape"][1:], output_name=logits["name"])

    _change_manifest(bundle, change)
    result = _verify(bundle)
    assert result.exit_code == 0, result.output
    assert "not compared, since bundles of format 2 hold no values of them; export the model again" in result.output

    _change_constant(bundle / MODEL, _head(bundle), 2, lambda bias: np.add(bias, [1, -1, 0], out=bias))
    _accept(bundle)
    _assert_refused(bundle, "outputs differ from PyTorch by 1, rounding explains")


@pytest.mark.parametrize(("side", "name"), [("inputs", "images"), ("outputs", "logits")])
def test_a_name_that_the_model_does_not_have(side: str, name: str, bundle: Path) -> None:
    def change(manifest: dict) -> None:
        manifest[side][0]["name"] = "pixels"
        manifest["verification"]["output_tolerances"] = {manifest["outputs"][0]["name"]: 1.0}

    _change_manifest(bundle, change)
    _change_arrays(bundle / IMAGES, lambda arrays: arrays.update(pixels=arrays[name]))
    _accept(bundle)

    _assert_refused(bundle, f"{bundle / MODEL}: has the inputs ['images'] and outputs ['logits']; the bundle wants")


def test_answers_that_are_not_numbers_do_not_pass(bundle: Path) -> None:
    _change_constant(bundle / MODEL, _head(bundle), 2, lambda bias: bias.fill(np.nan))
    _accept(bundle)

    _assert_refused(bundle, "outputs are no numbers where PyTorch gave some", "differs from PyTorch by nan")


def test_the_error_is_a_bundle_error(bundle: Path) -> None:
    _change_arrays(bundle / PIECES, lambda arrays: arrays.clear())
    _accept(bundle)

    with pytest.raises(BundleError, match="no test vector"):
        verify_bundle(read_bundle(bundle))


@pytest.mark.parametrize("shape", [(1, 4, 2, 3), (2, 4)], ids=["convolution", "linear"])
def test_channels_that_are_zero_in_every_value_are_not_seen(shape: tuple[int, ...]) -> None:
    wanted = np.ones(shape, np.float32)
    wanted[:, [0, 2, 3]] = 0
    wanted[(-1, 3, *(-1,) * (len(shape) - 2))] = 5  # seen in one value alone
    check = PieceCheck("conv", (), Corner("y", "y", shape), shape)
    exact = np.zeros((), np.float32)
    for got, passed in ((wanted, True), (wanted + 1, False)):
        result = pieces._result(check, got, wanted, exact, binary=True, bits=False)
        assert (result.channels, result.silent, result.passed) == (4, 2, passed)
    assert pieces._result(check, wanted, wanted, exact, binary=False, bits=False).channels == 0
    assert pieces._result(check, wanted, wanted, exact, binary=True, bits=True).channels == 0
