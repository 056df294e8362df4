"""A network on all test images of a data set, by every engine that can run it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bnas_deploy.core.errors import BnasError, DataError
from bnas_deploy.evaluation.engines import Engine, Subject
from bnas_deploy.evaluation.metrics import Answers, Figures, answers_to, figures_of, joined
from bnas_deploy.search.data.matching import open_matching

OnStep = Callable[[int, int], object]
"""Is told how many images are done, and of how many."""


@dataclass(frozen=True)
class Difference:
    """How the answers of `engine` differ from those of `reference`.

    `images` are the numbers of those that get another class, from 0 in the order of the data
    set, of those that can be read. `largest` is the
    largest absolute difference of a logit, 0 where all are the same to the bit.
    """

    engine: str
    reference: str
    images: tuple[int, ...]
    largest: float


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; `figures` are by engine, and differences are to the first of them.

    `skipped` has the names of the images that were left out because they cannot be read, `notes` are the subject's.
    """

    network: str
    data: str
    labels: tuple[str, ...]
    figures: dict[str, Figures]
    differences: tuple[Difference, ...]
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass
class _Run:
    """What is kept of an engine's answers: not its logits, which would fill the memory."""

    engine: Engine
    parts: list[Answers] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    largest: float = 0.0

    def add(self, logits: NDArray[np.float32], reference: NDArray[np.float32], labels: NDArray[np.int64]) -> None:
        """Take a batch: logits (N, classes), those of the reference, labels (N)."""
        first = sum(len(part.labels) for part in self.parts)
        others = logits.argmax(axis=1) != reference.argmax(axis=1)
        self.images += (first + np.flatnonzero(others)).tolist()
        self.largest = max(self.largest, float(np.abs(logits - reference).max()))
        self.parts.append(answers_to(logits, labels))


def evaluate(
    subject: Subject,
    data: str,
    *,
    batch_size: int,
    limit: int | None = None,
    skip_bad: bool = False,
    on_step: OnStep = lambda done, images: None,
) -> Evaluation:
    """Run every engine of `subject` on the test images of `data`, what `--data` gives, or on the first `limit`.

    All engines get the same images, to the bit. With `skip_bad` those that cannot be read are left out.

    Raises:
        DataError: the data cannot be read, or are not of this network; or no image is left.
        BnasError: a logit is no number.
        BundleError: the model cannot be run.
    """
    opened = open_matching(
        data, labels=subject.labels, preprocessing=subject.preprocessing, limit=limit, skip_bad=skip_bad
    )
    runs = [_Run(engine) for engine in subject.engines]
    done = 0
    for images, labels in opened.test_batches(batch_size):
        if not len(labels):  # every image of the batch is bad
            continue
        batch = [run.engine.run(images) for run in runs]
        for run, logits in zip(runs, batch, strict=True):
            _check(logits, subject.name, run.engine.name, done)
            run.add(logits, batch[0], labels.numpy())
        done += len(labels)
        on_step(done, opened.test_size)
    if not done:
        raise DataError(f"--data {data}: no test image can be read; see that the folder is what it should be")
    return Evaluation(
        subject.name,
        opened.description.name,
        subject.labels,
        {run.engine.name: figures_of(joined(run.parts), subject.labels) for run in runs},
        _differences(runs),
        tuple(sorted(opened.skipped)),
        subject.notes,
    )


def _differences(runs: Sequence[_Run]) -> tuple[Difference, ...]:
    reference = runs[0].engine.name
    return tuple(Difference(run.engine.name, reference, tuple(run.images), run.largest) for run in runs[1:])


def _check(logits: NDArray[np.float32], network: str, engine: str, first: int) -> None:
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise BnasError(
            f"{network}: in {engine}, test image {first + bad[0]} gives logits that are no numbers; train it again"
        )
