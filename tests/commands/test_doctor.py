"""`bnas-deploy doctor`: on this machine, and on machines that lack something."""

import importlib.metadata
import json
import platform
from pathlib import Path

import pytest
from click.testing import CliRunner

from bnas_deploy import doctor
from bnas_deploy.commands.doctor import command
from bnas_deploy.doctor import Diagnosis, Finding, diagnose
from bnas_deploy.runtime import library
from bnas_deploy.runtime.library import KernelRow, kernel_rows, library_path
from bnas_deploy.runtime.selftest import LAYERS, SelfTest
from bnas_deploy.runtime.targets import TARGETS

PASSED = SelfTest("1.31.1", len(LAYERS))


def found(subject: str, diagnosis: Diagnosis) -> Finding:
    (finding,) = [each for each in diagnosis.findings if each.subject == subject]
    return finding


def run_at_start(folder: Path, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run `code` at the start of every Python that is started."""
    (folder / "sitecustomize.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every self-test passes, at once."""
    monkeypatch.setattr(doctor, "run_selftest", lambda isa=None: PASSED)


def test_models_run_here_with_every_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BNAS_ISA", raising=False)  # where all tests run with one row
    result = CliRunner().invoke(command, ["--json"])
    assert result.exit_code == 0, result.output
    said = json.loads(result.stdout)
    assert said["works"]
    kernels = {each["subject"]: each for each in said["findings"] if each["subject"].startswith("kernels")}
    rows = kernel_rows(library_path())
    assert list(kernels) == [f"kernels {row.isa}" for row in rows]
    for row in rows:
        finding = kernels[f"kernels {row.isa}"]
        assert finding["works"] is (True if row.runs_here else None)
        assert ("exact: 4 layers" in finding["text"]) == row.runs_here
    (used,) = [each["text"] for each in kernels.values() if "used here" in each["text"]]
    assert "used here, the best for this CPU" in used


@pytest.mark.usefixtures("quick")
def test_the_text_ends_with_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "generic")
    result = CliRunner().invoke(command)
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith("\nModels run here.\n")
    assert f"built for {platform.machine()}-linux, glibc 2." in result.stdout
    assert "without it; used here, because BNAS_ISA says so" in result.stdout


def test_without_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_at_start(tmp_path, "import sys; sys.modules['onnxruntime'] = None", monkeypatch)
    diagnosis = diagnose()
    assert not diagnosis.works
    text = "onnxruntime is not installed; run: pip install onnxruntime"
    assert found("onnxruntime", diagnosis) == Finding("onnxruntime", False, text)
    assert found("operator library", diagnosis).works
    assert found("kernels generic", diagnosis).text == "not tested without onnxruntime"


def test_an_old_onnxruntime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = "import sys, types; sys.modules['onnxruntime'] = types.SimpleNamespace(__version__='1.16.3')"
    run_at_start(tmp_path, fake, monkeypatch)
    text = found("onnxruntime", diagnose()).text
    assert text == "onnxruntime 1.16.3 is too old: bnas-deploy needs 1.17 or newer; pip install --upgrade onnxruntime"


def test_without_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    result = CliRunner().invoke(command)
    assert result.exit_code == 1
    assert f"BROKEN operator library   {tmp_path / 'libbnas_ort.so'}: missing; wanted" in result.stdout
    assert "ok     onnxruntime " in result.stdout
    assert "kernels" not in result.stdout
    assert result.stdout.endswith("\nModels do not run here as they should.\n")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"text", f": not a library for {', '.join(TARGETS)}; install bnas-deploy again"),
        (b"\xcf\xfa\xed\xfe\x0c\0\0\1", ": built for aarch64-macos, this machine is x86_64-linux"),
        (b"\x7fELF" + bytes(14) + b"\xb7\0", ": built for aarch64-linux, this machine is x86_64-linux"),
        (b"\x7fELF" + bytes(14) + b"\x3e\0", ": cannot be loaded: "),
    ],
    ids=["text", "another system", "another architecture", "damaged"],
)
def test_a_library_that_does_not_fit(data: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    (tmp_path / library.library_name()).write_bytes(data)
    finding = found("operator library", diagnose())
    assert finding.works is False
    assert f"{tmp_path / library.library_name()}{said}" in finding.text


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("system", "machine", "works", "said"),
    [
        ("Windows", "AMD64", True, "x86_64-windows: tested under Wine, on no real Windows"),
        ("Darwin", "arm64", True, "aarch64-macos: built, never run"),
        ("FreeBSD", "amd64", None, "x86_64-freebsd: no library is built for it"),
    ],
)
def test_it_says_what_is_known_of_the_system(
    system: str, machine: str, works: bool | None, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    finding = next(iter(doctor._host()))
    assert finding.works is works
    assert finding.text.startswith(said)
    assert ("function bodies" in finding.advice) == (works is None)


@pytest.mark.usefixtures("quick")
def test_a_kernel_that_the_cpu_lacks_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx512f", "avx512cd", "avx512dq", "avx512vl"}))
    row = KernelRow("avx512bw", runs_here=False)
    assert doctor._lack(row.isa) == "it lacks avx512bw"
    monkeypatch.setattr(doctor, "cpu_flags", lambda: frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq"}))
    assert doctor._lack("avx512bw") == "it lacks avx512vl"
    assert doctor._lack("popcnt") == "it lacks popcnt"
    findings = list(doctor._kernels((row, KernelRow("generic", runs_here=True)), {"generic": PASSED}))
    assert [(each.subject, each.works) for each in findings] == [("kernels avx512bw", None), ("kernels generic", True)]
    assert findings[0].text == "not for this CPU: it lacks avx512vl"


@pytest.mark.usefixtures("quick")
def test_a_forced_isa_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "z80")
    diagnosis = diagnose()
    assert not diagnosis.works
    assert found("kernels", diagnosis).text.endswith("; name one of these, or unset it to have the best")


def test_wrong_bits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = SelfTest("1.31.1", len(LAYERS), (LAYERS[0].name,))
    monkeypatch.setattr(doctor, "run_selftest", lambda isa=None: wrong if isa == "generic" else PASSED)
    diagnosis = diagnose()
    assert not diagnosis.works
    finding = found("kernels generic", diagnosis)
    assert finding.text == f"WRONG on 1 of 4: {LAYERS[0].name}"
    assert finding.advice == "do without these kernels (BNAS_ISA names others) and report it, with this list"


def test_a_kernel_that_ends_the_process_ends_only_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import os, signal\nif os.environ.get('BNAS_ISA') == 'generic': os.kill(os.getpid(), signal.SIGILL)"
    run_at_start(tmp_path, code, monkeypatch)
    diagnosis = diagnose()
    assert found("kernels generic", diagnosis).text == "the process that ran the self-test ended with signal 4"
    assert [each.subject for each in diagnosis.findings if each.works is False] == ["kernels generic"]


@pytest.mark.usefixtures("quick")
def test_training_packages_are_not_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    version = importlib.metadata.version

    def without_torch(name: str) -> str:
        if name in {"torch", "onnx-ir", "apache-tvm"}:
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", without_torch)
    diagnosis = diagnose()
    assert diagnosis.works
    finding = found("training packages", diagnosis)
    assert finding.works is None
    assert finding.text.startswith("not installed: onnx-ir, torch; training, search, export and pictures need them")
    assert finding.advice == (
        "only to train or export: run pip install '.[train]' in a clone of bnas-deploy, or "
        "pip install 'FILE.whl[train]' with its wheel"
    )
    assert found("TVM", diagnosis).text.startswith("not installed; needed only where the package is built")


@pytest.mark.usefixtures("quick")
def test_ssh_is_needed_for_one_thing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    diagnosis = diagnose()
    assert diagnosis.works
    advice = "only to measure on another machine: install OpenSSH's client (Debian: openssh-client)"
    text = "not installed; bench --host needs it, models do not"
    assert found("ssh", diagnosis) == Finding("ssh", None, text, advice)
