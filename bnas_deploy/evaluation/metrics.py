"""From logits and labels to figures, in numpy."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
"""Of the expected calibration error."""

TOP = 5
"""Top-5 is counted where there are more classes than this."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a network said to N images, an entry of each array for an image.

    Attributes:
        labels: int64, the right class.
        predicted: int64, the class of the largest logit, the first of equal ones.
        rank: int64, how many classes come before the right one; 0 is a right answer.
        confidence: float64, the probability of the predicted class.
        loss: float64, the cross-entropy: minus the natural logarithm of the right class's probability.
    """

    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    rank: NDArray[np.int64]
    confidence: NDArray[np.float64]
    loss: NDArray[np.float64]

    @property
    def right(self) -> NDArray[np.bool_]:
        """Return which of the answers are right: bool (N)."""
        right: NDArray[np.bool_] = self.rank == 0
        return right


def log_probabilities(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the natural logarithms of the softmax over the last axis, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    logs: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return logs


def answers_to(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Answers:
    """Reduce finite logits (N, classes) to what the figures need of them; labels are (N)."""
    logs = log_probabilities(logits)
    images, classes = np.arange(len(labels)), np.arange(logits.shape[1])
    predicted = logits.argmax(axis=1)
    of_right = logits[images, labels][:, None]
    # The first of equal logits counts as the larger, here as in `predicted`.
    before = (logits > of_right) | ((logits == of_right) & (classes < labels[:, None]))
    return Answers(labels, predicted, before.sum(axis=1), np.exp(logs[images, predicted]), -logs[images, labels])


def joined(parts: Sequence[Answers]) -> Answers:
    """Return the answers of several batches as one."""
    fields = ("labels", "predicted", "rank", "confidence", "loss")
    return Answers(*(np.concatenate([getattr(part, name) for part in parts]) for name in fields))


def confusion_matrix(answers: Answers, classes: int) -> NDArray[np.int64]:
    """Count the images of each class (row) by the class that was predicted (column)."""
    places = answers.labels * classes + answers.predicted
    return np.bincount(places, minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class ClassFigures:
    """One class.

    `images` are of this class, `predicted` were taken for it, and `right` are in both. The shares are None where
    nothing was counted that they are a share of.
    """

    name: str
    images: int
    predicted: int
    right: int

    @property
    def precision(self) -> float | None:
        """Return the share of right answers among the images that were taken for this class."""
        return self.right / self.predicted if self.predicted else None

    @property
    def recall(self) -> float | None:
        """Return the share of right answers among the images of this class."""
        return self.right / self.images if self.images else None


def class_figures(confusion: NDArray[np.int64], names: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Return a row for each class of a confusion matrix (right class, predicted class)."""
    columns = (confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal())
    return tuple(ClassFigures(name, *map(int, counts)) for name, *counts in zip(names, *columns, strict=True))


@dataclass(frozen=True)
class Bin:
    """The images whose confidence is more than `low` and at most `high`.

    `accuracy` is their share of right answers and `confidence` the mean of theirs; both are 0 without images.
    """

    low: float
    high: float
    images: int
    accuracy: float
    confidence: float


def calibration_bins(answers: Answers) -> tuple[Bin, ...]:
    """Sort the images into `BINS` bins of equal width between 0 and 1 by their confidence."""
    highs = np.arange(1, BINS + 1) / BINS
    # A confidence is at least 1/classes, so none is below the first bin; rounding may lift one above 1.
    places = np.minimum(np.searchsorted(highs, answers.confidence, side="left"), BINS - 1)
    bins = []
    for i, high in enumerate(highs):
        inside = places == i
        count = int(inside.sum())
        accuracy = float(answers.right[inside].mean()) if count else 0.0
        confidence = float(answers.confidence[inside].mean()) if count else 0.0
        bins.append(Bin(i / BINS, float(high), count, accuracy, confidence))
    return tuple(bins)


def calibration_error(bins: Sequence[Bin]) -> float:
    """Return the expected calibration error: the mean over the images of |accuracy - confidence| of an image's bin.

    As in "On Calibration of Modern Neural Networks" (Guo et al., 2017), equation 3.
    """
    images = sum(each.images for each in bins)
    return sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / images


@dataclass(frozen=True, eq=False)
class Figures:
    """What `figures_of` counts.

    Attributes:
        images: how many there were.
        right: right answers.
        top5: images whose right class is among the five most likely; None where there are five classes or fewer.
        loss: mean cross-entropy.
        calibration_error: expected calibration error of `bins`.
        bins: by confidence.
        classes: a row for each.
        confusion: int64 (classes, classes), counts by right class and predicted class.
    """

    images: int
    right: int
    top5: int | None
    loss: float
    calibration_error: float
    bins: tuple[Bin, ...]
    classes: tuple[ClassFigures, ...]
    confusion: NDArray[np.int64]

    @property
    def top1_share(self) -> float:
        """Return the share of right answers."""
        return self.right / self.images

    @property
    def top5_share(self) -> float | None:
        """Return the share of images whose right class is among the five most likely."""
        return None if self.top5 is None else self.top5 / self.images


def figures_of(answers: Answers, names: Sequence[str]) -> Figures:
    """Return the figures of at least one answer; names[i] is that of class i."""
    confusion = confusion_matrix(answers, len(names))
    bins = calibration_bins(answers)
    return Figures(
        images=len(answers.labels),
        right=int(answers.right.sum()),
        top5=int((answers.rank < TOP).sum()) if len(names) > TOP else None,
        loss=float(answers.loss.mean()),
        calibration_error=calibration_error(bins),
        bins=bins,
        classes=class_figures(confusion, names),
        confusion=confusion,
    )
