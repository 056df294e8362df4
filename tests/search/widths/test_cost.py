"""Widths are found in the layers of any backbone, and cost what `layer_costs` counts."""

from itertools import pairwise, product

import pytest
import torch

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.latency_table import LatencyTable, WorkloadTime
from bnas_deploy.core.layer_cost import LayerCost, total
from bnas_deploy.search.models import width_layout
from bnas_deploy.search.models.layer_costs import layer_costs
from bnas_deploy.search.models.registry import configure
from bnas_deploy.search.models.width_layout import Channels, Layer, layout_of
from bnas_deploy.search.models.width_workloads import GRID, width_workloads
from bnas_deploy.search.nn.scheme import Scheme
from bnas_deploy.search.widths.checks import check_goal, check_widths
from bnas_deploy.search.widths.config import Goal
from bnas_deploy.search.widths.cost import Memory, uniform_widths
from bnas_deploy.search.widths.expected_latency import Latency, interpolated, read_latency


def base_of(network, **options):
    return configure(network, image_size=(16, 16), in_channels=1, classes=3, options=options)


VGG = base_of("VGG-11", width_factor=0.25)
RESNET = base_of("ResNet-18", width_factor=0.125, form="cifar")
BI_REAL = base_of("Bi-Real-18", width_factor=0.125, form="cifar")


@pytest.mark.parametrize("base", [VGG, RESNET, BI_REAL], ids=lambda base: base.network)
def test_memory_is_that_of_the_layers(base):
    memory = Memory(layout_of(base))
    for widths in (base.widths, tuple(width + i for i, width in enumerate(base.widths, start=1))):
        counted = total(layer_costs(base.with_widths(widths)))
        bits = counted.binary_weights + 32 * counted.float_weights
        assert memory.of(widths) == pytest.approx(bits / 8 / 2**20)


@pytest.mark.parametrize("base", [VGG, BI_REAL], ids=lambda base: base.network)
def test_expected_memory_is_the_sum_over_all_networks(base):
    """Two widths are random, and every combination of their candidates is counted."""
    memory = Memory(layout_of(base))
    channels = torch.tensor(base.widths, dtype=torch.float64)[:, None].repeat(1, 3)
    channels[1] = torch.tensor([3.0, 8.0, 11.0])
    channels[2] = torch.tensor([2.0, 5.0, 16.0])
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).repeat(len(base.widths), 1)
    expected = sum(
        p[1, i]
        * p[2, j]
        * memory.of([*base.widths[:1], channels[1, i].item(), channels[2, j].item(), *base.widths[3:]])
        for i, j in product(range(3), range(3))
    )
    assert memory.expected(channels, p).item() == pytest.approx(float(expected))


def test_every_width_of_a_residual_network_is_one_of_a_blocks_own():
    names = RESNET.network, len(RESNET.widths)
    assert names == ("ResNet-18", 12)
    layout = layout_of(RESNET)
    written = {}
    for layer in layout.layers:
        for number in layer.out.of_widths:
            written.setdefault(number, []).append(layer.cost.name)
    # The stem's width is that of both blocks of the first stage (A.3): their second convolutions write it.
    assert written[0] == ["stem.0", "blocks.0.second.0", "blocks.1.second.0"]
    # The insides of blocks are widths of their own, written by one convolution each.
    assert written[1] == ["blocks.0.first.0"]


@pytest.mark.parametrize("base", [VGG, base_of("VGG-11", width_factor=0.1)], ids=["quarter", "tenth"])
def test_the_uniform_network_of_a_memory_is_the_nearest_one(base):
    """It is the nearest of those of four hundred ratios, above or below the memory."""
    layout = layout_of(base)
    memory = Memory(layout)
    others = [memory.of(layout.channels([number / 150] * len(base.widths))) for number in range(1, 400)]
    for share in (0.31, 0.5, 0.77, 1.0, 1.9):
        value = share * memory.of(base.widths)
        got = memory.of(uniform_widths(memory, layout, value))
        assert abs(got - value) <= min(abs(other - value) for other in others)


def test_of_two_uniform_networks_that_are_as_near_it_is_the_smaller():
    class Steps:
        def of(self, widths):
            return float(widths[0])

    layout = layout_of(VGG)
    assert uniform_widths(Steps(), layout, 4.5)[0] == 4
    assert uniform_widths(Steps(), layout, 4.6)[0] == 5


def test_ratios_round_to_channels_and_never_below_one():
    layout = layout_of(VGG)
    assert layout.channels([0.3] * 8) == tuple(max(1, round(0.3 * width)) for width in VGG.widths)
    assert layout.channels([0.001] * 8) == (1,) * 8


# ---- refusals


def test_an_impossible_target_is_told_with_the_least():
    layout = layout_of(VGG)
    memory = Memory(layout)
    least = memory.of(layout.channels([0.3] * 8))
    check_goal(Goal("memory", least, 1.0), memory, layout)
    with pytest.raises(BnasError) as caught:
        check_goal(Goal("memory", least / 2, 1.0), memory, layout)
    assert caught.value.message == (
        f"{VGG.name}: no widths reach a memory of {least / 2:g} MB; the least, with every width at 0.3 of the base, is "
        f"{least:.4g} MB. Aim at that or more, or choose a smaller base with --width-factor"
    )


@pytest.mark.parametrize("target", [0.0, -1.0, float("nan"), float("inf")])
def test_a_target_is_a_positive_number(target):
    with pytest.raises(BnasError, match=r"a search for widths with a memory target of .*; wanted a positive number"):
        Goal("memory", target, 1.0)


def test_bnas_has_no_widths():
    with pytest.raises(BnasError, match=r"BNAS-A has no widths to search; choose one of .*VGG-11, "):
        check_widths("BNAS-A")


def test_a_scheme_that_a_layer_excludes_is_told(monkeypatch):
    monkeypatch.setattr(Scheme, "excludes", lambda self, geometry: "it wants 7 groups")
    with pytest.raises(BnasError, match=r"VGG-11.*: it wants 7 groups; choose another --scheme or --network"):
        layout_of(VGG)


def grouped(name, read, out, groups):
    """Return a 3x3 convolution of some groups."""
    return LayerCost(name, (read, 8, 8), (out, 8, 8), (3, 3), (1, 1), (1, 1), groups, 1)


def test_widths_stay_multiples_of_groups_and_depthwise_ones_are_free(monkeypatch):
    def costs(config):
        a, b, *_ = config.widths
        return [grouped("groups", a, b, 4), grouped("depthwise", b, b, b)]

    monkeypatch.setattr(width_layout, "layer_costs", costs)
    layout = layout_of(VGG.with_widths((8, 12)))
    assert layout.multiples == (4, 4)
    assert layout.channels([1.2, 0.01]) == (8, 4)
    memory = Memory(layout)
    assert memory.of((8, 12)) == pytest.approx(9 * (12 * 2 + 12) / 8 / 2**20)
    with pytest.raises(BnasError, match=r"groups has 4 groups, of whose times no table is made for widths; aim at"):
        width_workloads(VGG.with_widths((8, 12)))


@pytest.mark.parametrize(("network", "form"), [("VGG-11", "cifar"), ("Bi-Real-18", "cifar")])
def test_widths_stay_multiples_of_what_a_scheme_rotates(network, form):
    layout = layout_of(base_of(network, width_factor=0.25, scheme="cbcn", form=form))
    # 37 of 64 channels once ended a search in its middle, and 18 of 32.
    widths = layout.channels([(0.578, 1.13)[number % 2] for number in range(len(layout.multiples))])
    assert all(width % 4 == 0 for width in widths[1:])
    layer_costs(layout.base.with_widths(widths))  # which can be built
    plain = layout_of(base_of(network, width_factor=0.25, form=form)) if network == "VGG-11" else None
    assert plain is None or plain.multiples == (1,) * 8


def test_a_width_of_which_a_layer_writes_a_share_is_a_larger_multiple():
    def written(share):
        cost = grouped("binary", 8, 8, 1)
        channels = Channels(0, (share,))
        return width_layout._multiple_written([Layer(cost, channels, channels, channels)], 0, 4)

    assert [written(share) for share in (1.0, 2.0, 4.0, 3.0, 0.5, 1 / 3, 0.0)] == [4, 2, 1, 4, 8, 12, 1]


def test_groups_that_do_not_divide_are_told(monkeypatch):
    def costs(config):
        raise ValueError("4 groups do not divide 6 and 8 channels")

    monkeypatch.setattr(width_layout, "layer_costs", costs)
    with pytest.raises(BnasError) as caught:
        layout_of(VGG)
    assert caught.value.message == (
        f"{VGG.name}: scheme xnor-net: 4 groups do not divide 6 and 8 channels; choose another --scheme, --network or "
        "--width-factor"
    )


def test_layers_that_are_no_sum_of_widths_are_told(monkeypatch):
    monkeypatch.setattr(width_layout, "layer_costs", lambda config: [grouped("square", 1, config.widths[0] ** 2, 1)])
    with pytest.raises(BnasError, match=r"the channels of square are no sum of its widths, so that they cannot be"):
        layout_of(VGG)


# ---- latency


def table_of(config, us):
    """Return a table in which a layer takes `us(read, out)`."""
    times = tuple(
        WorkloadTime(each, us(each.input[0], each.output[0]), 0.0, 0.0, 1) for each in width_workloads(config)
    )
    return LatencyTable({"cpu": "a test"}, "generic", config.to_json(), 1, 1, times)


def test_latency_is_exact_where_it_is_bilinear():
    latency = Latency(table_of(VGG, lambda read, out: 2.0 + read * out), VGG)
    widths = (5, 9, 20, 17, 33, 30, 31, 90)  # the last is beyond the grid
    layers = [(1, 5), *pairwise(widths), (90, 3)]
    assert latency.of(widths) == pytest.approx(2.0 + sum(2.0 + read * out for read, out in layers))


def test_expected_latency_is_the_sum_over_candidates_and_has_a_gradient():
    latency = Latency(table_of(VGG, lambda read, out: float(read * out)), VGG)
    channels = torch.tensor(VGG.widths, dtype=torch.float64)[:, None].repeat(1, 3)
    channels[3] = torch.tensor([5.0, 9.0, 21.0])
    channels.requires_grad_()
    p = torch.tensor([[0.2, 0.5, 0.3]], dtype=torch.float64).repeat(8, 1)
    got = latency.expected(channels, p)
    each = [latency.of([*VGG.widths[:3], count, *VGG.widths[4:]]) for count in (5, 9, 21)]
    assert got.item() == pytest.approx(0.2 * each[0] + 0.5 * each[1] + 0.3 * each[2])
    (gradient,) = torch.autograd.grad(got, channels)
    assert gradient[3, 0].item() == pytest.approx(0.2 * (VGG.widths[2] + VGG.widths[4]))


def test_latency_is_never_below_zero():
    grid = torch.tensor([1.0, 2.0], dtype=torch.float64)
    times = torch.tensor([[0.0, 1.0], [1.0, 2.0]], dtype=torch.float64)
    zero = torch.zeros(1, dtype=torch.float64)
    assert interpolated(grid, grid, times, zero, zero).item() == 0


def test_the_grid_has_every_pair_of_ratios():
    workloads = {str(each) for each in width_workloads(VGG)}
    for read, out in product(GRID, GRID):
        assert any(f"{round(16 * read)}->{round(16 * out)}" in each for each in workloads)


def test_a_table_of_another_network_is_refused(tmp_path):
    path = tmp_path / "device.json"
    path.write_text(table_of(VGG, lambda read, out: 1.0).to_json())
    assert read_latency(path, VGG).of(VGG.widths) == pytest.approx(10)  # the run, eight convolutions, the classifier
    other = base_of("VGG-11", width_factor=0.5)
    with pytest.raises(BnasError) as caught:
        read_latency(path, other)
    assert caught.value.message.startswith(f"{path}: a table for widths [4, 8, 16, 16, 32, 32, 32, 32], and the base")
    assert "bnas-deploy bench-ops --network VGG-11 --form cifar --widths 8,16,32,32,64,64,64,64" in caught.value.message
    path.write_text(table_of(VGG, lambda read, out: 1.0).to_json().replace('"network": "VGG-11"', '"other": "x"'))
    with pytest.raises(BnasError, match="a table for network None"):
        read_latency(path, VGG)
