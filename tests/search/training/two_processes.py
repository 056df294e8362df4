"""What two processes compute, as JSON on standard output; `test_processes` starts it with torchrun, or alone.

python -m torch.distributed.run --standalone --nproc-per-node 2 two_processes.py FOLDER
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.nn.synchronised_norm import synchronise
from bnas_deploy.search.training.processes import Processes, joined
from bnas_deploy.search.training.recipes import RECIPES, Augmentation, Loss, Optimiser, find_recipe
from bnas_deploy.search.training.stages import train_in_stages
from bnas_deploy.search.training.train import train

CPU = torch.device("cpu")
TWIN = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8), is_float=True)
BINARY = replace(TWIN, is_float=False)
RECIPE = replace(
    RECIPES["digits"],
    epochs=2,
    batch_size=9,  # shares of 5 and 4; the last batch has 4
    augmentation=Augmentation(shift=1),
    optimiser=Optimiser(kind="SGD", learning_rate=0.01, momentum=0.9, clip_norm=1.0),
    loss=Loss(label_smoothing=0.1),
    drop_path=0.0,
)


def made_up(count: int = 22) -> InMemoryDataSet:
    """Return images whose class is the row that is bright."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (count,), generator=random)
    pixels = torch.randint(100, (count, 1, 8, 8), generator=random, dtype=torch.uint8)
    pixels[torch.arange(count), 0, 2 * labels + 1] = 255
    description = DataDescription("rows", ("top", "middle", "bottom"), 1, (8, 8), (0.4,), (0.3,))
    return InMemoryDataSet(description, Images(pixels, labels), Images(pixels[:7], labels[:7]))


def normalised(processes: Processes) -> list[float]:
    """Return what a batch normalisation makes of a batch of 5, forwards and backwards, summed over the processes."""
    random = torch.Generator().manual_seed(1)
    x, grad = (torch.randn(5, 3, 2, 2, generator=random, dtype=torch.float64) + 7 for _ in range(2))
    norm = nn.BatchNorm2d(3, dtype=torch.float64)
    if processes.count > 1:
        synchronise(norm, CPU)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, -1.0, 2.0]))
    mine = x[processes.share.part].clone().requires_grad_()
    y = norm(mine)
    y.backward(grad[processes.share.part])

    def whole(part: Tensor) -> Tensor:
        full = torch.zeros_like(x)
        full[processes.share.part] = part
        return processes.add_up(full).flatten()

    values = [whole(y.detach()), whole(mine.grad), processes.add_up(norm.weight.grad), processes.add_up(norm.bias.grad)]
    return torch.cat([*values, norm.running_mean, norm.running_var]).tolist()


def curve(history: Any) -> list[list[float]]:
    """Return losses and accuracies of each epoch."""
    return [[each.train_loss, each.train_accuracy, each.test_loss, each.test_accuracy] for each in history]


def main(folder: Path) -> dict[str, Any]:
    """Train, train in stages, and search."""
    found: dict[str, Any] = {}
    with joined(CPU) as (processes, device):
        found["normalised"] = normalised(processes)
        found["any"] = [processes.any(False, processes.number == 1, True), processes.any(False)]
        shared = {"device": device, "processes": processes}
        for name, config in (("twin", TWIN), ("binary", BINARY)):
            result = train(made_up(), config, RECIPE, folder / name, class_weights=(1.0, 5.0, 0.5), **shared)
            found[name] = curve(result.history)
        with patch("bnas_deploy.search.training.processes.synchronise", lambda network, device: network):
            result = train(made_up(), TWIN, RECIPE, folder / "own-norm", class_weights=(1.0, 5.0, 0.5), **shared)
            found["own norm"] = curve(result.history)
        two = find_recipe("two-stage").of_length(1, 9)
        plain = Augmentation()
        two = replace(two, augmentation=plain, stages=tuple(replace(each, augmentation=plain) for each in two.stages))
        staged = train_in_stages(made_up(), BINARY, two, folder / "stages", **shared)
        found["stages"] = len(staged.stages)
        supernet = SupernetConfig(
            SPACES["bnas"], cells=3, channels=4, classes=3, in_channels=1, image_size=(8, 8), precision="float"
        )
        config = SearchConfig(
            supernet, replace(SEARCH_RECIPES["digits"], epochs=1, batch_size=4, augmentation=plain), diversity=1.0
        )
        (epoch,) = search(made_up(16), config, folder / "search", **shared).history.epochs
        found["search"] = [epoch.train_loss, epoch.architecture_loss, epoch.validation_loss, *epoch.terms.values()]
        found["alphas"] = [list(row) for row in epoch.alphas.normal]
        found["number"] = processes.number
    return found


if __name__ == "__main__":
    report = main(Path(sys.argv[1]))
    if report["number"] == 0:
        print(json.dumps(report))
