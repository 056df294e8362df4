"""Check a bundle on this machine, from its test vectors alone: numpy and onnxruntime."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.runtime.onnx_file.reader import has_k_map, read_nodes
from bnas_deploy.runtime.pieces import PiecesResult, compare_pieces
from bnas_deploy.runtime.session import Model, create_session, session_options

DISPUTED = 4
"""How many times as much as rounding explains the best class has to lead by, so that another answer is a fault."""


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_bundle` found.

    `pieces` are None in bundles of formats 1 and 2, which have no vectors of them. `identical` tells whether the
    library and plain onnxruntime (function bodies) answer alike, piece by piece and in the outputs: to the bit, but
    where K enters, whose sum has no defined order, within the tolerance.

    `difference` is the largest of an output to what `reference` gave, `tolerance` what rounding explains of it, and
    `spread` the range of the outputs: where the tolerance is of its size, the comparison says nothing. `faults` are
    sentences on outputs that are wrong all the same. `agreement` of `images` images have the reference's most likely
    class. `correct` of the images have the right class, None where labels are unknown. Where float layers are in 8
    bits, `reference` is the model as it answered when it was exported, and stands for PyTorch.
    """

    pieces: PiecesResult | None
    identical: bool
    difference: float
    tolerance: float
    spread: float
    faults: tuple[str, ...]
    images: int
    agreement: int
    correct: int | None
    reference: str = "PyTorch"

    @property
    def failures(self) -> list[str]:
        """Return a sentence for each thing that does not hold."""
        failures = [] if self.pieces is None else self.pieces.failures
        if not self.identical:
            failures.append("the library and plain onnxruntime answer differently")
        return [*failures, *self.faults]


def verify_bundle(bundle: Bundle) -> VerifyResult:
    """Run the test vectors of `bundle` with the library and without it.

    Raises:
        BundleError: the model or the test vectors cannot be read, or do not belong together.
    """
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
    pieces = verify_pieces(bundle)
    tolerance = bundle.manifest.verification.output_tolerance
    may_differ = tolerance if any(has_k_map(node.op_type) for node in read_nodes(model)) else 0.0
    agrees = answers[0].argmax(axis=1) == logits.argmax(axis=1)
    labels = vectors.get("labels")
    if labels is not None and labels.shape != (len(images),):
        raise BundleError(
            f"{bundle.file(files.IMAGES)}: labels of shape {labels.shape} for {len(images)} images; "
            "export the model again"
        )
    alike = _largest_difference(*answers) <= may_differ or np.array_equal(answers[0], answers[1], equal_nan=True)
    return VerifyResult(
        pieces=pieces,
        identical=alike and (pieces is None or pieces.alike),
        difference=_largest_difference(answers[0], logits),
        tolerance=tolerance,
        spread=float(logits.max() - logits.min()),
        faults=tuple(output_faults(bundle, answers[0], logits)),
        images=len(images),
        agreement=int(agrees.sum()),
        correct=None if labels is None else int((answers[0].argmax(axis=1) == labels).sum()),
        reference=bundle.manifest.reference,
    )


def verify_pieces(bundle: Bundle) -> PiecesResult | None:
    """Compare every piece of the model with what PyTorch computed; None in bundles that have no vectors of them.

    Raises:
        BundleError: as for `verify_bundle`.
    """
    checks, path = bundle.manifest.verification.pieces, bundle.file(files.PIECES)
    return compare_pieces(bundle.file(files.MODEL), checks, _arrays(path), path) if checks else None


def output_faults(bundle: Bundle, answers: NDArray[np.float32], logits: NDArray[np.float32]) -> list[str]:
    """Say what is wrong with outputs (N, classes) that should be `logits`.

    If pieces are compared, the size of the difference is no fault: rounding before a sign can change the outputs by any
    amount. NaN is a fault, and so is another class where the best leads by far more than rounding moves the outputs.
    """
    reference, tolerance = bundle.manifest.reference, bundle.manifest.verification.output_tolerance
    if answers.shape != logits.shape:
        return [f"outputs have the shape {answers.shape}, {reference} gave {logits.shape}"]
    difference = _largest_difference(answers, logits)
    if not bundle.manifest.verification.pieces and not difference <= tolerance:
        return [f"outputs differ from {reference} by {difference:.3g}, rounding explains {tolerance:.3g}"]
    if not (np.isfinite(answers) | ~np.isfinite(logits)).all():
        return [f"outputs are no numbers where {reference} gave some"]
    others = (answers.argmax(axis=1) != logits.argmax(axis=1)) & (_margin(logits) > DISPUTED * tolerance)
    if others.any():
        return [f"{others.sum()} of {len(logits)} images get another class than in {reference}"]
    return []


def _largest_difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; infinity where the shapes differ, NaN where there is a NaN."""
    return float(np.abs(left - right).max()) if left.shape == right.shape else float("inf")


def _margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each image's best class beats its second: (N, classes) to (N)."""
    best = np.sort(logits, axis=1)
    return best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf, np.float32)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        return read_arrays(path)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; export the model again") from None
    except ValueError as error:
        raise BundleError(f"{path}: cannot be read: {error}; export the model again") from None


def _required(vectors: dict[str, NDArray[Any]], name: str, where: Path) -> NDArray[np.float32]:
    if name not in vectors:
        raise BundleError(f"{where}: no test vector {name!r}; export the model again")
    vector = vectors[name]
    if vector.dtype != np.float32 or not vector.size:
        raise BundleError(
            f"{where}: {name} is {vector.dtype} {vector.shape}, wanted float32 and something in it; "
            "export the model again"
        )
    return vector
