"""How much memory the steps of training take, and how much there is: asked before the first of them.

A step needs the weights, their gradients and their momentum. Most memory goes to the tensors that autograd keeps of a
batch until the gradients are there. They are counted for two and for three images, and grow with each by as much. A
process takes more than they do: freed blocks lie between others, and convolutions work on copies, with AVX-512 on more
of them. Measured (left) and estimated (right) on a CPU with AVX-512 (glibc, 2 threads, peak resident memory of the
second step, with 0.23 GB that Python and PyTorch take):

    BNAS-Mini, 64 images of 32x32       1.88 GB     1.83 GB
    BNAS-Mini, 128 grey ones of 28x28   2.41 GB     2.59 GB
    BNAS-Mini, 16 images of 32x32       0.81 GB     0.75 GB
    BNAS-Mini, 32 grey ones of 8x8      0.43 GB     0.44 GB
    BNAS-A, 32 images of 32x32          2.59 GB     2.60 GB
    BNAS-D, 4 images of 224x224         1.69 GB     1.74 GB

so an estimate is within 8 % of what was measured. Factors and constant were fitted to these. One with AVX2 alone takes
less for its weights. On a GPU, and for a search, they were not measured.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.memory import (
    Limit,
    allocation_failure,
    bytes_text,
    freed_memory_kept,
    memory_limit,
    resident_bytes,
)

WORKING = 1.29
"""Bytes that a process takes for each that autograd keeps."""

STARTING = 110_000_000
"""Bytes that the first step takes once: code, and what libraries set up."""

COPIES = 8
"""Of the weights: themselves, their gradients, their momentum, and what convolutions lay out for themselves."""

MEASURED_SIDES = (64, 96)
"""The largest sides of the images that an estimate runs; multiples of 32, as every network takes them."""


@dataclass(frozen=True)
class Need:
    """What training takes: `fixed` bytes whatever the batch, and `per_image` for each image of it.

    Of a network whose weights alone are more than there is, `per_image` is not known, and 0. `held` bytes are what the
    process has in use before; on a GPU they are elsewhere.
    """

    fixed: float
    per_image: float
    held: int = 0

    def bytes(self, batch_size: int) -> float:
        """Return what a batch of so many images takes beyond what is held."""
        return self.fixed + self.per_image * batch_size


def training_need(
    build: Callable[[], nn.Module],
    forward: Callable[[nn.Module, Tensor], Tensor],
    image_shape: tuple[int, ...],
    *,
    more_copies: int = 0,
) -> Need:
    """Estimate what training takes, by running a few images through a network of its own on the CPU.

    That is ten times as fast as PyTorch's device "meta", whose first use loads half of PyTorch's compiler.

    Args:
        build: makes the network.
        forward: maps it and images (N, *image_shape) to logits.
        image_shape: (channels, height, width).
        more_copies: of the weights that are kept besides their momentum: what other optimisers keep, a running average,
            a teacher.
    """
    held = resident_bytes()
    copies = COPIES + more_copies
    with torch.device("meta"):  # shapes without memory
        alone = copies * _weight_bytes(build())
    if (limit := memory_limit()) and held + alone > limit.bytes:  # then it cannot be run either
        return Need(STARTING + alone, 0.0, held)
    with torch.random.fork_rng(devices=[]):  # its random initialisation must leave no trace
        network = build().train()

    def kept(shape: tuple[int, ...]) -> tuple[int, int]:
        # Not a batch of one, which batch normalisation refuses where an image has become a pixel.
        two, three = (_kept_bytes(network, forward, torch.zeros(count, *shape)) for count in (2, 3))
        return 3 * two - 2 * three, three - two

    batch, per_image = _at_size(kept, image_shape)
    return Need(STARTING + copies * _weight_bytes(network) + WORKING * batch, WORKING * per_image, held)


def _weight_bytes(network: nn.Module) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in network.parameters())


def _at_size(
    kept: Callable[[tuple[int, ...]], tuple[float, float]], image_shape: tuple[int, ...]
) -> tuple[float, float]:
    """Return what `kept` says of images (channels, height, width): bytes of any batch, and of each image.

    The memory of an image grows in proportion to its pixels. So large images are not run, but two sizes, of
    MEASURED_SIDES at most; a line through both gives the rest. Otherwise the estimate itself would not fit into memory.
    """
    channels, *sides = image_shape
    sizes = [tuple(min(side, most) for side in sides) for most in MEASURED_SIDES]
    if sizes[-1] == tuple(sides):
        return kept(image_shape)
    (_, small), (batch, large) = (kept((channels, *size)) for size in sizes)
    few, many, wanted = (math.prod(size) for size in (*sizes, sides))
    return batch, large + (large - small) / (many - few) * (wanted - many)


def _kept_bytes(network: nn.Module, forward: Callable[[nn.Module, Tensor], Tensor], images: Tensor) -> int:
    """Return the bytes that autograd keeps besides the weights, each storage once."""
    weights = {parameter.untyped_storage()._cdata for parameter in network.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage  # held, so that no other gets its address
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = forward(network, images)
        loss = nn.functional.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64))
    del loss
    return sum(storage.nbytes() for storage in kept.values())


def check_memory(what: str, need: Need, batch_size: int, device: torch.device, processes: int = 1) -> None:
    """Refuse a run that would not fit into memory.

    Args:
        what: is to be trained, for the message.
        need: what that takes.
        batch_size: images of a step.
        device: where.
        processes: how many share the images of a step. Each has a GPU of its own, and on a CPU all have one memory.

    Raises:
        BnasError: the estimate is more than the machine has.
    """
    on_gpu = device.type == "cuda"
    limit, held = (_gpu_limit(device), 0) if on_gpu else (memory_limit(), need.held)
    sharing = processes if on_gpu else 1
    wanted = held + need.bytes(math.ceil(batch_size / sharing))
    if limit is None or wanted <= limit.bytes:
        return
    left = limit.bytes - held - need.fixed
    fits = math.floor(left / need.per_image) * sharing if need.per_image else 0
    smaller = f"--batch-size {fits} would fit" if fits >= 1 else "no --batch-size would fit: lower --image-size"
    other = "or choose a smaller network" if fits < 1 else "or lower --image-size, or choose a smaller network"
    shared = f" on {sharing} GPUs" if sharing > 1 else ""
    raise BnasError(
        f"{what} with {batch_size} images a step{shared} takes about {bytes_text(wanted)} of memory, and {limit.whose} "
        f"{bytes_text(limit.bytes)}; {smaller}, {other}"
    )


@contextmanager
def enough_memory(
    where: Callable[[], str], folder: Path, error: type[BnasError], device: torch.device
) -> Iterator[None]:
    """Keep the memory that steps free for the next ones, and turn memory that a run does not get into a sentence.

    An estimate knows nothing of what others take.

    Args:
        where: says how far the run is.
        folder: of the run.
        error: of the run.
        device: of the steps.

    Raises:
        error: it did not get some.
    """
    try:
        with freed_memory_kept() if device.type == "cpu" else nullcontext():
            yield
    except (MemoryError, RuntimeError) as refused:
        if (failure := allocation_failure(refused)) is None:
            raise
        raise error(
            f"{where()}: {failure}; {folder} keeps what was saved last: end other programs and add --resume, or begin "
            "elsewhere with a smaller --batch-size, network or --image-size"
        ) from None


def _gpu_limit(device: torch.device) -> Limit:
    free, _ = torch.cuda.mem_get_info(device)
    return Limit(free, f"{torch.cuda.get_device_name(device)} has free")
