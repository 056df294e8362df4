"""The rules of counting, by hand on a few layers; tests/search/models/test_published_counts.py has the tables."""

from dataclasses import replace

import pytest

from bnas_deploy.core.counting.energy import energy_pj, float_energy_pj
from bnas_deploy.core.counting.published import FIGURES, PUBLISHED, RATIOS, Printed
from bnas_deploy.core.counting.rules import DEFAULT_RULE, EXECUTED, EXECUTED_WEIGHTS, RULES, Count, Network
from bnas_deploy.core.layer_cost import LayerCost

# 64 * 32 * 9 = 18,432 weights on 8 * 8 pixels: 1,179,648 MACs, a 64th of them 18,432; 32 * 64 = 2,048 outputs.
BINARY = LayerCost("conv", (64, 8, 8), (32, 8, 8), (3, 3), (1, 1), (1, 1), groups=1, weight_bits=1)
# 32 * 64 * 4 = 8,192 weights on 4 * 4 pixels: 131,072 MACs.
SKIP = LayerCost("skip", (32, 8, 8), (64, 4, 4), (2, 2), (2, 2), (1, 1), groups=1, weight_bits=32)
# 640 weights on one pixel.
CLASSIFIER = LayerCost("classifier", (64, 1, 1), (10, 1, 1), (1, 1), (1, 1), (1, 1), groups=1, weight_bits=32)
NETWORK = Network((BINARY, SKIP, CLASSIFIER), other_parameters=100)

ALL = 18_432 + 8_192 + 640
ALL_MACS = 1_179_648 + 131_072 + 640


@pytest.mark.parametrize(
    ("rule", "count"),
    [
        ("xnor-net", Count(18_432, 32 * 18_432, 18_432 + 2_048 + 131_072 + 640, ALL_MACS)),
        ("bi-real", Count(18_432 + 32 * 8_932, 32 * (ALL + 100), 18_432 + 131_072 + 640, ALL_MACS)),
        ("bnas-v2", Count(18_432 + 32 * 640, 32 * (ALL - 8_192), 18_432 + 640, ALL_MACS - 131_072)),
        ("dms", Count(18_432 + 32 * 8_832, 32 * ALL, None, None)),
    ],
)
def test_every_rule_by_hand(rule, count):
    assert RULES[rule].count(NETWORK) == count


def test_every_rule_has_a_test_by_hand_and_says_where_it_is_from():
    assert [*RULES] == ["xnor-net", "bi-real", "bnas-v2", "dms"]
    assert DEFAULT_RULE in RULES
    for rule in (*RULES.values(), EXECUTED):
        assert rule.source
        assert rule.memory
        assert rule.operations


def test_what_runs_is_all_of_it():
    assert EXECUTED.count(NETWORK) == RULES["bi-real"].count(NETWORK)
    assert EXECUTED.name not in RULES


def test_ratios_are_quotients_of_the_sums():
    count = Count(10, 325, 4.0, 58)
    assert (count.memory_saving, count.speed_up) == (32.5, 14.5)
    assert (Count(None, None, None, None).memory_saving, Count(1, 2, None, None).speed_up) == (None, None)
    assert Count(0, 0, 0.0, 0).speed_up is None


def test_a_file_that_does_not_say_its_other_parameters_is_not_counted_by_a_rule_that_needs_them():
    exported = replace(NETWORK, other_parameters=None)
    count = RULES["bi-real"].count(exported)
    assert (count.bits, count.float_bits, count.memory_saving) == (None, None, None)
    assert count.operations == RULES["bi-real"].count(NETWORK).operations
    assert RULES["bnas-v2"].count(exported) == RULES["bnas-v2"].count(NETWORK)
    weights = EXECUTED_WEIGHTS.count(exported)
    assert (weights.bits, weights.float_bits) == (18_432 + 32 * 8_832, 32 * ALL)
    assert weights.operations == EXECUTED.count(NETWORK).operations


def test_the_float_network_may_be_another_one():
    larger = Network((BINARY, BINARY, CLASSIFIER), 100)
    count = RULES["bnas-v2"].count(NETWORK, larger)
    own = RULES["bnas-v2"].count(NETWORK)
    assert (count.bits, count.operations) == (own.bits, own.operations)
    assert count.float_bits == 32 * (2 * 18_432 + 640)
    assert count.float_operations == 2 * 1_179_648 + 640


def test_a_binary_2x2_convolution_is_no_skip():
    binary = replace(SKIP, weight_bits=1)
    assert RULES["bnas-v2"].bits_of(binary) == 8_192
    assert RULES["bnas-v2"].operations_of(binary) == 131_072 / 64


def test_layers_of_8_bits_take_8_bits_and_their_macs_count_in_full():
    for rule in RULES.values():
        assert rule.bits_of(replace(CLASSIFIER, weight_bits=8)) == (0 if rule.name == "xnor-net" else 8 * 640)
    assert EXECUTED.operations_of(replace(CLASSIFIER, weight_bits=8)) == 640


def test_the_layer_of_xnor_net_is_62_times_as_fast():
    """With c = 256 channels, 3x3, 14x14 pixels: 64 * 256 * 9 / (256 * 9 + 64) = 147,456 / 2,368."""
    layer = LayerCost("conv", (256, 14, 14), (256, 14, 14), (3, 3), (1, 1), (1, 1), groups=1, weight_bits=1)
    count = RULES["xnor-net"].count(Network((layer,)))
    assert count.speed_up == 147_456 / 2_368
    assert f"{count.speed_up:.2f}" == "62.27"
    assert count.memory_saving == 32
    assert "62.27" in RULES["xnor-net"].source
    # Without the product with a scale it is what the other papers count.
    assert RULES["bi-real"].count(Network((layer,), 0)).speed_up == 64


def test_a_megabyte_of_dms_has_2_to_the_20_bytes():
    assert RULES["dms"].megabytes(8 * 2**20) == 1
    assert RULES["bnas-v2"].megabytes(8e6) == 1


def test_energy_is_that_of_single_operations():
    """A float MAC takes 3.7 + 0.9 pJ, one of 8 bits 0.2 + 0.1, and 32 binary ones at most three additions of 0.1."""
    assert energy_pj(CLASSIFIER) == pytest.approx(640 * 4.6)
    assert energy_pj(replace(CLASSIFIER, weight_bits=8)) == pytest.approx(640 * 0.3)
    assert energy_pj(BINARY) == pytest.approx(1_179_648 * 0.3 / 32)
    assert float_energy_pj(BINARY) == pytest.approx(1_179_648 * 4.6)


# --------------------------------------------------------------------------------------------------------------------
# Printed figures


def printed(text):
    return Printed("a table", "a row", "speed-up", text, "bnas-v2", "BNAS-D")


@pytest.mark.parametrize(
    ("text", "here", "agrees", "rounded"),
    [
        ("13.91", 13.9058, True, "13.91"),
        ("13.91", 13.9049, False, "13.90"),
        ("27", 27.4, True, "27"),
        ("44.5", 44.5515, False, "44.6"),
        ("0.40", 0.3956, True, "0.40"),
    ],
)
def test_a_printed_figure_is_compared_in_its_own_digits(text, here, agrees, rounded):
    assert printed(text).agrees(here) == agrees
    assert printed(text).rounded(here) == rounded


def test_a_difference_is_a_share_of_what_is_printed():
    assert printed("20.00").difference(21.0) == pytest.approx(0.05)


def test_printed_figures_name_rules_and_figures_that_there_are():
    for each in PUBLISHED:
        assert each.rule in RULES
        assert each.figure in FIGURES
        assert each.against is None or each.figure in RATIOS
        assert float(each.text) > 0
    keys = [(each.table, each.row, each.figure) for each in PUBLISHED]
    assert len(set(keys)) == len(keys)
    assert FIGURES["MB"](RULES["dms"], Count(None, None, None, None)) is None
    assert FIGURES["MB of the float network"](RULES["dms"], Count(None, None, None, None)) is None
    assert FIGURES["1e8 FLOPs"](RULES["dms"], Count(1, 1, None, None)) is None
