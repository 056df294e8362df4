"""The quantisation error of layers: sections 4.1 and 4.2 of BNAS v2, and Figure 3, measured.

Taken is a float network that was trained. Each of its layers that could be binary gets the activations A that it has on
test images. Its float output Y = W * A is compared with what Eq. 3 puts in its place, beta (B * I) with B = sign(W) and
I = sign(A), with and without K. The *relative error* is

    |Y - Y_binary|^2 / |Y|^2

over all images and outputs. It is 1 for an output of zeros. So Zeroise has the smaller error exactly where a layer's
relative error is above 1: Figure 3. A separable layer has two convolutions, and its signs are taken twice (Eq. 4).
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import torch
from torch import Tensor, nn

from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.models.bnas.operations import ConvBlock, SeparableBlock
from bnas_deploy.search.nn.estimators import activation_scale, scaled_sign, sign_activation
from bnas_deploy.search.training.acceleration import memory_format_of
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.studies.results import TrialResult

IMAGES = 200
"""Test images at most."""

Convolve = Callable[[nn.Conv2d, Tensor], Tensor]


def errors_of(checkpoint: Path, images: DataSet, device: torch.device) -> TrialResult:
    """Return the relative error of each layer of a float network, their mean, and the share above 1.

    Raises:
        BnasError: the checkpoint or an image cannot be read.
    """
    network = load_checkpoint(checkpoint).build().eval()
    layout = memory_format_of(network, device)
    network.to(device=device, memory_format=layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
    found: dict[str, tuple[float, float]] = {}
    for name, block in _blocks(network):
        block.register_forward_hook(partial(_measure, found, name))
    batch, _ = next(images.test_batches(IMAGES, device=device))
    with torch.no_grad():
        network(batch.contiguous(memory_format=layout))
    if not found:
        return TrialResult({})
    plain, with_k = (tuple(pair[i] for pair in found.values()) for i in (0, 1))
    return TrialResult(
        {
            "relative_error": mean(plain),
            "relative_error_with_k": mean(with_k),
            "saved_by_zeroise": sum(error > 1 for error in plain) / len(plain),
        },
        frames={"errors": (plain, with_k)},
        labels={"errors": tuple(found)},
    )


def relative_error(wanted: Tensor, got: Tensor) -> float:
    """Return |wanted - got|^2 / |wanted|^2; an output of zeros alone has none, and counts as 0."""
    norm = wanted.double().square().sum()
    return float((wanted - got).double().square().sum() / norm) if norm > 0 else 0.0


def binary(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return beta (B * I) of Eq. 3, for a float convolution and its input (N, C, H, W)."""
    return nn.functional.conv2d(
        sign_activation(x),
        scaled_sign(convolution.weight),
        None,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
    )


def binary_with_k(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Return beta K (B * I) of Eq. 3; a depthwise convolution, which reads one channel, has the K of that channel."""
    arguments: Any = (convolution.kernel_size, convolution.stride, convolution.padding, convolution.dilation)
    if convolution.groups == 1:
        return binary(convolution, x) * activation_scale(x, *arguments)
    scale = torch.cat([activation_scale(channel, *arguments) for channel in torch.split(x, 1, dim=1)], dim=1)
    return binary(convolution, x) * scale


def _blocks(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the blocks with convolutions that could be binary, a separable one as a whole."""
    blocks: list[tuple[str, nn.Module]] = []
    inside: set[nn.Module] = set()
    for name, module in network.named_modules():
        if isinstance(module, ConvBlock | SeparableBlock) and module not in inside:
            blocks.append((name, module))
            inside.update(module.modules())
    return blocks


def _measure(
    found: dict[str, tuple[float, float]], name: str, block: nn.Module, inputs: tuple[Tensor, ...], output: Tensor
) -> None:
    (x,) = inputs
    wanted = _outputs(block, x, lambda convolution, y: convolution(y))
    found[name] = (
        relative_error(wanted, _outputs(block, x, binary)),
        relative_error(wanted, _outputs(block, x, binary_with_k)),
    )


def _outputs(block: nn.Module, x: Tensor, convolve: Convolve) -> Tensor:
    """Return what a block has in front of its ReLU, with its convolutions computed by `convolve`."""
    if isinstance(block, SeparableBlock):
        assert isinstance(block.depthwise, nn.Conv2d)
        x = convolve(block.depthwise, block.norm0(x))
        block = block.pointwise
    assert isinstance(block, ConvBlock)
    assert isinstance(block.conv, nn.Conv2d)
    return convolve(block.conv, block.norm(x))
