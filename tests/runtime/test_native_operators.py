"""The operators of the library against their numpy meaning, bit for bit, and every message they refuse with.

test_native_builds.py runs these tests again with sanitizers in the library, and those with `edges` in their name with
other versions of onnxruntime; BNAS_TEST_LIBRARY names the library then.
"""

import ctypes
import mmap
import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, compose, helper, numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_errors

from bnas_deploy.core.bits import pack_signs
from bnas_deploy.core.operators import (
    BYTE,
    CONSTANTS,
    CONVOLUTIONS,
    DOMAIN,
    IMAGES,
    IR_VERSION,
    ONNX_OPSET,
    OPERATORS,
    VERSION,
    Operator,
    operator,
)
from bnas_deploy.export.opset import reference
from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import specs_of
from bnas_deploy.runtime.library import library_path

Arrays = dict[str, np.ndarray]
Change = Callable[[Arrays, dict[str, Any]], None]

ARCHITECTURE = platform.machine()
PORTABLE_ISAS = ("popcnt", "generic") if ARCHITECTURE == "x86_64" else ("generic",)
ISAS = [
    *(
        pytest.param(
            row.isa, marks=pytest.mark.skipif(not row.cpu_flags <= cpu_flags(), reason=f"needs {row.cpu_check}")
        )
        for row in specs_of(ARCHITECTURE)
    ),
    *PORTABLE_ISAS,
]
CONSTANT_NAMES = [constant.name for constant in CONSTANTS]
WITH_ALL_CONSTANTS = (
    Operator(activation="PRelu", affine=True),
    Operator(activation="Clip"),
    Operator(of_bits=True),
    Operator(to_bits=True),
    *(row for row in IMAGES if row.second_bit or row.reaches),
)
"""Each constant is an input of one of these."""
REFUSED = (onnxruntime_errors.InvalidArgument, onnxruntime_errors.Fail, onnxruntime_errors.RuntimeException)


@dataclass(frozen=True)
class Case:
    """One convolution; `channels` are those of X. With `no_offset` the offset is 0 throughout."""

    channels: int = 5
    channels_out: int = 3
    kernel: tuple[int, int] = (3, 3)
    size: tuple[int, int] = (7, 5)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (1, 1, 1, 1)
    dilations: tuple[int, int] = (1, 1)
    group: int = 1
    constant_channels: int = 0
    no_offset: bool = False

    @property
    def out_size(self) -> tuple[int, int]:
        rows, columns = (
            (self.size[i] + self.pads[i] + self.pads[2 + i] - self.dilations[i] * (self.kernel[i] - 1) - 1)
            // self.strides[i]
            + 1
            for i in (0, 1)
        )
        return rows, columns

    @property
    def attributes(self) -> dict[str, Any]:
        return {
            "weight_shape": [self.channels_out, *self.kernel, self.weight_channels],
            "strides": list(self.strides),
            "pads": list(self.pads),
            "dilations": list(self.dilations),
            "group": self.group,
            **({"constant_channels": [self.constant_channels]} if self.constant_channels else {}),
        }

    @property
    def weight_channels(self) -> int:
        return self.channels // self.group + self.constant_channels


EDGES = {
    # Around the word (64), the half word (32), the byte, the nibble and six bits; 36 and 144 are BNAS's.
    **{f"channels {n}": Case(channels=n) for n in (1, 3, 4, 5, 6, 7, 8, 13, 31, 32, 33, 36, 63, 64, 65, 96, 128, 144)},
    "one pixel": Case(size=(1, 1)),
    "kernel 1": Case(kernel=(1, 1), pads=(0, 0, 0, 0)),
    "kernel 2": Case(kernel=(2, 2), pads=(0, 0, 1, 1)),
    "kernel 5": Case(kernel=(5, 5), pads=(2, 2, 2, 2)),
    "kernel 1x5": Case(kernel=(1, 5), pads=(0, 2, 0, 2)),
    "kernel as large as the image": Case(kernel=(7, 5), pads=(0, 0, 0, 0)),
    "stride 2": Case(channels=65, strides=(2, 2)),
    "stride 3x1": Case(strides=(3, 1)),
    "stride past the image": Case(strides=(9, 9)),
    "dilation 2": Case(dilations=(2, 2), pads=(2, 2, 2, 2)),
    "dilation 1x3": Case(dilations=(1, 3), pads=(0, 3, 2, 1), channels=70),
    "no padding": Case(pads=(0, 0, 0, 0)),
    "asymmetric padding": Case(pads=(0, 1, 2, 3)),
    "whole kernels in the padding": Case(pads=(4, 5, 6, 4)),
    # Planes of 4, 6 or 8 channels: the last taps of one end past it, and the padding of the next one is another.
    "padding at the right": Case(channels=29, pads=(0, 0, 0, 3)),
    "padding at the right and below": Case(channels=29, channels_out=20, size=(9, 33), pads=(0, 0, 2, 5)),
    "padding at the right, stride 2": Case(channels=29, size=(9, 8), strides=(2, 2), pads=(0, 0, 1, 4)),
    "padding at the right, gathered": Case(size=(8, 8), channels=40, channels_out=150, pads=(0, 0, 2, 3)),
    "padding at the right, channel lanes": Case(size=(7, 7), channels=66, channels_out=509, pads=(0, 0, 1, 2)),
    # On ARM padding of zeros has no code.
    "a dense layer": Case(size=(1, 1), kernel=(1, 1), pads=(0, 0, 0, 0), channels=141, channels_out=300),
    "no padding, channel lanes": Case(size=(5, 6), pads=(0, 0, 0, 0), channels=66, channels_out=150),
    "no padding, channel lanes, stride 2": Case(
        size=(9, 9), pads=(0, 0, 0, 0), strides=(2, 2), channels=41, channels_out=133
    ),
    "padding far larger than the image": Case(size=(1, 2), channels=29, channels_out=18, pads=(9, 8, 7, 12)),
    "padding of steps alone": Case(channels=1, channels_out=18, kernel=(1, 1), size=(3, 17), pads=(1, 2, 1, 2)),
    # With AVX-512 VBMI up to 32 classes of pixels, which have the same taps in the padding, are looked up.
    "25 classes": Case(size=(20, 23), channels=40, channels_out=20, kernel=(5, 5), pads=(2, 2, 2, 2)),
    "25 classes, gathered": Case(size=(8, 8), channels=40, channels_out=150, kernel=(5, 5), pads=(2, 2, 2, 2)),
    "49 classes": Case(size=(20, 23), channels=40, channels_out=20, kernel=(7, 7), pads=(3, 3, 3, 3)),
    "49 classes, gathered": Case(size=(8, 8), channels=40, channels_out=150, kernel=(7, 7), pads=(3, 3, 3, 3)),
    # Nothing but padding: no pixel to pack, and outputs all the same.
    "no rows": Case(size=(0, 5), pads=(2, 2, 2, 2)),
    "no columns": Case(size=(5, 0), pads=(1, 2, 1, 2), channels=40, channels_out=20),
    "no pixels": Case(size=(0, 0), pads=(2, 1, 2, 3), strides=(2, 1)),
    "no columns, gathered": Case(size=(8, 0), pads=(1, 5, 1, 5), channels=40, channels_out=150),
    "no rows, channel lanes": Case(size=(0, 6), pads=(4, 1, 4, 1), channels=255, channels_out=128),
    "no columns, two groups": Case(
        size=(3, 0), pads=(1, 2, 1, 2), strides=(2, 2), channels=24, channels_out=128, group=2
    ),
    "two groups": Case(channels=6, channels_out=4, group=2),
    "groups of more than a word": Case(channels=3 * 65, channels_out=6, group=3, strides=(2, 1)),
    "depthwise": Case(channels=5, channels_out=5, group=5),
    # The epilogue takes up to four channels at once, and 16, 8, 4 or 1 of their pixels.
    "no offset": Case(channels_out=7, no_offset=True),
    "no offset, long rows": Case(size=(3, 61), channels_out=18, no_offset=True),
    "no offset, few pixels": Case(size=(3, 2), channels_out=9, no_offset=True),
    "no offset, channel lanes": Case(size=(7, 7), channels=66, channels_out=69, no_offset=True),
    # What constant channels add has few classes of rows; tiles are within a row, or of several rows.
    **{f"{n} constant channels": Case(constant_channels=n) for n in (1, 3, 4, 8, 13)},
    "constant channels, stride 2": Case(constant_channels=5, strides=(2, 2), channels_out=7),
    "constant channels, stride 3x1": Case(constant_channels=5, strides=(3, 1), size=(10, 12), pads=(0, 2, 2, 1)),
    "constant channels, dilation 2x3": Case(constant_channels=5, dilations=(2, 3), pads=(2, 3, 3, 1)),
    "constant channels, one pixel": Case(constant_channels=2, size=(1, 1)),
    "constant channels, one column": Case(constant_channels=2, size=(9, 1), kernel=(3, 1), pads=(1, 0, 1, 0)),
    "constant channels, a large kernel": Case(constant_channels=9, kernel=(7, 5), size=(4, 3), pads=(3, 2, 3, 2)),
    "constant channels, no image": Case(constant_channels=9, size=(0, 5), pads=(2, 2, 2, 2)),
    "constant channels, taps around the image": Case(
        constant_channels=9, kernel=(2, 2), size=(1, 1), dilations=(2, 2), pads=(3, 3, 3, 3)
    ),
    "constant channels, long rows": Case(constant_channels=20, channels=36, channels_out=35, size=(11, 61)),
    "constant channels, no gaps": Case(
        constant_channels=20, channels=36, channels_out=35, size=(11, 61), kernel=(3, 1), pads=(1, 0, 1, 0)
    ),
    "constant channels, gathered": Case(constant_channels=36, size=(8, 8), channels=40, channels_out=150),
    "constant channels, channel lanes": Case(constant_channels=30, size=(7, 7), channels=66, channels_out=509),
    "constant channels, more than 16 bits": Case(
        constant_channels=3, size=(2, 2), channels=22000, channels_out=2, pads=(1, 1, 0, 0)
    ),
    # Tiles have 128 and 16 pixels.
    "many tiles": Case(size=(19, 17), channels=40, channels_out=2),
    # Tiles of the other kernels have up to 256 pixels and 16 channels, and sum 252 bits before they widen.
    "tiles of long rows": Case(size=(11, 61), channels=9, channels_out=35),
    "tiles of short rows": Case(size=(23, 19), channels=9, channels_out=17, strides=(1, 1)),
    "tiles without gaps": Case(size=(21, 30), channels=6, channels_out=18, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "chunks": Case(size=(4, 4), channels=255, channels_out=16),
    "gathered": Case(size=(8, 8), channels=40, channels_out=150),
    "gathered, stride 2": Case(size=(15, 15), channels=40, channels_out=150, strides=(2, 2)),
    # Only so that loads are aligned: in pieces of 32 bytes, whose last one ends past the row or past the tile.
    "gathered for aligned loads": Case(size=(17, 33), channels=36, channels_out=36),
    "gathered for aligned loads, 30 wide": Case(size=(19, 30), channels=36, channels_out=36),
    # Lanes are channels where these fill vectors better than the pixels do; pixels go in pairs then.
    "dense": Case(size=(1, 1), channels=70, channels_out=330, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "dense under padding": Case(size=(1, 1), channels=37, channels_out=64),
    "channel lanes": Case(size=(6, 6), channels=255, channels_out=128),
    "channel lanes, odd rows": Case(size=(7, 7), channels=66, channels_out=509),
    "channel lanes, one column": Case(size=(9, 1), channels=36, channels_out=64, kernel=(3, 1), pads=(1, 0, 1, 0)),
    "channel lanes, one column left": Case(size=(9, 5), channels=36, channels_out=64, kernel=(3, 5), pads=(1, 0, 1, 0)),
    "channel lanes, stride 2": Case(size=(9, 7), channels=60, channels_out=128, strides=(2, 2)),
    "channel lanes, dilation 2": Case(size=(5, 5), channels=36, channels_out=64, dilations=(2, 2), pads=(2, 2, 2, 2)),
    "channel lanes, padding only": Case(size=(1, 2), channels=9, channels_out=64, pads=(3, 1, 2, 1)),
    "channel lanes, two groups": Case(size=(5, 3), channels=24, channels_out=128, strides=(2, 2), group=2),
    "more than 16 bits can count": Case(size=(1, 2), channels=66000, channels_out=1, kernel=(1, 1), pads=(0, 0, 0, 0)),
    # 65 pixels in 63 planes, which is 64 vectors but for a byte: the last pixel begins a vector that ends past them.
    "a vector past the end": Case(size=(5, 13), channels=252, channels_out=2, kernel=(1, 1), pads=(0, 0, 0, 0)),
    "as many pixels as are packed at once": Case(size=(66, 64), channels=4, channels_out=2, strides=(2, 2)),
    "more pixels than are packed at once": Case(size=(70, 70), channels=4, channels_out=2),
    "exactly one tile": Case(size=(8, 16), channels=40, channels_out=2),
}  # fmt: skip


def native_library() -> Path:
    return Path(os.environ.get("BNAS_TEST_LIBRARY") or library_path())


def native_calls() -> int:
    return counter("bnas_native_calls")


def counter(name: str) -> int:
    count = getattr(ctypes.CDLL(str(native_library())), name)
    count.restype = ctypes.c_uint64
    return int(count())


# What X is made of and what is added does not change what lies between: these have all edges, the others a few. Of the
# operators of blocks, these are computed in loops of their own; those that read bits have the epilogues of others.
PLAIN = [
    *(row for row in CONVOLUTIONS if (row.parts, row.added) == (1, 0) and not (row.is_of_blocks or row.has_bits)),
    Operator(to_bits=True),
    Operator(of_bits=True, to_bits=True),
    Operator(max_pool=True, to_bits=True),
    Operator(before=1, activation="PRelu", affine=True),
    Operator(before=1, activation="Clip"),
    Operator(gate=True),
    Operator(activation="Relu", affine=True),
    Operator(gate=True, before=1, activation="PRelu"),
    *IMAGES,
]


def random_inputs(row: Operator, case: Case, seed: int, batch: int = 1) -> Arrays:
    """Make inputs on the edges: values equal to their threshold, both zeros, infinities and NaN.

    The values are multiples of 1/8 below 64, so that K's sum over |X| is exact in any order. Parts of X end anywhere,
    and may be empty. Operators of blocks and of bits are padded with zeros or with signs. Gates are of all kinds. Bits
    of X are the channels in order, or in any; those of Y are made with one set of levels or two. Where nothing is
    convolved, X is like what the case makes.
    """
    rng = np.random.default_rng(seed)
    channels, channels_out = case.channels, case.channels_out
    x = (rng.integers(-24, 25, (batch, channels, *case.size)) / 8).astype(np.float32)
    odd = np.float32([np.nan, -0.0, 0.0, np.inf, -np.inf])
    np.put(x, rng.choice(x.size, min(len(odd), x.size), replace=False), odd)
    threshold = (rng.integers(-8, 9, channels) / 8).astype(np.float32)
    np.put(threshold, rng.integers(0, channels, 3), np.float32([np.inf, -np.inf, -0.0])[:channels])
    signs = np.where(rng.random((channels_out, *case.kernel, case.weight_channels)) < 0.5, 1, -1)
    like_y = (batch, channels_out, *case.out_size)
    gate = [
        (size if chosen else 1)
        for size, chosen in zip((batch, *case.out_size), (seed & 1, seed & 2, seed & 2), strict=True)
    ]
    low = rng.normal(size=channels_out)
    np.put(low, rng.integers(0, channels_out, 1), -np.inf)
    taps = case.kernel[0] * case.kernel[1] * case.weight_channels
    level = rng.integers(-min(taps, 20), min(taps, 20) + 1, ((1 + seed % 2) * -(-channels_out // BYTE), BYTE)) / 2
    np.put(level, rng.integers(0, level.size, 3), [np.inf, -np.inf, np.nan])
    place = np.arange(channels) if seed % 4 < 3 else rng.choice(channels + 11, channels, replace=False)
    if row.of_bits:
        x = rng.integers(0, 256, (batch, int(place.max()) // BYTE + 1 + seed % 2, *case.size), np.uint8)
    if not row.convolves:
        x = rng.normal(size=like_y).astype(np.float32)
        odd = odd[row.max_pool :]  # the maximum of a NaN is not defined
        np.put(x, rng.choice(x.size, min(len(odd), x.size), replace=False), odd)
    ends = np.sort(rng.integers(0, x.shape[1] + 1, row.parts - 1))
    inputs = {
        **dict(zip(row.activations, np.split(x, ends, axis=1), strict=True)),
        "W": pack_signs(signs),
        "threshold": threshold,
        "offset": rng.integers(-9, 10, (channels_out, 1, 1)).astype(np.float32) * (not case.no_offset),
        "scale": rng.normal(size=channels_out).astype(np.float32),
        "bias": rng.normal(size=channels_out).astype(np.float32),
        "slope": rng.normal(size=channels_out).astype(np.float32),
        "pad": np.random.default_rng(seed).choice(np.float32([-1, 1]), channels)
        * (not (row.is_of_blocks or row.has_bits) or seed % 3 > 0),
        "place": place.astype(np.float32),
        "level": level.astype(np.float32),
        "low": low.astype(np.float32),
        "high": (low + np.abs(rng.normal(size=channels_out))).astype(np.float32),
        "scale2": rng.normal(size=channels_out).astype(np.float32),
        "bias2": rng.normal(size=channels_out).astype(np.float32),
        "scale3": rng.normal(size=channels_out).astype(np.float32),
        "bias3": rng.normal(size=channels_out).astype(np.float32),
        "step": rng.random(channels_out, np.float32),
        "reach": rng.normal(size=channels_out).astype(np.float32),
        **{name: rng.normal(size=(gate[0], channels_out, *gate[1:])).astype(np.float32) for name in row.gate_inputs},
        **{name: rng.normal(size=like_y).astype(np.float32) for name in (*row.before_inputs, *row.added_inputs)},
    }
    return {name: inputs[name] for name in row.inputs}


COMPUTED = ("X", "gate", "before", "added")


def feeds(inputs: Arrays) -> Arrays:
    """Return those inputs that are computed while a model runs."""
    return {name: value for name, value in inputs.items() if name.startswith(COMPUTED)}


def one_node_model(
    name: str,
    inputs: Mapping[str, np.ndarray],
    attributes: Mapping[str, Any],
    *,
    also_fed: tuple[str, ...] = (),
    x_shape: tuple[int | str | None, ...] = ("N", "C", "H", "W"),
) -> bytes:
    """Serialise a model of one node called `conv`; what is computed and `also_fed` come from outside."""
    attributes = attributes if operator(name).convolves else {}
    node = helper.make_node(name, list(inputs), ["Y"], name="conv", domain=DOMAIN, **attributes)
    fed = (*feeds(dict(inputs)), *also_fed)
    shapes = {key: x_shape if key in ("X", "X1") else [None] * value.ndim for key, value in inputs.items()}
    types = {key: helper.np_dtype_to_tensor_dtype(value.dtype) for key, value in inputs.items()}
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info(key, types[key], shapes[key]) for key in fed],
        [helper.make_tensor_value_info("Y", TensorProto.UINT8 if operator(name).to_bits else TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, key) for key, value in inputs.items() if key not in fed],
    )
    opsets = [helper.make_opsetid("", ONNX_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    return model.SerializeToString()


def native_session(model: bytes, threads: int = 1) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # errors are asserted on here, not logged
    options.register_custom_ops_library(str(native_library()))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def expected(row: Operator, inputs: Arrays, case: Case) -> np.ndarray:
    return reference(row.name, list(inputs.values()), case.attributes)


@cache
def problem(row: Operator, case: Case, seed: int, batch: int) -> tuple[Arrays, np.ndarray]:
    """Return inputs, which nobody may change, and what is expected of them: the same for every instruction set."""
    inputs = random_inputs(row, case, seed, batch)
    want = expected(row, inputs, case)
    for array in (*inputs.values(), want):
        array.flags.writeable = False
    return inputs, want


def all_models() -> Iterator[tuple[bytes, Arrays, list[str]]]:
    """Give all models that are compared here, with what is fed to them and the names of what they answer."""
    parts = [(plain_problems(row), batch) for row in PLAIN for batch in (1, 3)]
    parts += [(problems_of_every_operator(name), 2) for name in OF_EVERY_OPERATOR]
    for problems, batch in parts:
        yield model_of(problems, batch)


def few_models() -> Iterator[tuple[bytes, Arrays, list[str]]]:
    """Give a few of them that have three edges of every operator."""
    for name in OF_EVERY_OPERATOR[-3:]:
        plain = [row for row in PLAIN if possible(row, EDGES[name])]
        yield model_of(tuple((row.name, row, EDGES[name], seed) for seed, row in enumerate(plain)), 2)
        yield model_of(problems_of_every_operator(name), 2)


def model_of(problems: "tuple[Problem, ...]", batch: int) -> tuple[bytes, Arrays, list[str]]:
    """Return one model that has a node for each problem, what to feed to it, and the names of what it answers."""
    inputs = [random_inputs(row, case, seed, batch) for _, row, case, seed in problems]
    return *in_one_model(problems, inputs), [f"{name}: Y" for name, *_ in problems]


Problem = tuple[str, Operator, Case, int]
"""A name, what to compute, and the seed of its inputs."""


def plain_problems(row: Operator) -> tuple[Problem, ...]:
    """Return all edges for an operator without parts and sums."""
    cases = enumerate(EDGES.items())
    return tuple((name, row, case, seed) for seed, (name, case) in cases if possible(row, case))


def problems_of_every_operator(name: str) -> tuple[Problem, ...]:
    """Return an edge for all other operators."""
    rows = [row for row in OPERATORS if row not in PLAIN and possible(row, EDGES[name])]
    return tuple((row.name, row, EDGES[name], seed) for seed, row in enumerate(rows))


def possible(row: Operator, case: Case) -> bool:
    """Tell whether there is such an operator: none has K and groups or constant channels, nor bits of groups.

    The maximum of 2x2 pixels needs as many.
    """
    if row.max_pool and min(case.out_size) < 2:
        return False
    return not (row.k_map and (case.group > 1 or case.constant_channels)) and not (row.to_bits and case.group > 1)


def in_one_model(problems: tuple[Problem, ...], inputs: list[Arrays]) -> tuple[bytes, Arrays]:
    """Return one model that has a node for each problem, and what to feed to it.

    To make a session takes 10 times as long as to run a node, and far longer with a sanitizer or in an emulator.
    """
    parts, fed = [], {}
    for (name, row, case, _), given in zip(problems, inputs, strict=True):
        # Sizes without names: onnxruntime takes dimensions of one name for equal.
        part = one_node_model(row.name, given, case.attributes, x_shape=(None,) * 4)
        parts.append(compose.add_prefix(onnx.load_from_string(part), f"{name}: "))
        fed.update({f"{name}: {key}": value for key, value in feeds(given).items()})
    whole = parts[0]
    for part in parts[1:]:
        for field in ("node", "input", "output", "initializer"):
            getattr(whole.graph, field).extend(getattr(part.graph, field))
    return whole.SerializeToString(), fed


@cache
def side_by_side(problems: tuple[Problem, ...], batch: int) -> tuple[bytes, Arrays, Arrays]:
    """Return one model that has a node for each problem, what to feed to it, and what is expected of it."""
    both = {name: problem(row, case, seed, batch) for name, row, case, seed in problems}
    model, fed = in_one_model(problems, [inputs for inputs, _ in both.values()])
    return model, fed, {f"{name}: Y": want for name, (_, want) in both.items()}


@pytest.fixture(params=ISAS)
def isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("BNAS_ISA", request.param)
    return str(request.param)


def check_side_by_side(problems: tuple[Problem, ...], batch: int, threads: int) -> None:
    model, fed, wanted = side_by_side(problems, batch)
    before = native_calls()
    answers = native_session(model, threads).run(list(wanted), fed)
    assert native_calls() == before + len(problems)
    for (name, want), y in zip(wanted.items(), answers, strict=True):
        np.testing.assert_array_equal(y, want, f"{name}, batch {batch}, {threads} threads")


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
def test_edges_agree_with_the_reference(row: Operator, isa: str) -> None:
    for batch, threads in ((1, 1), (3, 2)):
        check_side_by_side(plain_problems(row), batch, threads)


OF_EVERY_OPERATOR = (
    "channels 36",
    "tiles of long rows",
    "no offset",
    "constant channels, stride 2",
    "gathered",
    "groups of more than a word",
)


@pytest.mark.parametrize("name", OF_EVERY_OPERATOR)
def test_edges_of_every_operator_agree_with_the_reference(name: str, isa: str) -> None:
    check_side_by_side(problems_of_every_operator(name), 2, threads=2)


def test_edges_of_bits_agree_with_the_reference(isa: str) -> None:
    cases = [
        (Case(channels=channels, channels_out=channels, size=(3, width), strides=(stride, stride)), f"{channels}")
        for channels in (1, 7, 8, 9, 63, 64, 65)
        for width, stride in ((1, 1), (15, 1), (16, 2), (17, 1))
    ]
    problems = tuple(
        (f"{row.name} {name} {case.size}", row, case, seed)
        for seed, (case, name) in enumerate(cases)
        for row in (Operator(to_bits=True), Operator(of_bits=True), Operator(of_bits=True, to_bits=True))
    )
    check_side_by_side(problems, 2, threads=1)


POOLED = [(2, 2), (3, 2), (2, 3), (3, 3), (5, 17), (17, 5), (2, 16), (4, 31), (3, 33), (5, 67), (2, 130), (16, 16)]
"""Sizes of what is pooled: a last row or column may be left out, and pairs fill words of any width, or not."""


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2)])
def test_edges_of_pooled_bits_agree_with_the_reference(batch: int, threads: int, isa: str) -> None:
    kernels = {"plain": {}, "one tap": {"kernel": (1, 1), "pads": (0, 0, 0, 0)}, "constant": {"constant_channels": 5}}
    problems = tuple(
        (f"{row.name} {size} {about}", row, Case(channels=9, channels_out=channels_out, size=size, **kernel), seed)
        for seed, (size, channels_out) in enumerate(zip(POOLED, 4 * (1, 9, 24), strict=True))
        for about, kernel in kernels.items()
        for row in (Operator(max_pool=True, to_bits=True), Operator(of_bits=True, max_pool=True, to_bits=True))
    )
    check_side_by_side(problems, batch, threads)


# --------------------------------------------------------------------------------------------------------------------
# Memory. The objects that TVM makes have no checks of AddressSanitizer, so what they access is told by the processor:
# whatever a kernel is given ends, or begins, at a page that nobody may touch.


def guarded(size: int, alignment: int, *, at_end: bool) -> np.ndarray:
    """Return used memory with a forbidden page directly behind it, or directly in front of it where not `at_end`.

    With `at_end`, `size` is rounded up to a multiple of `alignment` first, as the operators do with theirs.
    """
    page, size = mmap.PAGESIZE, size + -size % alignment
    inner = max(1, -(-size // page)) * page
    memory = mmap.mmap(-1, inner + 2 * page)
    every = np.frombuffer(memory, np.uint8)  # keeps the memory as long as there is a view of it
    for forbidden in (0, page + inner):
        assert protect(every.ctypes.data + forbidden, page, 0) == 0
    every[page : page + inner] = 0xA5  # nothing may rely on zeros
    start = page + (inner - size if at_end else 0)
    return every[start : start + size]


def protect(address: int, size: int, protection: int) -> int:
    return int(ctypes.CDLL(None).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), protection))


def guarded_call(
    native_kernels: ModuleType, kernels: Any, isa: str, row: Operator, case: Case, inputs: Arrays, *, at_end: bool
) -> Any:
    return native_kernels.Call(
        kernels,
        isa,
        row,
        inputs,
        case.attributes,
        case.out_size,
        allocate=partial(guarded, at_end=at_end),
    )


@pytest.mark.parametrize("row", [row for row in PLAIN if row.convolves], ids=lambda row: row.name)
def test_kernels_stay_in_their_memory(row: Operator, isa: str, native_kernels: ModuleType, kernels: Any) -> None:
    for name, _, case, seed in plain_problems(row):
        for batch in (1, 3):
            check_memory(native_kernels, kernels, isa, row, case, problem(row, case, seed, batch), name)


@pytest.mark.parametrize("name", OF_EVERY_OPERATOR)
def test_every_operator_stays_in_its_memory(name: str, isa: str, native_kernels: ModuleType, kernels: Any) -> None:
    for about, row, case, seed in problems_of_every_operator(name):
        check_memory(native_kernels, kernels, isa, row, case, problem(row, case, seed, 2), about)


def check_memory(
    native_kernels: ModuleType,
    kernels: Any,
    isa: str,
    row: Operator,
    case: Case,
    given: tuple[Arrays, np.ndarray],
    about: str,
) -> None:
    inputs, want = given
    for at_end in (True, False):
        try:
            call = guarded_call(native_kernels, kernels, isa, row, case, inputs, at_end=at_end)
            call.run()
        except native_kernels.OutOfBoundsError as error:
            error.add_note(about)
            raise
        np.testing.assert_array_equal(call.y, want, about)


# Not the front of the weights: those of a layout that this layer does not use come first.
MOVES = [("X", 4), ("X", -4), ("added1", 4), ("added1", -4), ("Y", 4), ("Y", -4), ("packed", 4096), ("packed", -4096)]


@pytest.mark.parametrize(("name", "moved"), [*MOVES, ("prepacked", 64)])
def test_leaving_the_memory_is_noticed(
    name: str, moved: int, isa: str, native_kernels: ModuleType, kernels: Any
) -> None:
    row = next(row for row in OPERATORS if row.added == 1 and row.parts == 1)
    case = Case(channels=36, size=(9, 16))
    call = guarded_call(native_kernels, kernels, isa, row, case, random_inputs(row, case, 0), at_end=moved > 0)
    run = call.run_of_c
    if name == "X":
        run.inputs[0].x += moved
    elif name == "added1":
        run.added[0] += moved
    else:
        field = {"Y": "y", "prepacked": "weights", "packed": "packed"}[name]
        setattr(run, field, getattr(run, field) + moved)
    with pytest.raises(native_kernels.OutOfBoundsError, match=rf"^accessed byte -?\d+ of {name}, which has \d+$"):
        call.run()


def test_k_of_arbitrary_values_is_within_its_documented_bound() -> None:
    case = Case(channels=144, channels_out=2, kernel=(5, 5), pads=(2, 2, 2, 2))
    row = next(row for row in OPERATORS if row.name == "BinaryConv2dK")
    inputs = random_inputs(row, case, 0)
    inputs["X"] = np.random.default_rng(1).normal(size=inputs["X"].shape).astype(np.float32)
    inputs["bias"][:] = 0
    (y,) = native_session(one_node_model(row.name, inputs, case.attributes)).run(None, {"X": inputs["X"]})
    # (C + KH * KW + 3) * 2^-24 relative to K, and the roundings of Y = acc * scale * K are the same in both, to 1 ulp.
    np.testing.assert_allclose(y, expected(row, inputs, case), rtol=(144 + 25 + 3 + 2) * 2.0**-24, atol=0)


def test_bits_past_the_last_channel_are_ignored() -> None:
    case, row = Case(channels=5), OPERATORS[0]
    inputs = random_inputs(row, case, 0)
    want = expected(row, inputs, case)
    inputs["W"] = inputs["W"] | np.uint8(0b11100000)
    (y,) = native_session(one_node_model(row.name, inputs, case.attributes)).run(None, {"X": inputs["X"]})
    np.testing.assert_array_equal(y, want)


def test_attributes_have_their_documented_defaults() -> None:
    case, row = Case(pads=(0, 0, 0, 0)), OPERATORS[0]
    inputs = random_inputs(row, case, 0)
    only_shape = {"weight_shape": case.attributes["weight_shape"]}
    (y,) = native_session(one_node_model(row.name, inputs, only_shape)).run(None, {"X": inputs["X"]})
    np.testing.assert_array_equal(y, expected(row, inputs, case))


# A tap next to the middle of such a kernel is further away than any image reaches.
FAR = 2**31 - 1
FAR_APART = {
    "both axes": {"dilations": [FAR, FAR], "pads": [FAR] * 4},
    "rows": {"dilations": [FAR, 1], "pads": [FAR, 1, FAR, 1]},
    "columns": {"dilations": [1, FAR], "pads": [1, FAR, 1, FAR]},
    "farther than the planes reach": {"dilations": [5000, 5000], "pads": [5000] * 4},
}


@pytest.mark.parametrize("about", FAR_APART)
def test_taps_that_are_far_apart_are_exact(about: str, isa: str) -> None:
    row, case = next(row for row in OPERATORS if row.name == "BinaryConv2dK"), Case(channels=36)
    inputs = random_inputs(row, case, 0, batch=2)
    far = [distance > 1 for distance in FAR_APART[about]["dilations"]]
    # Only the middle tap along a far axis falls on the image; K is still divided by all nine.
    middle = replace(
        case,
        kernel=(1 if far[0] else 3, 1 if far[1] else 3),
        pads=(0 if far[0] else 1, 0 if far[1] else 1) * 2,
    )
    rows, columns = (slice(1, 2) if axis else slice(None) for axis in far)
    taps = middle.kernel[0] * middle.kernel[1]
    same = inputs | {"W": inputs["W"][:, rows, columns], "bias": np.zeros_like(inputs["bias"])}
    finite = np.isfinite(inputs["X"]).all(axis=1, keepdims=True)
    inputs["X"] = same["X"] = np.where(finite, inputs["X"], 1).astype(np.float32)
    session = native_session(
        one_node_model(row.name, inputs | {"bias": same["bias"]}, case.attributes | FAR_APART[about])
    )
    (y,) = session.run(None, feeds(inputs))
    # One rounding of K and two of Y on either side.
    np.testing.assert_allclose(y, expected(row, same, middle) * taps / 9, rtol=6 * 2.0**-24, atol=0)


def as_inputs_too(model: bytes, names: list[str]) -> bytes:
    """Declare initializers as inputs of the graph too, as old exporters do: a run may then give other values."""
    changed = onnx.load_from_string(model)
    stored = {array.name: array for array in changed.graph.initializer}
    for name in names:
        kind, shape = stored[name].data_type, list(stored[name].dims)
        changed.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
    return changed.SerializeToString()


def with_constant(name: str) -> Operator:
    """Return an operator with this constant."""
    return next((row for row in WITH_ALL_CONSTANTS if name in row.inputs), WITH_ALL_CONSTANTS[0])


@pytest.mark.parametrize("name", ["all", *CONSTANT_NAMES])
def test_edges_of_constants_that_are_inputs_too(name: str, isa: str) -> None:
    row, case = with_constant(name), Case(channels=36, channels_out=18)
    names = [constant.name for constant in row.constants] if name == "all" else [name]
    (inputs, want), (other, _) = (problem(row, case, seed, 2) for seed in (0, 2))  # as many sets of levels
    model = as_inputs_too(one_node_model(row.name, inputs, case.attributes), names)
    session = native_session(model, threads=2)
    before = native_calls()
    (y,) = session.run(None, feeds(inputs))
    np.testing.assert_array_equal(y, want)
    given = {key: other[key] for key in names}
    (y,) = session.run(None, feeds(inputs) | given)
    np.testing.assert_array_equal(y, expected(row, inputs | given, case))
    (y,) = session.run(None, feeds(inputs))
    np.testing.assert_array_equal(y, want)
    assert native_calls() == before + 3


def test_edges_of_constants_of_an_old_file() -> None:
    # Before version 4 of the IR every initializer had to be an input too, and could not be changed.
    case, row = Case(), WITH_ALL_CONSTANTS[0]
    inputs, want = problem(row, case, 0, 1)
    names = [constant.name for constant in row.constants]
    model = onnx.load_from_string(as_inputs_too(one_node_model(row.name, inputs, case.attributes), names))
    model.ir_version = 3
    (y,) = native_session(model.SerializeToString()).run(None, feeds(inputs))
    np.testing.assert_array_equal(y, want)


@pytest.mark.parametrize("name", CONSTANT_NAMES)
def test_constants_may_be_computed_while_the_model_runs(name: str, isa: str) -> None:
    row, case = with_constant(name), Case()
    inputs, want = problem(row, case, 0, 1)
    session = native_session(one_node_model(row.name, inputs, case.attributes, also_fed=(name,)))
    (y,) = session.run(None, feeds(inputs) | {name: inputs[name]})
    np.testing.assert_array_equal(y, want)
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs) | {name: np.resize(inputs[name], (2,) * inputs[name].ndim)})
    wrong = {
        # Of images the first vector says how many channels there are.
        "step": "X has the shape [1, 3, 7, 5], that is 3 channels, wanted 2",
        "reach": "scale has the shape [3], wanted [2], one value per output channel",
    }.get(name, f"{name} has the shape [2")
    assert f"bnas.{row.name} (node 'conv'): {wrong}" in str(refused.value)


def test_an_empty_batch_gives_an_empty_answer() -> None:
    case, row = Case(), OPERATORS[0]
    inputs = random_inputs(row, case, 0)
    session = native_session(one_node_model(row.name, inputs, case.attributes))
    (y,) = session.run(None, {"X": np.zeros((0, case.channels, *case.size), np.float32)})
    assert y.shape == (0, case.channels_out, *case.out_size)


# So much work that it is shared out among threads.
SHARED = Case(channels=128, channels_out=64, size=(24, 26))


@pytest.mark.parametrize(
    ("case", "stages"), [(SHARED, 3), (replace(SHARED, channels=8, channels_out=2, size=(8, 6)), 0)]
)
def test_only_much_work_is_shared_out(case: Case, stages: int, isa: str) -> None:
    row = next(row for row in OPERATORS if row.name == "BinaryConv2dK")
    if isa in PORTABLE_ISAS:
        stages = 2  # which is all they have, and all work is much for them
    inputs, want = problem(row, case, 0, 2)
    session = native_session(one_node_model(row.name, inputs, case.attributes), threads=2)
    before = counter("bnas_shared_stages")
    (y,) = session.run(None, feeds(inputs))
    np.testing.assert_array_equal(y, want)
    assert counter("bnas_shared_stages") == before + stages


@pytest.mark.parametrize("own_threads", [1, 2], ids=["serial", "parallel"])
def test_three_sessions_stay_exact_under_eight_threads(isa: str, own_threads: int) -> None:
    cases_here = [Case(channels=n, size=(9, 11), strides=(s, 1)) for n, s in ((36, 1), (65, 2))]
    cases_here.append(SHARED)
    work = []
    for seed, (row, case) in enumerate(product((CONVOLUTIONS[-1], IMAGES[-1]), cases_here)):
        inputs = random_inputs(row, case, seed, batch=2)
        session = native_session(one_node_model(row.name, inputs, case.attributes), own_threads)
        work.append((session, feeds(inputs), expected(row, inputs, case)))
    wrong: list[str] = []

    def run_all(first: int) -> None:
        for i in range(30):
            session, fed, want = work[(first + i) % len(work)]
            if not np.array_equal(session.run(None, fed)[0], want, equal_nan=True):
                wrong.append(f"thread {first}, run {i}")

    threads = [threading.Thread(target=run_all, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    ("x_shape", "case", "want"),
    [
        (("N", 5, 7, 5), Case(), ["N", 3, 7, 5]),
        ((2, 5, 7, 5), Case(strides=(2, 2)), [2, 3, 4, 3]),
        (("N", 5, "H", "W"), Case(), ["N", 3, "H", "W"]),
        (("N", 5, "H", "W"), Case(strides=(2, 3), pads=(0, 1, 0, 1)), ["N", 3, "(H-3)/2+1", "(W-1)/3+1"]),
        (("N", 5, "H", 5), Case(dilations=(2, 1)), ["N", 3, "(H-3)/1+1", 5]),
    ],
    ids=["batch", "fixed", "same", "strided", "dilated"],
)
def test_shape_inference_keeps_what_is_symbolic(
    x_shape: tuple[int | str, ...], case: Case, want: list[int | str]
) -> None:
    inputs = random_inputs(OPERATORS[0], case, 0)
    session = native_session(one_node_model(OPERATORS[0].name, inputs, case.attributes, x_shape=x_shape))
    assert session.get_outputs()[0].shape == want


def test_the_shape_of_bits_is_inferred() -> None:
    row, case = Operator(to_bits=True), Case(channels_out=9)
    inputs = random_inputs(row, case, 1)  # two sets of two bytes
    output = native_session(one_node_model(row.name, inputs, case.attributes, x_shape=("N", 5, 7, 5))).get_outputs()[0]
    assert (output.type, output.shape) == ("tensor(uint8)", ["N", 4, 7, 5])


@pytest.mark.parametrize(
    ("x_shape", "case", "want"),
    [
        (("N", 5, 7, 5), Case(), ["N", 2, 3, 2]),
        (("N", 5, "H", "W"), Case(), ["N", 2, "(H)/2", "(W)/2"]),
        (("N", 5, "H", 5), Case(strides=(2, 3), pads=(0, 1, 0, 1)), ["N", 2, "((H-3)/2+1)/2", 1]),
    ],
    ids=["fixed", "same", "strided"],
)
def test_the_shape_of_pooled_bits_is_inferred(
    x_shape: tuple[int | str, ...], case: Case, want: list[int | str]
) -> None:
    row = Operator(max_pool=True, to_bits=True)
    inputs = random_inputs(row, case, 1)  # two sets of a byte
    session = native_session(one_node_model(row.name, inputs, case.attributes, x_shape=x_shape))
    assert session.get_outputs()[0].shape == want


def test_a_name_that_is_too_long_for_a_length_that_is_pooled_is_another_one() -> None:
    row, case = Operator(max_pool=True, to_bits=True), Case()
    for length, start in ((251, "(HHH"), (252, "bnas_unknown_"), (300, "(bnas_unknown_")):
        model = one_node_model(
            row.name, random_inputs(row, case, 1), case.attributes, x_shape=("N", 5, length * "H", 5)
        )
        (name,) = native_session(model).get_outputs()[0].shape[2:3]
        assert name.startswith(start)


def test_unnamed_lengths_get_names_of_their_own() -> None:
    # With one name for both, onnxruntime would take them for equal and give them one piece of memory.
    inputs = random_inputs(OPERATORS[0], Case(), 0)
    model = onnx.load_from_string(one_node_model(OPERATORS[0].name, inputs, Case().attributes))
    for dimension in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dimension.ClearField("dim_param")
    rows, columns = native_session(model.SerializeToString()).get_outputs()[0].shape[2:]
    assert rows.startswith("bnas_unknown_")
    assert rows != columns


# --------------------------------------------------------------------------------------------------------------------
# Images

EMPTY = [(0, 3, 4, 5), (2, 0, 4, 5), (2, 3, 0, 5), (2, 3, 4, 0), (2, 3, 0, 0)]


def image_inputs(row: Operator, shape: tuple[int, ...]) -> Arrays:
    """Return inputs of an operator of images for X of this shape, with a gate for each image and channel."""
    rng = np.random.default_rng(len(row.name))
    sizes = {"gate": (*shape[:2], 1, 1)} | dict.fromkeys(("X", *row.before_inputs, *row.added_inputs), shape)
    names = ("X", *row.inputs[row.parts :])
    inputs = {name: rng.normal(size=sizes.get(name, shape[1:2])).astype(np.float32) for name in names}
    parts = np.split(inputs.pop("X"), np.arange(1, row.parts), axis=1)
    return {**dict(zip(row.activations, parts, strict=True)), **inputs}


def halved(row: Operator, shape: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Return the shape of Y for X of this shape."""
    sides = [side // 2 if isinstance(side, int) else f"({side})/2" for side in shape[2:]]
    return (*shape[:2], *sides) if row.max_pool or row.mean_pool else shape


@pytest.mark.parametrize("row", [row for row in IMAGES if not row.max_pool], ids=lambda row: row.name)
@pytest.mark.parametrize("shape", EMPTY)
def test_edges_of_images_without_pixels_stay_empty(row: Operator, shape: tuple[int, ...]) -> None:
    inputs = image_inputs(row, shape)
    (y,) = native_session(one_node_model(row.name, inputs, {}, x_shape=(None,) * 4)).run(None, feeds(inputs))
    assert (y.shape, y.dtype) == (halved(row, shape), np.float32)


@pytest.mark.parametrize("shape", EMPTY)
def test_edges_of_pooled_images_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    """As those of bits are: no maximum is of nothing. No images, or none of their channels, are as good as any."""
    row = Operator(convolves=False, affine=True, max_pool=True)
    inputs = image_inputs(row, shape)
    session = native_session(one_node_model(row.name, inputs, {}, x_shape=(None,) * 4))
    if min(shape[2:]) >= 2:
        assert session.run(None, feeds(inputs))[0].shape == (*shape[:2], shape[2] // 2, shape[3] // 2)
        return
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs))
    assert f"X has the shape {list(shape)}, of which {shape[2]} x {shape[3]} pixels are made, too few for a" in str(
        refused.value
    )


@pytest.mark.parametrize(("batch", "threads"), [(1, 1), (3, 2)])
def test_edges_of_pooled_images_agree_with_the_reference(batch: int, threads: int, isa: str) -> None:
    rows = [row for row in IMAGES if row.max_pool]
    plain = {"kernel": (1, 1), "pads": (0, 0, 0, 0)}
    problems = tuple(
        (f"{row.name} {size}", row, Case(channels=channels, channels_out=channels, size=size, **plain), seed)
        for seed, (size, channels) in enumerate(zip(POOLED, 4 * (4, 9, 24), strict=True))
        for row in rows
    )
    check_side_by_side(problems, batch, threads)


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row.name)
@pytest.mark.parametrize("x_shape", [(2, 3, 7, 5), ("N", 3, "H", "W"), ("N", 3, "H", 5)])
def test_the_shape_of_images_is_known(row: Operator, x_shape: tuple[int | str, ...]) -> None:
    inputs = image_inputs(row, (2, 3, 7, 5))
    session = native_session(one_node_model(row.name, inputs, {}, x_shape=x_shape))
    assert session.get_outputs()[0].shape == list(halved(row, x_shape))


@pytest.mark.parametrize("row", IMAGES, ids=lambda row: row.name)
def test_numbers_of_images_may_be_computed_while_the_model_runs(row: Operator) -> None:
    inputs = image_inputs(row, (2, 3, 7, 5))
    names = tuple(constant.name for constant in row.constants)
    session = native_session(one_node_model(row.name, inputs, {}, also_fed=names))
    (y,) = session.run(None, inputs)
    np.testing.assert_array_equal(y, reference(row.name, list(inputs.values()), {}))


@pytest.mark.parametrize(("shape", "stages"), [((2, 64, 40, 40), 1), ((2, 64, 8, 8), 0)])
def test_only_large_images_are_shared_out(shape: tuple[int, ...], stages: int, isa: str) -> None:
    row = IMAGES[0]
    inputs = image_inputs(row, shape)
    session = native_session(one_node_model(row.name, inputs, {}), threads=2)
    before = counter("bnas_shared_stages")
    (y,) = session.run(None, feeds(inputs))
    np.testing.assert_array_equal(y, reference(row.name, list(inputs.values()), {}))
    assert counter("bnas_shared_stages") == before + stages


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("X", (1, 4, 7, 5), "X has the shape [1, 4, 7, 5], that is 4 channels, wanted 3; check the input's shape"),
        ("X", (3, 7, 5), "X has 3 dimensions, wanted 4: batch, channels, height, width; check the input's shape"),
        ("X", (0, 3, 7, 2**31), "X has the shape [0, 3, 7, 2147483648], wanted channels and sides up to 2147483647"),
        ("gate", (1, 3), "gate has 2 dimensions, wanted 4: batch, channels, height, width; check the input's shape"),
        ("gate", (1, 3, 7, 1), "gate has the shape [1, 3, 7, 1], the output [1, 3, 7, 5]; it must have its channels"),
        ("added1", (1, 3, 7, 1), "an added input has the shape [1, 3, 7, 1], the output [1, 3, 7, 5]; they must be"),
    ],
)
def test_edges_of_wrong_images_are_refused_when_they_come(name: str, shape: tuple[int, ...], reason: str) -> None:
    row = Operator(convolves=False, gate=True, affine=True, added=1)
    inputs = image_inputs(row, (1, 3, 7, 5)) | {name: np.zeros(shape, np.float32)}
    session = native_session(one_node_model(row.name, inputs, {}, x_shape=(None,) * inputs["X"].ndim))
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs))
    assert f"bnas.{row.name} (node 'conv'): {reason}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("bias2", (4,), "bias2 has the shape [4], wanted [3], one value per output channel; export the model again"),
        ("bias2", (), "bias2 has the shape [], wanted [3], one value per output channel; export the model again"),
        ("scale2", (), "scale2 has the shape [], wanted [1], one value per output channel; export the model again"),
        ("scale2", (3, 1), "scale2 has the shape [3, 1], wanted [3], one value per output channel"),
    ],
)
def test_edges_of_wrong_numbers_of_images_are_refused(name: str, shape: tuple[int, ...], reason: str) -> None:
    row = Operator(convolves=False, gate=True, affine=True)
    inputs = image_inputs(row, (1, 3, 7, 5)) | {name: np.zeros(shape, np.float32)}
    with pytest.raises(REFUSED) as refused:
        native_session(one_node_model(row.name, inputs, {}))
    assert f"bnas.{row.name} (node 'conv'): {reason}" in str(refused.value)


# --------------------------------------------------------------------------------------------------------------------
# Refusals


def attribute(name: str, value: Any) -> Change:
    return lambda inputs, attributes: attributes.update({name: value})


def without(name: str) -> Change:
    return lambda inputs, attributes: attributes.pop(name)


def resized(name: str, shape: tuple[int, ...]) -> Change:
    return lambda inputs, attributes: inputs.update({name: np.resize(inputs[name], shape)})


AGAIN = "; export the model again"
LENGTH_4 = "attribute pads is not a list of 4 integers" + AGAIN
OFFSET_WANTED = (
    ", wanted [3, 1, 1], one value per output channel (older versions also wrote maps); export the model again, or run "
    "it without the library"
)
REFUSALS: dict[str, tuple[Change, str]] = {
    "no weight_shape": (without("weight_shape"), "attribute weight_shape is missing" + AGAIN),
    "short weight_shape": (
        attribute("weight_shape", [3, 3, 3]),
        "attribute weight_shape is not a list of 4 integers" + AGAIN,
    ),
    "short pads": (attribute("pads", [1, 1]), LENGTH_4),
    "long pads": (attribute("pads", [1] * 5), LENGTH_4),
    "float pads": (attribute("pads", [1.0] * 4), LENGTH_4),
    "stride 0": (
        attribute("strides", [1, 0]),
        "attribute strides has the value 0, wanted 1 to 2147483647" + AGAIN,
    ),
    "huge dilation": (
        attribute("dilations", [2**62, 1]),
        f"attribute dilations has the value {2**62}, wanted 1 to 2147483647" + AGAIN,
    ),
    "negative pad": (
        attribute("pads", [0, -1, 0, 0]),
        "attribute pads has the value -1, wanted 0 to 2147483647" + AGAIN,
    ),
    "group is a list": (attribute("group", [1]), "attribute group is not an integer" + AGAIN),
    "group is a float": (attribute("group", 1.0), "attribute group is not an integer" + AGAIN),
    "group 2 of 3": (attribute("group", 2), "group is 2, which does not divide the 3 output channels" + AGAIN),
    "too many terms": (
        attribute("weight_shape", [3, 2**12, 2**12, 5]),
        "weight_shape [3, 4096, 4096, 5] sums 2^24 or more terms, which float32 cannot count exactly; split the layer",
    ),
    "product past int64": (
        attribute("weight_shape", [3, 2**31 - 1, 2**31 - 1, 2**31 - 1]),
        "sums 2^24 or more terms, which float32 cannot count exactly; split the layer",
    ),
    "short weights": (
        resized("W", (3, 3, 3, 2)),
        "W has the shape [3, 3, 3, 2], but weight_shape [3, 3, 3, 5] packed eight to a byte is [3, 3, 3, 1]; "
        "the file was changed, or export the model again",
    ),
    "flat weights": (resized("W", (27,)), "W has the shape [27], but weight_shape [3, 3, 3, 5]"),
    "weights of five dimensions": (resized("W", (3, 3, 3, 1, 1)), "W has 5 dimensions, wanted at most 4" + AGAIN),
    "threshold": (
        resized("threshold", (4,)),
        "threshold has the shape [4], wanted [5], one value per input channel" + AGAIN,
    ),
    "scale": (resized("scale", (1,)), "scale has the shape [1], wanted [3], one value per output channel" + AGAIN),
    "bias": (resized("bias", (3, 1)), "bias has the shape [3, 1], wanted [3], one value per output channel" + AGAIN),
    "slope": (resized("slope", ()), "slope has the shape [], wanted [3], one value per output channel" + AGAIN),
    "flat offset": (resized("offset", (3,)), "offset has the shape [3]" + OFFSET_WANTED),
    "offset of other channels": (resized("offset", (2, 1, 1)), "offset has the shape [2, 1, 1]" + OFFSET_WANTED),
    "empty offset": (resized("offset", (3, 0, 1)), "offset has the shape [3, 0, 1]" + OFFSET_WANTED),
    "offset map": (resized("offset", (3, 7, 5)), "offset has the shape [3, 7, 5]" + OFFSET_WANTED),
    "all channels constant": (
        attribute("constant_channels", [5]),
        "constant_channels is 5, wanted fewer than the 5 of weight_shape" + AGAIN,
    ),
    "negative constant channels": (
        attribute("constant_channels", [-1]),
        "attribute constant_channels has the value -1, wanted 0 to 2147483647" + AGAIN,
    ),
    "constant channels without a list": (
        attribute("constant_channels", 1),
        "attribute constant_channels is not a list of 1 integers" + AGAIN,
    ),
    "constant channels of groups": (
        lambda inputs, attributes: attributes.update(weight_shape=[3, 3, 3, 5], constant_channels=[2], group=3),
        "constant_channels is 2, wanted 0 with K or groups" + AGAIN,
    ),
}  # fmt: skip


def refusal_at_creation(name: str, change: Change, **arguments: Any) -> str:
    row = next(row for row in OPERATORS if row.name == name)
    inputs, attributes = random_inputs(row, Case(), 0), Case().attributes
    change(inputs, attributes)
    with pytest.raises(REFUSED) as refused:
        native_session(one_node_model(name, inputs, attributes, **arguments))
    return str(refused.value)


@pytest.mark.parametrize("change", REFUSALS)
def test_edges_of_a_malformed_node_are_refused_when_the_session_is_created(change: str) -> None:
    message = refusal_at_creation("BinaryConv2dPRelu", REFUSALS[change][0])
    assert "bnas.BinaryConv2dPRelu (node 'conv'): " in message
    assert REFUSALS[change][1] in message


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (resized("pad", (4,)), "pad has the shape [4], wanted [5], one value per input channel" + AGAIN),
        *(
            (lambda inputs, attributes, value=value: np.put(inputs["pad"], 3, value), text)
            for value, text in (
                (0, "pad is 0 for channel 3, wanted 1 or -1, or 0 for all channels" + AGAIN),
                (0.5, "pad is 0.5 for channel 3, wanted 1 or -1, or 0 for all channels" + AGAIN),
                (np.nan, "pad is nan for channel 3, wanted 1 or -1, or 0 for all channels" + AGAIN),
            )
        ),
    ],
    ids=["shape", "zero", "half", "nan"],
)
def test_edges_of_a_pad_that_is_no_sign_are_refused(change: Change, reason: str) -> None:
    message = refusal_at_creation("BinaryConv2dPadRelu", change)
    assert f"bnas.BinaryConv2dPadRelu (node 'conv'): {reason}" in message


@pytest.mark.parametrize(
    ("name", "change", "reason"),
    [
        (
            "BinaryConv2dOfBits",
            lambda inputs, attributes: np.put(inputs["place"], 3, 0.5),
            "place is 0.5 for channel 3, wanted a whole number from 0 to 2^24 - 1" + AGAIN,
        ),
        (
            "BinaryConv2dOfBits",
            lambda inputs, attributes: np.put(inputs["place"], 3, np.nan),
            "place is nan for channel 3, wanted a whole number from 0 to 2^24 - 1" + AGAIN,
        ),
        (
            "BinaryConv2dToBits",
            resized("level", (1, 9)),
            "level has the shape [1, 9], wanted rows of 8, as many as the 1 bytes of 3 output channels or a multiple"
            + AGAIN,
        ),
        *(
            (
                name,
                lambda inputs, attributes: attributes.update(weight_shape=[3, 3, 3, 5], group=3),
                "group is 3, but an operator that writes bits has one group" + AGAIN,
            )
            for name in ("BinaryConv2dToBits", "BinaryConv2dMaxPoolToBits", "BinaryConv2dOfBitsMaxPoolToBits")
        ),
    ],
    ids=["half", "nan", "level", "groups", "groups that are pooled", "groups of bits that are pooled"],
)
def test_edges_of_bits_that_cannot_be_are_refused(name: str, change: Change, reason: str) -> None:
    assert f"bnas.{name} (node 'conv'): {reason}" in refusal_at_creation(name, change)


def test_bits_of_too_few_bytes_are_refused_when_they_come() -> None:
    row, case = Operator(of_bits=True), Case(channels=9)
    session = native_session(one_node_model(row.name, random_inputs(row, case, 0), case.attributes))
    with pytest.raises(REFUSED) as refused:
        session.run(None, {"X": np.zeros((1, 1, 7, 5), np.uint8)})
    reason = "X has the shape [1, 1, 7, 5], wanted at least 2 bytes for each pixel; check the input's shape"
    assert f"bnas.{row.name} (node 'conv'): {reason}" in str(refused.value)


@pytest.mark.parametrize("of_bits", [False, True])
@pytest.mark.parametrize(("size", "made"), [((1, 5), "1 x 5"), ((6, 1), "6 x 1"), ((1, 1), "1 x 1")])
def test_edges_of_too_few_pixels_to_pool_are_refused_when_they_come(
    size: tuple[int, int], made: str, of_bits: bool
) -> None:
    row, case = Operator(of_bits=of_bits, max_pool=True, to_bits=True), Case(size=size, channels=8)
    inputs = random_inputs(row, case, 0)
    session = native_session(one_node_model(row.name, inputs, case.attributes))
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs))
    reason = (
        f"X has the shape [1, {inputs['X'].shape[1]}, {size[0]}, {size[1]}], of which {made} pixels are made, too few"
    )
    assert f"bnas.{row.name} (node 'conv'): {reason} for a maximum of 2 x 2; use a larger image" in str(refused.value)


def test_k_with_groups_is_refused() -> None:
    message = refusal_at_creation("BinaryConv2dK", lambda inputs, attributes: attributes.update(group=3))
    assert "bnas.BinaryConv2dK (node 'conv'): group is 3, but an operator with K has one group; " in message
    assert message.endswith("use the operator without K")


@pytest.mark.parametrize(
    ("case", "x_shape", "reason"),
    [
        (Case(), (1, 4, 7, 5), "X has the shape [1, 4, 7, 5], that is 4 channels, wanted 5; check the input's shape"),
        (Case(), (5, 7, 5), "X has 3 dimensions, wanted 4: batch, channels, height, width; check the input's shape"),
        (
            Case(pads=(0, 0, 0, 1), dilations=(1, 2)),
            (1, 5, 3, 3),
            "X has the shape [1, 5, 3, 3], too small for a kernel of 3 x 3 with dilation 1 x 2 and pads [0, 0, 0, 1]; "
            "use a larger image",
        ),
        # An empty array takes no memory, so that its other sizes may be anything.
        (
            Case(),
            (0, 5, 7, 2**31),
            "X has the shape [0, 5, 7, 2147483648], wanted channels and sides up to 2147483647; check the input's "
            "shape",
        ),
        (
            Case(),
            (0, 2**40, 7, 5),
            "X has the shape [0, 1099511627776, 7, 5], wanted channels and sides up to 2147483647",
        ),
    ],
    ids=["channels", "rank", "too small", "endless side", "endless channels"],
)
def test_edges_of_a_wrong_x_are_refused_when_it_comes(case: Case, x_shape: tuple[int, ...], reason: str) -> None:
    row = OPERATORS[0]
    inputs = random_inputs(row, case, 0)
    names = tuple("ABCD"[: len(x_shape)])
    session = native_session(one_node_model(row.name, inputs, case.attributes, x_shape=names))
    with pytest.raises(REFUSED) as refused:
        session.run(None, {"X": np.zeros(x_shape, np.float32)})
    assert f"bnas.BinaryConv2d (node 'conv'): {reason}" in str(refused.value)


@pytest.mark.parametrize(
    ("case", "x_shape"),
    [
        (Case(pads=(2**20,) * 4), (1, 5, 0, 0)),
        (Case(pads=(2**31 - 1,) * 4), (1, 5, 7, 5)),
        (Case(), (2**40, 5, 0, 5)),
        (Case(pads=(1, 2, 1, 2)), (2**40, 5, 7, 0)),
    ],
    ids=["52 terabytes", "past 64 bits", "images without outputs", "a huge batch"],
)
def test_outputs_larger_than_memory_are_refused(case: Case, x_shape: tuple[int, ...], isa: str) -> None:
    row = OPERATORS[0]
    session = native_session(one_node_model(row.name, random_inputs(row, Case(), 0), case.attributes))
    with pytest.raises(REFUSED, match=r"memory|overflow|too small"):
        session.run(None, {"X": np.zeros(x_shape, np.float32)})


def test_more_pixels_than_the_kernels_index_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    isas = [row.isa for row in specs_of(ARCHITECTURE) if row.cpu_flags <= cpu_flags()]
    if not isas:
        pytest.skip("the portable kernels have indices of 64 bits")
    monkeypatch.setenv("BNAS_ISA", isas[0])
    case = Case(kernel=(1, 1), channels_out=1, pads=(1, 0, 0, 0))
    row = OPERATORS[0]
    session = native_session(one_node_model(row.name, random_inputs(row, case, 0), case.attributes))
    with pytest.raises(
        REFUSED, match="image, output or weights are larger than the kernels can work on; use a smaller"
    ):
        session.run(None, {"X": np.zeros((1, 5, 0, 2**27), np.float32)})  # an output that nobody touches


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (
            {"X2": (1, 2, 7, 6)},
            "a part of X has the shape [1, 2, 7, 6] beside one of [1, 2, 7, 5], wanted the same batch, height and "
            "width; check the input's shape",
        ),
        ({"X2": (2, 3, 7, 5)}, "a part of X has the shape [2, 3, 7, 5] beside one of [1, 2, 7, 5]"),
        ({"X2": (3, 7, 5)}, "X has 3 dimensions, wanted 4"),
        ({"X2": (1, 4, 7, 5)}, "X has the shape [1, 6, 7, 5], that is 6 channels, wanted 5; check the input's shape"),
        (
            {"added1": (1, 3, 7, 1)},
            "an added input has the shape [1, 3, 7, 1], the output [1, 3, 7, 5]; they must be equal; check the input's "
            "shape",
        ),
        ({"added1": (3, 7, 5)}, "what is added has 3 dimensions, wanted 4: batch, channels, height, width"),
    ],
    ids=["part of another size", "part of another batch", "part's rank", "channels", "added row", "added's rank"],
)
def test_edges_of_wrong_parts_and_additions_are_refused_when_they_come(
    shapes: dict[str, tuple[int, ...]], reason: str
) -> None:
    row = Operator(added=1, parts=2)
    right = {"X1": (1, 2, 7, 5), "X2": (1, 3, 7, 5), "added1": (1, 3, 7, 5)}
    inputs = random_inputs(row, Case(), 0)
    inputs |= {name: np.zeros(shape, np.float32) for name, shape in (right | shapes).items()}
    session = native_session(one_node_model(row.name, inputs, Case().attributes))
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs))
    assert f"bnas.BinaryConv2dAddConcat2 (node 'conv'): {reason}" in str(refused.value)


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("before1", (1, 3, 1, 5), "an added input has the shape [1, 3, 1, 5], the output [1, 3, 7, 5]; they must be"),
        ("before1", (3, 7, 5), "what is added has 3 dimensions, wanted 4: batch, channels, height, width"),
        ("gate", (1, 3), "gate has 2 dimensions, wanted 4: batch, channels, height, width; check the input's shape"),
        *(
            (
                "gate",
                shape,
                f"gate has the shape {list(shape)}, the output [1, 3, 7, 5]; it must have its channels, its images or "
                "one, and its pixels or one; check the input's shape",
            )
            for shape in ((1, 1, 1, 1), (2, 3, 1, 1), (1, 3, 7, 1), (1, 3, 1, 5), (1, 3, 5, 7), (0, 3, 1, 1))
        ),
    ],
)
def test_edges_of_a_wrong_gate_and_wrong_sums_before_the_activation_are_refused_when_they_come(
    name: str, shape: tuple[int, ...], reason: str
) -> None:
    row = Operator(gate=True, before=1, activation="Relu")
    inputs = random_inputs(row, Case(), 0) | {name: np.zeros(shape, np.float32)}
    session = native_session(one_node_model(row.name, inputs, Case().attributes))
    with pytest.raises(REFUSED) as refused:
        session.run(None, feeds(inputs))
    assert f"bnas.BinaryConv2dGateAddRelu (node 'conv'): {reason}" in str(refused.value)


def test_registering_twice_is_refused() -> None:
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(native_library()))
    with pytest.raises(
        REFUSED, match="the bnas library is already registered on these session options; register it once"
    ):
        options.register_custom_ops_library(str(native_library()))


def test_an_unknown_isa_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ", ".join((*(row.isa for row in specs_of(ARCHITECTURE)), *PORTABLE_ISAS))
    monkeypatch.setenv("BNAS_ISA", "z80")
    with pytest.raises(REFUSED, match=rf"BNAS_ISA is 'z80', but this library has {names}; unset it"):
        onnxruntime.SessionOptions().register_custom_ops_library(str(native_library()))
