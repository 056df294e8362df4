"""Loss and accuracy on the test images of a data set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.training.acceleration import memory_format_of
from bnas_deploy.search.training.processes import ALONE, Processes
from bnas_deploy.search.training.resume import Stopped, never


@dataclass(frozen=True)
class Evaluation:
    """Mean loss and share of right answers over the test images."""

    loss: float
    accuracy: float


def evaluate(
    network: nn.Module,
    data: DataSet,
    *,
    batch_size: int,
    device: torch.device | None = None,
    processes: Processes = ALONE,
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Evaluate a network, which must be on `device`, on all test images, in float32; it is left in evaluation mode.

    Several processes take a share each and return the same. The network is evaluated, and left, in the layout that it
    is trained in: in another one sums are rounded in another order.

    Raises:
        Stopped: `stop` answered True.
        DataError: an image cannot be read, or bad ones are left out and none is left.
    """
    device = device or torch.device("cpu")
    layout = memory_format_of(network, device)
    network.eval().to(memory_format=layout)  # type: ignore[call-overload]  # torch's annotation lacks this
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    seen = 0
    with torch.no_grad():
        for images, labels in data.test_batches(batch_size, share=processes.share, device=device):
            if len(labels):  # a share, and a batch of bad images, may be empty
                logits = network(images.contiguous(memory_format=layout))
                loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
                correct += (logits.argmax(dim=1) == labels).sum()
                seen += len(labels)
            if any(processes.any(stop())):
                raise Stopped
    sums = processes.add_up(torch.stack([loss, correct.double(), torch.full_like(loss, seen)]))
    total_loss, total_correct, total_seen = sums.tolist()
    if not total_seen:
        raise DataError(f"{data.description.name}: no test image can be read; see that the folder is what it should be")
    return Evaluation(total_loss / total_seen, total_correct / total_seen)
