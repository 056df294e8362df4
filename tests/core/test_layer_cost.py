"""Weights, MACs and bytes of a layer and of several, computed by hand."""

from dataclasses import replace

import pytest

from bnas_deploy.core.layer_cost import LayerCost, Totals, total

CONVOLUTION = LayerCost("conv", (64, 16, 16), (32, 8, 4), (3, 5), (2, 4), (1, 1), groups=1, weight_bits=1)
CLASSIFIER = LayerCost("classifier", (32, 1, 1), (10, 1, 1), (1, 1), (1, 1), (1, 1), groups=1, weight_bits=32)


def test_a_convolution() -> None:
    assert CONVOLUTION.is_binary
    assert CONVOLUTION.weights == 64 * 32 * 3 * 5
    assert CONVOLUTION.macs == 64 * 32 * 3 * 5 * 8 * 4


def test_each_group_sees_its_own_channels() -> None:
    assert replace(CONVOLUTION, groups=4).weights == 16 * 32 * 3 * 5
    depthwise = replace(CONVOLUTION, input=(32, 16, 16), groups=32)
    assert depthwise.weights == 32 * 3 * 5


def test_a_matrix_product_has_one_pixel() -> None:
    assert not CLASSIFIER.is_binary
    assert CLASSIFIER.weights == CLASSIFIER.macs == 320


def test_totals_keep_bits_apart() -> None:
    costs = total(iter([CONVOLUTION, CLASSIFIER, CONVOLUTION]))
    assert costs == Totals(
        binary_weights=2 * CONVOLUTION.weights,
        float_weights=320,
        binary_macs=2 * CONVOLUTION.macs,
        float_macs=320,
    )
    assert costs.weight_bytes == 2 * 64 * 32 * 3 * 5 // 8 + 4 * 320
    assert costs.float_twin_bytes == 4 * (2 * 64 * 32 * 3 * 5 + 320)


def test_nothing_costs_nothing() -> None:
    int8 = total([replace(CLASSIFIER, weight_bits=8), CONVOLUTION])
    assert (int8.int8_weights, int8.int8_macs, int8.float_weights) == (320, 320, 0)
    assert int8.weight_bytes == 64 * 32 * 3 * 5 // 8 + 320
    assert int8.float_twin_bytes == 4 * (64 * 32 * 3 * 5 + 320)
    assert total([]) == Totals(0, 0, 0, 0)
    assert total([]).weight_bytes == 0


@pytest.mark.parametrize(("weights", "want"), [(1, 1), (8, 1), (9, 2)])
def test_bits_are_rounded_up_to_bytes(weights: int, want: int) -> None:
    assert Totals(weights, 0, 0, 0).weight_bytes == want
