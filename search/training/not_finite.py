"""Where in a network numbers stop being finite, once a loss is not."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def find_cause(network: nn.Module, images: Tensor, again: Callable[[], object]) -> str:
    """Say which values of a step are the first that are not finite: of the images, of a layer's weights or its output.

    Args:
        network: in the mode that the step ran in; every process that shares its batch has to ask.
        images: of the step.
        again: runs the network as the step did.
    """
    if not _finite([images]):
        return "the images of this batch have values that are not finite"
    # Not the buffers: this batch went into running means and variances already.
    bad = [name for name, tensor in network.named_parameters() if not _finite([tensor])]
    if bad:
        more = f", and of {len(bad) - 1} more tensors," if len(bad) > 1 else ""
        return f"the values of {bad[0]}{more} are not finite, so a step before this one moved them too far"
    found = _first_output(network, again)
    if found is None:
        return "the weights and every layer's output are finite, so it is the loss itself"
    name, module, inputs = found
    parts = [f"weights (up to {largest:.3g})" for largest in _largest(module.parameters(recurse=False))]
    if not _finite(inputs):
        return f"the first values that are not finite are the input of {name}; the weights of all layers are finite"
    parts += [f"an input (up to {largest:.3g})" for largest in _largest(inputs)]
    return f"the first values that are not finite are the output of {name}, from finite {' and '.join(parts)}"


def _first_output(network: nn.Module, again: Callable[[], object]) -> tuple[str, nn.Module, tuple[Tensor, ...]] | None:
    """Return the first module whose output is not finite, and its inputs; the parts of a module come before it."""
    found: list[tuple[str, nn.Module, tuple[Tensor, ...]]] = []
    names = {id(module): name for name, module in network.named_modules()}

    def look(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        outputs = output if isinstance(output, tuple) else (output,)
        if not found and not _finite(each for each in outputs if isinstance(each, Tensor)):
            tensors = tuple(each.detach() for each in inputs if isinstance(each, Tensor))
            found.append((names[id(module)] or "the network", module, tensors))

    hooks = [module.register_forward_hook(look) for module in network.modules()]
    try:
        with torch.no_grad():
            again()
    finally:
        for hook in hooks:
            hook.remove()
    return found[0] if found else None


def _finite(tensors: Iterable[Tensor]) -> bool:
    return all(bool(each.isfinite().all()) for each in tensors)


def _largest(tensors: Iterable[Tensor]) -> list[float]:
    """Return the largest absolute value of all, in a list, or an empty one of none."""
    values = [float(each.detach().abs().max()) for each in tensors if each.numel()]
    return [max(values)] if values else []
