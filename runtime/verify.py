"""Check a bundle on this machine, from its test vectors alone: numpy and onnxruntime."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bnas_deploy import bundle as files
from bnas_deploy.bundle import Bundle, LayerCheck
from bnas_deploy.errors import BundleError
from bnas_deploy.npz import read_arrays
from bnas_deploy.runtime.graph import read_nodes, uses_k
from bnas_deploy.runtime.session import Model, create_session, run_session, session_options


@dataclass(frozen=True)
class LayerResult:
    """One binary convolution against PyTorch: on `compared` outputs, the largest absolute difference."""

    check: LayerCheck
    compared: int
    difference: float

    @property
    def exact(self) -> bool:
        """Tell whether every output is the same to the bit."""
        return self.difference == 0

    @property
    def passed(self) -> bool:
        """Tell whether every output is what PyTorch answered, within the bound that was derived for the layer."""
        return self.difference <= self.check.tolerance

    @property
    def failure(self) -> str:
        """Say what is wrong with the layer."""
        allowed = f"{self.check.tolerance:.3g}"
        return f"layer {self.check.name} differs from PyTorch by {self.difference:.3g}, rounding explains {allowed}"


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_bundle` found.

    `identical` tells whether the library and plain onnxruntime (function bodies) answer alike, layer by layer and in
    the outputs: to the bit, but where K enters, whose sum has no defined order, within the tolerance. `agreement` of
    `images` images have PyTorch's most likely class; `disputed` of the others are decided by more than the tolerance.
    `correct` of the images have the right class, None where labels are unknown. Where float layers are in 8 bits,
    `reference` is the model as it answered when it was exported, and stands for PyTorch.
    """

    layers: tuple[LayerResult, ...]
    identical: bool
    difference: float
    tolerance: float
    images: int
    agreement: int
    disputed: int
    correct: int | None
    reference: str = "PyTorch"

    @property
    def failures(self) -> list[str]:
        """Return a sentence for each thing that does not hold."""
        failures = [layer.failure for layer in self.layers if not layer.passed]
        if not self.identical:
            failures.append("the library and plain onnxruntime answer differently")
        if not self.difference <= self.tolerance:
            failures.append(
                f"outputs differ from {self.reference} by {self.difference:.3g}, rounding explains {self.tolerance:.3g}"
            )
        if self.disputed:
            failures.append(f"{self.disputed} of {self.images} images get another class than in {self.reference}")
        return failures


def verify_bundle(bundle: Bundle) -> VerifyResult:
    """Run the test vectors of `bundle` with the library and without it.

    Raises:
        BundleError: the model or the test vectors cannot be read, or do not belong together.
    """
    layer_vectors = _arrays(bundle.file(files.LAYERS))
    _check_layer_vectors(bundle, layer_vectors)
    layers, layers_alike = verify_layers(
        bundle.file(files.LAYERS_MODEL), bundle.manifest.verification.layers, layer_vectors
    )
    vectors = _arrays(bundle.file(files.IMAGES))
    images, logits = (_required(vectors, name, bundle.file(files.IMAGES)) for name in ("images", "logits"))
    model = bundle.file(files.MODEL)
    answers = [
        Model(bundle, create_session(model, session_options(library=library))).predict(images)
        for library in (True, False)
    ]
    if logits.shape != answers[0].shape:
        raise BundleError(
            f"{bundle.file(files.IMAGES)}: logits of shape {logits.shape}, the model answers {answers[0].shape}; "
            "export the model again"
        )
    tolerance = bundle.manifest.verification.output_tolerance
    may_differ = tolerance if _with_k(model) else 0.0
    agrees = answers[0].argmax(axis=1) == logits.argmax(axis=1)
    labels = vectors.get("labels")
    if labels is not None and labels.shape != (len(images),):
        raise BundleError(
            f"{bundle.file(files.IMAGES)}: labels of shape {labels.shape} for {len(images)} images; "
            "export the model again"
        )
    return VerifyResult(
        layers=layers,
        identical=layers_alike and _largest_difference(*answers) <= may_differ,
        difference=_largest_difference(answers[0], logits),
        tolerance=tolerance,
        images=len(images),
        agreement=int(agrees.sum()),
        disputed=int((~agrees & (_margin(logits) > 2 * tolerance)).sum()),
        correct=None if labels is None else int((answers[0].argmax(axis=1) == labels).sum()),
        reference=bundle.manifest.reference,
    )


def verify_layers(
    model: Path, checks: Sequence[LayerCheck], vectors: dict[str, NDArray[np.float32]]
) -> tuple[tuple[LayerResult, ...], bool]:
    """Run each binary convolution on what PyTorch fed to it.

    Args:
        model: a file with an input `L.x` and an output `L.y` for each layer L, and an input for each tensor it adds.
        checks: the layers.
        vectors: `L.x` (1, C, H, W), `L.y` (1, O, rows, columns) and what is added, by name.

    Returns:
        The result of each layer, and whether the library and plain onnxruntime answer alike.
    """
    if not checks:
        return (), True
    names = [f"{check.name}.y" for check in checks]
    feeds = {name: _required(vectors, name, model) for name in vectors if name not in names}
    native, plain = (
        run_session(create_session(model, session_options(library=library)), model, names, feeds)
        for library in (True, False)
    )
    results, alike = [], True
    with_k = _with_k(model)
    for check, left, right in zip(checks, native, plain, strict=True):
        wanted = _required(vectors, f"{check.name}.y", model)
        difference = _largest_difference(left[:, :, : check.rows, : check.columns], wanted)
        results.append(LayerResult(check, wanted.size, difference))
        alike &= _largest_difference(left, right) <= (check.tolerance if check.name in with_k else 0.0)
    return tuple(results), alike


def _with_k(model: Path) -> set[str]:
    """Return the names of the binary convolutions of an ONNX file that use K."""
    return {node.name for node in read_nodes(model) if uses_k(node.op_type)}


def _largest_difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; infinity where the shapes differ, NaN where there is a NaN."""
    return float(np.abs(left - right).max()) if left.shape == right.shape else float("inf")


def _check_layer_vectors(bundle: Bundle, vectors: dict[str, NDArray[np.float32]]) -> None:
    """Refuse vectors of other layers, which onnxruntime would not run."""
    where = bundle.file(files.LAYERS)
    for layer in bundle.manifest.layers:
        if layer.is_binary:
            for part, channels in (("x", layer.input[0]), ("y", layer.output[0])):
                name = f"{layer.name}.{part}"
                got = _required(vectors, name, where).shape
                if len(got) != 4 or got[1] != channels:
                    raise BundleError(
                        f"{where}: {name} has the shape {got}, the layer has {channels} channels there; "
                        "export the model again"
                    )


def _margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each image's best class beats its second: (N, classes) to (N)."""
    best = np.sort(logits, axis=1)
    return best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf, np.float32)


def _arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    try:
        return read_arrays(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; export the model again") from None
    except ValueError as error:
        raise BundleError(f"{path}: cannot be read: {error}; export the model again") from None


def _required(vectors: dict[str, NDArray[np.float32]], name: str, where: Path) -> NDArray[np.float32]:
    if name not in vectors:
        raise BundleError(f"{where}: no test vector {name!r}; export the model again")
    vector = vectors[name]
    if vector.dtype != np.float32 or not vector.size:
        raise BundleError(
            f"{where}: {name} is {vector.dtype} {vector.shape}, wanted float32 and something in it; "
            "export the model again"
        )
    return vector
