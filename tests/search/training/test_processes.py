"""Two processes train as one does on the same batches; torchrun starts them, over gloo on the CPU."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.search import SearchError, search
from bnas_deploy.search.cells.space import SPACES
from bnas_deploy.search.data.dataset import DataDescription, Images, InMemoryDataSet
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training import torchrun
from bnas_deploy.search.training.checkpoint import load_checkpoint
from bnas_deploy.search.training.checks import TrainError
from bnas_deploy.search.training.processes import ALONE, Processes, joined
from bnas_deploy.search.training.recipes import RECIPES, Augmentation
from bnas_deploy.search.training.train import train

SCRIPT = Path(__file__).parent / "two_processes.py"
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PATIENCE_S = 300

ROUNDING = 1e-5
"""Of losses near 1, in float32, after four steps.

A step sums over 200 pixels at most and moves weights by a hundredth of their gradients, so its relative error is below
200 * 2^-24 = 1.2e-5 times a few hundredths. Where each process normalises its own images the losses differ by more
than a hundred times as much, as a test shows.
"""


def report_of(*command: str, folder: Path) -> dict[str, Any]:
    words = [*command, str(SCRIPT), str(folder)]
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    folder = tmp_path_factory.mktemp("processes")
    one = report_of(sys.executable, folder=folder / "one")
    two = report_of(*TORCHRUN, folder=folder / "two")
    return one, two, folder


def flat(values: Any) -> Iterator[float]:
    if isinstance(values, list):
        for each in values:
            yield from flat(each)
    else:
        yield values


def test_batch_normalisation_is_that_of_the_whole_batch(reports: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    one, two, _ = reports
    # Sums of 20 numbers below 30, in float64, three times over.
    assert list(flat(two["normalised"])) == pytest.approx(list(flat(one["normalised"])), rel=0, abs=1e-11)


@pytest.mark.parametrize("name", ["twin", "binary", "search", "alphas"])
def test_losses_are_those_of_one_process(reports: tuple[dict[str, Any], dict[str, Any], Path], name: str) -> None:
    one, two, _ = reports
    assert list(flat(two[name])) == pytest.approx(list(flat(one[name])), rel=0, abs=ROUNDING)


def test_losses_are_others_where_each_process_normalises_its_own_images(
    reports: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    one, two, _ = reports
    apart = [abs(left - right) for left, right in zip(flat(one["twin"]), flat(two["own norm"]), strict=True)]
    assert max(apart) > 100 * ROUNDING


def test_a_flag_of_one_process_is_seen_by_all(reports: tuple[dict[str, Any], dict[str, Any], Path]) -> None:
    one, two, _ = reports
    assert two["any"] == [[False, True, True], [False]]
    assert one["any"] == [[False, False, True], [False]]


def test_stages_follow_each_other_and_one_process_writes(
    reports: tuple[dict[str, Any], dict[str, Any], Path],
) -> None:
    one, two, folder = reports
    assert one["stages"] == two["stages"] == 2
    files = [
        sorted(str(path.relative_to(folder / name)) for path in (folder / name).rglob("*")) for name in ("one", "two")
    ]
    assert files[0] == files[1]
    plain = load_checkpoint(folder / "two" / "twin" / "last.safetensors").build()
    assert {type(module) for module in plain.modules() if isinstance(module, nn.BatchNorm2d)} == {nn.BatchNorm2d}


# ---- the command


def command(folder: Path, *more: str) -> list[str]:
    words = ["train", "--cells", "3", "--channels", "4", "--limit", "120", "--batch-size", "30", "--float-twin"]
    return [*TORCHRUN, "-m", "bnas_deploy", *words, "-o", str(folder), *more]


def run_to_end(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def wait_until(there: Callable[[], Any], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + PATIENCE_S
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def workers_of(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
    return [int(pid) for pid in children.split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in Linux's /proc")
def test_two_processes_stop_and_go_on_exactly(tmp_path: Path) -> None:
    whole = run_to_end(*command(tmp_path / "whole", "--epochs", "8"))
    assert whole.returncode == 0, whole.stderr
    assert whole.stdout.count("digits, limited to 120:") == whole.stdout.count("epoch 8/8") == 1
    # Ctrl-C, which a terminal sends to all of them, and torchrun once more.
    words = command(tmp_path / "parts", "--epochs", "8")
    with subprocess.Popen(
        words, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as stopped:
        wait_until((tmp_path / "parts" / "metrics.jsonl").exists, stopped)
        os.killpg(stopped.pid, signal.SIGINT)
        output, _ = stopped.communicate(timeout=PATIENCE_S)
    assert stopped.returncode != 0
    assert "Stopped after" in output
    assert "Go on with: torchrun --nproc-per-node 2 -m bnas_deploy train" in output
    resumed = run_to_end(*command(tmp_path / "parts", "--epochs", "8", "--resume"))
    assert resumed.returncode == 0, resumed.stderr
    assert (tmp_path / "parts" / "last.safetensors").read_bytes() == (
        tmp_path / "whole" / "last.safetensors"
    ).read_bytes()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds the processes in Linux's /proc")
def test_a_lost_process_is_a_sentence_and_what_was_saved_stays(tmp_path: Path) -> None:
    with subprocess.Popen(
        command(tmp_path / "run", "--epochs", "4000"),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        wait_until((tmp_path / "run" / "metrics.jsonl").exists, process)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode != 0
    # torchrun ends the others as soon as it sees it; the message is there if that one was quicker.
    if "another process does not answer" in errors:
        assert "process 0 of 2: another process does not answer any more (" in errors
        assert "Start all of them again with --resume" in errors
    assert load_checkpoint(tmp_path / "run" / "last.safetensors").network.is_float


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--batch-size", "1"), "images in batches of 1 leave a last batch of 1 for 2 processes"),
        (("--set", "epoch=1"), "epoch: unknown key"),
        (("--nonsense",), "No such option"),
    ],
    ids=["run", "recipe", "usage"],
)
def test_what_all_processes_refuse_is_said_once(tmp_path: Path, words: tuple[str, ...], message: str) -> None:
    done = run_to_end(*command(tmp_path / "run", "--epochs", "1", *words))
    assert done.returncode != 0
    assert done.stderr.count(message) == 1


def test_what_one_process_alone_meets_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    for number in range(2):
        (tmp_path / str(number)).mkdir()
    said = []
    for number, message in enumerate(["a", "a"]):
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / str(number) / "error.json"))
        said += [torchrun.says(message), torchrun.says(f"{message} of {number}")]
    assert said == [True, True, False, True]
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "gone" / "0" / "error.json"))
    assert [torchrun.says("a"), torchrun.says("a")] == [True, True]
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE")
    assert torchrun.says("a")


# ---- without other processes


def test_a_process_alone_does_nothing_of_this(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    monkeypatch.setenv("WORLD_SIZE", "4")  # as programs of clusters set it
    with joined(torch.device("cpu")) as (processes, device):
        assert processes is ALONE
        assert device == torch.device("cpu")
    assert ALONE.any(True, False) == [True, False]
    assert ALONE.weight(3) == 1
    assert ALONE.add_up(torch.tensor([2.0])).tolist() == [2.0]


def test_a_connection_that_breaks_is_a_sentence_and_other_errors_stay() -> None:
    processes = Processes(1, 2)
    with pytest.raises(TrainError) as lost, processes.watched(TrainError):
        raise RuntimeError("[.../gloo/transport/tcp/pair.cc:534] Connection closed by peer\nmore")
    assert lost.value.message == (
        "process 1 of 2: another process does not answer any more ([.../gloo/transport/tcp/pair.cc:534] Connection "
        "closed by peer); its own message says why. Start all of them again with --resume"
    )
    with pytest.raises(TrainError, match=r"\(gloo( word)+ \[\.\.\.\]\); its own"), processes.watched(TrainError):
        raise RuntimeError("gloo" + 50 * " word")
    with pytest.raises(RuntimeError, match="out of memory"), processes.watched(TrainError):
        raise RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="gloo"), ALONE.watched(TrainError):
        raise RuntimeError("gloo")


def test_a_batch_with_fewer_images_than_processes_is_refused(tmp_path: Path) -> None:
    pixels, labels = torch.zeros(9, 1, 8, 8, dtype=torch.uint8), torch.arange(9) % 3
    images = Images(pixels, labels)
    data = InMemoryDataSet(DataDescription("nine", ("a", "b", "c"), 1, (8, 8), (0.4,), (0.3,)), images, images)
    config = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["imagenet"], 3, 1, (8, 8))
    recipe = replace(RECIPES["digits"], epochs=1, batch_size=8, augmentation=Augmentation())
    with pytest.raises(TrainError) as refusal:
        train(data, config, recipe, tmp_path / "run", processes=Processes(0, 2))
    assert refusal.value.message == (
        "9 images in batches of 8 leave a last batch of 1 for 2 processes; choose another --batch-size, or fewer "
        "processes"
    )
    assert not (tmp_path / "run").exists()


def test_compiled_code_for_several_processes_is_refused(tmp_path: Path) -> None:
    images = Images(torch.zeros(8, 1, 8, 8, dtype=torch.uint8), torch.arange(8) % 3)
    data = InMemoryDataSet(DataDescription("eight", ("a", "b", "c"), 1, (8, 8), (0.4,), (0.3,)), images, images)
    network = SupernetConfig(SPACES["bnas"], cells=3, channels=4, classes=3, in_channels=1, image_size=(8, 8))
    recipe = replace(SEARCH_RECIPES["digits"], batch_size=4)
    config = SearchConfig(network, recipe, diversity=1.0, compiled=True)
    with pytest.raises(SearchError, match=r"^--compile: no code is made for 2 processes; leave --compile out$"):
        search(data, config, tmp_path / "run", processes=Processes(0, 2))
