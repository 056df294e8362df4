"""The running average of weights, against numbers written out."""

import torch
from torch import nn

from bnas_deploy.search.training.averaging import averaged


def test_an_average_keeps_more_the_longer_it_runs() -> None:
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.BatchNorm1d(1))
    values = [0.0, 1.0, -2.0, 4.0, 8.0, 3.0, -7.0, 1.0, 9.0, 2.0]
    with torch.no_grad():
        network[0].weight.fill_(values[0])
        average = averaged(network, 0.5)
        linear, norm = average.module[0], average.module[1]
        want = values[0]
        for step, value in enumerate(values[1:], start=1):
            network[0].weight.fill_(value)
            network[1].running_mean.fill_(value)  # which began at 0 as well
            network[1].num_batches_tracked.fill_(step)
            average.update_parameters(network)
            keep = min(0.5, (1 + step) / (10 + step))  # 2/11 at first, and 1/2 from the eighth on
            want = keep * want + (1 - keep) * value
            # At most nine steps, each with three roundings of numbers below 10.
            assert abs(float(linear.weight) - want) < 9 * 3 * 10 * 2**-24
            assert abs(float(norm.running_mean) - want) < 9 * 3 * 10 * 2**-24
            assert int(norm.num_batches_tracked) == step
    assert not any(parameter.requires_grad for parameter in average.parameters())


def test_an_average_that_keeps_nothing_is_the_network() -> None:
    network = nn.Linear(3, 2)
    average = averaged(network, 0.0)
    with torch.no_grad():
        network.weight.add_(1)
    average.update_parameters(network)
    assert torch.equal(average.module.weight, network.weight)
