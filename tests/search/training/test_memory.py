"""What steps need and what there is; the docstring of `memory` has the estimate against real processes."""

import gc
import platform
import re
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click
import pytest
import torch
from torch import nn

from bnas_deploy.commands.command import as_a_line
from bnas_deploy.core import memory as common
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.memory import Limit, allocation_failure, memory_limit, resident_bytes
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.bnas.network import build_network
from bnas_deploy.search.training import checks, memory
from bnas_deploy.search.training.memory import Need, check_memory, training_need
from bnas_deploy.search.training.recipes import RECIPES, Optimiser
from bnas_deploy.search.training.train import train
from bnas_deploy.search.training.training_run import TrainingRun

CPU = torch.device("cpu")
GIGABYTE = 10**9


def test_what_is_kept_is_counted_once() -> None:
    """By hand: what the convolution reads, what it gives and the next layer reads, the softmax, and the label."""
    image, channels, classes = 6 * 4, 3, 5

    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(1, channels, 1, bias=False), nn.Flatten(), nn.Linear(channels * image, classes, bias=False)
        )

    need = training_need(build, lambda network, images: network(images), (1, 6, 4))
    per_image = 4 * (image + channels * image + classes) + 8
    assert need.per_image == pytest.approx(memory.WORKING * per_image)
    weights = 4 * (channels + channels * image * classes)
    # Cross-entropy keeps a number more, whatever the batch.
    assert need.fixed == pytest.approx(memory.STARTING + memory.COPIES * weights, abs=100)
    assert need.bytes(7) == need.fixed + 7 * need.per_image


@pytest.mark.parametrize(
    ("optimiser", "states"),
    [
        (Optimiser(kind="SGD", learning_rate=0.1, momentum=0.9), 1),
        (Optimiser(kind="SGD", learning_rate=0.1), 0),
        (Optimiser(kind="Adam", learning_rate=0.1), 2),
        (Optimiser(kind="AdamW", learning_rate=0.1, arguments={"amsgrad": True}), 3),
    ],
)
def test_what_an_optimiser_keeps_is_found_by_asking_it(optimiser: Optimiser, states: int) -> None:
    assert optimiser.states() == states


def test_a_run_of_adam_that_averages_needs_two_copies_of_the_weights_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr(
        checks, "check_memory", lambda what, need, batch_size, device, processes: seen.append(need.fixed)
    )
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))
    plain = replace(RECIPES["digits"], epochs=1, batch_size=12)
    adam = replace(plain, optimiser=Optimiser(kind="Adam", learning_rate=0.1), weight_average=0.9)
    for name, recipe in (("plain", plain), ("adam", adam)):
        train(make_data(), config, recipe, tmp_path / name, stop=lambda: True)
    weights = 4 * sum(parameter.numel() for parameter in build_network(config).parameters())
    assert seen[1] - seen[0] == pytest.approx(2 * weights)


def test_a_network_needs_more_for_more_pixels_and_channels() -> None:
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))

    def per_image(config: NetworkConfig) -> float:
        shape = (config.in_channels, *config.image_size)
        return training_need(lambda: build_network(config), lambda network, x: network(x), shape).per_image

    small = per_image(config)
    assert per_image(replace(config, image_size=(16, 16))) == pytest.approx(4 * small, rel=0.01)
    assert per_image(replace(config, channels=8)) == pytest.approx(2 * small, rel=0.1)


@pytest.mark.parametrize("shape", [(1, 128, 160), (1, 192, 8)])
def test_large_images_are_estimated_from_small_ones(
    shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, shape[1:])
    ran: list[torch.Size] = []

    def forward(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        ran.append(images.shape)
        logits: torch.Tensor = network(images)
        return logits

    estimated = training_need(lambda: build_network(config), forward, shape)
    assert max(max(size) for size in ran) <= 96
    monkeypatch.setattr(memory, "MEASURED_SIDES", (256, 256))
    measured = training_need(lambda: build_network(config), forward, shape)
    assert ran[-1][1:] == shape
    # What is kept is all of activations: a line through the origin, but for the classifier's.
    assert estimated.per_image == pytest.approx(measured.per_image, rel=1e-4)
    assert estimated.fixed == pytest.approx(measured.fixed, rel=1e-3)


# ---- what there is


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MEMORY = {"proc__meminfo": "MemTotal:       8000 kB\nMemFree:         10 kB\n"}
MACHINE = Limit(8000 * 1024, "this machine has")


def group(count: int) -> Limit:
    return Limit(count, "this process may have (its control group)")


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        (MEMORY, MACHINE),
        (MEMORY | {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory_dot_max": "max\n"}, MACHINE),
        (MEMORY | {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory_dot_max": "5000\n"}, group(5000)),
        (MEMORY | {"proc__self__cgroup": "0::/\n", "sys__fs__cgroup__memory_dot_max": "9000000\n"}, MACHINE),
        (
            # A group above has less than the one that the process is in.
            MEMORY
            | {
                "proc__self__cgroup": "0::/a/b\n",
                "sys__fs__cgroup__a__b__memory_dot_max": "7000\n",
                "sys__fs__cgroup__a__memory_dot_max": "6000\n",
                "sys__fs__cgroup__memory_dot_max": "max\n",
            },
            group(6000),
        ),
        (
            # Version 1, seen from a container: the path is that of the machine outside.
            MEMORY
            | {
                "proc__self__cgroup": "5:cpu,cpuacct:/x\n4:memory:/docker/1\n",
                "sys__fs__cgroup__memory__memory_dot_limit_in_bytes": "4000\n",
            },
            group(4000),
        ),
    ],
    ids=["unknown", "machine", "no limit", "limit", "larger limit", "nested", "version 1"],
)
def test_the_least_limit_counts(tmp_path: Path, files: dict[str, str], limit: Limit | None) -> None:
    assert memory_limit(write(tmp_path, **files)) == limit


def test_this_machine_tells() -> None:
    limit = memory_limit()
    assert limit is not None
    assert limit.bytes > resident_bytes() > 10**6


# ---- refusals


@pytest.fixture
def two_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: Limit(2 * GIGABYTE, "this machine has"))


@pytest.fixture
def nothing_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: Limit(5 * 10**8, "this process may have (its control group)"))
    monkeypatch.setattr(memory, "resident_bytes", lambda: 5 * 10**8)


@pytest.mark.usefixtures("two_gigabytes")
def test_what_does_not_fit_is_refused_with_what_would() -> None:
    need = Need(GIGABYTE / 2, GIGABYTE / 100, held=GIGABYTE // 2)
    check_memory("it", need, 100, CPU)
    with pytest.raises(BnasError) as refusal:
        check_memory("BNAS-Z on images of 8x8", need, 101, CPU)
    assert refusal.value.message == (
        "BNAS-Z on images of 8x8 with 101 images a step takes about 2.0 GB of memory, and this machine has 2.0 GB; "
        "--batch-size 100 would fit, or lower --image-size, or choose a smaller network"
    )
    with pytest.raises(BnasError, match=r"takes about 10\.1 GB of memory, and .*; no --batch-size would fit: lower"):
        check_memory("it", Need(10 * GIGABYTE, GIGABYTE / 100), 10, CPU)


def test_nothing_is_refused_where_the_limit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "memory_limit", lambda: None)
    check_memory("it", Need(1e18, 1e18), 100, CPU)


def make_data() -> InMemoryDataSet:
    description = DataDescription("some", ("a", "b", "c"), 1, (8, 8), (0.5,), (0.5,))
    images = Images(torch.zeros(12, 1, 8, 8, dtype=torch.uint8), torch.arange(12) % 3)
    return InMemoryDataSet(description, images, images)


def test_every_gpu_has_its_share_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_gpu_limit", lambda device: Limit(10 * GIGABYTE, "the GPU has free"))
    need, gpu = Need(GIGABYTE, GIGABYTE, held=50 * GIGABYTE), torch.device("cuda")
    check_memory("it", need, 36, gpu, processes=4)
    with pytest.raises(BnasError) as refusal:
        check_memory("it", need, 37, gpu, processes=4)
    assert refusal.value.message == (
        "it with 37 images a step on 4 GPUs takes about 11.0 GB of memory, and the GPU has free 10.0 GB; "
        "--batch-size 36 would fit, or lower --image-size, or choose a smaller network"
    )


@pytest.mark.usefixtures("nothing_left")
def test_training_that_does_not_fit_leaves_no_run_behind(tmp_path: Path) -> None:
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))
    recipe = replace(RECIPES["digits"], batch_size=1000)
    with pytest.raises(BnasError) as refusal:
        train(make_data(), config, recipe, tmp_path / "run")
    # There are no more images than 12.
    assert refusal.value.message.startswith("tiny on images of 8x8 with 12 images a step takes about 61")
    assert refusal.value.message.endswith(
        " MB of memory, and this process may have (its control group) 500 MB; no --batch-size would fit: lower "
        "--image-size, or choose a smaller network"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("strategy", ["bnas", "gdas"])
@pytest.mark.usefixtures("nothing_left")
def test_a_search_that_does_not_fit_leaves_nothing_behind(tmp_path: Path, strategy: str) -> None:
    config = SearchConfig(
        network=SupernetConfig(SPACES["bnas"], cells=3, channels=4, classes=3, in_channels=1, image_size=(8, 8)),
        recipe=replace(SEARCH_RECIPES["digits"], batch_size=4),
        strategy=strategy,
    )
    with pytest.raises(BnasError, match=r"^a search with 3 cells on images of 8x8 with 4 images a step takes about 6"):
        search(make_data(), config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("error", "asked"),
    [
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                "to allocate 40000000000 bytes. Error code 12 (Cannot allocate memory)"
            ),
            "40.0 GB of memory",
        ),
        (
            RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"),
            "21 MB of memory",
        ),
        (MemoryError("Unable to allocate 745. GiB for an array with shape (100000000000,)"), "799.9 GB of memory"),
        (RuntimeError("Failed to allocate memory for requested buffer of size 2000000000"), "2.0 GB of memory"),
        (RuntimeError("std::bad_alloc"), "memory"),
        (MemoryError(), "memory"),
    ],
    ids=["torch", "gpu", "numpy", "onnxruntime", "c++", "python"],
)
def test_memory_that_could_not_be_had_is_told_with_figures(error: Exception, asked: str) -> None:
    said = allocation_failure(error)
    assert said is not None
    limit = memory_limit()
    assert limit is not None
    there = rf"; {re.escape(limit.whose)} [0-9.]+ [GM]B"
    assert re.fullmatch(rf"{re.escape(asked)} could not be had beside [0-9.]+ [GM]B in use{there}", said)


def test_another_error_is_none_of_memory() -> None:
    assert allocation_failure(RuntimeError("shape '[2]' is invalid for input of size 3")) is None


def test_a_run_that_gets_no_memory_says_where_it_is_and_can_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train_step(*batch: object) -> None:
        torch.empty(10**18)

    recipe = replace(RECIPES["digits"], epochs=1, batch_size=8)
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))
    pixels, labels = torch.zeros(16, 1, 8, 8, dtype=torch.uint8), torch.arange(16) % 3
    data = InMemoryDataSet(
        DataDescription("zeros", ("a", "b", "c"), 1, (8, 8), (0.4,), (0.3,)), *[Images(pixels, labels)] * 2
    )
    message = rf"^epoch 1, step 1: 4000000000.0 GB of memory could not be had .*; {tmp_path} keeps what was saved last"
    genuine = TrainingRun.train_step
    monkeypatch.setattr(TrainingRun, "train_step", train_step)
    with pytest.raises(BnasError, match=message):
        train(data, config, recipe, tmp_path)
    monkeypatch.setattr(TrainingRun, "train_step", genuine)
    assert train(data, config, recipe, tmp_path, resume=True).finished


def test_weights_that_do_not_fit_are_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    need = training_need(lambda: nn.Linear(10**6, 10**6), lambda network, images: network(images), (1, 1, 10**6))
    assert (need.fixed, need.per_image) == (memory.STARTING + memory.COPIES * 4 * (10**12 + 10**6), 0)
    with pytest.raises(BnasError, match=r"this .* has [0-9.]+ GB; no --batch-size would fit: lower --image-size, or"):
        check_memory("it", need, 1, CPU)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no ulimit")
def test_what_the_shell_allows_is_a_limit() -> None:
    code = "from bnas_deploy.core.memory import memory_limit; print(memory_limit())"
    line = f"ulimit -v 500000; exec {sys.executable} -P -c '{code}'"
    said = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    found = re.fullmatch(r"Limit\(bytes=(\d+), whose='this process may have \(ulimit -v\)'\)\n", said)
    assert found, said
    assert 300_000_000 < int(found[1]) < 512_000_000


def test_a_command_without_memory_ends_with_a_line() -> None:
    line = r"^memory could not be had .*; end other programs, or ask for less"
    with pytest.raises(click.ClickException, match=line), as_a_line():
        raise MemoryError


def test_old_objects_are_set_aside_unless_a_program_has_done_so() -> None:
    with common.old_objects_left_alone():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0
    gc.freeze()
    try:
        with common.old_objects_left_alone():
            pass
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


_FAULTS = """
import ctypes
import resource
from bnas_deploy.core.memory import freed_memory_kept

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(20_000_000))) for _ in range(8)]
    for block in blocks:
        libc.memset(block, 1, ctypes.c_size_t(20_000_000))
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults(), faults()
before = faults()
with freed_memory_kept():
    faults(), faults()
    kept = faults()
faults()
print(before, kept, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc has no such settings")
def test_what_steps_free_is_kept() -> None:
    """Eight blocks of 20 MB are 39,063 pages; in a process of its own, for all of it has one setting."""
    done = subprocess.run([sys.executable, "-P", "-c", _FAULTS], capture_output=True, text=True, check=True)
    before, kept, after = map(int, done.stdout.split())
    assert kept < min(before, after) / 10


_GIVEN_BACK = """
import ctypes
from bnas_deploy.core import memory

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(100_000))) for _ in range(4_000)]
for block in blocks:
    libc.memset(block, 1, ctypes.c_size_t(100_000))
for block in blocks[:-1]:
    libc.free(block)
kept = memory.resident_bytes()
memory.give_back()
print(kept - memory.resident_bytes())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc has no such settings")
def test_freed_memory_is_given_back() -> None:
    """The last of 4,000 blocks of 100 kB stays, and with it all that glibc has below it."""
    done = subprocess.run([sys.executable, "-P", "-c", _GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 350e6


def test_rings_of_objects_are_looked_for_where_much_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ring:
        def __init__(self) -> None:
            self.itself = self

    gc.disable()
    try:
        for much, found in ((True, True), (False, False)):
            ring = weakref.ref(Ring())
            monkeypatch.setattr(common, "resident_bytes", lambda much=much: 3e9 if much else 1e9)
            common.give_back()
            assert (ring() is None) == found
    finally:
        gc.enable()


def test_steps_on_a_gpu_leave_the_memory_of_the_machine_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []

    @contextmanager
    def keep() -> Iterator[None]:
        kept.append(True)
        yield

    monkeypatch.setattr(memory, "freed_memory_kept", keep)
    for device in ("cpu", "cuda"):
        with memory.enough_memory(lambda: "", tmp_path, BnasError, torch.device(device)):
            pass
    assert len(kept) == 1
