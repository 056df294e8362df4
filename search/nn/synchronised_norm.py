"""Batch normalisation with the statistics of a batch that lies in several processes."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class _Sum(torch.autograd.Function):
    """The sum over the processes; so is its gradient, since every process uses it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        distributed.all_reduce(total)
        return total


def _summed(x: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(x)  # type: ignore[no-untyped-call]  # torch leaves Function.apply untyped
    return total


class SynchronisedBatchNorm2d(nn.BatchNorm2d):
    """What `torch.nn.SyncBatchNorm` is on GPUs, on CPUs, where PyTorch has none.

    In training, mean and variance of (N, C, H, W) are those over all images of all processes; so are the running ones.
    In evaluation it is `torch.nn.BatchNorm2d`.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        axes = (0, 2, 3)
        pixels = x.new_tensor([x.numel() / x.shape[1]])
        sums = _summed(torch.cat([x.sum(axes), pixels]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centred = x - mean[:, None, None]
        # In a pass of its own: a mean of squares less a squared mean would lose what they have in common.
        variance = _summed(centred.square().sum(axes)) / count
        self._keep(mean.detach(), variance.detach() * count / (count - 1))
        y = centred * (variance + self.eps).rsqrt()[:, None, None]
        return y if self.weight is None else y * self.weight[:, None, None] + self.bias[:, None, None]

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running mean and the running variance, which is without bias, as PyTorch does."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked += 1
            share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, share)
            self.running_var.lerp_(variance, share)


def synchronise(network: nn.Module, device: torch.device) -> nn.Module:
    """Let the batch normalisations of a network use the batch of all processes; its state dict stays as it is."""
    if device.type == "cuda":
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return synchronised
    for module in network.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SynchronisedBatchNorm2d  # which has nothing more than its base has
    return network
