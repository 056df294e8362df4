"""Formats, operator set and version move together: who changes one is told which others to look at."""

import re
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import bnas_deploy
from bnas_deploy.core import bundle, history, latency_table, operators
from bnas_deploy.report import Report
from bnas_deploy.runtime.bench.machine import Machine
from bnas_deploy.runtime.bench.records import Record
from bnas_deploy.search.training import checkpoint, run

ROOT = Path(__file__).parents[1]

SERIES = {
    "0.2": {
        "bundle": 4,
        "checkpoint": 3,
        "resume": 2,
        "latency table": 2,
        "search history": 1,
        "operator set": 1,
        # A report of `bench --json` has no number: what a version does not know in it is passed over.
        "bench report": (
            "machine records left_out network settings",
            "cpu architecture isa_flags cores cpus virtual governor clock_mhz max_clock_mhz load_average "
            "memory_bytes os kernel python numpy onnxruntime bnas_deploy date temperature_c throttling "
            "clock_mhz_after temperature_c_after throttling_after",
            "subject engine isa threads batch runs median_ms p90_ms p99_ms ratio kind layer file_bytes memory "
            "creation_ms thread_scaling batch_scaling macs format preempted disturbed",
        ),
    },
}
"""What each series of versions, the first two numbers, writes. A released row never changes."""


def _written() -> dict[str, object]:
    """Return what this version writes."""
    return {
        "bundle": bundle.FORMAT_VERSION,
        "checkpoint": checkpoint.FORMAT_VERSION,
        "resume": run.FORMAT_VERSION,
        "latency table": latency_table.FORMAT_VERSION,
        "search history": history.FORMAT_VERSION,
        "operator set": operators.VERSION,
        "bench report": tuple(" ".join(field.name for field in fields(kind)) for kind in (Report, Machine, Record)),
    }


def _advice(version: str, changelog: str, written: dict[str, object]) -> str | None:
    """Say what has to be done before `version` can write so, or None."""
    series = ".".join(version.split(".")[:2])
    if series not in SERIES:
        return f"version {version}: add a row {series!r} with what it writes to SERIES, and leave the older rows alone"
    for what, number in written.items():
        if SERIES[series].get(what) != number:
            return (
                f"{what}: this version writes {number}, and {series} wrote {SERIES[series].get(what)}; if {series} was "
                f"released, raise bnas_deploy.__version__ and add a row; else change the row; tell it in CHANGELOG.md"
            )
    release = version.partition(".dev")[0]
    heading = f"## Unreleased: {release}" if release != version else f"## {version}"
    if heading not in changelog.splitlines():
        return f"version {version}: CHANGELOG.md has no heading {heading!r}; add it, with what is new for a user"
    return None


def _changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_formats_operator_set_version_and_changelog_agree() -> None:
    advice = _advice(bnas_deploy.__version__, _changelog(), _written())
    assert advice is None, advice


def test_the_version_stands_in_one_place() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+)?", bnas_deploy.__version__)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["dynamic"] == ["version"]
    assert project["tool"]["setuptools"]["dynamic"]["version"]["attr"] == "bnas_deploy.__version__"


@pytest.mark.parametrize("what", sorted(SERIES["0.2"]))
def test_another_format_alone_is_told(what: str) -> None:
    advice = _advice(bnas_deploy.__version__, _changelog(), _written() | {what: 99})
    assert advice is not None
    assert advice.startswith(f"{what}: this version writes 99, and 0.2 wrote ")
    assert "raise bnas_deploy.__version__ and add a row" in advice


@pytest.mark.parametrize(
    ("version", "advice"),
    [
        ("0.3.0.dev0", "version 0.3.0.dev0: add a row '0.3' with what it writes to SERIES"),
        ("0.2.0", "version 0.2.0: CHANGELOG.md has no heading '## 0.2.0'; add it"),
        ("0.2.7.dev1", "version 0.2.7.dev1: CHANGELOG.md has no heading '## Unreleased: 0.2.7'; add it"),
    ],
)
def test_another_version_alone_is_told(version: str, advice: str) -> None:
    told = _advice(version, "# Changelog\n\n## Unreleased: 0.2.0\n", _written())
    assert told is not None
    assert told.startswith(advice)
