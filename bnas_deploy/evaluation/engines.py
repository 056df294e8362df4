"""What can answer to images: a checkpoint in PyTorch, a bundle in onnxruntime with the operator library or without."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bnas_deploy.core.bundle import BEFORE_QUANTIZATION, IMAGES, MANIFEST, Bundle, Preprocessing
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.evaluation.classifiers import image_classifier
from bnas_deploy.runtime.examples import read_examples, read_vectors
from bnas_deploy.runtime.session import Model, open_bundle
from bnas_deploy.search.training.acceleration import tf32
from bnas_deploy.search.training.checkpoint import Checkpoint, load_checkpoint

_COMPARED = 16
"""Images of a bundle that a checkpoint has to answer, of 64 at most."""

LIBRARY, BODIES, PYTORCH = "operator library", "function bodies", "PyTorch"


@dataclass(frozen=True)
class Engine:
    """One way to run a network: `run` takes float32 (N, C, H, W) and gives logits, float32 (N, classes)."""

    name: str
    run: Callable[[torch.Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Subject:
    """A network and its engines; the others are compared with the first.

    `notes` are sentences on what may be wrong with the files.
    """

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    engines: tuple[Engine, ...]
    notes: tuple[str, ...] = ()


def open_subject(
    path: Path, *, checkpoint: Path | None = None, library_only: bool = False, device: torch.device
) -> Subject:
    """Open a checkpoint, or a bundle and perhaps the checkpoint that it was exported from.

    Args:
        path: the checkpoint or the bundle.
        checkpoint: beside a bundle, run this in PyTorch, too.
        library_only: leave the function bodies of a bundle out.
        device: PyTorch's.

    Raises:
        BnasError: a file is none of them, or the two are not of one network; or an option is for bundles only.
        RuntimeLibraryError: onnxruntime or the operator library cannot be used on this machine.
    """
    if os.path.isdir(path):
        return _open_bundle(path, checkpoint, device, library_only=library_only)
    if not os.path.exists(path):
        raise BnasError(f"{path}: no such file or folder; expected a checkpoint (.safetensors) or a bundle (folder)")
    if checkpoint is not None or library_only:
        option = "--checkpoint" if checkpoint is not None else "--library-only"
        raise BnasError(f"{path}: a file, and {option} is for bundles, which are folders; leave it out")
    loaded = load_checkpoint(path)
    return Subject(loaded.network.name, loaded.labels, loaded.preprocessing, (_pytorch(loaded, device),))


def _open_bundle(path: Path, checkpoint: Path | None, device: torch.device, *, library_only: bool) -> Subject:
    best = path / "best.safetensors"
    if not os.path.exists(path / MANIFEST) and os.path.isfile(best):
        raise CheckpointError(f"{path}: a folder of `bnas-deploy train`; give the checkpoint in it: {best}")
    models = {LIBRARY: open_bundle(path)}
    if not library_only:
        models[BODIES] = open_bundle(path, library=False)
    notes: tuple[str, ...] = ()
    engines = [_onnxruntime(name, model) for name, model in models.items()]
    manifest = models[LIBRARY].bundle.manifest
    labels, preprocessing = image_classifier(models[LIBRARY].bundle)
    if checkpoint is not None:
        loaded = load_checkpoint(checkpoint)
        if (loaded.labels, loaded.preprocessing) != (labels, preprocessing):
            raise CheckpointError(
                f"{checkpoint}: its classes, image size or normalisation are not those of {path}; "
                "give the checkpoint that the bundle was exported from"
            )
        engines.append(_pytorch(loaded, device))
        notes = _other_answers(models[LIBRARY].bundle, checkpoint, engines[-1])
    name = str(manifest.network.get("name", path.resolve().name))
    return Subject(name, labels, preprocessing, tuple(engines), notes)


def _other_answers(bundle: Bundle, checkpoint: Path, pytorch: Engine) -> tuple[str, ...]:
    """Return a note where a checkpoint does not answer the images of a bundle as PyTorch did at its export.

    The bundle has no digest of its checkpoint. Answers tell as much, and older bundles have them, too.
    """
    (given,), (answer,) = bundle.manifest.inputs, bundle.manifest.outputs
    examples, quantized = read_examples(bundle), BEFORE_QUANTIZATION.format(answer.name)
    wanted = read_vectors(bundle.file(IMAGES)).get(quantized, examples.outputs[answer.name])[:_COMPARED]
    found = pytorch.run(torch.from_numpy(examples.inputs[given.name][:_COMPARED]))
    largest, explained = np.abs(found - wanted).max(), bundle.manifest.verification.output_tolerances[answer.name]
    if largest <= explained:
        return ()
    return (
        f"{checkpoint} answers the images in {bundle.path} otherwise than PyTorch did at export, by {largest:.2g}, of "
        f"which rounding explains {explained:.2g}: the bundle was probably exported from another checkpoint.",
    )


def _onnxruntime(name: str, model: Model) -> Engine:
    def run(images: torch.Tensor) -> NDArray[np.float32]:
        return model.predict(images.numpy())

    return Engine(name, run)


def _pytorch(checkpoint: Checkpoint, device: torch.device) -> Engine:
    network = checkpoint.build().to(device)

    def run(images: torch.Tensor) -> NDArray[np.float32]:
        with torch.no_grad(), tf32(allowed=False):
            logits: NDArray[np.float32] = network(images.to(device)).cpu().numpy()
        return logits

    return Engine(PYTORCH, run)
