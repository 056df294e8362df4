"""Whether a bundle and its twins answer as they should, before anything is timed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.bundle import INT8_TWIN, MODEL, Bundle
from bnas_deploy.core.errors import BundleError
from bnas_deploy.runtime.bench.engines import BASELINE, Engine
from bnas_deploy.runtime.bench.subject import RunSetting, Subject, refuse_other_shapes, threads_text
from bnas_deploy.runtime.examples import Examples, feeds_of, read_examples
from bnas_deploy.runtime.onnx_file.reader import has_k_map, read_nodes
from bnas_deploy.runtime.session import Model, create_session, session_options
from bnas_deploy.runtime.verify import largest_difference, output_faults, verify_pieces


@dataclass(frozen=True)
class AnswerCheck:
    """What was compared before measuring: so many images, and the largest difference of an output from PyTorch's.

    Or, where the bundle's float layers are in 8 bits, from what the exported model gave: `reference` tells. Of several
    outputs it is the one that differs most, measured by what rounding explains: `output`, "logit" of a classifier.
    `every_bit` is whether the library had to agree with the function bodies bit for bit, or within the tolerance.
    """

    images: int
    every_bit: bool
    largest_difference: float
    tolerance: float
    reference: str = "PyTorch"
    output: str = "logit"


@dataclass(frozen=True)
class TwinCheck:
    """What an engine in 8 bits answers, against the float twin, on the images among the test vectors.

    `largest_difference` is that of a value, `relative_difference` the root of the mean square of all differences,
    divided by that of the float twin's values; of several outputs the largest. `agreement` of `images` images have the
    float twin's most likely class, None if the network is no classifier.
    """

    engine: str
    images: int
    largest_difference: float
    relative_difference: float
    agreement: int | None

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
    examples = read_examples(bundle)
    tolerances = bundle.manifest.verification.output_tolerances
    every_bit = not any(has_k_map(node.op_type) for node in read_nodes(model))
    plain = _run(bundle, examples, threads=threads[0], library=False)
    for count in threads:
        answers = _run(bundle, examples, threads=count, library=True)
        for name, answer in answers.items():
            difference = largest_difference(answer, plain[name])
            if _same_bits(answer, plain[name]) if every_bit else difference <= tolerances[name]:
                continue
            raise BundleError(
                f"{model}: with {threads_text(count)} the operator library answers otherwise than onnxruntime without "
                f"it: {_values_of(bundle, name)} differ by up to {difference:.3g}, and "
                f"{'no bit' if every_bit else f'{tolerances[name]:.3g}'} may differ; {_not_measured(bundle)}"
            )
    pieces = verify_pieces(bundle)
    if faults := [*output_faults(bundle, plain, examples.outputs), *([] if pieces is None else pieces.failures)]:
        raise BundleError(f"{model}: {'; '.join(faults)}; {_not_measured(bundle)}")
    differences = {name: largest_difference(plain[name], wanted) for name, wanted in examples.outputs.items()}
    worst = max(differences, key=lambda name: differences[name] / (tolerances[name] or SMALLEST))
    return AnswerCheck(
        examples.count,
        every_bit,
        differences[worst],
        tolerances[worst],
        bundle.manifest.reference,
        "logit" if bundle.manifest.labels is not None else f"value of {worst}",
    )


Arrays = Sequence[NDArray[Any]]

SMALLEST = 1e-30
"""Stands for a tolerance of 0, as whole numbers may have."""


def _values_of(bundle: Bundle, name: str) -> str:
    return "logits" if bundle.manifest.labels is not None else f"values of {name}"


def check_twins(bundle: Bundle, engines: Sequence[Engine]) -> list[TwinCheck]:
    """Compare every engine that runs the int8 twin with the float twin in onnxruntime.

    Eight bits have no answer that is right to the bit, and the weights of a twin are no trained ones, so this is to be
    shown to people; what is not `sensible` should not be timed.

    Raises:
        BundleError: a file of the bundle is missing, damaged, or not the same network.
    """
    examples = read_examples(bundle)
    compared = [engine for engine in engines if engine.name == BASELINE or engine.file == INT8_TWIN]
    with Subject.of(bundle, {examples.count: feeds_of(bundle, examples.inputs, examples.count)}) as subject:
        opened = [subject.open(engine, RunSetting(threads=1, batch=examples.count)) for engine in compared]
    refuse_other_shapes(bundle, compared, opened)
    answers = {engine.name: model.outputs for engine, model in zip(compared, opened, strict=True)}
    wanted = answers.pop(BASELINE)
    is_classifier = bundle.manifest.labels is not None
    return [
        TwinCheck(
            name,
            examples.count,
            max(map(largest_difference, answer, wanted)),
            max(map(_relative_difference, *_measurable(answer, wanted))),
            int((answer[0].argmax(axis=1) == wanted[0].argmax(axis=1)).sum()) if is_classifier else None,
        )
        for name, answer in answers.items()
    ]


def _measurable(answer: Arrays, wanted: Arrays) -> tuple[Arrays, Arrays]:
    """Return the outputs of floats; all if there are none. A class's number is not nearly another's."""
    floats = [place for place, array in enumerate(wanted) if array.dtype.kind == "f"] or range(len(wanted))
    return [answer[place] for place in floats], [wanted[place] for place in floats]


def _relative_difference(answer: NDArray[Any], wanted: NDArray[Any]) -> float:
    """Return the root of the mean square of the difference, divided by that of what is wanted; 0 where both are."""
    difference, size = (
        float(np.sqrt(np.mean(np.square(each, dtype=np.float64))))
        for each in (np.subtract(answer, wanted, dtype=np.float64), wanted)
    )
    if size:
        return difference / size
    return math.inf if difference else 0.0


def _run(bundle: Bundle, examples: Examples, *, threads: int, library: bool) -> dict[str, NDArray[Any]]:
    session = create_session(bundle.file(MODEL), session_options(threads=threads, library=library, once=True))
    return Model(bundle, session).run(examples.inputs)


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and a.tobytes() == b.tobytes()


def _not_measured(bundle: Bundle) -> str:
    return f"nothing was measured, `bnas-deploy verify {bundle.path}` says where it begins"
