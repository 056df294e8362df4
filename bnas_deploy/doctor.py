"""What of this installation works on this machine, what does not, and what mends it; numpy is all this needs itself."""

import importlib.metadata
import json
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

from bnas_deploy.core.errors import INSTALL_TRAINING, BnasError
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.runtime.bench.machine import cpu_flags, cpu_name, native_isa
from bnas_deploy.runtime.kernels.specs import specs_of
from bnas_deploy.runtime.library import ISA_VARIABLE, KernelRow, kernel_rows, library_path, read_library
from bnas_deploy.runtime.selftest import SelfTest, run_selftest
from bnas_deploy.runtime.session import OLDEST_ONNXRUNTIME
from bnas_deploy.runtime.targets import TARGETS, this_architecture, this_machine

STATES = {True: "ok", False: "BROKEN", None: "-"}
SUBJECT_WIDTH = 18
OLDEST = ".".join(map(str, OLDEST_ONNXRUNTIME))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    `works` is None where running a model does not need it here. `advice` is what to do, where there is something.
    """

    subject: str
    works: bool | None
    text: str
    advice: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All that was looked at."""

    findings: tuple[Finding, ...]

    @property
    def works(self) -> bool:
        """Tell whether models run here."""
        return all(finding.works is not False for finding in self.findings)

    def to_json(self) -> str:
        """Return the text of what `doctor --json` prints."""
        return json.dumps({"works": self.works, "findings": [asdict(each) for each in self.findings]}, indent=2)

    def to_text(self) -> str:
        """Return a line for each finding, with its advice below, and the result last."""
        lines = [line for finding in self.findings for line in _lines(finding)]
        return "\n".join((*lines, "", "Models run here." if self.works else "Models do not run here as they should."))


def _lines(finding: Finding) -> Iterator[str]:
    indent = " " * 7
    yield f"{STATES[finding.works]:<7}{finding.subject:<{SUBJECT_WIDTH}} {finding.text}"
    if finding.advice:
        yield f"{indent}{'':<{SUBJECT_WIDTH}} -> {finding.advice}"


def diagnose() -> Diagnosis:
    """Look at everything; takes some seconds, since every kernel that can run here does."""
    return Diagnosis((*_host(), *_runtime(), *_only_elsewhere()))


def _host() -> Iterator[Finding]:
    cpus = usable_cpus()
    target = TARGETS.get(this_machine())
    if target:
        yield Finding("system", True, f"{target.name}: {target.tried}")
    else:
        text = f"{this_machine()}: no library is built for it, and this package is not tested there"
        advice = "onnxruntime alone runs a bundle's model.onnx, by the function bodies: the same answers, slower"
        yield Finding("system", None, text, advice)
    yield Finding("CPU", True, f"{cpu_name()}, {this_architecture()}, {cpus} processor{'s' * (cpus > 1)} to use")
    yield Finding("Python", True, f"{platform.python_version()}, {sys.executable}")
    yield Finding("numpy", True, importlib.metadata.version("numpy"))


def _runtime() -> Iterator[Finding]:
    library, rows = _library()
    runnable = [row.isa for row in rows if row.runs_here]
    tests = {isa: run_selftest(isa) for isa in runnable}
    first = next(iter(tests.values())) if tests else run_selftest()
    if first.onnxruntime:
        yield Finding("onnxruntime", True, f"{first.onnxruntime}; {OLDEST} and later are supported")
    else:
        yield Finding("onnxruntime", False, first.error or "says nothing")
    yield library
    yield from _kernels(rows, tests if first.onnxruntime else {})


def _library() -> tuple[Finding, tuple[KernelRow, ...]]:
    try:
        path = library_path()
        file = read_library(path)
        if file.target != this_machine():
            text = f"{path}: built for {file.target}, this machine is {this_machine()}"
            return Finding("operator library", False, text, "install the bnas-deploy that was built for it"), ()
        rows = kernel_rows(path)
    except BnasError as error:
        return Finding("operator library", False, error.message), ()
    glibc = f", glibc {file.glibc} or later" if file.glibc else ""
    needs = f"{file.target}{glibc}, onnxruntime's C API {OLDEST_ONNXRUNTIME[1]}"
    return Finding("operator library", True, f"{path}, {file.bytes / 1000:.0f} kB; built for {needs}"), rows


def _kernels(rows: Sequence[KernelRow], tests: dict[str, SelfTest]) -> Iterator[Finding]:
    if not rows:
        return
    picked = None
    try:
        picked = native_isa()
    except BnasError as error:
        yield Finding("kernels", False, error.message)
    why = "because BNAS_ISA says so" if os.environ.get(ISA_VARIABLE) else "the best for this CPU"
    for row in rows:
        subject = f"kernels {row.isa}"
        if not row.runs_here:
            yield Finding(subject, None, f"not for this CPU: {_lack(row.isa)}")
        elif row.isa in tests:
            yield _tested(subject, tests[row.isa], f"; used here, {why}" if row.isa == picked else "")
        else:
            yield Finding(subject, None, "not tested without onnxruntime")


def _lack(isa: str) -> str:
    """Say what the processor lacks for an instruction set."""
    needed = {row.isa: row.cpu_flags for row in specs_of(this_architecture())}.get(isa, frozenset({isa}))
    missing = ", ".join(sorted(needed - cpu_flags()))
    return f"it lacks {missing}" if missing else "it, or the operating system, does not have all of them"


def _tested(subject: str, test: SelfTest, note: str) -> Finding:
    advice = "do without these kernels (BNAS_ISA names others) and report it, with this list"
    if test.error:
        return Finding(subject, False, test.error, advice)
    if test.wrong:
        return Finding(subject, False, f"WRONG on {len(test.wrong)} of {test.layers}: {', '.join(test.wrong)}", advice)
    text = f"exact: {test.layers} layers give the same bits with the library and without it{note}"
    return Finding(subject, test.passed, text)


def _only_elsewhere() -> Iterator[Finding]:
    """What a device does without."""
    versions = {name: _version(name) for name in _extra("train")}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        text = f"not installed: {', '.join(missing)}; training, search, export and pictures need them, models do not"
        yield Finding("training packages", None, text, f"only to train or export: {INSTALL_TRAINING}")
    else:
        yield Finding("training packages", True, ", ".join(f"{name} {found}" for name, found in versions.items()))
    ssh = shutil.which("ssh")
    advice = "" if ssh else "only to measure on another machine: install OpenSSH's client (Debian: openssh-client)"
    yield Finding("ssh", True if ssh else None, ssh or "not installed; bench --host needs it, models do not", advice)
    tvm = _version("apache-tvm")
    state = f"{tvm}; " if tvm else "not installed; "
    yield Finding("TVM", None, f"{state}needed only where the package is built, and pip fetches it then")


def _extra(name: str) -> list[str]:
    """Return the names of the packages that an extra of this package brings."""
    requirements = importlib.metadata.requires("bnas-deploy") or []
    wanted = re.compile(rf"""^([\w.-]+).*;.*extra == ['"]{name}['"]""")
    return [match[1] for match in map(wanted.match, requirements) if match]


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
