"""The kernels of the operator library without onnxruntime, for benchmarks and for tests of their memory.

Links everything of the library with driver.c, every symbol visible, and beside each generated `count` its yardstick in
C intrinsics (count.c).
"""

import ctypes
import importlib.util
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from bnas_deploy.core.bits import unpack_signs
from bnas_deploy.core.operators import (
    ACTIVATIONS,
    BYTE,
    CONSTANTS,
    MOST_ADDED,
    MOST_BEFORE,
    MOST_PARTS,
    MOST_TERMS,
    Operator,
)
from bnas_deploy.runtime.bench.machine import cpu_flags
from bnas_deploy.runtime.kernels.specs import LUT6X2, KernelSpec, function_name, specs_of

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# As runtime/ort/kernel.h has them.
ALIGNMENT = 64
PLAN_SIZE = 320

CHOICES = fields(Operator)
VECTORS = [row.name for row in CONSTANTS if row.dtype == "float32" and row.shape[0] in ("C", "O")]

_i64 = ctypes.c_int64
_pointer = ctypes.c_void_p


class Conv(ctypes.Structure):
    """BnasConv of runtime/ort/kernel.h."""

    _fields_ = (
        # The choices of an operator, whose activation is an enumeration.
        *((field.name, {bool: ctypes.c_bool, str: ctypes.c_int, int: _i64}[type(field.default)]) for field in CHOICES),
        ("is_of_blocks", ctypes.c_bool),
        ("has_offset", ctypes.c_bool),
        ("channels_out", _i64),
        ("channels_in", _i64),
        ("constant_channels", _i64),
        ("groups", _i64),
        ("kernel", _i64 * 2),
        ("strides", _i64 * 2),
        ("pads", _i64 * 4),
        ("dilations", _i64 * 2),
        *((name, _pointer) for name in VECTORS),
        ("places", _pointer),
        ("bytes_in", _i64),
        ("least", _pointer),
        ("bytes_out", _i64),
        ("constants", _pointer),
    )


class Input(ctypes.Structure):
    """BnasInput of runtime/ort/kernel.h."""

    _fields_ = (("x", _pointer), ("channels", _i64))


class Gate(ctypes.Structure):
    """BnasGate of runtime/ort/kernel.h."""

    _fields_ = (("first", _pointer), ("image", _i64), ("channel", _i64))


class Run(ctypes.Structure):
    """BnasRun of runtime/ort/kernel.h."""

    _fields_ = (
        ("conv", ctypes.POINTER(Conv)),
        ("weights", _pointer),
        ("batch", _i64),
        ("size", _i64 * 2),
        ("out_size", _i64 * 2),
        ("inputs", Input * MOST_PARTS),
        ("gate", Gate),
        ("before", _pointer * MOST_BEFORE),
        ("added", _pointer * MOST_ADDED),
        ("y", _pointer),
        ("pooled", _pointer),
        ("packed", _pointer),
        ("plan", ctypes.c_uint8 * PLAN_SIZE),
    )


LAYOUT = (ctypes.sizeof(Conv), Conv.constants.offset, ctypes.sizeof(Run), Run.packed.offset)


_PARTS = ("prepare", "pack", "k_map", "convolve", "pool", "count", "epilogue")


class Ticks(ctypes.Structure):
    """Where the time of a run went, in ticks of one clock; DriverTicks of driver.c.

    `count` and `epilogue` are inside `convolve`, as is what gathers the pixels. `count` has both ways of counting.
    """

    _fields_ = tuple((name, ctypes.c_uint64) for name in _PARTS)


@dataclass(frozen=True)
class Counting:
    """Arguments of `count`, as runtime/kernels/count.py describes them."""

    vectors: int
    pairs: int
    blocked: np.ndarray
    offsets: np.ndarray
    weights: np.ndarray
    tables: np.ndarray

    def arguments(self, mismatches: np.ndarray) -> tuple[Any, ...]:
        """Return them in the order of C, with the array to be filled."""
        arrays = (self.blocked, self.offsets, self.weights, self.tables, mismatches)
        return self.vectors, self.pairs, self.offsets.size, *(_pointer(array.ctypes.data) for array in arrays)


class NativeKernels:
    """The linked library."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.library = ctypes.CDLL(str(path))
        self.library.bnas_covering_kernel.restype = _pointer
        layout = tuple((ctypes.c_size_t * len(LAYOUT)).in_dll(self.library, "driver_layout"))
        assert layout == LAYOUT, "Conv or Run is not what runtime/ort/kernel.h says"

    def repeat_count(self, calls: int, symbol: str, counting: Counting, mismatches: np.ndarray) -> None:
        """Call a `count` function so many times."""
        self.library.driver_repeat(calls, getattr(self.library, symbol), *counting.arguments(mismatches))


class OutOfBoundsError(Exception):
    """A kernel left its memory; the message says where to."""


Allocate = Callable[[int, int], np.ndarray]
"""Makes memory: uint8 of so many bytes, which begin at a multiple of so many."""


class Call:
    """One call of an operator; `y` holds the result once it was run.

    `inputs` have the names of docs/operators.md, and so have `attributes`, where none is missing. `memory` is all that
    the kernel is given, by name, and `run_of_c` what points to it.
    """

    def __init__(
        self,
        kernels: NativeKernels,
        isa: str,
        row: Operator,
        inputs: Mapping[str, np.ndarray],
        attributes: Mapping[str, Any],
        out_size: tuple[int, int],
        *,
        allocate: Allocate,
    ) -> None:
        self._library = kernels.library
        self.memory = {name: _copy(value, allocate) for name, value in inputs.items()}
        channels_out, *kernel, channels_in = attributes["weight_shape"]
        (constant_channels,) = attributes.get("constant_channels", [0])
        if constant_channels:
            table = _constants(inputs["W"], channels_in, constant_channels)
            self.memory["constants"] = _copy(table, allocate)
        batch, _, *size = inputs[row.activations[0]].shape
        made, numbers = (len(inputs["level"]), np.uint8) if row.to_bits else (channels_out, np.float32)
        width = np.dtype(numbers).itemsize
        size_of_y = tuple(length // 2 for length in out_size) if row.max_pool else out_size
        self.y = allocate(width * batch * made * size_of_y[0] * size_of_y[1], width).view(numbers)
        self.memory["Y"] = self.y
        self.y.shape = (batch, made, *size_of_y)
        if row.of_bits:
            self.memory["places"] = _copy(inputs["place"].astype(np.int32), allocate)
        if row.to_bits:
            self.memory["least"] = _copy(_least(inputs["level"], inputs["offset"]), allocate)
        choices = {field.name: getattr(row, field.name) for field in CHOICES} | {"is_of_blocks": row.is_of_blocks}
        choices |= {"activation": ACTIVATIONS.index(row.activation), "pads_signs": bool(np.any(inputs.get("pad", 0)))}
        self._conv = Conv(
            **choices,
            has_offset=bool(inputs["offset"].any()),
            channels_out=channels_out,
            channels_in=channels_in - constant_channels,
            constant_channels=constant_channels,
            groups=attributes["group"],
            kernel=tuple(kernel),
            places=self._at("places") if row.of_bits else None,
            least=self._at("least") if row.to_bits else None,
            bytes_out=made,
            constants=self._at("constants") if constant_channels else None,
            **{name: tuple(attributes[name]) for name in ("strides", "pads", "dilations")},
            **{name: self._at(name) for name in VECTORS if name in inputs},
        )
        self.run_of_c = Run(
            conv=ctypes.pointer(self._conv),
            batch=batch,
            size=tuple(size),
            out_size=out_size,
            inputs=tuple((self._at(name), inputs[name].shape[1]) for name in row.activations),
            gate=self._gate(inputs["gate"].shape) if row.gate else Gate(),
            before=tuple(map(self._at, row.before_inputs)),
            added=tuple(map(self._at, row.added_inputs)),
            y=None if row.max_pool else self._at("Y"),
            pooled=self._at("Y") if row.max_pool else None,
        )
        kernel = ctypes.byref(ctypes.c_char.in_dll(self._library, f"bnas_{isa}_kernel"))
        self._kernel = _pointer(self._library.bnas_covering_kernel(kernel, ctypes.byref(self._conv)))
        sizes = (ctypes.c_size_t * 4)()
        self._library.driver_sizes(self._kernel, ctypes.byref(self.run_of_c), sizes)
        # As op_run.c has them: what `malloc` gives is aligned for any number, the rest for vectors.
        self.memory["prepacked"] = allocate(sizes[0], 8)
        self.memory["packed"], self.memory["scratch"] = (allocate(size, ALIGNMENT) for size in sizes[1:3])
        if row.max_pool:
            self.memory["unpooled"] = allocate(sizes[3], 1)
            self.run_of_c.y = self._at("unpooled")
        self.run_of_c.weights, self.run_of_c.packed = self._at("prepacked"), self._at("packed")
        self._check(self._library.driver_prepack(self._kernel, ctypes.byref(self.run_of_c), _pointer(self._at("W"))))

    def run(self) -> Ticks:
        """Run all stages in this thread.

        Raises:
            OutOfBoundsError: the kernel left its memory and hit a page that it may not access.
        """
        ticks = Ticks()
        scratch = _pointer(self._at("scratch"))
        self._check(self._library.driver_run(self._kernel, ctypes.byref(self.run_of_c), scratch, ctypes.byref(ticks)))
        return ticks

    def _gate(self, shape: tuple[int, ...]) -> Gate:
        images, channels, rows, columns = shape
        return Gate(self._at("gate"), 0 if images == 1 else channels * rows * columns, rows * columns)

    def _at(self, name: str) -> int:
        return int(self.memory[name].ctypes.data)

    def _check(self, fault: int) -> None:
        if fault:
            address = int(ctypes.c_size_t.in_dll(self._library, "driver_fault").value)

            def distance(name: str) -> int:
                start = self._at(name)
                return max(start - address, address - (start + self.memory[name].nbytes - 1), 0)

            nearest = min(self.memory, key=distance)
            raise OutOfBoundsError(
                f"accessed byte {address - self._at(nearest)} of {nearest}, which has {self.memory[nearest].nbytes}"
            )


def _least(level: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Return the least sum of signs for each bit, int32 (bytes of Y, 8), as op_inputs.c has it."""
    channels = len(offset)
    channel = np.arange(level.size).reshape(level.shape) % (-(-channels // BYTE) * BYTE)
    of_channel = offset.ravel()[np.minimum(channel, channels - 1)]
    reached = np.where((channel < channels) & ~np.isnan(level), level, np.inf)
    return (np.ceil(np.clip(reached, -MOST_TERMS, 2 * MOST_TERMS)) - of_channel).astype(np.int32)


def _constants(weights: np.ndarray, channels: int, constant_channels: int) -> np.ndarray:
    """Sum the last channels over the taps above and to the left: int32 (O, KH + 1, KW + 1)."""
    sums = unpack_signs(weights, channels)[..., -constant_channels:].sum(axis=-1).astype(np.int32)
    return np.pad(sums, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2).astype(np.int32)


def _copy(value: np.ndarray, allocate: Allocate) -> np.ndarray:
    copy = allocate(value.nbytes, value.dtype.itemsize).view(value.dtype).reshape(value.shape)
    copy[...] = value
    return copy


def aligned(size: int, alignment: int = ALIGNMENT) -> np.ndarray:
    """Return zero bytes that begin at a multiple of `alignment`, and of 64."""
    alignment = max(alignment, ALIGNMENT)
    whole = np.zeros(size + alignment, np.uint8)
    start = -whole.ctypes.data % alignment
    return whole[start : start + size]


def generated_count(spec: KernelSpec) -> str:
    """Return the symbol of what TVM generated."""
    return function_name(spec, "count")


def yardstick_count(spec: KernelSpec) -> str:
    """Return the symbol of the same in C intrinsics."""
    return f"c_{spec.isa}_count"


def runnable_specs(wanted: Sequence[str] | None) -> list[KernelSpec]:
    """Return the rows that this CPU can run, of those that are wanted, which None says of all; tell of the others."""
    rows = [spec for spec in specs_of(platform.machine()) if wanted is None or spec.isa in wanted]
    for spec in rows:
        if not spec.cpu_flags <= cpu_flags():
            print(f"{spec.isa} is left out: this CPU lacks {', '.join(sorted(spec.cpu_flags - cpu_flags()))}")
    return [spec for spec in rows if spec.cpu_flags <= cpu_flags()]


def build(folder: Path) -> NativeKernels:
    """Compile and link in `folder`, with the compiler that the library is built with; the objects of TVM are reused."""
    native = load_native()
    objects = native.build_kernels()
    native.write_headers(folder)
    specs = native.specs()
    yardsticks = [_compile_yardstick(native, row, folder) for row in specs if row.architecture == "x86_64"]
    wraps = sorted({f"-Wl,--wrap={function_name(spec, name)}" for spec in specs for name in _clocked(spec)})
    library = folder / "libbnas_kernels.so"
    sources = [*native.sources(), HERE / "driver.c"]
    flags = ["-fvisibility=default", f"-I{folder}", f"-I{native.SOURCES}", "-shared", *wraps, "-o", str(library)]
    _compile(native, *flags, *map(str, (*sources, *objects, *yardsticks)))
    return NativeKernels(library)


def _clocked(spec: KernelSpec) -> tuple[str, ...]:
    """Return the generated functions that driver.c puts a clock around."""
    of_padding = ("correct_padding",) if spec.counting.name == LUT6X2.name else ()
    return ("count", "count_channels", "epilogue", "block_epilogue", "to_bits", *of_padding)


def _compile_yardstick(native: ModuleType, spec: KernelSpec, folder: Path) -> Path:
    path = folder / f"count-{spec.isa}.o"
    tiles = [f"-DPAIRS_{vectors}={pairs}" for vectors, pairs in enumerate(spec.tiles, 1)]
    march = [f"-march={spec.cpu}", *(f"-m{feature}" for feature in spec.features)]
    flags = [*march, f"-DISA={spec.isa}", *tiles]
    _compile(native, "-fvisibility=default", *flags, "-c", "-o", str(path), str(HERE / "count.c"))
    return path


def _compile(native: ModuleType, *words: str) -> None:
    subprocess.run([*native.compiler(), *native.linking().COMPILER_FLAGS, *words], check=True)


def load_native() -> ModuleType:
    """Load runtime/build/native.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("native", ROOT / "runtime/build/native.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
