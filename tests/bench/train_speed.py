"""How long does a step of training take, against one of the float twin, and how much of it waits for images? By hand.

    python -P tests/bench/train_speed.py                                                # BNAS-A at 32, BNAS-D at 224
    python -P tests/bench/train_speed.py --device cuda --arithmetic tf32
    python -P tests/bench/train_speed.py --network BNAS-Mini --cells 6 --channels 16 --size 28 --batch-size 64

Steps of the two networks alternate, on images that are there already. Waiting is then what a run of two epochs says of
its second one, on files that are read and decoded as those of a user are: a folder of JPEGs from 64 pixels on, and
CIFAR's kind of images, which are in memory, below. On a machine that others use, too, the time of the processor says
more than the clock.
"""

import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from PIL import Image
from torch import nn

from bnas_deploy.core.memory import freed_memory_kept
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.augmentation import SMALL
from bnas_deploy.search.data.dataset import DataDescription, DataSet, Images, InMemoryDataSet
from bnas_deploy.search.models.family import ModelConfig
from bnas_deploy.search.models.registry import build_network, configure, network_names
from bnas_deploy.search.training.acceleration import check_arithmetic, find_device, memory_format_of, mixed, tf32
from bnas_deploy.search.training.recipes import ARITHMETICS, RECIPES
from bnas_deploy.search.training.train import train

CLASSES = 10


class Steps:
    """A network, and how long its steps took in seconds: by the clock, and in time of the processor."""

    def __init__(self, config: ModelConfig, device: torch.device, arithmetic: str) -> None:
        torch.manual_seed(0)
        self.network = build_network(config).train()
        self.layout = memory_format_of(self.network, device)
        self.network.to(device=device, memory_format=self.layout)  # type: ignore[call-overload]  # torch's annotation lacks this pair
        self.optimizer = RECIPES["cifar-standard"].optimiser.build(self.network.parameters())
        self.arithmetic = arithmetic
        self.scaler = torch.amp.GradScaler(device.type, enabled=arithmetic == "float16")
        self.seconds: list[float] = []
        self.processor_seconds: list[float] = []

    def step(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        """Take one step, and wait for it."""
        start, processor_start = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        with mixed(self.arithmetic, images.device):
            loss = nn.functional.cross_entropy(self.network(images), labels)
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch leaves Tensor.backward untyped
        self.scaler.step(self.optimizer)
        self.scaler.update()
        if images.device.type == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - start)
        self.processor_seconds.append(time.process_time() - processor_start)

    def medians(self) -> tuple[float, float]:
        """Return the median seconds of a step by the clock and of the processor; the first two steps warm up."""
        return statistics.median(self.seconds[2:]), statistics.median(self.processor_seconds[2:])


def step_times(
    config: ModelConfig, batch_size: int, device: torch.device, arithmetic: str, steps: int
) -> list[tuple[float, float]]:
    """Return the median seconds of a step of the network and of its float twin, as `Steps.medians`."""
    images = torch.randn(batch_size, config.in_channels, *config.image_size, device=device)
    labels = torch.randint(0, CLASSES, (batch_size,), device=device)
    both = [Steps(each, device, arithmetic) for each in (config, config.float_twin())]
    # As in a run. Without it the one of two networks in a process pays for the other's pages.
    with tf32(arithmetic == "tf32"), freed_memory_kept():
        for _ in range(2 + steps):
            for each in both:
                each.step(images.contiguous(memory_format=each.layout), labels)
    return [each.medians() for each in both]


def made_up_data(folder: Path, count: int, size: int) -> DataSet:
    """Return `count` training images of (size, size) as a user has them, and a test image of each class."""
    random = torch.Generator().manual_seed(0)
    if size < SMALL:
        train_images, test_images = (
            Images(
                torch.randint(256, (number, 3, size, size), generator=random, dtype=torch.uint8),
                torch.arange(number) % CLASSES,
            )
            for number in (count, CLASSES)
        )
        names = tuple(map(str, range(CLASSES)))
        description = DataDescription("made up", names, 3, (size, size), (0.5,) * 3, (0.25,) * 3)
        return InMemoryDataSet(description, train_images, test_images)
    # Photographs are smooth: 16x16 numbers made larger have about the bytes of one.
    for part, number in (("train", count), ("val", CLASSES)):
        for index in range(number):
            pixels = torch.randint(256, (16, 16, 3), generator=random, dtype=torch.uint8).numpy()
            path = folder / part / str(index % CLASSES) / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).resize((500, 375), Image.Resampling.BICUBIC).save(path, quality=90)
    return open_data(f"imagefolder:{folder}", image_size=(size, size))


def waiting_share(config: ModelConfig, batch_size: int, device: torch.device, arithmetic: str, steps: int) -> float:
    """Return the share of its time that an epoch of so many steps waits for images."""
    recipe = "cifar-standard" if config.image_size[0] < SMALL else "imagenet-standard"
    with tempfile.TemporaryDirectory() as folder:
        data = made_up_data(Path(folder) / "data", steps * batch_size, config.image_size[0])
        result = train(
            data,
            replace(config, in_channels=3),  # type: ignore[type-var]  # every configuration is a dataclass
            replace(RECIPES[recipe], epochs=2, batch_size=batch_size),
            Path(folder) / "run",
            device=device,
            arithmetic=arithmetic,
        )
        return result.history[-1].waiting_share


@click.command()
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--arithmetic", type=click.Choice(list(ARITHMETICS)), default="float32", show_default=True)
@click.option("--network", type=click.Choice(network_names()), help="[default: BNAS-A at 32 and BNAS-D at 224]")
@click.option("--cells", type=int)
@click.option("--channels", type=int)
@click.option("--size", default=32, show_default=True, help="Height and width of the images of --network.")
@click.option("--batch-size", type=click.IntRange(min=2), help="[default: 32 at 32 pixels, 8 at 224]")
@click.option("--steps", type=click.IntRange(min=1), default=10, show_default=True)
def main(
    device: str,
    arithmetic: str,
    network: str | None,
    cells: int | None,
    channels: int | None,
    size: int,
    batch_size: int | None,
    steps: int,
) -> None:
    """Print milliseconds per step, images per second, and the share of waiting."""
    where = find_device(device)
    check_arithmetic(arithmetic, where)
    what = torch.cuda.get_device_name() if where.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    click.echo(f"{what}, PyTorch {torch.__version__}, {arithmetic}")
    for name, side in [(network, size)] if network else [("BNAS-A", 32), ("BNAS-D", 224)]:
        options = {"cells": cells, "channels": channels} if network else {}
        config = configure(name, classes=CLASSES, image_size=(side, side), options=options)
        count = batch_size or (32 if side < SMALL else 8)
        (ours, ours_of_processor), (twin, twin_of_processor) = step_times(config, count, where, arithmetic, steps)
        in_processor = (
            f" ({ours_of_processor / twin_of_processor:.2f} in processor time)" if where.type == "cpu" else ""
        )
        waiting = waiting_share(config, count, where, arithmetic, steps)
        click.echo(
            f"{config.summary}, {count} images of {side}x{side}: {1000 * ours:.1f} ms a step, {count / ours:.0f} "
            f"images/s; float twin {1000 * twin:.1f} ms, so {ours / twin:.2f} times it{in_processor}; {waiting:.0%} of "
            "an epoch waited for images"
        )


if __name__ == "__main__":
    main()
