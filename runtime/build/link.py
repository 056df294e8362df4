"""How the operator library is compiled and linked for each system: the words of compiler calls.

For Linux one call does all. For the others zig compiles and links apart, since it links without what it would add by
itself: nothing but the system's own C library is needed, and a minute's work on MinGW, and the parts of Android's kit
that zig does not have, are not.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parents[1] / "ort"

_ALL_FLAGS = (
    "-std=c11",
    "-O3",
    # The order of roundings is part of the operators' meaning. Without this flag a compiler whose CPU has fused
    # multiply-add may skip the rounding between `* scale` and `+ bias`: gcc does so on ARM outside of strict -std=c11.
    "-ffp-contract=off",
    # No one asks which operations overflowed. Else gcc does not multiply in a lane that does not need the product, and
    # makes no vectors of a PReLU.
    "-fno-trapping-math",
    # Else the time of a loop depends on the code before it: `generic` took up to a fifth longer after a change
    # elsewhere in its file (gcc 12, Intel Xeon with AVX-512).
    "-falign-loops=64",
)
_ELF_FLAGS = ("-fPIC", "-fvisibility=hidden")
_ELF_LINKING = (
    "-shared",
    "-Wl,--no-undefined",
    # onnxruntime keeps pointers into the library for as long as the process has sessions.
    "-Wl,-z,nodelete",
    f"-Wl,--version-script={SOURCES / 'exports.map'}",
)
COMPILER_FLAGS = (*_ALL_FLAGS, *_ELF_FLAGS)
LINKER_FLAGS = _ELF_LINKING
"""Those for Linux."""

# What of Windows' C run-time library the objects of system_windows.c and the others name.
_WINDOWS_LIBRARIES = (
    *(f"-lapi-ms-win-crt-{part}-l1-1-0" for part in ("heap", "private", "stdio", "string")),
    "-lkernel32",
)

ANDROID_FUNCTIONS = (
    "calloc",
    "close",
    "free",
    "getauxval",
    "getenv",
    "malloc",
    "memcmp",
    "memcpy",
    "memmove",
    "memset",
    "open",
    "posix_memalign",
    "read",
    "snprintf",
    "strcmp",
    "strlen",
    "strtoull",
    "vsnprintf",
)
"""Of Android's libc.so: what the library may call. It is linked with a stand-in that has these names."""

Command = Sequence[str]
Run = Callable[[Command, Path], None]
"""Runs a command in a folder."""


@dataclass(frozen=True)
class Inputs:
    """What a library is made of. `folder` has the generated headers, and room for what lies between."""

    compiler: Command
    sources: Sequence[Path]
    kernels: Sequence[Path]
    folder: Path
    extra_flags: Command


def link_linux(given: Inputs, output: Path, run: Run) -> None:
    """Compile and link in one call."""
    flags = [*COMPILER_FLAGS, f"-I{given.folder}", *LINKER_FLAGS, *given.extra_flags]
    run([*given.compiler, *flags, "-o", str(output), *map(str, given.sources), *map(str, given.kernels)], given.folder)


def link_windows(given: Inputs, output: Path, run: Run) -> None:
    """Make a DLL that exports what is declared so, and needs what every Windows 10 has."""
    objects = _compile(given, (), run)
    # Without the library of import stubs that zig would write beside it: nobody links with this one.
    flags = ["-nostdlib", "-shared", *given.extra_flags, "-o", str(output)]
    run([*given.compiler, *flags, *objects, *_WINDOWS_LIBRARIES], given.folder)


def link_macos(given: Inputs, output: Path, run: Run) -> None:
    """Make a dylib; zig signs it, without which no program on ARM may load it."""
    objects = _compile(given, _ELF_FLAGS, run)
    flags = ["-dynamiclib", f"-Wl,-install_name,@rpath/{output.name}", *given.extra_flags, "-o", str(output)]
    run([*given.compiler, *flags, *objects], given.folder)


def link_android(given: Inputs, output: Path, run: Run) -> None:
    """Make a library for Android's libc, whose headers and stubs zig does not have.

    musl's headers declare the few functions as Android's do, and a stand-in for libc.so has their names. What they are
    is settled where the library is loaded.
    """
    musl = [word.replace(word, "aarch64-linux-musl") if "-android" in word else word for word in given.compiler]
    given = Inputs(musl, given.sources, given.kernels, given.folder, given.extra_flags)
    # Not every Android has bcmp, which LLVM would call in place of memcmp.
    objects = _compile(given, (*_ELF_FLAGS, "-fno-builtin-bcmp"), run)
    stub = given.folder / "stub.c"
    stub.write_text("".join(f"void {name}(void) {{}}\n" for name in ANDROID_FUNCTIONS), encoding="utf-8")
    libc = given.folder / "stub" / "libc.so"
    libc.parent.mkdir()
    stubs = ["-nostdlib", "-fno-builtin", "-w", "-shared", "-Wl,-soname,libc.so", "-o", str(libc), str(stub)]
    run([*given.compiler, *stubs], given.folder)
    flags = ["-nostdlib", *_ELF_LINKING, f"-Wl,-soname,{output.name}", "-Wl,-z,max-page-size=16384"]
    run([*given.compiler, *flags, *given.extra_flags, "-o", str(output), *objects, str(libc)], given.folder)


def _compile(given: Inputs, flags: Command, run: Run) -> list[str]:
    """Compile each source, and return all objects."""
    objects = []
    for source in given.sources:
        objects.append(str(given.folder / f"{source.stem}.o"))
        words = [*_ALL_FLAGS, *flags, f"-I{given.folder}", "-c", str(source), "-o", objects[-1]]
        run([*given.compiler, *words], given.folder)
    return [*objects, *map(str, given.kernels)]


LINK = {"linux": link_linux, "windows": link_windows, "macos": link_macos, "android": link_android}
"""By the names of systems in runtime/targets.py."""


def belongs(source: Path, system: str) -> bool:
    """Tell whether a C file is for a system: system_windows.c is for Windows, and system_posix.c for the others."""
    if not source.stem.startswith("system_"):
        return True
    return (source.stem == "system_windows") == (system == "windows")
