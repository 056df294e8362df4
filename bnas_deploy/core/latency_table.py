"""How long the parts of a network take on a device: what `bnas-deploy bench-ops` measures and a search aims at."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.json_records import from_json, read_json, shown, value_of, wanted
from bnas_deploy.core.operators import Operator

FORMAT_VERSION = 2
EXPECTED = "a latency table of `bnas-deploy bench-ops --json`"

BINARY_CONVOLUTION = Operator(activation="Relu").name

OPERATORS = (
    BINARY_CONVOLUTION,
    "FusedAdd",  # no node: what a binary convolution takes longer if it adds a tensor of this shape to its result
    "Conv",  # with the Relu behind it, if there is one: onnxruntime runs both at once
    "Gemm",
    "MaxPool",
    "AveragePool",
    "ReduceMean",
    "Add",
    "Mul",
    "Relu",
    "Concat",
    "Slice",
    "Run",  # no node: what any run of any network takes besides
)
"""What `bench-ops` can measure. A network may have other operators; no table has a time of them."""

Shape = tuple[int, int, int]
"""(channels, height, width); 1 where a tensor has fewer axes."""

Pair = tuple[int, int]
"""(vertical, horizontal)."""


@dataclass(frozen=True, order=True)
class Workload:
    """One operation of a finished network, by operator and shape; the batch and the weights are left out.

    `operator` is an ONNX operator, one of the domain `bnas` or one of `OPERATORS`. `input` is the shape that it reads:
    one of several equal inputs, and for a Concat the tensor that its inputs make. `parts` is their number.
    """

    operator: str
    input: Shape
    output: Shape
    kernel: Pair = (1, 1)
    stride: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1
    parts: int = 1

    def __str__(self) -> str:
        (channels_in, height, width), (channels_out, *_) = self.input, self.output
        parts = (
            self.operator,
            _by(*self.kernel) if self.kernel != (1, 1) else "",
            f"{_by(height, width)} {channels_in}->{channels_out}",
            f"s{_by(*self.stride)}" if self.stride != (1, 1) else "",
            f"d{_by(*self.dilation)}" if self.dilation != (1, 1) else "",
            f"g{self.groups}" if self.groups > 1 else "",
            f"of {self.parts}" if self.parts > 1 else "",
        )
        return " ".join(part for part in parts if part)


def _by(vertical: int, horizontal: int) -> str:
    return f"{vertical}x{horizontal}"


RUN = Workload("Run", (0, 0, 0), (0, 0, 0))


@dataclass(frozen=True)
class WorkloadTime:
    """Microseconds that a workload takes: median, 10th and 90th percentile over `runs` runs."""

    workload: Workload
    median_us: float
    p10_us: float
    p90_us: float
    runs: int


@dataclass(frozen=True)
class LatencyTable:
    """The times of one device.

    `machine` is what `bnas_deploy.runtime.bench.machine.Machine` says of it, `isa` names the kernels of the operator
    library, and `network` is a network of the size that was measured, as `NetworkConfig.to_json` gives it. Its genotype
    does not matter: the table has the workloads of all.
    """

    machine: Mapping[str, Any]
    isa: str
    network: Mapping[str, Any]
    threads: int
    batch: int
    times: tuple[WorkloadTime, ...]

    @cached_property
    def _median_us(self) -> dict[Workload, float]:
        return {time.workload: time.median_us for time in self.times}

    def us(self, workload: Workload) -> float:
        """Return the microseconds of `workload`.

        Raises:
            BnasError: it was not measured.
        """
        if workload not in self._median_us:
            raise BnasError(
                f"the latency table has no time of {workload}; it was measured for networks of the size of "
                f"{self.network.get('name')}; measure the device again: bnas-deploy bench-ops --json DEVICE.json"
            )
        return self._median_us[workload]

    def total_us(self, workloads: Mapping[Workload, float]) -> float:
        """Add up the microseconds of workloads, each as many times as it is there."""
        return sum(count * self.us(workload) for workload, count in workloads.items())

    def to_json(self) -> str:
        """Return the text of the file."""
        times = [{**asdict(time.workload), **_measured(time)} for time in self.times]
        data = {name: getattr(self, name) for name in ("machine", "isa", "network", "threads", "batch")}
        return json.dumps({"latency_format": FORMAT_VERSION, **data, "times": times}, indent=1) + "\n"


def _measured(time: WorkloadTime) -> dict[str, Any]:
    return {field.name: getattr(time, field.name) for field in fields(time) if field.name != "workload"}


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
    """One of `times` in the file: the fields of `Workload` and of `WorkloadTime` side by side."""

    operator: str
    input: Shape
    output: Shape
    kernel: Pair
    stride: Pair
    dilation: Pair
    groups: int
    parts: int
    median_us: float
    p10_us: float
    p90_us: float
    runs: int

    @property
    def time(self) -> WorkloadTime:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        workload = Workload(**{each.name: values.pop(each.name) for each in fields(Workload)})
        return WorkloadTime(workload, **values)


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
        workload = time.workload
        known = workload.operator in OPERATORS
        wanted(known, workload.operator, f"times[{i}].operator", f"one of {', '.join(OPERATORS)}")
        for name in ("groups", "parts"):
            wanted(getattr(workload, name) > 0, getattr(workload, name), f"times[{i}].{name}", "at least 1")
        wanted(time.runs > 0, time.runs, f"times[{i}].runs", "at least 1")
        for name in ("median_us", "p10_us", "p90_us"):
            # 0 is right: differences of measurements are cut off there when they are made.
            wanted(getattr(time, name) >= 0, getattr(time, name), f"times[{i}].{name}", "0 or more")


def _other_file(path: Path, reason: str) -> BnasError:
    return BnasError(f"{path}: not {EXPECTED} ({reason})")


def _refuse_twins(times: Iterable[WorkloadTime], path: Path) -> None:
    seen: set[Workload] = set()
    for time in times:
        if time.workload in seen:
            raise BnasError(f"{path}: two times of {time.workload}; the file was changed or damaged, measure again")
        seen.add(time.workload)
