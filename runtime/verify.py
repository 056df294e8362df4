"""Check a bundle on this machine, from its test vectors alone: numpy and onnxruntime."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core import bundle as files
from bnas_deploy.core.bundle import Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.runtime.examples import read_examples, read_vectors
from bnas_deploy.runtime.onnx_file.reader import has_k_map, read_nodes
from bnas_deploy.runtime.pieces import PiecesResult, compare_pieces
from bnas_deploy.runtime.session import Model, create_session, session_options

Outputs = Mapping[str, NDArray[Any]]
"""By name."""

DISPUTED = 4
"""How many times as much as rounding explains the best class has to lead by, so that another answer is a fault."""


@dataclass(frozen=True)
class OutputResult:
    """How far an output is from what the reference gave.

    `difference` is the largest of its values, `tolerance` what rounding explains of it, and `spread` the range of the
    output, of one number its size: where the tolerance is of its size, the comparison says nothing.
    """

    name: str
    difference: float
    tolerance: float
    spread: float


@dataclass(frozen=True)
class VerifyResult:
    """What `verify_bundle` found.

    `pieces` are None in bundles of formats 1 and 2, which have no vectors of them. `identical` tells whether the
    library and plain onnxruntime (function bodies) answer alike, piece by piece and in the outputs: to the bit, but
    where K enters, whose sum has no defined order, within the tolerance.

    `outputs` say how far each is from what `reference` gave, and `faults` are sentences on outputs that are wrong.
    `agreement` of `images` images have the reference's most likely class, None if the network is no classifier.
    `correct` of the images have the right class, None where labels are unknown. Where float layers are in 8 bits,
    `reference` is the model as it answered when it was exported, and stands for PyTorch; `correct_before` of the images
    had the right class with float layers.
    """

    pieces: PiecesResult | None
    identical: bool
    outputs: tuple[OutputResult, ...]
    faults: tuple[str, ...]
    images: int
    agreement: int | None
    correct: int | None
    reference: str = "PyTorch"
    correct_before: int | None = None

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
    examples = read_examples(bundle)
    model, manifest = bundle.file(files.MODEL), bundle.manifest
    native, plain = (
        Model(bundle, create_session(model, session_options(library=library, once=True))).run(examples.inputs)
        for library in (True, False)
    )
    for name, wanted in examples.outputs.items():
        if wanted.shape != native[name].shape:
            raise BundleError(
                f"{bundle.file(files.IMAGES)}: {name} of shape {wanted.shape}, the model answers {native[name].shape}; "
                "export the model again"
            )
    pieces = verify_pieces(bundle)
    with_k = any(has_k_map(node.op_type) for node in read_nodes(model))
    tolerances = manifest.verification.output_tolerances
    alike = all(is_alike(native[name], plain[name], tolerances[name] if with_k else 0.0) for name in native)
    classes = None if manifest.labels is None else (_classes(native), _classes(examples.outputs))
    return VerifyResult(
        pieces=pieces,
        identical=alike and (pieces is None or pieces.alike),
        outputs=tuple(_output(name, native[name], examples.outputs[name], tolerances[name]) for name in native),
        faults=tuple(output_faults(bundle, native, examples.outputs)),
        images=examples.count,
        agreement=None if classes is None else int((classes[0] == classes[1]).sum()),
        correct=None if classes is None else _correct(native, examples.labels),
        reference=manifest.reference,
        correct_before=None if examples.before is None else _correct(examples.before, examples.labels),
    )


def _classes(outputs: Outputs) -> NDArray[np.int64]:
    """Return the most likely class of each image of a classifier, whose only output are logits (N, classes)."""
    (logits,) = outputs.values()
    classes: NDArray[np.int64] = logits.argmax(axis=1)
    return classes


def _correct(outputs: Outputs, labels: NDArray[np.int64] | None) -> int | None:
    return None if labels is None else int((_classes(outputs) == labels).sum())


def _output(name: str, answer: NDArray[Any], wanted: NDArray[Any], tolerance: float) -> OutputResult:
    return OutputResult(name, largest_difference(answer, wanted), tolerance, spread_of(wanted))


def verify_pieces(bundle: Bundle) -> PiecesResult | None:
    """Compare every piece of the model with what PyTorch computed; None in bundles that have no vectors of them.

    Raises:
        BundleError: as for `verify_bundle`.
    """
    checks, path = bundle.manifest.verification.pieces, bundle.file(files.PIECES)
    return compare_pieces(bundle.file(files.MODEL), checks, read_vectors(path), path) if checks else None


def output_faults(bundle: Bundle, answers: Outputs, wanted: Outputs) -> list[str]:
    """Say what is wrong with outputs, by name, that should be `wanted`.

    If pieces are compared, the size of the difference is no fault: rounding before a sign can change the outputs by any
    amount. NaN is a fault. So is, of a classifier, another class where the best leads by far more than rounding moves
    the outputs.
    """
    return [fault for name in wanted for fault in _faults(bundle, name, answers[name], wanted[name])]


def _faults(bundle: Bundle, name: str, answer: NDArray[Any], wanted: NDArray[Any]) -> list[str]:
    manifest = bundle.manifest
    reference, tolerance = manifest.reference, manifest.verification.output_tolerances[name]
    what = "outputs" if len(manifest.outputs) == 1 else f"{name}: outputs"
    if answer.shape != wanted.shape:
        return [f"{what} have the shape {answer.shape}, {reference} gave {wanted.shape}"]
    difference = largest_difference(answer, wanted)
    if not manifest.verification.pieces and not difference <= tolerance:
        return [f"{what} differ from {reference} by {difference:.3g}, rounding explains {tolerance:.3g}"]
    if not (np.isfinite(answer) | ~np.isfinite(wanted)).all():
        return [f"{what} are no numbers where {reference} gave some"]
    if manifest.labels is None:
        return []
    others = (answer.argmax(axis=1) != wanted.argmax(axis=1)) & (_margin(wanted) > DISPUTED * tolerance)
    if others.any():
        return [f"{others.sum()} of {len(wanted)} images get another class than in {reference}"]
    return []


def is_alike(left: NDArray[Any], right: NDArray[Any], tolerance: float) -> bool:
    """Tell whether two answers are the same to the bit, but for different NaNs, or differ by no more than tolerated."""
    return np.array_equal(left, right, equal_nan=left.dtype.kind == "f") or largest_difference(left, right) <= tolerance


def spread_of(values: NDArray[Any]) -> float:
    """Return the range of values; of a single one its magnitude."""
    return float(
        np.abs(values).max() if values.size == 1 else np.subtract(values.max(), values.min(), dtype=np.float64)
    )


def largest_difference(left: NDArray[Any], right: NDArray[Any]) -> float:
    """Return the largest absolute difference; infinity where the shapes differ, NaN where there is a NaN."""
    if left.shape != right.shape:
        return float("inf")
    return float(np.abs(np.subtract(left, right, dtype=np.float64)).max())


def _margin(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return by how much each image's best class beats its second: (N, classes) to (N)."""
    best = np.sort(logits, axis=1)
    return best[:, -1] - best[:, -2] if logits.shape[1] > 1 else np.full(len(logits), np.inf, np.float32)
