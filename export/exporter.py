"""The export itself: capture, rewriting, comparison, and the files of the bundle."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core import bundle as files
from bnas_deploy.core import operators
from bnas_deploy.core.bundle import (
    Bundle,
    Manifest,
    PieceCheck,
    Quantization,
    Verification,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.model_card import write_card
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.export.capture import INPUT, OUTPUT, CapturedModel, capture
from bnas_deploy.export.card import bundle_card
from bnas_deploy.export.description import Description
from bnas_deploy.export.doubts import LOOKS_BINARY, Doubts, LooksBinaryWarning, find_doubts, no_binary_layer
from bnas_deploy.export.finish import finish
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.foreign.understood import Understood
from bnas_deploy.export.given import TWIN, Images, Progress, check_answers, check_images, check_twin, silent
from bnas_deploy.export.layer_costs import layer_costs
from bnas_deploy.export.module_checks import answers_in_batches, answers_of, other_floats, own_doing, prepared
from bnas_deploy.export.passes import FLOAT_PIPELINE, INT8_PIPELINE, PIPELINE
from bnas_deploy.export.passes.sign_of_zero import check_activations
from bnas_deploy.export.quantization import quantize, quantize_layers, with_origins
from bnas_deploy.export.rewrite import RewriteLog, run
from bnas_deploy.export.separate_twin import needs_own_capture, twin_of_family, with_float_layers
from bnas_deploy.export.twin import TWIN_IMAGES, FloatTwin, derived_twin
from bnas_deploy.export.vectors import Vectors, output_tolerance
from bnas_deploy.runtime.pieces import compare_pieces
from bnas_deploy.runtime.session import create_session, session_options
from bnas_deploy.runtime.verify import VerifyResult, verify_bundle
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.checkpoint import Checkpoint
from bnas_deploy.search.training.untrained import UNTRAINED


@dataclass(frozen=True)
class ExportResult:
    """The bundle, what the passes did, and how it compares with PyTorch on this machine.

    Before that, every piece was compared on whole values of one image, more than the bundle keeps.
    `twin_difference` is the largest difference of the float twin's outputs to PyTorch, `int8_difference` that of the
    int8 twin's to the float twin's. `doubts` is what a person should look at though all agrees, `layers` how each
    binary layer was understood.
    """

    bundle: Bundle
    log: RewriteLog
    verification: VerifyResult
    twin_difference: float
    int8_difference: float
    doubts: Doubts
    layers: tuple[Understood, ...]


FloatLayers = Literal["float", "int8"]
"""How a binary network computes what is not binary."""


def export_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    images: Images,
    *,
    float_layers: FloatLayers = "float",
    progress: Progress = silent,
) -> ExportResult:
    """Export the network of a checkpoint and its float twin to a bundle at `path`; see `export_module`.

    The float twin has the checkpoint's latent weights; it and the int8 twin that is made of it are there to be
    measured, not to be right.

    Raises:
        ExportError: the exported model does not agree with PyTorch; nothing is written.
        BundleError: `path` cannot be written.
    """
    if checkpoint.network.is_float:
        raise ExportError(
            f"{checkpoint.network.name}: the checkpoint of a float twin, which has no binary layers; "
            "give one that was trained without --float-twin"
        )
    network = checkpoint.build()
    # The weights of a large network fill the memory: from here on it has the checkpoint's own, and is not copied.
    network.load_state_dict(checkpoint.state, assign=True)
    twin = twin_of_family(checkpoint.network, network)
    description = Description(
        network=checkpoint.network.to_json(),
        labels=checkpoint.labels,
        preprocessing=checkpoint.preprocessing,
        metrics=dict(checkpoint.metrics),
        data=None if checkpoint.data == UNTRAINED else checkpoint.data,
        config=checkpoint.network,
        training=checkpoint.training,
    )
    return _export(network, twin, path, images, description, float_layers, progress, copied=False)


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    """Have PyTorch compute attention as it is traced; its fast path for evaluation rounds otherwise."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def export_module(
    module: nn.Module,
    twin: nn.Module | None = None,
    path: str | Path | None = None,
    images: Images | None = None,
    description: Description | None = None,
    *,
    float_layers: FloatLayers = "float",
    progress: Progress = silent,
) -> ExportResult:
    """Export a module with binary layers, the package's or others that compute the same, and its twins to a bundle.

    Args:
        module: maps images (N, C, H, W) float32 to logits (N, classes).
        twin: the same with float weights and no sign, to compare latencies with. None derives it from `module`: float
            convolutions in the place of binary ones, and batch normalisations that are calibrated on `images`.
        path: folder to write; needed.
        images: what to verify with, needed; the bundle keeps them.
        description: for the manifest and the model card; needed.
        float_layers: "int8" quantises what stays float in `module`, after the export was verified without it, and
            puts down in the manifest what that changed on `images`.
        progress: is told what is being done, in a few words, each time that changes.

    A `LooksBinaryWarning` names float layers that look binary and were not recognised; `register` mends that.

    Raises:
        ExportError: `module` has no binary layer, cannot be captured, does not fit the images or the labels, or its
            export does not agree with PyTorch.
        BundleError: `path` cannot be written.
        TypeError: something that is needed is missing.
    """
    given = {"path": path, "images": images, "description": description}
    if path is None or images is None or description is None:
        raise TypeError(f"export_module needs {', '.join(name for name, value in given.items() if value is None)}")
    result = _export(module, twin, Path(path), images, description, float_layers, progress)
    if left_float := result.doubts.sentences().get(LOOKS_BINARY):
        warnings.warn(left_float, LooksBinaryWarning, stacklevel=2)
    return result


@_without_fast_paths()
def _export(
    module: nn.Module,
    twin: nn.Module | None,
    path: Path,
    images: Images,
    description: Description,
    float_layers: FloatLayers,
    progress: Progress,
    *,
    copied: bool = True,
) -> ExportResult:
    """Export without a word, for callers who show the result; those who made the modules need no copy of them."""
    progress(f"running it on {len(images.pixels)} images")
    converted = other_floats(module)
    module = prepared(module, type(module).__name__, copied=copied)
    twin = None if twin is None else prepared(twin, TWIN, copied=copied)
    check_images(images, description)
    given = answers_in_batches(module, images.pixels)
    if reason := own_doing(module, images.pixels[:1]):  # a counter in Python can agree with its program by chance
        raise ExportError(f"{type(module).__name__}: {reason}")
    answers = check_answers("the module", given, len(images.pixels), len(description.labels))
    if twin is not None:
        check_answers(TWIN, answers_of(twin, images.pixels[:1], TWIN), 1, len(description.labels))
        check_twin(twin)
    with new_bundle(path) as folder:
        np.savez_compressed(folder / files.IMAGES, allow_pickle=False, **_image_arrays(images, answers))
        progress("capturing its graph")
        translator = Translator(module, images.pixels)
        captured = capture(translator.module, images.pixels.shape[1:], translate=translator)
        _check_layers(module, translator)
        before = captured.copy()
        values, log, verification, doubts = _write_model(captured, translator, folder, images.pixels, progress)
        log.notes += [converted] if converted else []
        progress("making its float twin")
        made = _float_twin(before, translator, twin, images.pixels)
        graph = captured.model
        del captured, before  # with their program they hold a float for every sign
        twin_difference, int8_difference = _write_twins(made, folder, images.pixels[:TWIN_IMAGES], progress)
        del made
        manifest = _manifest(graph, description, verification, folder)
        (folder / files.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
        progress("verifying the bundle")
        result = verify_bundle(Bundle(folder, manifest))
        _refuse(result.failures)
        if float_layers == "int8":
            progress("quantising its float layers")
            manifest = _quantize_float_layers(Bundle(folder, manifest), images, graph, values)
            (folder / files.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
            progress("verifying the bundle with int8 layers")
            result = verify_bundle(Bundle(folder, manifest))
            _refuse(result.failures)
        write_card(folder, bundle_card(Bundle(folder, manifest), description, result, doubts))
    layers = tuple(translator.layers)
    return ExportResult(read_bundle(path), log, result, twin_difference, int8_difference, doubts, layers)


def _write_model(
    captured: CapturedModel, translator: Translator, folder: Path, images: Tensor, progress: Progress
) -> tuple[Mapping[str, Tensor], RewriteLog, Verification, Doubts]:
    """Rewrite and write the captured model and the vectors of its pieces; compare them on whole values.

    Returns PyTorch's values for one image, and what is to be said of them and of the model.
    """
    progress("comparing its graph with PyTorch")
    module = translator.module
    values = captured.values_of(images[:1])
    # Where layers were recognised their results are rounded otherwise, and the translator has compared the rest.
    same = translator.recognised > 0 or torch.equal(values[OUTPUT], _answers(module, images[:1]))
    if not same:
        _refuse(
            [
                f"the captured program answers differently from {type(module).__name__}; its forward may use something "
                "outside of the module: keep that in parameters and buffers"
            ]
        )
    # Before the rewriting, which moves signs and scales.
    doubts = find_doubts(captured, values, module, images, translator.left)
    progress("rewriting its graph")
    log = run(PIPELINE, captured.model)
    if found := check_activations(captured, images):
        log.notes.append(str(found))
    path = folder / files.MODEL
    onnx.save(finish(captured.model), path)
    progress("comparing its pieces with PyTorch")
    vectors, checks = _write_vectors(captured.model, values, folder)
    generator = torch.Generator().manual_seed(0)
    tolerance = output_tolerance(module, images, lambda pixels: captured.with_noise(pixels, vectors.slack(), generator))
    return values, log, Verification(tolerance, checks, vectors.ties()), doubts


def _write_vectors(
    graph: ir.Model, values: Mapping[str, Tensor], folder: Path
) -> tuple[Vectors, tuple[PieceCheck, ...]]:
    """Compare the pieces of the model, whose graph is `graph`, on whole values, and write corners of them."""
    path = folder / files.MODEL
    vectors = _compared(path, Vectors.of(graph, values, path))
    checks = vectors.corner_checks(path)
    np.savez_compressed(folder / files.PIECES, allow_pickle=False, **vectors.kept(checks))
    return vectors, tuple(checks)


def _compared(model: Path, vectors: Vectors) -> Vectors:
    """Compare every piece with PyTorch on whole values; return the vectors with the bounds that hold."""
    found = compare_pieces(model, vectors.whole_checks(), vectors.arrays())
    failed = {piece.check.output.value for piece in found.pieces if not piece.passed}
    if failed:
        vectors = vectors.with_worst(failed)
        found = compare_pieces(model, vectors.whole_checks(), vectors.arrays())
    _refuse(found.failures)
    if not found.alike:
        _refuse(["the library and plain onnxruntime answer differently"])
    return vectors


def _quantize_float_layers(bundle: Bundle, images: Images, graph: ir.Model, values: Mapping[str, Tensor]) -> Manifest:
    """Replace the verified model, made of `graph`, by one whose float layers are in 8 bits; return its manifest.

    Other machines must then reproduce this model's answers, for the whole network and for each 8-bit layer. The other
    pieces are compared with PyTorch's `values` as before.
    """
    path, manifest = bundle.file(files.MODEL), bundle.manifest
    before = _run(path, images.pixels, library=True)
    model, names = quantize_layers(onnx.load(path), images.pixels.numpy())
    if not names:
        raise ExportError(
            "--float-layers int8: no float layer has enough channels to gain from 8 bits; export with float layers"
        )
    onnx.save(model, path)
    _, checks = _write_vectors(with_origins(ir.from_proto(model), graph, names), values, bundle.path)
    session = create_session(path)

    def answer(pixels: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {INPUT: pixels.numpy()})[0])

    after = answer(images.pixels)
    arrays = {**_image_arrays(images, after), "float_logits": before}
    np.savez_compressed(bundle.file(files.IMAGES), allow_pickle=False, **arrays)
    difference = np.abs(after.numpy() - before)
    return replace(
        manifest,
        layers=tuple(replace(layer, weight_bits=8) if layer.name in names else layer for layer in manifest.layers),
        verification=replace(
            manifest.verification, output_tolerance=output_tolerance(answer, images.pixels), pieces=checks
        ),
        quantization=Quantization(
            largest_difference=float(difference.max()),
            mean_difference=float(difference.mean()),
            images=len(before),
            agreement=int((after.numpy().argmax(axis=1) == before.argmax(axis=1)).sum()),
        ),
        files=describe_files(bundle.path),
    )


def _manifest(model: ir.Model, description: Description, verification: Verification, folder: Path) -> Manifest:
    preprocessing = description.preprocessing
    return Manifest(
        bnas_deploy=bnas_deploy.__version__,
        network=description.network,
        opset={"onnx": operators.ONNX_OPSET, operators.DOMAIN: operators.VERSION},
        input_name=INPUT,
        input_shape=(len(preprocessing.mean), preprocessing.height, preprocessing.width),
        output_name=OUTPUT,
        labels=description.labels,
        preprocessing=preprocessing,
        layers=tuple(layer_costs(model)),
        verification=verification,
        metrics=description.metrics,
        files=describe_files(folder),
    )


def _check_layers(module: nn.Module, translator: Translator) -> None:
    if not translator.layers and not any(isinstance(layer, BinaryConv2d) for layer in translator.module.modules()):
        raise ExportError(no_binary_layer(module, translator.left))


def _answers(module: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        answers: Tensor = module(images)
    return answers


def _float_twin(captured: CapturedModel, translator: Translator, given: nn.Module | None, images: Tensor) -> FloatTwin:
    """Return the float twin that was given, or else that of the module, whose graph `captured` becomes the twin's."""
    if given is not None:
        return FloatTwin(capture(given, images.shape[1:]).model, lambda images: _answers(given, images))
    module = translator.module
    if not needs_own_capture(module) and not translator.has_sums:
        return derived_twin(captured, module, images)
    swapped = with_float_layers(module) if needs_own_capture(module) else module
    return derived_twin(capture(swapped, images.shape[1:], translate=translator.float_layers), swapped, images)


def _write_twins(twin: FloatTwin, folder: Path, images: Tensor, progress: Progress) -> tuple[float, float]:
    """Export the float twin and the int8 twin.

    Returns the largest difference of the float twin's outputs to PyTorch, and of the int8 twin's to the float twin's.
    """
    run(FLOAT_PIPELINE, twin.model)
    onnx.save(finish(twin.model), folder / files.FLOAT_TWIN)
    answers = _run(folder / files.FLOAT_TWIN, images, library=False)
    difference = float(np.abs(answers - twin.network(images).numpy()).max())
    tolerance = output_tolerance(twin.network, images)
    if not difference <= tolerance:
        _refuse([f"the float twin differs from PyTorch by {difference:.3g}, rounding explains {tolerance:.3g}"])
    progress("quantising its int8 twin")
    run(INT8_PIPELINE, twin.model)
    onnx.save(quantize(finish(twin.model), images.numpy()), folder / files.INT8_TWIN)
    return difference, float(np.abs(_run(folder / files.INT8_TWIN, images, library=False) - answers).max())


def _run(path: Path, images: Tensor, *, library: bool) -> NDArray[np.float32]:
    session = create_session(path, session_options(library=library))
    answers: NDArray[np.float32] = session.run(None, {INPUT: images.numpy()})[0]
    return answers


def _image_arrays(images: Images, answers: Tensor) -> dict[str, NDArray[Any]]:
    arrays = {"images": images.pixels.numpy(), "logits": answers.numpy()}
    return arrays if images.labels is None else {**arrays, "labels": images.labels.numpy()}


def _refuse(failures: Sequence[str]) -> None:
    if failures:
        raise ExportError(f"nothing was written, since the export does not agree with PyTorch: {'; '.join(failures)}")
