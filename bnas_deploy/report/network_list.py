"""Networks side by side: what each is made of, and on request how fast it is here.

The stages are joined here: networks are built by the search, exported, and timed by the runtime as `bench` does.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bnas_deploy.core.counting.rules import WORD
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import temporary_folder
from bnas_deploy.core.layer_cost import total
from bnas_deploy.export import export_checkpoint
from bnas_deploy.export.images import verification_images
from bnas_deploy.report import figures
from bnas_deploy.report.measuring import measure_bundle
from bnas_deploy.report.saved import Report
from bnas_deploy.report.table import Table
from bnas_deploy.runtime.bench.machine import Machine, check_threads
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.layer_costs import network_size
from bnas_deploy.search.models.registry import published_configs, rule_of
from bnas_deploy.search.training.untrained import untrained_checkpoint

FLOAT, INT8 = "ort-fp32", "ort-int8"

IMAGES = 2
"""With which an export is verified before it is measured."""

Say = Callable[[str], object]
"""Is told what is being done."""


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one image on this machine, and how many times as fast the binary network is as each twin.

    The ratios are of neighbouring runs, so they are no quotients of these medians. `glue_share` is the part of the time
    of all nodes that is spent outside of convolutions and matrix products. What an engine did not give is None.
    `kernels` has the instruction set of each engine's kernels, such as `bnas avx2`.
    """

    binary_ms: float
    float_ms: float
    int8_ms: float | None
    times_as_fast_as_float: float
    times_as_fast_as_int8: float | None
    glue_share: float | None
    kernels: str
    disturbed: bool


@dataclass(frozen=True)
class NetworkRow:
    """A network as it is published.

    Attributes:
        network: its name, with its form where it has several.
        scheme: how it binarises; None where it has no choice of it.
        image_size: (height, width).
        parameters: all that are trained.
        binary_weights: how many of these take one bit.
        binary_macs, float_macs: multiply-accumulates of one image.
        rule: by which its paper counts, of `bnas_deploy.core.counting.rules`.
        flops: the operations of one image by that rule.
        measured: None unless it was.
    """

    network: str
    scheme: str | None
    image_size: tuple[int, int]
    parameters: int
    binary_weights: int
    binary_macs: int
    float_macs: int
    rule: str
    flops: float
    measured: Measured | None = None

    @property
    def macs(self) -> int:
        """Return the multiply-accumulates that are executed, whatever their width."""
        return self.binary_macs + self.float_macs

    @property
    def binary_share(self) -> float:
        """Return which part of the parameters takes one bit."""
        return self.binary_weights / self.parameters


def network_rows(names: Iterable[str]) -> list[tuple[ModelConfig, NetworkRow]]:
    """Return the networks of these names in all their forms, and what each is made of.

    Raises:
        BnasError: no such network.
    """
    return [(config, _row(config)) for name in names for config in published_configs(name)]


def _row(config: ModelConfig) -> NetworkRow:
    size, rule = network_size(config), rule_of(config)
    sums, operations = total(size.layers), rule.count(size.counted).operations
    assert operations is not None, f"{rule.name} counts no operations"
    return NetworkRow(
        config.name,
        getattr(config, "scheme", None),
        config.image_size,
        size.parameters,
        size.binary_parameters,
        sums.binary_macs,
        sums.float_macs,
        rule.name,
        operations,
    )


def measured_rows(
    networks: Sequence[tuple[ModelConfig, NetworkRow]], *, threads: int, min_seconds: float, say: Say
) -> tuple[list[NetworkRow], Machine]:
    """Export every network, untrained, and measure it against its twins as `bench` does, one network after another.

    Args:
        networks: those of `network_rows`, at least one.
        threads: that a run may use.
        min_seconds: for each network; its engines share it.
        say: is told what is being done.

    Raises:
        BnasError: there are fewer processors than threads, or a network cannot be exported or measured; the message
            names it.
    """
    check_threads((threads,))
    reports = []
    for config, _ in networks:
        try:
            reports.append(_measure(config, threads, min_seconds, say))
        except BnasError as error:
            raise BnasError(f"{config.name}: {error.message}") from None
    rows = [replace(row, measured=_measured(report)) for (_, row), report in zip(networks, reports, strict=True)]
    return rows, reports[0].machine


def _measure(config: ModelConfig, threads: int, min_seconds: float, say: Say) -> Report:
    say(f"{config.name}: exporting")
    checkpoint = untrained_checkpoint(config, seed=0)
    with temporary_folder() as folder:
        bundle = export_checkpoint(checkpoint, folder / "bundle", verification_images(checkpoint, None, IMAGES)).bundle
        return measure_bundle(
            bundle,
            threads=(threads,),
            batches=(1,),
            min_seconds=min_seconds,
            on_step=lambda step: say(f"{config.name}: {step}"),
            show=lambda check: None,
        )


def _measured(report: Report) -> Measured:
    (summary,) = report.summaries
    return Measured(
        summary.median_ms[summary.engine],
        summary.median_ms[FLOAT],
        summary.median_ms.get(INT8),
        summary.times_as_fast[FLOAT],
        summary.times_as_fast.get(INT8),
        summary.glue_share,
        ", ".join({f"{each.engine} {each.isa}": None for each in report.records}),
        disturbed=bool({FLOAT, INT8} & set(summary.disturbed)),
    )


# --- printed --------------------------------------------------------------------------------------------------------


def network_table(rows: Sequence[NetworkRow], machine: Machine | None = None, threads: int = 1) -> Table:
    """Return a line for each network; the columns of a measurement only where there is a machine."""
    columns = ["network", "scheme", "image", "parameters", "1-bit", "FLOPs\n1e8", "MACs\n1e6", "float\nMACs 1e6"]
    columns += ["ms", "fp32\nms", "int8\nms", "vs\nfp32", "vs\nint8", "glue"] if machine else []
    note = (
        f"FLOPs as the papers count them: binary multiply-accumulates / {WORD} + float ones, for BNAS without the 2x2 "
        "convolutions of its skips. MACs: all that are executed. 1-bit: the share of the parameters."
    )
    if machine:
        note += (
            f" ms: one image, {figures.threads(threads)}, onnxruntime {machine.onnxruntime}; vs: how many times as "
            "fast as the twin, run in turns; glue: time outside of convolutions and matrix products. "
            f"{machine.cpu}, {machine.date}, bnas-deploy {machine.bnas_deploy}; kernels: {_kernels(rows)}."
        )
        if any(row.measured and row.measured.disturbed for row in rows):
            note += " ?: other programs left too few runs to tell; measure again on a quiet machine."
    return Table(
        "Networks",
        tuple(columns),
        tuple((*_size_cells(row), *(_time_cells(row.measured) if machine else ())) for row in rows),
        left=frozenset({0, 1}),
        note=note,
        spare=("float\nMACs 1e6", "scheme", "parameters"),
    )


def measured_where(rows: Sequence[NetworkRow], machine: Machine, threads: int) -> str:
    """Return what a picture of the measured rows has to say about its machine."""
    return f"{machine.cpu}, {figures.threads(threads)}, kernels: {_kernels(rows)}"


def _kernels(rows: Sequence[NetworkRow]) -> str:
    return "; ".join({row.measured.kernels: None for row in rows if row.measured})


def _size_cells(row: NetworkRow) -> tuple[str, ...]:
    height, width = row.image_size
    return (
        row.network,
        row.scheme or "-",
        f"{height}x{width}",
        f"{row.parameters:,}",
        figures.percent(row.binary_share),
        f"{row.flops / 1e8:.3f}",
        f"{row.macs / 1e6:,.0f}",
        f"{row.float_macs / 1e6:,.1f}",
    )


def _time_cells(measured: Measured | None) -> tuple[str, ...]:
    if measured is None:
        return ("-",) * 6
    doubt = "?" if measured.disturbed else ""
    return (
        figures.milliseconds(measured.binary_ms),
        figures.milliseconds(measured.float_ms),
        "-" if measured.int8_ms is None else figures.milliseconds(measured.int8_ms),
        figures.factor(measured.times_as_fast_as_float) + doubt,
        figures.factor(measured.times_as_fast_as_int8) + doubt,
        figures.percent(measured.glue_share),
    )


def _records(rows: Sequence[NetworkRow]) -> list[dict[str, Any]]:
    """Return every figure of each row, unrounded, by name."""
    return [
        {
            **{name: value for name, value in asdict(row).items() if name not in ("measured", "image_size")},
            "height": row.image_size[0],
            "width": row.image_size[1],
            **(asdict(row.measured) if row.measured else {}),
        }
        for row in rows
    ]


def networks_csv(rows: Sequence[NetworkRow]) -> str:
    """Return the figures as CSV, with a header."""
    records = _records(rows)
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def networks_json(rows: Sequence[NetworkRow], machine: Machine | None, threads: int) -> str:
    """Return the figures as JSON, with the machine that they were measured on."""
    about = {"machine": asdict(machine), "threads": threads} if machine else {}
    return json.dumps({**about, "networks": _records(rows)}, indent=2) + "\n"
