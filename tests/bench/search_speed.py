"""How long does an epoch of a search take? On random images of the shape of CIFAR's; run by hand.

    python -P tests/bench/search_speed.py                                                  # the published search
    python -P tests/bench/search_speed.py --device cuda --arithmetic tf32 --compile
    python -P tests/bench/search_speed.py --images 640 --cells 3 --channels 4 --profile    # something for a CPU

The first epoch warms up (and compiles), the others are measured as a search measures them itself, without evaluation.
The number of operations is PyTorch's, forward and backward, views left out: what a GPU has to be told one by one
where nothing is compiled.
"""

import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bnas_deploy.core.history import Epoch
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.cells.supernet import Mixture, Supernet
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.training.acceleration import find_device
from bnas_deploy.search.training.recipes import ARITHMETICS


class CountOperations(TorchDispatchMode):
    """Counts what PyTorch is asked to compute."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and run it."""
        is_view = any(each.alias_info and not each.alias_info.is_write for each in function._schema.returns)
        if not is_view and not function.__name__.startswith(("empty", "detach")):
            self.counts[function.__name__] += 1
        return function(*args, **(kwargs or {}))


def operations(config: SupernetConfig, *, alphas: bool) -> Counter[str]:
    """Return the operations of a step of the alphas, or of the weights; of the network and its gradients only."""
    with torch.device("meta"):
        network = Supernet(config)
        images = torch.empty(2, config.in_channels, *config.image_size)
        labels = torch.empty(2, dtype=torch.int64)
    for parameter in network.weight_parameters():
        parameter.requires_grad_(not alphas)
    for parameter in network.alpha_parameters():
        parameter.requires_grad_(alphas)
    with CountOperations() as counted:
        mixture = Mixture(*(table.softmax(dim=1) for table in network.alphas.values()))
        nn.functional.cross_entropy(network(images, mixture), labels).backward()
    return counted.counts


def random_images(count: int) -> InMemoryDataSet:
    """Return images of CIFAR's shape."""
    random = torch.Generator().manual_seed(0)
    images = Images(
        torch.randint(256, (count, 3, 32, 32), generator=random, dtype=torch.uint8),
        torch.randint(10, (count,), generator=random),
    )
    description = DataDescription("random", tuple("0123456789"), 3, (32, 32), (0.5,) * 3, (0.25,) * 3)
    return InMemoryDataSet(description, images, images)


class ProfileLater:
    """A listener that profiles everything after the first epoch."""

    def __init__(self, device: torch.device) -> None:
        activities = [torch.profiler.ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(torch.profiler.ProfilerActivity.CUDA)
        self.profiler = torch.profiler.profile(activities=activities)
        self.sort_by = f"self_{device.type}_time_total"

    def started(self, *, epochs: int, steps: int, done: int) -> None:
        """Wait."""

    def stepped(self, *, done: int, loss: float) -> None:
        """Wait."""

    def finished(self, record: Epoch) -> None:
        """Begin after the first epoch, and end after the second."""
        if record.epoch == 1:
            self.profiler.start()
        elif record.epoch == 2:
            self.profiler.stop()


@click.command()
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--arithmetic", type=click.Choice(list(ARITHMETICS)), default="float32", show_default=True)
@click.option("--compile", "compiled", is_flag=True)
@click.option("--images", "count", type=click.IntRange(min=2), default=50_000, show_default=True)
@click.option("--batch-size", default=64, show_default=True)
@click.option("--cells", default=8, show_default=True)
@click.option("--channels", default=16, show_default=True)
@click.option("--epochs", type=click.IntRange(min=2), default=2, show_default=True)
@click.option("--profile", is_flag=True, help="Also print what the second epoch spent its time on.")
def main(
    device: str,
    arithmetic: str,
    compiled: bool,
    count: int,
    batch_size: int,
    cells: int,
    channels: int,
    epochs: int,
    profile: bool,
) -> None:
    """Print operations per step, and seconds per epoch and per step."""
    where = find_device(device)
    data = random_images(count)
    network = SupernetConfig(SPACES["bnas"], cells, channels, classes=10, in_channels=3, image_size=(32, 32))
    recipe = replace(SEARCH_RECIPES["cifar"], epochs=epochs, batch_size=batch_size)
    config = SearchConfig(network, recipe, diversity=1.0, arithmetic=arithmetic, compiled=compiled)
    for name, alphas in (("alphas", True), ("weights", False)):
        click.echo(f"operations of a step of the {name}: {operations(network, alphas=alphas).total()}")
    listener = ProfileLater(where) if profile else None
    with tempfile.TemporaryDirectory() as folder:
        history = search(data, config, Path(folder) / "search", device=where, listener=listener).history
    seconds = sorted(epoch.duration_s for epoch in history.epochs[1:])
    median = seconds[len(seconds) // 2]
    steps = -(-(count // 2) // batch_size)
    what = torch.cuda.get_device_name() if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    click.echo(
        f"{what}, PyTorch {torch.__version__}, {arithmetic}{', compiled' if compiled else ''}: {median:.2f} s per "
        f"epoch of {count} images, {1000 * median / steps:.1f} ms per step (of alphas and of weights)"
    )
    if listener:
        click.echo(listener.profiler.key_averages().table(sort_by=listener.sort_by, row_limit=25))


if __name__ == "__main__":
    main()
