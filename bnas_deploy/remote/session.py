"""Measures on another machine, over the system's OpenSSH: what `bnas-deploy bench --host` does.

One login serves everything (ControlMaster). ssh itself asks for passwords and about host keys, on the terminal. What
the device answers is read like any file: it may be anything.
"""

import hashlib
import json
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import IO, Any, TypeVar

from bnas_deploy.core.bundle import MANIFEST, Bundle
from bnas_deploy.core.errors import BnasError, DeviceError, printable
from bnas_deploy.core.files import open_regular, temporary_folder
from bnas_deploy.core.json_records import LARGEST_FILE, from_json, parse
from bnas_deploy.remote.wheels import library_in, target_of, wheel_for
from bnas_deploy.runtime.targets import OLDEST_GLIBC

OLDEST_PYTHON = (3, 11)

GLIBC = r"glibc 2\.([0-9]{1,2})"
"""How a glibc names itself; a wheel's tag has its minor version."""

SSH_OPTIONS = ("-o", "ConnectTimeout=15", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=3")
"""A device that says nothing for 15 seconds is gone."""

CONNECTION_FAILED = 255
"""What ssh ends with where not the command there failed, but ssh."""

ERROR = "Error: "
"""How an error of the command line there begins."""

AGENT = Path(__file__).with_name("device_agent.py")
"""What runs on the device, which is a Linux; it is not imported, for this machine may be another."""

CHUNK = 1 << 20

LONGEST_LINE = 2000
"""Bytes of a line that a device says; the rest is another line."""

MOST_LINES = 1000
"""Lines that are shown of what a device says."""

# For every Python that a device may have, to be able to say that it is too old.
PROBE = """
import json, os, platform, sys
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except ValueError:
    libc = None
print(json.dumps({"python": list(sys.version_info[:2]), "implementation": platform.python_implementation(),
    "system": platform.system(), "architecture": platform.machine(), "libc": libc}))
"""

Say = Callable[[str], object]
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Device:
    """What a device says about itself; `libc` is such as "glibc 2.36", None for another than glibc."""

    python: tuple[int, int]
    implementation: str
    system: str
    architecture: str
    libc: str | None


@dataclass(frozen=True)
class State:
    """What a device has already: `missing` are the hashes of files that it lacks."""

    missing: tuple[str, ...]
    installed: bool


@dataclass(frozen=True)
class Measured:
    """The text of a report."""

    report: str


@dataclass(frozen=True)
class Done:
    """There is nothing to tell."""


@dataclass(frozen=True)
class Connection:
    """One login that every command goes through; `control` is the socket of its master process."""

    host: str
    port: int | None
    control: Path
    python: str
    say: Say

    def ask(self, kind: type[Answer], request: Mapping[str, Any], files: Sequence[Path] = ()) -> Answer:
        """Have device_agent.py answer with a `kind`; `files` follow the request.

        Raises:
            DeviceError: it failed there, the answer is of another kind, or the connection was lost.
        """
        source = AGENT.read_text(encoding="utf-8")
        return self.run_python(kind, source, json.dumps(request).encode() + b"\n", files)

    def run_python(self, kind: type[Answer], source: str, head: bytes = b"", files: Sequence[Path] = ()) -> Answer:
        """Run Python there and return the object that its last line of output is."""
        answer = self._run(f"exec {shlex.quote(self.python)} -c {shlex.quote(source)}", head, files).strip()
        last = answer.rsplit("\n", 1)[-1]
        try:
            made: Answer = from_json(kind, parse(last), "the answer", passing_over=True)
        except ValueError as error:
            raise DeviceError(
                f"{self.host}: answered {last[-200:]!r}, wanted JSON of {kind.__name__} ({error}); its login shell may "
                "print something of its own"
            ) from None
        return made

    def _run(self, command: str, head: bytes, files: Sequence[Path]) -> str:
        """Run a command of sh there, with `head` and `files` as its input, which stays open until it ends."""
        options = ["-S", str(self.control), "-o", "ControlMaster=no", "-o", "BatchMode=yes"]
        words = [*_ssh(self.port), *options, "--", self.host, f"exec sh -c {shlex.quote(command)}"]
        said: list[str] = []
        with subprocess.Popen(words, stdin=PIPE, stdout=PIPE, stderr=PIPE) as process:
            listener = threading.Thread(target=self._listen, args=(process.stderr, said), daemon=True)
            listener.start()
            try:
                with suppress(BrokenPipeError):  # it ended early, and has said why
                    _send(process, head, files)
                assert process.stdout
                answer = process.stdout.read(LARGEST_FILE).decode(errors="replace")
                if process.stdout.read(1):
                    raise DeviceError(f"{self.host}: answered more than {LARGEST_FILE:,} bytes, no report")
                process.wait()
                listener.join()
            finally:
                process.kill()  # after an exception; what runs there sees its input end
                with suppress(BrokenPipeError):
                    assert process.stdin
                    process.stdin.close()
        if process.returncode:
            raise self._failure(process.returncode, said)
        return answer

    def _listen(self, stream: IO[bytes], said: list[str]) -> None:
        """Show what the device says, and keep its last line in `said`."""
        lines = 0
        while raw := stream.readline(LONGEST_LINE):
            line = printable(raw.decode(errors="replace").rstrip())
            if not line:
                continue
            said[:] = [line]
            lines += 1
            if lines <= MOST_LINES and not line.startswith(ERROR):  # that will be raised
                self.say(line)
        if lines > MOST_LINES:
            self.say(f"... {self.host}: said {lines - MOST_LINES:,} more lines, which are not shown")

    def _failure(self, code: int, said: Sequence[str]) -> DeviceError:
        last = said[-1].removeprefix(ERROR) if said else f"ended with {code}"
        if code == CONNECTION_FAILED:
            return DeviceError(f"{self.host}: the connection was lost ({last}); nothing was written here, run it again")
        if code in (126, 127):
            return DeviceError(
                f"{self.host}: {self.python!r} cannot be run there ({last}); install Python "
                f"{'.'.join(map(str, OLDEST_PYTHON))} or later, or name it with --python"
            )
        return DeviceError(f"{self.host}: failed there: {last}")


def measure_on(
    host: str,
    bundle: Bundle | None,
    arguments: Sequence[str],
    *,
    port: int | None = None,
    python: str = "python3",
    wheel: Path | None = None,
    say: Say = lambda line: None,
) -> str:
    """Install what is needed on `host`, verify `bundle` there and measure it.

    Args:
        host: what ssh connects to, such as pi@raspberrypi.
        bundle: None to measure the single layers of `bench-layers`, if `arguments` say so.
        arguments: further arguments of `bnas-deploy bench` there.
        port: None is ssh's choice.
        python: the device's Python.
        wheel: what to install there; None is one that is built here.
        say: is told what is being done, and what the device says.

    Returns:
        The text of the report, as `bench --json` writes it.

    Raises:
        DeviceError: there is no way in, something is missing there, it fails there, or the connection is lost.
        BnasError: there is no wheel for the device.
    """
    with connect(host, port, python, say) as connection:
        device = probe(connection)
        fitting = _fitting_wheel(host, device, wheel, say)
        site = f"{_installed_name(fitting)}-{device.implementation}{'.'.join(map(str, device.python))}"
        hashes = _bundle_hashes(bundle) if bundle else {}
        state = connection.ask(State, {"do": "look", "files": sorted(set(hashes.values())), "site": site})
        if not state.installed:
            _install(connection, device, fitting, site)
        paths = {sha256: bundle.path / name for name, sha256 in hashes.items()} if bundle else {}
        missing = {sha256: path for sha256, path in paths.items() if sha256 in state.missing}
        if bundle and missing:
            say(f"... {host}: copying {bundle.path}")
            _put(connection, missing)
        say(f"... {host}: verifying and measuring" if bundle else f"... {host}: measuring")
        request = {"do": "measure", "site": site, "files": hashes, "arguments": list(arguments)}
        return connection.ask(Measured, request).report


@contextmanager
def connect(host: str, port: int | None, python: str, say: Say) -> Iterator[Connection]:
    """Log in, and out at the end.

    Raises:
        DeviceError: there is no ssh here, or no way in.
    """
    if not re.fullmatch(r"([\w.][\w.-]*@)?[\w.\[:][\w.:%\]-]*", host):
        raise DeviceError(f"{host!r}: no name of a host; give one as for ssh, such as pi@raspberrypi")
    if shutil.which("ssh") is None:
        raise DeviceError("ssh is not installed here; on Debian run: sudo apt install openssh-client")
    with temporary_folder() as folder:
        control = folder / "ssh"
        _log_in(host, port, control)
        try:
            yield Connection(host, port, control, python, say)
        finally:
            words = [*_ssh(port), "-S", str(control), "-O", "exit", "--", host]
            subprocess.run(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


def _log_in(host: str, port: int | None, control: Path) -> None:
    """Start the master process, which goes to the background once it is in."""
    words = [*_ssh(port), "-M", "-N", "-f", "-S", str(control), "-o", "ControlPersist=no"]
    if not sys.stdin.isatty():
        words += ["-o", "BatchMode=yes"]  # nobody is there to be asked
    # A file, because a pipe would stay open as long as the master does.
    with tempfile.TemporaryFile() as messages:
        code = subprocess.run(
            [*words, "--", host], stdin=subprocess.DEVNULL, stdout=messages, stderr=messages, check=False
        ).returncode
        messages.seek(0)
        said = " ".join(messages.read().decode(errors="replace").split())
    if code:
        try_it = shlex.join(["ssh", *(["-p", str(port)] if port else []), host])
        raise DeviceError(f"{host}: no way in: {said or f'ssh ended with {code}'}; see that this works: {try_it}")


def _ssh(port: int | None) -> list[str]:
    return ["ssh", *SSH_OPTIONS, *(["-p", str(port)] if port else [])]


def probe(connection: Connection) -> Device:
    """Ask what the device is, and refuse what cannot run bnas-deploy.

    Raises:
        DeviceError: it is no Linux with glibc, or its Python is too old or another than CPython.
    """
    device = connection.run_python(Device, PROBE)
    got = ".".join(map(str, device.python))
    glibc = re.fullmatch(GLIBC, device.libc or "")
    if device.system != "Linux" or glibc is None or int(glibc[1]) < OLDEST_GLIBC:
        raise DeviceError(
            f"{connection.host}: {device.system} with {device.libc or 'another C library than glibc'}; there are "
            f"kernels and an onnxruntime for Linux with glibc 2.{OLDEST_GLIBC} to 2.99"
        )
    if device.python < OLDEST_PYTHON or device.implementation != "CPython":
        raise DeviceError(
            f"{connection.host}: {connection.python} is {device.implementation} {got}, wanted CPython "
            f"{'.'.join(map(str, OLDEST_PYTHON))} or later; install one there and name it with --python"
        )
    return device


def _fitting_wheel(host: str, device: Device, given: Path | None, say: Say) -> Path:
    try:
        target = target_of(device.architecture)
    except BnasError as error:
        raise DeviceError(f"{host}: {error.message}") from None
    wheel = given or wheel_for(target, lambda step: say(f"... {step}"))
    architecture = library_in(wheel)[1].architecture
    if architecture != device.architecture:
        raise DeviceError(
            f"{wheel}: its library is for {architecture}, and {host} is {device.architecture}; give the wheel for "
            f"{target}, or none in a clone of the repository, where it is built"
        )
    return wheel


def _installed_name(wheel: Path) -> str:
    """Name the installation by version and contents of the wheel."""
    return f"{'-'.join(wheel.stem.split('-')[:2])}-{_sha256(wheel)[:12]}"


def _bundle_hashes(bundle: Bundle) -> dict[str, str]:
    """Return the hash of every file of the bundle, by its path there."""
    records = {name: record.sha256 for name, record in bundle.manifest.files.items()}
    return {MANIFEST: _sha256(bundle.path / MANIFEST), **records}


def _install(connection: Connection, device: Device, wheel: Path, site: str) -> None:
    with temporary_folder() as folder:
        connection.say(f"... {connection.host}: installing bnas-deploy and what it needs")
        wheels = {path: _sha256(path) for path in _download(device, wheel, folder)}
        _put(connection, {sha256: path for path, sha256 in wheels.items()})
        names = {path.name: sha256 for path, sha256 in wheels.items()}
        connection.ask(Done, {"do": "install", "site": site, "wheels": names, "wheel": wheel.name})


def _download(device: Device, wheel: Path, folder: Path) -> list[Path]:
    """Fetch the wheels that the device needs, pip among them: `wheel` and what it depends on."""
    glibc = re.fullmatch(GLIBC, device.libc or "")
    assert glibc  # or `probe` would have refused it
    newest = int(glibc[1])
    tags = [f"manylinux_2_{minor}" for minor in range(newest, OLDEST_GLIBC - 1, -1)] + ["manylinux2014", "linux"]
    platforms = [word for tag in tags for word in ("--platform", f"{tag}_{device.architecture}")]
    version = ["--python-version", ".".join(map(str, device.python)), "--implementation", "cp"]
    pip = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check", "--only-binary", ":all:"]
    command = [*pip, *platforms, *version, "--dest", str(folder), str(wheel), "pip"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise DeviceError(
            f"{wheel}: pip finds no wheels for the device, Python {'.'.join(map(str, device.python))}, {device.libc}, "
            f"{device.architecture}: {' '.join(run.stderr.split())[-1000:]}"
        )
    return sorted(folder.iterdir())


def _put(connection: Connection, files: Mapping[str, Path]) -> None:
    """Send files, given by their hash."""
    request = {"do": "put", "files": [(sha256, path.stat().st_size) for sha256, path in files.items()]}
    connection.ask(Done, request, list(files.values()))


def _send(process: "subprocess.Popen[bytes]", head: bytes, files: Sequence[Path]) -> None:
    assert process.stdin
    process.stdin.write(head)
    for path in files:
        with open_regular(path) as file:
            shutil.copyfileobj(file, process.stdin, CHUNK)
    process.stdin.flush()  # and it stays open: its end would stop the work there


def _sha256(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
