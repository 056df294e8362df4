"""Random models of one operator: library and function body against the numpy meaning, bit for bit, or a refusal.

A seed makes an operator, a geometry (empty images and images smaller than the kernel among them), a batch of 0 to 3
and numbers of which some are infinite, NaN, -0.0 or denormal. Every kernel that this CPU has runs it. For hours:

    python -P tests/fuzz/native_operators.py --minutes 30
    python -P tests/fuzz/native_operators.py --seed 123      # one again, with what it is
    python -P tests/fuzz/native_operators.py --isa generic body

BNAS_TEST_LIBRARY names another library, such as one with sanitizers.
"""

import argparse
import importlib.util
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime

from bnas_deploy.core import operators
from bnas_deploy.export import opset
from bnas_deploy.runtime.library import ISA_VARIABLE, kernel_rows

Arrays = dict[str, np.ndarray]


def _tests_of_operators() -> ModuleType:
    """Return the tests of the operators, which have what makes a model of one operator and its inputs."""
    path = Path(__file__).parents[1] / "runtime/test_native_operators.py"
    spec = importlib.util.spec_from_file_location("test_native_operators", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


tests = _tests_of_operators()

ODD = np.float32([np.nan, np.inf, -np.inf, -0.0, 0.0, 1e-45, -1e-45, 1e-38, 3e38, -3e38])
"""The denormals, and two whose sum overflows."""

BODY = "body"
"""The way without the library."""

MOST_FLOATS = 60_000
"""Of X or Y: numpy takes some milliseconds for as much."""


@dataclass(frozen=True)
class Problem:
    """What a seed makes; the same one every time."""

    row: operators.Operator
    case: Any
    batch: int
    odd: bool
    threads: int
    inputs: Arrays

    def __str__(self) -> str:
        odd = ", odd numbers" if self.odd else ""
        return f"{self.row.name}, batch {self.batch}, {self.threads} threads{odd}, {self.case}"


def problem(seed: int) -> Problem:
    """Return what `seed` makes."""
    rng = np.random.default_rng(seed)
    row = operators.OPERATORS[rng.integers(len(operators.OPERATORS))]
    batch, odd = int(rng.integers(0, 4)), bool(rng.random() < 0.3)
    case = _case(rng)
    if row.k_map:
        case, odd = replace(case, group=1, constant_channels=0), False
    if row.to_bits:
        case = replace(case, group=1)
    if not row.convolves:  # images of any size, empty ones among them
        case = replace(case, kernel=(1, 1), strides=(1, 1), pads=(0, 0, 0, 0), dilations=(1, 1))
        while case.channels_out * np.prod(case.size) > MOST_FLOATS:
            case = replace(case, size=(case.size[0] // 2, case.size[1] // 2))
    if row.convolves and min(case.out_size) < 1:
        row = replace(row, added=0, before=0, gate=False)  # there is nothing to add to
    inputs = tests.random_inputs(row, case, seed, batch)
    if row.k_map:  # which is not defined where X is not finite
        inputs |= {name: np.nan_to_num(value, posinf=1, neginf=1) for name, value in tests.feeds(inputs).items()}
    if odd:
        inputs = {name: _with_odd_numbers(name, value, rng) for name, value in inputs.items()}
    return Problem(row, case, batch, odd, int(rng.integers(1, 3)), inputs)


def _case(rng: np.random.Generator) -> Any:
    while True:
        case = _any_case(rng)
        rows, columns = case.out_size
        if rows < 1 or columns < 1:
            if rng.random() < 0.05:
                return case  # to be refused
            continue
        if max(case.channels * np.prod(case.size), case.channels_out * rows * columns) <= MOST_FLOATS:
            return case


def _any_case(rng: np.random.Generator) -> Any:
    def some(*choices: int) -> int:
        return int(rng.choice(choices))

    group = some(1, 1, 1, 2, 3, 5)
    kernel = (some(1, 2, 3, 3, 5), some(1, 2, 3, 3, 4, 7))
    side = (lambda: int(rng.integers(0, 4))) if rng.random() < 0.3 else (lambda: int(rng.integers(0, 65)))
    pads = (
        tuple(int(rng.integers(0, 4)) for _ in range(4)) if rng.random() < 0.5 else (kernel[0] // 2, kernel[1] // 2) * 2
    )
    return tests.Case(
        channels=group * some(1, 3, 4, 7, 8, 9, 31, 36, 64, 65, int(rng.integers(1, 300))),
        channels_out=group * some(1, 2, 3, 16, 17, 32, 64, int(rng.integers(1, 260))),
        kernel=kernel,
        size=(side(), side()),
        strides=(some(1, 1, 2, 3, 9), some(1, 1, 2, 3, 5)),
        pads=pads,
        dilations=(some(1, 1, 2, 3, 70), some(1, 1, 2, 3)),
        group=group,
        no_offset=bool(rng.random() < 0.5),
        constant_channels=some(0, 1, 8, int(rng.integers(0, 70))) if group == 1 else 0,
    )


def _with_odd_numbers(name: str, value: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if name in ("W", "pad", "offset", "place") or value.dtype == np.uint8:
        return value
    changed = value.copy()
    places = rng.random(value.shape) < 0.3
    odd = ODD[1:] if name in ("low", "high") else ODD  # a limit of NaN is not defined
    changed[places] = rng.choice(odd, int(places.sum()))
    return changed


def session_of(given: Problem, how: str) -> onnxruntime.InferenceSession:
    """Return a session with the kernels that `how` names, or one without the library where it is BODY."""
    model = tests.one_node_model(given.row.name, given.inputs, given.case.attributes)
    if how != BODY:
        with mock.patch.dict(os.environ, {ISA_VARIABLE: how}):
            return tests.native_session(model, given.threads)
    whole = onnx.load_from_string(model)
    constant = given.row.convolves and "constant_channels" in given.case.attributes
    whole.functions.append(opset.function(given.row.name, constant_channels=constant))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = given.threads
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(whole.SerializeToString(), options, ["CPUExecutionProvider"])


def check(seed: int, ways: Sequence[str]) -> str:
    """Run what `seed` makes and return "right" or "refused".

    Raises:
        AssertionError: an answer is wrong, or one refuses what another answers; the message tells it and the seed.
    """
    given = problem(seed)
    about = f"{given}\nagain: python -P tests/fuzz/native_operators.py --seed {seed}"
    least = 2 if given.row.max_pool else int(given.row.convolves)
    fits = min(given.case.out_size) >= least
    want = tests.expected(given.row, given.inputs, given.case) if fits else None
    for way in ways:
        try:
            (y,) = session_of(given, way).run(None, tests.feeds(given.inputs))
        except tests.REFUSED as error:
            if want is None:
                continue
            raise AssertionError(f"{way} refuses {about}\n{error}") from error
        if want is None and way == BODY and given.row.max_pool and min(given.case.out_size) == 1:
            continue  # onnxruntime's MaxPool takes one row for two, where the library says what is wrong
        assert want is not None, f"{way} answers {about}"
        if given.row.max_pool and not given.row.to_bits:  # of NaN, and of -inf alone, which onnxruntime makes finite
            y = np.where(np.isnan(want) | (want == -np.inf), want, y)  # the largest is not defined
        tolerance = _tolerance(given) if way == BODY else 0
        np.testing.assert_allclose(y, want, rtol=0, atol=tolerance, err_msg=f"{way} is wrong: {about}")
    return "right" if fits else "refused"


def _tolerance(given: Problem) -> float:
    """Return how far the body may be from the meaning: 0 without K.

    K has C + KH KW + 3 roundings in an order of its own, and each of product, bias, slope and two sums rounds numbers
    that are no larger than all terms together.
    """
    if not given.row.k_map or given.batch == 0:
        return 0
    named = {**given.inputs, "bias": np.zeros_like(given.inputs["bias"])}
    plain = replace(given.row, activation="", added=0)  # no operator with K is one of blocks
    product = float(np.abs(tests.expected(plain, {name: named[name] for name in plain.inputs}, given.case)).max())
    terms = product + sum(float(np.abs(given.inputs[name]).max()) for name in ("bias", *given.row.added_inputs))
    steepest = max(1.0, float(np.abs(given.inputs.get("slope", np.ones(1))).max()))
    height, width = given.case.kernel
    return 2.0**-24 * steepest * ((given.case.channels + height * width + 3) * product + 12 * terms)


def all_ways() -> list[str]:
    """Return the kernels of the library that this CPU has, and BODY."""
    return [*(row.isa for row in kernel_rows(tests.native_library()) if row.runs_here), BODY]


def main() -> None:
    """Run seeds one after the other, and print what goes wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--count", type=int, help="so many seeds, however long they take")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--seed", type=int, help="run this one alone and tell what it is")
    parser.add_argument("--isa", nargs="+", choices=all_ways(), help="only these kernels, or the function bodies")
    options = parser.parse_args()
    ways = options.isa or all_ways()
    if options.seed is not None:
        print(problem(options.seed), flush=True)
        print(check(options.seed, ways))
        return
    end, seed, counts = time.monotonic() + 60 * options.minutes, options.first, Counter[str]()
    while seed < options.first + options.count if options.count else time.monotonic() < end:
        try:
            counts[check(seed, ways)] += 1
        except AssertionError as error:
            counts["WRONG"] += 1
            print(error, flush=True)
        seed += 1
    print(f"{seed - options.first} models on {', '.join(ways)}: {dict(counts)}")
    sys.exit(1 if counts["WRONG"] else 0)


if __name__ == "__main__":
    main()
