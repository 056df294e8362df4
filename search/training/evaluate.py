"""Loss and accuracy on the test images of a data set."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from bnas_deploy.core.errors import DataError
from bnas_deploy.search.data.dataset import DataSet
from bnas_deploy.search.training.acceleration import LAYOUT
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
    stop: Callable[[], bool] = never,
) -> Evaluation:
    """Evaluate a network, which must be on `device`, on all test images, in float32; it is left in evaluation mode.

    It is evaluated, and left, in the layout that it is trained in: in another one sums are rounded in another order.

    Raises:
        Stopped: `stop` answered True.
        DataError: an image cannot be read, or bad ones are left out and none is left.
    """
    device = device or torch.device("cpu")
    network.eval().to(memory_format=LAYOUT)  # type: ignore[call-overload]  # torch's annotation lacks this
    loss = torch.zeros((), dtype=torch.float64, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    images_seen = 0
    with torch.no_grad():
        for images, labels in data.test_batches(batch_size, device=device):
            logits = network(images.contiguous(memory_format=LAYOUT))
            loss += nn.functional.cross_entropy(logits, labels, reduction="sum")
            correct += (logits.argmax(dim=1) == labels).sum()
            images_seen += len(labels)
            if stop():
                raise Stopped
    if not images_seen:
        raise DataError(f"{data.description.name}: no test image can be read; see that the folder is what it should be")
    return Evaluation(loss.item() / images_seen, correct.item() / images_seen)
