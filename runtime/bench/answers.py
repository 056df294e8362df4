"""Whether a bundle and its twins answer as they should, before anything is timed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import IMAGES, INT8_TWIN, MODEL, Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.core.npz import read_arrays
from bnas_deploy.runtime.bench.engines import BASELINE, Engine
from bnas_deploy.runtime.bench.subject import RunSetting, Subject, refuse_other_shapes, threads_text
from bnas_deploy.runtime.onnx_file.reader import has_k_map, read_nodes
from bnas_deploy.runtime.session import Model, create_session, session_options
from bnas_deploy.runtime.verify import output_faults, verify_pieces


@dataclass(frozen=True)
class AnswerCheck:
    """What was compared before measuring: so many images, and the largest difference of a logit from PyTorch's.

    Or, where the bundle's float layers are in 8 bits, from what the exported model gave: `reference` tells.
    `every_bit` is whether the library had to agree with the function bodies bit for bit, or within the tolerance.
    """

    images: int
    every_bit: bool
    largest_difference: float
    tolerance: float
    reference: str = "PyTorch"


@dataclass(frozen=True)
class TwinCheck:
    """What an engine in 8 bits answers, against the float twin, on the images among the test vectors.

    `largest_difference` is that of a logit, `relative_difference` the root of the mean square of all differences,
    divided by that of the float twin's logits; `agreement` of `images` images have the float twin's most likely class.
    """

    engine: str
    images: int
    largest_difference: float
    relative_difference: float
    agreement: int

    @property
    def sensible(self) -> bool:
        """Tell whether the answer is nearer to the float twin's than zeros are; NaN is not."""
        return self.relative_difference < 1


def check_answers(bundle: Bundle, threads: Sequence[int]) -> AnswerCheck:
    """Compare what the library gives with what the function bodies give, and both with what PyTorch gave, by piece.

    With the function bodies it must agree in every bit; in a network that uses K, whose sum has no defined order,
    within the tolerance of the manifest, as with PyTorch.

    Raises:
        BundleError: an answer differs, or there is no test vector to tell by.
    """
    model = bundle.file(MODEL)
    images, logits = read_images(bundle)
    tolerance = bundle.manifest.verification.output_tolerance
    every_bit = not any(has_k_map(node.op_type) for node in read_nodes(model))
    plain = _predict(bundle, images, threads=threads[0], library=False)
    for count in threads:
        answers = _predict(bundle, images, threads=count, library=True)
        if not (_same_bits(answers, plain) if every_bit else _largest_difference(answers, plain) <= tolerance):
            raise BundleError(
                f"{model}: with {threads_text(count)} the operator library answers otherwise than onnxruntime without "
                f"it: logits differ by up to {_largest_difference(answers, plain):.3g}, and "
                f"{'no bit' if every_bit else f'{tolerance:.3g}'} may differ; {_not_measured(bundle)}"
            )
    pieces = verify_pieces(bundle)
    if faults := [*output_faults(bundle, plain, logits), *([] if pieces is None else pieces.failures)]:
        raise BundleError(f"{model}: {'; '.join(faults)}; {_not_measured(bundle)}")
    difference = _largest_difference(plain, logits)
    return AnswerCheck(len(images), every_bit, difference, tolerance, bundle.manifest.reference)


def check_twins(bundle: Bundle, engines: Sequence[Engine]) -> list[TwinCheck]:
    """Compare every engine that runs the int8 twin with the float twin in onnxruntime.

    Eight bits have no answer that is right to the bit, and the weights of a twin are no trained ones, so this is to be
    shown to people; what is not `sensible` should not be timed.

    Raises:
        BundleError: a file of the bundle is missing, damaged, or not the same network.
    """
    images = np.ascontiguousarray(read_images(bundle)[0], np.float32)
    compared = [engine for engine in engines if engine.name == BASELINE or engine.file == INT8_TWIN]
    with Subject.of(bundle, {len(images): images}) as subject:
        opened = [subject.open(engine, RunSetting(threads=1, batch=len(images))) for engine in compared]
    refuse_other_shapes(bundle, compared, opened)
    answers = {engine.name: model.output for engine, model in zip(compared, opened, strict=True)}
    wanted = answers.pop(BASELINE)
    return [_twin_check(name, answer, wanted) for name, answer in answers.items()]


def _twin_check(engine: str, answer: NDArray[np.float32], wanted: NDArray[np.float32]) -> TwinCheck:
    difference, size = (
        float(np.sqrt(np.mean(np.square(each, dtype=np.float64)))) for each in (answer - wanted, wanted)
    )
    return TwinCheck(
        engine,
        images=len(wanted),
        largest_difference=_largest_difference(answer, wanted),
        relative_difference=difference / size if size else math.inf,
        agreement=int((answer.argmax(axis=1) == wanted.argmax(axis=1)).sum()),
    )


def read_images(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the images (N, C, H, W) among the test vectors and the logits (N, classes) that PyTorch gave to them.

    Raises:
        BundleError: they are not there, or not arrays.
    """
    path = bundle.file(IMAGES)
    try:
        arrays = read_arrays(path)
        images, logits = arrays["images"], arrays["logits"]
        if not images.size:
            raise ValueError(f"images of shape {images.shape}")
    except (OSError, KeyError, ValueError) as error:
        raise BundleError(
            f"{path}: no `images` and `logits` to be read in it ({error}); export the model again"
        ) from None
    return images, logits


def _predict(bundle: Bundle, images: NDArray[np.float32], *, threads: int, library: bool) -> NDArray[np.float32]:
    session = create_session(bundle.file(MODEL), session_options(threads=threads, library=library))
    return Model(bundle, session).predict(images)


def _same_bits(a: NDArray[np.float32], b: NDArray[np.float32]) -> bool:
    return a.shape == b.shape and bool((a.view(np.uint32) == b.view(np.uint32)).all())


def _largest_difference(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.abs(a - b).max()) if a.shape == b.shape else math.inf


def _not_measured(bundle: Bundle) -> str:
    return f"nothing was measured, `bnas-deploy verify {bundle.path}` says where it begins"
