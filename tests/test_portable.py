"""No module needs a POSIX system, but those that are named for one; and text files have one encoding everywhere."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("bnas_deploy", "runtime", "export", "search")

NAMED_FOR_A_SYSTEM = {
    "bnas_deploy/core/posix.py": "windows.py beside it is its counterpart",
    "bnas_deploy/core/windows.py": "posix.py beside it is its counterpart",
    "bnas_deploy/remote/device_agent.py": "it runs on the device, which is a Linux",
}

ALLOWED = {
    ("win32", "runtime/bench/waiting.py", "pread"): "of files of /proc, where there are some",
}

# Parameters that mypy finds in the types of all systems, though one of them refuses them.
ARGUMENTS = {"start_new_session", "preexec_fn", "process_group", "pass_fds", "dir_fd"}

LACKING = re.compile(r"(?P<path>\S+):(?P<line>\d+): error: Module .*has no attribute \"(?P<name>\w+)\"")

TEXT_METHODS = {"read_text", "write_text"}


def of_posix_alone(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Find arguments that Windows refuses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield from ((node.lineno, word.arg) for word in node.keywords if word.arg in ARGUMENTS)
            if ast.unparse(node).startswith("ctypes.CDLL(None"):
                yield node.lineno, "ctypes.CDLL(None)"


def lacking(platform: str, tree: Path, cache: Path) -> dict[tuple[str, str], str]:
    """Return what the standard library of a platform does not have, by file and name, as mypy knows it.

    mypy leaves out what a comparison of sys.platform keeps from the platform. Without the types of other packages it is
    quick, and has errors of its own, which are not looked at.
    """
    quick = ["--config-file=", "--python-version=3.11", "--no-site-packages", "--ignore-missing-imports"]
    words = ["--check-untyped-defs", "--cache-dir", str(cache / platform), "--platform", platform, "-p", tree.name]
    run = subprocess.run(
        [sys.executable, "-m", "mypy", *quick, *words], cwd=tree.parent, capture_output=True, text=True, check=False
    )
    assert run.returncode in (0, 1), run.stdout + run.stderr
    assert "checked" in run.stdout or "no issues" in run.stdout, run.stdout
    return {
        (_in_repository(found["path"]), found["name"]): found["line"]
        for found in map(LACKING.match, run.stdout.splitlines())
        if found
    }


def _in_repository(path: str) -> str:
    """Return where a file of the package lies in the repository."""
    inner = path.removeprefix("bnas_deploy/")
    return inner if inner.split("/")[0] in FOLDERS else path


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


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_no_module_needs_what_another_system_lacks(platform: str, package_tree: Path) -> None:
    named = NAMED_FOR_A_SYSTEM if platform == "win32" else {}
    found = {
        (platform, path, name): f"{path}:{line}: {name}"
        for (path, name), line in lacking(platform, package_tree, ROOT / ".mypy_cache").items()
        if path not in named
    }
    unknown = [where for key, where in found.items() if key not in ALLOWED]
    assert not unknown, "in bnas_deploy/core/posix.py, with a counterpart in windows.py: " + ", ".join(unknown)
    allowed = {key for key in ALLOWED if key[0] == platform}
    assert found.keys() >= allowed, "an exception that nothing needs any more"


def test_no_module_asks_what_windows_refuses() -> None:
    found = [
        f"{name}:{line}: {what}"
        for name, tree in sources()
        if name not in NAMED_FOR_A_SYSTEM
        for line, what in of_posix_alone(tree)
    ]
    assert not found, "in bnas_deploy/core/posix.py, with a counterpart in windows.py: " + ", ".join(found)


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


CALLS = """
import fcntl, os, resource, signal, socket, sys
from os import killpg

def calls() -> None:
    os.fork()
    os.kill(1, signal.SIGSTOP)
    fcntl.flock(1, 2)
    resource.getrusage(0)
    print(socket.AF_UNIX)
    os.sched_getaffinity(0)
    if sys.platform == "linux":
        os.sched_setaffinity(0, {0})
    if sys.platform != "win32":
        os.getuid()
    os.replace("a", "b")
"""


@pytest.mark.parametrize(
    ("platform", "names"),
    [
        ("win32", {"AF_UNIX", "SIGSTOP", "flock", "fork", "getrusage", "killpg", "sched_getaffinity"}),
        ("darwin", {"sched_getaffinity"}),
        ("linux", set()),
    ],
)
def test_what_a_system_lacks_is_found(platform: str, names: set[str], tmp_path: Path) -> None:
    tree = tmp_path / "bnas_deploy"
    (tree / "runtime").mkdir(parents=True)
    for folder in (tree, tree / "runtime"):
        (folder / "__init__.py").touch()
    (tree / "runtime/calls.py").write_text(CALLS, encoding="utf-8")
    found = lacking(platform, tree, tmp_path / "cache")
    assert found.keys() == {("runtime/calls.py", name) for name in names}


@pytest.mark.parametrize(
    ("code", "what"),
    [
        ("subprocess.Popen(words, start_new_session=True)", "start_new_session"),
        ("ctypes.CDLL(None, use_errno=True)", "ctypes.CDLL(None)"),
    ],
)
def test_what_windows_refuses_is_found(code: str, what: str) -> None:
    assert [found for _, found in of_posix_alone(ast.parse(code))] == [what]


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
