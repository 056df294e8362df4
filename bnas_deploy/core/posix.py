"""What core and measurements ask of Linux, macOS and Android; windows.py has the same functions, host.py chooses."""

import ctypes
import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

assert sys.platform != "win32"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_RENAME_SWAP = 2  # macOS's name and number for the same
_PR_SET_PDEATHSIG = 1  # of linux/prctl.h


# --------------------------------------------------------------------------------------------------------------------
# Files


def open_to_read(path: Path) -> int:
    """Open a file for reading; a pipe or device that has taken its place does not block."""
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)


def create(path: Path) -> int:
    """Make a file that only its owner can read.

    Raises:
        FileExistsError: it is there already.
    """
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)


def make_folder(path: Path) -> int:
    """Make a folder that only its owner can read; return a descriptor that `lock` can lock."""
    path.mkdir(mode=0o700)
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


def open_to_lock(path: Path) -> int:
    """Open what `create` or `make_folder` made, and no link to something else."""
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)


def is_still(path: Path, descriptor: int) -> bool:
    """Tell whether the descriptor of `create` or `make_folder` is still that of `path`."""
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def lock(descriptor: int) -> bool | None:
    """Lock a file without waiting; return False where another process has it, None where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def is_mine(state: os.stat_result) -> bool:
    """Tell whether a file is this user's."""
    return state.st_uid == os.geteuid()


def publish(descriptor: int) -> None:
    """Give a file of `create` the permissions that a new file has."""
    # There is no way to ask for the mask without setting it.
    mask = os.umask(0)
    os.umask(mask)
    os.fchmod(descriptor, 0o666 & ~mask)


def replace(fresh: Path, path: Path) -> None:
    """Rename a file, or a folder to a name that is free; a file that was there stays with whoever has it open."""
    fresh.replace(path)


def sync(path: Path) -> None:
    """Have the disk take a file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; return False where the system or the file system cannot do that.

    Raises:
        OSError: they cannot be exchanged.
    """
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(one), os.fsencode(other)
    if hasattr(library, "renameat2"):  # Linux, with glibc 2.28 or later
        failed = library.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    elif hasattr(library, "renamex_np"):  # macOS
        failed = library.renamex_np(*names, _RENAME_SWAP)
    else:
        return False
    if not failed:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(other))


# --------------------------------------------------------------------------------------------------------------------
# The machine


def usable_cpus() -> int:
    """How many processors this process may run on."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS lets no process have fewer


def stay_on_one_cpu() -> None:
    """Run on one processor from now on, where the system can do that."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def memory_bytes() -> int | None:
    """Return the bytes of memory of this machine."""
    if "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def address_space_limit() -> int | None:
    """Return the bytes of addresses that this process may have (`ulimit -v`), None for no limit."""
    most, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if most == resource.RLIM_INFINITY else most


def glibc() -> ctypes.CDLL | None:
    """Return the C library of this process where it is glibc, whose malloc has settings of its own."""
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "gnu_get_libc_version") else None


def load_average() -> tuple[float, float, float] | None:
    """Return how many processes were ready to run, over 1, 5 and 15 minutes."""
    return os.getloadavg()


def context_switches() -> tuple[int, int] | None:
    """Return how often this process gave up the processor, and how often it lost it; None where nobody counts."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    if usage.ru_nvcsw == usage.ru_nivcsw == 0:  # no process gets so far without one
        return None
    return usage.ru_nvcsw, usage.ru_nivcsw


def peak_bytes() -> int | None:
    """Return the most memory that this process ever had, where /proc does not tell: on macOS, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss if sys.platform == "darwin" else None


# --------------------------------------------------------------------------------------------------------------------
# Processes


def start_apart(command: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    """Start a process that Ctrl-C in this terminal does not reach, and that `end_with_parent` can end.

    macOS ends it by itself: a group of processes that nobody is left to continue is told to hang up.
    """
    if sys.platform == "darwin":
        return subprocess.Popen(command, process_group=0, **options)
    return subprocess.Popen(command, start_new_session=True, **options)


def end_with_parent(parent: int) -> None:
    """In a process that `start_apart` started: be killed when `parent` is gone, stopped or not."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # gone before that
        sys.exit()


def stop(process: "subprocess.Popen[bytes]") -> bool:
    """Return when every thread of a process stands still; tell whether the process is still there."""
    os.kill(process.pid, signal.SIGSTOP)
    if sys.platform == "darwin":  # which has no waitid in Python before 3.13
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        process.returncode = os.waitstatus_to_exitcode(status)
        return False
    state = os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    if state is None or state.si_code != os.CLD_STOPPED:
        return False
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOHANG)
    return True


def go_on(process: "subprocess.Popen[bytes]") -> None:
    """Let a stopped process run.

    Raises:
        ProcessLookupError: it is gone.
    """
    os.kill(process.pid, signal.SIGCONT)


def ended_by(code: int) -> str | None:
    """Return what the system ended a process with, by its exit code; None where it ended by itself."""
    return signal.Signals(-code).name if code < 0 else None
