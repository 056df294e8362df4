"""How much memory there is and is used, and what an error says of memory that could not be had."""

import gc
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bnas_deploy.core import host

_GIGABYTE = 1e9


@dataclass(frozen=True)
class Limit:
    """The most that this process can have, and whose limit that is."""

    bytes: int
    whose: str


def bytes_text(count: float) -> str:
    """Return a number of bytes for people."""
    return f"{count / _GIGABYTE:.1f} GB" if count >= _GIGABYTE else f"{count / 1e6:.0f} MB"


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the bytes of memory of this machine, None where the system does not tell; `root` is where /proc is."""
    try:
        text = (root / "proc/meminfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    if found := re.search(r"^MemTotal:\s*(\d+) kB", text, re.MULTILINE):
        return int(found[1]) * 1024
    return host.memory_bytes() if root == Path("/") else None


def memory_limit(root: Path = Path("/")) -> Limit | None:
    """Return the memory of this machine or of the control groups that this process is in, whichever is least.

    None where the system does not tell. `root` is where /proc and /sys are. What others use is not taken off.
    """
    machine = memory_bytes(root)
    limits = [*([] if machine is None else [Limit(machine, "this machine has")]), *_group_limits(root)]
    if root == Path("/") and (own := _own_limit()):
        limits.append(own)
    return min(limits, key=lambda limit: limit.bytes, default=None)


def _group_limits(root: Path) -> list[Limit]:
    """Return those of every group from that of this process up; a container may see its own as the topmost one."""
    limits = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mount, file = root / "sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            mount, file = root / "sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        group = mount / path.lstrip("/")
        for folder in (group, *group.parents):
            text = _read(folder / file).strip()
            if text.isdecimal():  # not "max"
                limits.append(Limit(int(text), "this process may have (its control group)"))
            if folder == mount:
                break
    return limits


def _own_limit() -> Limit | None:
    """Return what a shell's `ulimit -v` leaves of the address space, in bytes of memory; None where it sets nothing.

    What is reserved and not in memory counts against it, too.
    """
    most = host.address_space_limit()
    if most is None:
        return None
    return Limit(max(most - _status("VmSize") + resident_bytes(), 0), "this process may have (ulimit -v)")


def resident_bytes() -> int:
    """Return what this process holds now, 0 where the system does not tell."""
    return _status("VmRSS")


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s*(\d+) kB", _read(Path("/proc/self/status")), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def _read(path: Path) -> str:
    """Return the text of a file of the system, "" where it is not there."""
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


_REFUSED = re.compile(
    r"can't allocate memory|std::bad_alloc|[Oo]ut of memory|Failed to allocate memory|[Uu]nable to (?:mmap|allocate)"
)
"""What PyTorch on a CPU and a GPU, C++, onnxruntime and numpy say of memory that they did not get."""

_ASKED = re.compile(r"(?:tried to allocate|buffer of size) (\d+)|(?:allocate|mmap) ([\d.]+) ?([KMGT]i?B)")

_UNITS = {"K": 2.0**10, "M": 2.0**20, "G": 2.0**30, "T": 2.0**40}


def allocation_failure(error: BaseException) -> str | None:
    """Say how much memory could not be had, and what there is, where an error is about that; None for another one."""
    text = str(error)
    if not isinstance(error, MemoryError) and not _REFUSED.search(text):
        return None
    asked = ""
    if found := _ASKED.search(text):
        asked = bytes_text(float(found[1]) if found[1] else float(found[2]) * _UNITS[found[3][0]]) + " of "
    limit = memory_limit()
    there = f"; {limit.whose} {bytes_text(limit.bytes)}" if limit else ""
    return f"{asked}memory could not be had beside {bytes_text(resident_bytes())} in use{there}"


def give_back() -> None:
    """Hand the memory that is freed back to the system, where the C library is glibc, which keeps most of it.

    Between two steps that need much and share little: together they would need what each of them needs.
    """
    if resident_bytes() > _MUCH:
        gc.collect()  # a graph that was captured is a ring of objects, and holds its weights until somebody looks
    if libc := host.glibc():
        libc.malloc_trim(0)


@contextmanager
def old_objects_left_alone() -> Iterator[None]:
    """Have Python look for rings only among the objects that are made inside: there may be millions of others.

    Those of PyTorch's and onnx's modules alone take a few tenths of a second each time. Where a program has set
    objects aside by itself (`gc.freeze`), they stay as they are.
    """
    if gc.get_freeze_count():
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


_MUCH = 2e9
"""Bytes in use from which on rings of objects are looked for, which takes a few tenths of a second."""

_TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, by the numbers that malloc.h of glibc gives them."""

_LARGEST_MMAP_THRESHOLD = 2**25
"""Bytes of a block from which on glibc maps it by itself, at most. The threshold rises to it with what is freed."""


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Have the C library keep memory that is freed, where it is glibc.

    A step of training frees what the next one asks for again. In between, glibc hands the end of its heap back to the
    system, which clears each page anew. The results have the same bits. Blocks of 32 MB and more are mapped by
    themselves all the same: in the heap, aligned ones of that size find no place where one was freed, and it grows.
    """
    libc = host.glibc()
    if libc is None:
        yield
        return
    libc.mallopt(MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)  # which no longer rises once anything is set
    libc.mallopt(_TRIM_THRESHOLD, -1)  # never
    try:
        yield
    finally:
        libc.mallopt(_TRIM_THRESHOLD, 2 * _LARGEST_MMAP_THRESHOLD)  # as glibc has it then
        libc.malloc_trim(0)
