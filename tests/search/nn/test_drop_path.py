"""Branches are left out for whole images, the mean stays, and evaluation knows nothing of it."""

import torch

from bnas_deploy.core.genotype import GENOTYPES, Cell, Edge
from bnas_deploy.search.models.bnas.cell import SearchedCell
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.drop_path import DropPath, set_drop_path


def test_each_image_is_kept_whole_and_scaled_or_left_out() -> None:
    torch.manual_seed(0)
    layer = DropPath().train()
    layer.probability = 0.25
    x = 1 + torch.rand(4000, 2, 3, 1)
    y = layer(x)
    left_out = (y == 0).all(dim=(1, 2, 3))
    torch.testing.assert_close(y[~left_out], x[~left_out] / 0.75, rtol=2e-7, atol=0)  # two roundings of float32
    # 4000 draws: the standard deviation of the share is sqrt(.25 * .75 / 4000) = 0.0068; five of them.
    assert abs(left_out.float().mean().item() - 0.25) < 0.035


def test_evaluation_and_a_probability_of_0_leave_the_branch_and_the_random_numbers_alone() -> None:
    layer = DropPath()
    x = torch.randn(3, 2, 1, 1)
    before = torch.get_rng_state()
    assert layer.train()(x) is x
    layer.probability = 0.9
    assert layer.eval()(x) is x
    assert torch.equal(torch.get_rng_state(), before)


def test_gradients_go_where_values_go() -> None:
    torch.manual_seed(0)
    layer = DropPath().train()
    layer.probability = 0.5
    x = torch.ones(64, 1, 1, 1, requires_grad=True)
    y = layer(x)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert set(y.flatten().tolist()) == {0.0, 2.0}


def test_a_cell_leaves_out_its_operations_but_no_identity_and_no_skip() -> None:
    """With nearly every branch left out, a normal cell gives its previous cell, and what an identity brings."""
    edges = [Edge("skip_connect", 1), *(Edge("bin_conv_3x3", 0) for _ in range(7))]
    config = NetworkConfig("tiny", 3, 2, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))
    cell = SearchedCell(
        Cell(tuple(edges)),
        before_previous=5,
        previous=8,
        channels=2,
        reduction=False,
        after_reduction=False,
        skip=True,
        config=config,
    ).train()
    assert set_drop_path(cell, 1 - 1e-12) == 1
    before_previous, previous = torch.randn(2, 5, 4, 4), torch.randn(2, 8, 4, 4)
    wanted = previous.clone()
    wanted[:, :2] += cell.preprocess1(previous)
    assert torch.equal(cell(before_previous, previous), wanted)


def test_a_state_dict_has_nothing_of_it() -> None:
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], 3, 1, (8, 8))
    assert not [name for name in build_network(config).state_dict() if "drop_path" in name]
