"""`bnas-deploy report` on made-up reports: one again, several side by side, and every refusal."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bnas_deploy import report
from bnas_deploy.commands.report import command
from bnas_deploy.report import Report
from bnas_deploy.report.comparison import Comparison, column_names, compare, layer_lines, network_lines, work_lines
from bnas_deploy.runtime.bench.machine import Machine, read_machine
from bnas_deploy.runtime.bench.memory import PeakMemory
from bnas_deploy.runtime.bench.profile import BINARY, FLOAT
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record
from bnas_deploy.runtime.bench.subject import RunSetting

LAYER = "56x56 64->64 k3 s1 d1"
ONE_THREAD = RunSetting(threads=1, batch=1)


def measured(subject: str, engine: str, median_ms: float, **fields: Any) -> Record:
    return replace(Record(subject, engine, "neon", 1, 1, 50, median_ms, median_ms, median_ms), **fields)


def network_records(factor: float) -> tuple[Record, ...]:
    """A network on a machine that takes `factor` times as long as the first."""
    return (
        measured(
            NETWORK,
            "bnas",
            5.0 * factor,
            ratio=Ratio("ort-fp32", 3.9, 4.0, 4.1),
            file_bytes=250_000,
            memory=PeakMemory(90_000_000, 50_000_000, 1_500_000),
            creation_ms=25.0 * factor,
        ),
        measured("cells.0", "bnas", 3.0 * factor, kind=BINARY, layer=LAYER),
        measured("add", "bnas", 1.0 * factor, kind="add"),
        measured(NETWORK, "ort-fp32", 20.0 * factor, file_bytes=8_000_000),
        measured("cells.0", "ort-fp32", 18.0 * factor, kind=FLOAT, layer=LAYER),
    )


@pytest.fixture(scope="module")
def machine() -> Machine:
    return replace(read_machine(), cpu="desk", bnas_deploy="0.1.0", onnxruntime="1.31.1", date="2026-01-01")


@pytest.fixture
def desk(machine: Machine) -> Report:
    return Report(machine, network_records(1), network="BNAS-A")


@pytest.fixture
def board(machine: Machine) -> Report:
    return Report(replace(machine, cpu="board"), network_records(4), network="BNAS-A")


@pytest.fixture
def layers(machine: Machine) -> Report:
    ratio = Ratio("ort-fp32", 7, 8, 9)
    own = measured(LAYER, "bnas", 0.25, macs=10**6, ratio=ratio)
    return Report(machine, (own, measured(LAYER, "ort-fp32", 2.0, macs=10**6)))


def slower(made: Report, factor: float) -> Report:
    return replace(made, records=tuple(replace(each, median_ms=each.median_ms * factor) for each in made.records))


def save(folder: Path, **reports: Report) -> list[Path]:
    files = [folder / f"{name}.json" for name in reports]
    for file, made in zip(files, reports.values(), strict=True):
        file.write_text(made.to_json(), encoding="utf-8")
    return files


def show(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments], env={"COLUMNS": "100"})


def rows_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


# --------------------------------------------------------------------------------------------------------------------
# Names


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ([{"cpu": "desk"}, {"cpu": "board"}], ("desk", "board")),
        ([{}, {"bnas_deploy": "0.2.0"}], ("bnas-deploy 0.1.0", "bnas-deploy 0.2.0")),
        (
            [{}, {"cpu": "board", "bnas_deploy": "0.2.0"}],
            ("desk, bnas-deploy 0.1.0", "board, bnas-deploy 0.2.0"),
        ),
        ([{}, {"onnxruntime": "1.17.3"}], ("onnxruntime 1.31.1", "onnxruntime 1.17.3")),
        # What differs and tells none apart stays away.
        ([{}, {"cpu": "board", "onnxruntime": "1.17.3"}], ("desk", "board")),
        ([{}, {"date": "2026-02-02"}], ("2026-01-01", "2026-02-02")),
        ([{}, {}], ("0.json", "1.json")),
    ],
    ids=["machine", "version", "both", "onnxruntime", "no more than needed", "date", "file"],
)
def test_columns_are_called_by_what_they_do_not_share(
    desk: Report, changes: list[dict[str, str]], names: tuple[str, ...]
) -> None:
    reports = [replace(desk, machine=replace(desk.machine, **change)) for change in changes]
    assert column_names([Path(f"{i}.json") for i in range(len(reports))], reports) == names


def test_networks_and_kernels_are_names_too(desk: Report) -> None:
    other = replace(desk, network="BNAS-D")
    assert column_names([Path("a"), Path("b")], [desk, other]) == ("BNAS-A", "BNAS-D")
    forced = replace(desk, records=tuple(replace(each, isa="generic") for each in desk.records))
    assert column_names([Path("a"), Path("b")], [desk, forced]) == ("neon", "generic")


def test_one_file_three_times_has_three_names(desk: Report, board: Report) -> None:
    names = column_names([Path("a"), Path("a"), Path("b"), Path("a")], [desk, desk, board, desk])
    assert len(set(names)) == 4


# --------------------------------------------------------------------------------------------------------------------
# Numbers


def values(comparison: Comparison) -> dict[str, tuple[float | None, ...]]:
    lines = [make(comparison, ONE_THREAD) for make in (network_lines, layer_lines, work_lines)]
    return {line.label: line.values for each in lines for line in each}


def test_figures_stand_side_by_side(desk: Report, board: Report) -> None:
    found = values(compare([Path("a"), Path("b")], [desk, board]))
    assert found["bnas ms"] == (5.0, 20.0)
    assert found["ort-fp32 ms"] == (20.0, 80.0)
    assert found["times as fast as ort-fp32"] == (4.0, 4.0)
    assert found["glue, of the time of all nodes"] == (0.25, 0.25)
    assert found["file kB"] == (250_000, 250_000)
    assert found["activations MB"] == (1_500_000, 1_500_000)
    assert found["session ms"] == (25.0, 100.0)
    assert found[LAYER] == (3000.0, 12000.0)
    assert found["binary convolution"] == (3000.0, 12000.0)
    assert found["glue"] == found["  add"] == (1000.0, 4000.0)


def test_what_one_report_lacks_is_none(desk: Report, board: Report) -> None:
    without = replace(board, records=tuple(each for each in board.records if each.engine == "bnas" and not each.layer))
    found = values(compare([Path("a"), Path("b")], [desk, without]))
    assert found["ort-fp32 ms"] == (20.0, None)
    assert found[LAYER] == (3000.0, None)


def test_only_what_several_were_measured_with_is_shown(desk: Report, board: Report) -> None:
    twice = replace(board, records=(*board.records, *(replace(each, threads=2) for each in board.records)))
    assert compare([Path("a"), Path("b")], [desk, twice]).settings == [ONE_THREAD]
    two = replace(board, records=tuple(replace(each, threads=2) for each in board.records))
    assert compare([Path("a"), Path("b")], [desk, two]).settings == [ONE_THREAD, RunSetting(threads=2, batch=1)]


# --------------------------------------------------------------------------------------------------------------------
# The command


def test_several_side_by_side(tmp_path: Path, desk: Report, board: Report) -> None:
    html, markdown = tmp_path / "c.html", tmp_path / "c.md"
    result = show(*save(tmp_path, a=desk, b=board), "--html", html, "--markdown", markdown)
    assert result.exit_code == 0, result.output
    lines = rows_of(result.output)
    assert "Whole network, 1 thread, batch 1" in lines
    assert "bnas ms 5.000 20.00 (0.25)" in lines
    assert "times as fast as ort-fp32 4.00 4.00" in lines
    assert f"{LAYER} 3000 12000 (0.25)" in lines
    assert lines[-1] == "board: bnas with 1 thread, batch 1, is 0.25 times as fast as in desk."
    written = markdown.read_text(encoding="utf-8")
    assert written.startswith("## Compared\n\nboard: bnas with 1 thread, batch 1, is 0.25 times as fast as in desk.\n")
    assert "|  | desk | board |" in written
    assert "| bnas ms | 5.000 | 20.00 (0.25) |" in written
    page = html.read_text(encoding="utf-8")
    assert "20.00 (0.25)" in page
    (block,) = re.findall('<script type="application/json" id="report">(.*?)</script>', page, re.DOTALL)
    first, second = json.loads(block)
    assert (first.pop("name"), first.pop("file")) == ("desk", str(tmp_path / "a.json"))
    assert (second.pop("name"), second.pop("file")) == ("board", str(tmp_path / "b.json"))
    assert [first, second] == [json.loads(made.to_json()) for made in (desk, board)]


def test_the_picture_has_a_bar_for_each(tmp_path: Path, desk: Report, board: Report) -> None:
    html = tmp_path / "c.html"
    assert show(*save(tmp_path, a=desk, b=board), "--html", html).exit_code == 0
    texts = re.findall(r"<text[^>]*>([^<]*)", html.read_text(encoding="utf-8"))
    at = texts.index("bnas ms")
    assert texts[at + 1 : at + 3] == ["5.000", "20.00"]
    at = texts.index(LAYER.replace(">", "&gt;"))
    assert texts[at + 1 : at + 3] == ["3000", "12000"]


def test_different_networks_are_not_divided(tmp_path: Path, desk: Report, board: Report) -> None:
    result = show(*save(tmp_path, a=desk, d=replace(board, network="BNAS-D")))
    assert result.exit_code == 0, result.output
    lines = rows_of(result.output)
    assert "bnas ms 5.000 20.00" in lines
    assert "times as fast as ort-fp32 4.00 4.00" in lines
    assert "(0.25)" not in result.output
    assert "In brackets" not in result.output


def test_single_layers_side_by_side(tmp_path: Path, layers: Report) -> None:
    other = slower(replace(layers, machine=replace(layers.machine, cpu="board")), 2)
    html = tmp_path / "c.html"
    result = show(*save(tmp_path, a=layers, b=other), "--html", html)
    assert result.exit_code == 0, result.output
    lines = rows_of(result.output)
    assert f"{LAYER} 250 500 (0.50)" in lines
    assert "bnas: times as fast as ort-fp32, 1 thread, batch 1" in lines
    assert f"{LAYER} 8.00 8.00" in lines
    assert "500 (0.50)" in html.read_text(encoding="utf-8")


def test_one_report_is_shown_as_bench_showed_it(tmp_path: Path, desk: Report) -> None:
    html, markdown = tmp_path / "a.html", tmp_path / "a.md"
    result = show(*save(tmp_path, a=desk), "--html", html, "--markdown", markdown)
    assert result.exit_code == 0, result.output
    assert "bnas with 1 thread: 4.00 times as fast as ort-fp32 (3.90 to 4.10)." in result.output
    assert html.read_text(encoding="utf-8") == report.report_page(desk)
    assert markdown.read_text(encoding="utf-8") == report.markdown(desk)


def test_names_from_files_are_no_markup(tmp_path: Path, desk: Report, board: Report) -> None:
    odd = replace(board, machine=replace(board.machine, cpu="[bold]</script><b>|"))
    html, markdown = tmp_path / "c.html", tmp_path / "c.md"
    result = show(*save(tmp_path, a=desk, b=odd), "--html", html, "--markdown", markdown)
    assert "[bold]</script><b>|" in result.output
    page = html.read_text(encoding="utf-8")
    assert "<b>" not in page
    assert page.count("</script>") == 1
    assert "[bold]</script><b>\\|" in markdown.read_text(encoding="utf-8")


def test_networks_and_layers_do_not_mix(tmp_path: Path, desk: Report, layers: Report) -> None:
    a, b = save(tmp_path, a=desk, b=layers)
    result = show(a, b)
    assert result.exit_code == 1
    assert (
        f"{b}: a report of single layers, and {a} is one of a network; "
        "compare reports of `bench BUNDLE`, or of `bench-layers`" in result.output
    )
    assert f"{a}: a report of a network, and {b} is one of single layers" in show(b, a).output


def test_an_empty_report_is_refused(tmp_path: Path, desk: Report) -> None:
    a, b = save(tmp_path, a=desk, b=replace(desk, records=()))
    result = show(a, b)
    assert result.exit_code == 1
    assert f"{b}: nothing was measured in it; make another with `bnas-deploy bench --json`" in result.output


def test_what_is_no_report_is_refused(tmp_path: Path, desk: Report) -> None:
    (a,) = save(tmp_path, a=desk)
    other = tmp_path / "other.json"
    other.write_text("[]", encoding="utf-8")
    assert f"{other}: not a file of `bnas-deploy bench --json`" in show(a, other).output
    missing = show(a, tmp_path / "none.json")
    assert missing.exit_code == 1
    assert "none.json: cannot be read: No such file or directory" in missing.output


def test_no_file_is_a_usage_error() -> None:
    result = show()
    assert result.exit_code == 2
    assert "A.json [B.json ...]" in result.output


def test_outputs_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    result = show(tmp_path / "none.json", "--html", tmp_path / "x", "--markdown", tmp_path / "x")
    assert result.exit_code == 2
    assert "--markdown and --html name the same file" in result.output
    assert "cannot be written" in show(tmp_path / "none.json", "--html", tmp_path / "none" / "x").output


def test_a_report_that_is_read_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text("{}")
    result = show(file, "--html", tmp_path / "." / "a.json")
    assert result.exit_code == 2
    assert f"--html names {file}, which is read; give the name of another file" in " ".join(result.output.split())
    assert file.read_text() == "{}"
