"""What a measurement leaves on disk: the file of `bnas-deploy bench --json`, written and read."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from bnas_deploy.errors import BnasError
from bnas_deploy.report.summary import Summary, summaries
from bnas_deploy.runtime.engines import LeftOut
from bnas_deploy.runtime.machine import Machine
from bnas_deploy.runtime.measure import Ratio, Record
from bnas_deploy.runtime.memory import PeakMemory


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
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        machine = _known(Machine, data["machine"])
        machine |= {name: tuple(machine[name]) for name in ("isa_flags", "load_average")}
        left_out = tuple(LeftOut(**_known(LeftOut, each)) for each in data.get("left_out", ()))
        return Report(Machine(**machine), tuple(map(_record, data["records"])), left_out, data.get("network"))
    except OSError as error:
        raise BnasError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BnasError(f"{path}: not a file of `bnas-deploy bench --json` ({error})") from None


def _without_nones(rows: Iterable[Record | Summary]) -> list[dict[str, Any]]:
    return [{name: value for name, value in asdict(each).items() if value is not None} for each in rows]


def _record(data: Mapping[str, Any]) -> Record:
    known = _known(Record, data)
    parts = {"ratio": Ratio, "memory": PeakMemory, "thread_scaling": Ratio, "batch_scaling": Ratio}
    for name, kind in parts.items():
        if name in known:
            known[name] = kind(**_known(kind, known[name]))
    return Record(**known)


def _known(kind: type[Any], data: Mapping[str, Any]) -> dict[str, Any]:
    return {field.name: data[field.name] for field in fields(kind) if field.name in data}
