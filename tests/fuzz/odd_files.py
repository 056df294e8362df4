"""Odd files in place of each file that a command reads: each command ends with a sentence, soon, and writes nothing.

python -P tests/fuzz/odd_files.py                 the table of odd files, all of it
python -P tests/fuzz/odd_files.py --minutes 30    for half of them rows of the table, and then random damage, in
                                                  processes of their own
"""

import argparse
import json
import os
import random
import re
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from click.testing import CliRunner
from PIL import Image

from bnas_deploy.cli import main as bnas_deploy
from bnas_deploy.core.bundle import (
    FILES,
    FLOAT_TWIN,
    IMAGES,
    INT8_TWIN,
    MANIFEST,
    MODEL,
    PIECES,
    describe_files,
)
from bnas_deploy.core.errors import LONGEST_MESSAGE, BnasError
from bnas_deploy.core.float_layers import FloatLayerTable, FormTime, PartTimes, check_network, read_float_layers
from bnas_deploy.core.genotype import GENOTYPES, OPERATIONS
from bnas_deploy.core.history import Epoch, History, Tables
from bnas_deploy.core.latency_table import LatencyTable, WorkloadTime, read_latency_table
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.remote.wheels import LIBRARY_IN_WHEEL
from bnas_deploy.report import Report
from bnas_deploy.report.float_layers import describe as describe_float_layers
from bnas_deploy.runtime.bench.engines import LeftOut
from bnas_deploy.runtime.bench.machine import read_machine
from bnas_deploy.runtime.bench.memory import PeakMemory
from bnas_deploy.runtime.bench.records import NETWORK, Ratio, Record
from bnas_deploy.runtime.library import library_path
from bnas_deploy.search.cells.config import SEARCH_RECIPES, SearchConfig, SupernetConfig
from bnas_deploy.search.cells.expected_latency import ExpectedLatency
from bnas_deploy.search.cells.search import search
from bnas_deploy.search.cells.space import EDGES, SPACES
from bnas_deploy.search.data import open_data
from bnas_deploy.search.data.dataset import InMemoryDataSet
from bnas_deploy.search.models.bnas.candidate_workloads import candidate_workloads
from bnas_deploy.search.models.bnas.config import NetworkConfig, published_config
from bnas_deploy.search.training.checkpoint import save_checkpoint
from bnas_deploy.search.training.recipes import RECIPES
from bnas_deploy.search.training.train import train
from bnas_deploy.search.training.untrained import untrained_checkpoint

LIMIT_S = 600
"""A command that takes as long hangs: each takes a second or so, some minutes on a machine that is very busy."""

LONGEST = LONGEST_MESSAGE + 20
"""Characters of a sentence; one that shows a part of the file cuts it."""

TINY = NetworkConfig("tiny", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))


# --------------------------------------------------------------------------------------------------------------------
# A world of good files


def make_world(world: Path) -> None:
    """Write one good file of each kind; `out` is where commands may write."""
    (world / "out").mkdir()
    (world / "genotype.json").write_text(json.dumps(GENOTYPES["cifar"].to_json()))
    checkpoint = untrained_checkpoint(TINY, seed=0)
    save_checkpoint(world / "net.safetensors", checkpoint)
    torch.save(dict(untrained_checkpoint(published_config("BNAS-Mini"), seed=0).state), world / "weights.pt")
    pixels = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    export_checkpoint(checkpoint, world / "bundle", Images(pixels, torch.tensor([1, 2])))
    times = tuple(WorkloadTime(each, 10.0, 9.0, 11.0, 10) for each in candidate_workloads(TINY))
    (world / "device.json").write_text(LatencyTable({"cpu": "none"}, "generic", TINY.to_json(), 1, 1, times).to_json())
    (world / "floats.json").write_text(_float_layers().to_json())
    (world / "run").mkdir()
    (world / "run/genotype.json").write_text(json.dumps(GENOTYPES["cifar"].to_json()))
    (world / "run/history.json").write_text(json.dumps(_history().to_json()))
    for name in ("report.json", "other.json"):
        (world / name).write_text(_report().to_json())
    with zipfile.ZipFile(world / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(library_path(), LIBRARY_IN_WHEEL)
    (world / "cifar").mkdir()
    (world / "cifar/batches.meta.txt").write_text("\n".join("abcdefghij"))
    (world / "cifar/data_batch_1.bin").write_bytes(bytes(3073))
    for part in ("train", "val"):
        for label in "ab":
            (world / "images" / part / label).mkdir(parents=True)
            Image.fromarray(np.full((9, 9, 3), 128, np.uint8)).save(world / "images" / part / label / "x.png")
    _train(world)
    _search(world)


def _float_layers() -> FloatLayerTable:
    layer = LayerCost("skip", (16, 8, 8), (16, 4, 4), (2, 2), (2, 2), (1, 1), 1, 32)
    parts = (PartTimes(("skip",), ("Split",), 10.0, (FormTime(("skip",), 5.0, 2.0, 1.9),)),)
    machine = {"cpu": "none", "isa_flags": [], "load_average": [0.5, 0.5, 0.5]}
    return FloatLayerTable(machine, "generic", "scalar", "tiny", 1, 1, (layer,), parts, (20.0, 15.0))


def _history() -> History:
    table = tuple(tuple(1 / len(OPERATIONS) for _ in OPERATIONS) for _ in EDGES)
    tables = Tables(table, table)
    names = ("learning_rate", "train_loss", "train_accuracy", "architecture_loss", "validation_loss")
    more = ("validation_accuracy", "entropy", "learnable_share", "learnable_probability", "duration_s")
    numbers = dict.fromkeys((*names, *more), 0.5)
    epoch = Epoch(
        epoch=1,
        terms={"diversity": -0.25},
        alphas=tables,
        probabilities=tables,
        genotype=GENOTYPES["cifar"],
        **numbers,
    )
    return History(OPERATIONS, tuple(EDGES), {"seed": 0}, (epoch,))


def _report() -> Report:
    ratio = Ratio("ort-fp32", 3.9, 4.0, 4.1)
    common = {"threads": 1, "batch": 1, "runs": 50, "median_ms": 5.0, "p90_ms": 6.0, "p99_ms": 7.0}
    times: Mapping[str, Any] = common
    records = (
        Record(
            NETWORK, "bnas", "avx2", **times, ratio=ratio, file_bytes=250_000, memory=PeakMemory(9, 5), creation_ms=2.0
        ),
        Record("conv", "bnas", "avx2", **times, kind="binary", layer="8x8 4->4 k3 s1 d1"),
        Record(NETWORK, "ort-fp32", "avx2", **times, file_bytes=8_000_000, memory=PeakMemory(None, None)),
        Record("conv", "ort-fp32", "avx2", **times, kind="float", layer="8x8 4->4 k3 s1 d1"),
    )
    return Report(read_machine(), records, (LeftOut("openvino", None, "not installed"),), "tiny, 8x8")


def _train(world: Path, folder: str = "training", *, resume: bool = False) -> None:
    """Begin to train, or go on; stop after one batch."""
    recipe = replace(RECIPES["digits"], epochs=1)
    train(open_data("digits"), TINY, recipe, world / folder, resume=resume, stop=lambda: True)


def _search(world: Path, folder: str = "search", *, resume: bool = False) -> None:
    """Begin to search, or go on; stop after one batch."""
    data = open_data("digits")
    assert isinstance(data, InMemoryDataSet)
    recipe = replace(SEARCH_RECIPES["digits"], epochs=1)
    config = SearchConfig(SupernetConfig(SPACES["bnas"], 3, 4, 10, 1, (8, 8)), recipe)
    search(data, config, world / folder, resume=resume, stop=lambda: True)


def _images(world: Path) -> None:
    """Read all images of an image folder."""
    data = open_data(f"imagefolder:{world}/images")
    assert sum(len(batch.labels) for batch in data.test_batches(2)) == data.test_size


def _expected_latency(world: Path) -> None:
    """Do what a search does with the table of a device."""
    table = read_latency_table(world / "device.json")
    network = NetworkConfig.from_json(table.network, "the table: network")
    ExpectedLatency(table, network, OPERATIONS, EDGES, 0.1)


def _chosen_layers(world: Path) -> None:
    """Do what an export does with the table of a device."""
    table = read_float_layers(world / "floats.json")
    check_network(table, world / "floats.json", "tiny")
    assert describe_float_layers(table)


FUNCTIONS: Mapping[str, Callable[[Path], object]] = {
    "begin to train": lambda world: _train(world, "out/training"),
    "begin to search": lambda world: _search(world, "out/search"),
    "resume training": lambda world: _train(world, resume=True),
    "resume a search": lambda world: _search(world, resume=True),
    "read images": _images,
    "expect a latency": _expected_latency,
    "choose float layers": _chosen_layers,
}
"""What a command would do for long where the file is right; here it stops at once."""


# --------------------------------------------------------------------------------------------------------------------
# Where odd files go, and what reads them


@dataclass(frozen=True)
class Place:
    """A file of the world, and command lines that read it; {} is the world.

    `signed`: the manifest of the bundle gets the size and hash of the odd file, so that the file itself is read.
    """

    file: str
    commands: tuple[str, ...]
    signed: bool = False

    def __str__(self) -> str:
        return f"{self.file} (signed)" if self.signed else self.file

    @property
    def is_json(self) -> bool:
        """Tell whether the file is JSON."""
        return self.file.endswith(".json")


BENCH = "bench {}/bundle --threads 1 --min-seconds 0 --json {}/out/bench.json"
PARETO = "pareto {}/run --latency-target {}/device.json --json {}/out/pareto.json -o {}/out/pareto.svg"
EXPORT = "export {}/net.safetensors -o {}/out/bundle --images 2"
PLACES = (
    Place(
        "genotype.json",
        (
            "inspect {}/genotype.json",
            "draw {}/genotype.json -o {}/out/x.svg",
            "init --network BNAS-Mini --genotype {}/genotype.json -o {}/out/x.safetensors",
        ),
    ),
    Place("net.safetensors", ("inspect {}/net.safetensors", EXPORT)),
    Place("weights.pt", ("import {}/weights.pt --network BNAS-Mini -o {}/out/x.safetensors",)),
    Place("bundle/manifest.json", ("inspect {}/bundle", "verify {}/bundle", BENCH)),
    *(Place(f"bundle/{name}", ("verify {}/bundle",)) for name in (*FILES, INT8_TWIN)),
    *(Place(f"bundle/{name}", ("verify {}/bundle", BENCH), signed=True) for name in (MODEL, IMAGES)),
    *(Place(f"bundle/{name}", (BENCH,), signed=True) for name in (FLOAT_TWIN, INT8_TWIN)),
    Place(f"bundle/{PIECES}", ("verify {}/bundle",), signed=True),
    Place(
        "device.json",
        (PARETO, "expect a latency"),
    ),
    Place("floats.json", ("choose float layers",)),
    Place("run/genotype.json", (PARETO, "draw {}/run/genotype.json -o {}/out/x.png")),
    Place("run/history.json", (PARETO, "draw {}/run -o {}/out/x.svg")),
    Place(
        "report.json",
        (
            "report {}/report.json --html {}/out/x.html --markdown {}/out/x.md",
            "report {}/other.json {}/report.json --html {}/out/x.html",
        ),
    ),
    Place("a.whl", ("ops-library --wheel {}/a.whl -o {}/out/x.so",)),
    Place("cifar/batches.meta.txt", ("train --data cifar10:{}/cifar -o {}/out/train",)),
    Place("cifar/data_batch_1.bin", ("train --data cifar10:{}/cifar -o {}/out/train",)),
    Place("images/val/a/x.png", ("read images",)),
    Place("training/resume.safetensors", ("resume training",)),
    Place("search/resume.safetensors", ("resume a search",)),
)


# --------------------------------------------------------------------------------------------------------------------
# Odd files


Make = Callable[[Path, bytes], object]
"""Puts something odd at a path, where nothing is; the bytes are those of the good file."""

SPARSE = 1 << 40


class ImpossibleError(Exception):
    """No such thing can be made on this machine."""


def _socket(path: Path, good: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(str(path))
        except OSError as error:
            raise ImpossibleError(f"a socket at {path}") from error


def _device(minor: int) -> Make:
    def make(path: Path, good: bytes) -> None:
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, minor))
        except PermissionError as error:
            raise ImpossibleError("a device node") from error

    return make


def _sparse(start: Callable[[bytes], bytes]) -> Make:
    def make(path: Path, good: bytes) -> None:
        with path.open("wb") as file:
            file.write(start(good))
            try:
                file.truncate(SPARSE)
            except OSError as error:
                raise ImpossibleError("a sparse file of a terabyte") from error

    return make


def _unreadable(path: Path, good: bytes) -> None:
    if os.geteuid() == 0:
        raise ImpossibleError("a file that root cannot read")
    path.write_bytes(good)
    path.chmod(0)


def _content(change: Callable[[bytes], bytes]) -> Make:
    return lambda path, good: path.write_bytes(change(good))


def _zip_of(path: Path, good: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("../../x", good)


NODES: dict[str, Make] = {
    "nothing": lambda path, good: None,
    "a folder": lambda path, good: path.mkdir(),
    "a pipe": lambda path, good: os.mkfifo(path),
    "a socket": _socket,
    "a device without an end": _device(5),
    "a device that is empty": _device(3),
    "a link to itself": lambda path, good: path.symlink_to(path),
    "a link to nothing": lambda path, good: path.symlink_to("nothing"),
    "a link to a name that is too long": lambda path, good: path.symlink_to(300 * "x"),
    "a file that cannot be read": _unreadable,
    "a terabyte of zeros": _sparse(lambda good: b""),
    "the file and then a terabyte": _sparse(lambda good: good),
}
CONTENTS: dict[str, Make] = {
    "empty": _content(lambda good: b""),
    "one byte": _content(lambda good: b"\0"),
    "its first half": _content(lambda good: good[: len(good) // 2]),
    "all but its last bytes": _content(lambda good: good[:-3]),
    "text": _content(lambda good: b"hello\n"),
    "no UTF-8": _content(lambda good: b"\xff\xfe\xff"),
    "zeros": _content(lambda good: bytes(1000)),
    "a pickle": _content(lambda good: b"\x80\x04K\x01."),
    "a zip file": _zip_of,
    "a library": _content(lambda good: b"\x7fELF" + bytes(100)),
}
JSONS: dict[str, Make] = {
    name: _content(lambda good, text=text: text.encode("utf-8", "surrogatepass"))
    for name, text in {
        "null": "null",
        "a list": "[]",
        "an object": "{}",
        "text in quotes": '"x"',
        "a number": "1e999",
        "thousands of digits": "9" * 5000,
        "hundreds of digits": "9" * 401,
        "nested lists": 100_000 * "[",
        "nested objects": 100_000 * '{"a":',
        "nested a little": 200 * "[" + 200 * "]",
        "half of a surrogate pair": '{"format": "\\ud800"}',
        "a key twice": '{"format": 1, "format": 1}',
    }.items()
}

ODD_VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1, 2**31, 2**63, 10**401, 1e-320, 1e308, float("nan"), float("inf")),
    *("", "x", "a\nb", "\ud800", "\0", "\x1b[31m", "../x", 10_000 * "x", "\u202e"),
    *([], {}, [None], [[]], {"x": 1}, [1, 2, 3], 50 * [[0]]),
)


def _mutations(data: Any, rng: random.Random, most: int) -> Iterator[tuple[str, str]]:
    """Yield texts of JSON that differ from `data` in one place, and say where."""
    places = list(_places(data, ()))
    changes = [(place, change) for place in places for change in range(len(ODD_VALUES) + 2)]
    for place, change in rng.sample(changes, min(most, len(changes))):
        copy = json.loads(json.dumps(data))
        *above, last = place
        inside = copy
        for key in above:
            inside = inside[key]
        if change < len(ODD_VALUES):
            inside[last] = ODD_VALUES[change]
            what = f"{json.dumps(ODD_VALUES[change])[:40]}"
        elif change == len(ODD_VALUES):
            del inside[last]
            what = "missing"
        elif isinstance(inside, dict):
            inside["surprise"] = inside[last]
            what = "something beside it"
        else:
            inside.append(inside[last])
            what = "twice"
        yield f"{'.'.join(map(str, place))} {what}", json.dumps(copy)


def _places(data: Any, path: tuple[str | int, ...]) -> Iterator[tuple[str | int, ...]]:
    items: list[tuple[Any, Any]] = []
    if isinstance(data, dict):
        items = list(data.items())
    elif isinstance(data, list):
        items = list(enumerate(data))[:3]  # the others are alike
    for key, value in items:
        yield (*path, key)
        yield from _places(value, (*path, key))


def _header_of(good: bytes) -> tuple[Any, bytes]:
    """Split a safetensors file into its header, parsed, with the metadata parsed too, and the rest."""
    length = int.from_bytes(good[:8], "little")
    header = json.loads(good[8 : 8 + length])
    metadata = header["__metadata__"]
    header["__metadata__"] = {key: json.loads(value) for key, value in metadata.items()}
    return header, good[8 + length :]


def _safetensors(header: str, rest: bytes) -> bytes:
    """Put a safetensors file together again."""
    data = json.loads(header)
    if isinstance(data, dict) and isinstance(metadata := data.get("__metadata__"), dict):
        data["__metadata__"] = {key: json.dumps(value) for key, value in metadata.items()}
    text = json.dumps(data).encode()
    return len(text).to_bytes(8, "little") + text + rest


def _with_length(length: int) -> Make:
    return _content(lambda good: length.to_bytes(8, "little") + good[8:])


SAFETENSORS: dict[str, Make] = {
    f"a header of {length} bytes": _with_length(length) for length in (0, 1, 2**31, 2**40, 2**63, 2**64 - 1)
}
ONNX: dict[str, Make] = {
    # A name that is no UTF-8, in the length that it has.
    "a name that is no UTF-8": _content(
        lambda good: good.replace(b"cells", b"c\xffll\xfe").replace(b"stem", b"st\xffm")
    ),
}


def odd_files(place: Place, good: bytes, rng: random.Random, most: int) -> Iterator[tuple[str, Make]]:
    """Yield what can be odd about a file, at most `most` of a kind that is without number."""
    yield from ({} if place.signed else NODES).items()
    yield from CONTENTS.items()
    if place.is_json:
        yield from JSONS.items()
        for what, text in _mutations(json.loads(good), rng, most):
            yield what, _content(lambda good, text=text: text.encode("utf-8", "surrogatepass"))
    if place.file.endswith(".safetensors"):
        yield from SAFETENSORS.items()
        header, rest = _header_of(good)
        for what, text in _mutations(header, rng, most):
            yield what, _content(lambda good, text=text, rest=rest: _safetensors(text, rest))
    if place.signed and place.file.endswith(".onnx"):
        yield from ONNX.items()


# --------------------------------------------------------------------------------------------------------------------
# Trying them


class HangsError(Exception):
    """A command took too long."""


@contextmanager
def _in_time() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise HangsError(f"more than {LIMIT_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run(command: str, world: Path) -> tuple[int, str]:
    """Run a command line, or a function of the library; return its exit code, and what it said on both streams.

    Raises:
        Exception: what no command may raise.
    """
    if command in FUNCTIONS:
        try:
            FUNCTIONS[command](world)
        except BnasError as error:
            return 1, f"Error: {error.message}\n"
        return 0, ""
    result = CliRunner().invoke(bnas_deploy, [word.replace("{}", str(world)) for word in command.split()])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def _look(world: Path) -> dict[str, tuple[int, int, int]]:
    """Return mode, and for files size and time of the last change, of everything in the world."""
    found = {}
    for folder, folders, names in os.walk(world):
        for name in (*folders, *names):
            state = os.lstat(os.path.join(folder, name))
            change = (0, 0) if stat.S_ISDIR(state.st_mode) else (state.st_size, state.st_mtime_ns)
            found[os.path.relpath(os.path.join(folder, name), world)] = (state.st_mode, *change)
    return found


def _check(command: str, world: Path, before: Mapping[str, Any]) -> int:
    """Run a command, and check how it ends; return its exit code.

    Raises:
        AssertionError: it ends in another way than with success or a sentence, or has written something.
    """
    with _in_time():
        code, said = run(command, world)
    if code == 0:
        return code
    assert code in (1, 2), f"exit code {code}: {said}"
    sentence = said[said.rindex("Error: ") :]
    assert sentence.count("\n") <= 1, said
    assert len(sentence) <= LONGEST, f"{len(sentence)} characters: {sentence[:200]}"
    assert "Traceback" not in said
    after = _look(world)
    assert after == before, f"written: {sorted(set(after.items()) ^ set(before.items()))[:4]}"
    return code


def try_place(
    place: Place, world: Path, rng: random.Random, most: int, until: float | None = None
) -> tuple[dict[int, int], list[str]]:
    """Try every odd file at a place with every command that reads it, or as many as come until a time.

    Returns:
        How often each exit code came, and what went wrong: the failing input, and how the command ended.
    """
    path = world / place.file
    good = path.read_bytes()
    codes = {0: 0, 1: 0, 2: 0}
    failures: list[str] = []
    for command in place.commands:
        if not command.startswith(("bench", "train")):  # these take longer, where nothing is wrong
            assert run(command, world)[0] == 0, f"{command}: refuses a good file"
    _tidy(world)
    for what, make in odd_files(place, good, rng, most):
        if until is not None and time.monotonic() > until:
            break
        try:
            with _in_place_of(path, place, world, make, good):
                for command in place.commands:
                    before = _look(world)
                    try:
                        codes[_check(command, world, before)] += 1
                    except Exception:  # every other odd file is tried too
                        failures.append(f"{place}: {what}: {command}\n{traceback.format_exc(limit=-4)}")
                    _tidy(world)
        except ImpossibleError as error:
            print(f"left out, this machine has no such thing: {error}")
    return codes, failures


def _tidy(world: Path) -> None:
    shutil.rmtree(world / "out")
    (world / "out").mkdir()


@contextmanager
def _in_place_of(path: Path, place: Place, world: Path, make: Make, good: bytes) -> Iterator[None]:
    manifest = (world / "bundle" / MANIFEST).read_bytes()
    path.unlink()
    try:
        make(path, good)
        if place.signed:
            data = json.loads(manifest)
            data["files"] = {name: asdict(each) for name, each in describe_files(world / "bundle").items()}
            (world / "bundle" / MANIFEST).write_text(json.dumps(data))
        yield
    finally:
        if os.path.isdir(path):
            path.rmdir()
        path.unlink(missing_ok=True)
        path.write_bytes(good)
        if place.signed:
            (world / "bundle" / MANIFEST).write_bytes(manifest)


# --------------------------------------------------------------------------------------------------------------------
# A full disk

WRITERS = (
    "init --network BNAS-Mini -o {}/out/x.safetensors",
    EXPORT,
    f"{EXPORT} --float-layers int8",
    "draw cifar -o {}/out/x.svg",
    "draw {}/run -o {}/out/x.png",
    "report {}/report.json --html {}/out/x.html --markdown {}/out/x.md",
    "ops-library -o {}/out/x.so",
    "ops-library --wheel {}/a.whl -o {}/out/x.so",
    PARETO,
    "begin to train",
    "begin to search",
)
FULL_AT = (0, 3000)
"""Bytes that a file may have: a disk that is full from the start, and one on which a part of what is written fits."""


def try_full_disk(command: str, world: Path, full_at: Sequence[int] = FULL_AT) -> tuple[dict[int, int], list[str]]:
    """Run a command that writes where files cannot grow; return as `try_place` does."""
    codes = {0: 0, 1: 0, 2: 0}
    failures: list[str] = []
    before = _look(world)
    for most in full_at:
        try:
            with _files_of_at_most(most):
                code, said = run(command, world)
            codes[code] += 1
            if code == 0:
                continue
            assert code == 1, said
            assert re.fullmatch(r"(?s).*Error: [^\n]*: cannot be written: File too large[^\n]*\n", said), said
            left = {name for name in _look(world).keys() - before.keys() if not os.path.isdir(world / name)}
            # A report in two formats may have one of them, whole.
            assert not {name for name in left if not name.endswith((".md", ".html", "pareto.json"))}, left
            assert not {name for name in left if not (world / name).stat().st_size}, left
        except Exception:  # every other size is tried too
            failures.append(f"{command}, files of at most {most} bytes\n{traceback.format_exc(limit=-4)}")
        finally:
            _tidy(world)
    return codes, failures


@contextmanager
def _files_of_at_most(most: int) -> Iterator[None]:
    """Let files not grow beyond `most` bytes, which fails as a full disk does: File too large."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


# --------------------------------------------------------------------------------------------------------------------
# Random damage


def damage(good: bytes, rng: random.Random) -> bytes:
    """Change some bytes, or move, remove or repeat some."""
    data = bytearray(good)
    for _ in range(rng.choice((1, 1, 2, 10))):
        at, length = rng.randrange(len(data) + 1), rng.choice((1, 1, 2, 8, 100))
        match rng.randrange(5):
            case 0:
                data[at : at + length] = rng.randbytes(length)
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at : at + 1] = bytes([rng.choice((0, 1, 0x7F, 0x80, 0xFF))])
            case _:
                other = rng.randrange(len(data) + 1)
                data[at : at + length] = data[other : other + length]
    return bytes(data)


def random_damage(world: Path, seed: int, until: float) -> int:
    """Damage files at random until a time, and say what is tried, since a crash of a library says nothing."""
    rng = random.Random(seed)
    tried = 0
    while time.monotonic() < until:
        place = rng.choice(PLACES)
        tried += 1
        with _one_damaged(place, world, rng) as commands:
            before = _look(world)
            for command in commands:
                print(json.dumps([place.file, place.signed, command]), flush=True)
                if _check(command, world, before) == 0:
                    _tidy(world)
                    before = _look(world)
    return tried


@contextmanager
def _one_damaged(place: Place, world: Path, rng: random.Random) -> Iterator[tuple[str, ...]]:
    path = world / place.file
    good = path.read_bytes()
    if (place.is_json or place.file.endswith(".safetensors")) and rng.random() < 0.7:
        # Not bytes, most of which make no JSON any more, but values.
        make = rng.choice([make for what, make in odd_files(place, good, rng, 50)][-40:])
    else:
        bad = damage(good, rng)
        make = _content(lambda good: bad)
        (world.parent / "tried").write_bytes(bad)
    with _in_place_of(path, place, world, make, good):
        if path.is_file():
            shutil.copy(path, world.parent / "tried")
        yield tuple(command for command in place.commands if not command.startswith("bench"))


def supervise(minutes: float, seed: int) -> int:
    """Have processes try random damage, and tell what ended one; return how many failures there were."""
    until = time.monotonic() + 60 * minutes
    failures = 0
    kept = Path(tempfile.mkdtemp(prefix="odd-files-"))
    while time.monotonic() < until:
        left = min(until - time.monotonic(), 300)
        command = [sys.executable, "-P", __file__, "--worker", "--minutes", f"{left / 60}", "--seed", f"{seed}"]
        with tempfile.TemporaryDirectory() as folder:
            worker = subprocess.run([*command, "--world", folder], capture_output=True, text=True, check=False)
            lines = worker.stdout.splitlines()
            if worker.returncode:
                failures += 1
                if (tried := Path(folder) / "tried").exists():
                    shutil.copy(tried, kept / f"{seed}")
                print(f"seed {seed}, exit code {worker.returncode}, at {lines[-1] if lines else 'the start'}")
                print(f"failing input: {kept / str(seed)}\n{worker.stderr[-3000:]}", flush=True)
            else:
                print(f"seed {seed}: {lines[-1]}", flush=True)
        seed += 1
    return failures


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--most", type=int, default=10**9, help="of the changed values of a file; all of them")
    parser.add_argument("--worker", action="store_true", help="be one of the processes that try random damage")
    parser.add_argument("--world", type=Path, help="an empty folder for --worker")
    options = parser.parse_args()
    if options.worker:
        (options.world / "world").mkdir()
        make_world(options.world / "world")
        tried = random_damage(options.world / "world", options.seed, time.monotonic() + 60 * options.minutes)
        print(f"{tried} damaged files")
        return
    # Commands that clean up make an exception of it, which would be taken for how a command ended.
    signal.signal(signal.SIGTERM, lambda number, frame: os._exit(128 + number))
    started = time.monotonic()
    half = started + 30 * options.minutes if options.minutes else None
    failed = try_table(options.seed, options.most, half)
    if failed:
        sys.exit(f"{failed} commands did not end with a sentence")
    if options.minutes:
        spent = (time.monotonic() - started) / 60
        sys.exit(1 if supervise(options.minutes - spent, options.seed) else 0)


def try_table(seed: int, most: int, until: float | None) -> int:
    """Try places and writers, and say how each went; return how many commands failed.

    Until a time they come in an order by the seed, and what is not reached is told.
    """
    rng = random.Random(seed)
    trials: list[Place | str] = [*PLACES, *WRITERS]
    if until is not None:
        rng.shuffle(trials)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder) / "world"
        world.mkdir()
        make_world(world)
        for number, trial in enumerate(trials):
            if until is not None and time.monotonic() > until:
                print(
                    f"time is up: {number} of {len(trials)} rows of the table were tried; give --minutes more",
                    flush=True,
                )
                break
            if isinstance(trial, Place):
                codes, failures = try_place(trial, world, rng, most, until)
            else:
                codes, failures = try_full_disk(trial, world, range(0, 40_000, 2500))
                trial = f"full disk: {trial}"
            print(f"{trial}: exit codes {codes}", *failures, sep="\n", flush=True)
            failed += len(failures)
    return failed


if __name__ == "__main__":
    main()
