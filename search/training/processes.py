"""Several processes that train one network, each on a GPU or on some cores of its own, as `torchrun` starts them.

Every process has the whole network and takes its share of each batch. A step equals the step of one process on the
whole batch. Batch normalisations use the statistics of the whole batch (`synchronised_norm`), gradients are averaged,
and measured values are summed. Where the loss of process r is L_r, the mean over its n_r images of all n, and there are
R processes,

    sum_r (n_r / n) L_r  =  mean_r (R n_r / n) L_r

is the mean over the batch. So each process multiplies its loss by R n_r / n, and gradients are averaged over processes.

Process 0 alone writes files and shows how it goes. The others read its files, so all of them need to see the folder.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from bnas_deploy.core.errors import BnasError
from bnas_deploy.search.data.dataset import Share, generator
from bnas_deploy.search.nn.synchronised_norm import synchronise
from bnas_deploy.search.training import torchrun

PATIENCE = timedelta(minutes=30)
"""How long a process waits for another one, which may be reading a large data set."""


@dataclass(frozen=True)
class Processes:
    """A process, by its number, among `count` that train together; their `messages` go from CPU to CPU."""

    number: int = 0
    count: int = 1
    messages: "distributed.ProcessGroup | None" = None

    @property
    def writes(self) -> bool:
        """Tell whether this is the process that writes files and shows how it goes."""
        return self.number == 0

    @property
    def share(self) -> Share:
        """Return which images of a batch are this process's."""
        return Share(self.number, self.count)

    def own_random_numbers(self, *keys: int) -> None:
        """Begin PyTorch's random numbers of another process than the one that writes, which saves its own, anew."""
        if not self.writes:
            torch.manual_seed(generator(*keys, self.number).initial_seed())

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether some process has it set; every process has to ask."""
        return [bool(each) for each in self.totals(*flags)]

    def totals(self, *numbers: float) -> list[float]:
        """Return the sums of the numbers of all processes, which all have to ask; no GPU is waited for."""
        if self.count == 1:
            return list(numbers)
        summed = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(summed, group=self.messages)
        sums: list[float] = summed.tolist()
        return sums

    def wait(self) -> None:
        """Return when every process has come here."""
        self.any(False)

    def add_up(self, numbers: Tensor) -> Tensor:
        """Return the sums of the processes' numbers, elementwise; every process has to ask."""
        if self.count > 1:
            numbers = numbers.clone()
            distributed.all_reduce(numbers)
        return numbers

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of the processes' values."""
        return self.add_up(value) / self.count if self.count > 1 else value

    def weight(self, images: int) -> float:
        """Return the factor of the mean loss over this process's images of a batch, R n_r / n above."""
        (whole,) = self.totals(images)
        return self.count * images / whole

    def average_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace each gradient by its mean over the processes."""
        if self.count == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        flat /= self.count
        means = torch.split(flat, [each.numel() for each in gradients])
        for gradient, mean in zip(gradients, means, strict=True):
            gradient.copy_(mean.view_as(gradient))

    @contextmanager
    def watched(self, error: type[BnasError]) -> Iterator[None]:
        """Turn the loss of another process into a sentence.

        Raises:
            error: this process waited for one that does not answer.
        """
        try:
            yield
        except RuntimeError as lost:
            if self.count == 1 or not _is_of_connection(lost):
                raise
            raise error(
                f"process {self.number} of {self.count}: another process does not answer any more "
                f"({shorten(str(lost).splitlines()[0], 200)}); its own message says why. Start all of them again with "
                "--resume"
            ) from None


ALONE = Processes()


def check_shares(images: int, batch_size: int, processes: Processes, error: type[BnasError]) -> None:
    """Make sure that every process has one of the images of every batch.

    Raises:
        error: the last batch of an epoch has too few.
    """
    last = images % batch_size or batch_size
    if last < processes.count:
        raise error(
            f"{images} images in batches of {batch_size} leave a last batch of {last} for {processes.count} processes; "
            "choose another --batch-size, or fewer processes"
        )


def in_parallel(network: nn.Module, processes: Processes, device: torch.device) -> Callable[..., Any]:
    """Return a network for this process's share of a batch that averages its gradients over the processes."""
    if processes.count == 1:
        return network
    return DistributedDataParallel(
        synchronise(network, device),
        device_ids=None if device.index is None else [device.index],
        static_graph=True,  # some weights may have no gradient, such as those behind Zeroise, but always the same ones
    )


def _is_of_connection(error: RuntimeError) -> bool:
    return isinstance(error, distributed.DistError) or any(name in str(error) for name in ("gloo", "NCCL", "Socket"))


@contextmanager
def joined(device: torch.device) -> Iterator[tuple[Processes, torch.device]]:
    """Join the processes that `torchrun` started beside this one; give them, and the device of this one.

    Raises:
        BnasError: there are fewer GPUs than processes on this machine.
    """
    count = torchrun.started()
    if count == 1:
        yield ALONE, device
        return
    if device.type == "cuda":
        device = torch.device("cuda", torchrun.number_here())
        if device.index >= torch.cuda.device_count():
            raise BnasError(
                f"process {device.index} of this machine has no GPU of its own: there are {torch.cuda.device_count()}; "
                "lower --nproc-per-node, or use --device cpu"
            )
        torch.cuda.set_device(device)
    # Those of a 1x1 convolution differ in axes of length 1 only, where they mean nothing.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        messages = distributed.new_group(backend="gloo", timeout=PATIENCE)
        yield Processes(distributed.get_rank(), count, messages), device
    finally:
        distributed.destroy_process_group()
