"""What Windows and macOS tell about their processor; machine.py reads Linux's files."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Processor:
    """One machine's processor and system; `flags` are named as Linux names them. None is what the system tells not."""

    name: str
    flags: frozenset[str]
    cores: int | None
    max_clock_mhz: float | None
    os: str


def processor() -> Processor | None:
    """Ask this system; None on Linux, and on systems that nobody has looked at."""
    if sys.platform == "win32":
        from bnas_deploy.runtime.bench import processor_windows

        return processor_windows.read()
    return of_macos(_sysctl) if sys.platform == "darwin" else None


MACOS_FLAGS = {
    "hw.optional.neon": "asimd",
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "kern.hv_vmm_present": "hypervisor",
}
"""Names of macOS's settings of which 1 means that there is such a feature."""


def of_macos(sysctl: Callable[[str], str | None]) -> Processor:
    """Read what macOS tells; `sysctl` returns the value of a setting, None where there is none."""
    cores, hertz = sysctl("hw.physicalcpu"), sysctl("hw.cpufrequency_max")  # no clock on ARM
    return Processor(
        name=sysctl("machdep.cpu.brand_string") or "unknown",
        flags=frozenset(flag for name, flag in MACOS_FLAGS.items() if sysctl(name) == "1"),
        cores=int(cores) if cores else None,
        max_clock_mhz=int(hertz) / 1e6 if hertz else None,
        os=f"macOS {sysctl('kern.osproductversion') or ''}".strip(),
    )


def _sysctl(name: str) -> str | None:
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, check=False)
    return done.stdout.strip() or None
