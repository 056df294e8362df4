"""The diversity term against numbers worked out by hand."""

import math

import pytest
import torch

from bnas_deploy.search.cells.objective import Diversity, Probabilities, mean_entropy

UNIFORM = torch.full((14, 7), 1 / 7, dtype=torch.float64)
CERTAIN = torch.eye(7, dtype=torch.float64)[[0] * 14]
CROSS_ENTROPY = torch.tensor(1.0, dtype=torch.float64)
HALVES = torch.tensor([[0.5, 0.5, 0, 0, 0, 0, 0]] * 14, dtype=torch.float64)


@pytest.mark.parametrize(
    ("normal", "reduction", "entropy"),
    [
        (UNIFORM, UNIFORM, math.log(7)),
        (CERTAIN, CERTAIN, 0.0),
        (UNIFORM, CERTAIN, math.log(7) / 2),
        (HALVES, CERTAIN, math.log(2) / 2),
    ],
)
def test_entropy_is_the_mean_over_the_edges_of_both_cells(normal, reduction, entropy):
    assert mean_entropy(Probabilities(normal, reduction)).item() == pytest.approx(entropy, abs=1e-14)


@pytest.mark.parametrize("epoch", [0, 1, 8, 49])
def test_equation_6(epoch):
    term = Diversity(weight=1.0, time_constant=7.7)(Probabilities(UNIFORM, UNIFORM), epoch, CROSS_ENTROPY)
    assert term.item() == pytest.approx(-math.log(7) * math.exp(-epoch / 7.7), rel=1e-14)
    assert Diversity(2.5, 7.7)(Probabilities(UNIFORM, UNIFORM), epoch, CROSS_ENTROPY).item() == pytest.approx(
        2.5 * term.item()
    )


def test_the_official_code_takes_the_last_edge_of_the_reduction_cell_14_times():
    reduction = CERTAIN.clone()
    reduction[-1] = UNIFORM[-1]
    probabilities = Probabilities(CERTAIN, reduction)
    paper = Diversity(1.0, 7.7)(probabilities, 0, CROSS_ENTROPY).item()
    code = Diversity(1.0, 7.7, stale_index=True)(probabilities, 0, CROSS_ENTROPY).item()
    assert paper == pytest.approx(-math.log(7) / 28)
    assert code == pytest.approx(-math.log(7) * 14 / 28)


def test_the_gradient_goes_towards_the_uniform_distribution():
    alphas = torch.tensor([[2.0, 0, 0, 0, 0, 0, 0]] * 14, requires_grad=True)
    probabilities = Probabilities(alphas.softmax(dim=1), alphas.softmax(dim=1))
    Diversity(1.0, 7.7)(probabilities, 0, CROSS_ENTROPY).backward()
    assert (alphas.grad[:, 0] > 0).all()  # descending lowers the alpha that leads
    assert (alphas.grad[:, 1:] < 0).all()


def learnable_after(steps, term):
    """Descend a loss that favours pooling over convolutions, as undertrained convolutions do.

    Returns the probability of convolutions.
    """
    favours_pooling = torch.tensor([0.0, -1.0, -1.0, 0.5, 0.5, 0.5, 0.5])
    alphas = torch.zeros(14, 7, requires_grad=True)
    optimizer = torch.optim.Adam([alphas], lr=0.05)
    for step in range(steps):
        p = alphas.softmax(dim=1)
        loss = (p * favours_pooling).sum(dim=1).mean() + term(Probabilities(p, p), step // 10, CROSS_ENTROPY)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return alphas.softmax(dim=1)[:, 3:].sum(dim=1).mean().item()


def test_the_term_delays_the_drop_of_learnable_operations_and_then_lets_go():
    with_term = [learnable_after(steps, Diversity(1.0, 7.7)) for steps in (0, 50, 100, 600)]
    without = [learnable_after(steps, Diversity(0.0, 7.7)) for steps in (0, 50, 100, 600)]
    assert with_term[0] == without[0] == pytest.approx(4 / 7)
    assert with_term[1] > 2 * without[1]
    assert with_term[2] > 2 * without[2]
    assert max(with_term[3], without[3]) < 0.02
