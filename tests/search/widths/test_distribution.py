"""The probabilities of the candidates, and their gradients, against those worked out by hand and by differences."""

import math

import pytest
import torch

from bnas_deploy.search.widths.distribution import (
    LEAST_EDGE,
    LEAST_RATIO,
    WidthDistribution,
    candidate_ratios,
    gumbel_softmax,
    interval_edges,
    probabilities,
)


def logistic(x, mu, sigma):
    return 1 / (1 + math.exp(-(x - mu) / sigma))


def at(centre, sigma, mu=None):
    """Return p of one width whose candidates lie around `centre`, as a function of mu."""
    edges = interval_edges(candidate_ratios(torch.tensor([centre], dtype=torch.float64), sigma), sigma)
    return probabilities(torch.tensor([mu or centre], dtype=torch.float64), edges, sigma)[0]


@pytest.mark.parametrize(("mu", "sigma"), [(1.5, 1.0), (2.5, 0.3), (7.0, 2.0)])
def test_candidates_and_their_probabilities_are_those_of_the_paper(mu, sigma):
    ratios = candidate_ratios(torch.tensor([mu], dtype=torch.float64), sigma)
    assert ratios[0].tolist() == pytest.approx([max(0.3, mu - 0.8 * sigma), mu, mu + 0.8 * sigma])
    p = at(mu, sigma)
    if mu - 1.2 * sigma >= LEAST_EDGE and mu - 0.8 * sigma >= LEAST_RATIO:
        reach = 0.4 * sigma
        parts = [logistic(r + reach, mu, sigma) - logistic(r - reach, mu, sigma) for r in ratios[0].tolist()]
        assert p.tolist() == pytest.approx([part / sum(parts) for part in parts])
        assert p.tolist() == pytest.approx([0.3162, 0.3675, 0.3162], abs=1e-4)  # four digits were worked out


@pytest.mark.parametrize(
    ("centre", "sigma", "mu"), [(2.0, 1.0, 2.0), (2.0, 1.0, 2.4), (0.4, 0.5, 0.5), (0.3, 0.3, 0.3)]
)
def test_the_gradient_to_mu_is_that_of_differences_with_candidates_held_fixed(centre, sigma, mu):
    edges = interval_edges(candidate_ratios(torch.tensor([centre], dtype=torch.float64), sigma), sigma)

    def p_of(value):
        return probabilities(value, edges, sigma)

    got = torch.autograd.functional.jacobian(p_of, torch.tensor([mu], dtype=torch.float64)).flatten()
    step = 1e-5  # central differences are off by step**2 times a third derivative of about 1: 1e-10
    ahead, behind = (p_of(torch.tensor([mu + d], dtype=torch.float64)).flatten() for d in (step, -step))
    torch.testing.assert_close(got, (ahead - behind) / (2 * step), rtol=0, atol=1e-8)
    assert got.sum().abs() < 1e-12
    if mu == centre == 2.0:
        assert got.tolist() == pytest.approx([-0.1161, 0, 0.1161], abs=1e-4)  # four digits were worked out


def test_candidates_that_move_with_mu_leave_it_without_a_gradient():
    mu = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    probabilities(mu, interval_edges(candidate_ratios(mu, 1.0), 1.0), 1.0)[0, 2].backward()
    assert abs(mu.grad.item()) < 1e-12


def test_no_candidate_and_no_edge_is_below_the_least():
    ratios = candidate_ratios(torch.tensor([0.3, 0.5, 3.0], dtype=torch.float64), 1.0)
    edges = interval_edges(ratios, 1.0)
    assert ratios.min() == LEAST_RATIO
    assert edges.min() == LEAST_EDGE
    assert (edges.diff(dim=1) > 0).all()
    assert ratios[2].tolist() == pytest.approx([2.2, 3.0, 3.8])
    assert edges[2].tolist() == pytest.approx([1.8, 2.6, 3.4, 4.2])  # 0.4 to each side of a candidate


def test_mu_far_from_its_candidates_still_gives_probabilities():
    p = at(1.0, 0.3, mu=500.0)
    assert torch.isfinite(p.log()).all()
    assert p.sum().item() == pytest.approx(1)


def test_samples_have_the_probabilities_and_depend_on_the_generator_only():
    p = torch.tensor([[0.2, 0.3, 0.5]], dtype=torch.float64)
    random = torch.Generator().manual_seed(0)
    samples = torch.cat([gumbel_softmax(p, 1.0, random) for _ in range(4000)])
    assert (samples.sum(dim=1) - 1).abs().max() < 1e-12
    share = samples.argmax(dim=1).bincount(minlength=3) / 4000
    torch.testing.assert_close(share.double(), p[0], rtol=0, atol=0.04)  # five deviations of a share of 4000
    again = gumbel_softmax(p, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(again, samples[:1])


def test_a_round_puts_the_candidates_around_mu():
    widths = WidthDistribution(2, 1.5, 1.0)
    with torch.no_grad():
        widths.mu.copy_(torch.tensor([0.1, 2.0]))
    widths.keep_in_space()
    assert widths.mu.tolist() == [0.3, 2.0]
    assert widths.ratios[:, 1].tolist() == [1.5, 1.5]
    widths.follow(0.5)
    assert widths.ratios[:, 1].tolist() == [0.3, 2.0]
    assert widths.ratios[1].tolist() == pytest.approx([1.6, 2.0, 2.4])


def test_the_penalty_sees_candidates_that_move_with_mu():
    widths = WidthDistribution(1, 2.0, 0.5)
    base = torch.tensor([10.0], dtype=torch.float64)
    channels, p = widths.moving(base)
    assert (channels * p).sum().item() == pytest.approx(20)
    (channels * p).sum().backward()
    assert widths.mu.grad.item() == pytest.approx(10)
    widths.mu.grad = None
    (channels.detach() * widths()).sum().backward()
    assert widths.mu.grad.item() == pytest.approx(10 * 2 * 0.8 * 0.1161, rel=1e-3)  # of fixed ones; 0.1161 has 4 digits
