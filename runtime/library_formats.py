"""The headers of shared libraries: ELF of Linux and Android, PE of Windows, Mach-O of macOS."""

import re
from collections.abc import Callable

# What each format calls the architectures, by their names of Linux's `uname -m`.
_ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
_PE_MACHINES = {0x8664: "x86_64", 0xAA64: "aarch64"}
_MACHO_CPUS = {0x01000007: "x86_64", 0x0100000C: "aarch64"}

_PE_HEADER_AT = slice(0x3C, 0x40)
_PE_SIGNATURE = b"PE\0\0"

BuiltFor = tuple[str, str, str | None]
"""Architecture, system as in runtime/targets.py, and the oldest glibc, if there is one."""


def built_for(data: bytes) -> BuiltFor | None:
    """Return what a library was built for, None where that is nothing that this package has libraries for."""
    read = next((read for magic, read in _FORMATS.items() if data.startswith(magic)), None)
    return read(data) if read else None


def _elf(data: bytes) -> BuiltFor | None:
    architecture = _ELF_MACHINES.get(int.from_bytes(data[18:20], "little"))
    if architecture is None:
        return None
    versions = [(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", data)]
    if versions:
        return architecture, "linux", "{}.{}".format(*max(versions))
    # Names in an ELF file are between zeros. glibc and musl have other names for their libraries.
    return architecture, "android" if b"\0libc.so\0" in data else "linux", None


def _pe(data: bytes) -> BuiltFor | None:
    start = int.from_bytes(data[_PE_HEADER_AT], "little")
    architecture = _PE_MACHINES.get(int.from_bytes(data[start + 4 : start + 6], "little"))
    if architecture is None or data[start : start + 4] != _PE_SIGNATURE:
        return None
    return architecture, "windows", None


def _macho(data: bytes) -> BuiltFor | None:
    architecture = _MACHO_CPUS.get(int.from_bytes(data[4:8], "little"))
    return None if architecture is None else (architecture, "macos", None)


_FORMATS: dict[bytes, Callable[[bytes], BuiltFor | None]] = {
    b"\x7fELF": _elf,
    b"MZ": _pe,
    b"\xcf\xfa\xed\xfe": _macho,
}
