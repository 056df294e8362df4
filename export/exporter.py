"""The export itself: capture, rewriting, comparison, and the files of the bundle."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import onnx
import onnx_ir as ir
import torch
from torch import Tensor, nn

import bnas_deploy
from bnas_deploy.core import bundle as files
from bnas_deploy.core import operators
from bnas_deploy.core.bundle import (
    Bundle,
    Manifest,
    Verification,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.float_layers import FloatLayers, check_network, network_name, read_float_layers
from bnas_deploy.core.memory import give_back, old_objects_left_alone
from bnas_deploy.core.model_card import write_card
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.npz import write_arrays
from bnas_deploy.core.tensor_spec import TensorSpec
from bnas_deploy.export.arguments import check_arguments, labels_twice
from bnas_deploy.export.auto_layers import choose_layers
from bnas_deploy.export.capture import CapturedModel, capture
from bnas_deploy.export.card import bundle_card
from bnas_deploy.export.compared import answers_to_feed, refuse, refuse_another_program, write_vectors
from bnas_deploy.export.description import Description
from bnas_deploy.export.doubts import LOOKS_BINARY, Doubts, LooksBinaryWarning, find_doubts, no_binary_layer
from bnas_deploy.export.finish import finish
from bnas_deploy.export.foreign.steps import sampled
from bnas_deploy.export.foreign.translate import Translator
from bnas_deploy.export.foreign.understood import Understood
from bnas_deploy.export.given import (
    TWIN,
    Asked,
    Images,
    Progress,
    answers_to,
    asked,
    check_same_outputs,
    check_twin,
    example_arrays,
    silent,
)
from bnas_deploy.export.inputs import Feed, Inputs
from bnas_deploy.export.int8_layers import Choose, all_of_them, quantize_float_layers
from bnas_deploy.export.layer_costs import layer_costs
from bnas_deploy.export.module_checks import other_floats, own_doing, prepared
from bnas_deploy.export.passes import PIPELINE
from bnas_deploy.export.passes.sign_of_zero import check_activations, zero_by_chance
from bnas_deploy.export.quantization import FloatFile
from bnas_deploy.export.rewrite import RewriteLog, run
from bnas_deploy.export.separate_twin import twin_of_family
from bnas_deploy.export.twin import TWIN_IMAGES
from bnas_deploy.export.twins import TwinAnswers, compare_float_twin, float_twin, write_int8_twin, write_twin_files
from bnas_deploy.export.vectors import output_tolerances
from bnas_deploy.runtime.verify import VerifyResult, verify_bundle
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.checkpoint import Checkpoint
from bnas_deploy.search.training.untrained import UNTRAINED


@dataclass(frozen=True)
class ExportResult:
    """The bundle, what the passes did, and how it compares with PyTorch on this machine.

    Before that, every piece was compared on whole values of one image, more than the bundle keeps.
    `twin_difference` is the largest difference of the float twin's outputs to PyTorch, `int8_difference` that of the
    int8 twin's to the float twin's, and `twin_spread` the largest spread of an output of the float twin. `doubts` is
    what a person should look at though all agrees, `layers` how each binary layer was understood.
    """

    bundle: Bundle
    log: RewriteLog
    verification: VerifyResult
    twin_difference: float
    int8_difference: float
    twin_spread: float
    doubts: Doubts
    layers: tuple[Understood, ...]


def export_checkpoint(
    checkpoint: Checkpoint,
    path: Path,
    images: Images,
    *,
    float_layers: FloatLayers = "float",
    latency_table: Path | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Export the network of a checkpoint and its float twin to a bundle at `path`; see `export_module`.

    The float twin has the checkpoint's latent weights; it and the int8 twin that is made of it are there to be
    measured, not to be right.

    Raises:
        ExportError: the exported model does not agree with PyTorch; nothing is written.
        BundleError: `path` cannot be written.
    """
    if not isinstance(checkpoint, Checkpoint):
        raise ExportError(
            f"checkpoint: {type(checkpoint).__name__}, wanted a Checkpoint; read one from a file with "
            "bnas_deploy.search.training.checkpoint.load_checkpoint"
        )
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
    return _export(network, twin, path, images, description, float_layers, latency_table, progress, copied=False)


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
    images: Images | Inputs | None = None,
    description: Description | None = None,
    *,
    float_layers: FloatLayers = "float",
    latency_table: str | Path | None = None,
    progress: Progress = silent,
) -> ExportResult:
    """Export a module with binary layers, the package's or others that compute the same, and its twins to a bundle.

    Args:
        module: maps images (N, C, H, W) float32 to logits (N, classes), or other tensors to others: what it answers
            may be lists, tuples, dicts and dataclasses of them.
        twin: the same with float weights and no sign, to compare latencies with. None derives it from `module`: float
            convolutions in the place of binary ones, and batch normalisations that are calibrated on `images`.
        path: folder to write; needed.
        images: what to verify with, needed; the bundle keeps them. `Inputs` where it takes more than images.
        description: for the manifest and the model card; needed. Without labels it is of a network that is no
            classifier.
        float_layers: "int8" quantises what stays float in `module`, after the export was verified without it, and
            puts down in the manifest what that changed on `images`. "auto" quantises what is faster so.
        latency_table: of "auto": the table of `bnas-deploy bench-ops --float-layers` that says what is faster. None
            measures that here, with one thread.
        progress: is told what is being done, in a few words, each time that changes.

    A `LooksBinaryWarning` names float layers that look binary and were not recognised; `register` mends that.

    Raises:
        ExportError: `module` has no binary layer, cannot be captured, does not fit the inputs or the labels, or its
            export does not agree with PyTorch.
        BundleError: `path` cannot be written.
        TypeError: something that is needed is missing.
    """
    given = {"path": path, "images": images, "description": description}
    if path is None or images is None or description is None:
        raise TypeError(f"export_module needs {', '.join(name for name, value in given.items() if value is None)}")
    result = _export(module, twin, path, images, description, float_layers, latency_table, progress)
    if left_float := result.doubts.sentences().get(LOOKS_BINARY):
        warnings.warn(left_float, LooksBinaryWarning, stacklevel=2)
    return result


@_without_fast_paths()
@old_objects_left_alone()
def _export(
    module: nn.Module,
    twin: nn.Module | None,
    path: str | Path,
    images: Images | Inputs,
    description: Description,
    float_layers: FloatLayers,
    latency_table: str | Path | None,
    progress: Progress,
    *,
    copied: bool = True,
) -> ExportResult:
    """Export without a word, for callers who show the result; those who made the modules need no copy of them."""
    check_arguments(module, twin, path, images, description, float_layers, latency_table, progress)
    table = None if latency_table is None else Path(latency_table)
    if table is not None:  # minutes before it is needed
        check_network(read_float_layers(table), table, network_name(description.network))
    path, progress = Path(path), _with_memory_back(progress)
    converted = other_floats(module)
    module = prepared(module, type(module).__name__, copied=copied)
    twin = None if twin is None else prepared(twin, TWIN, copied=copied)
    progress(f"running it on {f'{len(images.pixels)} images' if isinstance(images, Images) else 'its examples'}")
    network = asked(module, images, description, type(module).__name__)
    feed = network.feed
    answers = answers_to(module, feed, description)
    if reason := own_doing(module, feed[:1]):  # a counter in Python can agree with its program by chance
        raise ExportError(f"{type(module).__name__}: {reason}")
    if twin is not None:
        check_same_outputs(network, asked(twin, images, description, TWIN))
        check_twin(twin)
    examples = example_arrays(network, answers, images.labels, description)
    with new_bundle(path) as folder, temporary_folder() as scratch:
        write_arrays(folder / files.IMAGES, examples)
        translator = Translator(module, feed)
        keep = float_layers != "float"
        written = _write_networks(translator, module, twin, network, folder, scratch, progress, keep_values=keep)
        said = converted, labels_twice(description.labels), sampled() if translator.recognised else None
        written.log.notes += [note for note in said if note]
        doubts = replace(written.doubts, weights=description.doubt)
        progress("quantising its int8 twin")
        of_twin, some = written.of_twin, feed[:TWIN_IMAGES]
        int8_difference = write_int8_twin(written.twin_model, network.outputs, folder, some, of_twin.arrays)
        manifest = _manifest(written.graph, description, written.verification, folder)
        progress("verifying the bundle")
        result = _verified(folder, manifest)
        if float_layers != "float":
            progress("quantising its float layers")
            choose: Choose = all_of_them
            if float_layers == "auto":
                choose = partial(choose_layers, Bundle(folder, manifest), feed, table, progress)
            given = Bundle(folder, manifest), feed, examples, written.graph, written.values
            manifest = quantize_float_layers(*given, choose)
            progress("verifying the bundle with int8 layers")
            result = _verified(folder, manifest)
        write_card(folder, bundle_card(Bundle(folder, manifest), description, result, doubts))
    layers = tuple(translator.layers)
    return ExportResult(
        read_bundle(path), written.log, result, of_twin.difference, int8_difference, of_twin.spread, doubts, layers
    )


class _Written(NamedTuple):
    """What was learnt while the model and the float twin were written, and the twin's model for who quantises it."""

    graph: ir.Model
    values: Mapping[str, Tensor]
    log: RewriteLog
    verification: Verification
    doubts: Doubts
    twin_model: FloatFile
    of_twin: TwinAnswers


def _write_networks(
    translator: Translator,
    module: nn.Module,
    twin: nn.Module | None,
    network: Asked,
    folder: Path,
    scratch: Path,
    progress: Progress,
    *,
    keep_values: bool,
) -> _Written:
    """Write the model and its float twin, each compared with PyTorch, and keep PyTorch's values if they are needed.

    The captured graphs and their program hold a float for every sign, and are let go of as soon as may be.
    """
    progress("capturing its graph")
    feed = network.feed
    captured = capture(translator.module, feed, outputs=network.outputs, translate=translator)
    _check_layers(module, translator)
    before, graph = captured.copy(), captured.model
    values, log, verification, doubts = _write_model(captured, translator, folder, feed, progress)
    values = values if keep_values else {}
    progress("making its float twin")
    made = float_twin(before, translator, twin, feed)
    del captured, before
    give_back()
    twin_model, twin_network = write_twin_files(made.model, folder, scratch), made.network
    del made
    give_back()
    of_twin = compare_float_twin(twin_network, network.outputs, folder, feed[:TWIN_IMAGES])
    return _Written(graph, values, log, verification, doubts, twin_model, of_twin)


def _verified(folder: Path, manifest: Manifest) -> VerifyResult:
    """Write the manifest, which completes the bundle, and verify that."""
    (folder / files.MANIFEST).write_text(manifest.to_json(), encoding="utf-8")
    result = verify_bundle(Bundle(folder, manifest))
    refuse(result.failures)
    return result


def _with_memory_back(progress: Progress) -> Progress:
    """Return a `progress` that first hands back what the step before has freed: gigabytes of a large network."""

    def step(doing: str) -> None:
        give_back()
        progress(doing)

    return step


def _write_model(
    captured: CapturedModel, translator: Translator, folder: Path, feed: Feed, progress: Progress
) -> tuple[Mapping[str, Tensor], RewriteLog, Verification, Doubts]:
    """Rewrite and write the captured model and the vectors of its pieces; compare them on whole values.

    Returns PyTorch's values for one example, and what is to be said of them and of the model.
    """
    progress("comparing its graph with PyTorch")
    module = translator.module
    values = captured.values_of(feed[:1], zero_by_chance(captured.model, translator.recognised))
    # Where layers were recognised their results are rounded otherwise, and the translator has compared the rest.
    if not translator.recognised:
        refuse_another_program(captured, values, module, feed)
    # Before the rewriting, which moves signs and scales.
    doubts = find_doubts(captured, values, module, feed, translator.left)
    progress("rewriting its graph")
    log = run(PIPELINE, captured.model)
    if found := check_activations(captured, feed, translator.recognised):
        log.notes.append(str(found))
    path = folder / files.MODEL
    onnx.save(finish(captured.model), path)
    progress("comparing its pieces with PyTorch")
    vectors, checks = write_vectors(captured.model, values, folder)
    generator, slack = torch.Generator().manual_seed(0), vectors.slack()
    tolerances = output_tolerances(
        lambda feed: answers_to_feed(module, feed), feed, lambda noisy: captured.with_noise(noisy, slack, generator)
    )
    by_name = dict(zip(captured.outputs, tolerances, strict=True))
    return values, log, Verification(by_name, checks, vectors.ties()), doubts


def _manifest(model: ir.Model, description: Description, verification: Verification, folder: Path) -> Manifest:
    return Manifest(
        bnas_deploy=bnas_deploy.__version__,
        network=description.network,
        opset={"onnx": operators.ONNX_OPSET, operators.DOMAIN: operators.VERSION},
        inputs=tuple(map(_spec, model.graph.inputs)),
        outputs=tuple(map(_spec, model.graph.outputs)),
        labels=description.labels,
        preprocessing=description.preprocessing,
        layers=tuple(layer_costs(model)),
        verification=verification,
        metrics=description.metrics,
        files=describe_files(folder),
    )


def _spec(value: ir.Value) -> TensorSpec:
    assert value.shape is not None
    assert value.type is not None
    sizes = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(str(value.name), value.type.dtype.numpy().name, sizes)


def _check_layers(module: nn.Module, translator: Translator) -> None:
    if not translator.layers and not any(isinstance(layer, BinaryConv2d) for layer in translator.module.modules()):
        raise ExportError(no_binary_layer(module, translator.left))
