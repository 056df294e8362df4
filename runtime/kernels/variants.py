"""The table of kernels: one row per instruction set. Build, dispatch, tests and benchmarks loop over it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Variant:
    """One instruction set and the tiles that suit its registers.

    `pairs` gives, for 1, 2, 3 and 4 vectors of pixels, how many pairs of output channels are counted at once. A pair
    needs two accumulators per vector and three table rows; all of them should stay in registers.
    """

    isa: str  # its name, in BNAS_ISA and in the names of the functions
    architecture: str  # as `uname -m` says it
    cpu: str  # LLVM's name of the processor that is compiled for
    level: str  # the check of runtime/ort/cpu.c that a processor has to pass
    cpu_flags: frozenset[str]  # what /proc/cpuinfo shows on such a processor; a subset is enough to tell
    vector_bytes: int
    shuffle: str  # LLVM's name of the byte look-up; an index of 0x80 gives 0
    pairs: tuple[int, int, int, int]

    @property
    def triple(self) -> str:
        """LLVM's name of the platform."""
        return f"{self.architecture}-linux-gnu"


# Best first: the first row that the processor can run is the one that runs.
VARIANTS = (
    Variant(
        isa="avx512bw",
        architecture="x86_64",
        cpu="x86-64-v4",
        level="x86_64_v4",
        cpu_flags=frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        vector_bytes=64,
        shuffle="llvm.x86.avx512.pshuf.b.512",
        pairs=(4, 4, 2, 2),  # 32 registers: 16 accumulators, 6 to 12 table rows, the rest for sums
    ),
    Variant(
        isa="avx2",
        architecture="x86_64",
        cpu="x86-64-v3",
        level="x86_64_v3",
        cpu_flags=frozenset({"avx2", "bmi2", "f16c", "fma", "movbe"}),
        vector_bytes=32,
        shuffle="llvm.x86.avx2.pshuf.b",
        pairs=(2, 2, 1, 1),  # 16 registers: 8 accumulators, 3 table rows, the rest for sums
    ),
    Variant(
        isa="ssse3",
        architecture="x86_64",
        cpu="x86-64-v2",
        level="x86_64_v2",
        cpu_flags=frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt"}),
        vector_bytes=16,
        shuffle="llvm.x86.ssse3.pshuf.b.128",
        pairs=(2, 2, 1, 1),  # as avx2
    ),
    Variant(
        isa="neon",
        architecture="aarch64",
        cpu="cortex-a72",
        level="neon",
        cpu_flags=frozenset({"asimd"}),
        vector_bytes=16,
        shuffle="llvm.aarch64.neon.tbl1.v16i8",
        pairs=(2, 2, 2, 2),  # 32 registers: 16 accumulators, 6 table rows, the rest for sums
    ),
)


def variants_of(architecture: str) -> tuple[Variant, ...]:
    """Return the rows for one architecture, best first."""
    return tuple(variant for variant in VARIANTS if variant.architecture == architecture)


def function_name(variant: Variant, function: str) -> str:
    """Return the symbol of one function of plain C; runtime/ort/lut2.c declares it."""
    return f"bnas_{variant.isa}_{function}"
