"""What Windows tells about the processor: its registry, and two functions of its kernel."""

import ctypes
import sys
import winreg
from ctypes import wintypes

from bnas_deploy.runtime.bench.processor import Processor

assert sys.platform == "win32"

# Numbers of IsProcessorFeaturePresent, by Linux's names. It knows no more of AVX-512 than this.
_FEATURES = {"ssse3": 36, "sse4_1": 37, "sse4_2": 38, "avx": 39, "avx2": 40, "avx512f": 41}

_PROCESSOR = r"HARDWARE\DESCRIPTION\System\CentralProcessor\0"
_BIOS = r"HARDWARE\DESCRIPTION\System\BIOS"
_WINDOWS = r"SOFTWARE\Microsoft\Windows NT\CurrentVersion"
_VIRTUAL = ("virtual", "vmware", "kvm", "qemu")

_FIRST_WINDOWS_11 = 22000
"""The build; the registry goes on to say Windows 10."""

_RELATION_CORE = 0


class _Relation(ctypes.Structure):
    """SYSTEM_LOGICAL_PROCESSOR_INFORMATION."""

    _fields_ = (("mask", ctypes.c_size_t), ("kind", wintypes.DWORD), ("about", ctypes.c_uint64 * 2))


def read() -> Processor:
    """Ask for everything."""
    clock = _registry(_PROCESSOR, "~MHz")
    return Processor(
        name=(_registry(_PROCESSOR, "ProcessorNameString") or "unknown").strip(),
        flags=_flags(),
        cores=_cores(),
        max_clock_mhz=float(clock) if clock else None,
        os=_os(),
    )


def _registry(key: str, name: str) -> str | None:
    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, key) as opened:
            return str(winreg.QueryValueEx(opened, name)[0])
    except OSError:  # it is not there
        return None


def _flags() -> frozenset[str]:
    present = ctypes.WinDLL("kernel32").IsProcessorFeaturePresent
    flags = {flag for flag, number in _FEATURES.items() if present(number)}
    product = (_registry(_BIOS, "SystemProductName") or "").lower()
    if any(word in product for word in _VIRTUAL):
        flags.add("hypervisor")
    return frozenset(flags)


def _cores() -> int | None:
    ask = ctypes.WinDLL("kernel32").GetLogicalProcessorInformation
    size = wintypes.DWORD(0)
    ask(None, ctypes.byref(size))
    relations = (_Relation * (size.value // ctypes.sizeof(_Relation)))()
    if not relations or not ask(relations, ctypes.byref(size)):
        return None
    return sum(relation.kind == _RELATION_CORE for relation in relations) or None


def _os() -> str:
    build = sys.getwindowsversion().build
    name = _registry(_WINDOWS, "ProductName") or "Windows"
    if build >= _FIRST_WINDOWS_11:
        name = name.replace("Windows 10", "Windows 11")
    return f"{name}, build {build}"
