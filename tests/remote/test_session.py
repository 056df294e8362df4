"""`bnas-deploy bench --host` against an sshd on the loopback address, with keys and settings of its own.

The device's Python is the one that this environment was made with, which has none of the packages.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import io
import json
import os
import platform
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

import bnas_deploy
import bnas_deploy.export
import bnas_deploy.runtime
import bnas_deploy.search
from bnas_deploy import report
from bnas_deploy.commands.bench import command
from bnas_deploy.core.bundle import MANIFEST, PIECES, describe_files, read_bundle
from bnas_deploy.core.errors import BnasError, DeviceError
from bnas_deploy.core.genotype import GENOTYPES
from bnas_deploy.export import Images, export_checkpoint
from bnas_deploy.remote import device_agent
from bnas_deploy.remote import session as remote
from bnas_deploy.remote.session import Connection, Done, Measured, State, connect, measure_on, probe
from bnas_deploy.runtime.bench.layer_problems import LAYERS
from bnas_deploy.search.models.bnas.config import NetworkConfig
from bnas_deploy.search.training.untrained import untrained_checkpoint

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
USER = pwd.getpwuid(os.getuid()).pw_name
HOST = f"{USER}@127.0.0.1"
BARE_PYTHON = str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")
WAIT_SECONDS = 30

SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
SetEnv XDG_CACHE_HOME={folder}/cache
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
PidFile none
"""

SSH_CONFIG = """
Host *
    IdentityFile {folder}/user_key
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known_hosts
    GlobalKnownHostsFile none
"""


@dataclass(frozen=True)
class Sshd:
    """A running sshd; `folder` holds its keys, the configuration of the `ssh` in `bin`, and the device's cache."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]"

    @property
    def cache(self) -> Path:
        return self.folder / "cache" / "bnas-deploy"

    def drop_connections(self) -> None:
        """End the processes that serve the connections, as a device does that loses its power."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        assert children
        for pid in children:
            os.kill(int(pid), signal.SIGKILL)

    def work_folders(self) -> list[Path]:
        return list(self.cache.glob("work.*"))


@pytest.fixture(scope="module")
def running_sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    if SSHD is None or shutil.which("ssh") is None or shutil.which("ssh-keygen") is None:
        pytest.skip("needs ssh, ssh-keygen and sshd (apt install openssh-client openssh-server)")
    folder = tmp_path_factory.mktemp("sshd")
    for name in ("host_key", "user_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "sshd_config").write_text(SSHD_CONFIG.format(folder=folder, port=port))
    (folder / "ssh_config").write_text(SSH_CONFIG.format(folder=folder))
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {(folder / 'host_key.pub').read_text()}")
    (folder / "bin").mkdir()
    (folder / "bin/ssh").write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {folder}/ssh_config "$@"\n')
    (folder / "bin/ssh").chmod(0o755)
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where root's sshd locks its helpers in; a service makes it otherwise
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
    try:
        if not wait_until(lambda: process.poll() is not None or listens(port)) or process.poll() is not None:
            pytest.skip(f"sshd does not run here: {(folder / 'log').read_text().strip()}")
        yield Sshd(folder, port, process)
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def wait_until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def sshd(running_sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> Sshd:
    """The sshd, and its `ssh` first on the path."""
    monkeypatch.setenv("PATH", f"{running_sshd.folder / 'bin'}:{os.environ['PATH']}")
    return running_sshd


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of what is installed here, by hand: building one takes longer."""
    packages = {"": bnas_deploy, "search/": bnas_deploy.search, "export/": bnas_deploy.export}
    packages["runtime/"] = bnas_deploy.runtime
    version = importlib.metadata.version("bnas-deploy")
    metadata = importlib.metadata.distribution("bnas-deploy").read_text("METADATA")
    assert metadata
    info = f"bnas_deploy-{version}.dist-info"
    tag = f"py3-none-linux_{platform.machine()}"
    path = tmp_path_factory.mktemp("wheel") / f"bnas_deploy-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for prefix, package in packages.items():
            folder = Path(package.__path__[0])
            for file in sorted((*folder.rglob("*.py"), *folder.glob("*.so"))):
                name = f"bnas_deploy/{prefix}{file.relative_to(folder).as_posix()}"
                if name not in archive.namelist() and "build" not in file.parts[-2:-1]:
                    archive.write(file, name)
        archive.writestr(f"{info}/METADATA", metadata)
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n")
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = NetworkConfig("small", 3, 4, "cifar", GENOTYPES["cifar"], classes=10, in_channels=1, image_size=(8, 8))
    checkpoint = replace(untrained_checkpoint(small, seed=0), labels=tuple("0123456789"))
    path = tmp_path_factory.mktemp("bundle") / "bundle"
    export_checkpoint(checkpoint, path, Images(torch.rand(4, 1, 8, 8)))
    return path


@pytest.fixture
def installed(sshd: Sshd, wheel: Path, bundle: Path) -> Sshd:
    """The sshd of a device where everything is installed already; or skip, where pip cannot fetch it."""
    if not list(sshd.cache.glob("site/*")):
        with pytest.raises(DeviceError) as error:
            measure_on(HOST, read_bundle(bundle), ["--nonsense"], port=sshd.port, python=BARE_PYTHON, wheel=wheel)
        if "pip finds no wheels" in error.value.message:
            pytest.skip(error.value.message)
        assert "No such option" in error.value.message
    return sshd


EM_AARCH64 = 183
"""The processor that an ELF file is for, in its byte 18."""


def bench(sshd: Sshd, *arguments: object) -> Result:
    options = ["--host", HOST, "--port", sshd.port, "--min-seconds", 0, *arguments]
    return CliRunner().invoke(command, [str(option) for option in options])


def refusal(sshd: Sshd, host: str = HOST, python: str = BARE_PYTHON, wheel: Path | None = None) -> str:
    with pytest.raises(BnasError) as error:
        measure_on(host, None, [], port=sshd.port, python=python, wheel=wheel)
    return error.value.message


def fake_python(path: Path, says: str) -> str:
    """A program that answers the probe, and nothing else."""
    path.write_text(f"#!/bin/sh\ncat <<'E'\n{says}\nE\n")
    path.chmod(0o755)
    return str(path)


def probe_of(**changes: object) -> str:
    said = {"python": [3, 12], "implementation": "CPython", "system": "Linux", "architecture": platform.machine()}
    return json.dumps({**said, "libc": "glibc 2.36", **changes})


# --------------------------------------------------------------------------------------------------------------------
# What works


def test_the_report_comes_back_and_the_second_time_is_shorter(
    installed: Sshd, wheel: Path, bundle: Path, tmp_path: Path
) -> None:
    json_path = tmp_path / "bench.json"
    options = ["--python", BARE_PYTHON, "--wheel", wheel, "--threads", "1,2", "--json", json_path]
    result = bench(installed, bundle, *options)
    assert result.exit_code == 0, result.output
    assert "binary convolutions" in result.stderr  # what verify says there
    assert "... 2 threads: whole network" in result.stderr
    assert "times as fast as ort-fp32" in result.stdout
    for step in ("installing", "copying"):  # both were done for `installed`
        assert step not in result.stderr
    read = report.read_report(json_path)
    assert read.machine.architecture == platform.machine()
    assert {each.threads for each in read.records} == {1, 2}
    assert not installed.work_folders()
    for file in (installed.cache / "files").iterdir():  # the wheels are gone, and the bundle's files are whole
        assert file.name in {record.sha256 for record in describe_files(bundle).values()} | {sha256(bundle / MANIFEST)}


def test_single_layers_are_measured_there(installed: Sshd, wheel: Path, tmp_path: Path) -> None:
    json_path = tmp_path / "layers.json"
    result = bench(
        installed, "--layers", "--python", BARE_PYTHON, "--wheel", wheel, "--threads", "1", "--json", json_path
    )
    assert result.exit_code == 0, result.output
    assert f"... {HOST}: measuring\n" in result.stderr
    for layer in LAYERS:
        assert f"... {layer.name}\n" in result.stderr
    records = report.read_report(json_path).records
    measured = {(each.subject, each.threads) for each in records if each.engine == "bnas"}
    assert measured == {(layer.name, 1) for layer in LAYERS}
    assert all(each.macs for each in records)
    assert not installed.work_folders()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_what_was_installed_is_alone(installed: Sshd) -> None:
    (site,) = (installed.cache / "site").iterdir()
    assert site.name.endswith(f"-CPython{sys.version_info.major}.{sys.version_info.minor}")
    assert (site / "onnxruntime").is_dir()
    assert not (site / "torch").exists()


def test_only_files_that_changed_are_copied(
    installed: Sshd, wheel: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = Path(shutil.copytree(bundle, tmp_path / "changed"))
    manifest = read_bundle(changed).manifest
    (changed / MANIFEST).write_text(replace(manifest, metrics={"run": 2}).to_json())
    sent: list[str] = []
    monkeypatch.setattr("bnas_deploy.remote.session._put", lambda connection, files: sent.extend(files))
    with pytest.raises(DeviceError):  # since nothing was put there
        measure_on(HOST, read_bundle(changed), [], port=installed.port, python=BARE_PYTHON, wheel=wheel)
    assert sent == [sha256(changed / MANIFEST)]


def test_a_device_whose_python_is_for_arm(
    sshd: Sshd, arm_python: Path, wheels: dict[str, Path], wrong_bundle: Path
) -> None:
    # Emulated, each of the processes that measure takes most of a minute to import onnxruntime. So it is a bundle that
    # is refused before: one process has loaded the library and run the network by then.
    result = bench(sshd, wrong_bundle, "--python", arm_python, "--wheel", wheels["aarch64-linux"])
    if "pip finds no wheels" in result.stderr:
        pytest.skip(result.stderr)
    assert f"Error: {HOST}: failed there: " in result.stderr
    assert "does not agree with PyTorch: piece classifier differs from PyTorch by 1" in result.stderr
    libraries = (sshd.cache / "site").glob("*/bnas_deploy/runtime/libbnas_ort.so")
    assert EM_AARCH64 in [path.read_bytes()[18] for path in libraries]
    assert not sshd.work_folders()


# --------------------------------------------------------------------------------------------------------------------
# What fails there


@pytest.fixture
def wrong_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A bundle with other logits than its network has, and the checksums to them."""
    wrong = Path(shutil.copytree(bundle, tmp_path / "wrong"))
    with np.load(wrong / PIECES) as arrays:
        changed = {**arrays, "logits": arrays["logits"] + np.float32(1)}
    np.savez(wrong / PIECES, **changed)
    manifest = read_bundle(bundle).manifest
    (wrong / MANIFEST).write_text(replace(manifest, files=describe_files(wrong)).to_json())
    return wrong


def test_a_bundle_that_does_not_verify_there_is_not_measured(
    installed: Sshd, wheel: Path, wrong_bundle: Path, tmp_path: Path
) -> None:
    json_path = tmp_path / "bench.json"
    result = bench(installed, wrong_bundle, "--python", BARE_PYTHON, "--wheel", wheel, "--json", json_path)
    assert result.exit_code == 1
    assert f"Error: {HOST}: failed there: " in result.stderr
    assert "does not agree with PyTorch: piece classifier differs from PyTorch by 1" in result.stderr
    assert "whole network" not in result.stderr
    assert not json_path.exists()
    assert not installed.work_folders()


def test_a_lost_connection_leaves_nothing(installed: Sshd, wheel: Path, bundle: Path) -> None:
    def drop(line: str) -> None:
        if line == "... checking the answer":
            assert installed.work_folders()
            installed.drop_connections()

    options = ["--min-seconds", "60"]  # far longer than the test takes, unless it fails
    with pytest.raises(DeviceError) as error:
        measure_on(HOST, read_bundle(bundle), options, port=installed.port, python=BARE_PYTHON, wheel=wheel, say=drop)
    assert f"{HOST}: the connection was lost" in error.value.message
    assert error.value.message.endswith("; nothing was written here, run it again")
    assert wait_until(lambda: not installed.work_folders() and not processes_of(installed))


def processes_of(sshd: Sshd) -> list[str]:
    """Return the command lines of what still runs on the device."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return [line for line in lines if str(sshd.cache) in line]


def test_a_file_that_does_not_arrive_whole_is_not_kept(sshd: Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"other bytes")
    with connect(HOST, sshd.port, BARE_PYTHON, print) as connection:
        request = {"do": "put", "files": [("0" * 64, len(b"other bytes"))]}
        with pytest.raises(DeviceError, match="failed there: a file did not arrive whole"):
            connection.ask(Done, request, [tmp_path / "file"])
    assert not (sshd.cache / "files" / ("0" * 64)).exists()
    assert not sshd.work_folders()


def test_two_at_once_are_refused(sshd: Sshd) -> None:
    sshd.cache.mkdir(parents=True, exist_ok=True)
    with (sshd.cache / "lock").open("w") as lock, connect(HOST, sshd.port, BARE_PYTHON, print) as connection:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(DeviceError, match="another `bnas-deploy bench --host` is at work on this device"):
            connection.ask(Done, {"do": "put", "files": []})


def test_what_was_left_by_a_device_that_was_switched_off_is_removed(sshd: Sshd) -> None:
    (sshd.cache / "work.old").mkdir(parents=True)
    with connect(HOST, sshd.port, BARE_PYTHON, print) as connection:
        connection.ask(Done, {"do": "put", "files": []})
    assert not sshd.work_folders()


def test_what_was_not_used_for_long_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = device_agent.root()
    now = time.time()
    for days in range(5):
        (cache / "site" / f"{days} days").mkdir(parents=True)
        os.utime(cache / "site" / f"{days} days", (now, now - days * 86400))
    (cache / "files").mkdir()
    for days in (29, 31):
        (cache / "files" / f"{days} days").touch()
        os.utime(cache / "files" / f"{days} days", (now, now - days * 86400))
    device_agent.tidy()
    assert sorted(path.name for path in (cache / "site").iterdir()) == ["0 days", "1 days", "2 days"]
    assert [path.name for path in (cache / "files").iterdir()] == ["29 days"]


# --------------------------------------------------------------------------------------------------------------------
# Devices that cannot be used


def test_an_unknown_host_key_is_refused(sshd: Sshd, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sshd.folder / "known_hosts"
    text = known.read_text()
    try:
        known.write_text("")
        said = refusal(sshd)
    finally:
        known.write_text(text)
    assert said.startswith(f"{HOST}: no way in: ")
    assert "Host key verification failed" in said
    assert said.endswith(f"see that this works: ssh -p {sshd.port} {HOST}")


def test_a_host_that_does_not_answer_is_refused(sshd: Sshd) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = replace(sshd, port=free.getsockname()[1])
        assert "Connection refused" in refusal(closed)


@pytest.mark.parametrize("host", ["-oProxyCommand=x", "pi@-oProxyCommand=x", "pi@a b", "", "a;b", "pi@"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(DeviceError) as error:
        measure_on(host, None, [])
    assert error.value.message == f"{host!r}: no name of a host; give one as for ssh, such as pi@raspberrypi"


def test_without_ssh_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="ssh is not installed here; on Debian run: sudo apt install openssh-client"):
        measure_on("pi@raspberrypi", None, [])


def test_a_python_that_is_not_there(sshd: Sshd) -> None:
    said = refusal(sshd, python="/nowhere/python3")
    assert f"{HOST}: '/nowhere/python3' cannot be run there" in said
    assert said.endswith("install Python 3.11 or later, or name it with --python")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"python": [3, 9]}, "is CPython 3.9, wanted CPython 3.11 or later; install one there and name it with"),
        ({"implementation": "PyPy"}, "is PyPy 3.12, wanted CPython 3.11 or later"),
        ({"libc": None}, "Linux with another C library than glibc; there are kernels and an onnxruntime for Linux"),
        ({"system": "Darwin", "libc": None}, "Darwin with another C library than glibc"),
        (
            {"architecture": "armv7l"},
            f"{HOST}: armv7l: no kernels for this architecture; there are x86_64-linux, aarch64-linux",
        ),
    ],
)
def test_devices_that_nothing_runs_on(sshd: Sshd, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    assert message in refusal(sshd, python=fake_python(tmp_path / "python", probe_of(**changes)))


def test_a_wheel_for_another_device(sshd: Sshd, tmp_path: Path, wheel: Path) -> None:
    other = {"x86_64": "aarch64", "aarch64": "x86_64"}[platform.machine()]
    python = fake_python(tmp_path / "python", probe_of(architecture=other))
    said = refusal(sshd, python=python, wheel=wheel)
    assert f"{wheel}: its library is for {platform.machine()}, and {HOST} is {other}; give the wheel for" in said


def test_a_shell_that_talks(sshd: Sshd, tmp_path: Path) -> None:
    said = refusal(sshd, python=fake_python(tmp_path / "python", "Have a nice day!"))
    assert said == (
        f"{HOST}: answered 'Have a nice day!', wanted JSON of Device (Expecting value: line 1 column 1 (char 0)); "
        "its login shell may print something of its own"
    )


ODD_ANSWERS = {
    "nothing": ("", "Expecting value"),
    "a list": ("[]", "the answer: got [], wanted an object"),
    "null": ("null", "the answer: got null, wanted an object"),
    "a number": ("5", "the answer: got 5, wanted an object"),
    "text": ('"x"', 'the answer: got "x", wanted an object'),
    "no field": ("{}", "the field 'python' is missing"),
    "one field less": ("{libc}", "the field 'libc' is missing"),
    "a version that is text": ("{python}", 'the answer.python: got "3.12", wanted a list of 2'),
    "a version in three parts": ("{three}", "the answer.python: got [3, 12, 1], wanted a list of 2"),
    "a huge version": ("{huge}", "the answer.python[0]: got 1000"),
    "a system that is none": ("{system}", "the answer.system: got 3, wanted text"),
    "nested": (100_000 * "[", "nested too deeply"),
    "half of a surrogate pair": ('{"python": "\\ud800"}', "half of a surrogate pair"),
    "a glibc of millions": ("{glibc}", "Linux with glibc 2.300000; there are kernels and an onnxruntime for Linux"),
    "another glibc": ("{third}", "Linux with glibc 3.1; there are kernels"),
    "an old glibc": ("{old}", "an onnxruntime for Linux with glibc 2.17 to 2.99"),
    "other digits": ("{arabic}", "there are kernels and an onnxruntime for Linux with glibc 2.17 to 2.99"),
}
PROBES: dict[str, dict[str, object]] = {
    "{libc}": {"libc": ...},
    "{python}": {"python": "3.12"},
    "{three}": {"python": [3, 12, 1]},
    "{huge}": {"python": [10**400, 1]},
    "{system}": {"system": 3},
    "{glibc}": {"libc": "glibc 2.300000"},
    "{third}": {"libc": "glibc 3.1"},
    "{old}": {"libc": "glibc 2.0"},
    "{arabic}": {"libc": "glibc 2.\u0663\u0666"},
}


@pytest.mark.parametrize(("answer", "message"), ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
def test_an_odd_answer_is_shown(answer: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    if answer in PROBES:
        said = {**json.loads(probe_of()), **PROBES[answer]}
        answer = json.dumps({key: value for key, value in said.items() if value is not ...})
    monkeypatch.setattr(Connection, "_run", lambda *arguments: f"a line of its shell\n{answer}\n")
    with pytest.raises(DeviceError) as error:
        probe(Connection(HOST, None, tmp_path, "python3", print))
    assert error.value.message.startswith(f"{HOST}: ")
    assert message in error.value.message
    assert len(error.value.message) < 1000


@pytest.mark.parametrize("kind", [State, Measured])
@pytest.mark.parametrize("answer", ["[]", "null", "{}", '{"missing": 1, "installed": 2, "report": 3}'])
def test_an_odd_answer_of_the_agent(
    kind: type[object], answer: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Connection, "_run", lambda *arguments: answer)
    with pytest.raises(DeviceError, match=rf"answered .* wanted JSON of {kind.__name__} \(the answer"):
        Connection(HOST, None, tmp_path, "python3", print).ask(kind, {"do": "look"})


def test_what_a_device_says_is_shown_in_lines_of_text(tmp_path: Path) -> None:
    shown: list[str] = []
    last: list[str] = []
    talk = b"\x1b]0;title\x07\r\n\n" + 5000 * b"x" + b"\n" + 2000 * b"more\n" + b"Error: at last\n"
    Connection(HOST, None, tmp_path, "python3", shown.append)._listen(io.BytesIO(talk), last)
    assert shown[:4] == [r"\x1b]0;title\x07", 2000 * "x", 2000 * "x", 1000 * "x"]
    assert set(shown[4:-1]) == {"more"}
    assert len(shown) == remote.MOST_LINES + 1
    assert shown[-1] == f"... {HOST}: said 1,005 more lines, which are not shown"
    assert last == ["Error: at last"]


def test_an_answer_without_end_is_cut(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "LARGEST_FILE", 1000)
    said = refusal(sshd, python=fake_python(tmp_path / "python", 2000 * "x"))
    assert said == f"{HOST}: answered more than 1,000 bytes, no report"


@pytest.mark.parametrize("option", [("--port", "22"), ("--python", "python3"), ("--wheel", "a.whl")])
def test_options_of_a_host_want_one(option: tuple[str, str]) -> None:
    result = CliRunner().invoke(command, ["--layers", *option])
    assert result.exit_code == 2
    assert "--port, --python and --wheel are about the machine that --host names; name it" in result.output
