"""The machine record from made-up /proc and /sys, and from this machine."""

from pathlib import Path

import pytest

from bnas_deploy.core.errors import BnasError
from bnas_deploy.core.host import usable_cpus
from bnas_deploy.runtime.bench import machine as machine_module
from bnas_deploy.runtime.bench.machine import (
    after_measuring,
    check_threads,
    cpu_flags,
    native_isa,
    read_machine,
    vector_isa,
)
from bnas_deploy.runtime.bench.processor import Processor, of_macos

X86 = """\
processor\t: 0
vendor_id\t: GenuineIntel
model name\t: Intel(R) Xeon(R) Gold 6548Y+
flags\t\t: fpu sse2 popcnt avx avx2 fma avx512f avx512bw hypervisor

processor\t: 1
model name\t: Intel(R) Xeon(R) Gold 6548Y+
flags\t\t: fpu sse2
"""

ARM = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd crc32 cpuid
CPU implementer\t: 0x41
CPU part\t: 0xd08
"""


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


def test_x86(tmp_path: Path) -> None:
    cpu = "sys/devices/system/cpu"
    root = write(
        tmp_path,
        {
            "proc/cpuinfo": X86,
            "proc/meminfo": "MemTotal:       16384 kB\nMemFree:  1 kB\n",
            "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
            f"{cpu}/cpu0/cpufreq/scaling_governor": "performance\n",
            f"{cpu}/cpu0/cpufreq/scaling_cur_freq": "2500500\n",
            f"{cpu}/cpu0/cpufreq/cpuinfo_max_freq": "4100000\n",
            f"{cpu}/cpu0/topology/thread_siblings_list": "0,2\n",
            f"{cpu}/cpu1/topology/thread_siblings_list": "1,3\n",
            f"{cpu}/cpu2/topology/thread_siblings_list": "0,2\n",
            f"{cpu}/cpu3/topology/thread_siblings_list": "1,3\n",
        },
    )
    machine = read_machine(root)
    assert machine.cpu == "Intel(R) Xeon(R) Gold 6548Y+"
    assert machine.isa_flags == ("popcnt", "avx", "fma", "avx2", "avx512f", "avx512bw")
    assert machine.virtual
    assert (machine.governor, machine.clock_mhz, machine.max_clock_mhz) == ("performance", 2500.5, 4100.0)
    assert machine.cores == 2
    assert machine.memory_bytes == 16 * 2**20
    assert machine.os == "Debian GNU/Linux 12 (bookworm)"


@pytest.mark.parametrize(
    ("board", "name"),
    [
        ("Raspberry Pi 4 Model B Rev 1.4\0", "Raspberry Pi 4 Model B Rev 1.4 (implementer 0x41, part 0xd08)"),
        (None, "(implementer 0x41, part 0xd08)"),
    ],
)
def test_arm_has_no_model_name(tmp_path: Path, board: str | None, name: str) -> None:
    root = write(tmp_path, {"proc/cpuinfo": ARM} | ({"proc/device-tree/model": board} if board else {}))
    machine = read_machine(root)
    assert machine.cpu == name
    assert machine.isa_flags == ("asimd",)
    assert not machine.virtual


def test_what_the_system_does_not_tell_is_none(tmp_path: Path) -> None:
    machine = read_machine(tmp_path)
    assert (machine.governor, machine.clock_mhz, machine.max_clock_mhz) == (None, None, None)
    assert (machine.cores, machine.memory_bytes, machine.isa_flags) == (None, None, ())
    assert machine.cpu


def test_temperature_clock_and_counters_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without vcgencmd
    cpu, thermal = "sys/devices/system/cpu", "sys/class/thermal"
    counter = "thermal_throttle/core_throttle_count"
    clock = f"{cpu}/cpu0/cpufreq/scaling_cur_freq"
    cold = {f"{thermal}/thermal_zone0/temp": "41000\n", f"{thermal}/thermal_zone1/temp": "40500\n"}
    before = {clock: "1500000\n", f"{cpu}/cpu0/{counter}": "0\n", f"{cpu}/cpu1/{counter}": "0\n"}
    machine = read_machine(write(tmp_path, cold | before))
    assert (machine.temperature_c, machine.throttling, machine.clock_mhz) == (41.0, "", 1500.0)
    assert (machine.temperature_c_after, machine.throttling_after, machine.clock_mhz_after) == (None, None, None)
    write(tmp_path, {f"{thermal}/thermal_zone1/temp": "82500\n", f"{cpu}/cpu1/{counter}": "7\n", clock: "600000\n"})
    after = after_measuring(machine, tmp_path)
    assert (after.temperature_c, after.throttling, after.clock_mhz) == (41.0, "", 1500.0)
    assert (after.temperature_c_after, after.throttling_after, after.clock_mhz_after) == (
        82.5,
        "7 times since start",
        600.0,
    )


@pytest.mark.parametrize(
    ("answer", "throttling"),
    [
        ("throttled=0x0", ""),
        ("throttled=0x50005", "under-voltage, throttled, under-voltage since start, throttled since start"),
        ("throttled=0x80000", "soft temperature limit since start"),
        ("VCHI initialization failed", None),
    ],
)
def test_a_raspberry_pi_tells_what_throttles_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, throttling: str | None
) -> None:
    (tmp_path / "vcgencmd").write_text(f"#!/bin/sh\n[ \"$1\" = get_throttled ] && echo '{answer}'\n")
    (tmp_path / "vcgencmd").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert read_machine(tmp_path).throttling == throttling


def test_this_machine_describes_itself() -> None:
    machine = read_machine()
    assert machine.cpus == usable_cpus() >= 1
    assert machine.isa_flags
    assert len(machine.load_average) == 3
    assert machine.date.endswith("+00:00")


@pytest.mark.parametrize(
    ("flags", "isa"),
    [
        ("sse2 avx avx2 fma avx512f", "avx512f"),
        ("sse2 avx avx2 fma", "avx2"),
        ("sse2 avx avx2", "avx"),
        ("sse2", "sse2"),
        ("fp asimd", "neon"),
        ("", "scalar"),
    ],
)
def test_the_best_vector_isa(flags: str, isa: str) -> None:
    assert vector_isa(frozenset(flags.split())) == isa


def test_isas_of_this_machine_have_names() -> None:
    assert vector_isa(cpu_flags()) != "scalar"
    assert native_isa()


def test_a_forced_isa_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BNAS_ISA", "generic")
    assert native_isa() == "generic"


MACOS = {
    "machdep.cpu.brand_string": "Apple M1",
    "hw.physicalcpu": "8",
    "hw.optional.neon": "1",
    "hw.optional.arm.FEAT_DotProd": "1",
    "hw.optional.arm.FEAT_I8MM": "0",
    "kern.osproductversion": "14.5",
}


def test_macos_is_asked_with_sysctl() -> None:
    read = of_macos(MACOS.get)
    assert read == Processor("Apple M1", frozenset({"asimd", "asimddp"}), cores=8, max_clock_mhz=None, os="macOS 14.5")
    assert of_macos(lambda name: None) == Processor("unknown", frozenset(), cores=None, max_clock_mhz=None, os="macOS")
    virtual = of_macos({**MACOS, "kern.hv_vmm_present": "1", "hw.cpufrequency_max": "2400000000"}.get)
    assert "hypervisor" in virtual.flags
    assert virtual.max_clock_mhz == 2400.0


def test_another_system_tells_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "processor", lambda: of_macos(MACOS.get))
    machine = read_machine()
    assert (machine.cpu, machine.cores, machine.os) == ("Apple M1", 8, "macOS 14.5")
    assert machine.isa_flags == ("asimd", "asimddp")


def test_more_threads_than_processors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bnas_deploy.runtime.bench.machine.usable_cpus", lambda: 2)
    assert check_threads((1, 2)) == (1, 2)
    with pytest.raises(BnasError, match=r"--threads: got 64, and this process may use 2 processors; .*give at most 2"):
        check_threads((1, 64))
