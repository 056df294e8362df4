"""What `eval` found, as tables, JSON and CSV; the only place that rounds it."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from bnas_deploy.core.counts import counted
from bnas_deploy.evaluation.evaluate import Difference, Evaluation
from bnas_deploy.evaluation.metrics import BINS, ClassFigures, Figures
from bnas_deploy.report.table import Table

MOST_CLASSES = 30
"""Rows of a table that people read; of more classes it has the worst."""

FEW_IMAGES = 5
FEW_PAIRS = 5


def evaluation_tables(result: Evaluation) -> list[Table]:
    """Return a row for each engine, then a row for each class, as the first engine answered."""
    first = next(iter(result.figures))
    figures = result.figures[first]
    return [_engine_table(result), _class_table(figures.classes, first, several=len(result.figures) > 1)]


def _engine_table(result: Evaluation) -> Table:
    has_top5 = any(each.top5 is not None for each in result.figures.values())
    columns = ("", "right answers", "top-1", *(["top-5"] if has_top5 else []), "loss", "calibration\nerror")
    rows = tuple(
        (
            name,
            f"{each.right:,} of {each.images:,}",
            _percent(each.top1_share),
            *([_percent(each.top5_share)] if has_top5 else []),
            f"{each.loss:.4f}",
            f"{each.calibration_error:.4f}",
        )
        for name, each in result.figures.items()
    )
    return Table(
        f"{result.network} on {result.data}",
        columns,
        rows,
        note=f"Loss: mean cross-entropy. Calibration error: expected calibration error, in {BINS} equal-width bins of "
        "the top\nprobability: the mean over images of |share of right answers - mean top probability| of the image's "
        "bin.",
    )


def _class_table(classes: Sequence[ClassFigures], engine: str, *, several: bool) -> Table:
    shown = classes
    title = f"Classes, {engine}" if several else "Classes"
    if len(classes) > MOST_CLASSES:
        worst = sorted(classes, key=lambda each: (1.0 if each.recall is None else each.recall, each.name))
        shown = worst[:MOST_CLASSES]
        title += f": the {MOST_CLASSES} of {len(classes):,} with the lowest recall"
    rows = tuple(
        (each.name, f"{each.images:,}", f"{each.right:,}", _percent(each.precision), _percent(each.recall))
        for each in shown
    )
    return Table(title, ("", "images", "right", "precision", "recall"), rows)


def evaluation_result(result: Evaluation) -> str:
    """Say which classes are taken for which most often, and whether the engines agree."""
    figures = next(iter(result.figures.values()))
    lines = [_confused(figures, result.labels), *map(_difference, result.differences), *result.notes]
    if result.skipped:
        few = ", ".join(result.skipped[:FEW_IMAGES]) + (", ..." if len(result.skipped) > FEW_IMAGES else "")
        lines.append(f"Left out, since they cannot be read: {counted(len(result.skipped), 'image')} ({few}).")
    return "\n".join(lines)


def _confused(figures: Figures, labels: Sequence[str]) -> str:
    wrong = figures.confusion.copy()
    np.fill_diagonal(wrong, 0)
    places = np.argsort(-wrong, axis=None, kind="stable")[:FEW_PAIRS]
    pairs = [(int(place) // len(labels), int(place) % len(labels)) for place in places]
    named = [f"{labels[a]} taken for {labels[b]} ({wrong[a, b]})" for a, b in pairs if wrong[a, b]]
    return f"Most often: {', '.join(named)}" if named else "No image got a wrong class."


def _difference(difference: Difference) -> str:
    compared = f"{difference.engine} against {difference.reference}"
    if not difference.largest:
        return f"{compared}: the same logits to the bit"
    by = f"logits differ by at most {difference.largest:.2g}"
    count = len(difference.images)
    if not count:
        return f"{compared}: the same class for every image; {by}"
    few = ", ".join(map(str, difference.images[:FEW_IMAGES])) + (", ..." if count > FEW_IMAGES else "")
    images = (
        f"{count:,} image gets another class (number" if count == 1 else f"{count:,} images get another class (numbers"
    )
    return f"{compared}: {images} {few}, from 0); {by}"


def evaluation_json(result: Evaluation, about: dict[str, Any]) -> str:
    """Return every figure, after the entries of `about`.

    The order of `labels` is that of `classes`, and of rows (right class) and columns (predicted class) in `confusion`.
    """
    data = {
        **about,
        "network": result.network,
        "data": result.data,
        "labels": result.labels,
        "engines": {name: _to_json(figures) for name, figures in result.figures.items()},
        "differences": [asdict(each) for each in result.differences],
        "skipped": result.skipped,
        "notes": result.notes,
    }
    return json.dumps(data, indent=2) + "\n"


def _to_json(figures: Figures) -> dict[str, Any]:
    return {
        "images": figures.images,
        "right": figures.right,
        "top1": figures.top1_share,
        "top5": figures.top5_share,
        "loss": figures.loss,
        "calibration_error": figures.calibration_error,
        "calibration_bins": [asdict(each) for each in figures.bins],
        "classes": [{**asdict(each), "precision": each.precision, "recall": each.recall} for each in figures.classes],
        "confusion": figures.confusion.tolist(),
    }


def confusion_csv(result: Evaluation) -> str:
    """Return the confusion matrix of the first engine: a row for each right class, a column for each predicted one."""
    confusion = next(iter(result.figures.values())).confusion
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["right class / predicted class", *result.labels])
    writer.writerows([label, *row] for label, row in zip(result.labels, confusion.tolist(), strict=True))
    return text.getvalue()


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"
