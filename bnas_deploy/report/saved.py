"""What a measurement leaves on disk: the file of `bnas-deploy bench --json`, written and read."""

import json
import math
from collections.abc import Iterable
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from textwrap import shorten
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from bnas_deploy.errors import BnasError
from bnas_deploy.files import read_json
from bnas_deploy.report.summary import Summary, summaries
from bnas_deploy.runtime.engines import LeftOut
from bnas_deploy.runtime.machine import Machine
from bnas_deploy.runtime.measure import Record

EXPECTED = "a file of `bnas-deploy bench --json`"


@dataclass(frozen=True)
class Report:
    """What `bench --json` writes: one machine, what was measured on it, and what was not.

    `network` is the name of the network that was measured, None for single layers, or in a file of an older version.
    """

    machine: Machine
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()
    network: str | None = None

    @property
    def summaries(self) -> list[Summary]:
        """Return the figures that decide, for each number of threads and images for which a network was measured."""
        return summaries(self.records)

    def to_json(self) -> str:
        """Return the text of the file; a field that does not apply to a record is left out.

        `summary` is made of the records, for those who read the file; `read_report` makes it again.
        """
        data: dict[str, Any] = {} if self.network is None else {"network": self.network}
        data["machine"] = asdict(self.machine)
        if summary := self.summaries:
            data["summary"] = _without_nones(summary)
        data["records"] = _without_nones(self.records)
        if self.left_out:
            data["left_out"] = [asdict(each) for each in self.left_out]
        return json.dumps(data, indent=2) + "\n"


def read_report(path: Path) -> Report:
    """Read what `Report.to_json` wrote; fields that a newer version added are passed over.

    Raises:
        BnasError: the file cannot be read, or is something else.
    """
    data = read_json(path, EXPECTED)
    try:
        report: Report = _from_json(Report, data, "report")
        _check_values(report)
    except ValueError as error:  # as below
        raise BnasError(f"{path}: not {EXPECTED} ({error})") from None
    return report


def _without_nones(rows: Iterable[Record | Summary]) -> list[dict[str, Any]]:
    # None and False alone: 0 is a figure.
    return [
        {name: value for name, value in asdict(each).items() if value is not None and value is not False}
        for each in rows
    ]


def _from_json(kind: Any, data: Any, name: str) -> Any:
    """Build what `to_json` took apart, by the annotations of the dataclass; fields that it lacks are passed over.

    Raises:
        ValueError: a field is missing or of another kind.
    """
    if get_origin(kind) is UnionType:  # something, or None
        something, _ = get_args(kind)
        return None if data is None else _from_json(something, data, name)
    if is_dataclass(kind):
        return _dataclass_from_json(kind, _wanted(isinstance(data, dict), data, name, "an object"), name)
    if get_origin(kind) is tuple:
        each, *others = get_args(kind)
        right = isinstance(data, list) and (others == [...] or len(data) == 1 + len(others))
        _wanted(right, data, name, "a list" if others == [...] else f"a list of {1 + len(others)}")
        return tuple(_from_json(each, value, f"{name}[{i}]") for i, value in enumerate(data))
    if kind in (int, float):
        kinds = (int, float) if kind is float else (int,)  # not isinstance: a bool is an int, too
        right = type(data) in kinds and abs(data) < math.inf
        return _wanted(right, data, name, "a number" if kind is float else "a whole number")
    return _wanted(type(data) is kind, data, name, "text" if kind is str else "true or false")


def _dataclass_from_json(kind: Any, data: dict[str, Any], name: str) -> Any:
    hints = get_type_hints(kind)
    missing = [each.name for each in fields(kind) if each.default is MISSING and each.name not in data]
    _wanted(not missing, list(data), name, f"{', '.join(missing)} in it")
    return kind(**{key: _from_json(hints[key], data[key], f"{name}.{key}") for key in hints if key in data})


def _check_values(report: Report) -> None:
    """Refuse what is divided by, where it is 0; a node may take less than the microsecond that a profile counts."""
    for i, each in enumerate(report.records):
        name = f"report.records[{i}]"
        for ratio in filter(None, (each.ratio, each.thread_scaling, each.batch_scaling)):
            percentiles = [ratio.p10, ratio.median, ratio.p90]
            _wanted(min(percentiles) > 0, percentiles, f"{name}: p10, median, p90", "more than 0 each")
        right = each.median_ms >= 0 if each.kind else each.median_ms > 0
        _wanted(right, each.median_ms, f"{name}.median_ms", "0 or more" if each.kind else "more than 0")
        _wanted(each.file_bytes != 0, each.file_bytes, f"{name}.file_bytes", "more than 0")
        _wanted(each.batch > 0, each.batch, f"{name}.batch", "more than 0")


def _wanted(right: bool, data: Any, name: str, wanted: str) -> Any:
    """Return `data` if it is right."""
    if not right:
        raise ValueError(f"{name}: got {shorten(json.dumps(data), 80)}, wanted {wanted}")
    return data
