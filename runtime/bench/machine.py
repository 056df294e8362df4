"""What a measurement was made on: processor, instruction sets, clock, load and versions."""

import ctypes
import datetime
import importlib.metadata
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import bnas_deploy
from bnas_deploy.core.counts import counted
from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.host import load_average, usable_cpus
from bnas_deploy.core.memory import memory_bytes
from bnas_deploy.runtime.bench.processor import Processor, processor
from bnas_deploy.runtime.library import check_forced_isa, library_path
from bnas_deploy.runtime.targets import this_architecture

ISA_FLAGS = (
    # x86-64, as /proc/cpuinfo spells them: what binary, float and int8 convolutions are made of.
    "popcnt",
    "ssse3",
    "sse4_2",
    "avx",
    "f16c",
    "fma",
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512bw",
    "avx512vl",
    "avx512vbmi",
    "avx512_vnni",
    "avx512_bitalg",
    "avx512_vpopcntdq",
    "avx512_bf16",
    "amx_tile",
    # 64-bit ARM.
    "asimd",
    "asimdhp",
    "asimddp",
    "i8mm",
    "bf16",
    "sve",
    "sve2",
)
"""The instruction sets that decide how fast a convolution can be."""

# Best first: the first row whose flags are all there is the answer.
VECTOR_ISAS = (
    ("avx512f", {"avx512f"}),
    ("avx2", {"avx2", "fma"}),
    ("avx", {"avx"}),
    ("sse2", {"sse2"}),
    ("neon", {"asimd"}),
)
"""The float kernels that onnxruntime chooses from, named by their instruction set, and the flags that each needs."""


CLOCK = "sys/devices/system/cpu/cpu0/cpufreq"

THROTTLING = {
    0: "under-voltage",
    1: "clock capped",
    2: "throttled",
    3: "soft temperature limit",
    16: "under-voltage since start",
    17: "clock capped since start",
    18: "throttled since start",
    19: "soft temperature limit since start",
}
"""The bits of a Raspberry Pi's `vcgencmd get_throttled`."""


@dataclass(frozen=True)
class Machine:
    """One machine at one moment. None is what the system does not tell, as a virtual machine or a container may not.

    `cpus` is what this process may use and `cores` the physical cores of the whole machine. The clock is the one that
    /sys gives for the first processor when asked, before measuring. `load_average` is over 1, 5 and 15 minutes.
    `temperature_c` is that of the hottest zone. `throttling` is what slows the processor down now, or has done so since
    it was started; empty if nothing does. The fields that end in _after are the same again, after measuring.
    """

    cpu: str
    architecture: str
    isa_flags: tuple[str, ...]
    cores: int | None
    cpus: int
    virtual: bool
    governor: str | None
    clock_mhz: float | None
    max_clock_mhz: float | None
    load_average: tuple[float, float, float] | None
    memory_bytes: int | None
    os: str
    kernel: str
    python: str
    numpy: str
    onnxruntime: str
    bnas_deploy: str
    date: str  # ISO 8601, UTC
    temperature_c: float | None = None
    throttling: str | None = None
    clock_mhz_after: float | None = None
    temperature_c_after: float | None = None
    throttling_after: str | None = None


def check_threads(counts: tuple[int, ...]) -> tuple[int, ...]:
    """Return numbers of threads to measure with.

    Raises:
        BnasError: this process may use fewer processors. Threads that wait in loops for one that has none tell how the
            system shares out time, and nothing of the network.
    """
    most = usable_cpus()
    if max(counts) > most:
        raise BnasError(
            f"--threads: got {max(counts)}, and this process may use {counted(most, 'processor')}; threads that share "
            f"one wait for each other, so a time of them would not be the network's; give at most {most}"
        )
    return counts


def read_machine(root: Path = Path("/")) -> Machine:
    """Describe this machine; `root` is where its /proc and /sys are."""
    flags = cpu_flags(root)
    clock = root / CLOCK
    other = _elsewhere(root)
    return Machine(
        cpu=cpu_name(root),
        architecture=this_architecture(),
        isa_flags=tuple(flag for flag in ISA_FLAGS if flag in flags),
        cores=other.cores if other else _cores(root),
        cpus=usable_cpus(),
        virtual="hypervisor" in flags,
        governor=_read(clock / "scaling_governor"),
        clock_mhz=_clock(root),
        max_clock_mhz=other.max_clock_mhz if other else _megahertz(clock / "cpuinfo_max_freq"),
        load_average=load_average(),
        memory_bytes=memory_bytes(root),
        os=other.os if other else _os_name(root),
        kernel=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        numpy=importlib.metadata.version("numpy"),
        onnxruntime=_onnxruntime_version(),
        bnas_deploy=bnas_deploy.__version__,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        temperature_c=_temperature(root),
        throttling=_throttling(root),
    )


def after_measuring(machine: Machine, root: Path = Path("/")) -> Machine:
    """Return `machine` with its clock, temperature and throttling as they are now."""
    return replace(
        machine,
        clock_mhz_after=_clock(root),
        temperature_c_after=_temperature(root),
        throttling_after=_throttling(root),
    )


def _elsewhere(root: Path) -> Processor | None:
    """Return what another system than Linux tells; None where `root` holds files of one."""
    return processor() if root == Path("/") else None


def cpu_flags(root: Path = Path("/")) -> frozenset[str]:
    """Return the features of the processor as /proc/cpuinfo names them: `flags` on x86, `Features` on ARM."""
    if other := _elsewhere(root):
        return other.flags
    found = _field(_read(root / "proc/cpuinfo") or "", "flags|Features")
    return frozenset((found or "").split())


def native_isa() -> str:
    """Name of the kernels that the operator library runs on this machine, or of those that BNAS_ISA forces.

    Raises:
        RuntimeLibraryError: there is no library, or it cannot run what BNAS_ISA names.
    """
    path = library_path()
    check_forced_isa(path)
    select = ctypes.CDLL(str(path)).bnas_isa
    select.restype = ctypes.c_char_p
    name: bytes = select()
    return name.decode()


def vector_isa(flags: frozenset[str]) -> str:
    """Name of the float kernels that onnxruntime runs on a processor with these flags."""
    return next((name for name, needs in VECTOR_ISAS if needs <= flags), "scalar")


def cpu_name(root: Path = Path("/")) -> str:
    """Return the model's name; an ARM kernel gives only numbers, but often the name of the board."""
    if other := _elsewhere(root):
        return other.name
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    name = _field(cpuinfo, "model name")
    if name:
        return name
    # Device tree strings end with a NUL byte.
    board = (_read(root / "proc/device-tree/model") or "").rstrip("\0")
    implementer, part = _field(cpuinfo, "CPU implementer"), _field(cpuinfo, "CPU part")
    numbers = f"implementer {implementer}, part {part}" if implementer and part else ""
    return " ".join(filter(None, (board, numbers and f"({numbers})"))) or platform.processor() or "unknown"


def _cores(root: Path) -> int | None:
    """Count the physical cores: processors that share one name the same set of siblings."""
    files = root.glob("sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list")
    return len({_read(file) for file in files}) or None


def _os_name(root: Path) -> str:
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', _read(root / "etc/os-release") or "", re.MULTILINE)
    return match[1] if match else platform.system()


def _onnxruntime_version() -> str:
    # Not importlib.metadata: builds under other names, such as onnxruntime-gpu, have the module's name all the same.
    import onnxruntime

    return str(onnxruntime.__version__)


def _clock(root: Path) -> float | None:
    return _megahertz(root / CLOCK / "scaling_cur_freq")


def _temperature(root: Path) -> float | None:
    zones = [_read(path) for path in root.glob("sys/class/thermal/thermal_zone*/temp")]
    return max((int(zone) / 1000 for zone in zones if zone), default=None)


def _throttling(root: Path) -> str | None:
    """Ask a Raspberry Pi's firmware, or Intel's counters."""
    if vcgencmd := shutil.which("vcgencmd"):
        run = subprocess.run([vcgencmd, "get_throttled"], capture_output=True, text=True, check=False)
        if match := re.fullmatch(r"throttled=0x([0-9a-fA-F]+)", run.stdout.strip()):
            flags = int(match[1], 16)
            return ", ".join(name for bit, name in THROTTLING.items() if flags >> bit & 1)
    counters = [_read(path) for path in root.glob("sys/devices/system/cpu/cpu*/thermal_throttle/core_throttle_count")]
    if not any(counters):
        return None
    count = sum(int(counter) for counter in counters if counter)
    return f"{count} times since start" if count else ""


def _megahertz(path: Path) -> float | None:
    kilohertz = _read(path)
    return int(kilohertz) / 1000 if kilohertz else None


def _field(text: str, name: str) -> str | None:
    """Return the first `name : value` of a file such as /proc/cpuinfo."""
    match = re.search(rf"^(?:{name})\s*:\s*(.*)$", text, re.MULTILINE)
    return match[1].strip() if match else None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # not there, or there and not to be read: a virtual machine offers some of these files as shells
        return None
