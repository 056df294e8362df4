"""A process for an engine: it stands still between requests, errors come through, it ends with the one that asks."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bnas_deploy.core.errors import BnasError, BundleError
from bnas_deploy.runtime.bench import engine_process
from bnas_deploy.runtime.bench.engine_process import EngineProcess
from bnas_deploy.runtime.bench.engines import open_engine
from bnas_deploy.runtime.bench.layer_problems import problem, same_convolution
from bnas_deploy.runtime.bench.layers import open_variant
from bnas_deploy.runtime.bench.openvino import UnsupportedLayerError

LAYER = same_convolution(9, 36, 4, 3)


@pytest.fixture(scope="module")
def process() -> Iterator[EngineProcess]:
    with EngineProcess("bnas", threads=2) as process:
        yield process


def arguments(tmp_path: Path, engine: str = "bnas") -> dict[str, Any]:
    path = str(tmp_path / "layer.onnx")
    return {"engine": engine, "format": None, "layer": asdict(LAYER), "batch": 2, "path": path, "threads": 2}


def states_of(pid: int) -> set[str]:
    """What /proc says of every thread: T is stopped."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {stat.rpartition(")")[2].split()[0] for stat in stats}


def test_a_model_runs_there_and_its_process_stands_still_in_between(process: EngineProcess, tmp_path: Path) -> None:
    pid = process._process.pid
    opened = process.open(open_variant, **arguments(tmp_path))
    assert np.array_equal(opened.output, problem(LAYER, 2).binary_answer)
    assert states_of(pid) == {"T"}
    for run in (opened.run(), opened.run_twice()):
        assert run.ns > 0
        assert run.waited_ns is None or run.waited_ns >= 0
        assert states_of(pid) == {"T"}
    process.forget()
    assert states_of(pid) == {"T"}


def test_errors_come_through(process: EngineProcess, tmp_path: Path) -> None:
    np.savez(tmp_path / "inputs.npz", images=np.zeros((1, 3, 8, 8), np.float32))
    given = {"model": str(tmp_path / "none.onnx"), "inputs": str(tmp_path / "inputs.npz"), "threads": 2}
    with pytest.raises(BundleError) as refused:
        process.open(open_engine, engine="ort-fp32", **given)
    assert refused.value.message.startswith(f"{tmp_path / 'none.onnx'}: cannot be read: No such file or directory")
    # And the process is as good as before.
    assert process.open(open_variant, **arguments(tmp_path)).run().ns > 0


def refuse(reason: str) -> None:
    """An opener of an engine that has no code for a layer."""
    raise UnsupportedLayerError(reason)


def test_an_unsupported_layer_comes_through() -> None:
    opening = {"module": __name__, "function": "refuse", "output": "none", "arguments": {"reason": "no primitive"}}
    answers = io.BytesIO()
    engine_process._serve(io.BytesIO(json.dumps({"do": "open", **opening}).encode()), answers, threads=1)
    assert json.loads(answers.getvalue()) == {"error": "UnsupportedLayerError", "message": "no primitive"}
    assert engine_process.ERRORS["UnsupportedLayerError"] is UnsupportedLayerError


@pytest.mark.parametrize(("end", "name"), [(signal.SIGKILL, "SIGKILL"), (signal.SIGSEGV, "SIGSEGV")])
def test_a_process_that_the_system_ends_is_named(end: signal.Signals, name: str) -> None:
    with EngineProcess("ort-int8", threads=1) as process:
        os.kill(process._process.pid, end)
        with pytest.raises(BnasError) as refused:
            process.forget()
    assert refused.value.message == (
        f"ort-int8: its process was ended by {name}; nothing was measured. SIGKILL mostly means that the system was "
        "short of memory: end other programs, or measure fewer images at once"
    )


def test_a_bug_there_is_a_traceback_there_and_an_error_here(capfd: pytest.CaptureFixture[str]) -> None:
    with EngineProcess("bnas", threads=1) as process, pytest.raises(ChildProcessError, match="process of bnas ended"):
        process.open(open_engine, nonsense=1)
    assert "TypeError: open_engine() got an unexpected keyword argument" in capfd.readouterr().err


ASKING = """
import sys, time
from bnas_deploy.runtime.bench.engine_process import EngineProcess
with EngineProcess("bnas", threads=1) as process:
    process.forget()
    print(process._process.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda end: end.name)
def test_it_ends_with_the_one_that_asks(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", ASKING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdout
        assert asking.stderr
        pid = int(asking.stdout.readline())
        assert states_of(pid) == {"T"}
        assert os.getsid(pid) == pid  # so that Ctrl-C in a terminal does not reach it
        asking.send_signal(end)
        asking.wait()
        said = asking.stderr.read()
    assert said.count("Traceback") == (end == signal.SIGINT)  # the asking program's own
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists() and "Z" not in states_of(pid):
        assert time.monotonic() < deadline
        time.sleep(0.01)
