"""How alphas become mixing weights."""

from dataclasses import replace

import pytest
import torch

from bnas_deploy.search.cells.config import SEARCH_RECIPES, STRATEGIES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.cells.strategies import GumbelSoftmax, HardGumbelSoftmax, Softmax, build_strategy

NETWORK = SupernetConfig(SPACES["bnas"], cells=3, channels=2, classes=3, in_channels=1, image_size=(8, 8))
CONFIG = SearchConfig(NETWORK, SEARCH_RECIPES["digits"])
ALPHAS = torch.randn(14, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def noise(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "kind", "single"),
    [
        ("bnas", Softmax, False),
        ("darts", Softmax, False),
        ("snas", GumbelSoftmax, False),
        ("gdas", HardGumbelSoftmax, True),
    ],
)
def test_strategies_by_name(name, kind, single):
    strategy = build_strategy(replace(CONFIG, strategy=name))
    assert type(strategy) is kind
    assert strategy.single == single
    assert set(STRATEGIES) == {"bnas", "darts", "snas", "gdas"}


def test_softmax_ignores_noise_and_progress():
    want = ALPHAS.exp() / ALPHAS.exp().sum(dim=1, keepdim=True)
    for progress, random in ((0.0, None), (0.7, noise())):
        torch.testing.assert_close(Softmax().mix(ALPHAS, progress, random), want)


def test_the_temperature_falls_along_a_line():
    strategy = GumbelSoftmax(4.0, 1.0)
    for progress, temperature in ((0.0, 4.0), (0.5, 2.5), (1.0, 1.0)):
        want = (ALPHAS / temperature).softmax(dim=1)
        torch.testing.assert_close(strategy.mix(ALPHAS, progress, None), want)


def test_the_sampled_operation_has_the_probability_of_the_softmax():
    """That is what Gumbel noise is for. 4 standard deviations of a share of 14000 draws are below 0.017."""
    alphas = ALPHAS[:1].expand(14, 7)
    random = noise()
    draws = sum(HardGumbelSoftmax(10.0, 0.1).mix(alphas, 0.5, random).sum(dim=0) for _ in range(1000)) / 14_000
    torch.testing.assert_close(draws, alphas[0].softmax(dim=0), rtol=0, atol=0.017)


def test_a_relaxed_sample_gets_harder_as_the_temperature_falls():
    warm, cold = (GumbelSoftmax(t, t).mix(ALPHAS, 0.0, noise()) for t in (5.0, 0.05))
    torch.testing.assert_close(warm.sum(dim=1), torch.ones(14, dtype=torch.float64))
    assert warm.max() < 0.9
    assert cold.max(dim=1).values.mean() > 0.9
    assert (warm.argmax(dim=1) == cold.argmax(dim=1)).all()


def test_a_hard_sample_is_one_hot_with_the_gradient_of_the_relaxed_one():
    alphas = ALPHAS.float().requires_grad_()
    wanted, got = (kind(2.0, 2.0).mix(alphas, 0.0, noise()) for kind in (GumbelSoftmax, HardGumbelSoftmax))
    assert set(got.flatten().tolist()) == {0.0, 1.0}
    assert (got.sum(dim=1) == 1).all()
    assert (got.argmax(dim=1) == wanted.argmax(dim=1)).all()
    weight = torch.randn(14, 7)
    gradients = [torch.autograd.grad((mix * weight).sum(), alphas)[0] for mix in (wanted, got)]
    torch.testing.assert_close(*gradients, rtol=0, atol=0)


def test_noise_is_a_function_of_its_generator():
    strategy = GumbelSoftmax(1.0, 1.0)
    first, again, other = (strategy.mix(ALPHAS, 0.0, noise(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
