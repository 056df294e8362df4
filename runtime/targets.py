"""What the operator library is built for: each kind of system and processor that has kernels.

runtime/build reads this file where nothing is installed yet, so it imports the standard library only.
"""

import platform
from dataclasses import dataclass

OLDEST_GLIBC = 17
"""The minor version of the glibc 2 that zig links against; no Python that this package supports runs on an older."""

OLDEST_ANDROID = 24
"""The API level, Android 7: every function that the library calls has been there for longer."""

OLDEST_MACOS = 11
"""The first that runs on ARM."""


@dataclass(frozen=True)
class Target:
    """One kind of system on one architecture, by the names that different tools have for it."""

    name: str  # ours: architecture and system
    zig: str  # the value of BNAS_TARGET (runtime/build/native.py)
    triple: str  # LLVM's, which the kernels are compiled for
    library: str  # the name of the file
    tag: str  # of wheels: the platform
    tried: str  # where the library has run

    @property
    def architecture(self) -> str:
        """Its name as Linux's `uname -m` says it."""
        return self.name.split("-")[0]

    @property
    def system(self) -> str:
        """Its name in `SYSTEMS`."""
        return self.name.split("-")[1]


def _linux(architecture: str, tried: str) -> Target:
    return Target(
        f"{architecture}-linux",
        zig=f"{architecture}-linux-gnu.2.{OLDEST_GLIBC}",
        triple=f"{architecture}-linux-gnu",
        library="libbnas_ort.so",
        tag=f"manylinux_2_{OLDEST_GLIBC}_{architecture}",
        tried=tried,
    )


_ALL = (
    _linux("x86_64", tried="tested"),
    _linux("aarch64", tried="tested in an emulator, on no real machine"),
    Target(
        "x86_64-windows",
        zig="x86_64-windows-gnu",
        triple="x86_64-pc-windows-gnu",
        library="bnas_ort.dll",
        tag="win_amd64",
        tried="tested under Wine, on no real Windows",
    ),
    Target(
        "aarch64-macos",
        zig=f"aarch64-macos.{OLDEST_MACOS}.0",
        triple=f"arm64-apple-macosx{OLDEST_MACOS}.0",
        library="libbnas_ort.dylib",
        tag=f"macosx_{OLDEST_MACOS}_0_arm64",
        tried="built, never run",
    ),
    Target(
        "aarch64-android",
        zig=f"aarch64-linux-android.{OLDEST_ANDROID}",
        triple="aarch64-linux-gnu",  # nothing in a kernel is different there
        library="libbnas_ort.so",
        tag=f"android_{OLDEST_ANDROID}_arm64_v8a",
        tried="built, never run on Android",
    ),
)

TARGETS = {target.name: target for target in _ALL}

SYSTEMS = {"Linux": "linux", "Windows": "windows", "Darwin": "macos", "Android": "android"}
"""Our names of systems, by Python's (`platform.system()`)."""

_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def architecture_of(machine: str) -> str:
    """Return Linux's name of an architecture: Windows calls them AMD64 and ARM64, macOS arm64."""
    return _ARCHITECTURES.get(machine.lower(), machine)


def this_architecture() -> str:
    """Return the architecture of this machine."""
    return architecture_of(platform.machine())


def this_system() -> str:
    """Return the name of this system."""
    return SYSTEMS.get(platform.system(), platform.system().lower())


def this_machine() -> str:
    """Return what the target of this machine is called, if there is one."""
    return f"{this_architecture()}-{this_system()}"
