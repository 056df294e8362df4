"""What `bnas-deploy bench --host` runs on the device. Its text is sent there, so it has the standard library alone.

The first line of standard input is a request, a JSON object; files may follow. While work is going on the stream stays
open. Its end means that the asking side has gone, and then all is stopped and removed. The answer is the last line of
standard output, JSON too.

Everything is in ~/.cache/bnas-deploy of the device:

    files/SHA256    what was sent, whole, under its hash
    site/NAME       an installed bnas-deploy with what it needs
    work.XXXX       one request's own folder; removed at its end
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

CHUNK = 1 << 20

KEPT_SITES = 3
KEPT_SECONDS = 30 * 24 * 3600
"""How many installations stay, and how long a file stays that no run uses: a device's disk is small."""


def root() -> Path:
    """Return the folder on the device; deleting it is safe, and costs the next run some time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bnas-deploy"


@contextmanager
def work_folder() -> Iterator[Path]:
    """Give a new folder, removed at the end; one request at a time, since two measurements would disturb each other."""
    for name in ("files", "site"):
        (root() / name).mkdir(parents=True, exist_ok=True)
    with (root() / "lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit("another `bnas-deploy bench --host` is at work on this device; wait for its end") from None
        for stale in root().glob("work.*"):  # of a device that was switched off
            shutil.rmtree(stale, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix="work.", dir=root()))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def look(request: Mapping[str, Any]) -> dict[str, Any]:
    """Tell which of the `files` (hashes) are missing, and whether the `site` is installed."""
    missing = [sha256 for sha256 in request["files"] if not (root() / "files" / sha256).is_file()]
    return {"missing": missing, "installed": (root() / "site" / request["site"]).is_dir()}


def put(request: Mapping[str, Any]) -> dict[str, Any]:
    """Take in `files`, pairs of hash and size, whose bytes follow; each gets its name when it is whole."""
    with work_folder() as work:
        for sha256, size in request["files"]:
            fresh = work / sha256
            with fresh.open("wb") as file:
                got = _receive(file, size)
            if got != sha256:
                raise SystemExit("a file did not arrive whole")
            fresh.replace(root() / "files" / sha256)
    return {}


def _receive(file: IO[bytes], size: int) -> str:
    digest = hashlib.sha256()
    while size and (chunk := sys.stdin.buffer.read(min(size, CHUNK))):
        digest.update(chunk)
        file.write(chunk)
        size -= len(chunk)
    return digest.hexdigest()


def install(request: Mapping[str, Any]) -> dict[str, Any]:
    """Install `wheel` as `site` from `wheels`, a hash by file name, with the pip that is one of them."""
    with work_folder() as work:
        try:
            wheels = _lay_out(work / "wheels", request["wheels"])
            pip = next(wheels.glob("pip-*.whl")) / "pip"  # Python runs what is in a zip file
            options = ["-q", "--isolated", "--no-index", "--no-compile", "--disable-pip-version-check"]
            places = ["--find-links", str(wheels), "--target", str(work / "site")]
            command = [sys.executable, str(pip), "install", *options, *places, str(wheels / request["wheel"])]
            _run(command, work, {})
            (work / "site").replace(root() / "site" / request["site"])
        finally:
            for sha256 in request["wheels"].values():  # they are installed, or of no use here
                (root() / "files" / sha256).unlink(missing_ok=True)
    return {}


def measure(request: Mapping[str, Any]) -> dict[str, Any]:
    """Verify the bundle made of `files`, a hash by path, if there are some; then bench it with `arguments`."""
    with work_folder() as work:
        site = root() / "site" / request["site"]
        os.utime(site)  # it is in use
        report = work / "report.json"
        command = [sys.executable, "-s", "-P", "-m", "bnas_deploy"]
        environment = {"PYTHONPATH": str(site)}
        bundle = [str(_lay_out(work / "bundle", request["files"]))] if request["files"] else []
        tidy()
        if bundle:
            _run([*command, "verify", *bundle], work, environment)
        arguments = [*bundle, *request["arguments"], "--json", str(report)]
        # Its tables are not shown: they are made of the report again, at the other end.
        _run([*command, "bench", *arguments], work, environment, stdout=subprocess.DEVNULL)
        return {"report": report.read_text(encoding="utf-8")}


def tidy() -> None:
    """Remove all installations but those that were used last, and files that were not used for long."""
    sites = sorted((root() / "site").iterdir(), key=lambda path: path.stat().st_mtime)
    for site in sites[:-KEPT_SITES]:
        shutil.rmtree(site, ignore_errors=True)
    for file in (root() / "files").iterdir():
        if file.stat().st_mtime < time.time() - KEPT_SECONDS:
            file.unlink()


def _lay_out(folder: Path, files: Mapping[str, str]) -> Path:
    for name, sha256 in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        stored = root() / "files" / sha256
        os.utime(stored)  # it is in use
        try:
            path.hardlink_to(stored)
        except OSError:  # a file system without links
            shutil.copy(stored, path)
    return folder


def _run(command: list[str], work: Path, environment: Mapping[str, str], stdout: int | None = None) -> None:
    """Run a command, showing what it says as messages; stop it if standard input ends."""
    child = subprocess.Popen(
        command,
        cwd=work,
        env={**os.environ, "TMPDIR": str(work), **environment},
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr if stdout is None else stdout,
        start_new_session=True,
    )
    threading.Thread(target=_stop_when_alone, args=(child,), daemon=True).start()
    if (code := child.wait()) < 0:
        raise SystemExit(f"{signal.Signals(-code).name} ended {' '.join(command[1:])}")
    if code:
        raise SystemExit(code)  # it has said why


def _stop_when_alone(child: "subprocess.Popen[bytes]") -> None:
    # Not sys.stdin: its lock, held here, would be missed when Python ends.
    while os.read(0, CHUNK):
        pass
    if child.poll() is None:
        os.killpg(child.pid, signal.SIGKILL)


COMMANDS: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
    "look": look,
    "put": put,
    "install": install,
    "measure": measure,
}


if __name__ == "__main__":
    asked = json.loads(sys.stdin.buffer.readline())
    print(json.dumps(COMMANDS[asked["do"]](asked)), flush=True)
