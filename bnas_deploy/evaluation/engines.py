"""What can answer to images: a checkpoint in PyTorch, a bundle in onnxruntime with the operator library or without."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bnas_deploy.core.bundle import MANIFEST, Preprocessing
from bnas_deploy.core.errors import BnasError, CheckpointError
from bnas_deploy.evaluation.classifiers import image_classifier
from bnas_deploy.runtime.session import Model, open_bundle
from bnas_deploy.search.training.acceleration import tf32
from bnas_deploy.search.training.checkpoint import Checkpoint, load_checkpoint

LIBRARY, BODIES, PYTORCH = "operator library", "function bodies", "PyTorch"


@dataclass(frozen=True)
class Engine:
    """One way to run a network: `run` takes float32 (N, C, H, W) and gives logits, float32 (N, classes)."""

    name: str
    run: Callable[[torch.Tensor], NDArray[np.float32]]


@dataclass(frozen=True)
class Subject:
    """A network and its engines; the others are compared with the first."""

    name: str
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    engines: tuple[Engine, ...]


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
    name = str(manifest.network.get("name", path.resolve().name))
    return Subject(name, labels, preprocessing, tuple(engines))


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
