"""The table of kernels: one row per instruction set. Build, dispatch, tests and benchmarks loop over it."""

from dataclasses import dataclass, field

MOST_CHANNELS = 8
"""In a byte of activations, whatever the way of counting: `pack` has one signature."""

CORRECTIONS = 32
"""Of a channel, as many as AVX-512 looks up words in."""

SQUARE = 8
"""Mismatches are transposed in squares: uint16 in 16 bytes, a vector of every instruction set."""


@dataclass(frozen=True)
class Counting:
    """A way to count mismatches, the bits in which activations and weights differ: what `count` reads."""

    name: str
    channels: int  # whose signs share a byte of activations
    outputs: int  # output channels whose weights share a byte
    multiple: int  # of steps, a tap of so many channels each, that it takes at a time
    padding: int  # the byte where the image has ended


# A look-up counts the mismatches of 4 or 6 channels for 2 output channels, a popcount those of 8 channels for one.
LUT4X2 = Counting("lut4x2", channels=4, outputs=2, multiple=3, padding=0x80)
LUT6X2 = Counting("lut6x2", channels=6, outputs=2, multiple=2, padding=0)
POPCOUNT8 = Counting("popcount8", channels=8, outputs=1, multiple=2, padding=0)


@dataclass(frozen=True)
class KernelSpec:
    """One instruction set and the tiles that suit its registers.

    `tiles` gives, for 1, 2, 3 and so on vectors of pixels, how many bytes of weights, so pairs of output channels or
    single ones, are counted at once. With look-ups each needs two accumulators per vector and two or three table rows,
    otherwise one accumulator per vector and one vector of weights; all of them should stay in registers.
    """

    isa: str  # its name, in BNAS_ISA and in the names of the functions
    architecture: str  # as `uname -m` says it
    cpu: str  # LLVM's name of the processor that is compiled for
    cpu_check: str  # the check of runtime/ort/cpu.c that a processor has to pass
    suits: str = field(default="any_cpu", kw_only=True)  # the check there that it passes if no later row is faster
    cpu_flags: frozenset[str]  # what /proc/cpuinfo shows on such a processor; a subset is enough to tell
    vector_bytes: int
    counting: Counting
    tiles: tuple[int, ...]
    shuffle: str = ""  # with look-ups: LLVM's name of that of bytes; with LUT4X2 an index of 0x80 gives 0
    features: tuple[str, ...] = ()  # LLVM's names of what `cpu` lacks
    in_place: int = 0  # vectors counted at once where they are read across lines of the cache; 0: a whole tile
    aligns: bool = False  # pixels of short rows are gathered, if only so that loads stay within a line of the cache

    @property
    def tile_lanes(self) -> int:
        """Pixels in the largest tile."""
        return len(self.tiles) * self.vector_bytes


# Best first: the first row that the processor can run, and that suits it, is the one that runs.
KERNEL_SPECS = (
    KernelSpec(
        isa="avx512vbmi",
        architecture="x86_64",
        cpu="x86-64-v4",
        features=("avx512vbmi",),
        cpu_check="avx512vbmi",
        cpu_flags=frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl", "avx512vbmi"}),
        vector_bytes=64,
        counting=LUT6X2,
        tiles=(4, 4, 2, 2),  # 32 registers: 16 accumulators, 4 to 8 table rows, the rest for sums
        shuffle="llvm.x86.avx512.permvar.qi.512",
        aligns=True,
    ),
    KernelSpec(
        isa="avx512bw",
        architecture="x86_64",
        cpu="x86-64-v4",
        cpu_check="x86_64_v4",
        cpu_flags=frozenset({"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}),
        vector_bytes=64,
        counting=LUT4X2,
        tiles=(4, 4, 2, 2),  # 32 registers: 16 accumulators, 6 to 12 table rows, the rest for sums
        shuffle="llvm.x86.avx512.pshuf.b.512",
        aligns=True,
    ),
    KernelSpec(
        isa="avx2",
        architecture="x86_64",
        cpu="x86-64-v3",
        cpu_check="x86_64_v3",
        cpu_flags=frozenset({"avx2", "bmi2", "f16c", "fma", "movbe"}),
        vector_bytes=32,
        counting=LUT4X2,
        tiles=(2, 2, 1, 1),  # 16 registers: 8 accumulators, 3 table rows, the rest for sums
        in_place=2,  # by 2 pairs, which share each load
        aligns=True,
        shuffle="llvm.x86.avx2.pshuf.b",
    ),
    KernelSpec(
        isa="ssse3",
        architecture="x86_64",
        cpu="x86-64-v2",
        cpu_check="x86_64_v2",
        cpu_flags=frozenset({"ssse3", "sse4_1", "sse4_2", "popcnt"}),
        vector_bytes=16,
        counting=LUT4X2,
        tiles=(2, 2, 1, 1),  # as avx2
        shuffle="llvm.x86.ssse3.pshuf.b.128",
    ),
    KernelSpec(
        isa="neon_tbl",
        architecture="aarch64",
        cpu="neoverse-n1",
        cpu_check="neon",
        suits="fast_shuffles",
        cpu_flags=frozenset({"asimd"}),
        vector_bytes=16,
        counting=LUT4X2,
        tiles=(4, 4, 2, 1),  # 32 registers: up to 16 accumulators, 3 to 12 table rows; two pairs by 4 vectors spill
        shuffle="llvm.aarch64.neon.tbl1.v16i8",
    ),
    KernelSpec(
        isa="neon_inorder",
        architecture="aarch64",
        cpu="cortex-a53",
        cpu_check="neon",
        suits="in_order",
        cpu_flags=frozenset({"asimd"}),
        vector_bytes=16,
        counting=POPCOUNT8,
        tiles=(4, 4, 4, 4, 4),  # 32 registers: 20 accumulators, 4 rows of weights, 8 for what is on its way
    ),
    KernelSpec(
        isa="neon",
        architecture="aarch64",
        cpu="cortex-a72",
        cpu_check="neon",
        cpu_flags=frozenset({"asimd"}),
        vector_bytes=16,
        counting=POPCOUNT8,
        # 32 registers: 16 accumulators. A vector of weights costs an instruction in the pipes that count, a vector of
        # activations does not: wide tiles of few channels.
        tiles=(4, 4, 4, 4, 4, 4, 2, 2),
    ),
)


def specs_of(architecture: str) -> tuple[KernelSpec, ...]:
    """Return the rows for one architecture, best first."""
    return tuple(spec for spec in KERNEL_SPECS if spec.architecture == architecture)


WITHOUT_COUNTING = frozenset({"halve", "transpose", "epilogue", "block_epilogue", "to_bits"})
"""Functions that the way of counting, and what `features` adds, play no part in."""


def owner(spec: KernelSpec, function: str) -> KernelSpec:
    """Return the row whose function a row has: another's with the same vectors, tiles and processor, if it can.

    The code would be the same, byte for byte, and much of the library.
    """

    def kind(row: KernelSpec) -> tuple[object, ...]:
        return row.architecture, row.cpu, row.vector_bytes, row.tiles

    # The last, since a row that needs more stands before one that needs less.
    return [row for row in KERNEL_SPECS if kind(row) == kind(spec)][-1] if function in WITHOUT_COUNTING else spec


def function_name(spec: KernelSpec, function: str) -> str:
    """Return the symbol of one function of plain C; prototypes.py declares it."""
    return f"bnas_{owner(spec, function).isa}_{function}"
