"""What a measurement leaves on disk: the file of `bnas-deploy bench --json`, written and read."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnas_deploy.core.bundle import Manifest
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.json_records import from_json, parse, read_json, wanted
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.report.summary import Summary, summaries
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.machine import Machine
from bnas_deploy.runtime.bench.records import Record

EXPECTED = "a file of `bnas-deploy bench --json`"


@dataclass(frozen=True)
class Report:
    """What `bench --json` writes: one machine, what was measured on it, and what was not.

    `network` is the name of the network that was measured, None for single layers, or in a file of an older version.
    `settings` tells it from others of that name; see `digest_of`.
    """

    machine: Machine
    records: tuple[Record, ...]
    left_out: tuple[LeftOut, ...] = ()
    network: str | None = None
    settings: str | None = None

    @property
    def summaries(self) -> list[Summary]:
        """Return the figures that decide, for each number of threads and images for which a network was measured."""
        return summaries(self.records)

    def to_json(self) -> str:
        """Return the text of the file; a field that does not apply to a record is left out.

        `summary` is made of the records, for those who read the file; `read_report` makes it again.
        """
        named = {"network": self.network, "settings": self.settings}
        data: dict[str, Any] = {key: value for key, value in named.items() if value is not None}
        data["machine"] = asdict(self.machine)
        if summary := self.summaries:
            data["summary"] = _without_nones(summary)
        data["records"] = _without_nones(self.records)
        if self.left_out:
            data["left_out"] = [asdict(each) for each in self.left_out]
        return json.dumps(data, indent=2) + "\n"


def measured_network(name: object, size: str, layers: Iterable[LayerCost]) -> str:
    """Name a network in a report: what else than its name decides how fast it is; `size` is as of `size_text`."""
    int8 = any(layer.weight_bits == 8 for layer in layers)
    return f"{name}, {size}{', int8 layers' if int8 else ''}"


def digest_of(settings: Mapping[str, Any]) -> str:
    """Tell networks of one name apart: cells, widths, scheme and classes are in the settings of a manifest."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def size_text(manifest: Manifest) -> str:
    """Return height and width of a bundle's images; of other inputs each with its shape."""
    if image := manifest.image_size:
        return "x".join(map(str, image[1:]))
    return ", ".join(f"{each.name} {each.size}" for each in manifest.inputs)


def read_report(path: Path) -> Report:
    """Read what `Report.to_json` wrote; fields that a newer version added are passed over.

    Raises:
        BnasError: the file cannot be read, or is something else.
    """
    return _report(read_json(path, EXPECTED), str(path))


def parse_report(text: str, where: str) -> Report:
    """Take a report from its text; `where` names its origin in errors.

    Raises:
        BnasError: it is something else.
    """
    try:
        data = parse(text)
    except ValueError as error:
        raise BnasError(f"{where}: not {EXPECTED} ({error})") from None
    return _report(data, where)


def _report(data: Any, where: str) -> Report:
    try:
        report: Report = from_json(Report, data, passing_over=True)
        _check_values(report)
    except ValueError as error:
        raise BnasError(f"{where}: not {EXPECTED} ({error})") from None
    return report


def _without_nones(rows: Iterable[Record | Summary]) -> list[dict[str, Any]]:
    # None and False alone: 0 is a figure.
    return [
        {name: value for name, value in asdict(each).items() if value is not None and value is not False}
        for each in rows
    ]


def _check_values(report: Report) -> None:
    """Refuse what is divided by, where it is 0; a node may take less than the microsecond that a profile counts."""
    for i, each in enumerate(report.records):
        name = f"records[{i}]"
        for ratio in filter(None, (each.ratio, each.thread_scaling, each.batch_scaling)):
            percentiles = [ratio.p10, ratio.median, ratio.p90]
            wanted(min(percentiles) > 0, percentiles, f"{name}: p10, median, p90", "more than 0 each")
        right = each.median_ms >= 0 if each.kind else each.median_ms > 0
        wanted(right, each.median_ms, f"{name}.median_ms", "0 or more" if each.kind else "more than 0")
        wanted(each.file_bytes != 0, each.file_bytes, f"{name}.file_bytes", "more than 0")
        wanted(each.batch > 0, each.batch, f"{name}.batch", "more than 0")
