"""Bop (Helwegen et al., "Latent Weights Do Not Exist", NeurIPS 2019): binary weights are flipped, the rest has Adam.

larq has the two as its optimiser Bop inside of a CaseOptimizer. Code: github.com/plumerai/rethinking-bnn-optimization.

For each binary weight w of ±1 and its gradient g, Bop keeps the running mean m and flips by it:

    m <- (1 - gamma) m + gamma g
    w <- -w   where |m| > threshold and m has the sign of w

so that a flip goes down the gradient. It has no learning rate. Before its first step a weight is made its sign.
"""

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.adam import adam


class Bop(Optimizer):
    """Bop for some weights, Adam for all other parameters.

    Args:
        params: all parameters.
        lr: of Adam.
        binary: those of `params` that are flipped.
        gamma: how much of a step's gradient goes into the running mean.
        threshold: of the running mean, above which a weight flips.
        betas: of Adam.
        eps: of Adam.
        weight_decay: of Adam.

    Raises:
        ValueError: a number out of its range.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        *,
        binary: Iterable[nn.Parameter] = (),
        gamma: float = 1e-4,
        threshold: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not 0 < gamma <= 1:
            raise ValueError(f"gamma is {gamma}, wanted more than 0 and at most 1")
        if threshold < 0:
            raise ValueError(f"threshold is {threshold}, wanted at least 0")
        flipped = list(binary)
        chosen = {id(each) for each in flipped}
        rest = [each for each in params if id(each) not in chosen]
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        groups = [
            {"params": rest, "flips": False, "gamma": gamma, "threshold": threshold},
            {"params": flipped, "flips": True, "gamma": gamma, "threshold": threshold},
        ]
        super().__init__([group for group in groups if group["params"]], defaults)

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Take a step; a closure gives the loss, as everywhere in `torch.optim`."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            with_gradients = [each for each in group["params"] if each.grad is not None]
            if group["flips"]:
                for weight in with_gradients:
                    self._flip(weight, group)
            elif with_gradients:
                self._adam(with_gradients, group)
        return loss

    def _flip(self, weight: Tensor, group: dict[str, Any]) -> None:
        assert weight.grad is not None
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
            weight.copy_(torch.where(weight >= 0, 1.0, -1.0))
        mean = state["mean"].lerp_(weight.grad, group["gamma"])
        weight.copy_(torch.where(mean * weight > group["threshold"], -weight, weight))

    def _adam(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        beta1, beta2 = group["betas"]
        adam(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )
