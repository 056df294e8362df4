"""Several reports side by side, in numbers: their names, and one line for each figure that they share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bnas_deploy.core.errors import BnasError
from bnas_deploy.report import figures
from bnas_deploy.report.rows import SingleRow, breakdown_by_engine, kind_rows, layer_rows, single_rows
from bnas_deploy.report.saved import Report
from bnas_deploy.report.summary import Summary
from bnas_deploy.report.tables import LAYER_MARKS
from bnas_deploy.runtime.bench.profile import LAYER_KINDS
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record
from bnas_deploy.runtime.bench.subject import RunSetting


@dataclass(frozen=True)
class Comparison:
    """Reports of one kind, each with a name of its own and the file that it is from."""

    names: tuple[str, ...]
    files: tuple[str, ...]
    reports: tuple[Report, ...]

    @property
    def of_networks(self) -> bool:
        """Tell whether networks were measured, and not single layers."""
        return _is_of_network(self.reports[0])

    @property
    def like_with_like(self) -> bool:
        """Tell whether all reports are of the same network, so that their times may be divided."""
        return len({report.network for report in self.reports}) == 1

    @property
    def engine(self) -> str:
        """Return the engine that the reports are about."""
        return self.reports[0].records[0].engine

    @property
    def other_engines(self) -> list[str]:
        """Return the engines that it is compared with in some report."""
        engines = dict.fromkeys(each.engine for report in self.reports for each in report.records)
        return [engine for engine in engines if engine != self.engine]

    @property
    def settings(self) -> list[RunSetting]:
        """Return the settings that at least two reports share, or all of them if none is shared."""
        found = [setting for report in self.reports for setting in settings_of(report)]
        return list(dict.fromkeys(each for each in found if found.count(each) > 1) or dict.fromkeys(found))

    def records(self, setting: RunSetting) -> list[list[Record]]:
        """Return what each report has of a setting."""
        return [
            [each for each in report.records if RunSetting(each.threads, each.batch) == setting]
            for report in self.reports
        ]

    def summaries(self, setting: RunSetting) -> list[Summary | None]:
        """Return the summary of a setting in each report."""
        return [
            next((each for each in report.summaries if RunSetting(each.threads, each.batch) == setting), None)
            for report in self.reports
        ]


def compare(files: Sequence[Path], reports: Sequence[Report]) -> Comparison:
    """Put the reports that were read from `files` side by side.

    Raises:
        BnasError: a report is empty, or they are not of one kind.
    """
    for file, report in zip(files, reports, strict=True):
        if not report.records:
            raise BnasError(f"{file}: nothing was measured in it; make another with `bnas-deploy bench --json`")
        if _is_of_network(report) != _is_of_network(reports[0]):
            kinds = ("single layers", "a network")
            raise BnasError(
                f"{file}: a report of {kinds[_is_of_network(report)]}, and {files[0]} is one of "
                f"{kinds[_is_of_network(reports[0])]}; compare reports of `bench BUNDLE`, or of `bench-layers`"
            )
    return Comparison(column_names(files, reports), tuple(map(str, files)), tuple(reports))


def settings_of(report: Report) -> list[RunSetting]:
    """Return the numbers of threads and of images that a report was measured with."""
    return list(dict.fromkeys(RunSetting(each.threads, each.batch) for each in report.records))


def _is_of_network(report: Report) -> bool:
    return any(each.subject == NETWORK for each in report.records)


def column_names(files: Sequence[Path], reports: Sequence[Report]) -> tuple[str, ...]:
    """Name each report by its differences from the others: no two names are the same.

    Machine, network and version are in the name wherever they differ; the rest only until all names do.
    """
    always: list[list[str]] = [
        [report.machine.cpu for report in reports],
        [report.network or "" for report in reports],
        [f"bnas-deploy {report.machine.bnas_deploy}" for report in reports],
    ]
    if_needed: list[list[str]] = [
        [report.records[0].isa for report in reports],
        [f"onnxruntime {report.machine.onnxruntime}" for report in reports],
        [report.machine.date for report in reports],
        [str(file) for file in files],
        [f"no. {number}" for number, _ in enumerate(reports, 1)],
    ]
    parts = [values for values in always if len(set(values)) > 1]
    for values in if_needed:
        if _different([*parts, values]) > _different(parts):
            parts.append(values)
    return _joined(parts) if parts else (reports[0].machine.cpu,)  # of one report nothing differs


def _different(parts: Sequence[Sequence[str]]) -> int:
    return len(set(_joined(parts))) or 1


def _joined(parts: Sequence[Sequence[str]]) -> tuple[str, ...]:
    return tuple(", ".join(filter(None, values)) for values in zip(*parts, strict=True))


def where(setting: RunSetting) -> str:
    """Name a setting."""
    return f"{figures.threads(setting.threads)}, batch {setting.batch}"


# --------------------------------------------------------------------------------------------------------------------
# Lines: numbers, unrounded


@dataclass(frozen=True)
class Line:
    """One figure of every report, None where it has none, how it is written, and whether it is a time."""

    label: str
    values: tuple[float | None, ...]
    show: Callable[[float], str]
    is_time: bool = True


def engine_line(comparison: Comparison, setting: RunSetting, engine: str) -> Line:
    """Gather the milliseconds of whole networks in one engine."""
    summaries = comparison.summaries(setting)
    values = tuple(each.median_ms.get(engine) if each else None for each in summaries)
    return Line(f"{engine} ms", values, figures.milliseconds)


def network_lines(comparison: Comparison, setting: RunSetting) -> list[Line]:
    """Gather what decides about whole networks."""
    summaries = comparison.summaries(setting)
    twins = comparison.other_engines

    def line(label: str, figure: Figure, show: Callable[[float], str], *, is_time: bool = False) -> Line:
        return Line(label, tuple(figure(each) if each else None for each in summaries), show, is_time)

    return [
        *(engine_line(comparison, setting, engine) for engine in (comparison.engine, *twins)),
        *(
            line(f"times as fast as {twin}", partial(_by_engine, "times_as_fast", twin), figures.factor)
            for twin in twins
        ),
        line("glue, of the time of all nodes", lambda each: each.glue_share, figures.percent),
        line("file kB", partial(_own, "file_bytes"), figures.kilobytes),
        line("activations MB", partial(_own, "activation_bytes"), figures.megabytes),
        line("session ms", partial(_own, "creation_ms"), figures.milliseconds, is_time=True),
        line("images a second, of fewest threads", partial(_median, "thread_scaling"), figures.factor),
        line("images a second, of smallest batch", partial(_median, "batch_scaling"), figures.factor),
    ]


Figure = Callable[[Summary], float | None]


def _by_engine(field: str, engine: str, summary: Summary) -> float | None:
    found: Mapping[str, float] = getattr(summary, field)
    return found.get(engine)


def _own(field: str, summary: Summary) -> float | None:
    return _by_engine(field, summary.engine, summary)


def _median(field: str, summary: Summary) -> float | None:
    scaling: Ratio | None = getattr(summary, field)
    return scaling.median if scaling else None


def layer_lines(comparison: Comparison, setting: RunSetting) -> list[Line]:
    """Gather microseconds of one node of each shape of layer, in the engine that the reports are about."""
    found = [
        {row.layer + LAYER_MARKS.get(row.kind, ""): row.each_us.get(comparison.engine) for row in layer_rows(records)}
        for records in comparison.records(setting)
    ]
    return _joined_lines(found)


def work_lines(comparison: Comparison, setting: RunSetting) -> list[Line]:
    """Gather microseconds of one run by kind of work, in the engine that the reports are about."""
    found: list[dict[str, float | None]] = []
    for records in comparison.records(setting):
        work = breakdown_by_engine(records).get(comparison.engine)
        us = {row.kind: row.us.get(comparison.engine) for row in kind_rows(records)}
        layers = {kind: us[kind] for kind in us if kind in LAYER_KINDS}
        glue = {f"  {kind}": us[kind] for kind in us if kind not in LAYER_KINDS}
        found.append({**layers, "glue": work.glue_us, **glue} if work else {})
    return _joined_lines(found)


def single_lines(comparison: Comparison, setting: RunSetting) -> list[Line]:
    """Gather microseconds of layers that were measured by themselves, in the engine that the reports are about."""
    return _joined_lines(
        [{row.layer: row.us.get(comparison.engine) for row in rows} for rows in _singles(comparison, setting)]
    )


def single_ratio_lines(comparison: Comparison, setting: RunSetting, other: str) -> list[Line]:
    """Gather how many times as fast as `other` that engine is on them."""
    found = [{row.layer: row.times_as_fast.get(other) for row in rows} for rows in _singles(comparison, setting)]
    return _joined_lines(found, figures.factor, is_time=False)


def _singles(comparison: Comparison, setting: RunSetting) -> list[list[SingleRow]]:
    return [single_rows(records, setting.threads) for records in comparison.records(setting)]


def _joined_lines(
    found: Sequence[Mapping[str, float | None]],
    show: Callable[[float], str] = figures.microseconds,
    *,
    is_time: bool = True,
) -> list[Line]:
    """Make a line of each label that a report has a value for."""
    labels = dict.fromkeys(label for each in found for label, value in each.items() if value is not None)
    return [Line(label, tuple(each.get(label) for each in found), show, is_time) for label in labels]
