"""Memory of a model whose need is known, asked of processes as `bench` does."""

from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.runtime.bench import memory
from bnas_deploy.runtime.bench.memory import peak_memory
from bnas_deploy.runtime.onnx_file.writer import NewNode, Value, model_bytes

MEGABYTE = 2**20
SHAPE = (1, 8, 256, 256)  # 2 MB of float32
INPUTS = {"x": ("float32", SHAPE)}
COUNTING_ERROR = MEGABYTE // 4
"""What Linux may count wrongly of a process on one processor, 32 pages, at both ends of a difference."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Two products of the input, each as large as it, that are there while they are joined."""
    constants = {name: np.full((1, 8, 1, 1), value, np.float32) for name, value in (("a", 2), ("b", 3))}
    nodes = [
        NewNode("Mul", ("x", "a"), "xa"),
        NewNode("Mul", ("x", "b"), "xb"),
        NewNode("Concat", ("xa", "xb"), "joined", {"axis": 1}),
        NewNode("GlobalMaxPool", ("joined",), "y"),
    ]
    path = tmp_path / "model.onnx"
    x, y = Value("x", "float32", SHAPE), Value("y", "float32", (1, 16, 1, 1))
    path.write_bytes(model_bytes(nodes, constants, [x], [y]))
    return path


def test_activations_are_what_is_held_at_once(model: Path) -> None:
    found = peak_memory("ort-fp32", model, INPUTS)
    assert found.activation_bytes == pytest.approx(8 * MEGABYTE, abs=COUNTING_ERROR)
    assert found.peak_bytes is not None
    assert found.import_bytes is not None
    assert found.peak_bytes - found.import_bytes > (8 + 2) * MEGABYTE  # the input too


@pytest.mark.parametrize("lacking", ["_forget_peak", "_return_freed_blocks"])
def test_what_the_system_does_not_tell_is_none(model: Path, monkeypatch: pytest.MonkeyPatch, lacking: str) -> None:
    monkeypatch.setattr(memory, lacking, lambda: False)
    monkeypatch.setattr("os.sched_setaffinity", lambda process, processors: None)  # this process is to keep its own
    assert memory._answer("activations", "ort-fp32", str(model), INPUTS) == {"activation_bytes": None}


def test_an_engine_that_takes_nothing_in_a_run_has_no_figure(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_return_freed_blocks", lambda: True)  # not in this process, which has others to serve
    monkeypatch.setattr(memory, "_growth_of", lambda runner: 0)
    monkeypatch.setattr("os.sched_setaffinity", lambda process, processors: None)
    assert memory._answer("activations", "ort-fp32", str(model), INPUTS) == {"activation_bytes": None}
