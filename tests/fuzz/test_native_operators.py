"""The bounded run of native_operators.py; see there for the long one."""

import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

MODELS = 60

FOUND = (38, 301, 90070, 95034)
"""A 0 in front of a PReLU whose slope is infinite or NaN: ONNX has 0 there, and the kernels had NaN.

Then two maxima that are not defined and differ: of NaN among others, and of -inf alone.
"""

SPEC = importlib.util.spec_from_file_location("native_operators", Path(__file__).with_name("native_operators.py"))
assert SPEC is not None
assert SPEC.loader is not None
native_operators = importlib.util.module_from_spec(SPEC)
sys.modules[SPEC.name] = native_operators  # its dataclasses look themselves up there
SPEC.loader.exec_module(native_operators)


def test_random_models_agree_with_the_reference_on_every_way() -> None:
    ways = native_operators.all_ways()
    outcomes = Counter(native_operators.check(seed, ways) for seed in range(MODELS))
    assert outcomes["right"] > 9 * MODELS // 10
    assert outcomes["refused"] > 0


@pytest.mark.parametrize("seed", FOUND)
def test_what_a_long_run_found_is_right(seed: int) -> None:
    assert native_operators.check(seed, native_operators.all_ways()) == "right"


def test_problems_are_of_every_kind() -> None:
    problems = [native_operators.problem(seed) for seed in range(MODELS)]
    cases = [problem.case for problem in problems]
    assert {problem.batch for problem in problems} == {0, 1, 2, 3}
    assert any(0 in case.size for case in cases)
    assert any(case.constant_channels for case in cases)
    assert any(case.group > 1 for case in cases)
    assert len({problem.row for problem in problems}) > MODELS // 3
