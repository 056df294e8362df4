"""The running average of a network's weights over the steps of training, which often answers better than the last ones.

    a_0 = w_0,    a_t = d_t a_{t-1} + (1 - d_t) w_t,    d_t = min(d, (1 + t) / (10 + t))

d is the `weight_average` of a recipe. The first steps keep less, so that the weights of the start are soon forgotten;
so does TensorFlow's `ExponentialMovingAverage`. Averaged are latent weights, of which the signs are taken afterwards,
and the running means and variances of batch normalisations. Counts stay those of the network.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


def averaged(network: nn.Module, keep: float) -> AveragedModel:
    """Return the average of a network's weights so far: `update_parameters` adds those of a step.

    Args:
        network: as it is before the first step.
        keep: d above, at least 0 and below 1.
    """

    @torch.no_grad()
    def add(average: Any, now: Any, steps: Tensor | int) -> None:
        if not average[0].is_floating_point():
            torch._foreach_copy_(average, now)
            return
        step = float(steps)
        torch._foreach_lerp_(average, now, 1 - min(keep, (1 + step) / (10 + step)))

    average = AveragedModel(network, multi_avg_fn=add, use_buffers=True)
    average.update_parameters(network)  # a_0, which is what it is made of
    return average.requires_grad_(False)
