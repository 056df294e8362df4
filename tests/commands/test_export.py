"""`bnas-deploy export`: what it prints and writes, and what it refuses."""

import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner, Result

from bnas_deploy.cli import main
from bnas_deploy.core.bundle import IMAGES, read_bundle
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.runtime.session import open_bundle
from bnas_deploy.runtime.verify import verify_bundle
from bnas_deploy.search.data.digits import open_digits
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import build_network
from bnas_deploy.search.training.checkpoint import save_checkpoint
from bnas_deploy.search.training.untrained import untrained_checkpoint

SMALL = NetworkConfig("small", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint") / "small.safetensors"
    save_checkpoint(path, untrained_checkpoint(SMALL, seed=0))
    return path


def export(checkpoint: Path, output: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["export", str(checkpoint), "-o", str(output), *options])


@pytest.fixture(scope="module")
def exported(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    """What an export says, and the bundle, which no test changes."""
    path = tmp_path_factory.mktemp("exported") / "bundle"
    return export(checkpoint, path, "--images", "5"), path


def refusal_of(checkpoint: Path, output: Path, *options: str) -> str:
    """Run an export that must be refused; assert that it leaves nothing behind and return the message."""
    before = sorted(output.parent.iterdir()) if output.parent.is_dir() else None
    result = export(checkpoint, output, *options)
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert (sorted(output.parent.iterdir()) if output.parent.is_dir() else None) == before
    return result.output.strip().removeprefix("Error: ")


def test_it_says_what_holds_and_what_comes_next(exported: tuple[Result, Path]) -> None:
    result, bundle = exported
    assert result.exit_code == 0, result.output
    lines = dict(line.split("  ", 1) for line in result.output.splitlines() if "  " in line)
    manifest = read_bundle(bundle).manifest
    count = sum(layer.is_binary for layer in manifest.layers)
    others = len(manifest.verification.pieces) - count
    assert lines["binary convolutions"].strip() == f"{count} of {count} agree with PyTorch, bit-exact"
    assert f"{others} of {others} agree with PyTorch: " in lines["everything else"]
    assert lines["everything else"].endswith(" within the rounding of their own arithmetic")
    assert "; rounding explains " in result.output
    assert "with and without library identical" in result.output
    assert lines["top-1 agreement"].strip() == "5 of 5 images (random, not real ones)"
    for twin, reference in {"float twin": "PyTorch", "int8 twin": "the float twin's"}.items():
        line = rf"outputs differ from {reference} by at most (\S+), of a spread of (\S+)"
        assert (said := re.fullmatch(line, lines[twin].strip()))
        assert float(said[1]) < float(said[2])
    assert lines["still float"].strip().startswith("stem.conv, cells.1.skip.conv, cells.2.skip.conv, classifier (")
    size = (bundle / "model.onnx").stat().st_size
    assert lines["model.onnx"].strip() == f"{size / 1000:,.1f} kB"
    names = lines["dropped"].strip()
    assert names.endswith(": no output depends on what they compute")
    assert result.output.count("\nbinary layer ") == count + names.count(",") + 1
    assert result.output.endswith(f"Next: bnas-deploy bench {bundle}\n")


def test_float_layers_in_8_bits_are_a_choice_and_their_change_is_told(tmp_path: Path) -> None:
    checkpoint = tmp_path / "wide.safetensors"
    save_checkpoint(checkpoint, untrained_checkpoint(replace(SMALL, channels=8), seed=0))
    plain, quantized = tmp_path / "float", tmp_path / "int8"
    assert export(checkpoint, plain, "--images", "5").exit_code == 0
    result = export(checkpoint, quantized, "--images", "5", "--float-layers", "int8")
    assert result.exit_code == 0, result.output

    lines = dict(line.split("  ", 1) for line in result.output.splitlines() if "  " in line)
    assert lines["still float"].strip().startswith("stem.conv (")
    assert lines["in 8 bits"].strip().startswith("cells.1.skip.conv, cells.2.skip.conv, classifier (")
    bundle = read_bundle(quantized)
    change = bundle.manifest.quantization
    assert change is not None
    told = f"at most {change.largest_difference:.2g}, in the mean by {change.mean_difference:.2g}, "
    assert told in lines["change by 8 bits"]
    assert lines["change by 8 bits"].endswith(f" of their spread; same class for {change.agreement} of 5 images")

    # What is told is what an app gets, on the same images.
    images = {path: np.load(path / IMAGES) for path in (plain, quantized)}
    answers = {path: open_bundle(path).predict(images[path]["images"]) for path in images}
    assert (images[quantized]["float_logits"] == answers[plain]).all()
    assert np.abs(answers[quantized] - answers[plain]).max() == np.float32(change.largest_difference) > 0
    layers = {layer.name: layer.weight_bits for layer in read_bundle(quantized).manifest.layers}
    assert {bits for name, bits in layers.items() if name.endswith("skip.conv")} == {8}

    verified = CliRunner().invoke(main, ["verify", str(quantized)])
    assert verified.exit_code == 0, verified.output
    assert "agree with PyTorch, bit-exact" in verified.output
    assert "layers in 8 bits         3 of 3 agree with the exported model, bit-exact" in verified.output
    assert "differ from the exported model by at most" in verified.output

    # What a layer in 8 bits gave is what it has to give.
    model = onnx.load(quantized / "model.onnx")
    skip = next(node for node in model.graph.node if node.name == "cells.1.skip.conv")
    weights = next(node for node in model.graph.node if skip.input[1] in node.output).input[0]
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weights)
    tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.save(model, quantized / "model.onnx")
    faults = verify_bundle(bundle).failures
    assert any("differs from what it gave when it was exported by" in fault for fault in faults), faults


def test_float_layers_that_gain_nothing_from_8_bits_are_refused(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bnas_deploy.export.quantization._LAYERS", ())
    message = refusal_of(checkpoint, tmp_path / "bundle", "--images", "4", "--float-layers", "int8")
    assert message == (
        "--float-layers int8: no float layer has channels or a kernel to gain from 8 bits; export with float layers"
    )


def test_verify_repeats_it(exported: tuple[Result, Path]) -> None:
    result = CliRunner().invoke(main, ["verify", str(exported[1]), "--layers"])
    assert result.exit_code == 0, result.output
    assert "cells.0.edges.1.conv: bit-exact on " in result.output


def test_real_images_come_with_labels(tmp_path: Path) -> None:
    data = open_digits().description
    untrained = untrained_checkpoint(SMALL, seed=0)
    path = tmp_path / "digits.safetensors"
    trained = type(untrained)(SMALL, untrained.state, data.preprocessing, data.class_names, "digits")
    save_checkpoint(path, trained)
    result = export(path, tmp_path / "bundle", "--images", "20")
    assert result.exit_code == 0, result.output
    assert "20 of 20 images; " in result.output
    assert " classified correctly" in result.output


def test_an_old_bundle_is_replaced(checkpoint: Path, exported: tuple[Result, Path], tmp_path: Path) -> None:
    shutil.copytree(exported[1], tmp_path / "bundle")
    assert export(checkpoint, tmp_path / "bundle", "--images", "6").exit_code == 0
    assert "6 of 6 images" in CliRunner().invoke(main, ["verify", str(tmp_path / "bundle")]).output
    assert [entry.name for entry in tmp_path.iterdir()] == ["bundle"]


def test_a_missing_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    assert refusal_of(path, tmp_path / "bundle") == (
        f"{path}: cannot be read: No such file or directory; expected a safetensors file that `bnas-deploy train` or "
        "`init` wrote"
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("pickle", "a zip file, probably from torch.save, which holds pickles; they are never loaded, expected a "),
        ("empty", "empty; expected a safetensors file that `bnas-deploy train` or `init` wrote"),
        ("cut", "cut short: "),
        ("text", "not a safetensors file"),
    ],
)
def test_what_is_no_checkpoint_is_refused(damage: str, message: str, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    match damage:
        case "pickle":
            torch.save({"weight": torch.zeros(3)}, path)
            assert zipfile.is_zipfile(path)
        case "empty":
            path.touch()
        case "cut":
            path.write_bytes(checkpoint.read_bytes()[:-100])
        case "text":
            path.write_text("a note about a network")
    assert refusal_of(path, tmp_path / "bundle").startswith(f"{path}: {message}")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    other = NetworkConfig("small", 4, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))
    path = tmp_path / "net.safetensors"
    mixed = untrained_checkpoint(SMALL, seed=0)
    save_checkpoint(
        path, type(mixed)(SMALL, build_network(other).state_dict(), mixed.preprocessing, mixed.labels, "none")
    )
    message = refusal_of(path, tmp_path / "bundle")
    assert message.startswith(f"{path}: its tensors are not those of the small that it describes: ")


def test_outputs_that_cannot_be_written_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    # Not even root can write these.
    (tmp_path / "file").write_text("important")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis").write_text("important")
    below = tmp_path / "file" / "bundle"
    assert refusal_of(checkpoint, below).startswith(f"{below}: cannot be written: ")
    for taken in (tmp_path / "file", tmp_path / "folder"):
        assert (
            refusal_of(checkpoint, taken)
            == f"{taken}: exists and is not a bundle; it was left alone, choose another folder"
        )
    assert (tmp_path / "folder" / "thesis").read_text() == "important"


def test_data_of_another_network_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    message = refusal_of(checkpoint, tmp_path / "bundle", "--data", "digits")
    assert message.startswith("--data digits: images of (1, 8, 8), normalised with a mean of 0.305 and a deviation of ")
    assert "; the network takes images of (1, 8, 8), normalised with a mean of 0.5 and a deviation of 0.25; " in message
    assert message.endswith("give the data that it was trained on")
    # Images of the right kind, but of other things.
    other = untrained_checkpoint(SMALL, seed=0)
    path = tmp_path / "fashion.safetensors"
    names = ("shirt", "shoe", *other.labels[2:])
    save_checkpoint(path, type(other)(SMALL, other.state, open_digits().description.preprocessing, names, "fashion"))
    assert refusal_of(path, tmp_path / "bundle", "--data", "digits") == (
        "--data digits: classes 0, 1, 2 and 7 more; the network tells apart shirt, shoe, class 2 and 7 more; "
        "give the data that it was trained on"
    )
    missing = tmp_path / "nowhere"
    message = refusal_of(checkpoint, tmp_path / "bundle", "--data", f"cifar10:{missing}")
    assert message.startswith(f"{missing}: no such folder; expected the folder of the data set cifar10; its archives")


def test_a_float_twin_is_not_exported(tmp_path: Path) -> None:
    path = tmp_path / "twin.safetensors"
    save_checkpoint(path, untrained_checkpoint(SMALL.float_twin(), seed=0))
    assert refusal_of(path, tmp_path / "bundle").startswith("small: the checkpoint of a float twin, ")


def test_a_changed_file_is_found_by_verify(exported: tuple[Result, Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(exported[1], copy)
    model = bytearray((copy / "model.onnx").read_bytes())
    model[len(model) // 2] ^= 1
    (copy / "model.onnx").write_bytes(model)
    result = CliRunner().invoke(main, ["verify", str(copy)])
    assert result.exit_code == 1
    assert result.output.strip().startswith(f"Error: {copy / 'model.onnx'}: its SHA-256 is not the one in the manifest")


@pytest.mark.parametrize(
    ("file", "given", "message"),
    [
        ("x/manifest.json", "x", "a bundle, which is what export writes; go on with: bnas-deploy bench {path}"),
        (
            "x/best.safetensors",
            "x",
            "a folder of `bnas-deploy train`; give the checkpoint in it: {path}/best.safetensors",
        ),
        (
            "x/genotype.json",
            "x",
            "a folder of `bnas-deploy search`; train what it found first: bnas-deploy train --genotype "
            "{path}/genotype.json",
        ),
        (
            "x/y",
            "x",
            "a folder; export takes a checkpoint, a .safetensors file that `bnas-deploy train` or `init` wrote",
        ),
        (
            "x.onnx",
            "x.onnx",
            "an ONNX model; export takes a checkpoint, a .safetensors file that `bnas-deploy train` or `init` wrote, "
            "or a network in PyTorch, FILE.py:NAME",
        ),
        (
            "x.json",
            "x.json",
            "a JSON file; export takes a checkpoint, a .safetensors file that `bnas-deploy train` or `init` wrote. "
            "A genotype has no weights, train it first: bnas-deploy train --genotype {path}",
        ),
    ],
    ids=["bundle", "trained", "searched", "folder", "onnx", "json"],
)
def test_what_is_no_checkpoint_gets_advice(tmp_path: Path, file: str, given: str, message: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    path = tmp_path / given
    assert refusal_of(path, tmp_path / "bundle") == f"{path}: {message.format(path=path)}"


def test_ctrl_c_leaves_nothing_behind(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bnas_deploy.export.exporter.verify_bundle", interrupted)
    result = export(checkpoint, tmp_path / "new" / "bundle")
    assert result.exit_code == 130
    assert result.output.endswith("\nStopped. Files that were finished are kept, the others are as they were.\n")
    assert not list(tmp_path.iterdir())
