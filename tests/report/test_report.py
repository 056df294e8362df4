"""Reports from made-up records: JSON and back, rows, and what a person reads. Nothing is timed."""

import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy import report
from bnas_deploy.core.errors import BnasError
from bnas_deploy.report import Report, rows
from bnas_deploy.report.rows import Breakdown, KindRow, LayerRow, SingleRow
from bnas_deploy.report.summary import Ceilings
from bnas_deploy.runtime.bench.answers import AnswerCheck
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.layers import NOT_SUPPORTED, WRONG_RESULT
from bnas_deploy.runtime.bench.machine import Machine
from bnas_deploy.runtime.bench.memory import PeakMemory
from bnas_deploy.runtime.bench.profile import BINARY, CLASSIFIER, FLOAT, INT8
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record

MACHINE = Machine(
    cpu="Cortex-A72 | rev 3",
    architecture="aarch64",
    isa_flags=("asimd",),
    cores=4,
    cpus=4,
    virtual=False,
    governor="performance",
    clock_mhz=1500.0,
    max_clock_mhz=1800.0,
    load_average=(0.125, 0.5, 1.0),
    memory_bytes=4_000_000_000,
    os="Debian GNU/Linux 12",
    kernel="Linux 6.6",
    python="3.11.2",
    numpy="2.0.0",
    onnxruntime="1.20.1",
    bnas_deploy="0.1.0",
    date="2025-01-01T00:00:00+00:00",
)

LAYER = "56x56 64->64 k3 s1 d1"


def binary(subject: str, median_ms: float, **fields: object) -> Record:
    times = {"median_ms": median_ms, "p90_ms": median_ms * 1.1, "p99_ms": median_ms * 1.2}
    return replace(Record(subject, "bnas", "portable", 1, 1, 50, **times, preempted=0), **fields)


def twin(subject: str, median_ms: float, **fields: object) -> Record:
    return replace(binary(subject, median_ms, **fields), engine="ort-fp32", isa="neon")


RECORDS = (
    binary(
        NETWORK,
        5.0,
        ratio=Ratio("ort-fp32", 3.9, 4.0, 4.1),
        file_bytes=250_000,
        memory=PeakMemory(90_000_000, 5 * 10**7, 1_500_000),
        creation_ms=25.0,
    ),
    binary("cells.0", 1.0, kind=BINARY, layer=LAYER),
    binary("cells.1", 2.0, kind=BINARY, layer=LAYER),
    binary("stem", 0.5, kind=FLOAT, layer="224x224 3->32 k3 s2 d1"),
    binary("add", 0.25, kind="add"),
    binary("cat", 0.75, kind="concat"),
    binary("fc", 0.5, kind=CLASSIFIER),
    twin(NETWORK, 20.0, file_bytes=8_000_000, memory=PeakMemory(None, None)),
    twin("cells.0", 6.0, kind=FLOAT, layer=LAYER),
    twin("cells.1", 9.0, kind=FLOAT, layer=LAYER),
    twin("stem", 0.5, kind=FLOAT, layer="224x224 3->32 k3 s2 d1"),
    twin("somewhere_nchwc", 3.0, kind=FLOAT),
    twin("fc", 0.5, kind=CLASSIFIER),
    twin("add", 0.25, kind="add"),
)
REPORT = Report(MACHINE, RECORDS)


def save(path: Path, made: Report) -> Path:
    path.write_text(made.to_json())
    return path


def text(made: Report, width: int) -> str:
    written = io.StringIO()
    report.print_report(made, written, width=width)
    return written.getvalue()


def test_json_comes_back_as_it_went(tmp_path: Path) -> None:
    assert report.read_report(save(tmp_path / "bench.json", REPORT)) == REPORT


def test_json_has_the_promised_fields(tmp_path: Path) -> None:
    data = json.loads(REPORT.to_json())
    assert data.keys() == {"machine", "summary", "records"}
    always = {"subject", "engine", "isa", "threads", "batch", "runs", "median_ms", "p90_ms", "p99_ms", "preempted"}
    network, node, *_ = data["records"]
    assert network.keys() == always | {"ratio", "file_bytes", "memory", "creation_ms"}
    ratio = {"baseline": "ort-fp32", "p10": 3.9, "median": 4.0, "p90": 4.1}
    assert network["ratio"] == {**ratio, "pairs": None, "preempted": 0, "disturbed": False}
    assert node.keys() == always | {"kind", "layer"}
    assert node["median_ms"] == 1.0
    assert data["machine"]["cpu"] == "Cortex-A72 | rev 3"


def test_the_name_of_the_network_is_kept(tmp_path: Path) -> None:
    named = replace(REPORT, network="BNAS-A")
    assert report.read_report(save(tmp_path / "bench.json", named)) == named


def test_fields_and_engines_of_later_versions_are_passed_over(tmp_path: Path) -> None:
    data = json.loads(REPORT.to_json())
    data["machine"]["temperature"] = 50
    data["records"][0]["energy"] = 1
    data["records"][0]["ratio"]["p50"] = 1
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(data))
    assert report.read_report(path) == REPORT


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"machine": {}, "records": []}', '{"machine": 1}', "\x80", "[" * 100_000]
)
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "bench.json"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(BnasError, match=r"bench\.json: not a file of `bnas-deploy bench --json`"):
        report.read_report(path)


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("network",), 5, "network: got 5, wanted text"),
        (("machine", "cpu"), None, "machine.cpu: got null, wanted text"),
        (("machine", "virtual"), 1, "machine.virtual: got 1, wanted true or false"),
        (("machine", "load_average"), [1, 2], "machine.load_average: got [1, 2], wanted a list of 3"),
        (("machine", "isa_flags"), "avx2", 'machine.isa_flags: got "avx2", wanted a list'),
        (("records",), {}, "records: got {}, wanted a list"),
        (("records", 0), [], "records[0]: got [], wanted an object"),
        (("records", 0, "median_ms"), "1", 'records[0].median_ms: got "1", wanted a number'),
        (("records", 0, "median_ms"), -1, "records[0].median_ms: got -1.0, wanted more than 0"),
        (("records", 0, "median_ms"), float("nan"), "records[0].median_ms: got NaN, wanted a number"),
        (("records", 1, "median_ms"), -1, "records[1].median_ms: got -1.0, wanted 0 or more"),
        (("records", 0, "median_ms"), 0, "records[0].median_ms: got 0.0, wanted more than 0"),
        (("records", 0, "threads"), 1.5, "records[0].threads: got 1.5, wanted an integer"),
        (("records", 0, "runs"), True, "records[0].runs: got true, wanted an integer"),
        (("records", 0, "file_bytes"), 0, "records[0].file_bytes: got 0, wanted more than 0"),
        (("records", 0, "batch"), 0, "records[0].batch: got 0, wanted more than 0"),
        (("records", 0, "ratio", "p10"), 0, "p10, median, p90: got [0.0, 4.0, 4.1], wanted more than 0 each"),
        (("records", 0, "ratio"), {}, "records[0].ratio: the field 'baseline' is missing"),
    ],
)
def test_a_field_of_another_kind_is_named(tmp_path: Path, where: tuple[Any, ...], value: object, said: str) -> None:
    data = json.loads(REPORT.to_json())
    *outer, last = where
    inner = data
    for key in outer:
        inner = inner[key]
    inner[last] = value
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(data))
    with pytest.raises(BnasError, match=re.escape(said)):
        report.read_report(path)


def test_a_node_may_take_no_time(tmp_path: Path) -> None:
    quick = replace(REPORT, records=(RECORDS[0], *(replace(each, median_ms=0.0) for each in RECORDS[1:7])))
    assert report.read_report(save(tmp_path / "bench.json", quick)) == quick
    assert "0.0 %" in report.markdown(quick)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BnasError, match=r"none\.json: cannot be read: No such file"):
        report.read_report(tmp_path / "none.json")


def test_layers_are_grouped_by_shape_binary_first() -> None:
    assert rows.layer_rows(RECORDS) == [
        LayerRow(LAYER, BINARY, 2, {"bnas": 1500.0, "ort-fp32": 7500.0}),
        LayerRow("224x224 3->32 k3 s2 d1", FLOAT, 1, {"bnas": 500.0, "ort-fp32": 500.0}),
        LayerRow("somewhere_nchwc", FLOAT, 1, {"ort-fp32": 3000.0}),
        LayerRow("fc", CLASSIFIER, 1, {"bnas": 500.0, "ort-fp32": 500.0}),
    ]


def test_work_is_added_up_by_kind_glue_last() -> None:
    assert rows.kind_rows(RECORDS) == [
        KindRow(BINARY, {"bnas": 3000.0}),
        KindRow(FLOAT, {"bnas": 500.0, "ort-fp32": 18500.0}),
        KindRow(CLASSIFIER, {"bnas": 500.0, "ort-fp32": 500.0}),
        KindRow("concat", {"bnas": 750.0}),
        KindRow("add", {"bnas": 250.0, "ort-fp32": 250.0}),
    ]


INT8_TWIN = (
    replace(twin(NETWORK, 10.0, ratio=Ratio("ort-fp32", 1.9, 2.0, 2.1)), engine="ort-int8"),
    replace(twin("cells.0", 3.0, kind=INT8, layer=LAYER), engine="ort-int8"),
    replace(twin("quantise", 1.0, kind="quantise"), engine="ort-int8"),
)


def test_the_summary_is_made_of_the_records() -> None:
    (found,) = Report(MACHINE, (*RECORDS, *INT8_TWIN)).summaries
    assert (found.engine, found.threads, found.batch) == ("bnas", 1, 1)
    assert found.median_ms == {"bnas": 5.0, "ort-fp32": 20.0, "ort-int8": 10.0}
    assert found.times_as_fast == {"ort-fp32": 4.0, "ort-int8": 2.0}
    assert found.work == {
        "bnas": Breakdown(binary_us=3000.0, other_layers_us=1000.0, glue_us=1000.0),
        "ort-fp32": Breakdown(binary_us=0.0, other_layers_us=19000.0, glue_us=250.0),
        "ort-int8": Breakdown(binary_us=0.0, other_layers_us=3000.0, glue_us=1000.0),
    }
    assert found.glue_share == 0.2
    assert found.nodes_of_run == {"bnas": 1.0, "ort-fp32": 19.25 / 20, "ort-int8": 0.4}
    assert found.disturbed == ()
    # With 3 of 5 parts of the time for nothing, 2 are left: 5 / 2 times as fast. So on for the others.
    assert found.ceilings == Ceilings("ort-fp32", free_binary=10.0, free_glue=5.0, free_both=20.0)
    assert found.file_bytes == {"bnas": 250_000, "ort-fp32": 8_000_000}
    assert found.file_share == {"ort-fp32": 1 / 32}
    assert found.activation_bytes == {"bnas": 1_500_000}
    assert found.creation_ms == {"bnas": 25.0}


def test_the_summary_is_in_the_file_and_what_does_not_apply_is_not() -> None:
    (written,) = json.loads(REPORT.to_json())["summary"]
    (made,) = REPORT.summaries
    assert written == json.loads(
        json.dumps({k: v for k, v in asdict(made).items() if v is not None})
    )  # tuples as lists
    assert "thread_scaling" not in written
    assert "summary" not in json.loads(LAYERS.to_json())


def test_without_a_profile_there_is_no_share_and_no_ceiling() -> None:
    (found,) = Report(MACHINE, tuple(each for each in RECORDS if each.subject == NETWORK)).summaries
    assert (found.glue_share, found.ceilings, found.work) == (None, None, {})


def test_where_all_is_binary_nothing_limits_it() -> None:
    only = Report(MACHINE, RECORDS[:2])
    (found,) = only.summaries
    assert found.ceilings == Ceilings("ort-fp32", free_binary=None, free_glue=4.0, free_both=None)
    assert "ceiling: glue for nothing" in report.markdown(only)
    assert "ceiling: both for nothing" not in report.markdown(only)


def test_what_a_terminal_shows(tmp_path: Path) -> None:
    shown = text(report.read_report(save(tmp_path / "bench.json", REPORT)), 100)
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "Whole network, batch 1" in lines
    assert "1 bnas portable 5.000 5.500 6.000 50 4.00 3.90 to 4.10" in lines
    assert "1 ort-fp32 neon 20.00 22.00 24.00 50 - -" in lines
    assert "bnas 250.0 1.5 90.0 50.0 25.00" in lines
    assert "ort-fp32 8,000.0 - - - -" in lines
    assert "times as fast as ort-fp32 4.00" in lines
    assert "glue, of the time of all nodes 20.0 %" in lines
    assert "file size, of that of ort-fp32 1/32.00" in lines
    assert f"{LAYER} 2 1500 7500 5.00" in lines
    assert "224x224 3->32 k3 s2 d1 (float) 1 500 500 1.00" in lines
    assert "somewhere_nchwc (float) 1 - 3000 -" in lines
    assert "binary convolution 3000 60.0 % - -" in lines
    assert "glue 1000 20.0 % 250 1.3 %" in lines
    assert "fc (classifier) 1 500 500 1.00" in lines
    assert "all nodes 5000 100.0 % 19250 100.0 %" in lines
    assert "run, not profiled 5000 100.0 % 20000 103.9 %" in lines
    assert "governor performance" in lines
    assert "clock 1500 MHz, at most 1800 MHz" in lines
    assert lines[-1] == "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)."


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, text(REPORT, width).splitlines())) <= width


def test_no_row_is_folded_at_80_columns() -> None:
    row = next(line for line in text(REPORT, 80).splitlines() if "portable" in line)
    assert row.split()[-3:] == ["3.90", "to", "4.10"]


LONG_NAME = replace(REPORT, records=tuple(replace(each, engine=f"openvino-{each.engine}") for each in RECORDS))


@pytest.mark.parametrize(
    ("width", "shown", "note"),
    [
        (90, "threads engine ISA median ms p90 p99 runs ratio 10 to 90 %", ""),
        (85, "threads engine ISA median ms p90 p99 ratio 10 to 90 %", " Not shown, for want of width: runs."),
        (75, "threads engine ISA median ms p90 ratio 10 to 90 %", " Not shown, for want of width: runs, p99."),
        # Too narrow with everything left out that can be: then nothing is.
        (50, "threads engine ISA median ms p90 p99 runs ratio 10 to 90 %", ""),
    ],
)
def test_a_narrow_terminal_shows_fewer_columns(width: int, shown: str, note: str) -> None:
    lines = text(LONG_NAME, width).splitlines()
    assert " ".join(lines[1].split()) == shown
    assert " ".join(lines[3].split()).startswith("1 openvino-bnas portable 5.000 5.500 ")
    assert lines[3].endswith("3.90 to 4.10")
    about = " ".join(" ".join(lines[5 : lines.index("")]).split())
    assert about.endswith(f"median, 10th to 90th percentile.{note}")


@pytest.mark.parametrize("width", [20, 40, 60])
def test_a_row_stays_a_row_however_narrow_the_terminal(width: int) -> None:
    assert f"{LAYER}  " in text(REPORT, width)
    assert "224x224 3->32 k3 s2 d1 (float)  " in text(REPORT, width)


def test_a_file_has_no_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    written = io.StringIO()
    report.print_report(LONG_NAME, written)
    assert written.getvalue().splitlines() == text(LONG_NAME, 1000).splitlines()


def test_a_coloured_file_has_no_width_either(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = text(LONG_NAME, 1000)
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("FORCE_COLOR", "1")  # as where a log is shown on a page
    written = io.StringIO()
    report.print_report(LONG_NAME, written)
    assert "\x1b[1m" in written.getvalue()
    assert re.sub(r"\x1b\[[0-9;]*m", "", written.getvalue()) == wide


def test_markdown(tmp_path: Path) -> None:
    lines = report.markdown(report.read_report(save(tmp_path / "bench.json", REPORT))).splitlines()
    assert lines[2] == "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)."
    assert "| layer | nodes | bnas µs | ort-fp32 µs | ratio |" in lines
    assert f"| {LAYER} | 2 | 1500 | 7500 | 5.00 |" in lines
    assert "| CPU | Cortex-A72 \\| rev 3 (aarch64) |" in lines
    # Every table is one: a head, a rule and rows of the same number of cells.
    for rule in (i for i, line in enumerate(lines) if line.startswith(("| :--", "| --:"))):
        assert lines[rule - 1].count(" | ") == lines[rule].count(" | ")


def test_another_engine_is_another_column_and_row() -> None:
    int8 = [
        replace(binary(NETWORK, 10.0), engine="ort-int8", ratio=Ratio("ort-fp32", 1.9, 2.0, 2.1)),
        replace(binary("cells.0", 3.0, kind=FLOAT, layer=LAYER), engine="ort-int8"),
    ]
    shown = report.markdown(Report(MACHINE, (*RECORDS, *int8)))
    assert "| layer | nodes | bnas µs | ort-fp32 µs | ort-int8 µs | vs ort-fp32 | vs ort-int8 |" in shown
    assert f"| {LAYER} | 2 | 1500 | 7500 | 3000 | 5.00 | 2.00 |" in shown
    assert "bnas with 1 thread: 2.00 times as fast as ort-int8." in shown  # 4 times as fast as what it is 2 times


def test_an_engine_that_tells_no_times_of_nodes_has_no_column_for_them() -> None:
    silent = replace(binary(NETWORK, 4.0), engine="openvino-int8", ratio=Ratio("ort-fp32", 4.9, 5.0, 5.1))
    shown = report.markdown(Report(MACHINE, (*RECORDS, silent)))
    assert "| layer | nodes | bnas µs | ort-fp32 µs | ratio |" in shown
    assert "| work | bnas µs | share | ort-fp32 µs | share |" in shown
    assert "bnas with 1 thread: 0.80 times as fast as openvino-int8." in shown


def test_a_table_for_each_number_of_threads() -> None:
    twice = Report(MACHINE, (*RECORDS, *(replace(each, threads=2) for each in RECORDS)))
    titles = [table.title for table in report.tables(twice)]
    assert titles == [
        "Whole network, batch 1",
        "In short",
        "Files, memory and loading",
        "Layers, 1 thread, batch 1",
        "Where the time goes, 1 thread, batch 1",
        "Layers, 2 threads, batch 1",
        "Where the time goes, 2 threads, batch 1",
        "Machine",
    ]


def batches() -> Report:
    """One and two threads, one and eight images, in the order in which they are measured."""
    found = []
    for batch, scaling in ((1, None), (8, Ratio("batch 1", 1.0, 1.25, 1.5))):
        for threads, times in ((1, None), (2, Ratio("1 thread", 1.5, 1.75, 2.0))):
            for each in RECORDS:
                made = replace(each, threads=threads, batch=batch)
                is_own = each.subject == NETWORK and each.engine == "bnas"
                found.append(replace(made, thread_scaling=times, batch_scaling=scaling) if is_own else made)
    return Report(MACHINE, tuple(found))


def test_several_batches_are_columns_and_times_an_image(tmp_path: Path) -> None:
    made = report.read_report(save(tmp_path / "bench.json", batches()))
    assert made == batches()
    lines = report.markdown(made).splitlines()
    cells = ("2", "8", "bnas", "portable", "5.000", "0.625", "5.500", "6.000", "50", "4.00", "3.90 to 4.10")
    assert f"| {' | '.join(f'**{cell}**' for cell in cells)} |" in lines
    assert "|  | 1 thread, batch 1 | 2 threads, batch 1 | 1 thread, batch 8 | 2 threads, batch 8 |" in lines
    assert "| times the images a second of 1 thread | - | 1.75 | - | 1.75 |" in lines
    assert "| times the images a second of batch 1 | - | - | 1.25 | 1.25 |" in lines
    assert "bnas with 2 threads, batch 8: 4.00 times as fast as ort-fp32 (3.90 to 4.10)." in lines


@pytest.mark.parametrize("width", [80, 120])
def test_several_batches_are_not_wider_than_the_terminal(width: int) -> None:
    assert max(map(len, text(batches(), width).splitlines())) <= width


def test_names_are_no_markup() -> None:
    odd = binary("[bold]x[/bold]", 1.0, kind=BINARY)
    assert "[bold]x[/bold]" in text(Report(MACHINE, (odd,)), 100)


@pytest.mark.parametrize(("p90", "said"), [(4.1, False), (9.0, True)])
def test_a_wide_spread_is_pointed_out(p90: float, said: bool) -> None:
    network = binary(NETWORK, 5.0, ratio=Ratio("ort-fp32", 3.9, 4.0, p90))
    assert ("The ratios spread widely" in report.markdown(Report(MACHINE, (network,)))) is said


DISTURBED = Ratio("ort-fp32", 0.91, 2.02, 91.0, pairs=40, preempted=33, disturbed=True)


def test_preempted_runs_are_counted_where_there_were_some() -> None:
    assert "reempted" not in report.markdown(REPORT)
    network = replace(RECORDS[0], runs=38, preempted=12)
    lines = report.markdown(Report(MACHINE, (network, *RECORDS[1:]))).splitlines()
    cells = ("1", "bnas", "portable", "5.000", "5.500", "6.000", "38", "12", "4.00", "3.90 to 4.10")
    assert f"| {' | '.join(f'**{cell}**' for cell in cells)} |" in lines
    assert "| 1 | ort-fp32 | neon | 20.00 | 22.00 | 24.00 | 50 | 0 | - | - |" in lines
    said = "Preempted: runs in which another program had the processor; they are left out."
    assert any(said in line for line in lines)
    assert lines[2] == "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)."


def test_where_too_few_runs_were_undisturbed_the_headline_has_no_figure() -> None:
    network = replace(RECORDS[0], runs=40, preempted=30, disturbed=True, ratio=DISTURBED)
    other = replace(INT8_TWIN[0], ratio=replace(DISTURBED, disturbed=False))
    made = Report(MACHINE, (network, *RECORDS[1:], other))
    lines = report.markdown(made).splitlines()
    why = "not to be told, because other programs had the processor in 33 of 40 pairs of runs, and 10 others are needed"
    assert lines[2:4] == [
        f"bnas with 1 thread against {other}: {why}. Measure longer (--min-seconds), or on a quiet machine."
        for other in ("ort-fp32", "ort-int8")
    ]
    assert "| **times as fast as ort-fp32** | **2.02?** |" in lines
    assert "Where these leave fewer than 10, they count, too." in report.markdown(made)
    assert made.summaries[0].disturbed == ("ort-fp32", "ort-int8")
    assert json.loads(made.to_json())["records"][0]["disturbed"] is True


def test_a_twin_that_was_disturbed_has_no_figure_either() -> None:
    other = replace(INT8_TWIN[0], ratio=DISTURBED)
    lines = report.headline(Report(MACHINE, (*RECORDS, other))).splitlines()
    assert lines[0] == "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)."
    assert lines[1].startswith("bnas with 1 thread against ort-int8: not to be told, because other programs had the")


def test_where_preempted_runs_are_not_told_apart_it_is_said() -> None:
    records = tuple(replace(each, preempted=None) for each in RECORDS)
    said = "It is not known in which runs other programs had the processor; all count."
    assert said in report.markdown(Report(MACHINE, records))
    assert said not in report.markdown(REPORT)


@pytest.mark.parametrize(("median_ms", "warned"), [(3.9, False), (3.8, True)])
def test_nodes_that_add_up_to_more_than_the_run_are_warned_of(median_ms: float, warned: bool) -> None:
    shown = report.markdown(Report(MACHINE, (replace(RECORDS[0], median_ms=median_ms), *RECORDS[1:])))
    assert f"All nodes are {5 / median_ms:.2f} times the run of bnas, 0.96 times the run of ort-fp32." in shown
    assert ("WARNING: that is more than 1.3 for bnas; the profiler or other programs slowed" in shown) is warned


@pytest.mark.parametrize(("median_ms", "warned"), [(6.4, False), (6.6, True)])
def test_a_run_that_takes_longer_than_its_nodes_is_warned_of(median_ms: float, warned: bool) -> None:
    shown = report.markdown(Report(MACHINE, (replace(RECORDS[0], median_ms=median_ms), *RECORDS[1:])))
    assert ("WARNING: the run is more than 1.3 times its nodes for bnas; other programs slowed it" in shown) is warned


def test_single_layers_that_were_disturbed_are_marked_and_not_in_the_headline() -> None:
    records = [
        replace(each, ratio=DISTURBED) if each.subject == LAYER and each.ratio else each for each in LAYERS.records
    ]
    shown = report.markdown(replace(LAYERS, records=tuple(records))).splitlines()
    layers = "(1 layer; 1 more not to be told, because of other programs)"
    assert shown[2] == f"bnas with 1 thread: 10.00 to 10.00 times as fast as ort-fp32 {layers}."
    assert "bnas with 2 threads against ort-fp32: not to be told, because other programs had the processor in most" in (
        " ".join(shown)
    )
    assert f"| {LAYER} | 48 | 2.02? | 1.00? | 1.00? |" in shown


def test_what_the_system_does_not_tell_is_said() -> None:
    silent = replace(MACHINE, cores=None, governor=None, clock_mhz=None, max_clock_mhz=None, memory_bytes=None)
    shown = report.markdown(Report(replace(silent, virtual=True, isa_flags=()), RECORDS))
    for line in (
        "| CPU | Cortex-A72 \\| rev 3 (aarch64, virtual machine) |",
        "| ISA | nothing beyond the base |",
        "| cores | unknown, 4 threads usable |",
        "| governor | not told by this system |",
        "| clock | not told by this system |",
        "| memory | not told by this system |",
    ):
        assert line in shown


@pytest.mark.parametrize(
    ("every_bit", "said"),
    [(True, "agrees in every bit with"), (False, "agrees, as far as K has a defined value, with")],
)
def test_what_was_checked_is_said(every_bit: bool, said: bool) -> None:
    shown = report.answer(AnswerCheck(images=8, every_bit=every_bit, largest_difference=1.21e-6, tolerance=1e-5))
    assert shown.startswith(f"Answer checked on 8 images: the operator library {said} onnxruntime without it,")
    assert shown.endswith("is 1.2e-06 (rounding explains 1e-05).")


# --------------------------------------------------------------------------------------------------------------------
# Single layers

OTHER_LAYER = "32x32 36->36 k3 s1 d1"


def single(subject: str, engine: str, threads: int, median_ms: float, ratio: float | None, **fields: object) -> Record:
    to_baseline = None if ratio is None else Ratio("ort-fp32", ratio * 0.9, ratio, ratio * 1.1)
    made = binary(subject, median_ms, engine=engine, threads=threads, ratio=to_baseline, macs=12_000_000)
    return replace(made, **fields)


LAYERS = Report(
    MACHINE,
    (
        single(LAYER, "bnas", 1, 0.25, 8.0, isa="avx2"),
        single(LAYER, "ort-fp32", 1, 2.0, None),
        single(LAYER, "ort-int8", 1, 0.75, 2.5, format="U8S8"),
        single(LAYER, "openvino-binary", 1, 0.5, 4.0),
        single(OTHER_LAYER, "bnas", 1, 0.04, 10.0, isa="avx2"),
        single(OTHER_LAYER, "ort-fp32", 1, 0.4, None),
        single(OTHER_LAYER, "ort-int8", 1, 0.1, 4.0, format="S8S8"),
        single(LAYER, "bnas", 2, 0.125, 8.0, isa="avx2"),
        single(LAYER, "ort-fp32", 2, 1.0, None),
    ),
    (LeftOut("openvino-binary", OTHER_LAYER, WRONG_RESULT), LeftOut("larq", None, "it is not installed")),
)


def test_single_layers_come_back_from_json(tmp_path: Path) -> None:
    assert report.read_report(save(tmp_path / "layers.json", LAYERS)) == LAYERS
    first, *_ = json.loads(LAYERS.to_json())["records"]
    assert (first["subject"], first["macs"], first["ratio"]["baseline"]) == (LAYER, 12_000_000, "ort-fp32")


def test_rows_of_single_layers() -> None:
    one, other = rows.single_rows(LAYERS.records, threads=1)
    us = {"bnas": 250.0, "ort-fp32": 2000.0, "ort-int8": 750.0, "openvino-binary": 500.0}
    times_as_fast = {"ort-fp32": 8.0, "ort-int8": 3.2, "openvino-binary": 2.0}
    assert one == SingleRow(LAYER, 12_000_000, us, times_as_fast, scaling=None)
    assert one.gmacs_per_second["bnas"] == 48.0  # 12 million in 250 microseconds
    assert other.times_as_fast == {"ort-fp32": 10.0, "ort-int8": 2.5}
    (two_threads,) = rows.single_rows(LAYERS.records, threads=2)
    assert two_threads.scaling == 2.0


def test_without_a_baseline_medians_are_compared() -> None:
    records = [single(LAYER, "bnas", 1, 0.25, None), single(LAYER, "ort-int8", 1, 0.75, None)]
    assert [row.times_as_fast for row in rows.single_rows(records, threads=1)] == [{"ort-int8": 3.0}]


def test_what_a_terminal_shows_of_single_layers() -> None:
    shown = text(LAYERS, 80)
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "Microseconds of single layers, 1 thread, batch 1" in lines
    assert f"{LAYER} 12.0 250 2000 750 500" in lines
    assert f"{OTHER_LAYER} 12.0 40.0 400 100 wrong" in lines
    assert "Speed of bnas on single layers, 1 thread, batch 1" in lines
    assert f"{LAYER} 48 8.00 3.20 2.00" in lines
    assert f"{OTHER_LAYER} 300 10.00 2.50 -" in lines
    assert f"{LAYER} 96 8.00 2.00" in lines
    said = " ".join(lines)
    assert "Kernels: bnas avx2, ort-fp32 portable, ort-int8 portable U8S8/S8S8, openvino-binary portable." in said
    assert "wrong: the result of the engine for this layer was not right, so it was not timed." in said
    assert "Not measured: larq, because it is not installed." in said
    assert "bnas with 1 thread: 2.50 to 3.20 times as fast as ort-int8 (2 layers)." in lines
    assert lines[-1] == "bnas with 2 threads: 8.00 to 8.00 times as fast as ort-fp32 (1 layer)."
    assert max(map(len, shown.splitlines())) <= 80


def test_only_tables_with_something_to_say_are_shown() -> None:
    assert [table.title for table in report.tables(LAYERS)] == [
        "Microseconds of single layers, 1 thread, batch 1",
        "Speed of bnas on single layers, 1 thread, batch 1",
        "Microseconds of single layers, 2 threads, batch 1",
        "Speed of bnas on single layers, 2 threads, batch 1",
        "Machine",
    ]


def test_single_layers_in_markdown() -> None:
    lines = report.markdown(LAYERS).splitlines()
    assert "| layer | MMAC | bnas | ort-fp32 | ort-int8 | openvino-binary |" in lines
    assert f"| {OTHER_LAYER} | 12.0 | 40.0 | 400 | 100 | wrong |" in lines
    assert "| layer | GMAC/s | ort-fp32 | 1 thread |" in lines


def test_what_an_engine_cannot_run_is_a_dash() -> None:
    unsupported = replace(LAYERS, left_out=(LeftOut("openvino-binary", OTHER_LAYER, NOT_SUPPORTED),))
    shown = report.markdown(unsupported)
    assert f"| {OTHER_LAYER} | 12.0 | 40.0 | 400 | 100 | - |" in shown
    assert "wrong" not in shown
