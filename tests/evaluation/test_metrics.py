"""Figures against values that were worked out by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest

from bnas_deploy.evaluation.metrics import (
    BINS,
    Answers,
    Bin,
    answers_to,
    calibration_bins,
    calibration_error,
    class_figures,
    confusion_matrix,
    figures_of,
    joined,
    log_probabilities,
)

NAMES = ("cat", "dog", "owl")
LOGITS = np.log(np.array([[6, 3, 1], [2, 7, 1], [1, 5, 4], [1, 8, 1], [3, 3, 3]], np.float32) / 10)
LABELS = np.array([0, 1, 2, 0, 1])
ROUNDING = 1e-6
"""Logits are float32, of magnitude below 4: their rounding is below 2.4e-7, and moves a probability by less."""


def answers(confidences: list[float], right: list[bool]) -> Answers:
    count = len(right)
    ranks = np.where(right, 0, 1)
    return Answers(np.zeros(count, int), ranks, ranks, np.array(confidences), np.zeros(count))


def test_answers_by_hand() -> None:
    found = answers_to(LOGITS, LABELS)
    assert found.predicted.tolist() == [0, 1, 1, 1, 0]
    # In the last row all are equal: the first class is predicted, so that one comes before the right one.
    assert found.rank.tolist() == [0, 0, 1, 1, 1]
    assert found.right.tolist() == [True, True, False, False, False]
    assert found.confidence == pytest.approx([0.6, 0.7, 0.5, 0.8, 1 / 3], abs=ROUNDING)
    assert found.loss == pytest.approx([-math.log(p) for p in (0.6, 0.7, 0.4, 0.1, 1 / 3)], abs=10 * ROUNDING)


def test_confusion_and_classes_by_hand() -> None:
    confusion = confusion_matrix(answers_to(LOGITS, LABELS), 3)
    assert confusion.tolist() == [[1, 1, 0], [1, 1, 0], [0, 1, 0]]
    cat, dog, owl = class_figures(confusion, NAMES)
    assert (cat.images, cat.predicted, cat.right, cat.precision, cat.recall) == (2, 2, 1, 1 / 2, 1 / 2)
    assert (dog.images, dog.predicted, dog.right, dog.precision, dog.recall) == (2, 3, 1, 1 / 3, 1 / 2)
    assert (owl.images, owl.predicted, owl.right, owl.precision, owl.recall) == (1, 0, 0, None, 0)


def test_a_class_without_images_has_no_recall() -> None:
    confusion = confusion_matrix(answers_to(LOGITS, np.zeros(5, int)), 3)
    assert [each.recall for each in class_figures(confusion, NAMES)] == [2 / 5, None, None]


def test_calibration_by_hand() -> None:
    # Two images in (14/15, 1], one right; two in (7/15, 8/15], both right: (2 |0.5 - 0.97| + 2 |1 - 0.51|) / 4.
    found = answers([0.96, 0.98, 0.5, 0.52], [True, False, True, True])
    bins = calibration_bins(found)
    assert replace(bins[14], confidence=0) == Bin(14 / 15, 1.0, 2, 0.5, 0)
    assert replace(bins[7], confidence=0) == Bin(7 / 15, 8 / 15, 2, 1.0, 0)
    assert [bins[14].confidence, bins[7].confidence] == pytest.approx([0.97, 0.51], abs=1e-12)
    assert sum(each.images for each in bins) == 4
    assert calibration_error(bins) == pytest.approx((2 * 0.47 + 2 * 0.49) / 4, abs=1e-12)


def test_certainty_without_error_is_calibrated() -> None:
    assert calibration_error(calibration_bins(answers([1.0, 1.0], [True, True]))) == 0
    assert calibration_error(calibration_bins(answers([1.0, 1.0], [False, False]))) == 1


@pytest.mark.parametrize("place", range(BINS))
def test_a_bin_has_its_upper_edge_and_not_its_lower(place: int) -> None:
    high = (place + 1) / BINS
    for confidence, wanted in ((high, place), (np.nextafter(high, 0), place), (np.nextafter(high, 2), place + 1)):
        counts = [each.images for each in calibration_bins(answers([float(confidence)], [True]))]
        assert counts.index(1) == min(wanted, BINS - 1)  # rounding may lift a probability above 1


def test_top_5_counts_where_there_are_more_than_five_classes() -> None:
    logits = np.arange(12, dtype=np.float32).reshape(2, 6)  # class 5 comes first, class 0 last
    labels = np.array([1, 0])
    assert figures_of(answers_to(logits, labels), tuple("abcdef")).top5 == 1
    assert figures_of(answers_to(logits[:, :5], labels), tuple("abcde")).top5 is None


def test_figures_are_those_of_their_parts() -> None:
    whole = figures_of(answers_to(LOGITS, LABELS), NAMES)
    parts = figures_of(joined([answers_to(LOGITS[:2], LABELS[:2]), answers_to(LOGITS[2:], LABELS[2:])]), NAMES)
    assert (whole.images, whole.right, whole.top1_share) == (5, 2, 0.4)
    assert (parts.right, parts.loss, parts.calibration_error) == (whole.right, whole.loss, whole.calibration_error)
    assert parts.confusion.tolist() == whole.confusion.tolist()
    assert whole.loss == pytest.approx(-math.log(0.6 * 0.7 * 0.4 * 0.1 / 3) / 5, abs=10 * ROUNDING)


def test_large_logits_do_not_overflow() -> None:
    logs = log_probabilities(np.array([[3e38, -3e38, 0]], np.float32))
    assert np.exp(logs).tolist() == [[1, 0, 0]]
