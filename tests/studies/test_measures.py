"""What trials measure besides accuracies, against layers that are tested elsewhere and against sums by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.registry import build_network, read_config
from bnas_deploy.search.models.small_cnn import SmallCnnConfig
from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.nn.schemes.xnor_net import XnorNet
from bnas_deploy.studies.catalogue import find_study
from bnas_deploy.studies.errors import binary, binary_with_k, relative_error
from bnas_deploy.studies.plan import plan
from bnas_deploy.studies.study import SMALL


@pytest.mark.parametrize("geometry", [{"padding": 1}, {"padding": 2, "dilation": 2}, {"padding": 1, "stride": 2}])
def test_a_float_layer_made_binary_is_the_binary_layer(geometry: dict[str, int]) -> None:
    x = torch.randn(2, 5, 7, 6)
    x[0, 0, 0, 0] = 0  # whose sign is +1
    convolution = nn.Conv2d(5, 4, 3, bias=False, **geometry)  # type: ignore[arg-type]  # keywords of one kind
    for k_map, compute in ((False, binary), (True, binary_with_k)):
        layer = BinaryConv2d(5, 4, 3, scheme=XnorNet(k_map=k_map), **geometry).eval()
        layer.load_state_dict(convolution.state_dict(), strict=False)
        # Sums of at most 45 products, and two scales: float32 rounds each by 6e-8 of it.
        torch.testing.assert_close(compute(convolution, x), layer(x), rtol=1e-5, atol=1e-5)


def test_a_depthwise_layer_has_the_k_of_its_own_channel() -> None:
    x = torch.randn(1, 3, 5, 5)
    convolution = nn.Conv2d(3, 3, 3, padding=1, groups=3, bias=False)
    got = binary_with_k(convolution, x)
    for channel in range(3):
        alone = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        alone.weight = nn.Parameter(convolution.weight[channel : channel + 1])
        torch.testing.assert_close(got[:, [channel]], binary_with_k(alone, x[:, [channel]]))


def test_the_relative_error_of_zeroise_is_1() -> None:
    y = torch.randn(3, 4)
    assert relative_error(y, torch.zeros(3, 4)) == pytest.approx(1)
    assert relative_error(y, 1.5 * y) == pytest.approx(0.25)
    assert relative_error(torch.zeros(2), torch.ones(2)) == 0


def test_the_small_network_is_read_back_and_names_a_wrong_size() -> None:
    config = SmallCnnConfig("three", "bin_sep_conv_3x3", 4, 8, classes=3, in_channels=1, image_size=(8, 9))
    assert read_config("small-cnn", config.to_json(), "here") == config
    assert build_network(config)(torch.randn(2, 1, 8, 9)).shape == (2, 3)
    with pytest.raises(BnasError, match="images of 7x8, which 3 layers halve; wanted at least 8x8"):
        config.fitted(classes=3, in_channels=1, image_size=(7, 8))


def test_backbones_have_the_operations_of_the_searched_network() -> None:
    """On images of 28x28 the factors are known: 0.261 of VGG-Small and 0.169 of NiN."""
    about = DataDescription("grey", tuple("0123456789"), 1, (28, 28), (0.5,), (0.5,))
    images = [Images(torch.zeros(n, 1, 28, 28, dtype=torch.uint8), torch.arange(n) % 10) for n in (1500, 10)]
    study = find_study("backbones")
    budget = study.budget(SMALL)
    names = {"BNAS", "VGG-Small", "NiN"}
    chosen = [row for row in study.rows if row.name in names]
    made = plan(replace(study, rows=tuple(chosen)), budget, "digits", InMemoryDataSet(about, *images))
    networks = [row.trials[0].network.name for row in made.rows]
    assert networks[0] == "BNAS-Mini-4x16"
    factors = [float(name.rpartition("-")[2].rstrip("x")) for name in networks[1:]]
    assert factors == pytest.approx([0.169, 0.261], abs=0.003)
