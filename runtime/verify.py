"""Check a bundle on this machine, from its test vectors alone: numpy and onnxruntime."""

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy import bundle as files
from bnas_deploy.bundle import Bundle
from bnas_deploy.errors import BundleError
from bnas_deploy.runtime.graph import read_nodes, uses_k
from bnas_deploy.runtime.pieces import PiecesResult, compare_pieces
from bnas_deploy.runtime.session import Model, create_session, session_options


DISPUTED = 4
"""How many times as much as rounding explains the best class has to lead by, so that another answer is a fault."""


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_bundle` found.

    `pieces` are None in bundles of formats 1 and 2, which have no vectors of them. `identical` tells whether the library
    and plain onnxruntime (function bodies) answer alike, piece by piece and in the outputs: to the bit, but where K
    enters, whose sum has no defined order, within the tolerance.

    `difference` is the largest of an output to what `reference` gave, `tolerance` what rounding explains of it, and
    `spread` the range of the outputs: where the tolerance is of its size, the comparison says nothing. `finite` tells
    whether outputs are numbers where they should be. `agreement` of `images` images have the reference's most likely
    class; `disputed` of the others are decided by far more than the tolerance. `correct` of the images have the right
    class, None where labels are unknown. Where float layers are in 8 bits, `reference` is the model as it answered when
    it was exported, and stands for PyTorch.
    """

    pieces: PiecesResult | None
    identical: bool
    difference: float
    tolerance: float
    spread: float
    finite: bool
    images: int
    agreement: int
    disputed: int
    correct: int | None
    reference: str = "PyTorch"

    @property
    def failures(self) -> list[str]:
        """Return a sentence for each thing that does not hold.

        How far the outputs differ is none where the pieces were compared: that is what ties make of them.
        """
        failures = [] if self.pieces is None else self.pieces.failures
        if not self.identical:
            failures.append("the library and plain onnxruntime answer differently")
        if not self.finite:
            failures.append(f"outputs are no numbers where {self.reference} gave some")
        elif self.pieces is None and not self.difference <= self.tolerance:
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
    pieces = None
    if bundle.manifest.verification.pieces:
        arrays = _arrays(bundle.file(files.PIECES))
        pieces = compare_pieces(model, bundle.manifest.verification.pieces, arrays, bundle.file(files.PIECES))
    tolerance = bundle.manifest.verification.output_tolerance
    may_differ = tolerance if any(uses_k(node.op_type) for node in read_nodes(model)) else 0.0
    agrees = answers[0].argmax(axis=1) == logits.argmax(axis=1)
    labels = vectors.get("labels")
    if labels is not None and labels.shape != (len(images),):
        raise BundleError(
            f"{bundle.file(files.IMAGES)}: labels of shape {labels.shape} for {len(images)} images; "
            "export the model again"
        )
    alike = _largest_difference(*answers) <= may_differ or bool(np.array_equal(*answers, equal_nan=True))
    return VerifyResult(
        pieces=pieces,
        identical=alike and (pieces is None or pieces.alike),
        difference=_largest_difference(answers[0], logits),
        tolerance=tolerance,
        spread=float(logits.max() - logits.min()),
        finite=bool((np.isfinite(answers[0]) | ~np.isfinite(logits)).all()),
        images=len(images),
        agreement=int(agrees.sum()),
        disputed=int((~agrees & (_margin(logits) > DISPUTED * tolerance)).sum()),
        correct=None if labels is None else int((answers[0].argmax(axis=1) == labels).sum()),
        reference=bundle.manifest.reference,
    )


def _largest_difference(left: NDArray[np.float32], right: NDArray[np.float32]) -> float:
    """Return the largest absolute difference; infinity where the shapes differ, NaN where there is a NaN."""
    return float(np.abs(left - right).max()) if left.shape == right.shape else float("inf")


def _margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each image's best class beats its second: (N, classes) to (N)."""
    best = np.sort(logits, axis=1)
    return best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf, np.float32)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        # Opened here, because np.load leaves a file open that is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return dict(stored)
    except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
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
