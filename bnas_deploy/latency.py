"""How long the parts of a network take on a device: what `bnas-deploy bench --ops` measures and a search aims at."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from bnas_deploy.errors import BnasError
from bnas_deploy.json_records import from_json, read_json, shown, value_of, wanted

FORMAT_VERSION = 1
EXPECTED = "a latency table of `bnas-deploy bench --ops --json`"

CONVOLUTIONS = {
    "bin_conv_3x3": (3, 1),
    "bin_conv_5x5": (5, 1),
    "bin_dil_conv_3x3": (3, 2),
    "bin_dil_conv_5x5": (5, 2),
    "preprocess_1x1": (1, 1),
    "preprocess_3x3": (3, 1),
}
"""Binary convolutions of a cell by kind: kernel and dilation. `preprocess` is what the inputs of a cell go through."""

POOLS = ("max_pool_3x3", "avg_pool_3x3")

KINDS = (
    *CONVOLUTIONS,
    *POOLS,
    "skip",  # the float 2x2 convolution past a reduction cell
    "add",  # two tensors of channels_in channels
    "fused_add",  # what a binary convolution takes longer if it adds such a tensor to its result
    "concat",  # channels_in tensors, of channels_out channels in all
    "slice",  # the first channels_out of channels_in channels
    "stem_cifar",
    "stem_imagenet",  # to c_{-2}, of channels_in channels, and c_{-1}
    "classifier",  # the mean over all pixels, and a matrix product
    "run",  # what any run of any network takes besides
)


@dataclass(frozen=True, order=True)
class Work:
    """One thing that a finished network spends time on; `height` and `width` are those of its input."""

    kind: str
    channels_in: int
    channels_out: int
    height: int
    width: int
    stride: int = 1

    def __str__(self) -> str:
        return f"{self.kind} {self.height}x{self.width} {self.channels_in}->{self.channels_out} s{self.stride}"


RUN = Work("run", 0, 0, 0, 0)


@dataclass(frozen=True)
class WorkTime:
    """Microseconds that a work takes: median, 10th and 90th percentile over `runs` runs."""

    work: Work
    median_us: float
    p10_us: float
    p90_us: float
    runs: int


@dataclass(frozen=True)
class LatencyTable:
    """The times of one device.

    `machine` is what `bnas_deploy.runtime.machine.Machine` says of it, `isa` names the kernels of the operator library,
    and `network` is the network whose size the works are those of, as `NetworkConfig.to_json` gives it. Its genotype
    does not matter: the works are those that any has.
    """

    machine: Mapping[str, Any]
    isa: str
    network: Mapping[str, Any]
    threads: int
    batch: int
    times: tuple[WorkTime, ...]

    @cached_property
    def _by_work(self) -> dict[Work, float]:
        return {time.work: time.median_us for time in self.times}

    def us(self, work: Work) -> float:
        """Return the microseconds of `work`.

        Raises:
            BnasError: it was not measured.
        """
        if work not in self._by_work:
            raise BnasError(
                f"the latency table has no time of {work}; it was measured for networks of the size of "
                f"{self.network.get('name')}; measure the device again: bnas-deploy bench --ops --json DEVICE.json"
            )
        return self._by_work[work]

    def total_us(self, works: Mapping[Work, float]) -> float:
        """Add up the microseconds of works, each as many times as it is there."""
        return sum(count * self.us(work) for work, count in works.items())

    def to_json(self) -> str:
        """Return the text of the file."""
        times = [{**asdict(time.work), **_measured(time)} for time in self.times]
        data = {name: getattr(self, name) for name in ("machine", "isa", "network", "threads", "batch")}
        return json.dumps({"latency_format": FORMAT_VERSION, **data, "times": times}, indent=1) + "\n"


def _measured(time: WorkTime) -> dict[str, Any]:
    return {field.name: getattr(time, field.name) for field in fields(time) if field.name != "work"}


def read_latency_table(path: Path) -> LatencyTable:
    """Read what `LatencyTable.to_json` wrote.

    Raises:
        BnasError: the file cannot be read, is something else, or holds a time that cannot be.
    """
    data = read_json(path, EXPECTED)
    if not isinstance(data, Mapping) or "latency_format" not in data:
        raise _other_file(path, "no 'latency_format' in it")
    if data["latency_format"] != FORMAT_VERSION:
        raise BnasError(
            f"{path}: format {shown(data['latency_format'])}, this bnas-deploy reads {FORMAT_VERSION}; measure the "
            "device again with this version"
        )
    try:
        table: LatencyTable = from_json(_File, data, passing_over=True).table
        _check_values(table)
    except ValueError as error:
        raise BnasError(f"{path}: not {EXPECTED} ({error}); measure the device again") from None
    _refuse_twins(table.times, path)
    return table


@dataclass(frozen=True)
class _Entry:
    """One of `times` in the file: the fields of `Work` and of `WorkTime` side by side."""

    kind: str
    channels_in: int
    channels_out: int
    height: int
    width: int
    stride: int
    median_us: float
    p10_us: float
    p90_us: float
    runs: int

    @property
    def time(self) -> WorkTime:
        work = Work(self.kind, self.channels_in, self.channels_out, self.height, self.width, self.stride)
        return WorkTime(work, self.median_us, self.p10_us, self.p90_us, self.runs)


@dataclass(frozen=True)
class _File:
    """The file, field by field."""

    latency_format: int
    machine: dict[str, Any]
    isa: str
    network: dict[str, Any]
    threads: int
    batch: int
    times: tuple[_Entry, ...]

    @property
    def table(self) -> LatencyTable:
        times = tuple(entry.time for entry in self.times)
        return LatencyTable(self.machine, self.isa, self.network, self.threads, self.batch, times)


def _check_values(table: LatencyTable) -> None:
    """Raise ValueError where a value is of the right kind and impossible."""
    value_of(str, table.machine.get("cpu"), "machine.cpu")
    for name in ("threads", "batch"):
        wanted(getattr(table, name) > 0, getattr(table, name), name, "at least 1")
    for i, time in enumerate(table.times):
        wanted(time.work.kind in KINDS, time.work.kind, f"times[{i}].kind", f"one of {', '.join(KINDS)}")
        wanted(time.runs > 0, time.runs, f"times[{i}].runs", "at least 1")
        for name in ("median_us", "p10_us", "p90_us"):
            # 0 is right: differences of measurements are cut off there when they are made.
            wanted(getattr(time, name) >= 0, getattr(time, name), f"times[{i}].{name}", "0 or more")


def _other_file(path: Path, reason: str) -> BnasError:
    return BnasError(f"{path}: not {EXPECTED} ({reason})")


def _refuse_twins(times: Iterable[WorkTime], path: Path) -> None:
    seen: set[Work] = set()
    for time in times:
        if time.work in seen:
            raise BnasError(f"{path}: two times of {time.work}; the file was changed or damaged, measure again")
        seen.add(time.work)
