"""The terms of a loss are compared with slow ones, and are seen to act in a run."""

import math

import pytest
import torch
from torch import nn

from bnas_deploy.search.nn.layers import BinaryConv2d
from bnas_deploy.search.training.losses import (
    TrainingLoss,
    activation_distribution,
    attention,
    attention_map,
    distillation,
)
from bnas_deploy.search.training.recipes import Loss


def distribution_by_hand(x: torch.Tensor) -> float:
    """Channel by channel, as the authors' code has it: models/distrloss_layer.py, lines 29 to 32."""
    first = second = 0.0
    for channel in x.double().unbind(dim=1):
        mean = channel.mean().item()
        deviation = (((channel - mean) ** 2).mean().item() + 1e-10) ** 0.5
        first += max(min(2 - mean - deviation, 2 + mean - deviation), 0) ** 2 + max(deviation - 4, 0) ** 2
        second += max(mean**2 - deviation**2, 0)
    return (first + second) / x.shape[1]


def test_the_distribution_of_activations_is_the_authors() -> None:
    torch.manual_seed(0)
    x = torch.randn(5, 6, 3, 4)
    x[:, 1] += 1.5  # one-sided
    x[:, 2] = 6 * x[:, 2] - 1  # wide
    x[:, 3] = 0.5  # constant
    x[:, 4] *= 0.1  # narrow
    x[:, 5] -= 3.0
    # float32: 60 values a channel, a handful of roundings, and squares of at most 10
    assert activation_distribution(x).item() == pytest.approx(distribution_by_hand(x), rel=1e-5)
    for channel in range(6):
        only = x[:, channel : channel + 1]
        assert activation_distribution(only).item() == pytest.approx(distribution_by_hand(only), rel=1e-5, abs=1e-6)


def test_a_constant_channel_has_a_finite_gradient() -> None:
    x = torch.full((4, 2, 3, 3), 0.5, requires_grad=True)
    activation_distribution(x).backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
    assert x.grad.any()


class TwoSigns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = BinaryConv2d(2, 3, 1)
        self.second = BinaryConv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.second(self.first(x)).mean(dim=(2, 3))
        return y


def test_the_term_is_the_mean_over_the_layers_that_take_signs_and_ends_in_time() -> None:
    torch.manual_seed(1)
    network = TwoSigns().train()
    loss = TrainingLoss(Loss(activation_distribution=2.0, activation_distribution_share=0.5), network)
    images, labels = torch.randn(6, 2, 3, 3), torch.arange(6) % 4
    plain = nn.functional.cross_entropy(network(images), labels)
    loss.inputs.take()
    terms = distribution_by_hand(images), distribution_by_hand(network.first(images).detach())
    loss.inputs.take()
    wanted = plain.item() + 2.0 * sum(terms) / 2
    assert loss(images, network(images), labels, 0.49).item() == pytest.approx(wanted, rel=1e-5)
    assert loss(images, network(images), labels, 0.5).item() == plain.item()
    network.eval()
    network(images)
    assert loss.inputs.take() == []


def test_attention_maps_are_of_each_image_and_a_dark_one_has_zeros() -> None:
    torch.manual_seed(3)
    x = torch.randn(2, 3, 2, 2)
    x[1] = 0
    wanted = (x[0] ** 2).mean(dim=0).flatten()
    got = attention_map(x)
    torch.testing.assert_close(got[0], wanted / wanted.max(), rtol=1e-6, atol=0)
    assert torch.equal(got[1], torch.zeros(4))
    blocks, teacher = [x, torch.randn(2, 5, 3, 3)], [torch.randn(2, 3, 2, 2), torch.randn(2, 5, 3, 3)]
    pairs = zip(blocks, teacher, strict=True)
    each = [((attention_map(mine) - attention_map(other)) ** 2).mean().item() for mine, other in pairs]
    assert attention(blocks, teacher).item() == pytest.approx(sum(each) / 2, rel=1e-6)
    assert attention(blocks, blocks).item() == 0


def test_answers_are_compared_at_a_temperature() -> None:
    torch.manual_seed(4)
    logits, teacher = torch.randn(5, 3), torch.randn(5, 3)
    wanted = [
        4 * sum(p.item() * math.log(p.item() / q.item()) for p, q in zip(*each, strict=True))
        for each in zip((teacher / 2).softmax(dim=1), (logits / 2).softmax(dim=1), strict=True)
    ]
    # float32 differences of logarithms of about 1
    assert distillation(logits, teacher, 2.0).item() == pytest.approx(sum(wanted) / 5, rel=1e-5, abs=1e-6)
    assert distillation(logits, logits, 3.0).item() == pytest.approx(0, abs=1e-6)


def test_labels_are_smoothed() -> None:
    torch.manual_seed(2)
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    smoothed = nn.functional.one_hot(labels, 3) * 0.8 + 0.2 / 3
    wanted = -(smoothed * logits.log_softmax(dim=1)).sum(dim=1).mean()
    got = TrainingLoss(Loss(label_smoothing=0.2), TwoSigns())(logits, logits, labels, 0.0)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-6)
