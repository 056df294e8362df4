"""The table of latencies: what is written is what is read, and whatever is wrong with a file is named."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.latency_table import EXPECTED, RUN, LatencyTable, Workload, WorkloadTime, read_latency_table

POOL = Workload("MaxPool", (36, 32, 32), (36, 16, 16), kernel=(3, 3), stride=(2, 2))
TABLE = LatencyTable(
    machine={"cpu": "a processor", "cores": 4},
    isa="avx2",
    network={"name": "BNAS-A"},
    threads=2,
    batch=1,
    times=(WorkloadTime(RUN, 2.5, 2.0, 3.0, 10), WorkloadTime(POOL, 10.25, 10.0, 12.0, 10)),
)


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Write the table with one value replaced, or taken out where the new one is `...`."""

    def write(value: Any, *keys: str | int) -> Path:
        data = json.loads(TABLE.to_json())
        place = data
        for key in keys[:-1]:
            place = place[key]
        if value is ...:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        path = tmp_path / "device.json"
        path.write_text(json.dumps(data))
        return path

    return write


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "device.json").write_text(TABLE.to_json())
    assert read_latency_table(tmp_path / "device.json") == TABLE


def test_times_are_found_and_added_up() -> None:
    assert TABLE.us(POOL) == 10.25
    assert TABLE.total_us({RUN: 1, POOL: 3}) == 2.5 + 3 * 10.25


def test_a_workload_is_written_in_a_line() -> None:
    shapes = {"input": (64, 32, 16), "output": (48, 16, 8)}
    plain = Workload("Conv", **shapes)
    full = Workload("Conv", **shapes, kernel=(5, 3), stride=(2, 2), dilation=(1, 2), groups=4)
    assert str(plain) == "Conv 32x16 64->48"
    assert str(full) == "Conv 5x3 32x16 64->48 s2x2 d1x2 g4"
    assert str(Workload("Concat", (48, 8, 8), (48, 8, 8), parts=3)) == "Concat 8x8 48->48 of 3"


def test_a_workload_that_was_not_measured_is_named() -> None:
    with pytest.raises(BnasError) as refused:
        TABLE.us(Workload("BinaryConv2dRelu", (48, 16, 16), (48, 16, 16), kernel=(3, 3)))
    assert refused.value.message == (
        "the latency table has no time of BinaryConv2dRelu 3x3 16x16 48->48; it was measured for networks of the size "
        "of BNAS-A; measure the device again: bnas-deploy bench-ops --json DEVICE.json"
    )


@pytest.mark.parametrize(
    ("value", "keys", "message"),
    [
        (1, ("latency_format",), "format 1, this bnas-deploy reads 2; measure the device again with this version"),
        (..., ("latency_format",), f"not {EXPECTED} (no 'latency_format' in it)"),
        (..., ("times",), f"not {EXPECTED} (the field 'times' is missing)"),
        (..., ("times", 1, "stride"), f"not {EXPECTED} (times[1]: the field 'stride' is missing)"),
        ("2", ("threads",), f'not {EXPECTED} (threads: got "2", wanted an integer'),
        (True, ("batch",), f"not {EXPECTED} (batch: got true, wanted an integer"),
        (0, ("batch",), f"not {EXPECTED} (batch: got 0, wanted at least 1)"),
        (-3, ("threads",), f"not {EXPECTED} (threads: got -3, wanted at least 1)"),
        (0, ("times", 0, "runs"), f"not {EXPECTED} (times[0].runs: got 0, wanted at least 1)"),
        (..., ("machine", "cpu"), f"not {EXPECTED} (machine.cpu: got null, wanted text)"),
        ({}, ("times",), f"not {EXPECTED} (times: got {{}}, wanted a list)"),
        ([], ("times", 1), f"not {EXPECTED} (times[1]: got [], wanted an object)"),
        (
            "Conv7",
            ("times", 1, "operator"),
            f'not {EXPECTED} (times[1].operator: got "Conv7", wanted one of BinaryConv2dRelu, FusedAdd',
        ),
        (1.5, ("times", 1, "input"), f"not {EXPECTED} (times[1].input: got 1.5, wanted a list of 3)"),
        ([36, 1.5, 32], ("times", 1, "input"), f"not {EXPECTED} (times[1].input[1]: got 1.5, wanted an integer"),
        ([3, True], ("times", 1, "kernel"), f"not {EXPECTED} (times[1].kernel[1]: got true, wanted an integer"),
        ([3], ("times", 1, "kernel"), f"not {EXPECTED} (times[1].kernel: got [3], wanted a list of 2)"),
        (0, ("times", 1, "groups"), f"not {EXPECTED} (times[1].groups: got 0, wanted at least 1)"),
        (-1, ("times", 1, "median_us"), f"not {EXPECTED} (times[1].median_us: got -1.0, wanted 0 or more)"),
        (10**400, ("times", 1, "median_us"), f"not {EXPECTED} (times[1].median_us: got 10000"),
        (float("nan"), ("times", 1, "p10_us"), f"not {EXPECTED} (times[1].p10_us: got NaN, wanted a number"),
        (None, ("times", 0, "p90_us"), f"not {EXPECTED} (times[0].p90_us: got null, wanted a number"),
    ],
)
def test_a_damaged_file_says_what_and_where(
    changed: Callable[..., Path], value: Any, keys: tuple[str | int, ...], message: str
) -> None:
    path = changed(value, *keys)
    with pytest.raises(BnasError) as refused:
        read_latency_table(path)
    assert refused.value.message.startswith(f"{path}: {message}")


def test_a_workload_may_have_one_time_only(changed: Callable[..., Path]) -> None:
    first = json.loads(TABLE.to_json())["times"][0]
    with pytest.raises(BnasError, match=r"two times of Run 0x0 0->0; the file was changed or damaged"):
        read_latency_table(changed(first, "times", 1))


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1, 2", b"[" * 100_000, b"[]", b"3"])
def test_another_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "device.json").write_bytes(content)
    with pytest.raises(BnasError, match=r"device.json: not a latency table of `bnas-deploy bench-ops --json` \(.+\)$"):
        read_latency_table(tmp_path / "device.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BnasError, match=r"missing.json: cannot be read: No such file or directory"):
        read_latency_table(tmp_path / "missing.json")
