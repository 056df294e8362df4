"""What a caller hands to the export, looked at before anything is done: each argument is of the type that it must be.

Whether the examples fit the network is found out later, by running it (`given.py`).
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from bnas_deploy.core.bundle import Preprocessing, check_normalisation
from bnas_deploy.core.errors import ExportError
from bnas_deploy.core.float_layers import CHOICES
from bnas_deploy.core.json_records import from_json, parse
from bnas_deploy.export.description import Description
from bnas_deploy.export.given import TWIN, Images
from bnas_deploy.export.inputs import Inputs
from bnas_deploy.export.module_checks import check_module, kind_of


def check_arguments(
    module: object,
    twin: object,
    path: object,
    images: object,
    description: object,
    float_layers: object,
    latency_table: object,
    progress: object,
) -> None:
    """Refuse what no export can begin with.

    Raises:
        ExportError: an argument is of another type, or the description is none that a bundle can hold.
    """
    check_module(module, "the module")
    if twin is not None:
        check_module(twin, TWIN)
    if not isinstance(path, str | os.PathLike):
        raise ExportError(f"path: {kind_of(path)}, wanted the folder to write, as text or a pathlib.Path")
    _check_examples(images)
    if not isinstance(description, Description):
        raise ExportError(
            f"description: {kind_of(description)}, wanted a bnas_deploy.export.Description; "
            'give Description({"name": "what it is called"})'
        )
    _check_description(description)
    if float_layers not in CHOICES:
        *some, last = map(repr, CHOICES)
        raise ExportError(f"float_layers: {float_layers!r}, wanted {', '.join(some)} or {last}")
    if latency_table is not None and float_layers != "auto":
        raise ExportError(
            f'latency_table: given with float_layers={float_layers!r}, wanted "auto", which alone chooses by it; '
            "leave one of both out"
        )
    if latency_table is not None and not isinstance(latency_table, str | os.PathLike):
        raise ExportError(
            f"latency_table: {kind_of(latency_table)}, wanted the file of a table, as text or a pathlib.Path"
        )
    if not callable(progress):
        raise ExportError(f"progress: {kind_of(progress)}, wanted a function of one text; leave it out for silence")


def labels_twice(labels: tuple[str, ...] | None) -> str | None:
    """Say which names several classes have; some data sets have such, but `predict` cannot tell them apart."""
    twice = {name: count for name in dict.fromkeys(labels or ()) if (count := (labels or ()).count(name)) > 1}
    if not twice:
        return None
    few = ", ".join(f"{count} classes are called {name!r}" for name, count in list(twice.items())[:3])
    return f"labels: {few}{', and so on' * (len(twice) > 3)}; give each another name, unless that is so in the data"


def _check_examples(images: object) -> None:
    if isinstance(images, Images | Inputs):
        return
    what = "Images(tensor) for images (N, C, H, W), or Inputs(...) for a network that takes anything else"
    if isinstance(images, Mapping | tuple | list):
        what = "Inputs(...) around it"
    raise ExportError(
        f"images: {kind_of(images)}, wanted bnas_deploy.export.Images or Inputs; give {what}"
        f"{'' if isinstance(images, Tensor | Mapping | tuple | list) else ', of tensors'}"
    )


def _check_description(description: Description) -> None:
    """Refuse a description that cannot be written, or that no bundle could be read with."""
    labels, preprocessing = description.labels, description.preprocessing
    if labels is not None and not (isinstance(labels, tuple | list) and all(isinstance(each, str) for each in labels)):
        raise ExportError(f"description: labels are {kind_of(labels)}, wanted a tuple of texts, a name for each class")
    if preprocessing is not None and not isinstance(preprocessing, Preprocessing):
        raise ExportError(
            f"description: preprocessing is {kind_of(preprocessing)}, wanted a bnas_deploy.core.bundle.Preprocessing"
        )
    for name in ("network", "metrics"):
        if not isinstance(value := getattr(description, name), Mapping):
            raise ExportError(f'description: {name} is {kind_of(value)}, wanted a dict, such as {{"name": "MyNet"}}')
    for name in ("network", "labels", "metrics"):
        _check_written(name, getattr(description, name))
    if preprocessing is not None:
        written = _check_written("preprocessing", asdict(preprocessing))
        try:
            from_json(Preprocessing, written, "preprocessing")
            check_normalisation(preprocessing)
        except ValueError as error:
            raise ExportError(f"{error}; mend the preprocessing") from None


def _check_written(name: str, value: Any) -> Any:
    """Return what is read of a value once it was written as JSON."""
    try:
        return parse(json.dumps(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise ExportError(
            f"description: {name} cannot be written as JSON: {error}; give texts, Python's own numbers, lists and dicts"
        ) from None
