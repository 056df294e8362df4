"""What is left of files and bundles whose writer is killed, or out of room, at each of its steps.

A writer's step is whatever it asks of the file system. Each scenario runs once for each step k, in a process of its own
that ends by SIGKILL before step k, or whose step k fails with ENOSPC. Then the old file or bundle is there whole, or
the new one is; and the next writer leaves nothing else behind.

    python -P tests/fuzz/killed_writers.py                 every step of every scenario, once
    python -P tests/fuzz/killed_writers.py --minutes 30    then random kills of several writers at once, until then
"""

import argparse
import errno
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bnas_deploy.core import host, partial
from bnas_deploy.core.bundle import (
    FILES,
    MANIFEST,
    MODEL,
    Corner,
    Manifest,
    PieceCheck,
    Preprocessing,
    Verification,
    describe_files,
    read_bundle,
)
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.files import write_whole
from bnas_deploy.core.layer_cost import LayerCost
from bnas_deploy.core.new_bundle import new_bundle
from bnas_deploy.core.tensor_spec import TensorSpec

STEPS = {
    *("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.listdir", "os.scandir"),
    *("fcntl.flock", "ctypes.dlsym"),
}
"""What Python tells before it asks the system for it (audit events). `os.write`, `os.fsync`, the exchange are added."""

NEED_ROOM = {"open", "os.mkdir", "os.rename", "os.write", "os.fsync", "exchange"}
"""Steps that a full disk can fail; where blocks are copied on write (Btrfs, ZFS), removing needs room too."""

REMOVE = {"os.remove", "os.rmdir"}

KILLED, FINISHED, REFUSED, CRASHED = "killed", "finished", "refused", "crashed"


@dataclass(frozen=True)
class Fault:
    """Before step `step`: SIGKILL, or ENOSPC there alone or from there on; `step` 0 only counts."""

    step: int
    kind: str = "kill"

    def strikes(self, step: int, event: str) -> bool:
        """Tell whether the step, which has come, is one to fail."""
        if self.kind == "full from there on":
            return bool(self.step) and step >= self.step and event in NEED_ROOM
        return step == self.step and (self.kind == "kill" or event in NEED_ROOM | REMOVE)


FAULTS = ("kill", "full", "full from there on")


class Counter:
    """Counts the steps of this process from `start` on, and lets a fault strike; for good, as audit hooks are."""

    def __init__(self, fault: Fault) -> None:
        self.fault = fault
        self.events: list[str] = []
        self.running = False
        self.struck = ""

    def install(self) -> None:
        """Begin to count."""
        sys.addaudithook(lambda event, arguments: self._audit(event, arguments))
        for name in ("write", "fsync"):
            setattr(os, name, self._counted(f"os.{name}", getattr(os, name)))
        host.exchange = self._counted("exchange", host.exchange)
        self.running = True

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in STEPS and not (event == "open" and _is_reading(arguments)):
            self.step(event)

    def _counted(self, event: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.step(event)
            return function(*arguments)

        return counted

    def step(self, event: str) -> None:
        """Count a step, and let the fault strike where it is due."""
        if not self.running:
            return
        self.events.append(event)
        if self.fault.strikes(len(self.events), event):
            self.struck = event
            if self.fault.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_reading(arguments: tuple[Any, ...]) -> bool:
    """Tell whether an "open" is for reading, which changes nothing; its arguments are path, mode and flags."""
    _, mode, flags = arguments
    return mode == "r" or not isinstance(flags, int) or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0


@dataclass(frozen=True)
class Scenario:
    """What is there before, who writes what, and what may be there afterwards.

    Attributes:
        name: for people.
        prepare: makes the folder as it is before, with the content "old".
        write: writes a content.
        content: returns the content that is there, None for nothing.
        before: the content before.
        may_vanish: the target may be gone after a fault, until the next writer comes.
        visible: what the folder holds after a writer that finished; hidden names are of writers.
    """

    name: str
    prepare: Callable[[Path], object]
    write: Callable[[Path, str], object]
    content: Callable[[Path], str | None]
    before: str | None
    may_vanish: bool = False
    visible: tuple[str, ...] = ("target",)


# --------------------------------------------------------------------------------------------------------------------
# Files and bundles as they are written here


def write_file(folder: Path, content: str) -> None:
    write_whole(folder / "target", 1000 * content.encode())


def file_content(folder: Path) -> str | None:
    try:
        data = (folder / "target").read_text()
    except FileNotFoundError:
        return None
    content = data[: len(data) // 1000]
    assert data == 1000 * content, "a file that is not whole"
    return content


def write_bundle(folder: Path, content: str, size: int = 10) -> None:
    with new_bundle(folder / "target") as fresh:
        fill_bundle(fresh, content, size)


def fill_bundle(fresh: Path, content: str, size: int = 10) -> None:
    for name in FILES:
        (fresh / name).write_text(size * f"{content} {name} ")
    shape = (1, 1, 1)
    layer = LayerCost("layer", shape, shape, (1, 1), (1, 1), (1, 1), groups=1, weight_bits=1)
    manifest = Manifest(
        bnas_deploy="0",
        network={},
        opset={},
        inputs=(TensorSpec("x", "float32", (None, *shape)),),
        outputs=(TensorSpec("y", "float32", (None, 1)),),
        labels=(content,),
        preprocessing=Preprocessing(1, 1, (0.0,), (1.0,)),
        layers=(layer,),
        verification=Verification({"y": 0.0}, (PieceCheck("layer", (), Corner("y", "y", (1, 1, 1, 1)), (1, 1, 1, 1)),)),
        files=describe_files(fresh),
    )
    (fresh / MANIFEST).write_text(manifest.to_json())


def bundle_content(folder: Path) -> str | None:
    """Return the content of a bundle whose files all have the size and the hash that its manifest tells."""
    path = folder / "target"
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    (content,) = read_bundle(path).manifest.labels
    assert (path / MODEL).read_text().startswith(content)
    return content


@contextmanager
def without_exchange() -> Iterator[None]:
    """Behave as on a system that cannot exchange two names."""
    before = host.exchange
    host.exchange = lambda one, other: False
    try:
        yield
    finally:
        host.exchange = before


def write_bundle_in_two_steps(folder: Path, content: str) -> None:
    with without_exchange():
        write_bundle(folder, content)


def link_to_old_file(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere/file").write_text(1000 * "old")
    (folder / "target").symlink_to("elsewhere/file")


def old_bundle_and_leftovers(folder: Path) -> None:
    """Leave what killed writers leave: a file, and a folder between the two renamings that replaced the bundle."""
    write_bundle(folder, "old")
    boot = partial._boot()
    (folder / f".bnas-deploy-{boot}-aaaaaaaaaaaa.partial").write_text("half")
    work = folder / f".bnas-deploy-{boot}-bbbbbbbbbbbb.partial"
    (work / "old").mkdir(parents=True)
    (work / "new").mkdir()
    fill_half(work / "new")
    (folder / "target").rename(work / "old/target")


def fill_half(fresh: Path) -> None:
    (fresh / MODEL).write_text("half")
    (fresh / "test_vectors").mkdir()


def nothing(folder: Path) -> None:
    pass


SCENARIOS = (
    Scenario("a new file", nothing, write_file, file_content, before=None),
    Scenario("an old file", lambda folder: write_file(folder, "old"), write_file, file_content, before="old"),
    Scenario(
        *("a link to a file", link_to_old_file, write_file, file_content),
        before="old",
        visible=("elsewhere", "target"),
    ),
    Scenario("a new bundle", nothing, write_bundle, bundle_content, before=None),
    Scenario("an empty folder", lambda folder: (folder / "target").mkdir(), write_bundle, bundle_content, before=None),
    Scenario("an old bundle", lambda folder: write_bundle(folder, "old"), write_bundle, bundle_content, before="old"),
    Scenario(
        *("an old bundle, renamed twice", lambda folder: write_bundle(folder, "old"), write_bundle_in_two_steps),
        bundle_content,
        before="old",
        may_vanish=True,
    ),
    Scenario(
        *("a bundle whose writer was killed", old_bundle_and_leftovers, write_bundle_in_two_steps, bundle_content),
        before="old",
        may_vanish=True,
    ),
    Scenario(
        *("a file beside what a killed writer left", old_bundle_and_leftovers),
        lambda folder, content: write_whole(folder / "other", content.encode()),
        bundle_content,
        before="old",
        may_vanish=True,
        visible=("other", "target"),
    ),
)


# --------------------------------------------------------------------------------------------------------------------
# Each step


def run_with(fault: Fault, write: Callable[[], object]) -> tuple[str, list[str], str]:
    """Write in a process of its own; return how it ended, its steps (none where it was killed), and what it said."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        counter = Counter(fault)
        end, said = FINISHED, ""
        try:
            counter.install()
            write()
        except BnasError as error:
            end, said = REFUSED, error.message
        except BaseException as error:  # told to the other process, which fails
            end, said = CRASHED, repr(error)
        counter.running = False
        os.write(writing, json.dumps([end, counter.events, counter.struck, said]).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as answer:
        data = answer.read()
    os.waitpid(child, 0)
    if not data:
        return KILLED, [], ""
    end, events, struck, said = json.loads(data)
    return end, events, f"{said} ({struck})" if struck else said


def try_step(scenario: Scenario, fault: Fault, folder: Path) -> tuple[str, list[str]]:
    """Let a fault strike, and check what is there; return how the writer ended, and the steps that it took.

    Raises:
        AssertionError: it is not what should be there.
    """
    scenario.prepare(folder)
    end, events, said = run_with(fault, lambda: scenario.write(folder, "new"))
    assert end != CRASHED, said
    after = scenario.content(folder)
    beside = "other" in scenario.visible  # the writer writes another file
    vanished = {None} if scenario.may_vanish and (beside or end != FINISHED) else set()
    assert after in {scenario.before, "new"} | vanished, f"{end}, and then there is {after}"
    if end == FINISHED and not beside:
        assert after == "new"
    if end == REFUSED:
        assert "No space left on device" in said
        assert "\n" not in said
        assert after in (scenario.before, None)
    scenario.write(folder, "next")
    assert scenario.content(folder) == ("old" if beside else "next")
    left = sorted(os.listdir(folder))
    assert left == list(scenario.visible), f"the next writer left {left}"
    return end, events


def every_step(scenario: Scenario) -> Iterator[tuple[Fault, str]]:
    """Try every fault at every step; yield each, and how the writer ended."""
    with tempfile.TemporaryDirectory() as folder:
        end, events = try_step(scenario, Fault(0), Path(folder))
    assert end == FINISHED
    assert events
    for kind in FAULTS:
        for step, event in enumerate(events, start=1):
            fault = Fault(step, kind)
            if not fault.strikes(step, event):
                continue
            with tempfile.TemporaryDirectory() as folder:
                try:
                    end, _ = try_step(scenario, fault, Path(folder))
                except Exception as error:
                    error.add_note(f"failing input: {scenario.name}, {asdict(fault)}")
                    raise
            yield fault, end


# --------------------------------------------------------------------------------------------------------------------
# Several writers at once, killed at any time


def random_kills(rng: random.Random, until: float) -> int:
    """Start writers of one bundle and one file at once, kill most of them, and look; return how many were killed."""
    killed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_bundle(folder, "0")
        while time.monotonic() < until:
            seed = rng.randrange(2**32)
            try:
                killed += _round(random.Random(seed), folder)
            except Exception as error:
                error.add_note(f"failing input: a round with seed {seed}")
                raise
        write_bundle(folder, "0")
        left = sorted(set(os.listdir(folder)) - {"target", "file"})
        assert not left, f"the last writer left {left}"
    return killed


def _round(rng: random.Random, folder: Path) -> int:
    writers = [_start(rng.randrange(2), folder, str(i), rng.choice((1, 1000, 100_000))) for i in range(3)]
    time.sleep(rng.uniform(0, 0.05))
    victims = [pid for pid in writers if rng.random() < 0.7]
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    ends = [os.waitpid(pid, 0)[1] for pid in writers]
    assert not any(os.WIFEXITED(end) and os.WEXITSTATUS(end) for end in ends), "a living writer failed"
    assert bundle_content(folder) is not None, "the bundle is gone"
    if (file := folder / "file").exists():
        data = file.read_text()
        assert data == data[:1] * len(data), "a file that is not whole"
    return sum(os.WIFSIGNALED(end) for end in ends)


def _start(kind: int, folder: Path, content: str, size: int) -> int:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            if kind:
                write_whole(folder / "file", size * content.encode())
            else:
                write_bundle(folder, content, size)
            code = 0
        except BnasError as error:
            # Two writers of one bundle may meet: then one of them is told so, and nothing is lost.
            code = 0 if "target" in error.message else 1
        finally:
            os._exit(code)
    return pid


def no_sync(fd: object) -> None:
    """Stand for os.fsync, which changes nothing that is looked at here and takes most of the time."""


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.fsync = no_sync
    until = time.monotonic() + 60 * options.minutes
    for scenario in SCENARIOS:
        ends = [end for _, end in every_step(scenario)]
        counts = ", ".join(f"{ends.count(kind)} {kind}" for kind in (KILLED, REFUSED, FINISHED))
        print(f"{scenario.name}: {len(ends)} faults: {counts}", flush=True)
    if options.minutes:
        print(f"{random_kills(random.Random(options.seed), until)} writers killed at random", flush=True)


if __name__ == "__main__":
    main()
