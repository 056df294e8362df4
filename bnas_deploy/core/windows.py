"""What core and the measurements ask of Windows; posix.py has the same functions, host.py chooses."""

import ctypes
import errno
import msvcrt
import os
import subprocess
import sys
import time
from ctypes import wintypes
from pathlib import Path
from typing import Any

assert sys.platform == "win32"

_GENERIC_READ, _GENERIC_WRITE, _DELETE = 0x80000000, 0x40000000, 0x00010000
_SHARE_ALL = 1 | 2 | 4  # others may read, write, and rename or delete it
_CREATE_NEW, _OPEN_EXISTING, _OPEN_ALWAYS = 1, 3, 4
_FILE_ATTRIBUTE_NORMAL, _OPEN_REPARSE_POINT = 0x80, 0x00200000
_NO_HANDLE = ctypes.c_void_p(-1).value

_LOCK = ".lock"
"""A folder cannot be locked; this file in it is."""

_FAR = 1 << 40
"""The byte of a file that is locked, which nobody reads or writes: a lock keeps others from its bytes."""

_REPLACING_S = 2.0
"""For so long another program may have a file open: scanners for viruses look at each new file for a moment."""

_EXTENDED_LIMITS, _KILL_ON_CLOSE = 9, 0x2000  # JobObjectExtendedLimitInformation, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
_FROM_NTSTATUS = 0xC0000000

_kernel = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel.CreateFileW.restype = wintypes.HANDLE
_kernel.CreateFileW.argtypes = [
    wintypes.LPCWSTR,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.LPVOID,
    wintypes.DWORD,
    wintypes.DWORD,
    wintypes.HANDLE,
]


# --------------------------------------------------------------------------------------------------------------------
# Files


def open_to_read(path: Path) -> int:
    """Open a file for reading; others may write and rename it meanwhile."""
    return _open(path, _GENERIC_READ, _OPEN_EXISTING)


def create(path: Path) -> int:
    """Make a file that can be renamed while it is open.

    Raises:
        FileExistsError: it is there already.
    """
    return _open(path, _GENERIC_READ | _GENERIC_WRITE | _DELETE, _CREATE_NEW)


def make_folder(path: Path) -> int:
    """Make a folder; return a descriptor that `lock` can lock."""
    path.mkdir()
    return create(path / _LOCK)


def open_to_lock(path: Path) -> int:
    """Open what `create` or `make_folder` made, and no link to something else.

    What another program has open cannot be removed, so a folder may have files and no lock any more: it gets a new one.
    """
    if path.is_dir():
        return _open(path / _LOCK, _GENERIC_READ, _OPEN_ALWAYS, _OPEN_REPARSE_POINT)
    return _open(path, _GENERIC_READ, _OPEN_EXISTING, _OPEN_REPARSE_POINT)


def is_still(path: Path, descriptor: int) -> bool:
    """Tell whether the descriptor of `create` or `make_folder` is still that of `path`."""
    try:
        file = path / _LOCK if path.is_dir() else path
        return os.path.samestat(os.stat(file, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False


def lock(descriptor: int) -> bool | None:
    """Lock a file without waiting; return False where another process has it, None where there are no locks."""
    at = os.lseek(descriptor, 0, os.SEEK_CUR)
    try:
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError:
        return False
    except OSError as error:
        return False if error.errno in (errno.EACCES, errno.EDEADLK) else None
    finally:
        os.lseek(descriptor, at, os.SEEK_SET)
    return True


def is_mine(state: os.stat_result) -> bool:
    """Tell whether a file may be removed: Windows itself keeps others' from it."""
    return True


def publish(descriptor: int) -> None:
    """Leave the permissions of a file of `create`, which are those of its folder."""


def replace(fresh: Path, path: Path) -> None:
    """Rename a file, or a folder to a name that is free; a file that was there is gone.

    Raises:
        PermissionError: another program has the old file or a file in the folder open, and goes on.
    """
    until = time.monotonic() + _REPLACING_S
    while True:
        try:
            fresh.replace(path)
        except PermissionError:
            if time.monotonic() > until:
                held = "a file in it" if fresh.is_dir() else "it"
                reason = f"another program has {held} open; close that"
                raise PermissionError(errno.EACCES, reason, str(path)) from None
            time.sleep(0.05)
        else:
            return


def sync(path: Path) -> None:
    """Have the disk take a file; only who may write it can ask for that."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def exchange(one: Path, other: Path) -> bool:
    """Return False: Windows cannot exchange two names in one step."""
    return False


def _open(path: Path, access: int, how: int, flags: int = 0) -> int:
    """Open a file so that others may do anything with it, which Python's own `open` does not allow."""
    handle = _kernel.CreateFileW(str(path), access, _SHARE_ALL, None, how, _FILE_ATTRIBUTE_NORMAL | flags, None)
    if handle == _NO_HANDLE:
        raise ctypes.WinError(ctypes.get_last_error())
    return msvcrt.open_osfhandle(handle, os.O_BINARY | os.O_NOINHERIT | (0 if how == _CREATE_NEW else os.O_RDONLY))


# --------------------------------------------------------------------------------------------------------------------
# The machine


class _MemoryStatus(ctypes.Structure):
    _fields_ = (
        ("length", wintypes.DWORD),
        ("load", wintypes.DWORD),
        *((name, ctypes.c_uint64) for name in ("total", "free", "pages", "free_pages", "virtual", "free_virtual", "x")),
    )


class _MemoryCounters(ctypes.Structure):
    _fields_ = (
        ("length", wintypes.DWORD),
        ("faults", wintypes.DWORD),
        *((name, ctypes.c_size_t) for name in ("peak", "now", *(f"unused{i}" for i in range(6)))),
    )


def usable_cpus() -> int:
    """How many processors this process may run on, of the group of up to 64 that it is in."""
    mask, whole = ctypes.c_size_t(), ctypes.c_size_t()
    _kernel.GetProcessAffinityMask(_this_process(), ctypes.byref(mask), ctypes.byref(whole))
    return mask.value.bit_count() or os.cpu_count() or 1


def stay_on_one_cpu() -> None:
    """Run on one processor from now on."""
    mask, whole = ctypes.c_size_t(), ctypes.c_size_t()
    _kernel.GetProcessAffinityMask(_this_process(), ctypes.byref(mask), ctypes.byref(whole))
    _kernel.SetProcessAffinityMask(_this_process(), ctypes.c_size_t(mask.value & -mask.value))


def memory_bytes() -> int | None:
    """Return the bytes of memory of this machine."""
    status = _MemoryStatus(length=ctypes.sizeof(_MemoryStatus))
    return int(status.total) if _kernel.GlobalMemoryStatusEx(ctypes.byref(status)) else None


def address_space_limit() -> int | None:
    """Return None: a process has no such limit here."""
    return None


def glibc() -> ctypes.CDLL | None:
    """Return None: it is on Linux."""
    return None


def load_average() -> tuple[float, float, float] | None:
    """Return None: Windows keeps no such figures."""
    return None


def context_switches() -> tuple[int, int] | None:
    """Return None: Windows counts them, but tells them by way of a service only."""
    return None


def peak_bytes() -> int | None:
    """Return the most memory that this process ever had in its working set."""
    counters = _MemoryCounters(length=ctypes.sizeof(_MemoryCounters))
    ask = _kernel.K32GetProcessMemoryInfo
    return int(counters.peak) if ask(_this_process(), ctypes.byref(counters), counters.length) else None


def _this_process() -> wintypes.HANDLE:
    _kernel.GetCurrentProcess.restype = wintypes.HANDLE
    return wintypes.HANDLE(_kernel.GetCurrentProcess())


# --------------------------------------------------------------------------------------------------------------------
# Processes


class _JobLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("times", ctypes.c_int64 * 2),
        ("flags", wintypes.DWORD),
        ("sets", ctypes.c_size_t * 2),
        ("processes", wintypes.DWORD),
        ("affinity", ctypes.c_size_t),
        ("classes", wintypes.DWORD * 2),
        ("io", ctypes.c_uint64 * 6),
        ("memory", ctypes.c_size_t * 4),
    )


def start_apart(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process that Ctrl-C in this terminal does not reach, and that ends with this one."""
    process = subprocess.Popen(command, creationflags=subprocess.CREATE_NEW_PROCESS_GROUP, **options)
    _kernel.CreateJobObjectW.restype = wintypes.HANDLE
    # Never closed: Windows does that when this process is gone, however it ends, and then ends what is in it.
    job = wintypes.HANDLE(_kernel.CreateJobObjectW(None, None))
    limits = _JobLimits(flags=_KILL_ON_CLOSE)
    _kernel.SetInformationJobObject(job, _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits))
    _kernel.AssignProcessToJobObject(job, _handle(process))
    return process


def end_with_parent(parent: int) -> None:
    """Do nothing: `start_apart` has seen to it."""


def stop(process: "subprocess.Popen[bytes]") -> bool:
    """Return when every thread of a process stands still; tell whether the process is still there."""
    if process.poll() is not None:
        return False
    return int(ctypes.WinDLL("ntdll").NtSuspendProcess(_handle(process))) >= 0


def go_on(process: "subprocess.Popen[bytes]") -> None:
    """Let a stopped process run.

    Raises:
        ProcessLookupError: it is gone.
    """
    if process.poll() is not None:
        raise ProcessLookupError
    ctypes.WinDLL("ntdll").NtResumeProcess(_handle(process))


def ended_by(code: int) -> str | None:
    """Return what the system ended a process with, by its exit code; None where it ended by itself."""
    return f"Windows (0x{code & 0xFFFFFFFF:08X})" if code & 0xFFFFFFFF >= _FROM_NTSTATUS else None


def _handle(process: "subprocess.Popen[bytes]") -> wintypes.HANDLE:
    return wintypes.HANDLE(int(process._handle))
