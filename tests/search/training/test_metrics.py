"""What a run leaves in metrics.jsonl: what the file says, who can read it, and that older runs go on."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.core.run_metrics import EpochRecord, MetricsError, has_metrics, metrics_lines, read_metrics
from bnas_deploy.search.data.dataset import Batch, DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.models.registry import build_network
from bnas_deploy.search.nn.layers import BinaryConv2d, BinaryLinear, BinaryWeightConv2d
from bnas_deploy.search.training.checkpoint import load_checkpoint, read_tensors, write_tensors
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.result import TrainResult
from bnas_deploy.search.training.resume import never
from bnas_deploy.search.training.signs import SignMemory
from bnas_deploy.search.training.train import train

CONFIG = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], classes=3, in_channels=1, image_size=(8, 8))
RECIPE = replace(RECIPES["digits"], epochs=2, batch_size=8)
RECORD = EpochRecord(1, 0.05, 1.5, 0.25, 1.25, 0.5, 12.5, waiting_share=0.125, changed_signs=0.01)


def data_of(count: int = 20) -> InMemoryDataSet:
    random = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (count, 1, 8, 8), generator=random, dtype=torch.uint8)
    images = Images(pixels, torch.arange(count) % 3)
    return InMemoryDataSet(DataDescription("noise", ("a", "b", "c"), 1, (8, 8), (0.5,), (0.3,)), images, images)


def signs_of(network: nn.Module) -> torch.Tensor:
    """The signs of all binary weights, in no compact form."""
    layers = [each for each in network.modules() if isinstance(each, BinaryConv2d)]
    return torch.cat([(layer.weight >= 0).flatten() for layer in layers])


# ---- the file


def test_what_is_written_is_read(tmp_path: Path) -> None:
    history = (RECORD, replace(RECORD, epoch=2, waiting_share=None, changed_signs=None))
    assert not has_metrics(tmp_path)
    (tmp_path / "metrics.jsonl").write_bytes(metrics_lines(history))
    assert has_metrics(tmp_path)
    assert read_metrics(tmp_path) == history


def test_the_file_of_older_versions_is_read(tmp_path: Path) -> None:
    old = {name: value for name, value in asdict(RECORD).items() if name not in ("waiting_share", "changed_signs")}
    (tmp_path / "history.jsonl").write_text(json.dumps(old) + "\n")
    assert read_metrics(tmp_path) == (replace(RECORD, waiting_share=None, changed_signs=None),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}\n", r"line 1: the field 'epoch' is missing; copy it again, or resume the run"),
        ("[]\n", r"line 1: .*an object.*; copy it again, or resume the run"),
        ("no\n", r"line 1: .*; copy it again, or resume the run"),
        (
            json.dumps({**asdict(RECORD), "test_loss": "x"}),
            r"line 1: test_loss: got \"x\", wanted a number .*; copy it again",
        ),
        (json.dumps({**asdict(RECORD), "epoch": 2}), r"line 1 is epoch 2; copy it again, or resume the run"),
    ],
)
def test_a_damaged_file_is_a_sentence(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(MetricsError, match=rf"metrics\.jsonl: {message}"):
        read_metrics(tmp_path)


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match=r"No such file or directory; expected metrics\.jsonl of"):
        read_metrics(tmp_path)


# ---- signs


def test_every_kind_of_binary_weight_is_counted() -> None:
    linear = BinaryLinear(7, 2)
    network = nn.Sequential(BinaryConv2d(3, 5, 3), linear, BinaryWeightConv2d(2, 3, 2), nn.Conv2d(3, 3, 1))
    memory = SignMemory(network)
    assert memory.weights == 3 * 5 * 9 + 7 * 2 + 2 * 3 * 4
    assert memory.changed_share() == 0
    for parameter in network.parameters():
        parameter.data.neg_()
    assert memory.changed_share() == 1
    memory.remember()
    assert memory.changed_share() == 0
    linear.conv.weight.data[0, 0].neg_()
    assert memory.changed_share() == 1 / memory.weights


def test_a_network_without_binary_weights_has_no_share() -> None:
    assert SignMemory(nn.Conv2d(3, 3, 1)).changed_share() is None


def test_the_share_is_that_of_the_checkpoints(tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = signs_of(build_network(CONFIG))
    one = train(data_of(200), CONFIG, replace(RECIPE, epochs=1), tmp_path / "one", seed=5)
    after = signs_of(load_checkpoint(tmp_path / "one" / "last.safetensors").build())
    assert one.history[0].changed_signs == int((before != after).sum()) / len(before) > 0
    two = train(data_of(200), CONFIG, replace(RECIPE, epochs=2), tmp_path / "two", seed=5)
    assert [record.changed_signs for record in read_metrics(tmp_path / "two")] == [
        record.changed_signs for record in two.history
    ]
    twin = train(data_of(200), CONFIG.float_twin(), RECIPE, tmp_path / "float").history
    assert [record.changed_signs for record in twin] == [None, None]


# ---- waiting


def test_waiting_for_data_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock moves by a second for each batch that is made, and by three for each step."""
    now = [0.0]

    class Slow(InMemoryDataSet):
        def raw_train_batches(self, *arguments: Any, **settings: Any) -> Iterator[Batch]:
            for batch in super().raw_train_batches(*arguments, **settings):
                now[0] += 1
                yield batch

    def stop() -> bool:
        now[0] += 3
        return False

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    data = data_of()
    slow = Slow(data.description, data.train, data.test)
    result = train(slow, CONFIG, replace(RECIPE, epochs=1), tmp_path, stop=stop)
    # Three batches: 3 s of waiting in 12 s.
    assert (result.history[0].duration_s, result.history[0].waiting_share) == (12.0, 0.25)


# ---- runs of older versions


def as_before(folder: Path) -> None:
    """Leave of a run what a version without these measurements would have written."""
    path = folder / "resume.safetensors"
    tensors, described = read_tensors(path, "bnas_deploy_run")
    del described["place"]["waited_s"], described["place"]["skipped"], tensors["signs.bits"]
    described["tensors"].remove("signs.bits")
    for record in described["history"]:
        del record["waiting_share"], record["changed_signs"]
    write_tensors(path, tensors, "bnas_deploy_run", described)
    if (folder / "metrics.jsonl").exists():
        (folder / "metrics.jsonl").rename(folder / "history.jsonl")


def stopped_after(folder: Path, steps: int) -> TrainResult:
    asked = iter(range(1000))
    return train(data_of(), CONFIG, RECIPE, folder, stop=lambda: next(asked) == steps - 1)


@pytest.mark.parametrize("steps", [2, 8])
def test_a_run_of_an_older_version_goes_on(steps: int, tmp_path: Path) -> None:
    whole = train(data_of(), CONFIG, RECIPE, tmp_path / "whole", stop=never)
    stopped_after(tmp_path / "old", steps)
    as_before(tmp_path / "old")
    resumed = train(data_of(), CONFIG, RECIPE, tmp_path / "old", resume=True)
    assert resumed.finished
    for name in ("best.safetensors", "last.safetensors"):
        assert (tmp_path / "old" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == [
        "README.md",
        "best.safetensors",
        "last.safetensors",
        "metrics.jsonl",
        "resume.safetensors",
    ]
    shares = [record.changed_signs for record in resumed.history]
    # The signs at the start of its current epoch are not known; those of the next one are.
    assert shares == ([None, whole.history[1].changed_signs] if steps == 2 else [None, None])
