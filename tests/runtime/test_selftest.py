"""The self-test notices a wrong bit; tests/commands/test_doctor.py runs it for every kernel."""

from pathlib import Path

import numpy as np
import pytest

from bnas_deploy.runtime import selftest
from bnas_deploy.runtime.bench.layer_engines import LayerRunner, open_bnas
from bnas_deploy.runtime.bench.layer_problems import Problem
from bnas_deploy.runtime.selftest import LAYERS, run_selftest


@pytest.mark.parametrize("changed", ["open_bnas", "open_standard"])
def test_one_wrong_bit_is_noticed(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_bit_off(given: Problem, path: Path, threads: int) -> LayerRunner:
        runner = open_bnas(given, path, threads)
        if given.layer == LAYERS[1]:
            runner.output.view(np.uint32)[-1, -1, -1, -1] ^= 1
        return runner

    monkeypatch.setattr(selftest, changed, one_bit_off)
    *_, last = selftest._lines()
    assert last == {"layers": len(LAYERS), "wrong": [LAYERS[1].name]}


def test_kernels_that_do_not_exist_are_an_error() -> None:
    test = run_selftest("z80")
    assert not test.passed
    assert test.onnxruntime
    assert test.error
    assert test.error.startswith("BNAS_ISA is 'z80', and the kernels that run on this machine are ")
