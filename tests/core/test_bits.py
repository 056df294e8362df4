"""The bit convention, against loops over single bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bnas_deploy.core.bits import pack_signs, sign, unpack_signs

BYTE_BITS = 8

LENGTHS = [1, 7, 8, 9, 63, 64, 65, 576]
CORNERS = [(0.0, 1), (-0.0, 1), (float("nan"), -1), (float("inf"), 1), (-float("inf"), -1), (1e-45, 1), (-1e-45, -1)]
"""A value and its sign; 1e-45 is the smallest float32 above 0."""

SIGNS = st.lists(st.sampled_from([-1, 1]), min_size=1, max_size=200)


def random_signs(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return np.where(rng.random(shape) < 0.5, np.float32(-1), np.float32(1))


def pack_bit_by_bit(signs: np.ndarray) -> list[int]:
    packed = [0] * (len(signs) // BYTE_BITS + (len(signs) % BYTE_BITS > 0))
    for i, each in enumerate(signs):
        if each == 1:
            packed[i // BYTE_BITS] |= 1 << (i % BYTE_BITS)
    return packed


@pytest.mark.parametrize(("value", "want"), CORNERS, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sign_of_the_corners(value: float, want: int, dtype: type[np.floating]) -> None:
    got = sign(np.array([value], dtype))
    assert got.dtype == dtype
    assert got.tolist() == [want]


@pytest.mark.parametrize("threshold", [0.5, -0.5, float("inf"), -float("inf")])
def test_a_value_on_the_threshold_is_positive(threshold: float) -> None:
    on = np.array([threshold], np.float32)
    below = np.nextafter(on, np.float32(-np.inf))
    assert sign(on, threshold) == 1
    assert sign(below, threshold) == (-1 if below < on else 1)  # nothing is below -inf


def test_nothing_reaches_a_threshold_that_is_nan() -> None:
    assert sign(np.array([np.inf], np.float32), float("nan")) == -1


def test_thresholds_broadcast() -> None:
    values = np.array([[0.0, 1.0], [2.0, 3.0]], np.float32)
    thresholds = np.array([1.0, 1.0], np.float32)
    assert sign(values, thresholds).tolist() == [[-1, 1], [1, 1]]


@pytest.mark.parametrize("length", LENGTHS)
def test_packing_is_bit_by_bit(length: int, rng: np.random.Generator) -> None:
    signs = random_signs(rng, length)
    packed = pack_signs(signs)
    assert packed.dtype == np.uint8
    assert packed.tolist() == pack_bit_by_bit(signs)
    assert len(packed) == -(-length // BYTE_BITS)


@pytest.mark.parametrize("length", LENGTHS)
def test_unpacking_undoes_packing(length: int, rng: np.random.Generator) -> None:
    signs = random_signs(rng, 3, 2, length)
    unpacked = unpack_signs(pack_signs(signs), length)
    assert unpacked.dtype == np.float32
    np.testing.assert_array_equal(unpacked, signs)


@settings(deadline=None)  # time on a busy machine says nothing about bits
@given(SIGNS)
def test_unpacking_undoes_packing_of_anything(signs: list[int]) -> None:
    assert unpack_signs(pack_signs(np.array(signs)), len(signs)).tolist() == signs


@settings(deadline=None)  # time on a busy machine says nothing about bits
@given(SIGNS, st.data())
def test_every_differing_bit_turns_a_plus_into_a_minus(left: list[int], data: st.DataObject) -> None:
    right = data.draw(st.lists(st.sampled_from([-1, 1]), min_size=len(left), max_size=len(left)))
    differing = pack_signs(np.array(left)) ^ pack_signs(np.array(right))
    dot = sum(a * b for a, b in zip(left, right, strict=True))
    # The bits past the end are 0 on both sides, so the tail never differs.
    assert dot == len(left) - 2 * sum(byte.bit_count() for byte in differing.tolist())


@pytest.mark.parametrize("length", LENGTHS)
def test_the_tail_is_zero(length: int) -> None:
    last = int(pack_signs(np.ones(length))[-1])
    assert last == 2 ** (length % BYTE_BITS or BYTE_BITS) - 1
