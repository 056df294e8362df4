"""No module needs a POSIX system, but those that are named for one; and text files have one encoding everywhere."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bnas_deploy", "runtime", "export", "search")

NAMED_FOR_A_SYSTEM = {
    "bnas_deploy/core/posix.py": "windows.py beside it is its counterpart",
    "bnas_deploy/core/windows.py": "posix.py beside it is its counterpart",
    "runtime/bench/processor_windows.py": "processor.py imports it on Windows only",
    "bnas_deploy/remote/device_agent.py": "it runs on the device, which is a Linux",
}

ALLOWED = {
    ("runtime/bench/waiting.py", "os.pread"): "of files of /proc, where there are some",
}

MODULES = {"fcntl", "grp", "posix", "pty", "pwd", "readline", "resource", "syslog", "termios", "tty"}

_OS = (
    *("O_CLOEXEC", "O_DIRECTORY", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK", "chown", "confstr", "fchdir"),
    *("fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getloadavg", "getpgid"),
    *("getpgrp", "getuid", "initgroups", "killpg", "lchown", "lockf", "mkfifo", "mknod", "nice"),
    *("openpty", "pathconf", "pidfd_open", "pipe2", "posix_spawn", "pread", "preadv", "pwrite"),
    *("sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setegid", "seteuid", "setgid"),
    *("setpgid", "setpriority", "setsid", "setuid", "statvfs", "sync", "sysconf", "ttyname", "uname"),
    *("wait", "wait3", "wait4", "waitid"),
)
_SIGNALS = (
    *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP"),
    *("SIGUSR1", "SIGUSR2", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigwait"),
)
NAMES = {*(f"os.{name}" for name in _OS), *(f"signal.{name}" for name in _SIGNALS), "socket.AF_UNIX"}
ARGUMENTS = {"start_new_session", "preexec_fn", "process_group", "pass_fds", "dir_fd"}

TEXT_METHODS = {"read_text", "write_text"}


def posix_only(tree: ast.AST) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, name.name) for name in node.names if name.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module in MODULES:
                yield node.lineno, node.module
            names = (f"{node.module}.{name.name}" for name in node.names)
            yield from ((node.lineno, name) for name in names if name in NAMES)
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in NAMES:
            yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Call):
            yield from ((node.lineno, word.arg) for word in node.keywords if word.arg in ARGUMENTS)
            if ast.unparse(node).startswith("ctypes.CDLL(None"):
                yield node.lineno, "ctypes.CDLL(None)"


def without_encoding(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Find text files that would have another encoding on each system."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or any(word.arg == "encoding" for word in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name in TEXT_METHODS and isinstance(node.func, ast.Attribute):
            # A function of a module may have such a name, too; a method of a path has no number first.
            if len(node.args) <= (name == "write_text"):
                yield node.lineno, ast.unparse(node)
        elif name == "open" and (mode := _mode(node)) is not None and "b" not in mode:
            yield node.lineno, ast.unparse(node)


def _mode(node: ast.Call) -> str | None:
    """Return the mode of a call of `open`, or of a path's; None where that is no file of text."""
    values = [word.value for word in node.keywords if word.arg == "mode"] or node.args[
        isinstance(node.func, ast.Name) :
    ]
    first = values[0] if values else None
    if isinstance(node.func, ast.Name) and node.args and first is None:
        return "r"
    is_mode = isinstance(first, ast.Constant) and isinstance(first.value, str) and set(first.value) <= set("rwabx+t")
    return first.value if is_mode else None  # type: ignore[union-attr]  # is_mode says that it is a constant


@cache
def sources() -> tuple[tuple[str, ast.AST], ...]:
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    return tuple((path.relative_to(ROOT).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths)


def test_no_module_needs_posix() -> None:
    found = {
        (name, what): line
        for name, tree in sources()
        if name not in NAMED_FOR_A_SYSTEM
        for line, what in posix_only(tree)
    }
    unknown = [f"{name}:{line}: {what}" for (name, what), line in found.items() if (name, what) not in ALLOWED]
    assert not unknown, "in bnas_deploy/core/posix.py, with a counterpart in windows.py: " + ", ".join(unknown)
    assert found.keys() >= ALLOWED.keys(), "an exception that nothing needs any more"


def test_text_files_name_their_encoding() -> None:
    found = [f"{name}:{line}: {what}" for name, tree in sources() for line, what in without_encoding(tree)]
    assert not found, found


def functions(path: str) -> dict[str, list[str]]:
    """Return the public functions of a module, with their arguments."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))
    return {node.name: [argument.arg for argument in node.args.args] for node in found}


def test_windows_has_a_counterpart_of_everything() -> None:
    assert functions("bnas_deploy/core/windows.py") == functions("bnas_deploy/core/posix.py")


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("import fcntl", "fcntl"),
        ("from resource import getrusage", "resource"),
        ("from os import fork", "os.fork"),
        ("os.sched_getaffinity(0)", "os.sched_getaffinity"),
        ("os.kill(pid, signal.SIGSTOP)", "signal.SIGSTOP"),
        ("subprocess.Popen(words, start_new_session=True)", "start_new_session"),
        ("ctypes.CDLL(None, use_errno=True)", "ctypes.CDLL(None)"),
    ],
)
def test_what_is_looked_for_is_found(code: str, what: str) -> None:
    assert [found for _, found in posix_only(ast.parse(code))] == [what]


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("path.read_text()", True),
        ("path.write_text('a')", True),
        ("open(path)", True),
        ("path.open('w')", True),
        ("open(path, 'wb')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("open_regular(path)", False),
        ("model.open(path, images)", False),
    ],
)
def test_text_without_encoding_is_found(code: str, found: bool) -> None:
    assert bool(list(without_encoding(ast.parse(code)))) == found
