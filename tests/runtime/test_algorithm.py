"""What the kernels count is what numpy counts: the algorithm, with no schedule. Its schedules are tested as kernels."""

from collections.abc import Callable

import numpy as np
import pytest

from bnas_deploy.runtime.kernels.specs import LUT4X2, LUT6X2, POPCOUNT8, Counting

Count = Callable[..., np.ndarray]


@pytest.fixture(scope="module")
def count() -> Count:
    """Build the algorithm for arrays of so many elements, and run it."""
    pytest.importorskip("tvm", reason="needs TVM to build the algorithm", exc_type=ImportError)
    generator = "needs the repository's generator, which is no part of the package: test_with_tvm.py brings it"
    pytest.importorskip("bnas_deploy.runtime.kernels.algorithm", reason=generator)
    import tvm
    from tvm.script.ir_builder import IRBuilder
    from tvm.script.ir_builder import tirx as T

    from bnas_deploy.runtime.kernels.algorithm import Operands, count_mismatches
    from bnas_deploy.runtime.kernels.count import PAIR_CODES, PIXELS, WEIGHT_CODES

    def run(
        counting: Counting, rows: np.ndarray, bytes_: np.ndarray, offsets: np.ndarray, lanes: int, *, pixels: bool
    ) -> np.ndarray:
        """Count the mismatches of values, (steps, rows), with `lanes` bytes from the offset of each step."""
        code, members = (PAIR_CODES[counting], PIXELS) if pixels else (WEIGHT_CODES[counting], counting.outputs)
        steps, groups = len(rows), rows.shape[1] // members
        codes = code.unit * (rows.reshape(steps, groups, members) * code.radix ** np.arange(members)).sum(axis=2)
        counts = np.zeros(groups * members * lanes, np.uint16)
        given = (codes.astype(np.uint16).ravel(), bytes_.ravel(), offsets.astype(np.int32), counts)
        with IRBuilder() as builder, T.prim_func(s_tir=True):
            T.func_name("main")
            values, signs, places, mismatches = (
                T.arg(f"argument{i}", T.buffer(array.shape, str(array.dtype))) for i, array in enumerate(given)
            )
            operands = Operands(
                groups,
                members,
                lanes,
                steps,
                code,
                lambda group, step: values[step * groups + group],
                lambda step, lane: signs[places[step] + lane],
                signs,
                mismatches,
                lambda group, member, lane: (group * members + member) * lanes + lane,
            )
            count_mismatches("all", counting, operands)
        arguments = [tvm.runtime.tensor(array) for array in given]
        tvm.compile(builder.get(), target="llvm")["main"](*arguments)
        result: np.ndarray = arguments[-1].numpy()
        return result.reshape(groups * members, lanes)

    return run


def in_bytes(bits: np.ndarray, channels: int) -> np.ndarray:
    """Pack the first axis, so many bits a byte."""
    padded = np.pad(bits, [(0, -len(bits) % channels), *[(0, 0)] * (bits.ndim - 1)])
    parts = padded.reshape(-1, channels, *bits.shape[1:])
    packed: np.ndarray = np.packbits(parts, axis=1, bitorder="little")[:, 0]
    return packed


@pytest.mark.parametrize("counting", [LUT4X2, LUT6X2, POPCOUNT8], ids=lambda counting: counting.name)
@pytest.mark.parametrize(
    ("channels", "kernel", "dilation", "size"),
    [
        (1, 1, 1, (1, 1)),
        (4, 3, 1, (5, 6)),
        (7, 3, 2, (4, 3)),
        (36, 3, 1, (3, 3)),
        (65, 5, 1, (2, 5)),
        (8, 2, 3, (1, 4)),
    ],
)
def test_algorithm_is_a_convolution_of_signs(
    counting: Counting,
    channels: int,
    kernel: int,
    dilation: int,
    size: tuple[int, int],
    count: Count,
    rng: np.random.Generator,
) -> None:
    outputs = 4
    reach = dilation * (kernel - 1)
    x = rng.random((channels, *size)) < 0.5
    weights = rng.random((channels, outputs, kernel, kernel)) < 0.5
    edges = [(reach, reach)] * 2
    planes = np.pad(in_bytes(x, counting.channels), [(0, 0), *edges], constant_values=counting.padding)
    inside = np.pad(np.ones(size, bool), edges)

    # Numpy's answer, tap by tap. What padding counts where it is the byte 0, runtime/ort subtracts.
    bits = np.pad(x, [(0, 0), *edges])
    height, width = (length + reach for length in size)
    expected = np.zeros((outputs, height, width), np.int64)
    for i, j in np.ndindex(kernel, kernel):
        window = np.s_[i * dilation : i * dilation + height, j * dilation : j * dilation + width]
        differing = (bits[:, None][(..., *window)] != weights[:, :, i, j, None, None]).sum(axis=0)
        expected += differing * inside[window] if counting.padding else differing

    taps = list(np.ndindex(len(planes), kernel, kernel))
    packed = in_bytes(weights, counting.channels)  # (planes, outputs, kernel, kernel)
    rows = np.array([packed[plane, :, i, j] for plane, i, j in taps], np.int64)
    offsets = [(plane * inside.shape[0] + i * dilation) * inside.shape[1] + j * dilation for plane, i, j in taps]
    lanes = (height - 1) * inside.shape[1] + width
    # Steps that count nothing make the number of steps a multiple of what is taken at a time.
    rest = -len(taps) % counting.multiple
    bytes_ = np.concatenate([planes.ravel(), np.zeros(lanes, np.uint8)])
    rows, places = np.pad(rows, [(0, rest), (0, 0)]), np.array(offsets + rest * [planes.size])
    got = count(counting, rows, bytes_, places, lanes, pixels=False)
    got = np.pad(got, [(0, 0), (0, inside.shape[1] - width)]).reshape(outputs, height, -1)[..., :width]
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("counting", [LUT4X2, LUT6X2, POPCOUNT8], ids=lambda counting: counting.name)
@pytest.mark.parametrize("steps", [6, 30, 36, 66, 126, 132])
def test_pixels_may_be_rows_and_padding_adds_nothing(
    counting: Counting, steps: int, count: Count, rng: np.random.Generator
) -> None:
    # The chunks, whose counts fit a byte, have 30, 42 and 63 steps.
    signs, pixels, lanes = 1 << counting.channels, 6, 5
    padding = {LUT4X2: 16, LUT6X2: 64}.get(counting)
    rows = rng.integers(signs if padding is None else padding + 1, size=(steps, pixels))
    rows[:, 0] = signs - 1  # with lanes of 0 the most that can be counted
    bytes_ = rng.integers(signs, size=(steps, lanes), dtype=np.uint8)
    bytes_[:, 0] = 0
    expected = (np.bitwise_count(rows[..., None] ^ bytes_[:, None]) * (rows != padding)[..., None]).sum(axis=0)
    got = count(counting, rows, bytes_, np.arange(steps) * lanes, lanes, pixels=True)
    np.testing.assert_array_equal(got, expected)
